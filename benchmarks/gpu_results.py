"""What `gpu.py` finds: comparisons with their limits, figures, and what was skipped; as one JSON and one Markdown file.

An *item* yields such results one after another. An item that fails does not stop those after it, and what it had
yielded before it failed stays.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO

from survfuse.runtime.files import write_json, write_text

Cell = str | float | None


@dataclass(frozen=True)
class Compared:
    """A figure that may be at most its limit; NaN is beyond every limit."""

    kind: str  # of comparison, for example "families, float32"; a table has one row for all of a kind
    what: str
    found: float
    limit: float
    of: str  # what the figure is, for example "largest difference of a risk"

    @property
    def passed(self) -> bool:
        """Whether the figure is within its limit."""
        return self.found <= self.limit


@dataclass(frozen=True)
class Row:
    """One row of a table of figures; None stands for a figure that there is none of."""

    table: str
    cells: Mapping[str, Cell]  # by column


@dataclass(frozen=True)
class Skipped:
    """What was not checked or measured, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class Failed:
    """What ended with an error before its figures were there."""

    what: str
    why: str


Result = Compared | Row | Skipped | Failed


class Clock:
    """How much of a time is left; ``now`` gives seconds."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._end = now() + seconds

    @property
    def left(self) -> float:
        """Seconds left; negative once the time is over."""
        return self._end - self._now()


@dataclass(frozen=True)
class Item:
    """Something to check or measure within ``seconds``, which it may exceed by what it has begun."""

    name: str
    seconds: float
    results: Callable[[Clock], Iterator[Result]]


def results_of(items: Iterable[Item], clock: Clock, log: TextIO | None = None) -> list[Result]:
    """All results of ``items``, each item within its own time and what is left of ``clock``; one line of each to
    ``log``."""
    found: list[Result] = []
    for item in items:
        for result in _results(item, clock):
            found.append(result)
            if log is not None:
                print(line(result), file=log, flush=True)
    return found


def _results(item: Item, clock: Clock) -> Iterator[Result]:
    if clock.left <= 0.0:
        yield Skipped(item.name, "no time was left")
        return
    yield from attempted(item.name, item.results(Clock(min(item.seconds, clock.left))))


def attempted(what: str, results: Iterator[Result]) -> Iterator[Result]:
    """``results``, and after them what stopped them: a package that is not installed, or an error."""
    try:
        yield from results
    except (Exception, SystemExit) as error:  # whatever one meets, those after it are to be run
        missing = missing_package(error)
        if missing is None:
            yield Failed(what, _one_line(error))
        else:
            yield Skipped(what, f"needs {missing}, which is not installed")


def missing_package(error: BaseException) -> str | None:
    """The package that is not installed, if that is what ``error`` says; a module of our own that is missing is not.

    >>> missing_package(ModuleNotFoundError("No module named 'timm.layers'", name="timm.layers"))
    'timm'
    """
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return None
    name = error.name.partition(".")[0]
    return None if name == "survfuse" or Path(__file__).with_name(f"{name}.py").exists() else name


def line(result: Result) -> str:
    """One line about ``result``.

    >>> line(Compared("encoders, float32", "uni", 2e-6, 1e-5, "features, relative"))
    'passed   encoders, float32: uni: features, relative 2.0e-06, at most 1e-05'
    """
    if isinstance(result, Compared):
        word = "passed" if result.passed else "FAILED"
        return f"{word}   {result.kind}: {result.what}: {result.of} {result.found:.1e}, at most {result.limit:.0e}"
    if isinstance(result, Row):
        return f"measured {result.table}: " + ", ".join(f"{name} {cell(value)}" for name, value in result.cells.items())
    word = "skipped " if isinstance(result, Skipped) else "FAILED  "
    return f"{word} {result.what}: {result.why}"


def failures(results: Iterable[Result]) -> list[Compared | Failed]:
    """The comparisons beyond their limits, and what ended with an error."""
    return [
        result
        for result in results
        if isinstance(result, Failed) or (isinstance(result, Compared) and not result.passed)
    ]


@dataclass(frozen=True)
class Report:
    """All results of one run on one machine."""

    machine: Mapping[str, Cell]
    results: Sequence[Result]
    seconds: float
    missing: Sequence[str] = field(default_factory=tuple)  # packages that are not installed

    def write(self, folder: Path) -> list[Path]:
        """Write gpu-check.json and gpu-check.md to ``folder``, each whole or not at all; returns their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / "gpu-check.json", folder / "gpu-check.md"]
        write_json(paths[0], self.to_json())
        write_text(paths[1], self.to_markdown())
        return paths

    def to_json(self) -> dict[str, object]:
        """Everything, by kind; a comparison says whether it passed."""
        by_kind: dict[str, list[dict[str, object]]] = {"checks": [], "figures": [], "skipped": [], "failed": []}
        for result in self.results:
            if isinstance(result, Compared):
                checked = asdict(result) | {"found": _finite(result.found), "passed": result.passed}
                by_kind["checks"].append(checked)
            elif isinstance(result, Row):
                cells = {column: _finite(value) for column, value in result.cells.items()}
                by_kind["figures"].append({"table": result.table, "cells": cells})
            else:
                by_kind["skipped" if isinstance(result, Skipped) else "failed"].append(asdict(result))
        return {"machine": dict(self.machine), "missing": list(self.missing), "seconds": self.seconds, **by_kind}

    def to_markdown(self) -> str:
        """The tables for benchmarks/README.md."""
        machine = ", ".join(f"{name} {cell(value)}" for name, value in self.machine.items() if value is not None)
        parts = [f"`make gpu-check`, {self.seconds:.0f} s: {machine}."]
        if rows := _worst(self.results):
            parts.append(table(("checks", "what", "number", "worst", "of", "limit", "passed"), rows))
        for name, of_table in _by_table(self.results).items():
            head = list(dict.fromkeys(column for row in of_table for column in row.cells))
            cells = [[cell(row.cells.get(column)) for column in head] for row in of_table]
            parts.append(f"{name}:\n\n{table(head, cells)}")
        left = [f"- {r.what}: {r.why}" for r in self.results if isinstance(r, Skipped | Failed)]
        if self.missing:
            left.append(f"- packages that are not installed: {', '.join(self.missing)}")
        if left:
            parts.append("Skipped or failed:\n\n" + "\n".join(left))
        return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table.

    >>> print(table(("a", "b"), [("1", "2")]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def cell(value: Cell) -> str:
    """``value`` as a table shows it.

    >>> cell(12345.6), cell(0.0123), cell(None), cell("uni")
    ('12,346', '0.0123', '', 'uni')
    """
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:,.0f}" if abs(value) >= 100.0 else f"{value:.3g}"


def _worst(results: Iterable[Result]) -> list[tuple[str, ...]]:
    """A row for each kind of comparison and what it compares, with the one that comes closest to its limit."""
    groups: dict[tuple[str, str], list[Compared]] = {}
    for result in results:
        if isinstance(result, Compared):
            groups.setdefault((result.kind, result.of), []).append(result)
    rows: list[tuple[str, ...]] = []
    for (kind, of), group in groups.items():
        worst = max(group, key=lambda each: (not each.passed, each.found))
        failed = sum(not each.passed for each in group)
        verdict = f"**{failed} failed**" if failed else "yes"
        rows.append((kind, of, str(len(group)), f"{worst.found:.1e}", worst.what, f"{worst.limit:.0e}", verdict))
    return rows


def _by_table(results: Iterable[Result]) -> dict[str, list[Row]]:
    tables: dict[str, list[Row]] = {}
    for result in results:
        if isinstance(result, Row):
            tables.setdefault(result.table, []).append(result)
    return tables


def _finite(value: Cell) -> Cell:
    """``value``, None for NaN and infinity, which JSON does not have."""
    return value if not isinstance(value, float) or abs(value) < float("inf") else None


def _one_line(error: BaseException) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:300]}" if words else type(error).__name__
