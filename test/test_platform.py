"""The container on the platform: Grand Challenge's own job runner starts it on case after case.

The same statements hold of this checkout and, with ``-m image``, of a built image (CONTAINER_ENGINE: podman or docker,
SURVFUSE_IMAGE: its name), where the jobs are the image's user's and every path is the platform's.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import CASES, DEMONSTRATION, OUTPUT_FILE, PLACES, ROOT, edit_json
from rehearsal import Host, Image, Rehearsal, Storage, rehearse, storage

import survfuse.container.job as job
from survfuse.bundle.manifest import RESEARCH

GOOD = {"slide": "interf0", "features": "interf1", "features again": "interf1"}
BROKEN = ("half an expression file", "half a slide")
STDERR_LINE = re.compile(r"survfuse: \S.*")

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 12), reason="the platform's runner has no release for it")


@pytest.fixture(scope="module")
def bucket() -> Iterator[Storage]:
    with storage() as opened:
        yield opened


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Jobs by name, in the order they run: good ones around two that cannot be used."""
    folder = tmp_path_factory.mktemp("cases")
    expression = halved(CASES / "interf1", PLACES["rna"], folder / "expression")
    slide = halved(CASES / "interf0", f"{PLACES['slide']}/3S_001_HE.tif", folder / "slide")
    first, second, third = ((name, CASES / case) for name, case in GOOD.items())
    return dict([first, second, (BROKEN[0], expression), (BROKEN[1], slide), third])


def halved(case: Path, place: str, target: Path) -> Path:
    """A copy of ``case`` in which one file is cut in the middle, as an upload that broke off leaves it."""
    shutil.copytree(case, target)
    whole = (target / place).read_bytes()
    (target / place).write_bytes(whole[: len(whole) // 2])
    return target


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What /opt/ml/model holds: the uploaded tarball, unpacked. Its purpose tells it from the bundle in the image."""
    root = tmp_path_factory.mktemp("model")
    bundle = Path(shutil.copytree(DEMONSTRATION, root / "bundle"))
    edit_json(bundle / "manifest.json", purpose=RESEARCH)
    with tarfile.open(root / "model.tar.gz", "w:gz", compresslevel=1) as tarball:
        tarball.add(bundle, arcname=".", filter=readable)
    (root / "unpacked").mkdir()
    with tarfile.open(root / "model.tar.gz") as tarball:
        tarball.extractall(root / "unpacked", filter="data")
    return root / "unpacked"


@pytest.fixture(scope="module")
def image(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The built image, with the runner installed in a folder to mount; fails where none is named."""
    named = {name: os.environ.get(name, "") for name in ("CONTAINER_ENGINE", "SURVFUSE_IMAGE")}
    if missing := [name for name, value in named.items() if not value]:
        pytest.fail(f"the tests of the image need {' and '.join(missing)}")
    runner = tmp_path_factory.mktemp("runner") / "packages"
    wanted = [f"{name}=={version(name)}" for name in ("sagemaker-shim", "boto3", "pydantic")]
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--only-binary=:all:",
        "--target",
        str(runner),
        *wanted,
    ]
    subprocess.run(install, check=True, capture_output=True, timeout=300)
    return Image(*named.values(), runner, model, scratch_folder(tmp_path_factory))


def readable(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """An entry that every user may read, as export.sh packs it."""
    entry.mode |= 0o555 if entry.isdir() else 0o444
    return entry


def scratch_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scratch = tmp_path_factory.mktemp("scratch") / "tmp"
    scratch.mkdir()
    return scratch


@pytest.fixture(scope="module", params=["host", pytest.param("image", marks=pytest.mark.image)])
def place(request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Host | Image:
    if request.param == "image":
        return request.getfixturevalue("image")
    return Host(tmp_path_factory.mktemp("host"), model)


@pytest.fixture(scope="module")
def rehearsed(place: Host | Image, bucket: Storage, cases: dict[str, Path]) -> Rehearsal:
    return rehearse(bucket, place, cases)


def test_one_runner_takes_every_case_and_ends_well_whatever_became_of_them(rehearsed):
    codes = {name: ended.return_code for name, ended in rehearsed.jobs.items()}
    assert codes == dict.fromkeys(GOOD, 0) | dict.fromkeys(BROKEN, 2)
    assert (rehearsed.return_code, rehearsed.warnings) == (0, [])


@pytest.mark.parametrize("name", GOOD)
def test_a_good_case_uploads_its_socket_alone_as_one_bare_number(rehearsed, name):
    ended = rehearsed.jobs[name]
    assert list(ended.uploaded) == ended.declared == [OUTPUT_FILE]
    months = json.loads(ended.uploaded[OUTPUT_FILE])
    expected = json.loads((ROOT / "test/expected" / GOOD[name] / OUTPUT_FILE).read_text())
    assert isinstance(months, float) and months == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["slide", "features"])
def test_the_platform_gets_the_months_that_a_direct_run_writes(rehearsed, model, tmp_path, name):
    assert job.main(["--input", str(CASES / GOOD[name]), "--output", str(tmp_path), "--model", str(model)]) == 0
    direct = json.loads((tmp_path / OUTPUT_FILE).read_text())
    assert json.loads(rehearsed.jobs[name].uploaded[OUTPUT_FILE]) == pytest.approx(direct, rel=1e-5)


@pytest.mark.parametrize("name", GOOD)
def test_a_good_case_warns_of_nothing_and_logs_the_months_it_uploads(rehearsed, name):
    ended = rehearsed.jobs[name]
    assert ended.stderr == []
    months = json.loads(ended.uploaded[OUTPUT_FILE])
    assert any(f" {months:.3f} (" in line for line in ended.stdout if "] months " in line)
    assert max(len(line.encode()) for line in ended.stdout) < 2**16


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_case_uploads_nothing_and_is_one_readable_line(rehearsed, name):
    ended = rehearsed.jobs[name]
    assert (ended.uploaded, ended.declared) == ({}, [])
    (line,) = ended.stderr
    assert STDERR_LINE.fullmatch(line) and "Traceback" not in line
    assert {BROKEN[0]: PLACES["rna"], BROKEN[1]: "3S_001_HE.tif"}[name] in line


def test_a_case_after_two_broken_ones_gives_the_bytes_it_gave_before(rehearsed):
    assert rehearsed.jobs["features again"].uploaded == rehearsed.jobs["features"].uploaded != {}


def test_the_unpacked_tarball_is_the_model_that_predicts(rehearsed):
    for name in GOOD:
        log = rehearsed.jobs[name].stdout
        assert any(f"] bundle       {RESEARCH}, " in line for line in log)
        assert not any("DEMONSTRATION" in line for line in log)


def test_jobs_leave_nothing_in_the_temporary_folder(place, rehearsed):
    scratch = place.scratch if isinstance(place, Image) else place.root / "tmp"
    assert rehearsed.return_code == 0
    assert list(scratch.iterdir()) == []


PROBE = """
import json, os, tempfile
writable = [place for place in ("/input", "/input/inputs.json", "/output", "/tmp", "/opt/ml/model", "/opt/app")
            if os.access(place, os.W_OK)]
print(json.dumps({"user": [os.getuid(), os.getgid(), os.getgroups()], "home": os.environ["HOME"], "place": os.getcwd(),
                  "writable": writable, "tmp": os.listdir("/tmp"), "runner": "PYTHONPATH" in os.environ}))
"""


@pytest.mark.image
def test_a_job_in_the_image_is_the_images_user_and_writes_to_output_and_tmp_alone(
    image, bucket, cases, tmp_path_factory
):
    entrypoint = ["/opt/venv/bin/python", "-c", PROBE]
    probe = Image(image.engine, image.name, image.runner, image.model, scratch_folder(tmp_path_factory), entrypoint)
    ended = rehearse(bucket, probe, {"probe": cases["features"]}).jobs["probe"]
    assert (ended.return_code, ended.stderr) == (0, [])
    assert json.loads(ended.stdout[0]) == {
        "user": [1000, 1000, [1000]],
        "home": "/home/user",
        "place": "/opt/app",
        "writable": ["/output", "/tmp"],
        "tmp": [],
        "runner": False,
    }
