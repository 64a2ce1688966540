"""Cox's coefficient of one covariate in many bootstrap samples at once."""

import numpy as np
from numpy.typing import ArrayLike

from survfuse.runtime.arrays import Bools, Floats

_STEPS = 40  # of Newton's method
_LONGEST = 2.0  # step, in standard deviations of the covariate
_NEAR = 1e-9  # a step from which on the maximum counts as found
_LARGEST = 50.0  # |coefficient| of a standardised covariate beyond which the likelihood has no maximum
_BLOCK = 4_000_000  # numbers in an array of samples × patients


def cox_coefficients(covariate: ArrayLike, times: ArrayLike, events: ArrayLike, weights: Floats) -> Floats:
    """The log hazard ratio [draws] per unit of ``covariate`` [n] in each sample (Cox 1972; ties by Efron 1977).

    ``weights`` [draws, n] says how often each sample holds each patient; a patient drawn twice is two with the same
    outcome. Outcomes are ``times`` [n] in months and ``events`` [n]. NaN without events, for a covariate that does not
    vary, and if the likelihood has no maximum.
    """
    values, months = np.asarray(covariate, dtype=np.float64), np.asarray(times, dtype=np.float64)
    spread = float(values.std())
    if values.size < 2 or spread <= 0.0 or not np.asarray(events, dtype=bool).any():
        return np.full(len(weights), np.nan)
    latest_first = np.argsort(-months, kind="stable")
    likelihood = _Likelihood(
        ((values - values.mean()) / spread)[latest_first],
        months[latest_first],
        np.asarray(events, dtype=bool)[latest_first],
    )
    rows = max(1, _BLOCK // values.size)
    blocks = [likelihood.maximum(weights[at : at + rows, latest_first]) for at in range(0, len(weights), rows)]
    return np.concatenate(blocks or [np.empty(0)]) / spread


class _Likelihood:
    """Cox's partial likelihood of a standardised covariate ``x`` [n] of patients with the latest times first."""

    def __init__(self, x: Floats, times: Floats, events: Bools) -> None:
        self._x, self._events = x, events
        distinct = np.unique(-times[events])  # of the events, latest first: [K]
        self._last = np.searchsorted(-times, distinct, side="right") - 1  # the last of each risk set
        self._first = np.searchsorted(-times[events], distinct, side="left")  # the first event of each tie

    def maximum(self, weights: Floats) -> Floats:
        """The coefficient [m] at which the likelihood of each of the samples ``weights`` [m, n] is largest."""
        deaths = self._tied(weights)
        coefficient, open_ = np.zeros(len(weights)), deaths.sum(axis=1) > 0.0
        found = np.zeros(len(weights), dtype=bool)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for _ in range(_STEPS):
                slope, curvature = self._derivatives(weights, deaths, coefficient)
                step = np.where(open_, np.clip(slope / curvature, -_LONGEST, _LONGEST), 0.0)
                coefficient = coefficient + np.nan_to_num(step)
                found |= open_ & (np.abs(step) < _NEAR)
                open_ &= np.isfinite(step) & ~found & (np.abs(coefficient) < _LARGEST)
                if not open_.any():
                    break
        return np.where(found, coefficient, np.nan)

    def _derivatives(self, weights: Floats, deaths: Floats, coefficient: Floats) -> tuple[Floats, Floats]:
        """First and minus second derivative [m] of the log likelihood at each sample's ``coefficient`` [m]."""
        hazards = weights * np.exp(coefficient[:, np.newaxis] * self._x)
        powers = [hazards, hazards * self._x, hazards * self._x**2]
        sums = [np.cumsum(each, axis=1)[:, self._last] for each in powers]  # over each risk set [m, K]
        tied = [self._tied(each) for each in powers]
        slope = (weights * self._x)[:, self._events].sum(axis=1)
        curvature = np.zeros(len(weights))
        # Efron: for the k-th of d tied events, k/d of the tied patients' hazards have left the risk set.
        for place in range(int(deaths.max())):
            share = np.divide(place, deaths, out=np.zeros_like(deaths), where=deaths > 0.0)
            total, first, second = (each - share * own for each, own in zip(sums, tied, strict=True))
            counted = deaths > place
            mean = np.divide(first, total, out=np.zeros_like(total), where=counted)
            square = np.divide(second, total, out=np.zeros_like(total), where=counted)
            slope -= mean.sum(axis=1)
            curvature += (square - mean**2).sum(axis=1)
        return slope, curvature

    def _tied(self, values: Floats) -> Floats:
        """Sums [m, K] of ``values`` [m, n] over the events at each distinct time."""
        sums: Floats = np.add.reduceat(values[:, self._events], self._first, axis=1)
        return sums
