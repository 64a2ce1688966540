"""Risk → survival curve: one Cox coefficient and a baseline hazard, stored.

Applying a curve needs numpy alone; fitting one uses lifelines.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from survfuse.runtime.arrays import Floats
from survfuse.runtime.errors import BundleError, InputError, brief

MONTHS = (12.0, 24.0, 60.0)  # at which a prediction is stated and judged
_FLAT = 1e-9  # standard deviation of risks, relative to their size, below which they are one risk
_STEEPEST = 500.0  # exponent of e: beyond it survival is 0 or 1 in any case, and infinity times a hazard of 0 NaN
_RIDGE = 0.1  # lifelines' penaliser of the standardised coefficient where the likelihood has no maximum


@dataclass(frozen=True)
class SurvivalCurve:
    """S(t | risk) = exp(−H₀(t) · exp(coefficient · (risk − centre))). ``times`` [K] are months and increase;
    ``hazard`` [K] is the cumulative hazard H₀ from each of them to the next, for a patient whose risk is ``centre``."""

    coefficient: float
    centre: float
    times: Floats
    hazard: Floats

    @classmethod
    def fit(cls, risks: ArrayLike, times: ArrayLike, events: ArrayLike) -> "SurvivalCurve":
        """The curve of a cohort: finite risks [n], follow-up ``times`` [n] in months, ``events`` [n].

        A Cox model of the risk alone (Cox 1972; ties by Efron 1977) with Breslow's (1974) baseline hazard. The risks
        should be out-of-fold: risks that a network gave to its own training patients would make the curve too
        steep. A negative coefficient becomes 0, and everyone then has the cohort's own curve: a model that does not
        work must not be turned round. So do risks that are all alike. Where the risks order the outcomes without
        fault the likelihood has no maximum, and a small ridge penalty keeps the coefficient finite.

        Raises InputError without events, or for values that are not finite or times below 0.
        """
        risks, times = np.asarray(risks, dtype=np.float64), np.asarray(times, dtype=np.float64)
        happened = np.asarray(events, dtype=bool)
        if not risks.shape == times.shape == happened.shape or risks.ndim != 1:
            raise InputError("survival curve: expected as many risks as follow-up times and events")
        if not (np.isfinite(risks).all() and np.isfinite(times).all() and (times >= 0).all() and happened.any()):
            raise InputError("survival curve: expected finite risks, follow-up times of at least 0 and an event")
        centre = float(risks.mean())
        spread = risks.std() > _FLAT * max(1.0, abs(centre))
        coefficient = max(0.0, _coefficient(risks - centre, times, happened)) if spread else 0.0
        return cls(coefficient, centre, *_breslow(coefficient * (risks - centre), times, happened))

    def steeper(self, factor: float, risks: ArrayLike, times: ArrayLike, events: ArrayLike) -> "SurvivalCurve":
        """The curve, fitted to these values, for risks of the same spread that err less: its coefficient times
        ``factor``, and the baseline hazard that goes with it.

        Risks averaged over more models vary less, by what was error. Brought back to the spread of those that the
        curve was fitted to, they say more per unit: error dilutes a coefficient by its share of the variance (Fuller
        1987), so ``factor`` is the ratio of the two spreads before.
        """
        coefficient = self.coefficient * factor
        centred = np.asarray(risks, dtype=np.float64) - self.centre
        at, hazard = _breslow(
            coefficient * centred, np.asarray(times, dtype=np.float64), np.asarray(events, dtype=bool)
        )
        return replace(self, coefficient=coefficient, times=at, hazard=hazard)

    def survival(self, risks: ArrayLike, at: ArrayLike) -> Floats:
        """Probability of no event by the months ``at`` [T] for finite ``risks`` [n]: [n, T].

        A step function: 1 before the first of the curve's times, constant after its last.
        """
        step = np.searchsorted(self.times, np.asarray(at, dtype=np.float64), side="right")
        baseline = np.concatenate([[0.0], self.hazard])[step]  # [T]
        exponent = self.coefficient * (np.asarray(risks, dtype=np.float64) - self.centre)
        return np.exp(-np.exp(np.clip(exponent, -_STEEPEST, _STEEPEST))[:, np.newaxis] * baseline)

    def to_json(self) -> dict[str, Any]:
        return {
            "coefficient": self.coefficient,
            "centre": self.centre,
            "times": self.times.tolist(),
            "hazard": self.hazard.tolist(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "SurvivalCurve":
        """Read what ``to_json`` gave; raises BundleError where it is not a sound curve."""
        try:
            numbers = [_numbers(value[key]) for key in ("coefficient", "centre", "times", "hazard")]
        except (KeyError, TypeError, ValueError, OverflowError) as cause:
            raise BundleError(f"survival curve: not a stored curve ({brief(cause)})") from cause
        coefficient, centre, times, hazard = numbers
        if coefficient.ndim or centre.ndim or not np.isfinite([coefficient, centre]).all() or coefficient < 0:
            raise BundleError("survival curve: expected a finite centre and a finite coefficient of at least 0")
        if times.ndim != 1 or times.shape != hazard.shape or times.size == 0:
            raise BundleError("survival curve: expected as many times as hazards, and one at least")
        if not np.isfinite(times).all() or times[0] < 0 or (np.diff(times) <= 0).any():
            raise BundleError("survival curve: expected finite increasing times of at least 0")
        if not np.isfinite(hazard).all() or hazard[0] < 0 or (np.diff(hazard) < 0).any():
            raise BundleError("survival curve: expected a finite cumulative hazard of at least 0 that never decreases")
        return cls(float(coefficient), float(centre), times, hazard)


def curves_from_json(value: Mapping[str, Any]) -> dict[str, SurvivalCurve]:
    """The curves of ``survival.json`` by combination; raises BundleError naming the one that is not sound."""
    curves = {}
    for combination, curve in value.items():
        try:
            curves[combination] = SurvivalCurve.from_json(curve)
        except BundleError as problem:
            raise BundleError(f"{combination[:80]}: {problem}") from problem
    return curves


def _numbers(value: Any) -> Floats:
    """A JSON number or list of numbers; text and booleans, which numpy would convert, raise TypeError."""
    found = np.asarray(value)
    if found.dtype.kind not in "iuf":
        raise TypeError(f"expected numbers, found {str(value)[:40]!r}")
    return found.astype(np.float64)


def _coefficient(risks: Floats, times: Floats, happened: NDArray[np.bool_]) -> float:
    """Cox's coefficient of centred risks [n]."""
    import pandas as pd
    from lifelines import CoxPHFitter
    from lifelines.exceptions import ConvergenceError, ConvergenceWarning

    table = pd.DataFrame({"risk": risks, "time": times, "event": happened})
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            fitted = CoxPHFitter().fit(table, "time", "event")
        except (ConvergenceError, ConvergenceWarning):
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = CoxPHFitter(penalizer=_RIDGE).fit(table, "time", "event")
    return float(fitted.params_["risk"])


def _breslow(exponent: Floats, times: Floats, happened: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """(times [K], cumulative hazard [K] where the exponent is 0) of patients with hazards e^exponent [n]."""
    at, place = np.unique(times, return_inverse=True)
    leaving = np.bincount(place, np.exp(np.clip(exponent, -_STEEPEST, _STEEPEST)))
    # Summed from the end: taken off a total instead, the smallest risk sets would be rounding errors.
    at_risk = np.cumsum(leaving[::-1])[::-1]
    return at, np.cumsum(np.bincount(place, happened) / at_risk)
