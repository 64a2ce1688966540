"""The model card in a bundle, for readers (after Mitchell et al. 2019)."""

from collections.abc import Mapping
from typing import Any

from survfuse.bundle.manifest import Manifest
from survfuse.evaluation.summary import Summary
from survfuse.survival.estimates import Estimate
from survfuse.tasks.modalities import parse_combination
from survfuse.tasks.task import Task
from survfuse.training.protocol import NONE


def model_card(manifest: Manifest, figures: Summary, task: Task) -> str:
    """Markdown: what the ensemble was trained on and how, its nested held-out figures, its intended use and limits.

    ``figures`` are the report's.
    """
    sections = {
        "Trained on": _cohort(manifest),
        "Protocol": _protocol(manifest.provenance),
        "Held-out figures": _held_out(manifest.provenance, figures),
        "Intended use": [task.intended_use],
        "Limits": [
            "- Not a medical device; not for decisions about a patient's care.",
            "- The figures are from one cohort. A new scanner, stain, sequencing pipeline or population needs its own "
            "test.",
            "- With few events the intervals are wide. Months beyond the last observed event are only a ranking.",
            "- Reference risks are stored sorted and without ids. Members' weights may still carry traces of patients.",
        ],
    }
    lines = ["# Model card", "", f"**{manifest.notice}**"]
    for heading, text in sections.items():
        lines += ["", f"## {heading}", "", *text]
    return "\n".join(lines) + "\n"


def _cohort(manifest: Manifest) -> list[str]:
    facts = manifest.provenance
    middle, longest = facts["follow_up_months"]
    kind = "simulated " if facts["simulated"] else ""
    return [
        f"{facts['patients']} {kind}patients, {facts['events']} with the event. Median follow-up {middle:g} months, "
        f"longest {longest:g}.{_slide(manifest)}"
    ]


def _slide(manifest: Manifest) -> str:
    """A sentence each on tile features and slide-level vectors, if the ensemble reads any."""
    slide, vector, text = manifest.slide, manifest.vector, ""
    if any("slide" in parse_combination(name) for name in manifest.combinations):
        text += f" Tile features by {slide.encoder}, from tiles of {slide.tile_px} px at {slide.mpp:g} µm per pixel."
    if vector is not None:
        text += f" Slide-level vectors of {vector}."
    return text


def _protocol(facts: Mapping[str, Any]) -> list[str]:
    protocol = facts["protocol"]
    chance = protocol["optimisation"]["modality_dropout"]
    genes = f"at most {protocol['genes']} genes, selected by {protocol['select']}"
    return [
        f"{protocol['repeats']} × {protocol['folds']} outer folds, stratified by event and time, with "
        f"{protocol['inner']} members each. A member is fitted to its fold's training patients except one part. That "
        "part decides when a network stops and how strongly a linear model is penalised.",
        "",
        f"Expression: {'all genes' if protocol['select'] == NONE else genes}, {protocol['transform']}. "
        f"In training, each modality of a patient is hidden from a network with probability {chance:g} in each step.",
        "",
        "The families' weights are learnt on inner out-of-fold risks. Their means over folds:",
        "",
        "| family | weight |",
        "|---|---|",
        *(f"| {family} | {weight:.3f} |" for family, weight in facts["family_weights"].items()),
    ]


def _held_out(facts: Mapping[str, Any], figures: Summary) -> list[str]:
    return [
        "These figures are of patients that no weight, epoch, family, standardisation or gene selection had seen, with "
        "95% bootstrap intervals over patients. Months and survival curves also use how much less the mean over a "
        "fold's members varies than a single member. That factor comes from the inputs of the other patients held out "
        "in the fold.",
        "",
        "| figure | value |",
        "|---|---|",
        *_rows(figures),
        "",
        "| combination of modalities | concordance of held-out risks |",
        "|---|---|",
        *(f"| {name} | {value:.3f} |" for name, value in facts["combinations"].items()),
    ]


def _rows(figures: Summary) -> list[str]:
    """One row for each figure that is defined, with its interval if it has one."""
    measured = {
        "Harrell's concordance": figures["harrell_concordance"],
        "Uno's concordance": figures["uno_concordance"],
        **{f"AUC at {months} months": area for months, area in figures["auc"].items()},
        "Harrell's concordance of the months": figures["months_concordance"],
        "integrated Brier score": figures["integrated_brier"],
        "integrated Brier score of Kaplan–Meier": figures["integrated_brier_kaplan_meier"],
        "difference of the two": figures["integrated_brier_difference"],
    }
    rows = [f"| {name} | {_figure(figure)} |" for name, figure in measured.items() if figure["value"] is not None]
    if figures["log_rank_p"] is not None:
        rows.append(f"| log-rank p, risk above or below the median | {figures['log_rank_p']:.2g} |")
    calibration = figures["d_calibration"]
    if calibration["p"] is not None:
        rows.append(f"| D-calibration, χ² and p | {calibration['statistic']:.2f}, {calibration['p']:.2g} |")
    return rows


def _figure(figure: Estimate) -> str:
    interval = ""
    if figure["low"] is not None and figure["high"] is not None:
        interval = f" ({figure['low']:.3f} to {figure['high']:.3f})"
    return f"{figure['value']:.3f}{interval}"
