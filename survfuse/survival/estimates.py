"""Figures with bootstrap intervals, risk groups and the log-rank test."""

from collections.abc import Callable
from typing import Any

import numpy as np
from lifelines.statistics import logrank_test
from numpy.typing import ArrayLike, NDArray

from survfuse.runtime.arrays import Floats
from survfuse.survival.metrics import auc_at, concordance, percentile_interval, resampled, uno_concordance


def discrimination(times: ArrayLike, events: ArrayLike, risks: ArrayLike) -> list[float]:
    """[Harrell's C, Uno's C, AUC at each of MONTHS] of ``risks`` [n], censoring estimated from these outcomes."""
    areas = auc_at(times, events, times, events, risks)
    return [concordance(times, events, risks), uno_concordance(times, events, times, events, risks), *areas.values()]


def figures(
    measures: Callable[[NDArray[np.int64]], list[float]], n: int, draws: int, seed: int = 0
) -> list[dict[str, Any]]:
    """A figure for each of the ``measures``, a function from patients' indices [n] to a list of numbers."""
    values = np.asarray(measures(np.arange(n)), dtype=np.float64)
    found = resampled(measures, n, draws, seed).reshape(draws, values.size)
    return [figure(value, column) for value, column in zip(values, found.T, strict=True)]


def figure(value: float, draws: Floats) -> dict[str, Any]:
    """One measure with its 95% interval from bootstrap ``draws`` [draws]; None for what is undefined."""
    low, high = percentile_interval(draws)
    undefined = int((~np.isfinite(draws)).sum())
    return {"value": null(value), "low": null(low), "high": null(high), "undefined_draws": undefined}


def high_risk(risks: ArrayLike) -> NDArray[np.bool_]:
    """Which of ``risks`` [n] lie above their median."""
    return np.asarray(risks) > np.median(risks)


def log_rank_p(times: ArrayLike, events: ArrayLike, high: NDArray[np.bool_]) -> float:
    """p of the log-rank test between the patients in ``high`` [n] and the others; NaN where either has nobody or
    no event happened."""
    times, events = np.asarray(times), np.asarray(events, dtype=bool)
    if high.all() or not high.any() or not events.any():
        return float("nan")
    return float(logrank_test(times[high], times[~high], events[high], events[~high]).p_value)


def null(value: float) -> float | None:
    """``value`` for JSON, which has no NaN."""
    return float(value) if np.isfinite(value) else None


def number_text(value: float | None, form: str = ".3f") -> str:
    return "undefined" if value is None else format(value, form)
