"""The job in a process of its own, so that its violent end is answered for as well.

Slides, masks and HDF5 are decoded by native libraries, which a file can crash; and a container that is out of memory
has its largest process killed. Neither can be caught where it happens. A parent that has imported next to nothing
waits, says in one line what became of the job, and takes back what may lie in the output.
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
from survfuse.runtime.exits import say
from survfuse.runtime.files import discard
from survfuse.runtime.memory import counted
from survfuse.runtime.watch import SharedStatus, watched

PATIENCE = 120.0  # seconds that a library may take for one call, or one part of a file
_LOOK_EVERY = 1.0  # seconds
_PR_SET_PDEATHSIG = 1  # prctl(2)
_ENDING = (signal.SIGTERM, signal.SIGINT)
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)
# Counts of the processes that the kernel killed in this container for memory: control groups of version 2, then 1.
_KILLS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))


def supervised(job: Callable[[], int]) -> int:
    """Run ``job`` in a child process and return its exit code; 2 or 4, with a line on stderr, where a signal ended it
    or a library did not come back from a file.

    SIGTERM and SIGINT end the job. Where the system cannot fork and wait, the job runs in this process. To be called
    once, at the end of which the process ends: signals stay blocked.
    """
    if not hasattr(os, "fork") or not hasattr(signal, "sigtimedwait"):
        return _finished(job)
    status = watched()
    kills = _memory_kills()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # one that a launcher ignores would take the child's end along
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*_ENDING, signal.SIGCHLD))
    parent = os.getpid()
    try:
        child = os.fork()
    except OSError as cause:
        return say(EnvironmentFailure(f"no process could be started: {cause.strerror}"))
    if not child:
        _be_child(job, parent, before)
    code, failure = _wait(child, status)
    if code and status.output:
        with suppress(OSError):
            discard(Path(status.output))
    if code >= 0:
        return code
    return say(failure or _failure(signal.Signals(-code), status.oldest()[0], killed=_memory_kills() > kills))


def _wait(child: int, status: SharedStatus) -> tuple[int, SurvfuseError | None]:
    """The child's exit code, negative for a signal, and what is to be said where this process ended it."""
    failure, since, waited, looked = None, 0.0, 0.0, time.monotonic()
    while True:
        number = signal.sigtimedwait((*_ENDING, signal.SIGCHLD), _LOOK_EVERY)
        if number is not None and number.si_signo in _ENDING and failure is None:
            # At once, and not by an exception somewhere in the job, which libraries may turn into another.
            failure = EnvironmentFailure(f"ended by {signal.Signals(number.si_signo).name}")
            os.kill(child, signal.SIGKILL)
        ended, wait_status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(wait_status), failure
        # Its own looks are counted, not the clock alone: a container that is paused is not stuck.
        before, looked = looked, time.monotonic()
        name, began = status.oldest()
        waited = waited + min(looked - before, 2 * _LOOK_EVERY) if began and began == since else 0.0
        since = began
        if waited > PATIENCE and failure is None:
            failure = InputError(f"{name}: a library that reads it did not come back within {PATIENCE:g} s")
            os.kill(child, signal.SIGKILL)


def _be_child(job: Callable[[], int], parent: int, signals: set[signal.Signals]) -> None:
    """Run ``job`` to this process's end, with these signals blocked; a parent that is gone takes it along."""
    code = 1
    try:
        for number in _ENDING:  # sent to the group they reach both, and the parent ends the job
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
    """The job's exit code, once nothing is left to do but to leave by ``os._exit``.

    What libraries asked to have done at the end, such as removing a temporary folder, is done. Taking torch apart
    module by module, and unmapping its libraries one by one, would take half a second more.
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
            if stream is not None:  # closed by whoever started this
                stream.flush()
    return code


def _failure(number: signal.Signals, name: str, killed: bool) -> SurvfuseError:
    """What a job that died of a signal while it read ``name``, or nothing, has failed of."""
    if killed:
        return EnvironmentFailure("memory ran out: the system killed the job at its memory limit")
    if number == signal.SIGKILL:
        return EnvironmentFailure("the job was killed (SIGKILL); where nobody did that, memory ran out")
    if name and number in _CRASHES:
        return InputError(f"{name}: a library crashed ({number.name}) while this file was read; it may be damaged")
    return EnvironmentFailure(f"the job was ended by {number.name}")


def _memory_kills() -> int:
    return next((kills for path in _KILLS if (kills := counted(path, "oom_kill")) is not None), 0)
