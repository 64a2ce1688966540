"""The errors that a user sees. ``exits`` has the exit code of each."""

import errno
import os
import re

from survfuse.runtime.extras import EXTRAS, extra_with, missing_packages

_LONGEST_LINE = 60_000  # bytes; the platform drops a line over 64 KiB
# Caused by a disk, a system limit or a lack of memory, not by a file's content.
_MACHINE_ERRNOS = (
    errno.EIO,
    errno.ENOMEM,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ESTALE,
    errno.ENODEV,
)


# How libraries say that memory ran out, beside their own types of error: torch's allocators, CUDA's runtime, cuDNN and
# cuBLAS (pytorch #112377, #122068, #108645).
_OUT_OF_MEMORY = re.compile(
    "|".join(
        (
            r"CUDA out of memory",
            r"CUDA (driver )?error: out of memory",
            r"\bcudaErrorMemoryAllocation\b",
            r"\bstd::bad_alloc\b",
            r"DefaultCPUAllocator: (can't|not enough)",
            r"NVML_SUCCESS\b.*INTERNAL ASSERT FAILED",  # the allocator, which asks NVML why it failed
            r"unable to find an engine",  # cuDNN: each engine that fits the operation needs more workspace than is left
            r"\bCU(DNN|BLAS|SOLVER|SPARSE|FFT)_(STATUS_)?ALLOC_FAILED\b",
            r"\bCUDNN_STATUS_INTERNAL_ERROR_(HOST|DEVICE)_ALLOCATION_FAILED\b",
        )
    ),
    re.IGNORECASE | re.DOTALL,
)


class SurvfuseError(Exception):
    """A foreseen failure; its message is one line that says what was expected and what was found."""

    def line(self) -> str:
        """The class and message on one line, as a command or job prints them when it fails.

        >>> InputError("rna.json: no such file").line()
        'InputError: rna.json: no such file'
        """
        return f"{type(self).__name__}: {one_line(str(self))}"


class InputError(SurvfuseError):
    """A case, a cohort or a value on the command line that cannot be used.

    ``shared`` says what is wrong without the value that was ``found``, for many patients of whom it is true.
    """

    def __init__(self, message: str = "", shared: str = "", found: str = "") -> None:
        super().__init__(message)
        self.shared, self.found = shared, found


class NoTissueError(InputError):
    """A slide on which no tile is tissue."""


class BundleError(SurvfuseError):
    """A bundle that is absent, damaged, unknown or unfit for what is asked of it."""


class EnvironmentFailure(SurvfuseError):
    """A failure of the machine: disk, memory or device; or a signal that ended the process."""


def check_extra(extra: str, purpose: str) -> None:
    """Raise EnvironmentFailure unless every package of ``extra`` is installed; ``purpose`` is what needs them."""
    if names := missing_packages(extra):
        raise EnvironmentFailure(f"{purpose} needs {', '.join(names)}: {_install(extra)}")


def _install(extra: str) -> str:
    return f"pip install '.[{extra}]' in the checkout of survfuse"


def is_machine_failure(error: BaseException) -> bool:
    """Whether an error that a library raised while reading a file is the machine's fault, not the file's.

    Libraries pass system errors on as OSError, or as their own errors that quote the system's message.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _MACHINE_ERRNOS
    if isinstance(error, OSError) or as_survfuse_error(error) is None:
        return any(os.strerror(number) in str(error) for number in _MACHINE_ERRNOS)
    return True


def memory_ran_out(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out, on the CPU or on a device, by its type or its text.

    >>> memory_ran_out(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")), memory_ran_out(MemoryError())
    (True, True)
    >>> memory_ran_out(RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"))
    False
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


def as_survfuse_error(error: BaseException) -> SurvfuseError | None:
    """``error`` as a SurvfuseError; None for an unforeseen error.

    A lack of memory has several types and texts, see ``memory_ran_out``.
    """
    if isinstance(error, SurvfuseError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return EnvironmentFailure("interrupted from the keyboard")
    kind, text = type(error).__name__, str(error)
    if memory_ran_out(error):
        return EnvironmentFailure(f"memory ran out: {text[:300] or 'allocation refused'}")
    if isinstance(error, ImportError) and ("failed to map segment" in text or "allocate memory" in text):
        # numpy wraps the cause in advice about its installation
        said = text.rpartition("Original error was: ")[2].partition("\n")[0]
        return EnvironmentFailure(f"memory ran out: {said}")
    if isinstance(error, ModuleNotFoundError) and (extra := extra_with(error.name)):
        package = EXTRAS[extra][str(error.name).partition(".")[0]]
        return EnvironmentFailure(f"{package} is not installed: {_install(extra)}")
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


def one_line(text: str) -> str:
    r"""``text`` for a log: on one line, control characters escaped, and cut to what the platform keeps.

    >>> one_line("a table\n  of two rows\x1b")
    'a table of two rows\\x1b'
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.split()))
    data = shown.encode()
    return shown if len(data) <= _LONGEST_LINE else f"{data[:_LONGEST_LINE].decode(errors='ignore')} …"


def unexpected(expected: str, value: object, advice: str = "") -> InputError:
    """The error for a ``value`` that is not what was ``expected``, which it shows, cut short.

    >>> str(unexpected("event: expected 0 or 1", "yes"))
    "event: expected 0 or 1, found 'yes'"
    """
    found = brief(value, 40)
    return InputError(f"{expected}, found {found}{advice}", f"{expected}{advice}", found)


def brief(value: object, most: int = 100) -> str:
    """``repr(value)``, cut after ``most`` characters: how messages show a value from outside.

    >>> brief("T1HG"), brief("T" * 9, most=4)
    ("'T1HG'", "'TTT …")
    """
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]} …"
