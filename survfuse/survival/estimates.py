"""Estimates with bootstrap intervals, risk groups and the log-rank test."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from lifelines.statistics import logrank_test
from numpy.typing import ArrayLike

from survfuse.runtime.arrays import Bools, Floats
from survfuse.survival.metrics import auc_at, concordance, percentile_interval, uno_concordance
from survfuse.survival.numbers import null


class Estimate(TypedDict):
    """A measure with its 95% percentile bootstrap interval, ready for JSON: None for what is undefined."""

    value: float | None
    low: float | None
    high: float | None
    undefined_draws: int  # bootstrap draws in which the measure was undefined; the interval leaves them out


def discrimination(times: ArrayLike, events: ArrayLike, risks: ArrayLike, months: Sequence[float]) -> list[float]:
    """[Harrell's C, Uno's C, AUC at each of ``months``] of ``risks`` [n].

    The censoring distribution is estimated from the same outcomes, ``times`` [n] in months and ``events`` [n].
    """
    areas = auc_at(times, events, times, events, risks, months)
    return [concordance(times, events, risks), uno_concordance(times, events, times, events, risks), *areas.values()]


def estimate(value: float, draws: Floats) -> Estimate:
    """One measure's ``value`` with the interval of its bootstrap ``draws`` [draws].

    >>> estimate(0.5, np.array([0.5, 0.5, float("nan")]))
    {'value': 0.5, 'low': 0.5, 'high': 0.5, 'undefined_draws': 1}
    """
    low, high = percentile_interval(draws)
    undefined = int((~np.isfinite(draws)).sum())
    return {"value": null(value), "low": null(low), "high": null(high), "undefined_draws": undefined}


def limits(draws: Floats) -> tuple[list[float | None], list[float | None]]:
    """(low, high) ends of the 95% percentile intervals of several measures' ``draws`` [draws, T], each of length T.

    >>> limits(np.array([[0.5, float("nan")], [0.5, float("nan")]]))
    ([0.5, None], [0.5, None])
    """
    ends = [percentile_interval(column) for column in draws.T]
    return [null(low) for low, _ in ends], [null(high) for _, high in ends]


def high_risk(risks: ArrayLike) -> Bools:
    """Which of ``risks`` [n] lie above their median.

    >>> high_risk([0.1, 2.0, -1.0]).tolist()
    [False, True, False]
    """
    values = np.asarray(risks, dtype=np.float64)
    return values > np.median(values)


def log_rank_p(times: ArrayLike, events: ArrayLike, high: Bools) -> float:
    """p of the log-rank test between the patients in ``high`` [n] and the others (Mantel 1966).

    NaN if one of the groups is empty, or without events.
    """
    times, events = np.asarray(times), np.asarray(events, dtype=bool)
    if high.all() or not high.any() or not events.any():
        return float("nan")
    return float(logrank_test(times[high], times[~high], events[high], events[~high]).p_value)
