"""The drawings of an explanation's page, as SVG: the case's survival curve, and its place among the reference risks."""

from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from survfuse.evaluation.svg import HIGH, LOW, QUIET, month_ticks, style, svg_element
from survfuse.explanation.explanation import Explanation
from survfuse.explanation.record_types import Record
from survfuse.explanation.words import signed
from survfuse.runtime.arrays import Floats
from survfuse.survival.calibration import Calibration
from survfuse.survival.curves import SurvivalCurve

_SIZE = (5.4, 3.5)  # inches
_INK = "#1d2430"
_BINS = 30
_CURVE = "Event-free survival of this case and of the reference patients by month"
_POSITION = "Where the risk of this case lies among those of the reference patients"


def drawings(explanation: Explanation, written: Record) -> dict[str, str]:
    """Name → SVG element of the case's "position" and, if the bundle has curves, of its "curve"."""
    calibration, curve = explanation.bundle.calibration, explanation.prediction.curve
    with style():
        drawn = {"position": svg_element("position", position_figure(written, calibration.reference_risks), _POSITION)}
        if curve is not None:
            drawn["curve"] = svg_element("curve", curve_figure(written, calibration, curve), _CURVE)
    return drawn


def curve_figure(written: Record, calibration: Calibration, curve: SurvivalCurve) -> Figure:
    """Event-free survival of the case by ``curve``, over that of the reference patients.

    With a known spread, a band between the curves at the risk ± its spread.
    """
    case = written["prediction"]
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    _draw_reference(axes, calibration)
    _draw_case(axes, curve, case["risk"], case["risk_sd"], case["follow_up"])
    axes.set(xlim=(0.0, case["follow_up"] * 1.02), ylim=(0.0, 1.03), xlabel="months", ylabel="event-free survival")
    axes.set_xticks(month_ticks(case["follow_up"]))
    _draw_months(axes, case["months"], case["beyond_last_event"])
    figure.legend(loc="outside upper left", ncols=3, fontsize=8)
    return figure


def _draw_reference(axes: Axes, calibration: Calibration) -> None:
    times, survival = np.append(0.0, calibration.times), np.append(1.0, calibration.survival)
    label = "reference patients"
    axes.step(times, survival, where="post", color=QUIET, linewidth=1.4, linestyle="--", label=label)


def _draw_case(axes: Axes, curve: SurvivalCurve, risk: float, spread: float | None, follow_up: float) -> None:
    inside = curve.times[curve.times <= follow_up]
    at: Floats = np.concatenate([[0.0], inside, [follow_up]])
    if spread is not None:
        worse, better = curve.survival([risk + spread, risk - spread], at)
        label = "risk ± spread over members"
        axes.fill_between(at, worse, better, step="post", color=LOW, alpha=0.18, linewidth=0, label=label)
    axes.step(at, curve.survival([risk], at)[0], where="post", color=LOW, linewidth=2.0, label="this case")


def _draw_months(axes: Axes, months: float, beyond: bool) -> None:
    axes.axvline(months, color=HIGH, linewidth=1.2)
    said = f"{months:.1f} months" + (" (rank only)" if beyond else "")
    _label(axes, said, (months, 0.0), "bottom", HIGH)


def position_figure(written: Record, reference_risks: Floats) -> Figure:
    """Where the case's risk lies among the ``reference_risks`` [R]."""
    case = written["prediction"]
    risk, spread = case["risk"], case["risk_sd"]
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    counts, edges = np.histogram(reference_risks, bins=_BINS)
    axes.stairs(counts, edges, fill=True, color="#c9ced6", label="reference patients")
    if spread is not None:
        axes.axvspan(risk - spread, risk + spread, color=LOW, alpha=0.16, linewidth=0, label="± spread over members")
    axes.axvline(risk, color=LOW, linewidth=2.0, label="this case")
    top = 1.25 * float(counts.max())
    axes.set(ylim=(0.0, top), xlabel="risk (larger is worse)", ylabel="reference patients")
    said = f"risk {signed(risk)}\npercentile {case['percentile']:.0f}"
    _label(axes, said, (risk, top), "top", _INK)
    figure.legend(loc="outside upper left", ncols=3, fontsize=8)
    return figure


def _label(axes: Axes, text: str, place: tuple[float, float], vertical: Literal["top", "bottom"], colour: str) -> None:
    """Text beside a vertical line at ``place``, on the side that has more room."""
    left = place[0] > np.mean(axes.get_xlim())
    axes.annotate(
        text,
        place,
        (-5 if left else 5, -3 if vertical == "top" else 3),
        textcoords="offset points",
        ha="right" if left else "left",
        va=vertical,
        color=colour,
        fontsize=8,
    )
