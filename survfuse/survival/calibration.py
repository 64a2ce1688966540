"""Risk → months by a stored Kaplan–Meier table.

A risk is ranked among the reference risks (out-of-fold risks of the training cohort). The share of the cohort with a
lower risk is taken as the survival probability at the predicted time, which the Kaplan–Meier curve converts to
months. Applying a table needs only numpy; fitting one uses lifelines.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from survfuse.runtime.arrays import Bools, Floats, Rows
from survfuse.runtime.errors import BundleError, InputError, brief

RANK = "rank"  # the reference's own rule: months are event times, so patients may tie
CONTINUOUS = "continuous"  # months strictly decrease with the risk

# Share of the time between two events that depends only on the risk. It keeps months strictly decreasing where the
# quantile is nearly flat, and never moves a prediction past an event time.
_RISK_SHARE = 0.01
_LARGEST_RISK = 2.0**21  # beyond it, months no longer decrease
_CLOSEST = 1e-5  # event times closer than this share of the follow-up count as one
_LEAST_BEYOND = 1e-3  # smallest share of the follow-up that lies beyond the last event


@dataclass(frozen=True)
class Months:
    """Predicted times."""

    months: Floats  # shaped like the risks
    beyond: Bools  # whether the time lies beyond the last event, where months only rank


@dataclass(frozen=True)
class Calibration:
    """A stored calibration table."""

    mode: str  # RANK or CONTINUOUS
    times: Floats  # [K] months of the whole Kaplan–Meier curve, from 0 to the last follow-up
    survival: Floats  # [K] its values
    reference_risks: Floats  # [R] sorted

    @classmethod
    def fit(
        cls, times: ArrayLike, events: ArrayLike, reference_risks: ArrayLike, mode: str = CONTINUOUS
    ) -> "Calibration":
        """The table of a cohort: follow-up ``times`` [n] in months, ``events`` [n], ``reference_risks`` [R].

        Raises InputError if a time is not finite or below 0, or if no patient was followed at all.
        """
        from lifelines import KaplanMeierFitter

        durations = np.asarray(times, dtype=np.float64)
        if durations.size == 0 or not np.isfinite(durations).all() or durations.min() < 0 or durations.max() <= 0:
            raise InputError("calibration: expected finite follow-up times, none negative and one above 0")
        curve = KaplanMeierFitter().fit(durations, np.asarray(events, dtype=bool)).survival_function_
        return cls(
            mode,
            curve.index.to_numpy(dtype=np.float64),
            curve.iloc[:, 0].to_numpy(dtype=np.float64),
            np.sort(np.asarray(reference_risks, dtype=np.float64)),
        )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Calibration":
        """The table that ``to_json`` stored; raises BundleError if ``value`` is not a sound one."""
        try:
            keys = ("times", "survival", "reference_risks")
            times, survival, risks = (np.asarray(value[key], dtype=np.float64) for key in keys)
            mode = value["mode"]
        except (KeyError, TypeError, ValueError, OverflowError) as cause:
            raise BundleError(f"calibration.json: not a calibration table ({brief(cause)})") from cause
        if mode not in (RANK, CONTINUOUS):
            raise BundleError(f"calibration.json: unknown mode {brief(mode)}")
        if risks.ndim != 1 or risks.size == 0 or not np.isfinite(risks).all() or (np.diff(risks) < 0).any():
            raise BundleError("calibration.json: expected sorted finite reference risks")
        sound = times.ndim == 1 and times.shape == survival.shape and times.size > 0
        if not sound or not np.isfinite(times).all() or (np.diff(times) <= 0).any() or times[0] < 0 or times[-1] <= 0:
            raise BundleError("calibration.json: expected increasing times from 0 or later, as many as survival values")
        # The comparison is false for NaN, too.
        if not ((survival >= 0.0) & (survival <= 1.0)).all() or (np.diff(survival) > 0).any():
            raise BundleError("calibration.json: expected survival that never increases, within 0 and 1")
        return cls(mode, times, survival, risks)

    def to_json(self) -> dict[str, object]:
        """The table as ``calibration.json`` stores it."""
        return {
            "mode": self.mode,
            "times": self.times.tolist(),
            "survival": self.survival.tolist(),
            "reference_risks": self.reference_risks.tolist(),
        }

    @property
    def cut(self) -> float:
        """The training cut between high and low risk: the median of the reference risks.

        They are those of the full combination. Risks of every combination are put on the same scale, in which their
        own reference risks have mean 0 and standard deviation 1, so that one cut serves all.
        """
        return float(np.median(self.reference_risks))

    def months(self, risks: ArrayLike) -> Months:
        """Predicted months for finite ``risks`` of any shape; larger risks give fewer months.

        >>> times, survival = np.array([0.0, 10.0, 20.0]), np.array([1.0, 0.8, 0.4])
        >>> table = Calibration(RANK, times, survival, np.array([-1.0, 0.0, 1.0]))
        >>> table.months([-2.0, 0.5]).months.tolist()
        [20.0, 10.0]
        """
        risks = np.asarray(risks, dtype=np.float64)
        if self.mode == RANK:
            level = rank_level(risks, self.reference_risks)
            months = nearest_time(level, self.times, self.survival)
        else:
            level = quantile(risks, self.reference_risks)
            months = interpolated_time(level, _decreasing(risks), self.times, self.survival)
        return Months(months, level < self.survival[-1])


def rank_level(risks: Floats, reference: Floats) -> Floats:
    """Survival probabilities p = 1 − (rank − 1) / |A|, shaped like ``risks``, for sorted ``reference`` risks [R].

    A is the reference risks with the new risk appended, and rank = #{a in A: a ≥ risk} (arXiv 2605.13897,
    calibration).

    >>> rank_level(np.array([0.5]), np.array([-1.0, 0.0, 1.0])).tolist()
    [0.75]
    """
    at_least = reference.size - np.searchsorted(reference, risks, side="left")
    return 1.0 - at_least / (reference.size + 1)  # rank − 1: the new risk itself is one of A


def nearest_time(level: Floats, times: Floats, survival: Floats) -> Floats:
    """max(0, t_k) at the first k that minimises |S_k − p|, shaped like ``level`` (arXiv 2605.13897, calibration).

    ``level`` holds the probabilities p; ``times`` and ``survival`` [K] are the Kaplan–Meier curve.
    """
    first = np.abs(survival - level[..., np.newaxis]).argmin(axis=-1)
    months: Floats = np.maximum(0.0, times[first])
    return months


def quantile(risks: Floats, reference: Floats) -> Floats:
    """Share of the sorted ``reference`` risks [R] below each risk, in (0, 1): continuous, and never decreasing.

    The reference risks have their mid-ranks (i − ½) / R, ties the mean of theirs; the quantile is linear in between.
    Outside, the remaining half rank shrinks with the logarithm of the distance, so that it does not underflow.
    """
    points, counts = np.unique(reference, return_counts=True)
    ranks = (np.cumsum(counts) - counts / 2.0) / reference.size
    spread = max(float(np.std(reference)), 1e-9 * max(1.0, float(np.abs(points).max())))
    inside = _interpolate(risks, points, ranks)
    above = 1.0 - (1.0 - ranks[-1]) / (1.0 + _log2(1.0 + np.maximum(risks - points[-1], 0.0) / spread))
    below = ranks[0] / (1.0 + _log2(1.0 + np.maximum(points[0] - risks, 0.0) / spread))
    return np.where(risks > points[-1], above, np.where(risks < points[0], below, inside))


def interpolated_time(level: Floats, decreasing: Floats, times: Floats, survival: Floats) -> Floats:
    """Months at which the curve, linear between event times, falls to ``level``; shaped like ``level``.

    One hundredth of the time between two events depends on ``decreasing`` (from 1 to 0 with increasing risk) instead.
    Levels below the curve's last value are spread evenly from the last event to the last follow-up, or over the last
    thousandth of the follow-up if that is longer.
    """
    knots, values = _event_knots(times, survival)
    follow_up = times[-1]
    if values[-1] > 0.0:
        if len(knots) > 1:
            earliest = (knots[-2] + knots[-1]) / 2.0
            knots[-1] = min(knots[-1], max(follow_up * (1.0 - _LEAST_BEYOND), earliest))
        knots = np.append(knots, follow_up)
        values = np.append(values, 0.0)
    # Reversed, survival increases, as the search requires.
    after, fraction = _segment(level, values[::-1])
    later, sooner = knots[::-1][after], knots[::-1][after + 1]
    share = np.minimum((1.0 - _RISK_SHARE) * (1.0 - fraction) + _RISK_SHARE * decreasing, 1.0)
    return np.clip(sooner + share * (later - sooner), sooner, later)


def _event_knots(times: Floats, survival: Floats) -> tuple[Floats, Floats]:
    """(times, survival) from (0, 1) through every event time.

    Event times too close to tell apart become one. Events at time 0 move to just after it, at most halfway to the
    next, so that the risks that lead there still get different months.
    """
    events = survival < np.concatenate([[1.0], survival[:-1]])
    event_times, event_values = times[events], survival[events]
    if early := int((event_times <= _CLOSEST * times[-1]).sum()):
        following = event_times[early] if event_times.size > early else times[-1]
        event_times = np.append(min(_LEAST_BEYOND * times[-1], following / 2.0), event_times[early:])
        event_values = event_values[early - 1 :]
    knots, values = [0.0], [1.0]
    for time, value in zip(event_times.tolist(), event_values.tolist(), strict=True):
        if time - knots[-1] < _CLOSEST * times[-1] and len(knots) > 1:
            values[-1] = value
        else:
            knots.append(time)
            values.append(value)
    return np.array(knots), np.array(values)


def _decreasing(risks: Floats) -> Floats:
    """A value that falls from below 1 to above 0 as the risk increases.

    It falls by at least a billionth for every gap of 1e-6 · max(1, |risk|), up to the largest risk.
    """
    bounded = np.clip(risks, -_LARGEST_RISK, _LARGEST_RISK)
    largest = _log2(np.asarray(1.0 + _LARGEST_RISK))
    return 0.5 - 0.49 * np.sign(bounded) * _log2(1.0 + np.abs(bounded)) / largest


def _interpolate(x: Floats, points: Floats, values: Floats) -> Floats:
    """Linear interpolation of increasing ``values``, constant outside, and monotone to the last bit.

    numpy.interp may overshoot the end of a segment by a rounding error, which would swap two neighbouring risks.
    """
    if points.size == 1:
        return np.full_like(x, values[0])
    left, fraction = _segment(x, points)
    between = values[left] + fraction * (values[left + 1] - values[left])
    return np.clip(between, values[left], values[left + 1])


def _segment(x: Floats, points: Floats) -> tuple[Rows, Floats]:
    """The number of the segment between increasing ``points`` that ``x`` lies in, and how far along it (0 to 1)."""
    left = np.clip(np.searchsorted(points, x, side="right") - 1, 0, points.size - 2)
    inside = np.clip(x, points[left], points[left + 1])
    return left, (inside - points[left]) / (points[left + 1] - points[left])


def _log2(x: Floats) -> Floats:
    """log2 for x ≥ 1, linear between powers of two: unlike a library's logarithm, monotone to the last bit."""
    mantissa, exponent = np.frexp(x)
    logarithm: Floats = exponent - 2.0 + 2.0 * mantissa
    return logarithm
