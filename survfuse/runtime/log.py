"""A run's output: stages on stdout, warnings on stderr, progress on a terminal.

The platform keeps stdout as the log and shows every line of stderr to the organiser as a warning, so nothing
but warnings and errors may go there.
"""

import re
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from survfuse.runtime.clock import elapsed
from survfuse.runtime.errors import one_line

if TYPE_CHECKING:
    from typing import Protocol

    class _Bar(Protocol):
        def update(self, n: float = 1) -> object: ...

        def set_postfix_str(self, s: str, refresh: bool) -> object: ...


T = TypeVar("T")
NAMED = 3  # of many names in a message that says what they share
_LONGEST_NAME = 200  # characters of a name in a listing
_LINE_EVERY = 10.0  # seconds between progress lines when no terminal is attached


@dataclass(frozen=True)
class Note:
    """Something that a run notes about a case.

    ``kinds`` are what it is counted under when many cases are scored: the same for every case that it applies to. A
    note without any is left out there.
    """

    text: str
    kinds: tuple[str, ...] = ()


@dataclass
class Record:
    """What was logged for one case: notes with the stage they belong to, and warnings."""

    notes: list[tuple[str, Note]] = field(default_factory=list)
    warnings: list[Note] = field(default_factory=list)


_recording: ContextVar[tuple[Record, bool] | None] = ContextVar("recording", default=None)


@contextmanager
def recorded(show: bool, before: Record | None = None) -> Iterator[Record]:
    """Keep what the block logs in a record, and print it as well if ``show``.

    The record begins with what was logged ``before``, which is not printed again.
    """
    record = Record(list(before.notes), list(before.warnings)) if before is not None else Record()
    token = _recording.set((record, show))
    try:
        yield record
    finally:
        _recording.reset(token)


def stage(name: str, *notes: str | Note) -> None:
    """Log one stage of the run, with the seconds since the process started and the notes joined by semicolons."""
    said = [Note(note) if isinstance(note, str) else note for note in notes]
    recording = _recording.get()
    if recording is not None:
        recording[0].notes.extend((name, note) for note in said)
    if recording is None or recording[1]:
        message = one_line("; ".join(note.text for note in said))
        print(f"[{elapsed():7.2f} s] {name:<12} {message}", flush=True)


def warn(message: str | Note) -> None:
    """Give a warning: the run continues, but a reader should know."""
    note = Note(message, (message,)) if isinstance(message, str) else message
    recording = _recording.get()
    if recording is not None:
        recording[0].warnings.append(note)
    if recording is None or recording[1]:
        print(f"survfuse: warning: {one_line(note.text)}", file=sys.stderr, flush=True)


def progress(
    items: Iterable[T],
    total: int,
    name: str,
    amount: Callable[[T], int] = lambda _: 1,
    note: Callable[[], str] | None = None,
    every: float | None = None,
) -> Iterator[T]:
    """Yield ``items``, showing a bar on a terminal and elsewhere a plain line every ten seconds, or ``every`` so many.

    An item counts ``amount`` towards ``total`` once the caller asks for the next one; a ``total`` of 0 is not known.
    ``note`` is what else to show by then. Nothing is shown in a block whose output is only recorded.
    """
    done, last = 0, time.monotonic()
    with _bar(total, name) as bar:
        for item in items:
            yield item
            done += amount(item)
            if bar is not None:
                if note is not None:
                    bar.set_postfix_str(note(), refresh=False)
                bar.update(amount(item))
            elif time.monotonic() - last >= (every or _LINE_EVERY) and not 0 < total <= done:
                last = time.monotonic()
                reached = f"{done:,} of {total:,}" if total else f"{done:,}"
                stage(name, reached, *([note()] if note is not None else []))


def _bar(total: int, name: str) -> "AbstractContextManager[_Bar | None]":
    recording = _recording.get()
    if not sys.stderr.isatty() or (recording is not None and not recording[1]):
        return nullcontext()
    from tqdm import tqdm

    bar: AbstractContextManager[_Bar] = tqdm(total=total or None, desc=name, leave=False, mininterval=0.1)
    return bar


def peak_memory() -> str:
    """This process's peak resident memory, mapped files included: 'peak memory 948 MB' (10^6 bytes).

    Unknown if the system does not count it: some sandboxes have no VmHWM.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    return f"peak memory {int(found[1]) * 1024 / 1e6:,.0f} MB" if found else "peak memory unknown"


def count(number: int, noun: str) -> str:
    """``number`` with ``noun`` in the singular or plural.

    >>> count(1204, "tile")
    '1,204 tiles'
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listing(names: Iterable[str], most: int = 8) -> str:
    """Names joined by commas, cut after ``most`` with the number left out; one too long to read is cut as well.

    >>> listing("abcd", most=3)
    'a, b, c and 1 more'
    """
    shown = list(names)
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    short = (name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]} …" for name in shown[:most])
    return ", ".join(short) + more


def counted(names: Collection[str], noun: str, of: int | None = None) -> str:
    """How many there are, ``of`` so many if given, and the names of a few.

    >>> counted("ab", "case", of=5), counted("abcd", "patient")
    ('2 of 5 cases (a, b)', '4 patients (a, b, c and 1 more)')
    """
    number = count(len(names), noun) if of is None else f"{len(names):,} of {count(of, noun)}"
    return f"{number} ({listing(names, NAMED)})"
