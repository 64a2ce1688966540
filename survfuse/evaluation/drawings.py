"""The drawings of the training report, as SVG."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from lifelines import KaplanMeierFitter
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from survfuse.evaluation.summary import HeldOut, MemberCurve, Summary, predicted_at
from survfuse.evaluation.svg import HIGH, LOW, QUIET, month_ticks, style, svg_element
from survfuse.runtime.log import count
from survfuse.survival.estimates import Estimate, high_risk
from survfuse.survival.numbers import number_text

CAPTIONS = {
    "folds": "Concordance within each outer fold (dots; dashed: their mean) and of all held-out risks pooled, with "
    "its 95% interval (diamond).",
    "groups": "Kaplan–Meier curves, with 95% limits, of the patients above the median held-out risk and of the "
    "others; ticks are censored patients.",
    "calibration": "Held-out predicted survival against Kaplan–Meier in groups of equal size by predicted survival; "
    "bars are 95% limits. On the dotted line, predictions equal observations.",
    "losses": "Loss of each member by epoch, on its training patients and on the inner patients that chose the epoch "
    "kept. Members differ in patients, so their levels differ.",
}
_MOST_GROUPS = 5  # of patients in a calibration plot
_GROUP = 30  # minimum number of patients in a group


def drawings(held: HeldOut, curves: Sequence[MemberCurve], figures: Summary) -> dict[str, str]:
    """Name → SVG element of every drawing for which there are data."""
    with style():
        drawn = {
            "folds": fold_drawing(held, figures),
            "groups": group_drawing(held, figures),
            "calibration": calibration_drawing(held),
            "losses": loss_drawing(curves),
        }
        return {
            name: svg_element(name, drawing, CAPTIONS[name]) for name, drawing in drawn.items() if drawing is not None
        }


def fold_drawing(held: HeldOut, figures: Summary) -> Figure:
    """Concordance within each outer fold, their mean, and the pooled concordance with its interval."""
    values, mean = figures["folds"]["values"], figures["folds"]["mean"]
    drawing = Figure(figsize=(6.8, 2.9), layout="constrained")
    axes = drawing.subplots()
    axes.axhline(0.5, color=QUIET, linewidth=1, linestyle=":")
    axes.text(len(values) + 0.45, 0.5, "chance", color=QUIET, va="bottom", ha="right", fontsize=8)
    heights = [np.nan if value is None else value for value in values]
    axes.plot(range(len(values)), heights, "o", color=LOW, markersize=7)
    for at, value in enumerate(values):
        if value is not None:
            axes.annotate(f"{value:.2f}", (at, value), (7, 3), textcoords="offset points", fontsize=8)
    if mean is not None:
        axes.plot([-0.3, len(values) - 0.7], [mean, mean], color=LOW, linewidth=1, linestyle="--")
    _draw_pooled(axes, len(values), figures["harrell_concordance"])
    labels = []
    for number, fold in enumerate(np.unique(held.folds)):
        inside = held.folds == fold
        labels.append(f"fold {number + 1}\n{inside.sum()} patients\n{held.events[inside].sum()} events")
    everyone = f"all\n{figures['patients']} patients\n{figures['events']} events"
    axes.set_xticks(range(len(values) + 1), [*labels, everyone])
    axes.set_xlim(-0.5, len(values) + 0.5)
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
    axes.annotate(f"{value:.2f}", (at, value), (7, 3), textcoords="offset points", fontsize=8)


def group_drawing(held: HeldOut, figures: Summary) -> Figure:
    """Kaplan–Meier curves of the patients above the median held-out risk and of the others, with numbers at risk."""
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
        at, (lower, upper) = curve.survival_function_.index, curve.confidence_interval_.to_numpy().T
        label = f"{name}: {mask.sum()} patients, {held.events[mask].sum()} events"
        axes.step(at, curve.survival_function_.iloc[:, 0], where="post", color=colour, linewidth=1.8, label=label)
        axes.fill_between(at, lower, upper, step="post", color=colour, alpha=0.14, linewidth=0)
        censored = held.times[mask & ~held.events]
        axes.plot(censored, curve.survival_function_at_times(censored), "|", color=colour, markersize=5)
    axes.set(ylim=(0, 1.02), ylabel="event-free survival", xlim=(0, float(held.times.max()) * 1.02))
    axes.set_title(f"log-rank p {number_text(figures['log_rank_p'], '.2g')}", loc="right", fontweight="normal")
    axes.legend(loc="lower left")
    axes.set_xticks(month_ticks(float(held.times.max())))
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


def calibration_drawing(held: HeldOut) -> Figure:
    """Mean predicted survival against Kaplan–Meier in groups of predicted survival, at each horizon."""
    drawing = Figure(figsize=(6.8, 2.7), layout="constrained")
    panels = drawing.subplots(1, len(held.horizons), sharey=True, squeeze=False)[0]
    for axes, month in zip(panels, held.horizons, strict=True):
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
    """(mean predicted survival, Kaplan–Meier survival, low, high) at ``month`` in groups of equal size.

    Groups go from the lowest predicted survival to the highest; those not followed up to the month are left out. Low
    and high are Kaplan–Meier's 95% limits, NaN if a group had no event by then.
    """
    predicted = predicted_at(held, np.full(len(held.times), month))
    number = int(np.clip(len(predicted) // _GROUP, 2, _MOST_GROUPS))
    groups = []
    for members in np.array_split(np.argsort(predicted, kind="stable"), number):
        if held.times[members].max() < month:
            continue
        curve = KaplanMeierFitter().fit(held.times[members], held.events[members])
        limits = curve.confidence_interval_survival_function_.loc[:month].iloc[-1]
        low, high = map(float, limits)
        groups.append((float(predicted[members].mean()), float(curve.predict(month)), low, high))
    return groups


def loss_drawing(curves: Sequence[MemberCurve]) -> Figure | None:
    """Training and inner loss of every member, one panel a family; None if no member has a curve."""
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


_TRAINING: _LineStyle = {"color": QUIET, "linewidth": 0.9, "alpha": 0.8}
_INNER: _LineStyle = {"color": LOW, "linewidth": 0.9, "alpha": 0.8}
_KEPT: _LineStyle = {"color": HIGH, "marker": "o", "markersize": 4, "linestyle": "none"}


def _draw_losses(axes: Axes, curve: MemberCurve) -> None:
    """One member's losses, with a dot at the epoch that was kept."""
    axes.plot(range(1, len(curve.training) + 1), curve.training, **_TRAINING)
    axes.plot(range(1, len(curve.inner) + 1), curve.inner, **_INNER)
    if 1 <= curve.best_epoch <= len(curve.inner):
        axes.plot([curve.best_epoch], [curve.inner[curve.best_epoch - 1]], **_KEPT)
