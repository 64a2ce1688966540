"""Time and peak memory of a command and the processes that it starts."""

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

_EVERY = 0.1  # seconds between looks


class Peak(NamedTuple):
    """What a command took."""

    code: int | None  # it ended with; None if it was stopped at a limit
    seconds: float
    resident: float  # GiB, at most at one time, mapped files included
    anonymous: float  # GiB of that which belongs to no file


def peak_of(
    command: Sequence[str],
    limit: float = float("inf"),
    watch: Callable[[], object] = lambda: None,
    output: int | None = None,
) -> Peak:
    """Run ``command`` and watch it; it is stopped after ``limit`` seconds.

    ``watch`` is called again and again meanwhile; ``output`` is where the command writes, as subprocess takes it.
    """
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=output)
    resident, anonymous, code = 0, 0, None
    try:
        while (code := process.poll()) is None and time.monotonic() - started < limit:
            found = [memory(each) for each in _family(process.pid)]
            resident = max(resident, sum(each.get("VmRSS", 0) for each in found))
            anonymous = max(anonymous, sum(each.get("RssAnon", 0) for each in found))
            watch()
            time.sleep(_EVERY)
    finally:
        process.kill()
        process.wait()
    return Peak(code, time.monotonic() - started, resident / 2**20, anonymous / 2**20)


def memory(process: int | str) -> dict[str, int]:
    """Kilobytes now resident, and anonymous, of a process; nothing once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return {}
    return {
        key: int(value.split()[0])
        for key, _, value in (line.partition(":") for line in lines)
        if key in ("VmRSS", "RssAnon")
    }


def _family(process: int) -> Iterator[int]:
    """A process and those that it started."""
    yield process
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from _family(int(child))
