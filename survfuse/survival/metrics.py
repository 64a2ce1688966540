"""Measures of survival predictions, from scikit-survival and scipy, and their intervals.

Measures weighted by the inverse probability of censoring take two sets of outcomes: first those that the censoring
distribution is estimated from (``train_times``, ``train_events`` [m]), then those that are predicted (``times``,
``events`` [n]). All times are months. A measure that the outcomes leave undefined is NaN, never an error: that is
common in bootstrap samples of a small cohort.
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

from survfuse.runtime.arrays import Bools, Floats, Rows

NAN = float("nan")


def concordance(times: ArrayLike, events: ArrayLike, risks: ArrayLike) -> float:
    """Harrell's concordance (Harrell et al. 1982, JAMA 247:2543) of ``risks`` [n], larger is worse, with outcomes.

    Equal risks count half. It depends only on the order of the risks, not on their scale. NaN if no pair of patients
    can be ordered by their outcomes.

    >>> concordance([10, 20, 30], [1, 1, 0], [3e-12, 1e-12, 2e-12])
    0.6666666666666666
    """
    return challenge_concordance(times, events, -ranks(risks))


def challenge_concordance(times: ArrayLike, events: ArrayLike, months: ArrayLike) -> float:
    """Harrell's concordance of predicted ``months`` [n] with outcomes, as the challenge computes it.

    Months within 1e-8 of each other count as tied, and half: scikit-survival's default. NaN as for ``concordance``.
    """
    times, happened = _outcomes(times, events)
    if times.size < 2 or not happened.any():
        return NAN
    first = times[happened].min()
    # Two events at one time cannot be ordered, nor can anyone with a patient who was censored before the first event.
    if not ((times > first) | ((times == first) & ~happened)).any():
        return NAN
    return float(concordance_index_censored(happened, times, -np.asarray(months, dtype=np.float64))[0])


def ranks(values: ArrayLike) -> Floats:
    """The place [n] of each of ``values`` [n] among the distinct ones, from 1; equal values share theirs.

    For measures that depend on order alone: scikit-survival takes values within 1e-8 for tied, whatever their scale.

    >>> ranks([3e-12, 1e-12, 3e-12]).tolist()
    [2.0, 1.0, 2.0]
    """
    places: Floats = stats.rankdata(np.asarray(values, dtype=np.float64), method="dense").astype(np.float64)
    return places


def uno_concordance(
    train_times: ArrayLike, train_events: ArrayLike, times: ArrayLike, events: ArrayLike, risks: ArrayLike
) -> float:
    """Uno's concordance (Uno et al. 2011, Statistics in Medicine 30:1105) of ``risks`` [n], larger is worse.

    Events count up to the longest time at which a patient could still be under observation: the end of the predicted
    patients' follow-up, or the time at which the censoring distribution's survival falls to 0 if that is sooner.
    NaN if that leaves no pair to order.
    """
    times, happened = _outcomes(times, events)
    if times.size == 0:
        return NAN
    tau = min(_observable(train_times, train_events), float(times.max()))
    if not (happened & (times < tau)).any():
        return NAN
    train, test = _surv(train_times, train_events), _surv(times, happened)
    try:
        return float(concordance_index_ipcw(train, test, ranks(risks), tau=tau)[0])
    except NoComparablePairException:
        return NAN


def auc_at(
    train_times: ArrayLike,
    train_events: ArrayLike,
    times: ArrayLike,
    events: ArrayLike,
    risks: ArrayLike,
    months: Sequence[float],
) -> dict[float, float]:
    """Cumulative/dynamic area under the ROC curve of ``risks`` [n] at each of ``months``.

    It compares the patients who had the event by that month with those still free of it (Uno et al. 2007, JASA
    102:527; Hung and Chiang 2010, Canadian Journal of Statistics 38:8). NaN at a month beyond either follow-up, and
    if one of the two groups is empty.
    """
    times, happened = _outcomes(times, events)
    risks = ranks(risks)
    observable = _observable(train_times, train_events)
    areas = {}
    for month in months:
        cases, controls = happened & (times <= month), times > month
        if month >= observable or not cases.any() or not controls.any():
            areas[month] = NAN
            continue
        # Patients with an event after the month are controls. They need no weights, and the censoring
        # distribution may not reach that far.
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
    """Integrated Brier score (Graf et al. 1999, Statistics in Medicine 18:2529) of ``survival`` [n, T].

    ``survival`` holds the predicted probabilities of no event by the increasing months ``at`` [T]; smaller scores are
    better. The integral runs over those of ``at`` that lie within the follow-up of ``times`` [n] and at which the
    censoring distribution's survival is above 0. NaN if fewer than two do, or if no patient had the event by the last.
    """
    times, happened = _outcomes(times, events)
    at, survival = np.asarray(at, dtype=np.float64), np.asarray(survival, dtype=np.float64)
    if times.size == 0:
        return NAN
    end = min(_observable(train_times, train_events), float(times.max()))
    inside = (at >= times.min()) & (at < end)
    if inside.sum() < 2 or not (happened & (times <= at[inside][-1])).any():
        return NAN
    # Follow-up beyond the grid is cut to its end: the censoring distribution may not reach further.
    test = _surv(np.minimum(times, end), happened & (times < end))
    return float(integrated_brier_score(_surv(train_times, train_events), test, survival[:, inside], at[inside]))


class DCalibration(NamedTuple):
    """Result of the test for distribution calibration."""

    statistic: float  # Pearson's χ²
    p: float
    shares: Floats  # [bins] of the patients by predicted survival, from 0 upwards; they sum to 1


def d_calibration(times: ArrayLike, events: ArrayLike, survival_at_own_time: ArrayLike, bins: int = 10) -> DCalibration:
    """Test of distribution calibration (Haider et al. 2020, JMLR 21:85).

    Under the true model, predicted survival at the patients' own event times is uniform; Pearson's χ² with bins − 1
    degrees of freedom tests that. ``survival_at_own_time`` [n] is the predicted survival at ``times`` [n].

    A patient with an event counts in the bin [k/bins, (k+1)/bins) of that survival, 1 in the last bin. A censored
    patient's event would come later, at a lower survival, so that patient is spread evenly from 0 to that survival.
    With much censoring the test rejects less often than its level. Raises ValueError for survival that is not a
    probability.
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
    spread = ~happened & (survival > 0.0)  # a patient censored at survival 0 counts whole in the lowest bin
    counted[spread] = covered[spread] / survival[spread, np.newaxis]
    patients = counted.sum(axis=0)  # [bins]
    statistic, p = stats.chisquare(patients)
    return DCalibration(float(statistic), float(p), patients / times.size)


def resampled(function: Callable[[Rows], ArrayLike], n: int, draws: int = 1000, seed: int = 0) -> Floats:
    """Values [draws, …] of ``function`` in bootstrap samples of n patients.

    ``function`` takes the sample as row numbers [n], with repetition.
    """
    random = np.random.default_rng(seed)
    return np.array([function(random.integers(0, n, n)) for _ in range(draws)], dtype=np.float64)


def percentile_interval(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """(low, high) of the central ``level`` of bootstrap ``values`` [draws] (percentile interval, Efron 1979).

    Draws in which the measure was undefined (NaN) are left out; (NaN, NaN) if more than half of them were.

    >>> percentile_interval(np.arange(101.0), level=0.5)
    (25.0, 75.0)
    """
    defined = values[np.isfinite(values)]
    if defined.size == 0 or 2 * defined.size < values.size:
        return NAN, NAN
    low, high = np.quantile(defined, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def paired_difference(differences: ArrayLike, level: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high) of paired ``differences`` [k] by Student's t; the interval is NaN for fewer than two.

    It assumes independent differences. Those of folds that share training patients are not: see
    ``corrected_difference``.

    >>> [round(value, 3) for value in paired_difference([0.1, 0.3])]
    [0.2, -1.071, 1.471]
    """
    return _t_interval(np.asarray(differences, dtype=np.float64), 0.0, level)


def corrected_difference(
    differences: ArrayLike, test_share: float, train_share: float, level: float = 0.95
) -> tuple[float, float, float]:
    """(mean, low, high) of ``differences`` [k] between two models over the splits of a cross-validation.

    The corrected resampled t interval (Nadeau and Bengio 2003, Machine Learning 52:239). ``test_share`` and
    ``train_share`` are the parts of the cohort that each split tests and trains on; their ratio is added to 1/k
    because the training sets overlap. The interval is NaN for fewer than two differences.
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


def _outcomes(times: ArrayLike, events: ArrayLike) -> tuple[Floats, Bools]:
    return np.asarray(times, dtype=np.float64), np.asarray(events, dtype=bool)


def _surv(times: ArrayLike, events: ArrayLike) -> NDArray[np.void]:
    """Outcomes as the structured array that scikit-survival takes."""
    times, happened = _outcomes(times, events)
    outcomes: NDArray[np.void] = Surv.from_arrays(happened, times)
    return outcomes


def _observable(times: ArrayLike, events: ArrayLike) -> float:
    """The time before which the censoring survival of these outcomes is known and above 0."""
    times, happened = _outcomes(times, events)
    if not happened.any():  # scikit-survival estimates no censoring from a sample without events
        return -np.inf
    censoring = CensoringDistributionEstimator().fit(_surv(times, happened))
    gone = censoring.unique_time_[censoring.prob_ <= 0.0]
    return float(gone[0]) if gone.size else float(times.max())
