"""The drawings of the training report."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from lifelines import KaplanMeierFitter
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from survfuse.evaluation.summary import HeldOut, MemberCurve, predicted_at
from survfuse.runtime.log import count
from survfuse.survival.curves import MONTHS
from survfuse.survival.estimates import high_risk, number_text

_LARGEST_GROUPS = 5  # of patients in a calibration plot
_GROUP = 30  # patients that a group should have at least


# Drawings

HIGH, LOW, QUIET = "#b5432a", "#2b6a99", "#8a8f98"
_STYLE = {
    "svg.hashsalt": "survfuse",  # otherwise ids are random
    "svg.fonttype": "none",  # text stays text: small, searchable, read aloud
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9,
    "text.parse_math": False,  # a family's name may hold a dollar sign
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555b66",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "xtick.color": "#333a45",
    "ytick.color": "#333a45",
}


def drawings(held: HeldOut, curves: Sequence[MemberCurve], found: Mapping[str, Any]) -> dict[str, str]:
    """Name → SVG of every drawing that there is something to draw for."""
    with matplotlib.rc_context(_STYLE):
        drawings = {
            "folds": fold_drawing(held, found),
            "groups": group_drawing(held, found),
            "calibration": calibration_drawing(held),
            "losses": loss_drawing(curves),
        }
        return {name: _svg(name, drawing) for name, drawing in drawings.items() if drawing is not None}


def fold_drawing(held: HeldOut, found: Mapping[str, Any]) -> Figure:
    """Concordance within each outer fold, their mean, and the pooled figure with its interval."""
    values, pooled = found["folds"]["values"], found["harrell_concordance"]
    drawing = Figure(figsize=(6.8, 2.9), layout="constrained")
    axes = drawing.subplots()
    axes.axhline(0.5, color=QUIET, linewidth=1, linestyle=":")
    axes.text(len(values) + 0.45, 0.5, "chance", color=QUIET, va="bottom", ha="right", fontsize=8)
    axes.plot(range(len(values)), [np.nan if v is None else v for v in values], "o", color=LOW, markersize=7)
    for at, value in enumerate(values):
        if value is not None:
            axes.annotate(f"{value:.2f}", (at, value), (7, 3), textcoords="offset points", fontsize=8)
    if (mean := found["folds"]["mean"]) is not None:
        axes.plot([-0.3, len(values) - 0.7], [mean, mean], color=LOW, linewidth=1, linestyle="--")
    _pooled(axes, len(values), pooled)
    labels = []
    for number, fold in enumerate(np.unique(held.folds)):
        inside = held.folds == fold
        labels.append(f"fold {number + 1}\n{inside.sum()} patients\n{held.events[inside].sum()} events")
    axes.set_xticks(range(len(values) + 1), [*labels, f"all\n{found['patients']} patients\n{found['events']} events"])
    axes.set_xlim(-0.5, len(values) + 0.5)
    axes.set_ylabel("Harrell's C")
    return drawing


def _pooled(axes: Axes, at: int, pooled: Mapping[str, Any]) -> None:
    value, low, high = (pooled[key] for key in ("value", "low", "high"))
    if value is None:
        return
    if low is not None:
        axes.vlines(at, low, high, color=HIGH, linewidth=1.6)
    axes.plot([at], [value], "D", color=HIGH, markersize=7)
    axes.annotate(f"{value:.2f}", (at, value), (7, 3), textcoords="offset points", fontsize=8)


def group_drawing(held: HeldOut, found: Mapping[str, Any]) -> Figure:
    """Kaplan–Meier of the patients above and up to the median held-out risk, with the numbers at risk."""
    high = high_risk(held.risks)
    drawing = Figure(figsize=(6.8, 4.4), layout="constrained")
    axes, table = drawing.subplots(2, 1, sharex=True, height_ratios=(5, 1))
    groups = [
        (name, mask, colour)
        for name, mask, colour in (("high risk", high, HIGH), ("low risk", ~high, LOW))
        if mask.any()
    ]
    for name, mask, colour in groups:
        curve = KaplanMeierFitter().fit(held.times[mask], held.events[mask])
        at, (low, upper) = curve.survival_function_.index, curve.confidence_interval_.to_numpy().T
        label = f"{name}: {mask.sum()} patients, {held.events[mask].sum()} events"
        axes.step(at, curve.survival_function_.iloc[:, 0], where="post", color=colour, linewidth=1.8, label=label)
        axes.fill_between(at, low, upper, step="post", color=colour, alpha=0.14, linewidth=0)
        censored = held.times[mask & ~held.events]
        axes.plot(censored, curve.survival_function_at_times(censored), "|", color=colour, markersize=5)
    axes.set(ylim=(0, 1.02), ylabel="without the event", xlim=(0, float(held.times.max()) * 1.02))
    axes.set_title(f"log-rank p {number_text(found['log_rank_p'], '.2g')}", loc="right", fontweight="normal")
    axes.legend(loc="lower left")
    axes.set_xticks(_month_ticks(float(held.times.max())))
    for row, (_, mask, colour) in enumerate(groups):
        for at in axes.get_xticks():
            table.text(
                at, -row, str(int((held.times[mask] >= at).sum())), color=colour, ha="center", va="center", fontsize=8
            )
    table.set(ylim=(-len(groups) + 0.4, 0.6), yticks=range(0, -len(groups), -1))
    table.set_yticklabels([name for name, _, _ in groups])
    table.set_title("patients at risk", loc="left", fontsize=8, fontweight="normal")
    table.spines[:].set_visible(False)
    table.tick_params(length=0)
    table.tick_params(axis="y", pad=18)  # past the first column of numbers
    axes.tick_params(axis="x", labelbottom=True)
    table.tick_params(axis="x", labelbottom=False)
    axes.set_xlabel("months")
    return drawing


def _month_ticks(last: float) -> list[float]:
    """Whole years, thinned to ten at most."""
    step = 12.0 * max(1, int(np.ceil(last / 120.0)))
    return np.arange(0.0, last + 1e-9, step).tolist()


def calibration_drawing(held: HeldOut) -> Figure:
    """Mean predicted survival against Kaplan–Meier in groups of predicted risk, at each of MONTHS."""
    drawing = Figure(figsize=(6.8, 2.7), layout="constrained")
    for axes, month in zip(drawing.subplots(1, len(MONTHS), sharey=True), MONTHS, strict=True):
        groups = calibration_groups(held, month)
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle=":")
        for predicted, observed, low, high in groups:
            if np.isfinite([low, high]).all():
                axes.vlines(predicted, low, high, color=LOW, linewidth=1.4)
            axes.plot([predicted], [observed], "o", color=LOW, markersize=5.5)
        if not groups:
            axes.text(0.5, 0.5, "not enough follow-up", ha="center", va="center", color=QUIET)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal", xlabel="predicted survival")
        axes.set_title(f"{month:g} months")
    drawing.axes[0].set_ylabel("observed survival")
    return drawing


def calibration_groups(held: HeldOut, month: float) -> list[tuple[float, float, float, float]]:
    """(mean predicted survival, Kaplan–Meier survival, low, high) at ``month`` in groups of equal size from the
    lowest predicted survival to the highest; low and high are Kaplan–Meier's 95% limits, NaN where a group had
    no event by then. Groups not followed up to the month are left out."""
    predicted = predicted_at(held, np.full(len(held.times), month))
    number = int(np.clip(len(predicted) // _GROUP, 2, _LARGEST_GROUPS))
    groups = []
    for members in np.array_split(np.argsort(predicted, kind="stable"), number):
        if held.times[members].max() < month:
            continue
        curve = KaplanMeierFitter().fit(held.times[members], held.events[members])
        limits = curve.confidence_interval_survival_function_.loc[:month].iloc[-1]
        groups.append((float(predicted[members].mean()), float(curve.predict(month)), *map(float, limits)))
    return groups


def loss_drawing(curves: Sequence[MemberCurve]) -> Figure | None:
    """Training and inner loss of every member, one panel a family; None where no member has a curve."""
    families = sorted({curve.family for curve in curves if curve.training or curve.inner})
    if not families:
        return None
    columns = min(len(families), 2)
    rows = -(-len(families) // columns)
    drawing = Figure(figsize=(6.8, 2.5 * rows), layout="constrained")
    panels = drawing.subplots(rows, columns, squeeze=False).ravel()
    for axes, family in zip(panels, families, strict=False):
        members = [curve for curve in curves if curve.family == family]
        for curve in members:
            _draw_losses(axes, curve)
        axes.set_title(f"{family}, {count(len(members), 'member')}")
        axes.set(xlabel="epoch", ylabel="loss")
    for spare in panels[len(families) :]:
        spare.set_visible(False)
    handles = [panels[0].plot([], [], **style)[0] for style in (_TRAINING, _INNER, _BEST)]
    drawing.legend(handles, ["training", "inner validation", "epoch kept"], loc="outside upper right", ncols=3)
    return drawing


_TRAINING = {"color": QUIET, "linewidth": 0.9, "alpha": 0.8}
_INNER = {"color": LOW, "linewidth": 0.9, "alpha": 0.8}
_BEST = {"color": HIGH, "marker": "o", "markersize": 4, "linestyle": "none"}


def _draw_losses(axes: Axes, curve: MemberCurve) -> None:
    axes.plot(range(1, len(curve.training) + 1), curve.training, **_TRAINING)
    axes.plot(range(1, len(curve.inner) + 1), curve.inner, **_INNER)
    if 1 <= curve.best_epoch <= len(curve.inner):
        axes.plot([curve.best_epoch], [curve.inner[curve.best_epoch - 1]], **_BEST)


def _svg(name: str, drawing: Figure) -> str:
    """The drawing as an element of a page: without what only a file of its own needs, its ids prefixed by ``name``
    so that the drawings of one page keep apart."""
    buffer = io.StringIO()
    drawing.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", text)
    label = re.sub(r"<.*?>", "", CAPTIONS[name])
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


# Page

CAPTIONS = {
    "folds": "Concordance within each outer fold (dots; dashed: their mean) and of all held-out risks pooled, with "
    "its 95% interval (diamond).",
    "groups": "Kaplan–Meier curves, with 95% limits, of the patients above the median held-out risk and of the "
    "others; ticks are censored patients.",
    "calibration": "Held-out predicted survival against Kaplan–Meier in groups of equal size by predicted survival; "
    "bars are 95% limits. On the dotted line, what was predicted is what happened.",
    "losses": "Loss of each member by epoch, on its training patients and on the inner patients that chose the epoch "
    "kept. Members differ in patients, so their levels differ.",
}
