"""Drawings of curves over time: the area under the ROC curve, and the Brier score."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from survfuse.evaluation.auc_over_time import Band
from survfuse.evaluation.survival_figures import BrierOverTime
from survfuse.evaluation.svg import LOW, MUTED, QUIET, WIDTH, month_ticks
from survfuse.runtime.arrays import Floats

FAINT = 0.18  # opacity of a band


def auc_drawing(band: Band) -> Figure | None:
    """The area over time with its band; None if it is defined nowhere."""
    value, low, high = (numbers(band[key]) for key in ("value", "low", "high"))
    if not np.isfinite(value).any():
        return None
    drawing = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    axes = drawing.subplots()
    axes.axhline(0.5, color=QUIET, linewidth=1, linestyle=":")
    axes.fill_between(band["months"], low, high, color=LOW, alpha=FAINT, linewidth=0)
    axes.plot(band["months"], value, color=LOW, linewidth=1.8)
    shown = np.concatenate([value, low, high, [0.5]])
    fit(axes, shown, most=1.0)
    axes.text(axes.get_xlim()[1], 0.5, "chance", color=MUTED, va="bottom", ha="right", fontsize=9)
    axes.set(xlabel="months", ylabel="AUC")
    month_axis(axes, band["months"][-1], band["months"][0])
    return drawing


def brier_drawing(scores: BrierOverTime) -> Figure | None:
    """Brier scores over time, of the predictions with their band and of Kaplan–Meier; None if none is defined."""
    predicted, low, high, marginal = (numbers(scores[key]) for key in ("predicted", "low", "high", "kaplan_meier"))
    known = np.isfinite(predicted)
    if not known.any():
        return None
    drawing = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    axes = drawing.subplots()
    months = np.asarray(scores["months"])
    marker = "o" if known.sum() < 12 else ""
    axes.fill_between(months, low, high, color=LOW, alpha=FAINT, linewidth=0)
    axes.plot(
        months, marginal, color=MUTED, linewidth=1.5, linestyle="--", marker=marker, markersize=4, label="Kaplan–Meier"
    )
    axes.plot(months, predicted, color=LOW, linewidth=1.8, marker=marker, markersize=4, label="predicted")
    fit(axes, np.concatenate([predicted, low, high, marginal, [0.0]]))
    axes.set(xlabel="months", ylabel="Brier score")
    month_axis(axes, float(months[known][-1]), 0.0)
    axes.legend(loc="best")
    return drawing


def numbers(values: Sequence[float | None]) -> Floats:
    """``values`` with NaN for None."""
    return np.array([np.nan if value is None else value for value in values])


def fit(axes: Axes, values: Floats, most: float | None = None) -> None:
    """Fit the height of ``axes`` to ``values``, with a margin, and at ``most`` to the largest possible value."""
    known = values[np.isfinite(values)]
    low, high = float(known.min()), float(known.max())
    margin = 0.06 * (high - low or 1.0)
    top = high + margin if most is None else min(high + margin, most + 0.01)
    axes.set_ylim(low - (margin if low > 0.0 else 0.0), top)


def month_axis(axes: Axes, last: float, first: float) -> None:
    """Whole years on the horizontal axis from about ``first`` to ``last`` months, if there are two at least."""
    ticks = [tick for tick in month_ticks(last) if tick >= first]
    if len(ticks) > 1:
        axes.set_xticks(ticks)
