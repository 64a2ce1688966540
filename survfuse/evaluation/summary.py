"""Figures of held-out performance."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from lifelines import KaplanMeierFitter
from numpy.typing import NDArray

from survfuse.runtime.arrays import Bools, Floats, Rows
from survfuse.survival.estimates import Estimate, discrimination, estimate, high_risk, log_rank_p
from survfuse.survival.metrics import (
    challenge_concordance,
    concordance,
    corrected_difference,
    d_calibration,
    integrated_brier,
    resampled,
)
from survfuse.survival.numbers import null


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

    def __post_init__(self) -> None:
        n = len(self.times)
        columns = (self.events, self.folds, self.risks, self.months, *self.candidates.values())
        if n < 2 or any(np.shape(column) != (n,) for column in columns):
            raise ValueError("held-out results: expected one value for each of two patients or more")
        if np.shape(self.survival) != (n, len(self.grid)):
            raise ValueError(f"held-out survival: expected {(n, len(self.grid))}, found {np.shape(self.survival)}")


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


class CalibrationTest(TypedDict):
    """D-calibration: χ², its p, and the patients' shares by predicted survival."""

    statistic: float | None
    p: float | None
    shares: list[float]


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
class _Measure:
    """A measure and its bootstrap draws; all measures share the samples, so that differences are paired."""

    value: float
    draws: Floats

    def estimate(self) -> Estimate:
        return estimate(self.value, self.draws)

    def difference(self, other: "_Measure") -> Estimate:
        return estimate(self.value - other.value, self.draws - other.draws)


def summary(held: HeldOut, draws: int = 1000) -> Summary:
    """Every figure of held-out performance, with intervals from ``draws`` bootstrap samples of the patients.

    The censoring distribution is that of all n patients. The Brier score of Kaplan–Meier is held out as well: each
    patient is given the curve of the other folds.
    """
    marginal = _kaplan_meier_of_the_others(held)

    def measures(rows: Rows) -> list[float]:
        times, events = held.times[rows], held.events[rows]
        return [
            *discrimination(times, events, held.risks[rows], held.horizons),
            challenge_concordance(times, events, held.months[rows]),
            *(
                integrated_brier(times, events, times, events, curves[rows], held.grid)
                for curves in (held.survival, marginal)
            ),
            *(concordance(times, events, risks[rows]) for risks in held.candidates.values()),
        ]

    n = len(held.times)
    values, samples = measures(np.arange(n)), resampled(measures, n, draws).T  # [measures], [measures, draws]
    harrell, uno, *others = (_Measure(value, column) for value, column in zip(values, samples, strict=True))
    areas, (months, brier, marginal_brier, *candidates) = others[: len(held.horizons)], others[len(held.horizons) :]
    calibration = d_calibration(held.times, held.events, predicted_at(held, held.times))
    return {
        "patients": n,
        "events": int(held.events.sum()),
        "draws": draws,
        "harrell_concordance": harrell.estimate(),
        "uno_concordance": uno.estimate(),
        "auc": {f"{month:g}": area.estimate() for month, area in zip(held.horizons, areas, strict=True)},
        "months_concordance": months.estimate(),
        "folds": _fold_figures(held),
        "candidates": {
            family: {
                "concordance": own.estimate(),
                "difference": harrell.difference(own),
                "difference_by_fold": _fold_difference(held, held.candidates[family]),
            }
            for family, own in zip(held.candidates, candidates, strict=True)
        },
        "log_rank_p": null(log_rank_p(held.times, held.events, high_risk(held.risks))),
        "integrated_brier": brier.estimate(),
        "integrated_brier_kaplan_meier": marginal_brier.estimate(),
        "integrated_brier_difference": brier.difference(marginal_brier),
        "d_calibration": {
            "statistic": null(calibration.statistic),
            "p": null(calibration.p),
            "shares": calibration.shares.tolist(),
        },
    }


def predicted_at(held: HeldOut, months: Floats) -> Floats:
    """Predicted survival [n] of each patient at its own one of ``months`` [n].

    Linear between the months of the grid, from 1 at time 0, and constant after the grid.
    """
    grid = np.concatenate([[0.0], held.grid]) if held.grid[0] > 0 else held.grid
    start = np.ones(len(grid) - len(held.grid))
    return np.array(
        [np.interp(at, grid, np.concatenate([start, row])) for at, row in zip(months, held.survival, strict=True)]
    )


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


def _fold_figures(held: HeldOut) -> FoldFigures:
    """Concordance by fold, with mean and standard deviation over the folds in which it is defined."""
    values = _concordance_by_fold(held, held.risks)
    defined = values[np.isfinite(values)]
    return {
        "values": [null(value) for value in values],
        "mean": float(defined.mean()) if defined.size else None,
        "sd": float(defined.std(ddof=1)) if defined.size > 1 else None,
    }


def _fold_difference(held: HeldOut, other: Floats) -> MeanDifference:
    """Mean difference over the folds, with the interval that allows for their overlapping training sets."""
    differences = _concordance_by_fold(held, held.risks) - _concordance_by_fold(held, other)
    folds = differences.size
    defined = differences[np.isfinite(differences)]
    mean, low, high = corrected_difference(defined, 1.0, max(folds - 1.0, 1.0))
    return {"mean": null(mean), "low": null(low), "high": null(high)}
