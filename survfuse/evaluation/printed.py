"""An evaluation as lines of text."""

from collections.abc import Iterator

from survfuse.evaluation.evaluate import Evaluation
from survfuse.evaluation.finding import ratio_text
from survfuse.evaluation.risk_groups import incomparable
from survfuse.evaluation.subgroups import few_events_text, number_label
from survfuse.runtime.log import count
from survfuse.survival.estimates import Estimate
from survfuse.survival.numbers import number_text

Lines = Iterator[tuple[str, str]]
_WIDTH = 34  # of a figure's name
_SMALLER = "; below 0 is better"


def print_evaluation(result: Evaluation) -> None:
    """Print what was found in words, then the figures as aligned lines."""
    for sentence in result["finding"]:
        print(sentence)
    for rows in (_ranking(result), _groups(result), _survival(result), _subgroups(result), _versus(result)):
        for name, text in rows:
            print(f"{name:<{_WIDTH}}{text}")
    print(f"Intervals: 95%, {count(result['draws'], 'bootstrap draw')}. {result['censoring']}.")


def _ranking(result: Evaluation) -> Lines:
    yield "challenge's concordance (months)", estimate_text(result["challenge_concordance"])
    yield "Harrell's C of the risks", estimate_text(result["harrell_concordance"])
    yield "Uno's C of the risks", estimate_text(result["uno_concordance"])
    for month, area in result["auc"].items():
        yield f"AUC at {month} months", estimate_text(area)


def _groups(result: Evaluation) -> Lines:
    shared = result["performance"]
    groups = shared["risk_groups"]
    sizes = ", ".join(
        f"{name} {group['patients']} ({count(group['events'], 'event')})"
        for name, group in (("high", groups["high"]), ("low", groups["low"]))
    )
    yield "risk groups", f"{sizes}; cut at {groups['cut']}"
    why = incomparable(groups)
    ratio = f"hazard ratio {ratio_text(groups['hazard_ratio'])}" + (f" ({why})" if why else "")
    yield "high versus low risk", f"log-rank p {number_text(groups['log_rank_p'], '.2g')}, {ratio}"
    yield "hazard ratio per SD of risk", ratio_text(shared["hazard_ratio_per_sd"])
    yield "calibration slope of the risk", ratio_text(shared["calibration_slope"])
    yield "patients with tied months", f"{result['tied_months_share']:.1%}"
    yield "cohort", f"{count(result['patients'], 'patient')}, {count(result['events'], 'event')}"


def _survival(result: Evaluation) -> Lines:
    survival, brier = result["performance"]["survival"], result["integrated_brier"]
    if survival is None or brier is None:
        return
    yield "integrated Brier score", estimate_text(brier["predicted"])
    yield "  of Kaplan–Meier", estimate_text(brier["kaplan_meier"])
    yield "  difference (below 0 is better)", estimate_text(brier["difference"], "+.3f")
    for month, large in survival["in_the_large"].items():
        shares = f"{number_text(large['observed']['value'])} / {number_text(large['predicted'])}"
        yield f"observed / expected, {month} months", f"{shares} = {estimate_text(large['ratio'], '.2f')}"
    yield "slope of predicted survival", f"{ratio_text(survival['calibration_slope'])}; 1 is right"
    test = survival["d_calibration"]
    yield "D-calibration", f"χ² {number_text(test['statistic'], '.2f')}, p {number_text(test['p'], '.2g')}"


def _subgroups(result: Evaluation) -> Lines:
    for variable in result["subgroups"]:
        at = "" if variable["median"] is None else f" (cut at its median, {number_label(variable['median'])})"
        yield f"C by {variable['variable']}{at}", ""
        for group in variable["subgroups"]:
            few = few_events_text(group)
            numbers = f"{count(group['patients'], 'patient')}, {count(group['events'], 'event')}" + (few and f", {few}")
            yield f"  {group['category']}", f"{estimate_text(group['concordance'])}; {numbers}"


def _versus(result: Evaluation) -> Lines:
    versus = result["versus"]
    if versus is None:
        return
    yield f"minus {versus['name']}, same draws", ""
    rows = [
        ("challenge's concordance", versus["challenge_concordance"]),
        ("Harrell's C", versus["harrell_concordance"]),
        ("Uno's C", versus["uno_concordance"]),
        *((f"AUC at {month} months", entry) for month, entry in versus["auc"].items()),
        ("log hazard ratio per SD", versus["log_hazard_ratio_per_sd"]),
        ("calibration slope of the risk", versus["calibration_slope"]),
    ]
    survival = versus["survival"]
    by_month = {} if survival is None else survival["in_the_large"]
    rows += [(f"observed / expected, {month} months", entry) for month, entry in by_month.items()]
    for name, entry in rows:
        yield f"  {name}", estimate_text(entry["difference"], "+.3f")
    if survival is not None:
        whole = survival["integrated_brier"]["difference"]
        yield "  integrated Brier score", estimate_text(whole, "+.3f") + _SMALLER
        for month, entry in survival["brier"].items():
            yield f"  Brier score at {month} months", estimate_text(entry["difference"], "+.3f") + _SMALLER
        if survival["between"]:
            yield (
                "  taken as linear",
                f"curves at {', '.join(survival['between'])} months, of which a table has no entry",
            )


def estimate_text(estimate: Estimate, form: str = ".3f") -> str:
    """An estimate with its interval, in words."""
    interval = f"{number_text(estimate['low'], form)} to {number_text(estimate['high'], form)}"
    if estimate["value"] is None or estimate["low"] is None:
        interval = "no interval"
    left_out = f", {count(estimate['undefined_draws'], 'draw')} left out" if estimate["undefined_draws"] else ""
    return f"{number_text(estimate['value'], form)} ({interval}{left_out})"
