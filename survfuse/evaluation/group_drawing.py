"""The drawing of Kaplan–Meier curves of the high-risk and the low-risk group."""

from lifelines import KaplanMeierFitter
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from survfuse.evaluation.judged import Judged
from survfuse.evaluation.risk_groups import RiskGroups
from survfuse.evaluation.svg import HIGH, LOW, WIDTH, month_ticks
from survfuse.runtime.arrays import Bools
from survfuse.runtime.log import count
from survfuse.survival.numbers import number_text

_Group = tuple[str, Bools, str]  # name, members [n], colour


def group_drawing(judged: Judged, figures: RiskGroups) -> Figure:
    """Kaplan–Meier curves of the groups that have patients, with 95% limits and numbers at risk."""
    drawing = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes, table = drawing.subplots(2, 1, sharex=True, height_ratios=(5, 1))
    groups: list[_Group] = [
        (name, mask, colour)
        for name, mask, colour in (("high", judged.high, HIGH), ("low", ~judged.high, LOW))
        if mask.any()
    ]
    for group in groups:
        _draw_curve(axes, judged, group)
    last = float(judged.times.max())
    axes.set(ylim=(0, 1.02), ylabel="event-free survival", xlim=(0, last * 1.02 or 1.0))
    axes.set_title(f"log-rank p {number_text(figures['log_rank_p'], '.2g')}", loc="right", fontweight="normal")
    axes.legend(loc="lower left")
    ticks = month_ticks(last)
    axes.set_xticks(ticks[:: 1 + len(ticks) // 8])
    _draw_at_risk(axes, table, judged, groups)
    return drawing


def _draw_curve(axes: Axes, judged: Judged, group: _Group) -> None:
    name, mask, colour = group
    times, events = judged.times[mask], judged.events[mask]
    curve = KaplanMeierFitter().fit(times, events)
    at, (lower, upper) = curve.survival_function_.index, curve.confidence_interval_.to_numpy().T
    label = f"{name} risk: {count(len(times), 'patient')}, {count(int(events.sum()), 'event')}"
    style = "-" if name == "high" else "--"  # told apart without colours
    axes.step(at, curve.survival_function_.iloc[:, 0], style, where="post", color=colour, linewidth=1.8, label=label)
    axes.fill_between(at, lower, upper, step="post", color=colour, alpha=0.14, linewidth=0)
    censored = times[~events]
    axes.plot(censored, curve.survival_function_at_times(censored), "|", color=colour, markersize=5)


def _draw_at_risk(axes: Axes, table: Axes, judged: Judged, groups: list[_Group]) -> None:
    """Numbers at risk under each tick of the curves' axis."""
    for row, (_, mask, colour) in enumerate(groups):
        for at in axes.get_xticks():
            number = str(int((judged.times[mask] >= at).sum()))
            table.text(at, -row, number, color=colour, ha="center", va="center", fontsize=9)
    table.set(ylim=(-len(groups) + 0.4, 0.6), yticks=range(0, -len(groups), -1))
    table.set_yticklabels([name for name, _, _ in groups])
    table.set_title("patients at risk", loc="left", fontsize=9, fontweight="normal")
    table.spines[:].set_visible(False)
    table.tick_params(length=0)
    table.tick_params(axis="y", pad=16)  # past the first column of numbers
    axes.tick_params(axis="x", labelbottom=True)
    table.tick_params(axis="x", labelbottom=False)
    axes.set_xlabel("months")
