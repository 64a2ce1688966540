"""Predictions in a CSV table, as ``predict`` writes it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from survfuse.cohort.problems import Problems
from survfuse.cohort.tables import read_table
from survfuse.runtime.errors import InputError
from survfuse.runtime.files import finite_number
from survfuse.runtime.spreadsheet import content


class Predicted(NamedTuple):
    """What a table predicts for one case."""

    risk: float
    months: float


@dataclass
class PredictionsTable:
    """What a table of predictions states."""

    name: str  # of the file
    cases: dict[str, Predicted | None] = field(default_factory=dict)  # by case_id; None: there, but not usable
    readable: bool = True


def read_predictions(path: Path, problems: Problems) -> PredictionsTable:
    """The columns case_id, risk and months of a CSV file; other columns are ignored. An apostrophe
    that ``predict`` put before a case_id is not part of it.

    Whatever is wrong goes to ``problems``: a missing column, a case_id that is empty or repeated, a risk or months
    that is not a finite number, months below 0.
    """
    predictions = PredictionsTable(path.name)
    try:
        table = read_table(path, problems)
        places = table.columns({name: (name,) for name in ("case_id", "risk", "months")})
        if not table.rows:
            raise InputError("expected a row for each case, found none")
    except InputError as error:
        problems.add(str(error), file=path.name)
        predictions.readable = False
        return predictions
    for row in table.rows:
        case, risk, months = (row.cells[places[name]] for name in ("case_id", "risk", "months"))
        case = content(case).strip()  # as the other table's cells, without blanks
        if not case:
            problems.add("no case_id", file=path.name, line=row.line)
        elif case in predictions.cases:
            problems.add("a second row for this case", case, path.name, row.line)
        else:
            predictions.cases[case] = None
            with problems.collect(case, path.name, row.line):
                predictions.cases[case] = _predicted(risk, months)
    return predictions


def _predicted(risk: str, months: str) -> Predicted:
    """The numbers in two cells; raises InputError that lists what is wrong with either."""
    risk_value, months_value = finite_number(risk), finite_number(months)
    if risk_value is not None and months_value is not None and months_value >= 0:
        return Predicted(risk_value, months_value)
    wrong = ["risk: expected a finite number"] if risk_value is None else []
    if months_value is None or months_value < 0:
        wrong.append("months: expected a finite number of at least 0")
    raise InputError("; ".join(wrong))
