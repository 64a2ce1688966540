"""The scripts around the image, against an engine that stands for docker and podman: what they let pass, what not."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from conftest import DEMONSTRATION, ROOT

from survfuse.sockets import OUTPUT_FILE

# Keeps an image as the environment and labels that a build asked for; a run does what WRITES, SAYS and EXIT say.
ENGINE = r"""#!/usr/bin/env python3
import json, os, pathlib, sys
command, arguments, state = sys.argv[1], sys.argv[2:], pathlib.Path(os.environ["STATE"])
after = lambda flag: [value for name, value in zip(arguments, arguments[1:]) if name == flag]
if os.environ.get("FAILS") == command:
    sys.exit(125)
if command == "build" and "BUILDS_NOTHING" not in os.environ:
    state.write_text(json.dumps([{"Labels": after("--label"), "Env": after("--build-arg")}]))
elif command == "image":
    print(state.read_text())
elif command == "save":
    print("an image")
    sys.stdout.flush()
    sys.exit(int(os.environ.get("SAVE_EXIT", 0)))
elif command == "run" and "verify" in arguments:
    sys.exit(int(os.environ.get("VERIFY_EXIT", 0)))
elif command == "run" and "/bin/cat" in arguments:
    print("stated")
elif command == "run":
    (output,) = (value.split(":")[0] for value in after("--volume") if value.endswith(":/output"))
    for name, text in json.loads(os.environ["WRITES"]).items():
        pathlib.Path(output, name).write_text(text)
    sys.stderr.write(os.environ.get("SAYS", ""))
    sys.exit(int(os.environ.get("EXIT", 0)))
"""


@pytest.fixture
def engine(tmp_path: Path) -> dict[str, str]:
    """Environment in which the scripts find the engine, beside a folder with a space in its name."""
    script = tmp_path / "an engine"
    script.write_text(ENGINE)
    script.chmod(0o755)
    (tmp_path / "state").write_text("[]")
    kept = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    return kept | {"CONTAINER_ENGINE": str(script), "STATE": str(tmp_path / "state")}


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


@pytest.mark.parametrize("tolerance", ["nan", "inf", "5%", "-1", "x"])
def test_a_tolerance_that_is_no_number_is_refused(compared, tolerance):
    done = compared("100.5", TOLERANCE=tolerance)
    assert done.returncode == 2 and "TOLERANCE" in done.stderr


def test_an_expected_case_that_is_missing_fails(engine, tmp_path):
    (tmp_path / "cases" / "interf1").mkdir(parents=True)
    number = (ROOT / "test/expected/interf1" / OUTPUT_FILE).read_text()
    environment = {"INPUT": "cases", "EXPECTED": str(ROOT / "test/expected")}
    done = script("test/run.sh", engine | environment | {"WRITES": json.dumps({OUTPUT_FILE: number})}, tmp_path)
    assert done.returncode == 1 and done.stdout.endswith("1 passed, 1 failed\n")


def test_no_case_at_all_fails(engine, tmp_path):
    assert script("test/run.sh", engine | {"INPUT": str(tmp_path)}).returncode == 2


def export(engine: dict[str, str], tmp_path: Path, what: str = "all", **more: str) -> subprocess.CompletedProcess:
    """export.sh started in another folder than the checkout, with a bundle and a target named from there."""
    bundle = tmp_path / "my model"
    if not bundle.exists():
        bundle.symlink_to(DEMONSTRATION, target_is_directory=True)
    return script("export.sh", engine | {"MODEL": "my model", "EXPORT": "ex port"} | more, tmp_path, what)


def names(tmp_path: Path) -> list[str]:
    """What an export left, without version and date."""
    return sorted(path.name.split("-", 3)[-1] for path in (tmp_path / "ex port").iterdir())


def checksums_hold(tmp_path: Path, part: str) -> bool:
    (file,) = (tmp_path / "ex port").glob(f"*-{part}.sha256")
    return subprocess.run(["sha256sum", "--check", "--quiet", file], cwd=file.parent).returncode == 0


WHOLE = ["image.sha256", "image.tar.gz", "licences.txt", "model.sha256", "model.tar.gz", "sbom.cdx.json"]


def test_an_export_takes_the_bundle_and_target_that_the_caller_means(engine, tmp_path):
    done = export(engine, tmp_path)
    assert (done.returncode, names(tmp_path)) == (0, WHOLE), done.stderr
    with tarfile.open(next((tmp_path / "ex port").glob("*-model.tar.gz"))) as archive:
        assert archive.extractfile("./manifest.json").read() == (DEMONSTRATION / "manifest.json").read_bytes()
    assert checksums_hold(tmp_path, "image") and checksums_hold(tmp_path, "model")


def test_a_part_exported_again_leaves_both_checksums_true(engine, tmp_path):
    export(engine, tmp_path)
    assert export(engine, tmp_path, "model").returncode == 0
    assert names(tmp_path) == WHOLE
    assert checksums_hold(tmp_path, "image") and checksums_hold(tmp_path, "model")


@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [
        ({"FAILS": "build"}, 125, ""),
        ({"FAILS": "image"}, 4, "cannot show"),
        ({"FAILS": "save"}, 125, ""),
        ({"FAILS": "run"}, 4, "could not run"),
        ({"SAVE_EXIT": "1"}, 1, ""),
        ({"VERIFY_EXIT": "3"}, 3, "does not pass verify"),
        ({"MODEL": "none"}, 3, "holds no bundle"),
        ({"BUILDS_NOTHING": "1"}, 4, "is an earlier image"),
    ],
)
def test_an_export_that_fails_leaves_nothing(engine, tmp_path, fault, code, reason):
    done = export(engine, tmp_path, **fault)
    assert done.returncode == code and reason in done.stderr
    assert list((tmp_path / "ex port").iterdir()) == []


def test_an_image_that_requires_no_model_is_not_exported(engine, tmp_path):
    """A build that drops its argument, as a wrong cache would."""
    text = ENGINE.replace('after("--build-arg")', '["SURVFUSE_REQUIRE_MODEL="]')
    Path(engine["CONTAINER_ENGINE"]).write_text(text)
    done = export(engine, tmp_path)
    assert done.returncode == 4 and "would fall back to demonstration weights" in done.stderr
    assert list((tmp_path / "ex port").iterdir()) == []


def audit(tmp_path: Path, stdout: str, stderr: str = "", code: int = 0) -> subprocess.CompletedProcess:
    """.ci/audit.py where pip-audit says that."""
    said = f"import sys\nprint({stdout!r})\nsys.stderr.write({stderr!r})\nsys.exit({code})\n"
    (tmp_path / "pip_audit.py").write_text(said)
    command = [sys.executable, str(ROOT / ".ci/audit.py"), "x.lock"]
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
    done = audit(tmp_path, stdout)
    assert done.returncode == code and text in done.stdout


def test_an_audit_without_a_network_is_said_and_one_of_no_lock_file_fails(tmp_path):
    """pip-audit itself, behind a proxy that refuses connections, on a package that is not cached."""
    lock = tmp_path / "some.lock"
    lock.write_text(f"survfuse-never-published==1.0 --hash=sha256:{'0' * 64}\n")
    environment = os.environ | dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:1") | {"NO_PROXY": ""}
    for path, code, text in ((lock, 0, "NOT checked"), (tmp_path / "none.lock", 2, "pip-audit failed")):
        command = [sys.executable, str(ROOT / ".ci/audit.py"), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
        assert done.returncode == code and text in done.stdout, done.stdout + done.stderr
