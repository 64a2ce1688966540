"""What a run says: stages on stdout, warnings on stderr, progress where someone watches.

The platform keeps stdout as the log and shows every line of stderr to the organiser as a warning, so nothing
but warnings and errors may go there.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
_STARTED = time.monotonic()
_LINE_EVERY = 10.0  # seconds between progress lines where no terminal watches


def stage(name: str, message: str) -> None:
    """Print one stage of the run with the seconds since start-up."""
    print(f"[{time.monotonic() - _STARTED:7.2f} s] {name:<12} {' '.join(message.split())}", flush=True)


def warn(message: str) -> None:
    """Print a warning: something the run goes on with, but a reader should know."""
    print(f"survfuse: warning: {' '.join(message.split())}", file=sys.stderr, flush=True)


def progress(items: Iterable[T], total: int, name: str) -> Iterator[T]:
    """Pass ``items`` through, showing a bar on a terminal and a plain line every ten seconds elsewhere."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, total=total, desc=name, leave=False)
        return
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last >= _LINE_EVERY and done < total:
            last = time.monotonic()
            stage(name, f"{done} of {total}")


def count(number: int, noun: str) -> str:
    """``number`` with ``noun`` in the singular or plural: '1 tile', '1,204 tiles'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listing(names: Iterable[str], most: int = 8) -> str:
    """Names joined by commas, cut after ``most`` with the number left out."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
