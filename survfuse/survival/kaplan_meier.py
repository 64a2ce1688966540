"""Kaplan–Meier estimates for many samples of the same patients at once."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from survfuse.runtime.arrays import Floats


def survival_at(times: ArrayLike, events: ArrayLike, weights: ArrayLike, months: Sequence[float]) -> Floats:
    """Kaplan–Meier survival [m, T] at ``months`` [T] of m samples (Kaplan and Meier 1958, JASA 53:457).

    ``weights`` [m, n] says how often each sample holds each of n patients: counts of bootstrap draws, or 0 and 1 for
    groups. Outcomes are ``times`` [n] in months and ``events`` [n]. NaN where nobody of a sample was followed up to
    the month, unless its curve had fallen to 0 before.

    >>> survival_at([10, 20, 30], [1, 1, 0], [[1, 1, 1], [0, 2, 1]], [10, 25]).round(3).tolist()
    [[0.667, 0.333], [1.0, 0.333]]
    """
    months_reached = np.asarray(months, dtype=np.float64)
    order = np.argsort(np.asarray(times, dtype=np.float64), kind="stable")
    ordered = np.asarray(times, dtype=np.float64)[order]
    sample = np.asarray(weights, dtype=np.float64)[:, order]
    distinct, first = np.unique(ordered, return_index=True)
    leaving = np.add.reduceat(sample, first, axis=1)  # [m, K]
    deaths = np.add.reduceat(sample * np.asarray(events, dtype=bool)[order], first, axis=1)
    at_risk = np.cumsum(leaving[:, ::-1], axis=1)[:, ::-1]
    survivors = np.divide(deaths, at_risk, out=np.zeros_like(deaths), where=at_risk > 0.0)
    curve = np.cumprod(1.0 - survivors, axis=1)
    curve = np.concatenate([np.ones((len(curve), 1)), curve], axis=1)
    values: Floats = curve[:, np.searchsorted(distinct, months_reached, side="right")]
    last = np.where(leaving > 0.0, distinct, -np.inf).max(axis=1)  # [m]
    unknown = (months_reached > last[:, np.newaxis]) & (values > 0.0)
    return np.where(unknown, np.nan, values)
