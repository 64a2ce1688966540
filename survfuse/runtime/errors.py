"""The errors a user meets, each with the exit code of the process that ends in it.

0 is success and 1 is anything unforeseen, which is shown with its traceback.
"""

import errno
import os

_LONGEST_LINE = 60_000  # bytes; the platform drops a line over 64 KiB
# What a disk, a limit of the system or a lack of memory answers, whatever the file holds.
_MACHINES = (
    errno.EIO,
    errno.ENOMEM,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ESTALE,
    errno.ENODEV,
)


class SurvfuseError(Exception):
    """A foreseen failure; its message is one line that says what was expected and what was found."""

    exit_code = 1

    def line(self) -> str:
        return f"{type(self).__name__}: {one_line(str(self))}"


def one_line(text: str) -> str:
    """``text`` as a log can show it: on one line, without control characters, and not longer than it keeps."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.split()))
    data = shown.encode()
    return shown if len(data) <= _LONGEST_LINE else f"{data[:_LONGEST_LINE].decode(errors='ignore')} …"


def brief(value: object, most: int = 100) -> str:
    """What a message shows of a value from outside: its spelling, cut."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]} …"


class InputError(SurvfuseError):
    """A case, cohort or command-line value that cannot be used."""

    exit_code = 2


class NoTissueError(InputError):
    """A slide on which no tile is tissue: nothing of it can be looked at."""


class BundleError(SurvfuseError):
    """A bundle that is absent, damaged, unknown or does not fit the task asked of it."""

    exit_code = 3


class EnvironmentFailure(SurvfuseError):
    """The machine failed the job: disk, memory, device, or a signal that ended it."""

    exit_code = 4


def is_machine_failure(error: BaseException) -> bool:
    """Whether an error that a library raises as it reads a file tells of the machine, not of the file.

    Libraries pass the system's errors on as OSError, or in their own words with the system's among them.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _MACHINES
    if isinstance(error, OSError) or as_survfuse_error(error) is None:
        return any(os.strerror(number) in str(error) for number in _MACHINES)
    return True


def as_survfuse_error(error: BaseException) -> SurvfuseError | None:
    """The named error for ``error``, or None where it is unforeseen.

    Memory that runs out arrives under several types: Python's MemoryError, torch's
    OutOfMemoryError on a device, and a RuntimeError of torch's allocator on the CPU.
    """
    if isinstance(error, SurvfuseError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return EnvironmentFailure("interrupted from the keyboard")
    kind, text = type(error).__name__, str(error)
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError":
        return EnvironmentFailure(f"memory ran out: {text or 'allocation refused'}")
    if isinstance(error, ImportError) and ("failed to map segment" in text or "allocate memory" in text):
        # numpy wraps what happened in advice for its installation
        said = text.rpartition("Original error was: ")[2].partition("\n")[0]
        return EnvironmentFailure(f"memory ran out: {said}")
    if isinstance(error, RuntimeError) and "DefaultCPUAllocator" in text:
        return EnvironmentFailure(f"memory ran out: {error}")
    if isinstance(error, RuntimeError) and (text == "can't start new thread" or kind == "BrokenThreadPool"):
        return EnvironmentFailure(f"no thread could be started: {text}")
    if kind == "AcceleratorError" or text.startswith(("CUDA error", "CUDA out of memory", "cuDNN error")):
        return EnvironmentFailure(f"the GPU failed: {text[:200]}")
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return EnvironmentFailure(f"disk is full: {error.filename or 'no space left'}")
        if error.errno == errno.ENOMEM:
            return EnvironmentFailure(f"memory ran out: {error.filename or error.strerror}")
        return EnvironmentFailure(f"{error.strerror or error}: {error.filename or 'no file named'}")
    return None
