"""Predictions compared with outcomes: what was found in words, the challenge's figure, then others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from lifelines import KaplanMeierFitter

from survfuse.cohort.time_unit import check_times
from survfuse.evaluation.finding import ranking_sentence, reversed_sentence, simulated_sentence
from survfuse.evaluation.inputs import Files, Matched, StatedCurves, read_inputs
from survfuse.evaluation.judged import Curves, Judged
from survfuse.evaluation.measured import measured
from survfuse.evaluation.performance import Performance, performance
from survfuse.evaluation.subgroups import Variable, by_variable, subgroup_values
from survfuse.evaluation.survival_figures import integrated
from survfuse.evaluation.trained_on import TrainedOn, trained_on
from survfuse.evaluation.versus import Versus, versus
from survfuse.runtime.arrays import Bools, Floats
from survfuse.runtime.log import NAMED, listing, progress, warn
from survfuse.survival.bootstrap import Draws
from survfuse.survival.estimates import Estimate, high_risk
from survfuse.tasks.registry import DEFAULT
from survfuse.tasks.task import Task

CENSORING = "Uno's C and the AUC weigh by the censoring distribution of these same outcomes"
TRAINING_CUT = "the training cohort's median risk"
OWN_CUT = "the median of these patients' risks"


class Brier(TypedDict):
    """Integrated Brier scores: of the predicted curves, of Kaplan–Meier, and their difference."""

    predicted: Estimate
    kaplan_meier: Estimate
    difference: Estimate


class Evaluation(TypedDict):
    """All figures of a table of predictions, ready for JSON."""

    challenge_concordance: Estimate  # Harrell's concordance of the months
    patients: int
    events: int
    harrell_concordance: Estimate  # of the risks, as are the next two
    uno_concordance: Estimate
    auc: dict[str, Estimate]  # by month
    tied_months_share: float
    log_rank_p: float | None  # between the risk groups
    censoring: str  # how censoring was weighted
    draws: int
    finding: list[str]  # in words
    simulated: bool
    training_patients: int | None  # None: known of nobody
    training_patients_unknown: int  # patients of whom it is not known
    left_out: dict[str, int]  # patients, by why
    integrated_brier: Brier | None
    performance: Performance
    subgroups: list[Variable]
    versus: Versus | None


@dataclass(frozen=True)
class Evaluated:
    """The figures, and the patients that they are of."""

    figures: Evaluation
    judged: Judged


def evaluate(
    files: Files, draws: int = 1000, seed: int = 0, task: Task = DEFAULT, exclude_training: bool = False
) -> Evaluated:
    """Every figure of the predictions against the outcomes in ``files``.

    Intervals are 95% percentile bootstrap intervals over patients, from ``draws`` samples drawn with ``seed``, where
    nothing else is said; those of Cox's coefficients are Wald's. Figures are at the horizons of ``task``. Patients are
    matched by case_id. With ``exclude_training``, patients that a model was trained on are left out.

    Raises InputError as ``read_inputs`` does. Warns of training patients of either model and, with
    ``exclude_training``, of patients of whom a table does not say whether they are.
    """
    matched = read_inputs(files, task, exclude_training)
    judged = _judged(matched, task)
    check_times(matched.cases, judged.times, files.columns.unit)
    marks = _trained_on(matched, exclude_training)
    sample = Draws(len(judged.times), draws, seed)
    step = progress(range(3 + len(files.by)), 3 + len(files.by), "evaluating")
    next(step)
    own = measured(judged, matched.predicted, sample)
    next(step)
    shared = performance(judged, sample)
    next(step)
    other = _curves(matched.versus_curves, judged.times, judged.events)
    compared = None if matched.versus is None else versus(own, judged, matched, other, sample, marks[-1])
    brier = _brier(judged, sample)
    subgroups = []
    for name, _ in zip(files.by, step, strict=False):
        values = subgroup_values(name, matched.clinical, matched.cases)
        subgroups.append(by_variable(judged, name, values, task.missing_codes, draws, seed))
    next(step, None)
    figures: Evaluation = {
        "challenge_concordance": own.challenge.estimate(),
        "patients": len(judged.times),
        "events": int(judged.events.sum()),
        "harrell_concordance": own.harrell.estimate(),
        "uno_concordance": own.uno.estimate(),
        "auc": {month: area.estimate() for month, area in own.areas.items()},
        "tied_months_share": tied_share(np.array([each.months for each in matched.predicted])),
        "log_rank_p": shared["risk_groups"]["log_rank_p"],
        "censoring": CENSORING,
        "draws": draws,
        "finding": [],
        "simulated": matched.simulated,
        "training_patients": marks[0].number,
        "training_patients_unknown": len(marks[0].unknown),
        "left_out": {"training_patients": len(matched.excluded), "without_prediction": len(matched.unpredicted)},
        "integrated_brier": brier,
        "performance": shared,
        "subgroups": subgroups,
        "versus": compared,
    }
    figures["finding"] = _finding(figures, judged, matched, marks, exclude_training)
    return Evaluated(figures, judged)


def _brier(judged: Judged, sample: Draws) -> Brier | None:
    """Integrated Brier scores of the predicted curves, if there are any."""
    curves = judged.curves
    if curves is None:
        return None
    predicted, marginal = (
        integrated(judged, survival, curves.grid, sample) for survival in (curves.survival, curves.marginal)
    )
    return {
        "predicted": predicted.estimate(),
        "kaplan_meier": marginal.estimate(),
        "difference": predicted.difference(marginal),
    }


def _judged(matched: Matched, task: Task) -> Judged:
    """The patients of ``matched``, in groups at the training cohort's cut if the table states it for everybody."""
    times = np.array([outcome.months for outcome in matched.outcomes])
    events = np.array([outcome.event for outcome in matched.outcomes], dtype=bool)
    risks = np.array([each.risk for each in matched.predicted])
    stated = [each.high for each in matched.predicted if each.high is not None]
    high, cut = (np.array(stated), TRAINING_CUT) if len(stated) == len(risks) else (high_risk(risks), OWN_CUT)
    return Judged(times, events, risks, task.horizons, high, cut, _curves(matched.curves, times, events))


def _curves(stated: StatedCurves | None, times: Floats, events: Bools) -> Curves | None:
    """The curves that a table has ``stated`` of patients with these outcomes [n], if there is one."""
    if stated is None:
        return None
    grid = np.array(stated.months)
    known = KaplanMeierFitter().fit(times, events).survival_function_at_times(grid).to_numpy()
    return Curves(grid, np.stack(stated.curves), np.tile(known, (len(times), 1)))


def _trained_on(matched: Matched, exclude_training: bool) -> list[TrainedOn]:
    """What the tables of predictions, this model's first, say of training patients; warnings of what matters."""
    tables = [(matched.name, matched.predicted)]
    if matched.versus is not None:
        tables.append((matched.versus_name, matched.versus))
    marks = trained_on(tables, matched.cases)
    for mark in marks:
        for text in (mark.warning(), mark.not_known() if exclude_training else ""):
            if text:
                warn(text)
    return marks


def _finding(
    figures: Evaluation, judged: Judged, matched: Matched, marks: Sequence[TrainedOn], exclude_training: bool
) -> list[str]:
    """What was found, in words, the most important first."""
    same_time = bool(np.ptp(judged.times) == 0.0)
    first = (
        *(mark.in_sample() for mark in marks),
        ranking_sentence(figures["harrell_concordance"], figures["events"], figures["draws"], same_time=same_time),
        simulated_sentence(figures["simulated"]),
    )
    others = (
        reversed_sentence(figures["performance"]["risk_groups"]),
        _left_out(matched.excluded, "training patient"),
        _left_out(matched.unpredicted, "patient without a prediction", "patients without a prediction"),
        *(mark.not_known() for mark in marks if exclude_training),
    )
    return [" ".join(filter(None, first)), *filter(None, others)]


def _left_out(cases: Sequence[str], one: str, many: str = "") -> str:
    """That ``cases`` were left out, how many and three of them; empty if there are none."""
    if not cases:
        return ""
    number = f"{len(cases):,} {one if len(cases) == 1 else many or f'{one}s'}"
    return f"Left out: {number} ({listing(cases, NAMED)})."


def tied_share(months: Floats) -> float:
    """Share of the patients whose ``months`` [n] another patient has, too.

    >>> tied_share(np.array([12.0, 12.0, 30.0, 40.0]))
    0.5
    """
    _, inverse, counts = np.unique(months, return_inverse=True, return_counts=True)
    return float((counts[inverse] > 1).mean())
