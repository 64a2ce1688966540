"""Seconds since this process started, and the time limit of a job.

The platform kills a job that exceeds its phase's limit, and a killed job loses the submission. Given the limit, a job
stops encoding tiles in time and predicts from those that it has.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from survfuse.runtime.errors import EnvironmentFailure

LIMIT_VARIABLE = "SURVFUSE_TIME_LIMIT"
# Reserve for what cannot be measured beforehand: seconds, or a share of the limit if that is more.
MARGIN = (1.0, 0.02)


def elapsed() -> float:
    """Seconds since the process started, including the start-up of its interpreter."""
    return time.monotonic() - _STARTED


@dataclass(frozen=True)
class TimeLimit:
    """The time limit of a job, in seconds since the process started."""

    seconds: float
    after: Callable[[int], float]  # number of encoded tiles → seconds that the steps after encoding take

    def allows(self, seconds: float, tiles: int) -> bool:
        """Whether encoding for ``seconds`` more, to ``tiles`` in total, leaves time for the remaining steps."""
        at_least, share = MARGIN
        return elapsed() + seconds + self.after(tiles) <= self.seconds - max(at_least, share * self.seconds)


def chosen_limit(option: float | None = None) -> float | None:
    """The job's time limit in seconds: the command line's ``option``, else SURVFUSE_TIME_LIMIT, else None (no limit).

    Raises EnvironmentFailure for anything but a number above 0.
    """
    text = os.environ.get(LIMIT_VARIABLE, "") if option is None else str(option)
    if not text.strip():
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.0 < seconds < math.inf:
        asked_by = f"{LIMIT_VARIABLE}={text[:80]}" if option is None else f"--time-limit {text}"
        raise EnvironmentFailure(f"{asked_by}: expected seconds above 0")
    return seconds


def _started() -> float:
    """When the process started, on the monotonic clock; the present time if the system does not say.

    /proc/self/stat gives it in clock ticks since boot (proc_pid_stat(5), field 22: the 20th after the command's name).
    """
    now = time.monotonic()
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return now
    # A sandbox's kernel may count from another origin. This module is imported early, so a large age is wrong.
    return now - age if 0.0 <= age < 60.0 else now


_STARTED = _started()
