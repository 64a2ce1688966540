"""The area under the cumulative/dynamic ROC curve over time, with a band."""

from typing import TypedDict

import numpy as np

from survfuse.evaluation.judged import Judged
from survfuse.survival.bootstrap import Draws, aucs
from survfuse.survival.estimates import limits
from survfuse.survival.metrics import auc_at
from survfuse.survival.numbers import null

_MOST_MONTHS = 24  # points of a curve


class Band(TypedDict):
    """A curve over time with its pointwise 95% percentile bootstrap intervals; None where it is undefined."""

    months: list[float]
    value: list[float | None]
    low: list[float | None]
    high: list[float | None]


def auc_band(judged: Judged, draws: Draws) -> Band:
    """The area at months spread evenly over the times of the middle nine tenths of the events."""
    months = curve_months(judged)
    areas = auc_at(judged.times, judged.events, judged.times, judged.events, judged.risks, months)
    sampled = aucs(judged.times, judged.events, judged.risks, draws.weights, months)  # [draws, T]
    low, high = limits(sampled)
    return {
        "months": months,
        "value": [null(areas[month]) for month in months],
        "low": low,
        "high": high,
    }


def curve_months(judged: Judged) -> list[float]:
    """Months at which a curve over time is drawn: at most 24, increasing; none without events.

    They leave out the first and the last twentieth of the events, where an area rests on a few patients.
    """
    if not judged.events.any():
        return []
    first, last = np.quantile(judged.times[judged.events], [0.05, 0.95])
    months: list[float] = np.unique(np.linspace(first, last, _MOST_MONTHS).round(1)).tolist()
    return months
