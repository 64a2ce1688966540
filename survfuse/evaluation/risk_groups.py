"""High-risk and low-risk patients: their survival compared."""

from typing import TypedDict

from survfuse.evaluation.judged import Judged
from survfuse.survival.cox_regression import Coefficient, hazard_ratio
from survfuse.survival.estimates import log_rank_p
from survfuse.survival.numbers import null


class GroupSize(TypedDict):
    """Numbers of one group."""

    patients: int
    events: int


class RiskGroups(TypedDict):
    """Two groups of patients by risk."""

    cut: str  # what separates them
    high: GroupSize
    low: GroupSize
    log_rank_p: float | None
    hazard_ratio: Coefficient  # of high against low risk
    reversed: bool  # whether the high-risk group does better: its hazard ratio is below 1


def risk_groups(judged: Judged) -> RiskGroups:
    """The groups of ``judged`` patients, with the log-rank test and Cox's hazard ratio between them."""
    ratio = hazard_ratio(judged.high.astype(float), judged.times, judged.events)
    sizes: list[GroupSize] = [
        {"patients": int(inside.sum()), "events": int(judged.events[inside].sum())}
        for inside in (judged.high, ~judged.high)
    ]
    return {
        "cut": judged.cut,
        "high": sizes[0],
        "low": sizes[1],
        "log_rank_p": null(log_rank_p(judged.times, judged.events, judged.high)),
        "hazard_ratio": ratio,
        "reversed": ratio["value"] is not None and ratio["value"] < 1.0,
    }


def incomparable(groups: RiskGroups) -> str:
    """Why the groups cannot be compared, in words; empty if they can.

    Perfect separation is a reason as well: the hazard ratio then has no maximum of the likelihood.
    """
    for name, group in (("high", groups["high"]), ("low", groups["low"])):
        if group["patients"] == 0:
            return f"no patient is in the {name}-risk group, so the groups cannot be compared"
    if groups["high"]["events"] + groups["low"]["events"] == 0:
        return "no patient had the event, so the groups cannot be compared"
    for name, group in (("high", groups["high"]), ("low", groups["low"])):
        if group["events"] == 0:
            return f"no patient of the {name}-risk group had the event, so the hazard ratio is undefined"
    return ""
