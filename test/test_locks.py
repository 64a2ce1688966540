"""The lock files that images are built from, against requirements.txt: every pin, every hash, nothing else."""

import re
from importlib.metadata import distribution

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

BY_DRIVER = {"torch", "torchvision"}  # whose versions a build for another driver changes


def pins(name: str) -> dict[str, str]:
    """Package → version of a requirements file."""
    lines = re.findall(r"^([\w.-]+)==([^\s;\\]+)", (ROOT / name).read_text(), re.MULTILINE)
    return {canonicalize_name(package): version for package, version in lines}


WANTED = pins("requirements.txt")


@pytest.mark.parametrize(
    ("lock", "exempt"), [("requirements.lock", set()), ("requirements-cuda13.lock", BY_DRIVER)], ids=["pinned", "newer"]
)
def test_a_lock_file_has_what_requirements_txt_asks_for(lock, exempt):
    assert len(WANTED) > 10
    found = pins(lock)
    assert {name: found[name] for name in WANTED if name not in exempt} == {
        name: version for name, version in WANTED.items() if name not in exempt
    }
    assert exempt <= set(found)


def test_each_build_of_torch_brings_the_cuda_that_its_driver_is_named_for():
    """CUDA's runtime beside torch, and the versions that the Dockerfile and the README state."""
    first, second = pins("requirements.lock"), pins("requirements-cuda13.lock")
    assert first["nvidia-cuda-runtime-cu12"].startswith("12.8.")
    assert second["nvidia-cuda-runtime"].startswith("13.0.") and "nvidia-cuda-runtime-cu12" not in second
    for text in ((ROOT / name).read_text() for name in ("Dockerfile", "README.md")):
        for lock, versions, cuda in (("requirements.lock", first, "12.8"), ("-cuda13.lock", second, "13.0")):
            assert re.search(rf"{lock}\W.*{re.escape(versions['torch'])}, CUDA {cuda}", text)


def test_images_for_different_drivers_differ_in_torch_and_nvidias_libraries_alone():
    first, second = pins("requirements.lock"), pins("requirements-cuda13.lock")
    differing = {name for name in {*first, *second} if first.get(name) != second.get(name)}
    # setuptools is torch's own requirement, and newer ones bound it.
    assert {name for name in differing if not re.match(r"(torch|torchvision|setuptools)$|nvidia-|cuda-", name)} == set()


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-cuda13.lock", "requirements-sbom.lock"])
def test_every_package_of_a_lock_file_has_hashes(lock):
    text = (ROOT / lock).read_text()
    entries = re.split(r"\n(?=\S)", text.strip())
    assert len(entries) == len(pins(lock)) > 10
    for hashes in (re.findall(r"--hash=(\S+)", entry) for entry in entries):
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in hashes)


def test_what_is_tested_is_what_the_image_has():
    """The environment of these tests has the lock file's versions, torch's own requirements among them."""
    locked = pins("requirements.lock")
    assert {name: distribution(name).version.split("+")[0] for name in locked} == {
        name: version.split("+")[0] for name, version in locked.items()
    }
    # All that torch needs on Linux is locked, but for triton, which compiles and is left out on purpose.
    needed = map(Requirement, distribution("torch").requires or ())
    here = {item.name for item in needed if item.marker is None or item.marker.evaluate({"extra": ""})}
    assert {canonicalize_name(name) for name in here} - set(locked) == {"triton"}
