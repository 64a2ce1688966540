"""Figures of held-out performance."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np
from lifelines import KaplanMeierFitter
from numpy.typing import NDArray

from survfuse.evaluation.judged import Curves, Judged
from survfuse.evaluation.measure import Measure
from survfuse.evaluation.performance import Performance, performance
from survfuse.evaluation.survival_figures import CalibrationTest, calibration_test, integrated
from survfuse.runtime.arrays import Bools, Floats
from survfuse.runtime.log import progress
from survfuse.survival.bootstrap import Draws, aucs, challenge_concordances, concordances, uno_concordances
from survfuse.survival.estimates import Estimate, discrimination, estimate, high_risk, log_rank_p
from survfuse.survival.metrics import challenge_concordance, concordance, corrected_difference
from survfuse.survival.numbers import null

_CUT = "the median of the held-out risks"


@dataclass(frozen=True)
class HeldOut:
    """Predictions for n patients by models that never saw them; raises ValueError for lengths that do not agree."""

    times: Floats  # [n] months of follow-up
    events: Bools  # [n]
    folds: NDArray[np.int64]  # [n] the outer fold of the first repeat that held the patient out, from 0
    risks: Floats  # [n] of the stack, or of the only family
    candidates: Mapping[str, Floats]  # family → held-out risks [n]
    grid: Floats  # [T] increasing months
    survival: Floats  # [n, T] predicted probability of no event by each month of the grid
    months: Floats  # [n] predicted time
    horizons: tuple[float, ...]  # months at which survival is judged
    combinations: Mapping[str, Floats] = field(default_factory=dict)  # of modalities → held-out risks [n], all first

    def __post_init__(self) -> None:
        n = len(self.times)
        columns = (
            self.events,
            self.folds,
            self.risks,
            self.months,
            *self.candidates.values(),
            *self.combinations.values(),
        )
        if n < 2 or any(np.shape(column) != (n,) for column in columns):
            raise ValueError("held-out results: expected one value for each of two patients or more")
        if np.shape(self.survival) != (n, len(self.grid)):
            raise ValueError(f"held-out survival: expected {(n, len(self.grid))}, found {np.shape(self.survival)}")

    def judged(self) -> Judged:
        """The patients as the shared figures take them, in groups at the median of their held-out risks."""
        curves = Curves(self.grid, self.survival, _kaplan_meier_of_the_others(self))
        return Judged(self.times, self.events, self.risks, self.horizons, high_risk(self.risks), _CUT, curves)


@dataclass(frozen=True)
class MemberCurve:
    """One member's loss, epoch by epoch."""

    family: str
    repeat: int
    fold: int
    number: int  # of the member within its family, repeat and fold
    best_epoch: int  # from 1; the epoch whose weights were kept
    training: tuple[float, ...]  # loss of the training patients after each epoch
    inner: tuple[float, ...]  # loss of the inner validation patients


class FoldFigures(TypedDict):
    """Harrell's concordance within each outer fold."""

    values: list[float | None]
    mean: float | None
    sd: float | None


class MeanDifference(TypedDict):
    """A mean over the folds with its 95% interval."""

    mean: float | None
    low: float | None
    high: float | None


class CandidateFigures(TypedDict):
    """Performance of one family alone, and the gain of the reported risks over it."""

    concordance: Estimate
    difference: Estimate
    difference_by_fold: MeanDifference


class CombinationFigures(TypedDict):
    """Performance of one combination of modalities, and the gain of all modalities over it."""

    concordance: Estimate
    difference: Estimate


class Summary(TypedDict):
    """All figures of held-out performance, ready for JSON: what is undefined is None."""

    patients: int
    events: int
    draws: int  # of the bootstrap
    harrell_concordance: Estimate
    uno_concordance: Estimate
    auc: dict[str, Estimate]  # by month
    months_concordance: Estimate  # Harrell's, of the predicted months
    folds: FoldFigures
    candidates: dict[str, CandidateFigures]  # by family
    log_rank_p: float | None  # between patients above the median risk and the others
    integrated_brier: Estimate
    integrated_brier_kaplan_meier: Estimate
    integrated_brier_difference: Estimate
    d_calibration: CalibrationTest


@dataclass(frozen=True)
class HeldOutFigures:
    """Everything that the report says of held-out predictions."""

    summary: Summary
    performance: Performance
    combinations: Mapping[str, CombinationFigures]
    judged: Judged


def summary(held: HeldOut, draws: int = 1000) -> Summary:
    """The figures of ``held_out_figures`` that a bundle states."""
    return _summary(held, held.judged(), Draws(len(held.times), draws))


def held_out_figures(held: HeldOut, draws: int = 1000) -> HeldOutFigures:
    """Every figure of held-out performance, with intervals from ``draws`` bootstrap samples of the patients."""
    sample, judged = Draws(len(held.times), draws), held.judged()
    step = progress(range(3), 3, "report")
    next(step)
    own = _summary(held, judged, sample)
    next(step)
    shared = performance(judged, sample)
    next(step)
    combinations = _combination_figures(held, sample)
    next(step, None)
    return HeldOutFigures(own, shared, combinations, judged)


def _summary(held: HeldOut, judged: Judged, sample: Draws) -> Summary:
    """The summary, with intervals from ``sample``.

    The censoring distribution is that of all n patients. The Brier score of Kaplan–Meier is held out as well: each
    patient is given the curve of the other folds.
    """
    times, events, weights = held.times, held.events, sample.weights
    value, uno, *areas = discrimination(times, events, held.risks, held.horizons)
    harrell = Measure(value, concordances(times, events, held.risks, weights))
    months = challenge_concordances(times, events, held.months, weights)
    by_fold = _concordance_by_fold(held, held.risks)
    sampled_areas = aucs(times, events, held.risks, weights, held.horizons).T
    assert judged.curves is not None
    brier, marginal = (
        integrated(judged, survival, held.grid, sample) for survival in (held.survival, judged.curves.marginal)
    )
    return {
        "patients": len(times),
        "events": int(events.sum()),
        "draws": sample.draws,
        "harrell_concordance": harrell.estimate(),
        "uno_concordance": estimate(uno, uno_concordances(times, events, held.risks, weights)),
        "auc": {
            f"{month:g}": estimate(area, column)
            for month, area, column in zip(held.horizons, areas, sampled_areas, strict=True)
        },
        "months_concordance": estimate(challenge_concordance(times, events, held.months), months),
        "folds": _fold_figures(by_fold),
        "candidates": {
            family: _candidate_figures(held, harrell, by_fold, risks, sample)
            for family, risks in held.candidates.items()
        },
        "log_rank_p": null(log_rank_p(times, events, judged.high)),
        "integrated_brier": brier.estimate(),
        "integrated_brier_kaplan_meier": marginal.estimate(),
        "integrated_brier_difference": brier.difference(marginal),
        "d_calibration": calibration_test(judged, judged.curves),
    }


def _candidate_figures(
    held: HeldOut, harrell: Measure, by_fold: Floats, risks: Floats, sample: Draws
) -> CandidateFigures:
    """One family's ``risks`` [n], compared with the reported ones: ``harrell`` over all patients, ``by_fold`` [F]."""
    own = _concordance(held, risks, sample)
    return {
        "concordance": own.estimate(),
        "difference": harrell.difference(own),
        "difference_by_fold": _fold_difference(by_fold - _concordance_by_fold(held, risks)),
    }


def _combination_figures(held: HeldOut, sample: Draws) -> dict[str, CombinationFigures]:
    """The concordance of each combination of modalities, and what all modalities gain on it."""
    everything = _concordance(held, held.risks, sample)
    figures: dict[str, CombinationFigures] = {}
    for name, risks in held.combinations.items():
        own = _concordance(held, risks, sample)
        figures[name] = {"concordance": own.estimate(), "difference": everything.difference(own)}
    return figures


def _concordance(held: HeldOut, risks: Floats, sample: Draws) -> Measure:
    value = concordance(held.times, held.events, risks)
    return Measure(value, concordances(held.times, held.events, risks, sample.weights))


def _kaplan_meier_of_the_others(held: HeldOut) -> Floats:
    """Kaplan–Meier curves [n, T], each patient's estimated from the other folds; NaN if there are none."""
    curves = np.full(held.survival.shape, np.nan)
    for fold in np.unique(held.folds):
        inside = held.folds == fold
        if not inside.all():
            others = KaplanMeierFitter().fit(held.times[~inside], held.events[~inside])
            curves[inside] = others.survival_function_at_times(held.grid).to_numpy()
    return curves


def _concordance_by_fold(held: HeldOut, risks: Floats) -> Floats:
    """Harrell's concordance [F] within each fold."""
    inside = [held.folds == fold for fold in np.unique(held.folds)]
    return np.array([concordance(held.times[rows], held.events[rows], risks[rows]) for rows in inside])


def _fold_figures(values: Floats) -> FoldFigures:
    """Concordance by fold, ``values`` [F], with mean and standard deviation over the folds in which it is defined."""
    defined = values[np.isfinite(values)]
    return {
        "values": [null(value) for value in values],
        "mean": float(defined.mean()) if defined.size else None,
        "sd": float(defined.std(ddof=1)) if defined.size > 1 else None,
    }


def _fold_difference(differences: Floats) -> MeanDifference:
    """Mean of ``differences`` [F] over the folds, with the interval that allows for their overlapping training sets."""
    folds = differences.size
    defined = differences[np.isfinite(differences)]
    mean, low, high = corrected_difference(defined, 1.0, max(folds - 1.0, 1.0))
    return {"mean": null(mean), "low": null(low), "high": null(high)}
