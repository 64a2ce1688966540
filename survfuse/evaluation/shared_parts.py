"""Drawings and tables of the figures that the external page and the training report share."""

from matplotlib.figure import Figure

from survfuse.evaluation.calibration_drawing import calibration_drawing, decision_drawing
from survfuse.evaluation.group_drawing import group_drawing
from survfuse.evaluation.judged import Judged
from survfuse.evaluation.page_template import Row
from survfuse.evaluation.performance import Performance
from survfuse.evaluation.risk_groups import RiskGroups, incomparable
from survfuse.evaluation.survival_figures import InTheLarge, SurvivalFigures
from survfuse.evaluation.time_drawings import auc_drawing, brier_drawing
from survfuse.runtime.log import count
from survfuse.survival.cox_regression import Coefficient
from survfuse.survival.estimates import Estimate
from survfuse.survival.numbers import number_text

CAPTIONS = {
    "auc": "Area under the cumulative/dynamic ROC curve over time, with pointwise 95% bootstrap intervals. It compares "
    "patients with the event by a month with those free of it then; 0.5 is chance.",
    "groups": "Kaplan–Meier curves of the high-risk and the low-risk patients, with 95% limits; ticks are censored "
    "patients.",
    "brier": "Brier score over time of predicted survival, and of Kaplan–Meier's curve, which is the same for "
    "everybody: smaller is better. Shaded: pointwise 95% bootstrap intervals of the former.",
    "calibration": "Predicted survival against Kaplan–Meier in groups of equal size by predicted survival; bars are "
    "95% limits. On the dotted line, predictions equal observations.",
    "decision": "Decision curves: the net benefit, in true positives per patient, of treating the patients whose "
    "predicted probability of the event reaches a threshold, compared with treating all and nobody. Shaded: its "
    "pointwise 95% bootstrap intervals.",
}


def shared_figures(judged: Judged, figures: Performance) -> dict[str, Figure | None]:
    """Every shared drawing by its name in CAPTIONS; None if there is nothing to draw."""
    drawings: dict[str, Figure | None] = {
        "auc": auc_drawing(figures["auc_over_time"]),
        "groups": group_drawing(judged, figures["risk_groups"]),
    }
    survival = figures["survival"]
    if survival is not None:
        drawings["brier"] = brier_drawing(survival["brier_over_time"])
        drawings["calibration"] = calibration_drawing(survival["calibration_groups"])
        drawings["decision"] = decision_drawing(survival["decision_curves"])
    return drawings


def group_rows(figures: Performance) -> list[Row]:
    """Rows of (measure, value, 95% interval, p) of the risk groups and the risk as a covariate."""
    return [
        ("hazard ratio, high against low risk", *coefficient_cells(figures["risk_groups"]["hazard_ratio"])),
        ("hazard ratio per standard deviation of the risk", *coefficient_cells(figures["hazard_ratio_per_sd"])),
        ("calibration slope of the risk", *coefficient_cells(figures["calibration_slope"])),
        *(
            [("calibration slope of predicted survival", *coefficient_cells(survival["calibration_slope"]))]
            if (survival := figures["survival"])
            else []
        ),
    ]


def group_text(groups: RiskGroups) -> str:
    """How the groups were made, and why they cannot be compared if so, as a sentence or two."""
    sizes = " and ".join(
        f"{count(group['patients'], 'patient')} at {name} risk ({count(group['events'], 'event')})"
        for name, group in (("high", groups["high"]), ("low", groups["low"]))
    )
    why = incomparable(groups)
    return f"Groups are cut at {groups['cut']}: {sizes}." + (f" {why[:1].upper()}{why[1:]}." if why else "")


def large_rows(by_month: dict[str, InTheLarge]) -> list[Row]:
    """Rows of (month, observed, 95% interval, predicted, ratio, 95% interval)."""
    return [
        (
            f"{month} months",
            *cells(large["observed"]),
            number_text(large["predicted"]),
            *cells(large["ratio"], ".2f"),
        )
        for month, large in by_month.items()
    ]


def brier_rows(predicted: Estimate, kaplan_meier: Estimate, difference: Estimate) -> list[Row]:
    """Rows of (measure, value, 95% interval) of integrated Brier scores."""
    return [
        ("integrated Brier score", *cells(predicted)),
        ("the same for Kaplan–Meier alone", *cells(kaplan_meier)),
        ("difference (below 0: better than Kaplan–Meier)", *cells(difference, "+.3f")),
    ]


def calibration_text(survival: SurvivalFigures) -> str:
    """D-calibration as a sentence."""
    test = survival["d_calibration"]
    return f"D-calibration: χ² {number_text(test['statistic'], '.2f')}, p {number_text(test['p'], '.2g')}."


def calibration_rows(survival: SurvivalFigures) -> list[Row]:
    """Rows of (months and group, patients, predicted, observed, 95% limits): what the calibration plot shows."""
    return [
        (
            f"{month} months, group {number}",
            f"{group['patients']:,}",
            f"{group['predicted']:.3f}",
            f"{group['observed']:.3f}",
            interval(group["low"], group["high"], ".3f"),
        )
        for month, groups in survival["calibration_groups"].items()
        for number, group in enumerate(groups, start=1)
    ]


def auc_rows(figures: Performance, most: int = 8) -> list[Row]:
    """Rows of (month, area, 95% interval) at some of the months: what the curve shows."""
    band = figures["auc_over_time"]
    step = max(1, -(-len(band["months"]) // most))
    rows = list(zip(band["months"], band["value"], band["low"], band["high"], strict=True))[::step]
    return [(f"{month:g}", number_text(value), interval(low, high, ".3f")) for month, value, low, high in rows]


def brier_over_time_rows(survival: SurvivalFigures, most: int = 8) -> list[Row]:
    """Rows of (month, predicted, 95% interval, Kaplan–Meier) at some of the months: what the curve shows."""
    scores = survival["brier_over_time"]
    keys = scores["months"], scores["predicted"], scores["low"], scores["high"], scores["kaplan_meier"]
    known = [row for row in zip(*keys, strict=True) if row[1] is not None]
    step = max(1, -(-len(known) // most))
    return [
        (f"{month:.3g}", number_text(own), interval(low, high, ".3f"), number_text(other))
        for month, own, low, high, other in known[::step]
    ]


def decision_rows(survival: SurvivalFigures) -> list[Row]:
    """Rows of (months and threshold, net benefit by the prediction, 95% interval, of treating all): some points."""
    return [
        (
            f"{month} months, {curve['thresholds'][at]:.0%}",
            number_text(curve["model"][at]),
            interval(curve["low"][at], curve["high"][at], ".3f"),
            number_text(curve["treat_all"][at]),
        )
        for month, curve in survival["decision_curves"].items()
        for at in (4, 9, 19, 29)
        if at < len(curve["thresholds"])
    ]


def cells(estimate: Estimate, form: str = ".3f") -> tuple[str, str]:
    """An estimate's value and interval as text."""
    left_out = f" ({count(estimate['undefined_draws'], 'draw')} left out)" if estimate["undefined_draws"] else ""
    return number_text(estimate["value"], form), interval(estimate["low"], estimate["high"], form) + left_out


def coefficient_cells(found: Coefficient, form: str = ".2f") -> tuple[str, str, str]:
    """A coefficient's value, interval and p as text."""
    return (
        number_text(found["value"], form),
        interval(found["low"], found["high"], form),
        number_text(found["p"], ".2g"),
    )


def interval(low: float | None, high: float | None, form: str) -> str:
    """The ends of an interval as text."""
    return "undefined" if low is None or high is None else f"{low:{form}} to {high:{form}}"
