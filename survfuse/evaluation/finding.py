"""What was found, in words: the first lines of a page and of what ``evaluate`` prints."""

from survfuse.evaluation.risk_groups import RiskGroups
from survfuse.evaluation.subgroups import FEW_EVENTS
from survfuse.survival.cox_regression import Coefficient
from survfuse.survival.estimates import Estimate

CHANCE = 0.5
_MOST_UNDEFINED = 1 / 20  # share of the bootstrap draws up to which an interval is one of all samples


def ranking_sentence(
    harrell: Estimate, events: int, draws: int, what: str = "Harrell's C of the risks", same_time: bool = False
) -> str:
    """Whether the ranking of patients is told from chance, by the 95% interval of its concordance.

    The interval tells nothing with fewer than ten ``events``, if more than a twentieth of the bootstrap ``draws`` leave
    the concordance undefined, and if all patients were followed for the ``same_time``.
    """
    value, low, high = harrell["value"], harrell["low"], harrell["high"]
    if value is None or low is None or high is None:
        return f"Whether the ranking is better than chance is not known: {what} or its interval is undefined."
    found = f"{what} is {value:.3f} (95% interval {low:.3f} to {high:.3f}; 0.5 is chance)"
    if reason := _no_evidence(harrell["undefined_draws"], events, draws, same_time):
        return f"{reason}, the figures do not tell whether the ranking is better than chance: {found}."
    if low > CHANCE:
        return f"The ranking is told from chance: {found}."
    if high < CHANCE:
        return f"The ranking is worse than chance: {found}."
    return f"The ranking is not told from chance: {found}."


def _no_evidence(undefined: int, events: int, draws: int, same_time: bool) -> str:
    """Why an interval tells nothing; empty if it does."""
    if events < FEW_EVENTS:
        return f"With so few events ({events})"
    if undefined > _MOST_UNDEFINED * draws:
        return f"With {undefined:,} of {draws:,} bootstrap draws undefined"
    return "As the times of all patients are equal" if same_time else ""


def reversed_sentence(groups: RiskGroups) -> str:
    """That the high-risk group does better than the other, if it does; empty otherwise."""
    if not groups["reversed"]:
        return ""
    return (
        "The high-risk group does better than the low-risk group: hazard ratio of high against low risk "
        f"{ratio_text(groups['hazard_ratio'])}."
    )


def simulated_sentence(simulated: bool) -> str:
    """That the patients are simulated, if they are; empty otherwise."""
    return "The patients are simulated: these figures mean nothing clinically." if simulated else ""


def difference_sentence(what: str, other: str, difference: Estimate) -> str:
    """Whether ``what`` ranks better than ``other``, by the paired ``difference`` of their concordance."""
    value, low, high = difference["value"], difference["low"], difference["high"]
    if value is None or low is None or high is None:
        return f"Whether {what} ranks better than {other} is not known: the difference of C is undefined."
    told = "better than" if low > 0 else "worse than" if high < 0 else "not told from"
    verb = "ranks" if told != "not told from" else "is"
    return f"{what} {verb} {told} {other}: difference of C {value:+.3f} (95% interval {low:+.3f} to {high:+.3f})."


def ratio_text(ratio: Coefficient, form: str = ".2f") -> str:
    """A hazard ratio or slope with its interval."""
    value, low, high = ratio["value"], ratio["low"], ratio["high"]
    if value is None or low is None or high is None:
        return "undefined"
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


def families_sentence(best: str, families: int, difference: Estimate) -> str:
    """That a stack of several ``families`` is not told from its ``best`` one alone; empty if it is better, or of one.

    ``difference`` is the concordance of the stack minus that of the best family.
    """
    if families < 2 or (difference["low"] is not None and difference["low"] > 0):
        return ""
    return (
        f"No evidence that {families} families together rank better than the best of them alone ({best}): "
        f"difference of C {_difference_text(difference)}."
    )


def combinations_sentence(higher: dict[str, Estimate]) -> str:
    """Which combinations of modalities have a higher C than all of them; empty if none has.

    ``higher`` has the concordance of all modalities minus that of each such combination.
    """
    if not higher:
        return ""
    told = [name for name, difference in higher.items() if difference["high"] is not None and difference["high"] < 0]
    listed = "; ".join(f"{name} {_difference_text(difference)}" for name, difference in higher.items())
    end = f"; {' and '.join(told)} told from all modalities" if told else "; none is told from all modalities"
    return f"A part of the modalities has a higher C than all of them (difference all − part: {listed}{end})."


def _difference_text(difference: Estimate) -> str:
    value, low, high = difference["value"], difference["low"], difference["high"]
    if value is None or low is None or high is None:
        return "undefined"
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"
