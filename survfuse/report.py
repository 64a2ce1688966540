"""What a training run reached on held-out patients: ``report.json`` for machines, ``report.html`` for people.

Every figure of performance comes from risks and survival curves that each patient was given by models which never
saw that patient, nor chose anything by them (the outer folds of a nested cross-validation). Only the loss curves
show what fitting itself looked at, and the report says so beside them.
"""

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from lifelines import KaplanMeierFitter
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from survfuse.curves import MONTHS
from survfuse.evaluate import discrimination, figure, high_risk, log_rank_p, null, number_text
from survfuse.files import write_json, write_text
from survfuse.log import count
from survfuse.metrics import (
    Floats,
    concordance,
    corrected_difference,
    d_calibration,
    integrated_brier,
    resampled,
)

REPORT_JSON = "report.json"
REPORT_HTML = "report.html"
NOTICES = ("notice", "notices")  # facts that the page shows first

_LARGEST_GROUPS = 5  # of patients in a calibration plot
_GROUP = 30  # patients that a group should have at least


@dataclass(frozen=True)
class HeldOut:
    """n patients as the models that never saw them predicted them."""

    times: Floats  # [n] months of follow-up
    events: NDArray[np.bool_]  # [n]
    folds: NDArray[np.int64]  # [n] the outer fold, of the first repeat, that held the patient out; from 0
    risks: Floats  # [n] of the stack, or of the one family there is
    candidates: Mapping[str, Floats]  # family → held-out risks [n]
    grid: Floats  # [T] increasing months
    survival: Floats  # [n, T] predicted probability of no event by each of them
    months: Floats  # [n] predicted time

    def __post_init__(self) -> None:
        n = len(self.times)
        columns = (self.events, self.folds, self.risks, self.months, *self.candidates.values())
        if n < 2 or any(np.shape(column) != (n,) for column in columns):
            raise ValueError("held-out results: expected one value for each of two patients or more")
        if np.shape(self.survival) != (n, len(self.grid)):
            raise ValueError(f"held-out survival: expected {(n, len(self.grid))}, found {np.shape(self.survival)}")


@dataclass(frozen=True)
class MemberCurve:
    """How the loss of one member went, epoch by epoch."""

    family: str
    repeat: int
    fold: int
    number: int  # of the member within its family, repeat and fold
    best_epoch: int  # from 1; the epoch that was kept
    training: tuple[float, ...]  # loss after each epoch
    inner: tuple[float, ...]  # the same of the inner validation patients


def summary(held: HeldOut, draws: int = 1000) -> dict[str, Any]:
    """Every figure of held-out performance, ready for JSON: what is undefined is None.

    A figure has a ``value``, the ``low`` and ``high`` of its 95% percentile bootstrap interval over patients, and
    the number of ``undefined_draws`` that the interval leaves out. All figures share the draws, so differences are
    paired. The censoring distribution is that of all n patients. Kaplan–Meier's own Brier score is held out too: the
    curve of the other folds.
    """
    marginal = _kaplan_meier_of_the_others(held)
    families = list(held.candidates)

    def measures(of: NDArray[np.int64]) -> list[float]:
        times, events = held.times[of], held.events[of]
        brier = [
            integrated_brier(times, events, times, events, curve[of], held.grid) for curve in (held.survival, marginal)
        ]
        candidates = [concordance(times, events, held.candidates[family][of]) for family in families]
        return [
            *discrimination(times, events, held.risks[of]),
            concordance(times, events, -held.months[of]),
            *brier,
            *candidates,
        ]

    n = len(held.times)
    values, found = np.array(measures(np.arange(n))), resampled(measures, n, draws).T
    areas, last = 2, 2 + len(MONTHS)
    calibration = d_calibration(held.times, held.events, _at_own_time(held))
    return {
        "patients": n,
        "events": int(held.events.sum()),
        "draws": draws,
        "harrell_concordance": figure(values[0], found[0]),
        "uno_concordance": figure(values[1], found[1]),
        "auc": {f"{month:g}": figure(values[areas + k], found[areas + k]) for k, month in enumerate(MONTHS)},
        "months_concordance": figure(values[last], found[last]),
        "folds": _fold_figures(held),
        "candidates": {
            family: {
                "concordance": figure(values[k], found[k]),
                "difference": figure(values[0] - values[k], found[0] - found[k]),
                "difference_by_fold": _fold_difference(held, held.candidates[family]),
            }
            for k, family in enumerate(families, start=last + 3)
        },
        "log_rank_p": null(log_rank_p(held.times, held.events, high_risk(held.risks))),
        "integrated_brier": figure(values[last + 1], found[last + 1]),
        "integrated_brier_kaplan_meier": figure(values[last + 2], found[last + 2]),
        "integrated_brier_difference": figure(values[last + 1] - values[last + 2], found[last + 1] - found[last + 2]),
        "d_calibration": {
            "statistic": null(calibration.statistic),
            "p": null(calibration.p),
            "shares": calibration.shares.tolist(),
        },
    }


def write_report(
    folder: Path, held: HeldOut, curves: Sequence[MemberCurve], facts: Mapping[str, Any], draws: int = 1000
) -> dict[str, Any]:
    """Write ``report.json`` and ``report.html`` into ``folder``, which is made where it is not there, and return the
    ``summary``.

    ``facts`` is what else a reader should know of the run (cohort, protocol, stack weights): nested mappings and
    lists of text and numbers; ``notice`` or ``notices`` among them come first on the page. The page is one file
    without scripts that loads nothing. The same input gives the same bytes.
    """
    found, facts = summary(held, draws), _plain(facts)
    page = _page(found, facts, _drawings(held, curves, found))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / REPORT_JSON, {"heldout": found, "facts": facts, "loss_curves": _plain([vars(c) for c in curves])}
    )
    write_text(folder / REPORT_HTML, page)
    return found


def _kaplan_meier_of_the_others(held: HeldOut) -> Floats:
    """[n, T]: for each patient the Kaplan–Meier curve of the patients in other folds; NaN where there are none."""
    curves = np.full(held.survival.shape, np.nan)
    for fold in np.unique(held.folds):
        inside = held.folds == fold
        if not inside.all():
            others = KaplanMeierFitter().fit(held.times[~inside], held.events[~inside])
            curves[inside] = others.survival_function_at_times(held.grid).to_numpy()
    return curves


def _at_own_time(held: HeldOut) -> Floats:
    """[n] predicted survival at each patient's own time, drawn straight between the months of the grid."""
    return _predicted_at(held, held.times)


def _predicted_at(held: HeldOut, months: Floats) -> Floats:
    """[n] predicted survival at ``months`` [n], from 1 at time 0 and constant after the grid."""
    grid = np.concatenate([[0.0], held.grid]) if held.grid[0] > 0 else held.grid
    start = np.ones(len(grid) - len(held.grid))
    return np.array(
        [np.interp(at, grid, np.concatenate([start, row])) for at, row in zip(months, held.survival, strict=True)]
    )


def _by_fold(held: HeldOut, risks: Floats) -> Floats:
    """[F] Harrell's concordance within each fold."""
    inside = [held.folds == fold for fold in np.unique(held.folds)]
    return np.array([concordance(held.times[of], held.events[of], risks[of]) for of in inside])


def _fold_figures(held: HeldOut) -> dict[str, Any]:
    values = _by_fold(held, held.risks)
    defined = values[np.isfinite(values)]
    return {
        "values": [null(value) for value in values],
        "mean": float(defined.mean()) if defined.size else None,
        "sd": float(defined.std(ddof=1)) if defined.size > 1 else None,
    }


def _fold_difference(held: HeldOut, other: Floats) -> dict[str, Any]:
    """Mean difference over the folds with the interval that knows their training sets overlap."""
    differences = _by_fold(held, held.risks) - _by_fold(held, other)
    folds = differences.size
    defined = differences[np.isfinite(differences)]
    mean, low, high = corrected_difference(defined, 1.0, max(folds - 1.0, 1.0))
    return {"mean": null(mean), "low": null(low), "high": null(high)}


def _plain(value: Any) -> Any:
    """``value`` as JSON can hold it: arrays as lists, numbers that are not finite as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return null(value)
    return value if isinstance(value, (int, str, type(None))) else str(value)


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


def _drawings(held: HeldOut, curves: Sequence[MemberCurve], found: Mapping[str, Any]) -> dict[str, str]:
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
    predicted = _predicted_at(held, np.full(len(held.times), month))
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
    label = re.sub(r"<.*?>", "", _CAPTIONS[name])
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


# Page

_CAPTIONS = {
    "folds": "Concordance within each outer fold (dots; dashed: their mean) and of all held-out risks pooled, with "
    "its 95% interval (diamond).",
    "groups": "Kaplan–Meier curves, with 95% limits, of the patients above the median held-out risk and of the "
    "others; ticks are censored patients.",
    "calibration": "Held-out predicted survival against Kaplan–Meier in groups of equal size by predicted survival; "
    "bars are 95% limits. On the dotted line, what was predicted is what happened.",
    "losses": "Loss of each member by epoch, on its training patients and on the inner patients that chose the epoch "
    "kept. Members differ in patients, so their levels differ.",
}

_CSS = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; color: #1d2430; background: #fff;
  max-width: 54rem; margin: 2.5rem auto 4rem; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .5rem; border-top: 1px solid #d9dde3; padding-top: 1.1rem; }
p { margin: .5rem 0; max-width: 44rem; }
.lead { color: #46505f; }
.tag { font-size: .72rem; font-weight: 600; border-radius: 1rem; padding: .15rem .6rem; margin-left: .5rem;
  vertical-align: middle; white-space: nowrap; }
.held { background: #e2eff8; color: #1d5580; }
.fitting { background: #f4eadf; color: #7a4a12; }
.notice { border-left: 4px solid #b5432a; background: #fbf1ee; padding: .5rem .9rem; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .92rem; margin: .8rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .32rem 1rem .32rem 0; border-bottom: 1px solid #e6e9ee; vertical-align: top; }
thead th { border-bottom: 2px solid #c3c9d2; font-weight: 600; }
tbody th { font-weight: 500; }
td table { margin: 0; font-size: 1em; }
.scroll { overflow-x: auto; }
figure { margin: 1rem 0; }
figure svg { width: 100%; height: auto; }
figcaption, .small { font-size: .87rem; color: #566071; max-width: 44rem; }
@media print { body { margin: 0; max-width: none; } figure, table { break-inside: avoid; } }
"""

_HELD = '<span class="tag held">nested held-out</span>'
_FITTING = '<span class="tag fitting">used in fitting</span>'


def _page(found: Mapping[str, Any], facts: Mapping[str, Any], drawings: Mapping[str, str]) -> str:
    notices = [facts[name] for name in NOTICES if facts.get(name)]
    others = {name: value for name, value in facts.items() if name not in NOTICES}
    parts = [
        "<h1>Held-out performance</h1>",
        f'<p class="lead">{count(found["patients"], "patient")}, {count(found["events"], "event")}. '
        "Figures under the mark <em>nested held-out</em> come from predictions that each patient was given by models "
        "which neither trained on that patient nor chose anything by that patient’s outcome. Intervals are 95% "
        f"percentile bootstrap intervals over patients ({count(found['draws'], 'draw')}); they do not include how much "
        "another training run would differ.</p>",
        *(f'<div class="notice">{_value(notice)}</div>' for notice in notices),
        f"<h2>Order of risk{_HELD}</h2>",
        _discrimination_table(found),
        '<p class="small">C is the share of pairs of patients that are ordered as their outcomes are: 0.5 is chance, 1 '
        "is without fault. Pooled figures also compare risks of different outer folds; the figures by fold do not. "
        "Censoring is weighed by the distribution among these patients.</p>",
        _drawing("folds", drawings),
        _fold_line(found["folds"]),
        _candidate_section(found["candidates"]),
        f"<h2>High against low risk{_HELD}</h2>",
        _drawing("groups", drawings),
        f"<h2>Predicted survival{_HELD}</h2>",
        _drawing("calibration", drawings),
        _calibration_table(found),
    ]
    if "losses" in drawings:
        parts += [
            f"<h2>Loss curves{_FITTING}</h2>",
            "<p>These show how fitting went, and are no figure of performance: the inner patients chose the epoch.</p>",
            _drawing("losses", drawings),
        ]
    if others:
        parts += ["<h2>The run</h2>", _value(others)]
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>survfuse: held-out performance</title>\n<style>{_CSS}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _discrimination_table(found: Mapping[str, Any]) -> str:
    rows = [
        ("Harrell’s C of the risks", found["harrell_concordance"]),
        ("Harrell’s C of the predicted months (the challenge’s figure)", found["months_concordance"]),
        ("Uno’s C of the risks", found["uno_concordance"]),
        *((f"AUC at {month} months", area) for month, area in found["auc"].items()),
    ]
    return _table(("measure", "value", "95% interval"), [(name, *_figure_cells(entry)) for name, entry in rows])


def _fold_line(folds: Mapping[str, Any]) -> str:
    mean, sd = number_text(folds["mean"]), number_text(folds["sd"])
    return f"<p>By fold: mean {mean}, standard deviation {sd}.</p>"


def _candidate_section(candidates: Mapping[str, Any]) -> str:
    if not candidates:
        return ""
    heading = ("family", "C", "95% interval", "reported − family", "95% interval, patients", "95% interval, folds")
    rows = []
    for family, entry in candidates.items():
        by_fold = entry["difference_by_fold"]
        cells = (*_figure_cells(entry["concordance"]), *_figure_cells(entry["difference"], "+.3f"))
        rows.append((family, *cells, _interval(by_fold["low"], by_fold["high"], "+.3f")))
    return (
        f"<h2>Against each family alone{_HELD}</h2>"
        "<p>Harrell’s C of the families that the reported risks are made of or were chosen from, and how much the "
        "reported risks gain on them, patient by patient in the same bootstrap draws. The last column is the corrected "
        "resampled t interval of the mean difference within folds.</p>" + _table(heading, rows)
    )


def _calibration_table(found: Mapping[str, Any]) -> str:
    test = found["d_calibration"]
    rows = [
        ("Integrated Brier score", *_figure_cells(found["integrated_brier"])),
        ("the same of Kaplan–Meier alone", *_figure_cells(found["integrated_brier_kaplan_meier"])),
        (
            "difference (below 0: better than Kaplan–Meier)",
            *_figure_cells(found["integrated_brier_difference"], "+.3f"),
        ),
        ("D-calibration, χ²", number_text(test["statistic"], ".2f"), f"p {number_text(test['p'], '.2g')}"),
    ]
    return _table(("measure", "value", "95% interval"), rows) + (
        '<p class="small">The Brier score is the mean squared error of predicted survival over time: smaller is '
        "better. A small p of D-calibration says that predicted survival does not fit the outcomes; a large one says "
        "only that no misfit was found.</p>"
    )


def _figure_cells(entry: Mapping[str, Any], form: str = ".3f") -> tuple[str, str]:
    left_out = f" ({count(entry['undefined_draws'], 'draw')} left out)" if entry["undefined_draws"] else ""
    return number_text(entry["value"], form), _interval(entry["low"], entry["high"], form) + left_out


def _interval(low: float | None, high: float | None, form: str) -> str:
    return "undefined" if low is None or high is None else f"{low:{form}} to {high:{form}}"


def _drawing(name: str, drawings: Mapping[str, str]) -> str:
    return f"<figure>{drawings[name]}<figcaption>{_CAPTIONS[name]}</figcaption></figure>"


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of text; the first column names the row."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heading)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for first, *cells in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _value(value: Any) -> str:
    """A fact as HTML: a mapping as rows of a table, a list of mappings as a table, another list joined by commas."""
    if isinstance(value, Mapping):
        rows = "".join(
            f'<tr><th scope="row">{escape(key)}</th><td>{_value(entry)}</td></tr>' for key, entry in value.items()
        )
        return f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>'
    if isinstance(value, list) and value and all(isinstance(entry, Mapping) for entry in value):
        names = list(dict.fromkeys(name for entry in value for name in entry))
        rows = [(str(row), *(_scalar(entry.get(name)) for name in names)) for row, entry in enumerate(value, start=1)]
        return _table(("", *names), rows)
    if isinstance(value, list):
        return "<br>".join(escape(entry) for entry in value) if _sentences(value) else escape(_scalar(value))
    return escape(_scalar(value))


def _sentences(values: Sequence[Any]) -> bool:
    return any(isinstance(value, str) and " " in value for value in values) and all(isinstance(v, str) for v in values)


def _scalar(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_scalar, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_scalar(entry)}" for key, entry in value.items())
    if isinstance(value, bool) or value is None:
        return {None: "–", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value
