"""The Brier score over time."""

import numpy as np
from numpy.typing import ArrayLike
from sksurv.metrics import brier_score
from sksurv.nonparametric import CensoringDistributionEstimator
from sksurv.util import Surv

from survfuse.runtime.arrays import Floats


def brier_curve(times: ArrayLike, events: ArrayLike, survival: ArrayLike, at: ArrayLike) -> Floats:
    """Brier score [T] of ``survival`` [n, T] at the increasing months ``at`` [T] (Graf et al. 1999, Statistics in
    Medicine 18:2529).

    It is the mean squared error of the predicted probabilities, weighted by the censoring distribution of the same
    outcomes, ``times`` [n] in months and ``events`` [n]; smaller is better. NaN at months outside the follow-up, from
    the one on at which nobody can be under observation, and everywhere without events before that.
    """
    months, happened = np.asarray(times, dtype=np.float64), np.asarray(events, dtype=bool)
    grid, predicted = np.asarray(at, dtype=np.float64), np.asarray(survival, dtype=np.float64)
    scores: Floats = np.full(grid.shape, np.nan)
    if not happened.any():
        return scores
    outcomes = Surv.from_arrays(happened, months)
    censoring = CensoringDistributionEstimator().fit(outcomes)
    gone = censoring.unique_time_[censoring.prob_ <= 0.0]
    end = min(float(months.max()), float(gone[0]) if gone.size else np.inf)
    early = happened & (months < end)
    inside = (grid >= months.min()) & (grid < end) & np.isfinite(predicted).all(axis=0)
    if not inside.any() or not early.any():
        return scores
    # Follow-up after the end is cut: the censoring distribution may not reach further.
    tested = Surv.from_arrays(early, np.minimum(months, end))
    scores[inside] = brier_score(outcomes, tested, predicted[:, inside], grid[inside])[1]
    return scores
