"""The lock files of the images and of the development environment, against requirements.txt and pyproject.toml."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

IMAGES = ["requirements.lock", "requirements-cuda13.lock"]
LOCKS = [*IMAGES, "requirements-sbom.lock", "requirements-dev.lock"]
BY_DRIVER = {"torch", "torchvision"}  # whose versions a build for another driver changes


def pins(name: str) -> dict[str, str]:
    """Package → version of a requirements file."""
    lines = re.findall(r"^([\w.-]+)==([^\s;\\]+)", (ROOT / name).read_text(), re.MULTILINE)
    return {canonicalize_name(package): version for package, version in lines}


WANTED = pins("requirements.txt")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def ranges(requirements: list[str]) -> dict[str, SpecifierSet]:
    """Package → the versions that pyproject.toml admits."""
    return {canonicalize_name(item.name): item.specifier for item in map(Requirement, requirements)}


def test_the_dependencies_of_the_package_are_ranges():
    """Each has the lowest version that works and ends before one that may break it."""
    for admitted in ranges(PROJECT["dependencies"] + EXTRAS["train"] + EXTRAS["tables"] + EXTRAS["benchmark"]).values():
        assert sorted(part.operator for part in admitted) == ["<", ">="]


def test_what_the_image_pins_is_what_the_package_depends_on():
    assert set(WANTED) == set(ranges(PROJECT["dependencies"]))


@pytest.mark.parametrize("lock", [*IMAGES, "requirements-dev.lock"])
def test_a_lock_file_has_versions_that_pyproject_toml_admits(lock):
    extras = EXTRAS["train"] + EXTRAS["tables"] + EXTRAS["test"] if lock == "requirements-dev.lock" else []
    found = pins(lock)
    for package, admitted in ranges(PROJECT["dependencies"] + extras).items():
        assert Version(found[package]) in admitted, package


def test_the_development_environment_has_the_images_versions():
    locked = pins("requirements.lock")
    assert locked.items() <= pins("requirements-dev.lock").items()


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
    """CUDA's runtime beside torch, and the versions that the Dockerfile and docs/platform.md state."""
    first, second = pins("requirements.lock"), pins("requirements-cuda13.lock")
    assert first["nvidia-cuda-runtime-cu12"].startswith("12.8.")
    assert second["nvidia-cuda-runtime"].startswith("13.0.") and "nvidia-cuda-runtime-cu12" not in second
    for text in ((ROOT / name).read_text() for name in ("Dockerfile", "docs/platform.md")):
        for lock, versions, cuda in (("requirements.lock", first, "12.8"), ("-cuda13.lock", second, "13.0")):
            assert re.search(rf"{lock}\W.*{re.escape(versions['torch'])}, CUDA {cuda}", text)


def test_images_for_different_drivers_differ_in_torch_and_nvidias_libraries_alone():
    first, second = pins("requirements.lock"), pins("requirements-cuda13.lock")
    differing = {name for name in {*first, *second} if first.get(name) != second.get(name)}
    # setuptools is torch's own requirement, and newer ones bound it.
    assert {name for name in differing if not re.match(r"(torch|torchvision|setuptools)$|nvidia-|cuda-", name)} == set()


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_of_a_lock_file_has_hashes(lock):
    text = (ROOT / lock).read_text()
    entries = re.split(r"\n(?=\S)", text.strip())
    assert len(entries) == len(pins(lock)) > 10
    for hashes in (re.findall(r"--hash=(\S+)", entry) for entry in entries):
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in hashes)


def installed(package: str) -> str:
    """The version in the environment of these tests, without a local label; "" where it is not installed."""
    try:
        return distribution(package).version.split("+")[0]
    except PackageNotFoundError:
        return ""


def test_what_is_tested_is_what_the_image_has():
    """The environment of these tests has the lock files' versions, torch's own requirements among them."""
    locked = pins("requirements.lock")
    assert {name: installed(name) for name in locked} == {name: v.split("+")[0] for name, v in locked.items()}
    # All that torch needs on Linux is locked, but for triton, which compiles and is left out on purpose.
    needed = map(Requirement, distribution("torch").requires or ())
    image = {"extra": "", "python_version": "3.11", "python_full_version": "3.11.0"}
    here = {item.name for item in needed if item.marker is None or item.marker.evaluate(image)}
    assert {canonicalize_name(name) for name in here} - set(locked) == {"triton"}


def test_what_is_tested_is_what_the_development_lock_has():
    """For this Python and platform: each entry's marker says where it is wanted."""
    for line in re.findall(r"^[\w.-]+==[^\\]*", (ROOT / "requirements-dev.lock").read_text(), re.MULTILINE):
        entry = Requirement(line)
        if entry.marker is None or entry.marker.evaluate():
            assert installed(entry.name) in entry.specifier, f"{entry.name} {installed(entry.name)}"


def test_the_image_asks_for_gpus_where_nothing_else_does():
    """NVIDIA's runtime as the engine's default, and enroot, read these (enroot #205)."""
    stage = (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    assert "ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility\n" in stage
