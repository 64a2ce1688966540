"""Measures of survival predictions, from scikit-survival and scipy, and their intervals.

Measures that weigh by the inverse probability of censoring take the outcomes that the censoring distribution is
estimated from first (``train_times``, ``train_events``), then the outcomes that are predicted. A measure that the
outcomes leave undefined is NaN, never an error: resamples of a small cohort meet that often.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sksurv.exceptions import NoComparablePairException
from sksurv.metrics import (
    concordance_index_censored,
    concordance_index_ipcw,
    cumulative_dynamic_auc,
    integrated_brier_score,
)
from sksurv.nonparametric import CensoringDistributionEstimator
from sksurv.util import Surv

from survfuse.runtime.arrays import Floats
from survfuse.survival.curves import MONTHS

NAN = float("nan")


def concordance(times: ArrayLike, events: ArrayLike, risks: ArrayLike) -> float:
    """Harrell's concordance of ``risks`` [n] (larger is worse) with outcomes, as the challenge computes it:
    tied risks count half. NaN where no pair of patients can be ordered by their outcomes."""
    happened = np.asarray(events, dtype=bool)
    if happened.size < 2 or not happened.any():
        return NAN
    try:
        return float(concordance_index_censored(happened, np.asarray(times), np.asarray(risks))[0])
    except NoComparablePairException:
        return NAN


def uno_concordance(
    train_times: ArrayLike, train_events: ArrayLike, times: ArrayLike, events: ArrayLike, risks: ArrayLike
) -> float:
    """Uno's concordance (Uno et al. 2011, Statistics in Medicine 30:1105) of ``risks`` [n], larger is worse.

    Times [m] and [n] are months. Events count up to the longest time at which somebody could still be seen: the
    end of the follow-up predicted, or where the censoring distribution's survival falls to 0 if that is sooner.
    NaN where that leaves no pair to order.
    """
    times, happened = _outcomes(times, events)
    if times.size == 0:
        return NAN
    tau = min(_observable(train_times, train_events), float(times.max()))
    if not (happened & (times < tau)).any():
        return NAN
    train, test = _surv(train_times, train_events), _surv(times, happened)
    try:
        return float(concordance_index_ipcw(train, test, np.asarray(risks, dtype=np.float64), tau=tau)[0])
    except NoComparablePairException:
        return NAN


def auc_at(
    train_times: ArrayLike,
    train_events: ArrayLike,
    times: ArrayLike,
    events: ArrayLike,
    risks: ArrayLike,
    months: Sequence[float] = MONTHS,
) -> dict[float, float]:
    """Cumulative/dynamic area under the ROC curve of ``risks`` [n] by month: whoever had the event by then against
    whoever was still without it (Uno et al. 2007, JASA 102:527; Hung and Chiang 2010).

    NaN at a month beyond either follow-up, or with nobody on one of the sides.
    """
    times, happened = _outcomes(times, events)
    risks = np.asarray(risks, dtype=np.float64)
    observable = _observable(train_times, train_events)
    areas = {}
    for month in months:
        cases, controls = happened & (times <= month), times > month
        if month >= observable or not cases.any() or not controls.any():
            areas[month] = NAN
            continue
        # Events after the month make their patients controls and need no weight of their own, which the censoring
        # distribution may not have that late.
        train, test = _surv(train_times, train_events), _surv(times, cases)
        areas[month] = float(cumulative_dynamic_auc(train, test, risks, [max(month, times.min())])[0][0])
    return areas


def integrated_brier(
    train_times: ArrayLike,
    train_events: ArrayLike,
    times: ArrayLike,
    events: ArrayLike,
    survival: ArrayLike,
    at: ArrayLike,
) -> float:
    """Integrated Brier score (Graf et al. 1999, Statistics in Medicine 18:2529) of ``survival`` [n, T], the
    predicted probabilities of no event by the increasing months ``at`` [T]; smaller is better.

    The integral runs over those of ``at`` within the follow-up of ``times`` [n] at which the censoring
    distribution's survival is above 0. NaN where fewer than two are, or where nobody had the event by the last.
    """
    times, happened = _outcomes(times, events)
    at, survival = np.asarray(at, dtype=np.float64), np.asarray(survival, dtype=np.float64)
    if times.size == 0:
        return NAN
    end = min(_observable(train_times, train_events), float(times.max()))
    inside = (at >= times.min()) & (at < end)
    if inside.sum() < 2 or not (happened & (times <= at[inside][-1])).any():
        return NAN
    # Whoever is followed beyond the grid only has to stay beyond it; the censoring distribution may not reach further.
    test = _surv(np.minimum(times, end), happened & (times < end))
    return float(integrated_brier_score(_surv(train_times, train_events), test, survival[:, inside], at[inside]))


class DCalibration(NamedTuple):
    statistic: float
    p: float
    shares: Floats  # [bins] of the patients by predicted survival, from 0 upwards; they sum to 1


def d_calibration(times: ArrayLike, events: ArrayLike, survival_at_own_time: ArrayLike, bins: int = 10) -> DCalibration:
    """Distribution calibration (Haider et al. 2020, JMLR 21:85): under the true model the predicted survival at
    each patient's own event time is uniform, which Pearson's χ² with bins − 1 degrees of freedom tests.

    ``survival_at_own_time`` [n] is the predicted survival at ``times`` [n]. A patient with an event counts in the
    bin [k/bins, (k+1)/bins) it falls in, 1 in the last. A censored one, whose event would come at a lower survival,
    is spread evenly from 0 to its own. With much censoring the test rejects less often than its level.
    Raises ValueError for survival that is not a probability.
    """
    times, happened = _outcomes(times, events)
    survival = np.asarray(survival_at_own_time, dtype=np.float64)
    if survival.shape != times.shape or not ((survival >= 0.0) & (survival <= 1.0)).all():
        raise ValueError("expected one survival probability for each patient")
    if times.size == 0:
        return DCalibration(NAN, NAN, np.full(bins, NAN))
    low = np.arange(bins) / bins
    own = np.minimum(np.searchsorted(low, survival, side="right") - 1, bins - 1)
    counted = np.eye(bins)[own]  # [n, bins]
    covered = np.clip(survival[:, np.newaxis] - low, 0.0, 1.0 / bins)
    spread = ~happened & (survival > 0.0)  # who is censored at survival 0 counts whole in the lowest bin
    counted[spread] = covered[spread] / survival[spread, np.newaxis]
    found = counted.sum(axis=0)
    statistic, p = stats.chisquare(found)
    return DCalibration(float(statistic), float(p), found / times.size)


def resampled(function: Callable[[NDArray[np.int64]], ArrayLike], n: int, draws: int = 1000, seed: int = 0) -> Floats:
    """``function`` of ``draws`` bootstrap samples of n patients (indices [n], with repetition): [draws, …]."""
    random = np.random.default_rng(seed)
    return np.array([function(random.integers(0, n, n)) for _ in range(draws)], dtype=np.float64)


def percentile_interval(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """The central ``level`` of bootstrap ``values`` [draws] (Efron's percentile interval).

    Draws where the measure was undefined (NaN) are left out; (NaN, NaN) where those are more than half.
    """
    defined = values[np.isfinite(values)]
    if defined.size == 0 or 2 * defined.size < values.size:
        return NAN, NAN
    low, high = np.quantile(defined, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def bootstrap_interval(
    function: Callable[[NDArray[np.int64]], float], n: int, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap over n patients of a measure given as a function of their indices [n]: (low, high).

    Draws where the measure is NaN are left out; ``resampled`` gives the draws where their number is wanted.
    """
    return percentile_interval(resampled(function, n, draws, seed), level)


def paired_difference(differences: ArrayLike, level: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high) of paired ``differences`` [k] by Student's t; the interval is NaN for fewer than two.

    It takes the differences as independent, which those of folds that share training patients are not: see
    ``corrected_difference``.
    """
    return _t_interval(np.asarray(differences, dtype=np.float64), 0.0, level)


def corrected_difference(
    differences: ArrayLike, test_share: float, train_share: float, level: float = 0.95
) -> tuple[float, float, float]:
    """(mean, low, high) of ``differences`` [k] over resampled splits by the corrected resampled t interval
    (Nadeau and Bengio 2003, Machine Learning 52:239).

    ``test_share`` and ``train_share`` are the parts of the cohort that each split tests and trains on; their
    ratio is added to 1/k, for training sets that overlap. The interval is NaN for fewer than two differences.
    """
    return _t_interval(np.asarray(differences, dtype=np.float64), test_share / train_share, level)


def _t_interval(values: Floats, overlap: float, level: float) -> tuple[float, float, float]:
    if values.size == 0:
        return NAN, NAN, NAN
    mean = float(values.mean())
    if values.size < 2:
        return mean, NAN, NAN
    error = np.sqrt((1.0 / values.size + overlap) * values.var(ddof=1))
    half = float(stats.t.ppf((1.0 + level) / 2.0, values.size - 1) * error)
    return mean, mean - half, mean + half


def _outcomes(times: ArrayLike, events: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    return np.asarray(times, dtype=np.float64), np.asarray(events, dtype=bool)


def _surv(times: ArrayLike, events: ArrayLike) -> NDArray[np.void]:
    """The structured array that scikit-survival takes outcomes in."""
    times, happened = _outcomes(times, events)
    return Surv.from_arrays(happened, times)


def _observable(times: ArrayLike, events: ArrayLike) -> float:
    """The time up to which, itself left out, the censoring survival of these outcomes is known and above 0."""
    times, happened = _outcomes(times, events)
    if not happened.any():  # scikit-survival estimates no censoring from a sample without events
        return -np.inf
    censoring = CensoringDistributionEstimator().fit(_surv(times, happened))
    gone = censoring.unique_time_[censoring.prob_ <= 0.0]
    return float(gone[0]) if gone.size else float(times.max())
