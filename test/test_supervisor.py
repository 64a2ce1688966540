"""The process that waits for the job: what it says and leaves where the job's own process cannot."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from conftest import CASES, ROOT

from survfuse.runtime.files import atomic_path, discard


def supervised(body: str, folder: Path) -> subprocess.CompletedProcess:
    """A job of this body under supervision in a process of its own; ``output`` is the file that it may write."""
    command = [sys.executable, "-c", script(body), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)


def script(body: str) -> str:
    start = """
        import ctypes, os, signal, sys, time
        from pathlib import Path
        import survfuse.container.supervisor as supervisor
        from survfuse.runtime.watch import reading, tell_outputs
        from survfuse.container.supervisor import supervised

        supervisor.PATIENCE, supervisor._LOOK_EVERY = 1.0, 0.2
        output = Path(sys.argv[1]) / "number.json"

        def job():
            tell_outputs([output])
    """
    return textwrap.dedent(start) + textwrap.indent(textwrap.dedent(body), "    ") + "\nos._exit(supervised(job))"


@pytest.mark.parametrize("code", [0, 2, 3, 4])
def test_the_jobs_exit_code_and_lines_are_passed_on(tmp_path, code):
    ended = supervised(f"print('said'); print('warned', file=sys.stderr); return {code}", tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "said\n", "warned\n")


def test_an_end_by_argparse_keeps_its_code(tmp_path):
    assert supervised("sys.exit(2)", tmp_path).returncode == 2
    assert supervised("sys.exit()", tmp_path).returncode == 0


def test_an_unforeseen_error_is_a_traceback_and_1(tmp_path):
    ended = supervised("raise ZeroDivisionError('x')", tmp_path)
    assert ended.returncode == 1 and "ZeroDivisionError: x" in ended.stderr


CRASH = """
output.write_text("1.5")
(output.parent / ".number.json.0123abcd.tmp").write_text("1.")
"""


@pytest.mark.parametrize("crash", ["ctypes.string_at(0)", "os.abort()"])
def test_a_crash_while_a_file_is_read_is_that_files(tmp_path, crash):
    ended = supervised(f"{CRASH}\nwith reading('slide.tif'):\n    {crash}", tmp_path)
    assert ended.returncode == 2 and list(tmp_path.iterdir()) == []
    lines = ended.stderr.splitlines()
    assert lines[-1].startswith("survfuse: InputError: slide.tif: a library crashed (SIG")


def test_a_crash_anywhere_else_is_the_machines(tmp_path):
    ended = supervised(f"{CRASH}\nwith reading('slide.tif'):\n    pass\nctypes.string_at(0)", tmp_path)
    assert ended.returncode == 4 and list(tmp_path.iterdir()) == []
    assert ended.stderr == "survfuse: EnvironmentFailure: the job was ended by SIGSEGV\n"


def test_a_library_that_does_not_come_back_is_ended(tmp_path):
    started = time.monotonic()
    ended = supervised("with reading('features.h5'):\n    time.sleep(50)", tmp_path)
    assert ended.returncode == 2 and time.monotonic() - started < 20
    assert ended.stderr == "survfuse: InputError: features.h5: a library did not return from reading it within 1 s\n"


def test_long_work_in_parts_is_waited_for(tmp_path):
    body = (
        "with reading('mask.tif') as go_on:\n    for _ in range(8):\n        time.sleep(0.3)\n        go_on()\nreturn 0"
    )
    assert supervised(body, tmp_path).returncode == 0


def test_a_kill_is_said_to_be_one(tmp_path):
    ended = supervised(f"{CRASH}\nos.kill(os.getpid(), signal.SIGKILL)", tmp_path)
    assert ended.returncode == 4 and list(tmp_path.iterdir()) == []
    assert "was killed (SIGKILL); unless someone stopped it, memory ran out" in ended.stderr


def test_a_kill_at_the_memory_limit_is_told_by_the_systems_count(tmp_path):
    """The count of control groups of version 2, which rises when the kernel kills for memory."""
    events = tmp_path / "memory.events"
    events.write_text("low 0\noom 0\noom_kill 0\n")
    body = f"""
    Path({str(events)!r}).write_text("low 0\\noom 1\\noom_kill 1\\n")
    os.kill(os.getpid(), signal.SIGKILL)
    """
    start = script(body).replace("output =", f"supervisor._KILLS = (Path({str(events)!r}),)\noutput =", 1)
    ended = subprocess.run([sys.executable, "-c", start, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 4
    assert "memory ran out: the system killed the job at its memory limit" in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_to_the_parent_end_the_job(tmp_path, number):
    body = f"{CRASH}\nprint('ready', flush=True)\ntime.sleep(50)"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", script(body), str(tmp_path)], cwd=ROOT, **pipes)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.communicate(timeout=30)[1] == f"survfuse: EnvironmentFailure: ended by {number.name}\n"
    assert process.returncode == 4 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&-"])
def test_closed_streams_end_no_job(tmp_path, closed):
    command = (
        f"'{sys.executable}' '{ROOT}/inference.py' --input '{CASES}/interf1' --output '{tmp_path}/output' {closed}"
    )
    ended = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0 and len(list((tmp_path / "output").iterdir())) == 1, ended.stderr


def test_a_locale_without_its_letters_ends_no_job(tmp_path):
    command = [sys.executable, str(ROOT / "inference.py"), "--input", str(CASES / "interf0"), "--output", str(tmp_path)]
    given = os.environ | {"PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(command, capture_output=True, timeout=60, env=given)
    assert (ended.returncode, ended.stderr) == (0, b"") and "µm/px" in ended.stdout.decode()


def test_a_launcher_that_ignores_the_ends_of_children_is_no_matter(tmp_path):
    """What is ignored stays so through exec, and the kernel then takes children's ends along."""
    command = [sys.executable, "-c", script("return 3"), str(tmp_path)]

    def ignore() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    assert subprocess.run(command, cwd=ROOT, timeout=60, preexec_fn=ignore).returncode == 3


def test_a_process_that_cannot_be_started_is_the_machines_failure(tmp_path):
    start = script("return 0").replace(
        "output =", "def fork(): raise OSError(11, 'Try again')\nos.fork = fork\noutput =", 1
    )
    ended = subprocess.run([sys.executable, "-c", start, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert (ended.returncode, ended.stderr) == (
        4,
        "survfuse: EnvironmentFailure: no process could be started: Try again\n",
    )


def test_a_pause_is_not_taken_for_a_library_that_hangs(tmp_path):
    body = "with reading('x.h5') as go_on:\n    print('on', flush=True)\n    time.sleep(0.6)\nreturn 0"
    process = subprocess.Popen(
        [sys.executable, "-c", script(body), str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT, start_new_session=True
    )
    assert process.stdout.readline() == b"on\n"
    os.killpg(process.pid, signal.SIGSTOP)
    time.sleep(2.5)
    os.killpg(process.pid, signal.SIGCONT)
    assert process.wait(timeout=30) == 0


def test_an_output_folder_of_any_name_is_cleared(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    assert supervised(f"{CRASH}\nos.abort()", folder).returncode == 4
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("turn", range(4))
def test_two_ends_asked_for_at_once_are_one(tmp_path, turn):
    """A signal to the whole group reaches the job twice: by itself, and passed on."""
    command = [sys.executable, str(ROOT / "inference.py"), "--input", str(CASES / "interf1"), "--output", str(tmp_path)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    process.stdout.readline()
    time.sleep(0.2 * turn)
    for _ in range(3):
        os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (4, "survfuse: EnvironmentFailure: ended by SIGTERM\n")


def test_a_job_does_not_outlive_its_parent(tmp_path):
    body = "print(os.getpid(), flush=True)\ntime.sleep(50)"
    process = subprocess.Popen([sys.executable, "-c", script(body), str(tmp_path)], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "\nState:\tZ" in Path(f"/proc/{child}/status").read_text():
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the job went on")


def test_what_killed_writers_left_goes_with_the_file(tmp_path):
    (tmp_path / "n.json").write_text("1")
    (tmp_path / "other.json").write_text("1")
    with atomic_path(tmp_path / "n.json") as temporary:
        temporary.write_text("2")
        left = temporary.name
    (tmp_path / left).write_text("2")
    discard(tmp_path / "n.json")
    assert [path.name for path in tmp_path.iterdir()] == ["other.json"]
