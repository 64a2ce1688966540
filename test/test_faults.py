"""A machine that fails the job: what is said, and that nothing half-written is ever left."""

import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import CASES, OUTPUT_FILE, PLACES, ROOT, end_of, months

from survfuse.container.job import main

COMMAND = [sys.executable, str(ROOT / "inference.py")]


def started(name: str, output: Path, **options: object) -> subprocess.Popen:
    command = [*COMMAND, "--input", str(CASES / name), "--output", str(output)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def assert_whole_or_absent(output: Path) -> bool:
    """No file under the output's name but a whole number; whether there is one."""
    if not output.is_dir():
        return False
    names = {path.name for path in output.iterdir()}
    assert all(name == OUTPUT_FILE or re.fullmatch(rf"\.{OUTPUT_FILE}\.[0-9a-f]{{8}}\.tmp", name) for name in names)
    if OUTPUT_FILE in names:
        months = json.loads((output / OUTPUT_FILE).read_text())
        assert isinstance(months, float) and months > 0.0
    return OUTPUT_FILE in names


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_at_random_moments_nothing_partial_is_left(tmp_path, number):
    """The whole group, as a container's end takes all; and what was left does not outlive the next run."""
    chance = random.Random(int(number))
    ended = []
    for turn in range(5):
        (tmp_path / "output" / OUTPUT_FILE).unlink(missing_ok=True)
        process = started("interf1", tmp_path / "output", start_new_session=True)
        time.sleep(chance.uniform(0.0, 2.5))
        os.killpg(process.pid, number)
        _, err = process.communicate(timeout=60)
        present = assert_whole_or_absent(tmp_path / "output")
        if number == signal.SIGTERM and process.returncode != -signal.SIGTERM:
            assert process.returncode in (0, 4) and present == (process.returncode == 0)
            assert process.returncode == 0 or "ended by SIGTERM" in err
        ended.append((process.returncode, present))
        if turn == 3:
            (tmp_path / "output").mkdir(exist_ok=True)
            (tmp_path / "output" / f".{OUTPUT_FILE}.0123abcd.tmp").write_text("1")
    assert any(code != 0 and not present for code, present in ended)
    assert end_of(CASES / "interf1", tmp_path / "output") == 0
    assert months(tmp_path / "output") > 0.0


def test_killed_while_it_writes_only_another_name_is_left(tmp_path):
    """Stopped between the temporary file and its renaming."""
    script = (
        "import os, signal, sys; import survfuse.runtime.files as files;"
        "files.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL);"
        "from survfuse.container.job import main; main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", script, "--input", str(CASES / "interf1"), "--output", str(tmp_path / "output")]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60).returncode == -signal.SIGKILL
    assert not assert_whole_or_absent(tmp_path / "output")
    assert len(list((tmp_path / "output").iterdir())) == 1


def test_a_disk_that_takes_no_byte_ends_in_code_4(tmp_path):
    """A limit of no bytes for every file that is written: the kernel's EFBIG, as a full disk is its ENOSPC."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    process = started("interf1", tmp_path / "output", preexec_fn=limit)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 4 and list((tmp_path / "output").iterdir()) == []
    (line,) = err.splitlines()
    assert line.startswith("survfuse: EnvironmentFailure: ") and "cannot be written (File too large)" in line


def test_an_output_on_a_full_device_ends_in_code_4(tmp_path, output, capsys, monkeypatch):
    """/dev/full answers every write with ENOSPC."""
    monkeypatch.setattr("survfuse.runtime.files._temporary_name", lambda *_: "full")
    output.mkdir()
    (output / "full").symlink_to("/dev/full")
    monkeypatch.setattr("survfuse.container.outputs.discard", lambda path: path.unlink(missing_ok=True))
    code = main(["--input", str(CASES / "interf1"), "--output", str(output)])
    assert code == 4 and not (output / OUTPUT_FILE).exists()
    assert "cannot be written (No space left on device)" in capsys.readouterr().err


def test_an_output_that_is_read_only_ends_in_code_4_before_anything_is_read(tmp_path):
    """Of a file system that nobody can write to, root among them."""
    command = [*COMMAND, "--input", str(CASES / "interf1"), "--output", "/proc/survfuse"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 4 and ended.stdout == ""
    assert ended.stderr.startswith("survfuse: EnvironmentFailure: /proc/survfuse: cannot be written to")


def test_a_log_that_nobody_reads_any_more_ends_the_job_cleanly(tmp_path):
    process = started("interf1", tmp_path / "output")
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 4
    assert "Broken pipe" in process.stderr.read() and list((tmp_path / "output").iterdir()) == []


def test_a_log_on_a_full_disk_ends_the_job_cleanly(tmp_path):
    with Path("/dev/full").open("w") as full:
        command = [*COMMAND, "--input", str(CASES / "interf1"), "--output", str(tmp_path / "output")]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert ended.returncode == 4 and list((tmp_path / "output").iterdir()) == []
    assert "No space left" in ended.stderr or "disk is full" in ended.stderr


@pytest.mark.parametrize("megabytes", [40, 600])
def test_memory_that_is_refused_ends_in_code_4(tmp_path, megabytes):
    """An address space in which the job's own libraries find no room: numpy's first, in the end torch's."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (megabytes * 10**6, megabytes * 10**6))

    # OpenBLAS makes room for each thread, and ends the process by itself where it finds none.
    process = started("interf0", tmp_path / "output", preexec_fn=limit, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"})
    _, err = process.communicate(timeout=120)
    assert process.returncode == 4 and list((tmp_path / "output").rglob("*")) == []
    assert err.startswith("survfuse: EnvironmentFailure: memory ran out: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    "options", [["--inptu", "x"], ["x\nsurvfuse: y"], ["--time-limit", "soon"], ["--unusable-slide", "keep"]]
)
def test_a_command_that_cannot_be_understood_is_refused_in_one_line(capsys, options):
    with pytest.raises(SystemExit) as end:
        main(options)
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    assert err.startswith("survfuse: InputError: ") and err.count("\n") == 1 and "--help" in err


# --- what a log may show ---

SECRETS = {"age": 83.4177, "no_instillations": 41.5533}


def test_no_value_of_a_patient_is_ever_shown(case, output, capsys):
    """Clinical values and expression stay out of the log, be the case answered or refused; names and counts may be."""
    variables = json.loads((case / PLACES["clinical"]).read_text()) | SECRETS | {"smoking": "Sekret", "other": "Sekret"}
    expression = json.loads((case / PLACES["rna"]).read_text()) | {"TP53": 777.123, "OTHER": 888.123}

    def said() -> str:
        (case / PLACES["clinical"]).write_text(json.dumps(variables))
        (case / PLACES["rna"]).write_text(json.dumps(expression))
        end_of(case, output)
        found = capsys.readouterr()
        return found.out + found.err

    logs = [said()]
    assert "unknown category, counted as missing: smoking" in logs[0]
    for name, value in (("age", 483.4177), ("age", "Sekret"), ("sex", ["Sekret"]), ("LVI", {"Sekret": 1})):
        kept, variables[name] = variables[name], value
        logs.append(said())
        assert f"clinical variable {name}" in logs[-1]
        variables[name] = kept
    for value in (-777.123, "Sekret", [777.123], float("inf"), None):
        kept, expression["TP53"] = expression["TP53"], value
        logs.append(said())
        assert "expression of 'TP53'" in logs[-1]
        expression["TP53"] = kept
    (case / PLACES["clinical"]).write_text('{"age": "Sekret 83.4177",')
    end_of(case, output)
    logs.append("".join(capsys.readouterr()))
    for log in logs:
        assert not re.search(r"Sekret|83\.417|41\.553|777\.1|888\.1", log), log


def test_an_unforeseen_error_shows_no_value_either(case, output, capsys, monkeypatch):
    """A traceback has lines of code, and the message that the error came with."""

    def fail(self, variables):
        raise KeyError("a name")

    monkeypatch.setattr("survfuse.inputs.clinical.Vocabulary.encode", fail)
    (case / PLACES["clinical"]).write_text(json.dumps(SECRETS))
    assert end_of(case, output) == 1
    found = "".join(capsys.readouterr())
    assert "Traceback" in found and "83.4177" not in found
