"""How a process ends: one line on stderr and an exit code.

0 is success; 1 is an unforeseen error, which is shown with its traceback.
"""

import io
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from survfuse.runtime.errors import BundleError, EnvironmentFailure, InputError, SurvfuseError, as_survfuse_error
from survfuse.runtime.watch import is_supervised

EXIT_CODES = {InputError: 2, BundleError: 3, EnvironmentFailure: 4, SurvfuseError: 1}  # the first that fits


def guarded(action: Callable[[], None]) -> int:
    """Run ``action`` and return the process's exit code.

    A foreseen failure is one line on stderr and its own code; any other error is a traceback and 1. SIGTERM ends the
    action as a failure of the machine does.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN if is_supervised() else _terminated)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # the locale may lack the letters of a name or a unit
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        action()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the action is done and the process about to end
    except (Exception, KeyboardInterrupt) as error:
        known = as_survfuse_error(error)
        if known is None:
            traceback.print_exc()
            return 1
        return report(known)
    return 0


def import_failed(error: Exception) -> int:
    """The exit code for a job whose own modules could not be imported, reported on stderr if the machine is at fault.

    Raises ``error`` itself if it is unforeseen.
    """
    known = as_survfuse_error(error)
    if known is None:
        raise error
    return report(known)


def report(failure: SurvfuseError) -> int:
    """Print a failure's line on stderr, if that is open, and return its exit code."""
    with suppress(OSError):
        print(f"survfuse: {failure.line()}", file=sys.stderr, flush=True)
    return next(code for error, code in EXIT_CODES.items() if isinstance(failure, error))


def _terminated(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second signal must not interrupt the shutdown that the first one began
    raise EnvironmentFailure(f"ended by {signal.Signals(number).name}")
