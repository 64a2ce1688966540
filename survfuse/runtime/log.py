"""What a run says: stages on stdout, warnings on stderr, progress where someone watches.

The platform keeps stdout as the log and shows every line of stderr to the organiser as a warning, so nothing
but warnings and errors may go there.
"""

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar

from survfuse.runtime.clock import elapsed
from survfuse.runtime.errors import one_line

T = TypeVar("T")
_LINE_EVERY = 10.0  # seconds between progress lines where no terminal watches


def stage(name: str, message: str) -> None:
    """Print one stage of the run with the seconds since the process started."""
    print(f"[{elapsed():7.2f} s] {name:<12} {one_line(message)}", flush=True)


def warn(message: str) -> None:
    """Print a warning: something the run goes on with, but a reader should know."""
    print(f"survfuse: warning: {one_line(message)}", file=sys.stderr, flush=True)


def progress(items: Iterable[T], total: int, name: str, amount: Callable[[T], int] = lambda _: 1) -> Iterator[T]:
    """Pass ``items`` through, showing a bar on a terminal and a plain line every ten seconds elsewhere.

    An item counts ``amount`` towards ``total``, once what is done with it is done.
    """
    done, last = 0, time.monotonic()
    with _bar(total, name) as bar:
        for item in items:
            yield item
            done += amount(item)
            if bar is not None:
                bar.update(amount(item))
            elif time.monotonic() - last >= _LINE_EVERY and done < total:
                last = time.monotonic()
                stage(name, f"{done:,} of {total:,}")


def _bar(total: int, name: str) -> "AbstractContextManager[tqdm | None]":  # noqa: F821  (imported where used)
    if not sys.stderr.isatty():
        return nullcontext()
    from tqdm import tqdm

    return tqdm(total=total, desc=name, leave=False, mininterval=0.1)


def peak_memory() -> str:
    """The most memory that this process has held resident, mapped files among it: 'peak memory 948 MB' (10^6 bytes).

    Unknown where the system does not count it: some sandboxes have no VmHWM.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    return f"peak memory {int(found[1]) * 1024 / 1e6:,.0f} MB" if found else "peak memory unknown"


def count(number: int, noun: str) -> str:
    """``number`` with ``noun`` in the singular or plural: '1 tile', '1,204 tiles'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listing(names: Iterable[str], most: int = 8) -> str:
    """Names joined by commas, cut after ``most`` with the number left out."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
