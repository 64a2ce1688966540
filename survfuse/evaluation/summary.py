"""Figures of held-out performance."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from lifelines import KaplanMeierFitter
from numpy.typing import NDArray

from survfuse.runtime.arrays import Floats
from survfuse.survival.curves import MONTHS
from survfuse.survival.estimates import discrimination, figure, high_risk, log_rank_p, null
from survfuse.survival.metrics import concordance, corrected_difference, d_calibration, integrated_brier, resampled


@dataclass(frozen=True)
class HeldOut:
    """n patients as the models that never saw them predicted them."""

    times: Floats  # [n] months of follow-up
    events: NDArray[np.bool_]  # [n]
    folds: NDArray[np.int64]  # [n] the outer fold, of the first repeat, that held the patient out; from 0
    risks: Floats  # [n] of the stack, or of the one family there is
    candidates: Mapping[str, Floats]  # family → held-out risks [n]
    grid: Floats  # [T] increasing months
    survival: Floats  # [n, T] predicted probability of no event by each of them
    months: Floats  # [n] predicted time

    def __post_init__(self) -> None:
        n = len(self.times)
        columns = (self.events, self.folds, self.risks, self.months, *self.candidates.values())
        if n < 2 or any(np.shape(column) != (n,) for column in columns):
            raise ValueError("held-out results: expected one value for each of two patients or more")
        if np.shape(self.survival) != (n, len(self.grid)):
            raise ValueError(f"held-out survival: expected {(n, len(self.grid))}, found {np.shape(self.survival)}")


@dataclass(frozen=True)
class MemberCurve:
    """How the loss of one member went, epoch by epoch."""

    family: str
    repeat: int
    fold: int
    number: int  # of the member within its family, repeat and fold
    best_epoch: int  # from 1; the epoch that was kept
    training: tuple[float, ...]  # loss after each epoch
    inner: tuple[float, ...]  # the same of the inner validation patients


def summary(held: HeldOut, draws: int = 1000) -> dict[str, Any]:
    """Every figure of held-out performance, ready for JSON: what is undefined is None.

    A figure has a ``value``, the ``low`` and ``high`` of its 95% percentile bootstrap interval over patients, and
    the number of ``undefined_draws`` that the interval leaves out. All figures share the draws, so differences are
    paired. The censoring distribution is that of all n patients. Kaplan–Meier's own Brier score is held out too: the
    curve of the other folds.
    """
    marginal = _kaplan_meier_of_the_others(held)
    families = list(held.candidates)

    def measures(of: NDArray[np.int64]) -> list[float]:
        times, events = held.times[of], held.events[of]
        brier = [
            integrated_brier(times, events, times, events, curve[of], held.grid) for curve in (held.survival, marginal)
        ]
        candidates = [concordance(times, events, held.candidates[family][of]) for family in families]
        return [
            *discrimination(times, events, held.risks[of]),
            concordance(times, events, -held.months[of]),
            *brier,
            *candidates,
        ]

    n = len(held.times)
    values, found = np.array(measures(np.arange(n))), resampled(measures, n, draws).T
    areas, last = 2, 2 + len(MONTHS)
    calibration = d_calibration(held.times, held.events, _at_own_time(held))
    return {
        "patients": n,
        "events": int(held.events.sum()),
        "draws": draws,
        "harrell_concordance": figure(values[0], found[0]),
        "uno_concordance": figure(values[1], found[1]),
        "auc": {f"{month:g}": figure(values[areas + k], found[areas + k]) for k, month in enumerate(MONTHS)},
        "months_concordance": figure(values[last], found[last]),
        "folds": _fold_figures(held),
        "candidates": {
            family: {
                "concordance": figure(values[k], found[k]),
                "difference": figure(values[0] - values[k], found[0] - found[k]),
                "difference_by_fold": _fold_difference(held, held.candidates[family]),
            }
            for k, family in enumerate(families, start=last + 3)
        },
        "log_rank_p": null(log_rank_p(held.times, held.events, high_risk(held.risks))),
        "integrated_brier": figure(values[last + 1], found[last + 1]),
        "integrated_brier_kaplan_meier": figure(values[last + 2], found[last + 2]),
        "integrated_brier_difference": figure(values[last + 1] - values[last + 2], found[last + 1] - found[last + 2]),
        "d_calibration": {
            "statistic": null(calibration.statistic),
            "p": null(calibration.p),
            "shares": calibration.shares.tolist(),
        },
    }


def _kaplan_meier_of_the_others(held: HeldOut) -> Floats:
    """[n, T]: for each patient the Kaplan–Meier curve of the patients in other folds; NaN where there are none."""
    curves = np.full(held.survival.shape, np.nan)
    for fold in np.unique(held.folds):
        inside = held.folds == fold
        if not inside.all():
            others = KaplanMeierFitter().fit(held.times[~inside], held.events[~inside])
            curves[inside] = others.survival_function_at_times(held.grid).to_numpy()
    return curves


def _at_own_time(held: HeldOut) -> Floats:
    """[n] predicted survival at each patient's own time, drawn straight between the months of the grid."""
    return predicted_at(held, held.times)


def predicted_at(held: HeldOut, months: Floats) -> Floats:
    """[n] predicted survival at ``months`` [n], from 1 at time 0 and constant after the grid."""
    grid = np.concatenate([[0.0], held.grid]) if held.grid[0] > 0 else held.grid
    start = np.ones(len(grid) - len(held.grid))
    return np.array(
        [np.interp(at, grid, np.concatenate([start, row])) for at, row in zip(months, held.survival, strict=True)]
    )


def _by_fold(held: HeldOut, risks: Floats) -> Floats:
    """[F] Harrell's concordance within each fold."""
    inside = [held.folds == fold for fold in np.unique(held.folds)]
    return np.array([concordance(held.times[of], held.events[of], risks[of]) for of in inside])


def _fold_figures(held: HeldOut) -> dict[str, Any]:
    values = _by_fold(held, held.risks)
    defined = values[np.isfinite(values)]
    return {
        "values": [null(value) for value in values],
        "mean": float(defined.mean()) if defined.size else None,
        "sd": float(defined.std(ddof=1)) if defined.size > 1 else None,
    }


def _fold_difference(held: HeldOut, other: Floats) -> dict[str, Any]:
    """Mean difference over the folds with the interval that knows their training sets overlap."""
    differences = _by_fold(held, held.risks) - _by_fold(held, other)
    folds = differences.size
    defined = differences[np.isfinite(differences)]
    mean, low, high = corrected_difference(defined, 1.0, max(folds - 1.0, 1.0))
    return {"mean": null(mean), "low": null(low), "high": null(high)}
