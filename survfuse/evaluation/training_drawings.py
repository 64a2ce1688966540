"""Drawings of the training report alone: folds, risks by outcome, loss curves."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from survfuse.evaluation.forest_drawing import ForestRow, forest_drawing
from survfuse.evaluation.summary import CombinationFigures, HeldOut, MemberCurve, Summary
from survfuse.evaluation.svg import HIGH, LOW, MUTED, QUIET, WIDTH
from survfuse.evaluation.time_drawings import fit
from survfuse.runtime.log import count
from survfuse.survival.estimates import Estimate

_MOST_BINS = 20  # of the histogram of risks
_IN_A_BIN = 8  # patients, on average


def fold_drawing(held: HeldOut, figures: Summary) -> Figure:
    """Concordance within each outer fold, their mean, and the pooled concordance with its interval."""
    values, mean = figures["folds"]["values"], figures["folds"]["mean"]
    drawing = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    axes = drawing.subplots()
    axes.axhline(0.5, color=QUIET, linewidth=1, linestyle=":")
    heights = np.array([np.nan if value is None else value for value in values])
    axes.plot(range(len(values)), heights, "o", color=LOW, markersize=7)
    for at, value in enumerate(values):
        if value is not None:
            axes.annotate(f"{value:.2f}", (at, value), (7, 3), textcoords="offset points", fontsize=9)
    if mean is not None:
        axes.plot([-0.3, len(values) - 0.7], [mean, mean], color=LOW, linewidth=1, linestyle="--")
    pooled = figures["harrell_concordance"]
    _draw_pooled(axes, len(values), pooled)
    ends = [value for value in (pooled["value"], pooled["low"], pooled["high"]) if value is not None]
    fit(axes, np.concatenate([heights, [0.5, *ends]]), most=1.0)
    labels = []
    for number, fold in enumerate(np.unique(held.folds)):
        inside = held.folds == fold
        labels.append(f"fold {number + 1}\n{inside.sum()} pat.\n{held.events[inside].sum()} events")
    axes.set_xticks(range(len(values) + 1), [*labels, f"all\n{figures['patients']} pat.\n{figures['events']} events"])
    axes.tick_params(axis="x", labelsize=8.5 if len(values) < 8 else 7)
    axes.set_xlim(-0.5, len(values) + 0.6)
    axes.text(len(values) + 0.55, 0.5, "chance", color=MUTED, va="bottom", ha="right", fontsize=9)
    axes.set_ylabel("Harrell's C")
    return drawing


def _draw_pooled(axes: Axes, at: int, pooled: Estimate) -> None:
    """A diamond with its interval, if they are defined."""
    value, low, high = pooled["value"], pooled["low"], pooled["high"]
    if value is None:
        return
    if low is not None and high is not None:
        axes.vlines(at, low, high, color=HIGH, linewidth=1.6)
    axes.plot([at], [value], "D", color=HIGH, markersize=7)
    axes.annotate(f"{value:.2f}", (at, value), (7, 3), textcoords="offset points", fontsize=9)


def risk_drawing(held: HeldOut) -> Figure:
    """Histograms of the held-out risks of patients with the event and of the others."""
    drawing = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    axes = drawing.subplots()
    edges = np.histogram_bin_edges(held.risks, bins=int(np.clip(len(held.risks) // _IN_A_BIN, 4, _MOST_BINS)))
    for name, inside, colour, line in (
        ("with the event", held.events, HIGH, "-"),
        ("censored", ~held.events, LOW, "--"),
    ):
        if inside.any():
            shares = np.histogram(held.risks[inside], edges)[0] / inside.sum()
            axes.stairs(shares, edges, color=colour, linewidth=1.8, linestyle=line, label=f"{name}: {inside.sum()}")
            axes.stairs(shares, edges, color=colour, alpha=0.14, fill=True)
    axes.set(xlabel="held-out risk", ylabel="share of patients")
    axes.set_xlim(float(edges[0]), float(edges[-1]))
    axes.legend(loc="upper right")
    return drawing


def family_drawing(figures: Summary, weights: Mapping[str, float]) -> Figure | None:
    """Concordance of the reported risks and of each family alone, with the families' weights; None without families."""
    if not figures["candidates"]:
        return None
    rows = [ForestRow("reported risks", figures["harrell_concordance"], strong=True)]
    rows += [
        ForestRow(family, entry["concordance"], weight=weights.get(family) if weights else None)
        for family, entry in figures["candidates"].items()
    ]
    return forest_drawing(rows, "Harrell's C", weights="weight")


def combination_drawing(combinations: Mapping[str, CombinationFigures]) -> Figure | None:
    """Concordance of each combination of modalities; None if there is only one."""
    if len(combinations) < 2:
        return None
    first = next(iter(combinations))
    rows = [ForestRow(name, entry["concordance"], strong=name == first) for name, entry in combinations.items()]
    return forest_drawing(rows, "Harrell's C")


def loss_drawing(curves: Sequence[MemberCurve]) -> Figure | None:
    """Training and inner loss of every member, one panel a family; None if no member has a curve."""
    families = sorted({curve.family for curve in curves if curve.training or curve.inner})
    if not families:
        return None
    columns = min(len(families), 2)
    rows = -(-len(families) // columns)
    drawing = Figure(figsize=(WIDTH, 2.3 * rows + 0.3), layout="constrained")
    panels = drawing.subplots(rows, columns, squeeze=False).ravel()
    for axes, family in zip(panels, families, strict=False):
        members = [curve for curve in curves if curve.family == family]
        for curve in members:
            _draw_losses(axes, curve)
        axes.set_title(f"{family}\n{count(len(members), 'member')}")
        axes.set(xlabel="epoch", ylabel="loss")
    for spare in panels[len(families) :]:
        spare.set_visible(False)
    handles = [panels[0].plot([], [], **style)[0] for style in (_TRAINING, _INNER, _KEPT)]
    drawing.legend(handles, ["training", "inner validation", "epoch kept"], loc="outside upper right", ncols=3)
    return drawing


class _LineStyle(TypedDict, total=False):
    """Properties of a matplotlib line."""

    color: str
    linewidth: float
    alpha: float
    marker: str
    markersize: float
    linestyle: str


_TRAINING: _LineStyle = {"color": MUTED, "linewidth": 0.9, "linestyle": "--"}
_INNER: _LineStyle = {"color": LOW, "linewidth": 0.9}
_KEPT: _LineStyle = {"color": HIGH, "marker": "o", "markersize": 4, "linestyle": "none"}


def _draw_losses(axes: Axes, curve: MemberCurve) -> None:
    """One member's losses, with a dot at the epoch that was kept."""
    axes.plot(range(1, len(curve.training) + 1), curve.training, **_TRAINING)
    axes.plot(range(1, len(curve.inner) + 1), curve.inner, **_INNER)
    if 1 <= curve.best_epoch <= len(curve.inner):
        axes.plot([curve.best_epoch], [curve.inner[curve.best_epoch - 1]], **_KEPT)
