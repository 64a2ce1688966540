"""How a process ends: one line on stderr and an exit code."""

import io
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from survfuse.runtime.errors import EnvironmentFailure, SurvfuseError, as_survfuse_error
from survfuse.runtime.watch import is_supervised


def guarded(action: Callable[[], None]) -> int:
    """Run ``action``; a foreseen failure becomes one line on stderr and its exit code, anything else a traceback
    and 1. SIGTERM ends it like a failure of the machine."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN if is_supervised() else _terminated)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names and units that the locale's letters lack end no job
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        action()
        # What was asked for is done: an end that is asked for now comes by itself.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except (Exception, KeyboardInterrupt) as error:
        known = as_survfuse_error(error)
        if known is None:
            traceback.print_exc()
            return 1
        return say(known)
    return 0


def _terminated(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one must not end what the first has begun
    raise EnvironmentFailure(f"ended by {signal.Signals(number).name}")


def unable(error: Exception) -> int:
    """The exit code where the job's own code could not be imported, with a line where that is the machine's failing;
    raises ``error`` where it is not."""
    known = as_survfuse_error(error)
    if known is None:
        raise error
    return say(known)


def say(failure: SurvfuseError) -> int:
    """Print a failure's line on stderr, where anybody reads that, and give its exit code."""
    with suppress(OSError):
        print(f"survfuse: {failure.line()}", file=sys.stderr, flush=True)
    return failure.exit_code
