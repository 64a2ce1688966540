"""Risk → survival curve: one Cox coefficient and a baseline hazard, stored in the bundle.

Applying a curve needs only numpy; fitting one uses lifelines.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from survfuse.runtime.arrays import Bools, Floats
from survfuse.runtime.errors import BundleError, InputError, brief

_FLAT = 1e-9  # risks count as all equal if their standard deviation, relative to their size, is below this
_STEEPEST = 500.0  # largest exponent of e: survival is 0 or 1 long before, and infinity times a hazard of 0 is NaN
_RIDGE = 0.1  # lifelines' penaliser of the standardised coefficient if the likelihood has no maximum


@dataclass(frozen=True)
class SurvivalCurve:
    """Survival at time t given a risk: S(t | risk) = exp(−H₀(t) · exp(coefficient · (risk − centre)))."""

    coefficient: float  # log hazard ratio per unit of risk, at least 0
    centre: float  # the risk that the baseline hazard belongs to
    times: Floats  # [K] months, increasing
    hazard: Floats  # [K] cumulative baseline hazard H₀ from each time to the next

    @classmethod
    def fit(cls, risks: ArrayLike, times: ArrayLike, events: ArrayLike) -> "SurvivalCurve":
        """The curve of a cohort: finite ``risks`` [n], follow-up ``times`` [n] in months, ``events`` [n].

        A Cox model with the risk as its only covariate (Cox 1972, JRSS B 34:187; ties by Efron 1977, JASA 72:557) and
        Breslow's baseline hazard (1974, Biometrics 30:89). The risks should be out-of-fold: a network's risks for its
        own training patients would make the curve too steep. The coefficient is 0, so that everybody has the cohort's
        own curve, if the risks are all equal and also if the fitted one is negative: a model that does not work must
        not be reversed. If the risks order the outcomes perfectly the likelihood has no maximum, and a small ridge
        penalty keeps the coefficient finite.

        Raises InputError without events, for values that are not finite, and for times below 0.
        """
        risks, times = np.asarray(risks, dtype=np.float64), np.asarray(times, dtype=np.float64)
        happened = np.asarray(events, dtype=bool)
        if not risks.shape == times.shape == happened.shape or risks.ndim != 1:
            raise InputError("survival curve: expected as many risks as follow-up times and events")
        if not (np.isfinite(risks).all() and np.isfinite(times).all() and (times >= 0).all() and happened.any()):
            raise InputError("survival curve: expected finite risks, follow-up times of at least 0 and an event")
        centre = float(risks.mean())
        varies = risks.std() > _FLAT * max(1.0, abs(centre))
        coefficient = max(0.0, _cox_coefficient(risks - centre, times, happened)) if varies else 0.0
        return cls(coefficient, centre, *_breslow(coefficient * (risks - centre), times, happened))

    def steeper(self, factor: float, risks: ArrayLike, times: ArrayLike, events: ArrayLike) -> "SurvivalCurve":
        """The same curve for risks of the same spread but with less error.

        ``risks``, ``times`` and ``events`` [n] are those that the curve was fitted to. The coefficient is multiplied
        by ``factor``; the baseline hazard is estimated again to match.

        Risks averaged over more models vary less, because errors cancel. Rescaled to the spread of the risks that the
        curve was fitted to, they say more per unit: measurement error attenuates a coefficient by its share of the
        variance (Fuller 1987, Measurement Error Models), so ``factor`` is the ratio of the two spreads before
        rescaling.
        """
        coefficient = self.coefficient * factor
        centred = np.asarray(risks, dtype=np.float64) - self.centre
        months, happened = np.asarray(times, dtype=np.float64), np.asarray(events, dtype=bool)
        own_times, hazard = _breslow(coefficient * centred, months, happened)
        return replace(self, coefficient=coefficient, times=own_times, hazard=hazard)

    def survival(self, risks: ArrayLike, at: ArrayLike) -> Floats:
        """Probability [n, T] of no event by the months ``at`` [T], given finite ``risks`` [n].

        A step function: 1 before the first of the curve's times, constant after the last.

        >>> curve = SurvivalCurve(1.0, 0.0, np.array([12.0, 24.0]), np.array([0.0, 0.5]))
        >>> curve.survival([0.0, 1.0], [12, 60]).round(3).tolist()
        [[1.0, 0.607], [1.0, 0.257]]
        """
        step = np.searchsorted(self.times, np.asarray(at, dtype=np.float64), side="right")
        baseline: Floats = np.concatenate([[0.0], self.hazard])[step]  # [T]
        exponent = self.coefficient * (np.asarray(risks, dtype=np.float64) - self.centre)
        hazard_ratio = np.exp(np.clip(exponent, -_STEEPEST, _STEEPEST))  # [n]
        return np.exp(-hazard_ratio[:, np.newaxis] * baseline)

    def to_json(self) -> dict[str, object]:
        """The curve as ``survival.json`` stores it."""
        return {
            "coefficient": self.coefficient,
            "centre": self.centre,
            "times": self.times.tolist(),
            "hazard": self.hazard.tolist(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "SurvivalCurve":
        """The curve that ``to_json`` stored; raises BundleError if ``value`` is not a sound one."""
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
    """The curves of ``survival.json`` by combination; raises BundleError that names an unsound one."""
    curves = {}
    for combination, curve in value.items():
        try:
            curves[combination] = SurvivalCurve.from_json(curve)
        except BundleError as problem:
            raise BundleError(f"{combination[:80]}: {problem}") from problem
    return curves


def _numbers(value: object) -> Floats:
    """A JSON number or list of numbers; text and booleans, which numpy would convert, raise TypeError."""
    numbers = np.asarray(value)
    if numbers.dtype.kind not in "iuf":
        raise TypeError(f"expected numbers, found {str(value)[:40]!r}")
    return numbers.astype(np.float64)


def _cox_coefficient(risks: Floats, times: Floats, happened: Bools) -> float:
    """Cox's coefficient of centred ``risks`` [n]."""
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


def _breslow(log_hazards: Floats, times: Floats, happened: Bools) -> tuple[Floats, Floats]:
    """(distinct times [K], cumulative baseline hazard [K]) of patients with relative hazards e^log_hazards [n]."""
    distinct, place = np.unique(times, return_inverse=True)
    leaving = np.bincount(place, np.exp(np.clip(log_hazards, -_STEEPEST, _STEEPEST)))
    # Summed from the end: subtracted from a total, the smallest risk sets would be nothing but rounding error.
    at_risk = np.cumsum(leaving[::-1])[::-1]
    return distinct, np.cumsum(np.bincount(place, happened) / at_risk)
