"""Predictions against outcomes: the challenge's figure first, then what says more than it.

predictions   case_id, risk, months and further columns, as ``predict`` writes them
outcomes      case_id, a time in months and an event, under any of the spellings the challenge's files use
"""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from survfuse.runtime.arrays import Floats
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import count, listing
from survfuse.survival.curves import MONTHS
from survfuse.survival.estimates import discrimination, figures, high_risk, log_rank_p, null, number_text
from survfuse.survival.metrics import concordance

TIME_NAMES = ("time", "time_months", "time_to_prog_or_fuend")
EVENT_NAMES = ("progression", "event")
_EVENT_VALUES = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0}

CENSORING = "Uno's C and the AUC weigh by the censoring distribution of these same outcomes"


def read_predictions(path: Path) -> pd.DataFrame:
    """The predictions in a CSV file: ``case_id``, ``risk`` and ``months`` as numbers, further columns as text.

    Raises InputError that lists every problem: a missing column, an empty or repeated case_id, a risk or months
    that is not finite, months below 0.
    """
    table, problems = _predictions(path)
    _refuse(path.name, problems)
    return table


def read_outcomes(path: Path) -> pd.DataFrame:
    """The outcomes in a CSV file: ``case_id``, ``time`` in months, ``event``.

    The time may be called Time, time_months or Time_to_prog_or_FUend and the event Progression or event, in any
    case; other columns are ignored. Raises InputError that lists every problem: a column missing or there under two
    names, an empty or repeated case_id, a time that is not finite or below 0, an event that is not 0 or 1.
    """
    table, problems = _outcomes(path)
    _refuse(path.name, problems)
    return table


def evaluate(predictions: Path, outcomes: Path, draws: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Every figure of ``predictions`` against ``outcomes``, ready for JSON: undefined figures are None.

    A figure is ``value`` with the ``low`` and ``high`` of its 95% percentile bootstrap interval over patients, and
    the number of ``undefined_draws`` that the interval leaves out. Cases are matched by case_id. Raises InputError
    that lists every problem of both files at once, cases that only one of them has among them.
    """
    predicted, problems = _predictions(predictions)
    observed, more = _outcomes(outcomes)
    problems = [f"{predictions.name}: {problem}" for problem in problems]
    problems += [f"{outcomes.name}: {problem}" for problem in more]
    problems += _unmatched(predicted, observed, predictions.name, outcomes.name)
    _refuse("evaluation", problems)
    both = predicted.merge(observed, on="case_id", validate="one_to_one", suffixes=("_predicted", ""))
    times, events = both["time"].to_numpy(), both["event"].to_numpy() == 1.0
    risks, months = both["risk"].to_numpy(), both["months"].to_numpy()

    def measures(of: NDArray[np.int64]) -> list[float]:
        return [concordance(times[of], events[of], -months[of]), *discrimination(times[of], events[of], risks[of])]

    challenge, harrell, uno, *areas = figures(measures, len(both), draws, seed)
    return {
        "challenge_concordance": challenge,
        "patients": len(both),
        "events": int(events.sum()),
        "harrell_concordance": harrell,
        "uno_concordance": uno,
        "auc": {f"{month:g}": area for month, area in zip(MONTHS, areas, strict=True)},
        "tied_months_share": tied_share(months),
        "log_rank_p": null(log_rank_p(times, events, high_risk(risks))),
        "censoring": CENSORING,
        "draws": draws,
    }


def print_evaluation(result: dict[str, Any]) -> None:
    """Print what ``evaluate`` gave as aligned lines."""
    rows = [
        ("challenge's concordance (months)", _figure_text(result["challenge_concordance"])),
        ("Harrell's C of the risks", _figure_text(result["harrell_concordance"])),
        ("Uno's C of the risks", _figure_text(result["uno_concordance"])),
        *((f"AUC at {month} months", _figure_text(area)) for month, area in result["auc"].items()),
        ("high against low risk", f"log-rank p {number_text(result['log_rank_p'], '.2g')}"),
        ("patients with tied months", f"{result['tied_months_share']:.1%}"),
        ("cohort", f"{count(result['patients'], 'patient')}, {count(result['events'], 'event')}"),
    ]
    for name, text in rows:
        print(f"{name:<34}{text}")
    print(f"Intervals: 95%, {count(result['draws'], 'bootstrap draw')}. {result['censoring']}.")


def tied_share(months: Floats) -> float:
    """Share of the patients whose months somebody else has too."""
    _, inverse, counts = np.unique(months, return_inverse=True, return_counts=True)
    return float((counts[inverse] > 1).mean())


def _figure_text(found: dict[str, Any]) -> str:
    interval = f"{number_text(found['low'])} to {number_text(found['high'])}"
    if found["value"] is None or found["low"] is None:
        interval = "no interval"
    left_out = f", {count(found['undefined_draws'], 'draw')} left out" if found["undefined_draws"] else ""
    return f"{number_text(found['value'])}   ({interval}{left_out})"


def _predictions(path: Path) -> tuple[pd.DataFrame, list[str]]:
    table = _read_table(path)
    if missing := [name for name in ("case_id", "risk", "months") if name not in table]:
        raise InputError(f"{path.name}: no column {listing(missing)}; found {listing(table.columns)}")
    ids, problems = _case_ids(table["case_id"])
    risks, months = _as_numbers(table["risk"]), _as_numbers(table["months"])
    problems += _bad("risk not a finite number", ids, ~np.isfinite(risks))
    problems += _bad("months not a finite number of at least 0", ids, ~(np.isfinite(months) & (months >= 0)))
    return table.assign(case_id=ids, risk=risks, months=months), problems


def _outcomes(path: Path) -> tuple[pd.DataFrame, list[str]]:
    table = _read_table(path)
    columns = [_column(table, names, path.name) for names in (("case_id",), TIME_NAMES, EVENT_NAMES)]
    ids, problems = _case_ids(table[columns[0]])
    times = _as_numbers(table[columns[1]])
    events = table[columns[2]].str.strip().str.lower().map(_EVENT_VALUES).to_numpy(dtype=np.float64)
    problems += _bad("time not a finite number of at least 0", ids, ~(np.isfinite(times) & (times >= 0)))
    problems += _bad("event neither 0 nor 1", ids, np.isnan(events))
    return pd.DataFrame({"case_id": ids, "time": times, "event": events}), problems


def _read_table(path: Path) -> pd.DataFrame:
    """A CSV file with one heading row, every value as its text."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file, strict=True) if row]
    except OSError as cause:
        raise InputError(f"{path}: cannot be read ({cause.strerror or cause})") from cause
    except (csv.Error, UnicodeDecodeError) as cause:
        raise InputError(f"{path.name}: not a CSV table ({cause})") from cause
    if len(rows) < 2:
        raise InputError(f"{path.name}: expected a heading and one row for each case, found {count(len(rows), 'row')}")
    heading = [name.strip() for name in rows[0]]
    if repeated := _repeated(heading):
        raise InputError(f"{path.name}: the column {listing(repeated)} is there more than once")
    if uneven := [row[0] for row in rows[1:] if len(row) != len(heading)]:
        raise InputError(f"{path.name}: {len(heading)} columns, but not in the rows of {listing(uneven)}")
    return pd.DataFrame(rows[1:], columns=heading, dtype=str)


def _column(table: pd.DataFrame, names: Sequence[str], file: str) -> str:
    """The one column of ``table`` that goes by any of ``names``, whatever their case."""
    found = [column for column in table if column.lower() in names]
    if len(found) != 1:
        seen = f"found {listing(found or table.columns)}"
        raise InputError(f"{file}: expected one column called {' or '.join(names)}, {seen}")
    return found[0]


def _case_ids(column: pd.Series) -> tuple[pd.Series, list[str]]:
    ids = column.str.strip()
    problems = [f"more than one row for {listing(repeated)}"] if (repeated := _repeated(ids[ids != ""])) else []
    if empty := int((ids == "").sum()):
        problems.append(f"{count(empty, 'row')} without a case_id")
    return ids, problems


def _repeated(names: Any) -> list[str]:
    return [name for name, times in Counter(names).items() if times > 1]


def _as_numbers(column: pd.Series) -> Floats:
    return pd.to_numeric(column.str.strip(), errors="coerce").to_numpy(dtype=np.float64)


def _bad(what: str, ids: pd.Series, wrong: NDArray[np.bool_]) -> list[str]:
    return [f"{what} for {listing(ids[wrong])}"] if wrong.any() else []


def _unmatched(predicted: pd.DataFrame, observed: pd.DataFrame, predictions: str, outcomes: str) -> list[str]:
    left, right = set(predicted["case_id"]) - {""}, set(observed["case_id"]) - {""}
    problems = [f"{predictions}: no prediction for {listing(sorted(right - left))}"] if right - left else []
    return problems + ([f"{outcomes}: no outcome for {listing(sorted(left - right))}"] if left - right else [])


def _refuse(where: str, problems: Sequence[str]) -> None:
    if problems:
        raise InputError(f"{where}: {'; '.join(problems)}")
