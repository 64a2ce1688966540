"""Drawings of calibration in groups, and of net benefit."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from survfuse.evaluation.survival_figures import CalibrationGroup, NetBenefit
from survfuse.evaluation.svg import HIGH, LOW, MUTED, QUIET, WIDTH
from survfuse.evaluation.time_drawings import FAINT, numbers


def calibration_drawing(by_month: Mapping[str, Sequence[CalibrationGroup]]) -> Figure:
    """Mean predicted survival against Kaplan–Meier in groups of predicted survival, at each horizon."""
    drawing = Figure(figsize=(WIDTH, 2.4), layout="constrained")
    panels = drawing.subplots(1, len(by_month), sharey=True, sharex=True, squeeze=False)[0]
    shown = [value for groups in by_month.values() for group in groups for value in _values(group)]
    lowest = max(0.0, min([1.0, *shown]) - 0.05) if shown else 0.0
    for axes, (month, groups) in zip(panels, by_month.items(), strict=True):
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle=":")
        for group in groups:
            if group["low"] is not None and group["high"] is not None:
                axes.vlines(group["predicted"], group["low"], group["high"], color=LOW, linewidth=1.4)
            axes.plot([group["predicted"]], [group["observed"]], "o", color=LOW, markersize=5.5)
        axes.set(xlim=(lowest, 1.02), ylim=(lowest, 1.02), aspect="equal")
        if not groups:
            axes.text(0.5, 0.5, "too short\nfollow-up", ha="center", va="center", color=MUTED, transform=axes.transAxes)
        axes.set_title(f"{month} months")
    drawing.axes[0].set_ylabel("observed survival")
    drawing.supxlabel("predicted survival", fontsize=9)
    return drawing


def _values(group: CalibrationGroup) -> list[float]:
    ends = (group["predicted"], group["observed"], group["low"], group["high"])
    return [value for value in ends if value is not None]


def decision_drawing(by_month: Mapping[str, NetBenefit]) -> Figure | None:
    """Net benefit over threshold probabilities at each horizon, with its band; None if it is defined at none."""
    known = {month: curve for month, curve in by_month.items() if np.isfinite(numbers(curve["model"])).any()}
    if not known:
        return None
    drawing = Figure(figsize=(WIDTH, 2.3 * len(known) + 0.3), layout="constrained")
    panels = drawing.subplots(len(known), 1, squeeze=False)[:, 0]
    for axes, (month, curve) in zip(panels, known.items(), strict=True):
        thresholds, model, everybody = (numbers(curve[key]) for key in ("thresholds", "model", "treat_all"))
        low, high = numbers(curve["low"]), numbers(curve["high"])
        axes.axhline(0.0, color=MUTED, linewidth=1.2, label="treat nobody")
        axes.fill_between(thresholds, low, high, color=LOW, alpha=FAINT, linewidth=0)
        axes.plot(thresholds, everybody, color=HIGH, linewidth=1.4, linestyle="--", label="treat all")
        axes.plot(thresholds, model, color=LOW, linewidth=1.8, label="by the prediction")
        top = float(np.nanmax([*model, *high, everybody[0], 0.01]))
        # Where few would be treated, the curve says little, and treating all is far below zero.
        used = thresholds[np.isfinite(model) & (model != 0.0)]
        axes.set(ylim=(-0.3 * top, 1.1 * top), xlim=(0.0, float(used.max()) + 0.02 if used.size else 1.0))
        axes.set(ylabel="net benefit")
        axes.set_title(f"{month} months")
    panels[-1].set_xlabel("threshold probability of the event")
    panels[0].legend(loc="upper right")
    return drawing
