"""Outcomes of patients: an event and a time in months, from a CSV table or a clinical file.

Training and evaluation both read outcomes here, so that they accept and reject the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from survfuse.cohort.problems import Problems
from survfuse.cohort.tables import read_table
from survfuse.runtime.arrays import Floats
from survfuse.runtime.errors import InputError, unexpected
from survfuse.runtime.files import finite_number
from survfuse.runtime.log import warn
from survfuse.slide.suffixes import FEATURE_SUFFIXES, SLIDE_SUFFIXES
from survfuse.tasks.task import OutcomeKeys

_EVENTS = {"false": False, "true": True}
_LONG = 240.0  # months: a median follow-up of 20 years, as days of eight months would be
_DAYS = "if these are days, divide them by 30.4375"


class Outcome(NamedTuple):
    """What happened to a patient."""

    event: bool
    months: float  # to the event, or to the end of follow-up


@dataclass
class OutcomesTable:
    """What a CSV of outcomes states."""

    name: str = ""  # of the file; empty if there is none
    outcomes: dict[str, Outcome | None] = field(default_factory=dict)  # by case_id; None: stated, but not usable
    slides: dict[str, str] = field(default_factory=dict)  # slide's stem → patient
    readable: bool = True

    def covers(self, patient: str) -> bool:
        """Whether a row states the patient's outcome, or might: if the table could not be read, that was reported."""
        return patient in self.outcomes or not self.readable


def read_outcomes(path: Path, keys: OutcomeKeys, problems: Problems) -> OutcomesTable:
    """The outcomes in a CSV file; whatever is wrong with it goes to ``problems``.

    Columns are ``case_id``, a time in months and an event, the latter two in any spelling of ``keys``, and
    optionally ``slide_id``, the name of one of the patient's slides; others are ignored. A patient may have several
    rows, as one with several slides does, if they state the same outcome.
    """
    outcomes = OutcomesTable(path.name)
    spellings = {"case_id": ("case_id",), "time": keys.time_columns, "event": keys.event_columns}
    spellings |= {"slide_id": ("slide_id",)}
    try:
        table = read_table(path, problems)
        places = table.columns(spellings, optional=("slide_id",))
        if not table.rows:
            raise InputError("expected a row for each patient, found none")
    except InputError as error:
        problems.add(str(error), file=path.name)
        outcomes.readable = False
        return outcomes
    for row in table.rows:
        cells = {column: row.cells[place] for column, place in places.items()}
        _add_row(outcomes, row.line, cells, keys, problems)
    return outcomes


def read_event(value: object, name: str = "event") -> bool:
    """Whether the event happened, by a table's cell or a JSON value.

    Raises InputError that calls the value ``name`` unless it is 0, 1, true or false.

    >>> read_event(1), read_event("0.0"), read_event("True"), read_event(False)
    (True, False, True, False)
    """
    event = value if isinstance(value, bool) else finite_number(value)
    if isinstance(value, str):
        event = _EVENTS.get(value.strip().lower(), event)
    if event not in (0, 1):
        raise unexpected(f"{name}: expected 0 or 1", value)
    return bool(event)


def read_months(value: object, most: float, name: str = "time") -> float:
    """A time in months, by a table's cell or a JSON value.

    Raises InputError that calls the value ``name`` unless it is a number of at least 0 and below ``most``.

    >>> read_months("12.5", most=1200)
    12.5
    """
    months = finite_number(value)
    if months is not None and 0 <= months < most:
        return months
    days = f"; {_DAYS}" if months is not None and months >= most else ""
    raise unexpected(f"{name}: expected months of at least 0 and below {most:,.0f}", value, days)


def warn_of_days(times: Floats) -> None:
    """Warn of a cohort whose ``times`` [n] have a median that hardly any follow-up in months has."""
    if len(times) and (middle := float(np.median(times))) >= _LONG:
        warn(f"median follow-up of {middle:,.0f} months; {_DAYS}")


def _add_row(table: OutcomesTable, line: int, cells: Mapping[str, str], keys: OutcomeKeys, problems: Problems) -> None:
    """Add what one row states; what cannot be used is a problem."""
    patient = cells["case_id"]
    if not patient:
        problems.add("no case_id", file=table.name, line=line)
        return
    event, months = None, None
    with problems.collect(patient, table.name, line):
        event = read_event(cells["event"])
    with problems.collect(patient, table.name, line):
        months = read_months(cells["time"], keys.most_months)
    outcome = Outcome(event, months) if event is not None and months is not None else None
    before = table.outcomes.setdefault(patient, outcome)
    if None not in (before, outcome) and before != outcome:
        problems.add("its outcome differs from an earlier line", patient, table.name, line)
    slide = cells.get("slide_id", "")
    stem = slide.rsplit(".", 1)[0] if slide.lower().endswith((*FEATURE_SUFFIXES, *SLIDE_SUFFIXES)) else slide
    if stem and table.slides.setdefault(stem, patient) != patient:
        problems.add(f"the slide {stem} is listed for {table.slides[stem]} as well", patient, table.name, line)
