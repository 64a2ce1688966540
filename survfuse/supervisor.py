"""The job in a process of its own, so that its violent end is answered for as well.

Slides, masks and HDF5 are decoded by native libraries, which a file can crash; and a container that is out of memory
has its largest process killed. Neither can be caught where it happens. A parent that has imported next to nothing
waits, says in one line what became of the job, and takes back what may lie in the output.
"""

import atexit
import ctypes
import mmap
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import survfuse.clock  # noqa: F401  (the job's time counts from this process's start, not from its child's)
from survfuse.errors import EnvironmentFailure, InputError, SurvfuseError
from survfuse.files import discard

_FIELD = 4096  # bytes of what the job tells: what it reads, and the path of its output
_PR_SET_PDEATHSIG = 1  # prctl(2)
_FORWARDED = (signal.SIGTERM, signal.SIGINT)
# Counts of the processes that the kernel killed in this container for memory: control groups of version 2, then 1.
_KILLS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))

_told: mmap.mmap | None = None


def supervised(job: Callable[[], int]) -> int:
    """Run ``job`` in a child process and return its exit code; 2 or 4, with a line on stderr, where a signal ended it.

    SIGTERM and SIGINT are passed on as SIGTERM. Where the system cannot fork, the job runs in this process.
    """
    global _told
    if not hasattr(os, "fork"):
        return job()
    _told = mmap.mmap(-1, 2 * _FIELD)
    kills = _memory_kills()
    signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    parent, child = os.getpid(), os.fork()
    if not child:
        _be_child(job, parent)

    def forward(number: int, frame: FrameType | None) -> None:
        os.kill(child, signal.SIGTERM)

    for number in _FORWARDED:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code >= 0:
        return code
    if output := _field(1):
        discard(Path(output))
    failure = _failure(signal.Signals(-code), _field(0), killed=_memory_kills() > kills)
    with suppress(OSError):
        print(f"survfuse: {failure.line()}", file=sys.stderr, flush=True)
    return failure.exit_code


@contextmanager
def reading(name: str) -> Iterator[None]:
    """While native libraries work on the input ``name``: a crash within is that file's."""
    before = _field(0)
    _tell(0, name)
    try:
        yield
    finally:
        _tell(0, before)


def tell_output(path: Path) -> None:
    """Let the parent know which file a job that crashes must not leave."""
    _tell(1, str(path.absolute()))


def _be_child(job: Callable[[], int], parent: int) -> None:
    """Run ``job`` to this process's end; a parent that is gone takes it along."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal it reaches both; the parent passes it on
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(4)
        code = job()
        # Nothing is left to do but what libraries asked to have done at the end, such as removing a temporary folder.
        # Taking torch apart module by module, and unmapping its libraries one by one, would take half a second more.
        atexit._run_exitfuncs()
    except SystemExit as end:  # argparse's
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _failure(number: signal.Signals, name: str, killed: bool) -> SurvfuseError:
    """What a job that died of a signal while it read ``name``, or nothing, has failed of."""
    if killed:
        return EnvironmentFailure("memory ran out: the system killed the job at its memory limit")
    if number == signal.SIGKILL:
        return EnvironmentFailure("the job was killed (SIGKILL); where nobody did that, memory ran out")
    crashes = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)
    if name and number in crashes:
        return InputError(f"{name}: a library that reads it crashed ({number.name}); the file is taken to be damaged")
    return EnvironmentFailure(f"the job was ended by {number.name}")


def _memory_kills() -> int:
    for path in _KILLS:
        with suppress(OSError, ValueError):
            for line in path.read_text(encoding="ascii").splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0


def _tell(field: int, text: str) -> None:
    if _told is not None:
        data = text.encode("utf-8", errors="surrogateescape")[: _FIELD - 1]
        _told[field * _FIELD : (field + 1) * _FIELD] = data.ljust(_FIELD, b"\0")


def _field(field: int) -> str:
    if _told is None:
        return ""
    return _told[field * _FIELD : (field + 1) * _FIELD].rstrip(b"\0").decode("utf-8", errors="surrogateescape")
