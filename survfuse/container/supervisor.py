"""The job in a child process, so that crashes are reported too.

Slides, masks and HDF5 are decoded by native libraries, which a file can crash, and a container that runs out of memory
has its largest process killed. Neither can be caught where it happens. A parent process that has imported next to
nothing waits, reports the end of the job in one line, and removes any partial output.
"""

import atexit
import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import survfuse.runtime.clock  # noqa: F401  (the job's time counts from this process's start, not from its child's)
from survfuse.runtime.errors import EnvironmentFailure, InputError, SurvfuseError
from survfuse.runtime.exits import report
from survfuse.runtime.files import discard
from survfuse.runtime.memory import counter
from survfuse.runtime.watch import SharedStatus, share_status

PATIENCE = 120.0  # seconds that a library may take for one call, or for one part of a file
_LOOK_EVERY = 1.0  # seconds
_PR_SET_PDEATHSIG = 1  # prctl(2)
_ENDING = (signal.SIGTERM, signal.SIGINT)
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)
# Counts of the processes that the kernel killed in this container for memory: control groups of version 2, then 1.
_KILLS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))


def supervised(job: Callable[[], int]) -> int:
    """Run ``job`` in a child process and return its exit code.

    If a signal ended it, or a library did not return from reading a file, the code is 2 or 4, with a line on stderr.
    SIGTERM and SIGINT end the job. If the system cannot fork and wait, the job runs in this process. Call it once, at
    the end of the process: signals stay blocked.
    """
    if not hasattr(os, "fork") or not hasattr(signal, "sigtimedwait"):
        return _finished(job)
    status = share_status()
    kills = _memory_kills()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if the launcher ignores it, the child's exit status is lost
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*_ENDING, signal.SIGCHLD))
    parent = os.getpid()
    try:
        child = os.fork()
    except OSError as cause:
        return report(EnvironmentFailure(f"no process could be started: {cause.strerror}"))
    if not child:
        _be_child(job, parent, before)
    code, failure = _wait(child, status)
    for output in status.outputs if code else ():
        with suppress(OSError):
            discard(Path(output))
    if code >= 0:
        return code
    return report(failure or _failure(signal.Signals(-code), status.oldest()[0], killed=_memory_kills() > kills))


def _wait(child: int, status: SharedStatus) -> tuple[int, SurvfuseError | None]:
    """The child's exit code, negative for a signal, and the failure to report if this process ended it."""
    failure: SurvfuseError | None = None
    since, waited, looked = 0.0, 0.0, time.monotonic()
    while True:
        number = signal.sigtimedwait((*_ENDING, signal.SIGCHLD), _LOOK_EVERY)
        if number is not None and number.si_signo in _ENDING and failure is None:
            # Killed outright: an exception raised somewhere in the job might be turned into another by a library.
            failure = EnvironmentFailure(f"ended by {signal.Signals(number.si_signo).name}")
            os.kill(child, signal.SIGKILL)
        ended, wait_status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(wait_status), failure
        # Count polls, not wall-clock time, so that a paused container is not taken for stuck.
        before, looked = looked, time.monotonic()
        name, began = status.oldest()
        waited = waited + min(looked - before, 2 * _LOOK_EVERY) if began and began == since else 0.0
        since = began
        if waited > PATIENCE and failure is None:
            failure = InputError(f"{name}: a library did not return from reading it within {PATIENCE:g} s")
            os.kill(child, signal.SIGKILL)


def _be_child(job: Callable[[], int], parent: int, signals: set[int | signal.Signals]) -> None:
    """Run ``job`` and end this process, with these ``signals`` blocked; end it as well if the parent is gone."""
    code = 1
    try:
        for number in _ENDING:  # signals to the process group reach both; the parent ends the job
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(4)
        code = _finished(job)
    finally:
        os._exit(code)


def _finished(job: Callable[[], int]) -> int:
    """The job's exit code, after which ``os._exit`` may be called.

    Exit handlers of libraries, such as removing a temporary folder, have run. Tearing down torch module by module and
    unmapping its libraries would take half a second more.
    """
    code = 1
    try:
        code = job()
        atexit._run_exitfuncs()
    except SystemExit as end:  # argparse's
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            if stream is not None:  # closed by the process that started this one
                stream.flush()
    return code


def _failure(number: signal.Signals, name: str, killed: bool) -> SurvfuseError:
    """The failure to report for a job killed by a signal, possibly while reading ``name``."""
    if killed:
        return EnvironmentFailure("memory ran out: the system killed the job at its memory limit")
    if number == signal.SIGKILL:
        return EnvironmentFailure("the job was killed (SIGKILL); unless someone stopped it, memory ran out")
    if name and number in _CRASHES:
        return InputError(f"{name}: a library crashed ({number.name}) while this file was read; it may be damaged")
    return EnvironmentFailure(f"the job was ended by {number.name}")


def _memory_kills() -> int:
    return next((kills for path in _KILLS if (kills := counter(path, "oom_kill")) is not None), 0)
