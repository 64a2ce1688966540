"""Forest plots: estimates with their intervals, one below the other."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from survfuse.evaluation.svg import HIGH, LOW, MUTED, QUIET, WIDTH
from survfuse.survival.estimates import Estimate


@dataclass(frozen=True)
class ForestRow:
    """One row: an estimate, or a heading for the rows below if there is none."""

    label: str
    estimate: Estimate | None = None
    weight: float | None = None  # a share from 0 to 1, drawn as a bar beside
    strong: bool = False  # what the others are compared with
    faint: bool = False  # too few events
    note: str = ""  # text to the right


def forest_drawing(rows: Sequence[ForestRow], axis: str, reference: float = 0.5, weights: str = "") -> Figure | None:
    """The ``rows`` from top to bottom, with a line at ``reference``; None if no estimate is defined.

    ``axis`` is what the horizontal axis shows; ``weights`` what the bars beside show, if there are any.
    """
    known = [row.estimate for row in rows if row.estimate is not None and row.estimate["value"] is not None]
    if not known:
        return None
    drawing = Figure(figsize=(WIDTH, 0.75 + 0.27 * len(rows)), layout="constrained")
    has_weights = any(row.weight is not None for row in rows)
    if has_weights:
        axes, bars = drawing.subplots(1, 2, sharey=True, width_ratios=(3, 1))
        bars.barh(range(len(rows)), [row.weight or 0.0 for row in rows], color=QUIET, height=0.55)
        bars.set(xlabel=weights, xlim=(0.0, None))
        bars.tick_params(axis="y", length=0)
    else:
        axes = drawing.subplots()
    axes.axvline(reference, color=QUIET, linewidth=1, linestyle=":")
    for place, row in enumerate(rows):
        _draw_row(axes, place, row)
        if row.note:
            axes.annotate(row.note, (1.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    axes.set(yticks=range(len(rows)), ylim=(len(rows) - 0.4, -0.6), xlabel=axis)
    axes.set_yticklabels([_short(row.label) for row in rows])
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row.estimate is None or row.strong else "normal")
    axes.tick_params(axis="y", length=0)
    ends = [end for each in known for end in (each["value"], each["low"], each["high"]) if end is not None]
    low, high = min([*ends, reference]), max([*ends, reference])
    margin = 0.05 * (high - low or 1.0)
    axes.set_xlim(low - margin, high + margin)
    return drawing


def _draw_row(axes: Axes, place: int, row: ForestRow) -> None:
    found = row.estimate
    if found is None or found["value"] is None:
        return
    colour = HIGH if row.strong else MUTED if row.faint else LOW
    if found["low"] is not None and found["high"] is not None:
        axes.hlines(
            place, found["low"], found["high"], color=colour, linewidth=1.6, linestyle=":" if row.faint else "-"
        )
    marker = "D" if row.strong else "s"
    face = "white" if row.faint else colour
    axes.plot([found["value"]], [place], marker, color=colour, markerfacecolor=face, markersize=6)


def _short(label: str, most: int = 30) -> str:
    """A label that leaves room for the plot."""
    return label if len(label) <= most else f"{label[: most - 1]}…"
