"""The scripts around the image, against an engine that stands for docker and podman: what they let pass, what not."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from conftest import CASES, DEMONSTRATION, OUTPUT_FILE, ROOT

INTERFACES = sorted(path.name for path in CASES.iterdir())

# Keeps an image as the environment and labels that a build asked for; a run does what WRITES, SAYS and EXIT say. Every
# call's arguments are kept, and what lay in the folders that a run may write to.
ENGINE = r"""#!/usr/bin/env python3
import json, os, pathlib, sys
command, arguments, state = sys.argv[1], sys.argv[2:], pathlib.Path(os.environ["STATE"])
after = lambda flag: [value for name, value in zip(arguments, arguments[1:]) if name == flag]
mounted = {target.partition(":")[0]: source for source, target in (v.split(":", 1) for v in after("--volume"))}
found = {place: sorted(os.listdir(source)) for place, source in mounted.items()}
with state.with_name("calls").open("a") as calls:
    print(json.dumps({"arguments": sys.argv[1:], "mounted": mounted, "found": found}), file=calls)
if os.environ.get("FAILS") == command:
    sys.exit(125)
if command == "build" and "BUILDS_NOTHING" not in os.environ:
    labels = dict(value.split("=", 1) for value in after("--label"))
    state.write_text(json.dumps(labels) + " " + json.dumps(after("--build-arg")))
elif command == "image":
    print(state.read_text())
elif command == "save":
    print("image", *arguments)
    sys.stdout.flush()
    sys.exit(int(os.environ.get("SAVE_EXIT", 0)))
elif command == "run" and "verify" in arguments:
    sys.exit(int(os.environ.get("VERIFY_EXIT", 0)))
elif command == "run" and "/bin/cat" in arguments:
    print(arguments[-1])
elif command == "run":
    pathlib.Path(mounted["/tmp"], "left").touch()
    for name, text in json.loads(os.environ["WRITES"]).items():
        pathlib.Path(mounted["/output"], name).write_text(text)
    sys.stderr.write(os.environ.get("SAYS", ""))
    sys.exit(int(os.environ.get("EXIT", 0)))
"""


@pytest.fixture
def engine(tmp_path: Path) -> dict[str, str]:
    """Environment in which the scripts find the engine, whose own path has a space."""
    script = tmp_path / "an engine"
    script.write_text(ENGINE)
    script.chmod(0o755)
    (tmp_path / "state").write_text("[]")
    kept = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    return kept | {"CONTAINER_ENGINE": str(script), "STATE": str(tmp_path / "state")}


def calls(engine: dict[str, str], command: str) -> list[dict]:
    """Every call of the engine's ``command``: its arguments, what was mounted where, and what lay there."""
    lines = Path(engine["STATE"]).with_name("calls").read_text().splitlines()
    return [call for call in map(json.loads, lines) if call["arguments"][0] == command]


def script(name: str, environment: dict[str, str], cwd: Path = ROOT, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [ROOT / name, *arguments], capture_output=True, text=True, timeout=60, env=environment, cwd=cwd
    )


@pytest.fixture
def compared(engine: dict[str, str], tmp_path: Path):
    """Run test/run.sh over one case whose job writes ``found`` where ``want`` is expected."""

    def run(found: str, want: str = "100.5\n", **more: str) -> subprocess.CompletedProcess:
        (tmp_path / "cases" / "one").mkdir(parents=True)
        expected = tmp_path / "the expected" / "one"
        expected.mkdir(parents=True)
        (expected / OUTPUT_FILE).write_text(want)
        environment = {"INPUT": "cases", "EXPECTED": "the expected", "WRITES": json.dumps({OUTPUT_FILE: found})}
        return script("test/run.sh", engine | environment | more, tmp_path)

    return run


@pytest.mark.parametrize("found", ["100.5\n", "100.5999", "100.4", "1.005e2", "1005e-1"])
def test_months_within_the_tolerance_pass(compared, found):
    done = compared(found)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.endswith("1 passed, 0 failed\n")


NO_MONTHS = ["NaN", "Infinity", "1e999", "null", "[100.5]", '"100.5"', "0100.5", "", "100.5 100.5"]


@pytest.mark.parametrize("found", ["100.7", "100.3", "0", "-100.5", *NO_MONTHS])
def test_other_months_or_none_fail(compared, found):
    done = compared(found)
    assert done.returncode == 1, done.stdout
    assert done.stdout.endswith("0 passed, 1 failed\n")


@pytest.mark.parametrize("want", ["nan", "null", "abc", "inf", "[100.5]", "", "1e999"])
def test_an_expectation_that_is_no_number_fails(compared, want):
    done = compared("100.5", want)
    assert done.returncode == 1 and done.stdout.endswith("0 passed, 1 failed\n")


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"EXIT": "3", "SAYS": "survfuse: BundleError: none\n"}, "exit code 3: survfuse: BundleError: none"),
        ({"EXIT": "125"}, "exit code 125"),
        ({"SAYS": "survfuse: warning: odd\n"}, "stderr: survfuse: warning: odd"),
        ({"WRITES": json.dumps({OUTPUT_FILE: "100.5", "debug.log": ""})}, "output holds: debug.log"),
        ({"WRITES": json.dumps({OUTPUT_FILE: "100.5", ".hidden": ""})}, "output holds: .hidden"),
        ({"WRITES": "{}"}, "output holds:"),
    ],
)
def test_a_job_that_does_more_or_less_than_write_its_number_fails(compared, more, reason):
    done = compared("100.5", **more)
    assert done.returncode == 1 and reason in done.stdout


def test_what_docker_says_of_its_host_is_not_the_jobs(compared):
    said = "WARNING: Your kernel does not support swap limit capabilities or the cgroup is not mounted.\n"
    assert compared("100.5", SAYS=said).returncode == 0


@pytest.mark.parametrize("tolerance", ["nan", "inf", "5%", "-1", "x", "1e999", "1e3", "100"])
def test_a_tolerance_that_is_no_number_is_refused(compared, tolerance):
    done = compared("100.5", TOLERANCE=tolerance)
    assert done.returncode == 2 and "TOLERANCE" in done.stderr


def test_an_expected_case_that_is_missing_fails(engine, tmp_path):
    (tmp_path / "cases" / "interf1").mkdir(parents=True)
    number = (ROOT / "test/expected/interf1" / OUTPUT_FILE).read_text()
    environment = {"INPUT": "cases", "EXPECTED": str(ROOT / "test/expected")}
    done = script("test/run.sh", engine | environment | {"WRITES": json.dumps({OUTPUT_FILE: number})}, tmp_path)
    assert done.returncode == 1 and done.stdout.endswith("1 passed, 1 failed\n")


def test_without_options_the_sample_cases_are_compared(engine):
    done = script("test/run.sh", engine | {"WRITES": json.dumps({OUTPUT_FILE: "1.0"})})
    assert done.returncode == 1 and done.stdout.endswith("0 passed, 2 failed\n")
    jobs = calls(engine, "run")
    assert [job["mounted"]["/input"] for job in jobs] == [str(ROOT / "test/input" / name) for name in INTERFACES]


def test_a_bundle_of_ones_own_is_mounted_and_compared_with_nothing(engine, tmp_path):
    (tmp_path / "mine").mkdir()
    environment = {"MODEL": "mine", "WRITES": json.dumps({OUTPUT_FILE: "1.0"})}
    done = script("test/run.sh", engine | environment, tmp_path)
    assert done.returncode == 0 and done.stdout.count("nothing to compare with") == 2
    assert {job["mounted"]["/opt/ml/model"] for job in calls(engine, "run")} == {str(tmp_path / "mine")}


@pytest.mark.parametrize("engine_name", ["docker", "podman"])
def test_jobs_run_as_on_the_platform_and_under_harder_limits(engine, tmp_path, engine_name):
    """The platform's own flags, and beyond them nothing writable but /output and a /tmp of the job's own."""
    named = tmp_path / engine_name
    Path(engine["CONTAINER_ENGINE"]).rename(named)
    environment = {"CONTAINER_ENGINE": str(named), "RUN_FLAGS": "--env A=b --pids-limit 99", "WRITES": "{}"}
    script("test/run.sh", engine | environment, ROOT, "some:image")
    jobs = calls(engine, "run")
    for arguments in (" ".join(job["arguments"]) for job in jobs):
        for flags in (
            "--rm --platform linux/amd64 --network none --read-only --cap-drop ALL --security-opt no-new-privileges",
            "--memory 15g --memory-swap 15g --shm-size 7g",
            "--env A=b --pids-limit 99",
        ):
            assert f" {flags} " in arguments
        assert arguments.count("--network") == 1 and arguments.endswith(" some:image")
        # podman's --read-only leaves /run and /var/tmp writable.
        assert ("--read-only-tmpfs=false" in arguments) == (engine_name == "podman")
        assert re.findall(r":(/[\w/]+:ro) ", arguments) == ["/input:ro", "/opt/ml/model:ro"]
    for place in ("/output", "/tmp"):
        assert [job["found"][place] for job in jobs] == [[], []]
    assert jobs[0]["found"]["/opt/ml/model"] == []


def test_no_case_at_all_fails(engine, tmp_path):
    assert script("test/run.sh", engine | {"INPUT": str(tmp_path)}).returncode == 2


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle as a team leaves it: readable by its owner alone, a README beside it."""
    folder = Path(shutil.copytree(DEMONSTRATION, tmp_path / "my model"))
    (folder / "README.md").write_text("notes")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return folder


def export(engine: dict[str, str], tmp_path: Path, what: str = "all", **more: str) -> subprocess.CompletedProcess:
    """export.sh started in another folder than the checkout, with a bundle and a target named from there."""
    return script("export.sh", engine | {"MODEL": "my model", "EXPORT": "ex port"} | more, tmp_path, what)


def exported(tmp_path: Path) -> dict[str, Path]:
    """What an export left, by names without version and date."""
    return {path.name.split("-", 3)[-1]: path for path in (tmp_path / "ex port").iterdir()}


IMAGE = {"image.tar.gz", "licences.txt", "sbom.cdx.json"}
MODEL = {"model.tar.gz"}


def stated(files: dict[str, Path], part: str) -> set[str]:
    """The files whose checksums ``part``.sha256 states, each of them right."""
    file = files[f"{part}.sha256"]
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", file], cwd=file.parent, check=True)
    return {line.split("-", 3)[-1] for line in file.read_text().splitlines()}


@pytest.mark.parametrize(
    ("what", "parts"),
    [("all", {"image": IMAGE, "model": MODEL}), ("image", {"image": IMAGE}), ("model", {"model": MODEL})],
)
def test_an_export_is_the_parts_asked_for_with_their_checksums(engine, bundle, tmp_path, what, parts):
    done = export(engine, tmp_path, what, IMAGE="named:1")
    assert done.returncode == 0, done.stderr
    files = exported(tmp_path)
    assert set(files) == set.union(*parts.values(), {f"{part}.sha256" for part in parts})
    assert {part: stated(files, part) for part in parts} == parts
    if "image" in parts:
        assert gzip.decompress(files["image.tar.gz"].read_bytes()) == b"image named:1\n"
        for name in ("licences.txt", "sbom.cdx.json"):
            assert files[name].read_text() == f"/opt/inventory/{name}\n"


def test_the_bundle_that_the_caller_means_is_packed_for_every_reader(engine, bundle, tmp_path):
    assert export(engine, tmp_path, "model").returncode == 0
    with tarfile.open(exported(tmp_path)["model.tar.gz"]) as archive:
        entries = {entry.name: entry for entry in archive}
        expected = {f"./{path.relative_to(bundle)}" for path in bundle.rglob("*")} - {"./README.md"} | {"."}
        assert set(entries) == expected
        assert {(entry.uid, entry.gid) for entry in entries.values()} == {(0, 0)}
        assert {entry.mode & 0o777 for entry in entries.values() if entry.isfile()} == {0o644}
        assert archive.extractfile("./manifest.json").read() == (bundle / "manifest.json").read_bytes()


def test_what_is_verified_is_the_archive_unpacked_by_the_images_own_code(engine, bundle, tmp_path):
    export(engine, tmp_path, "model", IMAGE="named:1")
    (call,) = calls(engine, "run")
    assert call["arguments"][-5:] == ["named:1", "-m", "survfuse", "verify", "/opt/ml/model"]
    assert not Path(call["mounted"]["/opt/ml/model"]).is_relative_to(bundle)
    assert "manifest.json" in call["found"]["/opt/ml/model"] and "README.md" not in call["found"]["/opt/ml/model"]


def test_a_part_exported_again_leaves_both_checksums_true(engine, bundle, tmp_path):
    export(engine, tmp_path)
    assert export(engine, tmp_path, "model").returncode == 0
    files = exported(tmp_path)
    assert (stated(files, "image"), stated(files, "model")) == (IMAGE, MODEL)


FAULTS = [
    ({"FAILS": "build"}, 125, ""),
    ({"FAILS": "image"}, 4, "cannot show"),
    ({"FAILS": "run"}, 4, "could not run"),
    ({"VERIFY_EXIT": "3"}, 3, "does not pass verify"),
    ({"MODEL": "none"}, 3, "holds no bundle"),
    ({"BUILDS_NOTHING": "1"}, 4, "is an earlier image"),
]
SAVING = [({"FAILS": "save"}, 125, ""), ({"SAVE_EXIT": "1"}, 1, "")]


@pytest.mark.parametrize(
    ("what", "fault", "code", "reason"),
    [*(("all", *fault) for fault in FAULTS + SAVING), *(("model", *fault) for fault in FAULTS)],
)
def test_an_export_that_fails_leaves_nothing(engine, bundle, tmp_path, what, fault, code, reason):
    done = export(engine, tmp_path, what, **fault)
    assert done.returncode == code and reason in done.stderr
    assert list((tmp_path / "ex port").iterdir()) == []


def test_an_image_that_requires_no_model_is_not_exported(engine, bundle, tmp_path):
    """A build that drops its argument, as a wrong cache would."""
    text = ENGINE.replace('after("--build-arg")', '["SURVFUSE_REQUIRE_MODEL="]')
    Path(engine["CONTAINER_ENGINE"]).write_text(text)
    done = export(engine, tmp_path)
    assert done.returncode == 4 and "would fall back to demonstration weights" in done.stderr
    assert list((tmp_path / "ex port").iterdir()) == []


def test_a_build_takes_its_base_and_flags_from_the_environment(engine):
    environment = {"BASE_IMAGE": "some/base:1", "BUILD_FLAGS": "--network host --no-cache", "IMAGE": "named:1"}
    assert script("build.sh", engine | environment, ROOT, "--quiet").returncode == 0
    ((_, *arguments),) = (call["arguments"] for call in calls(engine, "build"))
    text = " ".join(arguments)
    for flags in ("--network host --no-cache", "--build-arg BASE_IMAGE=some/base:1", "--tag named:1", "--quiet"):
        assert f" {flags} " in text
    assert text.startswith("--platform linux/amd64 ") and arguments[-1] == "."


def audit(tmp_path: Path, **said: str) -> subprocess.CompletedProcess:
    """.ci/audit.py over lock files of which pip-audit says ``said``."""
    (tmp_path / "pip_audit.py").write_text(
        f"import sys\nassert '--require-hashes' in sys.argv\nprint({said!r}[sys.argv[-1]])\n"
    )
    command = [sys.executable, str(ROOT / ".ci/audit.py"), *said]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def audited(*packages: dict) -> str:
    return json.dumps({"dependencies": list(packages)})


SOUND = {"name": "sound", "version": "1.0", "vulns": []}
KNOWN = {"name": "known", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}]}
SKIPPED = {"name": "odd", "skip_reason": "Dependency not found"}


@pytest.mark.parametrize(
    ("stdout", "code", "text"),
    [
        (audited(SOUND, SKIPPED), 0, "1 packages checked, 1 unknown to the database, 0 advisories"),
        (audited(SOUND, KNOWN), 1, "known 1.0: PYSEC-1, fixed in 1.1"),
        (audited(SKIPPED), 0, "NOT checked"),
        ("", 2, "pip-audit failed"),
    ],
)
def test_an_audit_says_what_is_known_and_what_was_not_checked(tmp_path, stdout, code, text):
    done = audit(tmp_path, lock=stdout)
    assert done.returncode == code and text in done.stdout


@pytest.mark.parametrize("worse", [0, 1])
def test_an_audit_of_two_lock_files_ends_as_the_worse_of_them(tmp_path, worse):
    said = [audited(SOUND), audited(SOUND)]
    said[worse] = audited(KNOWN)
    assert audit(tmp_path, first=said[0], second=said[1]).returncode == 1


def test_an_audit_without_a_network_is_said_and_one_of_no_lock_file_fails(tmp_path):
    """pip-audit itself, behind a proxy that refuses connections, on a package that is not cached."""
    lock = tmp_path / "some.lock"
    lock.write_text(f"survfuse-never-published==1.0 --hash=sha256:{'0' * 64}\n")
    environment = os.environ | dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:1") | {"NO_PROXY": ""}
    for path, code, text in ((lock, 0, "NOT checked"), (tmp_path / "none.lock", 2, "pip-audit failed")):
        command = [sys.executable, str(ROOT / ".ci/audit.py"), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
        assert done.returncode == code and text in done.stdout, done.stdout + done.stderr
