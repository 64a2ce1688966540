"""Predictions compared with outcomes: what was found in words, the challenge's figure, then others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from lifelines import KaplanMeierFitter

from survfuse.cohort.time_unit import check_times
from survfuse.evaluation.finding import ranking_sentence, reversed_sentence, simulated_sentence
from survfuse.evaluation.inputs import Files, Matched, read_inputs
from survfuse.evaluation.judged import Curves, Judged
from survfuse.evaluation.measure import Measure
from survfuse.evaluation.performance import Performance, performance
from survfuse.evaluation.predictions import Predicted
from survfuse.evaluation.subgroups import Variable, by_variable, subgroup_values
from survfuse.evaluation.trained_on import TrainedOn, trained_on
from survfuse.runtime.arrays import Floats
from survfuse.runtime.log import NAMED, listing, progress, warn
from survfuse.survival.bootstrap import (
    Draws,
    aucs,
    challenge_concordances,
    concordances,
    integrated_briers,
    uno_concordances,
)
from survfuse.survival.cox_regression import cox_coefficient
from survfuse.survival.cox_samples import cox_coefficients
from survfuse.survival.estimates import Estimate, discrimination, high_risk
from survfuse.survival.metrics import challenge_concordance, integrated_brier
from survfuse.tasks.registry import DEFAULT
from survfuse.tasks.task import Task

CENSORING = "Uno's C and the AUC weigh by the censoring distribution of these same outcomes"
TRAINING_CUT = "the training cohort's median risk"
OWN_CUT = "the median of these patients' risks"


class Comparison(TypedDict):
    """A figure of another model, and this model's figure minus it in the same bootstrap draws."""

    other: Estimate
    difference: Estimate


class Brier(TypedDict):
    """Integrated Brier scores: of the predicted curves, of Kaplan–Meier, and their difference."""

    predicted: Estimate
    kaplan_meier: Estimate
    difference: Estimate


class Versus(TypedDict):
    """Another model's predictions for the same patients."""

    name: str  # of the file
    training_patients: int | None  # as in the evaluation, of this model
    training_patients_unknown: int
    challenge_concordance: Comparison
    harrell_concordance: Comparison
    uno_concordance: Comparison
    auc: dict[str, Comparison]  # by month
    log_hazard_ratio_per_sd: Comparison  # per standard deviation of each model's risks
    calibration_slope: Comparison  # of the risks


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
    own = _measured(judged, matched.predicted, sample)
    next(step)
    shared = performance(judged, sample)
    next(step)
    versus = None if matched.versus is None else _versus(own, judged, matched, sample, marks[-1])
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
        "versus": versus,
    }
    figures["finding"] = _finding(figures, judged, matched, marks, exclude_training)
    return Evaluated(figures, judged)


@dataclass(frozen=True)
class _Measures:
    """Measures of one table's predictions, over the same bootstrap draws."""

    challenge: Measure
    harrell: Measure
    uno: Measure
    areas: Mapping[str, Measure]  # by month
    slope: Measure  # Cox's coefficient of the risk
    spread: float  # standard deviation of the risks


def _measured(judged: Judged, predicted: Sequence[Predicted], sample: Draws) -> _Measures:
    """The measures of what is ``predicted`` [n] for the patients of ``judged``."""
    times, events, weights = judged.times, judged.events, sample.weights
    risks = np.array([each.risk for each in predicted])
    months = np.array([each.months for each in predicted])
    harrell, uno, *areas = discrimination(times, events, risks, judged.horizons)
    sampled = aucs(times, events, risks, weights, judged.horizons).T
    challenge = challenge_concordances(times, events, months, weights)
    slope = cox_coefficient(risks, times, events)["value"]
    return _Measures(
        Measure(challenge_concordance(times, events, months), challenge),
        Measure(harrell, concordances(times, events, risks, weights)),
        Measure(uno, uno_concordances(times, events, risks, weights)),
        {
            f"{month:g}": Measure(area, column)
            for month, area, column in zip(judged.horizons, areas, sampled, strict=True)
        },
        Measure(_or_nan(slope), cox_coefficients(risks, times, events, weights)),
        float(risks.std()),
    )


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _versus(own: _Measures, judged: Judged, matched: Matched, sample: Draws, mark: TrainedOn) -> Versus:
    """This table's figures compared with those of the other one."""
    assert matched.versus is not None
    other = _measured(judged, matched.versus, sample)
    return {
        "name": matched.versus_name,
        "training_patients": mark.number,
        "training_patients_unknown": len(mark.unknown),
        "challenge_concordance": _compared(own.challenge, other.challenge),
        "harrell_concordance": _compared(own.harrell, other.harrell),
        "uno_concordance": _compared(own.uno, other.uno),
        "auc": {month: _compared(own.areas[month], area) for month, area in other.areas.items()},
        "log_hazard_ratio_per_sd": _compared(own.slope.times(own.spread), other.slope.times(other.spread)),
        "calibration_slope": _compared(own.slope, other.slope),
    }


def _compared(own: Measure, other: Measure) -> Comparison:
    return {"other": other.estimate(), "difference": own.difference(other)}


def _brier(judged: Judged, sample: Draws) -> Brier | None:
    """Integrated Brier scores of the predicted curves, if there are any."""
    curves = judged.curves
    if curves is None:
        return None
    times, events, grid = judged.times, judged.events, curves.grid
    predicted, marginal = (
        Measure(
            integrated_brier(times, events, times, events, survival, grid),
            integrated_briers(times, events, survival, grid, sample.weights),
        )
        for survival in (curves.survival, curves.marginal)
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
    curves = None
    if matched.curves is not None:
        grid = np.array(matched.months)
        known = KaplanMeierFitter().fit(times, events).survival_function_at_times(grid).to_numpy()
        curves = Curves(grid, np.stack(matched.curves), np.tile(known, (len(times), 1)))
    return Judged(times, events, risks, task.horizons, high, cut, curves)


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
