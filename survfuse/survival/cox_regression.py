"""Cox regression on one covariate, by lifelines: hazard ratios and the calibration slope."""

import warnings
from typing import TypedDict

import numpy as np
import pandas as pd
from lifelines import CoxPHFitter
from lifelines.exceptions import ConvergenceError
from numpy.typing import ArrayLike

from survfuse.survival.numbers import null

_FLAT = 1e-9  # a covariate's standard deviation, relative to its size, from which on it counts as varying
_LARGEST = 50.0  # |log hazard ratio| of a standardised covariate beyond which the likelihood has no maximum


class Coefficient(TypedDict):
    """A coefficient of Cox's model with its 95% Wald interval and p; None if it is undefined."""

    value: float | None
    low: float | None
    high: float | None
    p: float | None


UNDEFINED: Coefficient = {"value": None, "low": None, "high": None, "p": None}


def cox_coefficient(covariate: ArrayLike, times: ArrayLike, events: ArrayLike) -> Coefficient:
    """The log hazard ratio per unit of ``covariate`` [n] (Cox 1972, JRSS B 34:187; ties by Efron 1977, JASA 72:557).

    Outcomes are ``times`` [n] in months and ``events`` [n]. With a risk that is a log relative hazard as the covariate,
    it is the calibration slope, which is 1 if the risks are right (van Houwelingen 2000, Statistics in Medicine
    19:3401). Undefined without events, for a covariate that hardly varies, and if the likelihood has no maximum, as
    where the covariate separates the events perfectly.
    """
    values = np.asarray(covariate, dtype=np.float64)
    happened = np.asarray(events, dtype=bool)
    if values.size < 2 or not happened.any():
        return UNDEFINED
    middle, spread = float(values.mean()), float(values.std())
    if spread <= _FLAT * max(1.0, abs(middle)):
        return UNDEFINED
    # Fitted in standard deviations: lifelines' steps assume a covariate of about that scale.
    table = pd.DataFrame({"covariate": (values - middle) / spread, "time": times, "event": happened})
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            fitted = CoxPHFitter().fit(table, "time", "event").summary.loc["covariate"]
        except (ConvergenceError, ValueError, ZeroDivisionError, np.linalg.LinAlgError):
            return UNDEFINED
    found = [float(fitted[name]) for name in ("coef", "coef lower 95%", "coef upper 95%")]
    if not np.isfinite(found).all() or max(map(abs, found)) > _LARGEST:
        return UNDEFINED
    value, low, high = (entry / spread for entry in found)
    return {"value": value, "low": low, "high": high, "p": null(float(fitted["p"]))}


def hazard_ratio(covariate: ArrayLike, times: ArrayLike, events: ArrayLike) -> Coefficient:
    """The hazard ratio per unit of ``covariate`` [n], with its interval and p: see ``cox_coefficient``."""
    found = cox_coefficient(covariate, times, events)
    return {
        "value": _exponential(found["value"]),
        "low": _exponential(found["low"]),
        "high": _exponential(found["high"]),
        "p": found["p"],
    }


def _exponential(value: float | None) -> float | None:
    return None if value is None else float(np.exp(value))
