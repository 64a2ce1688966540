"""Predictions compared with outcomes: the challenge's figure first, then others."""

from pathlib import Path
from typing import TypedDict

import numpy as np

from survfuse.cohort.outcomes import OutcomesTable, read_outcomes, warn_of_days
from survfuse.cohort.problems import Problems
from survfuse.evaluation.predictions import PredictionsTable, read_predictions
from survfuse.runtime.arrays import Floats, Rows
from survfuse.runtime.log import count
from survfuse.survival.estimates import Estimate, discrimination, estimates, high_risk, log_rank_p
from survfuse.survival.metrics import challenge_concordance
from survfuse.survival.numbers import null, number_text
from survfuse.tasks.registry import DEFAULT
from survfuse.tasks.task import Task

CENSORING = "Uno's C and the AUC weigh by the censoring distribution of these same outcomes"


class Evaluation(TypedDict):
    """All figures of a table of predictions, ready for JSON."""

    challenge_concordance: Estimate  # Harrell's concordance of the months
    patients: int
    events: int
    harrell_concordance: Estimate  # of the risks, as are the next two
    uno_concordance: Estimate
    auc: dict[str, Estimate]  # by month
    tied_months_share: float
    log_rank_p: float | None  # between patients above the median risk and the others
    censoring: str  # how censoring was weighted
    draws: int


def evaluate(predictions: Path, outcomes: Path, draws: int = 1000, seed: int = 0, task: Task = DEFAULT) -> Evaluation:
    """Every figure of the CSV table ``predictions`` against the CSV table ``outcomes``.

    Intervals are 95% percentile bootstrap intervals over patients, from ``draws`` samples drawn with ``seed``. AUCs
    are at the horizons of ``task``. Cases are matched by case_id; ``read_predictions`` and ``read_outcomes`` say what
    the tables hold.

    Raises one InputError that lists everything wrong with either table, including cases that only one of them has.
    """
    problems = Problems()
    predicted = read_predictions(predictions, problems)
    observed = read_outcomes(outcomes, task.outcome, problems)
    _report_unmatched(predicted, observed, problems)
    problems.raise_any("evaluation")
    matched = [(case, observed.outcomes[name]) for name, case in predicted.cases.items()]
    known = np.array([(*case, *outcome) for case, outcome in matched if case and outcome], dtype=np.float64)
    risks, months, events, times = known[:, 0], known[:, 1], known[:, 2] == 1.0, known[:, 3]
    warn_of_days(times)

    def measures(rows: Rows) -> list[float]:
        own_times, own_events = times[rows], events[rows]
        challenge = challenge_concordance(own_times, own_events, months[rows])
        return [challenge, *discrimination(own_times, own_events, risks[rows], task.horizons)]

    challenge, harrell, uno, *areas = estimates(measures, len(known), draws, seed)
    return {
        "challenge_concordance": challenge,
        "patients": len(known),
        "events": int(events.sum()),
        "harrell_concordance": harrell,
        "uno_concordance": uno,
        "auc": {f"{month:g}": area for month, area in zip(task.horizons, areas, strict=True)},
        "tied_months_share": tied_share(months),
        "log_rank_p": null(log_rank_p(times, events, high_risk(risks))),
        "censoring": CENSORING,
        "draws": draws,
    }


def print_evaluation(result: Evaluation) -> None:
    """Print the figures as aligned lines."""
    rows = [
        ("challenge's concordance (months)", _text(result["challenge_concordance"])),
        ("Harrell's C of the risks", _text(result["harrell_concordance"])),
        ("Uno's C of the risks", _text(result["uno_concordance"])),
        *((f"AUC at {month} months", _text(area)) for month, area in result["auc"].items()),
        ("high versus low risk", f"log-rank p {number_text(result['log_rank_p'], '.2g')}"),
        ("patients with tied months", f"{result['tied_months_share']:.1%}"),
        ("cohort", f"{count(result['patients'], 'patient')}, {count(result['events'], 'event')}"),
    ]
    for name, text in rows:
        print(f"{name:<34}{text}")
    print(f"Intervals: 95%, {count(result['draws'], 'bootstrap draw')}. {result['censoring']}.")


def tied_share(months: Floats) -> float:
    """Share of the patients whose ``months`` [n] another patient has, too.

    >>> tied_share(np.array([12.0, 12.0, 30.0, 40.0]))
    0.5
    """
    _, inverse, counts = np.unique(months, return_inverse=True, return_counts=True)
    return float((counts[inverse] > 1).mean())


def _text(estimate: Estimate) -> str:
    """An estimate with its interval, in words."""
    interval = f"{number_text(estimate['low'])} to {number_text(estimate['high'])}"
    if estimate["value"] is None or estimate["low"] is None:
        interval = "no interval"
    left_out = f", {count(estimate['undefined_draws'], 'draw')} left out" if estimate["undefined_draws"] else ""
    return f"{number_text(estimate['value'])}   ({interval}{left_out})"


def _report_unmatched(predicted: PredictionsTable, observed: OutcomesTable, problems: Problems) -> None:
    """Add the cases that only one of the tables has to ``problems``, if both could be read."""
    if not (predicted.readable and observed.readable):
        return
    for case in observed.outcomes.keys() - predicted.cases.keys():
        problems.add("no prediction", case, predicted.name)
    for case in predicted.cases.keys() - observed.outcomes.keys():
        problems.add("no outcome", case, observed.name)
