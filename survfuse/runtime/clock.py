"""Seconds since this process started, and the time that a job may take.

The platform kills a job that takes longer than its phase allows, and a killed job loses the submission. Given the
limit, a job stops encoding in time and answers from the tiles it has.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from survfuse.runtime.errors import EnvironmentFailure

VARIABLE = "SURVFUSE_TIME_LIMIT"
# Kept back for what no measurement foresees: seconds, or a share of the limit where that is more.
MARGIN = (1.0, 0.02)


def elapsed() -> float:
    """Seconds since the process started, its interpreter's own start-up among them."""
    return time.monotonic() - _STARTED


@dataclass(frozen=True)
class TimeLimit:
    """What a job may take, in seconds from the process's start."""

    seconds: float
    after: Callable[[int], float]  # seconds that so many encoded tiles take in all that follows

    def allows(self, seconds: float, tiles: int) -> bool:
        """Whether so many more seconds of encoding, which make it so many tiles, leave time for all that follows."""
        at_least, share = MARGIN
        return elapsed() + seconds + self.after(tiles) <= self.seconds - max(at_least, share * self.seconds)


def chosen_limit(option: float | None = None) -> float | None:
    """Seconds that the job may take: the command line's ``option``, else SURVFUSE_TIME_LIMIT, else None for any time.

    Raises EnvironmentFailure for anything but a number above 0.
    """
    text = os.environ.get(VARIABLE, "") if option is None else str(option)
    if not text.strip():
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.0 < seconds < math.inf:
        asked_by = f"{VARIABLE}={text[:80]}" if option is None else f"--time-limit {text}"
        raise EnvironmentFailure(f"{asked_by}: expected seconds above 0")
    return seconds


def _started() -> float:
    """When the process started, on the monotonic clock; now, where the system does not tell.

    /proc/self/stat counts it in ticks since boot (proc_pid_stat(5), field 22, the 20th after the command's name).
    """
    now = time.monotonic()
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return now
    # A sandbox's own kernel may count from elsewhere: this module is among the first that are imported.
    return now - age if 0.0 <= age < 60.0 else now


_STARTED = _started()
