"""Outcomes of patients: times in months and events, from a CSV or from their clinical files."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from survfuse.cohort.problems import Problems
from survfuse.runtime.errors import InputError
from survfuse.runtime.files import is_number
from survfuse.runtime.log import listing
from survfuse.slide.settings import FEATURE_SUFFIXES, SLIDE_SUFFIXES

MOST_MONTHS = 1e4  # a time beyond this is a slip or a code

# Spellings of the CSV's columns, in lower case.
_COLUMNS = {
    "case_id": ("case_id",),
    "time": ("time", "time_months", "time_to_prog_or_fuend"),
    "event": ("progression", "event"),
    "slide_id": ("slide_id",),
}
Outcome = tuple[bool, float]  # event, months


@dataclass
class OutcomesTable:
    """What a CSV states."""

    name: str  # empty where there is no CSV
    outcomes: dict[str, Outcome | None] = field(default_factory=dict)  # None: stated, but not usable
    slides: dict[str, str] = field(default_factory=dict)  # slide's stem → patient
    readable: bool = True

    def answers_for(self, patient: str) -> bool:
        """Whether a row states the patient's outcome, or one may that cannot be read and was reported."""
        return patient in self.outcomes or not self.readable


def read_outcomes_table(path: Path, problems: Problems) -> OutcomesTable:
    table = OutcomesTable(path.name)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            header = next(lines, [])
            places = _column_places(path.name, header)
            for cells in lines:
                if any(cell.strip() for cell in cells):
                    _add_row(table, lines.line_num, cells, len(header), places, problems)
    except InputError as error:
        problems.add(None, str(error))
    except (UnicodeDecodeError, csv.Error) as cause:
        problems.add(None, f"{path.name}: cannot be read as CSV ({cause})")
    except OSError as cause:
        problems.add(None, f"{path}: cannot be read ({cause.strerror or cause})")
    else:
        return table
    table.readable = False
    return table


def _column_places(name: str, header: list[str]) -> dict[str, int]:
    """Where each known column stands; raises InputError for one that is missing or is there twice."""
    places = {}
    for column, spellings in _COLUMNS.items():
        found = [place for place, cell in enumerate(header) if cell.strip().lower() in spellings]
        if len(found) > 1 or (not found and column != "slide_id"):
            problem = "is there more than once" if found else f"is missing (found {listing(header) or 'no columns'})"
            raise InputError(f"{name}: the column {' or '.join(spellings)} {problem}")
        if found:
            places[column] = found[0]
    return places


def _add_row(
    table: OutcomesTable, line: int, cells: list[str], width: int, places: Mapping[str, int], problems: Problems
) -> None:
    where = f"{table.name}, line {line}"
    if len(cells) != width:
        problems.add(None, f"{where}: expected {width} cells, found {len(cells)}")
        return
    row = {column: cells[place].strip() for column, place in places.items()}
    name = row["case_id"]
    if not name:
        problems.add(None, f"{where}: no case_id")
        return
    outcome: Outcome | None = None
    with problems.of(name):
        event, time = _as_number(row["event"]), _as_number(row["time"])
        outcome = (read_event(f"{where}: event", event), read_months(f"{where}: time", time))
    before = table.outcomes.setdefault(name, outcome)
    if None not in (before, outcome) and before != outcome:
        problems.add(name, f"{where}: another outcome than in an earlier line")
    slide = row.get("slide_id", "")
    stem = slide.rsplit(".", 1)[0] if slide.lower().endswith((*FEATURE_SUFFIXES, *SLIDE_SUFFIXES)) else slide
    if stem and table.slides.setdefault(stem, name) != name:
        problems.add(name, f"{where}: the slide {stem} is listed for {table.slides[stem]} as well")


def _as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def read_event(where: str, value: Any) -> bool:
    if isinstance(value, bool) or value not in (0, 1):
        raise InputError(f"{where}: expected 0 or 1")
    return bool(value)


def read_months(where: str, value: Any) -> float:
    if not is_number(value) or not 0 <= value < MOST_MONTHS:
        raise InputError(f"{where}: expected months of at least 0 and below {MOST_MONTHS:,.0f}")
    return float(value)
