"""Outcomes of patients: an event and a time, from a table or a clinical file.

Training and evaluation both read outcomes here, so that they accept and reject the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from survfuse.cohort.events import read_event
from survfuse.cohort.patient_column import patient_column
from survfuse.cohort.problems import Problems
from survfuse.cohort.tables import Table, read_table
from survfuse.cohort.time_unit import MONTHS, check_named_unit, read_months
from survfuse.runtime.errors import InputError
from survfuse.runtime.spreadsheet import content
from survfuse.runtime.suggestions import unknown
from survfuse.slide.suffixes import FEATURE_SUFFIXES, SLIDE_SUFFIXES
from survfuse.tasks.task import OutcomeKeys


class Outcome(NamedTuple):
    """What happened to a patient."""

    event: bool
    months: float  # to the event, or to the end of follow-up


@dataclass
class OutcomesTable:
    """What a table of outcomes states."""

    name: str = ""  # of the file; empty if there is none
    outcomes: dict[str, Outcome | None] = field(default_factory=dict)  # by case_id; None: stated, but not usable
    slides: dict[str, str] = field(default_factory=dict)  # slide's stem → patient
    readable: bool = True

    def covers(self, patient: str) -> bool:
        """Whether a row states the patient's outcome, or might: if the table could not be read, that was reported."""
        return patient in self.outcomes or not self.readable


@dataclass(frozen=True)
class OutcomeColumns:
    """Which columns of a table state the outcome, and the unit of its times; None for what the task's spellings say."""

    time: str | None = None
    event: str | None = None
    unit: str | None = None  # one of time_unit.UNITS; None: months

    @property
    def named(self) -> tuple[str, ...]:
        """The columns that were named."""
        return tuple(name for name in (self.time, self.event) if name is not None)


TASKS_OWN = OutcomeColumns()


def read_outcomes(
    path: Path, keys: OutcomeKeys, problems: Problems, columns: OutcomeColumns = TASKS_OWN
) -> OutcomesTable:
    """The outcomes in a table; whatever is wrong with it goes to ``problems``.

    Columns are the patient's (``patient_column``), a time and an event, the latter two as ``columns`` names them or
    else in any spelling of ``keys``, and optionally ``slide_id``, the name of one of the patient's slides; others are
    ignored. A patient may have several rows, as one with several slides does, if they state the same outcome.
    """
    outcomes = OutcomesTable(path.name)
    try:
        table = read_table(path, problems)
        places = {"case_id": patient_column(table), **outcome_places(table, keys, columns)}
        check_named_unit(table.heading[places["time"]], columns.unit)
        places |= table.columns({"slide_id": ("slide_id",)}, optional=("slide_id",))
        if not table.rows:
            raise InputError("expected a row for each patient, found none")
    except InputError as error:
        problems.add(str(error), file=path.name)
        outcomes.readable = False
        return outcomes
    for row in table.rows:
        cells = {column: row.cells[place] for column, place in places.items()}
        _add_row(outcomes, row.line, cells, keys, problems, columns.unit)
    return outcomes


def outcome_places(table: Table, keys: OutcomeKeys, columns: OutcomeColumns) -> dict[str, int]:
    """Where a table states ``time`` and ``event``; raises InputError for columns that are missing or repeated."""
    places = {}
    for what, name in (("time", columns.time), ("event", columns.event)):
        if name is not None:
            if table.heading.count(name) != 1:
                raise InputError(unknown("column", name, table.heading))
            places[what] = table.heading.index(name)
    spellings = {"time": keys.time_columns, "event": keys.event_columns}
    return places | table.columns({what: names for what, names in spellings.items() if what not in places})


def _add_row(
    table: OutcomesTable,
    line: int,
    cells: Mapping[str, str],
    keys: OutcomeKeys,
    problems: Problems,
    unit: str | None,
) -> None:
    """Add what one row states; what cannot be used is a problem."""
    patient = content(cells["case_id"]).strip()  # as predictions spell it
    if not patient:
        problems.add("no case_id", file=table.name, line=line)
        return
    event, months = None, None
    with problems.collect(patient, table.name, line):
        event = read_event(cells["event"])
    with problems.collect(patient, table.name, line):
        months = read_months(cells["time"], keys.most_months, unit=unit or MONTHS)
    outcome = Outcome(event, months) if event is not None and months is not None else None
    before = table.outcomes.setdefault(patient, outcome)
    if None not in (before, outcome) and before != outcome:
        problems.add("its outcome differs from an earlier line", patient, table.name, line)
    slide = cells.get("slide_id", "")
    stem = slide.rsplit(".", 1)[0] if slide.lower().endswith((*FEATURE_SUFFIXES, *SLIDE_SUFFIXES)) else slide
    if stem and table.slides.setdefault(stem, patient) != patient:
        problems.add(f"the slide {stem} is listed for {table.slides[stem]} as well", patient, table.name, line)
