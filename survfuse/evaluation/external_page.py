"""The page on an external cohort: predictions against outcomes, as one file without scripts that loads nothing."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from survfuse.evaluation.evaluate import Evaluated, Evaluation
from survfuse.evaluation.forest_drawing import ForestRow, forest_drawing
from survfuse.evaluation.page_template import Row, drawn, render
from survfuse.evaluation.shared_parts import (
    CAPTIONS,
    auc_rows,
    brier_over_time_rows,
    brier_rows,
    calibration_rows,
    calibration_text,
    cells,
    decision_rows,
    group_rows,
    group_text,
    large_rows,
    shared_figures,
)
from survfuse.evaluation.subgroups import Variable, few_events_text, number_label
from survfuse.evaluation.svg import style
from survfuse.evaluation.tripod import external_items
from survfuse.evaluation.versus import Comparison, Versus
from survfuse.runtime.files import write_text

_SUBGROUPS = (
    "Harrell's C of the risks in each subgroup, with its 95% interval from bootstrap draws within the subgroup; "
    "diamond: all patients. To the right: events / patients. Hollow and dotted: fewer than 10 events."
)


def write_page(path: Path, found: Evaluated, predictions: str, outcomes: str) -> None:
    """Write the page of what was ``found`` to ``path``; the names are those of the tables compared."""
    write_text(path, external_page(found, predictions, outcomes))


def external_page(found: Evaluated, predictions: str, outcomes: str) -> str:
    """The page as HTML."""
    figures, shared = found.figures, found.figures["performance"]
    survival, brier = shared["survival"], figures["integrated_brier"]
    with style():
        drawings = shared_figures(found.judged, shared) | {"subgroups": _forest(figures)}
        shown = drawn(drawings, CAPTIONS | {"subgroups": _SUBGROUPS})
    return render(
        "external.html",
        title=f"{predictions} against {outcomes}",
        figures=figures,
        number_label=number_label,
        drawn=shown,
        ranking=_ranking_rows(figures),
        auc_rows=auc_rows(shared),
        group_text=group_text(shared["risk_groups"]),
        group_rows=group_rows(shared),
        survival=survival is not None,
        large_rows=large_rows(survival["in_the_large"]) if survival else [],
        brier_rows=brier_rows(brier["predicted"], brier["kaplan_meier"], brier["difference"]) if brier else [],
        brier_over_time_rows=brier_over_time_rows(survival) if survival else [],
        calibration_text=calibration_text(survival) if survival else "",
        calibration_rows=calibration_rows(survival) if survival else [],
        decision_rows=decision_rows(survival) if survival else [],
        subgroup_rows=[row for variable in figures["subgroups"] for row in _subgroup_rows(variable)],
        versus_rows=_versus_rows(figures["versus"]) if figures["versus"] else [],
        cohort_rows=_cohort_rows(found, predictions, outcomes),
        tripod=external_items(survival is not None, bool(figures["subgroups"])),
    )


def _ranking_rows(figures: Evaluation) -> list[Row]:
    return [
        ("Harrell’s C of the predicted months (the challenge’s figure)", *cells(figures["challenge_concordance"])),
        ("Harrell’s C of the risks", *cells(figures["harrell_concordance"])),
        ("Uno’s C of the risks", *cells(figures["uno_concordance"])),
        *((f"AUC at {month} months", *cells(area)) for month, area in figures["auc"].items()),
    ]


def _subgroup_rows(variable: Variable) -> list[Row]:
    """Rows of (variable, category, C, 95% interval, patients, events, note)."""
    name = variable["variable"]
    return [
        (
            name,
            group["category"],
            *cells(group["concordance"]),
            f"{group['patients']:,}",
            f"{group['events']:,}" + (few and f" ({few})"),
        )
        for group in variable["subgroups"]
        for few in (few_events_text(group),)
    ]


def _versus_rows(versus: Versus) -> list[Row]:
    """Rows of (measure, the other model's value, 95% interval, difference, 95% interval)."""
    compared: list[tuple[str, Comparison]] = [
        ("Harrell’s C of the predicted months", versus["challenge_concordance"]),
        ("Harrell’s C of the risks", versus["harrell_concordance"]),
        ("Uno’s C of the risks", versus["uno_concordance"]),
        *((f"AUC at {month} months", entry) for month, entry in versus["auc"].items()),
        ("log hazard ratio per standard deviation of the risk", versus["log_hazard_ratio_per_sd"]),
        ("calibration slope of the risk", versus["calibration_slope"]),
    ]
    if (survival := versus["survival"]) is not None:
        compared += [
            ("integrated Brier score", survival["integrated_brier"]),
            *((f"Brier score at {month} months", entry) for month, entry in survival["brier"].items()),
            *((f"observed / predicted at {month} months", entry) for month, entry in survival["in_the_large"].items()),
        ]
    return [(name, *cells(entry["other"]), *cells(entry["difference"], "+.3f")) for name, entry in compared]


def _cohort_rows(found: Evaluated, predictions: str, outcomes: str) -> list[Row]:
    figures, times = found.figures, found.judged.times
    versus = figures["versus"]
    return [
        ("predictions", predictions),
        ("outcomes", outcomes),
        ("patients", f"{figures['patients']:,}"),
        ("events", f"{figures['events']:,}"),
        ("follow-up in months, median and longest", f"{float(np.median(times)):g}, {float(times.max()):g}"),
        ("simulated", "yes" if figures["simulated"] else "not stated"),
        (
            "training patients of the bundle",
            _training_text(figures),
        ),
        *([("training patients of the other model", _training_text(versus))] if versus is not None else []),
        ("left out, as training patients", f"{figures['left_out']['training_patients']:,}"),
        ("left out, without a prediction", f"{figures['left_out']['without_prediction']:,}"),
        ("patients with tied months", f"{figures['tied_months_share']:.1%}"),
    ]


def _training_text(of: Evaluation | Versus) -> str:
    """How many of the patients a model was trained on, and of how many that is not known."""
    number, unknown = of["training_patients"], of["training_patients_unknown"]
    if number is None:
        return "not known whether any of these patients is one"
    return f"{number:,}" + (f"; not known of {unknown:,}" if unknown else "")


def _forest(figures: Evaluation) -> Figure | None:
    """Subgroups below all patients; None without subgroups."""
    if not figures["subgroups"]:
        return None
    everybody = _numbers(figures["patients"], figures["events"])
    rows = [ForestRow("all patients", figures["harrell_concordance"], strong=True, note=everybody)]
    for variable in figures["subgroups"]:
        rows.append(ForestRow(variable["variable"]))
        rows += [
            ForestRow(
                group["category"],
                group["concordance"],
                faint=group["few_events"],
                note=_numbers(group["patients"], group["events"]),
            )
            for group in variable["subgroups"]
        ]
    return forest_drawing(rows, "Harrell's C")


def _numbers(patients: int, events: int) -> str:
    return f"{events:,} / {patients:,}"
