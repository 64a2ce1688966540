"""Risk → survival curve: one Cox coefficient and a baseline hazard, stored.

Applying a curve needs numpy alone; fitting one uses lifelines.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from survfuse.errors import BundleError, InputError

Floats = NDArray[np.float64]

_FLAT = 1e-9  # standard deviation of risks, relative to their size, below which they are one risk
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
        if risks.std() > _FLAT * max(1.0, abs(centre)):
            coefficient, at, hazard = _cox(risks - centre, times, happened)
            if coefficient > 0.0:
                return cls(coefficient, centre, at, hazard)
        return cls(0.0, centre, *_nelson_aalen(times, happened))

    def survival(self, risks: ArrayLike, at: ArrayLike) -> Floats:
        """Probability of no event by the months ``at`` [T] for finite ``risks`` [n]: [n, T].

        A step function: 1 before the first of the curve's times, constant after its last.
        """
        step = np.searchsorted(self.times, np.asarray(at, dtype=np.float64), side="right")
        baseline = np.concatenate([[0.0], self.hazard])[step]  # [T]
        # Beyond e^±500 the survival is 0 or 1 in any case, and infinity times a hazard of 0 would be NaN.
        exponent = self.coefficient * (np.asarray(risks, dtype=np.float64) - self.centre)
        return np.exp(-np.exp(np.clip(exponent, -500.0, 500.0))[:, np.newaxis] * baseline)

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
            raise BundleError(f"survival curve: not a stored curve ({cause!r})") from cause
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


def _numbers(value: Any) -> Floats:
    """A JSON number or list of numbers; text and booleans, which numpy would convert, raise TypeError."""
    found = np.asarray(value)
    if found.dtype.kind not in "iuf":
        raise TypeError(f"expected numbers, found {str(value)[:40]!r}")
    return found.astype(np.float64)


def _cox(risks: Floats, times: Floats, happened: NDArray[np.bool_]) -> tuple[float, Floats, Floats]:
    """(coefficient, times [K], cumulative baseline hazard [K] at risk 0) of centred risks."""
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
    hazard = fitted.baseline_cumulative_hazard_
    return (
        float(fitted.params_["risk"]),
        hazard.index.to_numpy(dtype=np.float64),
        hazard.iloc[:, 0].to_numpy(dtype=np.float64),
    )


def _nelson_aalen(times: Floats, happened: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """(times [K], cumulative hazard [K]): Breslow's estimate where the coefficient is 0."""
    from lifelines import NelsonAalenFitter

    hazard = NelsonAalenFitter(nelson_aalen_smoothing=False).fit(times, happened).cumulative_hazard_
    return hazard.index.to_numpy(dtype=np.float64), hazard.iloc[:, 0].to_numpy(dtype=np.float64)
