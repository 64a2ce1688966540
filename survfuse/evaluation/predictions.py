"""Predictions in CSV tables, as ``predict`` writes them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from survfuse.cohort.problems import Problems
from survfuse.cohort.tables import Table, read_table
from survfuse.runtime.arrays import Floats
from survfuse.runtime.errors import InputError, unexpected
from survfuse.runtime.files import finite_number
from survfuse.runtime.spreadsheet import content

_NAMES = ("case_id", "risk", "months")
_OPTIONAL = ("group", "training_patient")
_GROUPS: Mapping[str, bool | None] = {"high": True, "low": False, "": None}
_ANSWERS: Mapping[str, bool | None] = {"yes": True, "no": False, "": None}


class Predicted(NamedTuple):
    """What a table predicts for one case."""

    risk: float
    months: float
    high: bool | None = None  # whether the risk lies above the training cohort's cut; None: not stated
    training_patient: bool | None = None  # whether the bundle was trained on this patient; None: not known


@dataclass
class PredictionsTable:
    """What a table of predictions states."""

    name: str  # of the file
    cases: dict[str, Predicted | None] = field(default_factory=dict)  # by case_id; None: there, but not usable
    readable: bool = True


@dataclass
class SurvivalTable:
    """What a table of survival curves states."""

    name: str  # of the file
    months: list[float] = field(default_factory=list)  # T, increasing
    cases: dict[str, Floats | None] = field(default_factory=dict)  # [T] by case_id; None: there, but not usable
    readable: bool = True


def read_predictions(path: Path, problems: Problems) -> PredictionsTable:
    """The columns case_id, risk and months of a CSV file, and group (high, low) and training_patient (yes, no) if they
    are there; other columns are ignored. An apostrophe that ``predict`` put before a case_id is not part of it.

    Whatever is wrong goes to ``problems``: a missing column, a case_id that is empty or repeated, a risk or months
    that is not a finite number, months below 0, another word for a group or for whether a patient was trained on.
    """
    predictions = PredictionsTable(path.name)
    try:
        table = read_table(path, problems)
        places = table.columns({name: (name,) for name in (*_NAMES, *_OPTIONAL)}, optional=_OPTIONAL)
        if not table.rows:
            raise InputError("expected a row for each case, found none")
    except InputError as error:
        problems.add(str(error), file=path.name)
        predictions.readable = False
        return predictions
    for case, line, cells in _cases(table, places["case_id"], predictions.cases, problems):
        predictions.cases[case] = None
        with problems.collect(case, path.name, line):
            predictions.cases[case] = _predicted({name: cells[place] for name, place in places.items()})
    return predictions


def read_survival(path: Path, problems: Problems) -> SurvivalTable:
    """The column case_id of a CSV file and all columns named by a number of months; other columns are ignored.

    Whatever is wrong goes to ``problems``: no such column, one that occurs twice, a case_id that is empty or repeated,
    a cell that is not a probability, and probabilities that rise with time.
    """
    survival = SurvivalTable(path.name)
    try:
        table = read_table(path, problems)
        place = table.columns({"case_id": ("case_id",)})["case_id"]
        months = sorted((value, at) for at, name in enumerate(table.heading) if (value := _month(name)) is not None)
        survival.months = [value for value, _ in months]
        if not months or len(set(survival.months)) < len(months):
            raise InputError("expected a column for each of several months, such as 12, 24, 36")
    except InputError as error:
        problems.add(str(error), file=path.name)
        survival.readable = False
        return survival
    for case, line, cells in _cases(table, place, survival.cases, problems):
        survival.cases[case] = None
        with problems.collect(case, path.name, line):
            survival.cases[case] = _probabilities([cells[at] for _, at in months])
    return survival


def _cases(
    table: Table, place: int, known: Mapping[str, object], problems: Problems
) -> "list[tuple[str, int, tuple[str, ...]]]":
    """(case_id, line, cells) of each row of ``table`` that is the first of its case; others are problems."""
    seen: set[str] = set(known)
    rows = []
    for row in table.rows:
        case = content(row.cells[place]).strip()  # as the other table's cells, without blanks
        if not case:
            problems.add("no case_id", file=table.name, line=row.line)
        elif case in seen:
            problems.add("a second row for this case", case, table.name, row.line)
        else:
            seen.add(case)
            rows.append((case, row.line, row.cells))
    return rows


def _predicted(cells: Mapping[str, str]) -> Predicted:
    """What one row states; raises InputError that lists what is wrong with its cells."""
    risk, months = finite_number(cells["risk"]), finite_number(cells["months"])
    wrong = []
    if risk is None:
        wrong.append("risk: expected a finite number")
    if months is None or months < 0:
        wrong.append("months: expected a finite number of at least 0")
    group, answer = cells.get("group", "").lower(), cells.get("training_patient", "").lower()
    if group not in _GROUPS:
        wrong.append(str(unexpected("group: expected high, low or nothing", group)))
    if answer not in _ANSWERS:
        wrong.append(str(unexpected("training_patient: expected yes, no or nothing", answer)))
    if wrong or risk is None or months is None:
        raise InputError("; ".join(wrong))
    return Predicted(risk, months, _GROUPS[group], _ANSWERS[answer])


def _month(name: str) -> float | None:
    """The months that name a column; None for a column with another name."""
    value = finite_number(name)
    return value if value is not None and value >= 0 else None


def _probabilities(cells: "list[str]") -> Floats:
    """Survival [T] in the cells of a row; raises InputError unless it is made of probabilities that never rise."""
    values = np.array([np.nan if (value := finite_number(cell)) is None else value for cell in cells])
    if not ((values >= 0.0) & (values <= 1.0)).all():
        raise InputError("expected probabilities from 0 to 1")
    if (np.diff(values) > 0.0).any():
        raise InputError("expected probabilities that do not rise with the months")
    return values
