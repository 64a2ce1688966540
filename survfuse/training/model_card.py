"""The model card that a bundle carries, for people (after Mitchell et al. 2019)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from survfuse.tasks.modalities import parse_combination
from survfuse.training.protocol import NONE

if TYPE_CHECKING:
    from survfuse.bundle.manifest import Manifest


def model_card(manifest: "Manifest", figures: Mapping[str, Any]) -> str:
    """Markdown: what the ensemble was trained on and how, its nested held-out figures, what it is for and is not."""
    facts = manifest.provenance
    protocol, optimisation = facts["protocol"], facts["protocol"]["optimisation"]
    middle, longest = facts["follow_up_months"]
    lines = [
        "# Model card",
        "",
        f"**{manifest.notice}**",
        "",
        "## Trained on",
        "",
        f"{facts['patients']} {'simulated ' if facts['simulated'] else ''}patients, {facts['events']} with the event; "
        f"follow-up {middle:g} months in the median, {longest:g} at most.{_slide(manifest)}",
        "",
        "## Protocol",
        "",
        f"{protocol['repeats']} × {protocol['folds']} outer folds stratified by event and time, {protocol['inner']} "
        "members in each; a member is fitted to all but one part of its fold's training patients, which part decides "
        "when a network stops and how strongly a linear model is penalised. "
        f"{_genes(protocol)}, expression {protocol['transform']}; networks have modalities hidden from them with a "
        f"chance of {optimisation['modality_dropout']:g} at each step. Families and mean weights, learnt on inner "
        "out-of-fold risks:",
        "",
        "| family | weight |",
        "|---|---|",
        *(f"| {family} | {weight:.3f} |" for family, weight in facts["family_weights"].items()),
        "",
        "## Held-out figures",
        "",
        "Of patients that no weight, epoch, family, standardisation or gene selection had seen; 95% intervals by "
        "bootstrap over patients. Months and survival curves take one factor more: how much less the mean over a "
        "fold's members varies than one member, by the inputs of the others held out with a patient.",
        "",
        "| figure | value |",
        "|---|---|",
        *_rows(figures),
        "",
        "| combination of modalities | concordance of held-out risks |",
        "|---|---|",
        *(f"| {name} | {value:.3f} |" for name, value in facts["combinations"].items()),
        "",
        "## Intended use",
        "",
        "Research: ranking patients by time to the event that the training cohort's outcomes are of, for patients who "
        "would have entered that cohort and were measured as its patients were. Made for CHIMERA Task 3, recurrence "
        "of high-risk non-muscle-invasive bladder cancer; whether this cohort is one of that disease, who trained on "
        "it knows.",
        "",
        "## Limits",
        "",
        "- Not a medical device; not for decisions about a patient's care.",
        "- Figures are of one cohort. Another scanner, stain, sequencing pipeline or population needs its own test.",
        "- Few events make wide intervals, and months beyond the last observed event are a ranking only.",
        "- Reference risks are stored sorted, without ids; member weights may still carry traces of the patients.",
    ]
    return "\n".join(lines) + "\n"


def _rows(figures: Mapping[str, Any]) -> list[str]:
    """One row for each figure that is a number, with its interval where it has one."""
    rows = []
    for name, value in figures.items():
        if isinstance(value, Mapping) and isinstance(value.get("value"), (int, float)):
            bounds = [value.get("low"), value.get("high")]
            interval = f" ({bounds[0]:.3f} to {bounds[1]:.3f})" if all(b is not None for b in bounds) else ""
            rows.append(f"| {name.replace('_', ' ')} | {value['value']:.3f}{interval} |")
        elif name == "auc":
            rows += _rows({f"AUC at {months} months": area for months, area in value.items()})
        elif name == "d_calibration" and value["p"] is not None:
            rows.append(f"| D-calibration, χ² and p | {value['statistic']:.2f}, {value['p']:.2g} |")
        elif isinstance(value, float):
            rows.append(f"| {name.replace('_', ' ')} | {value:.4g} |")
    return rows


def _slide(manifest: "Manifest") -> str:
    """Of the tile features, where the ensemble reads any."""
    slide = manifest.slide
    if not any("slide" in parse_combination(name) for name in manifest.combinations):
        return ""
    return f" Tile features by {slide.encoder}, {slide.tile_px} px at {slide.mpp:g} µm per pixel."


def _genes(protocol: Mapping[str, Any]) -> str:
    return "All genes" if protocol["select"] == NONE else f"At most {protocol['genes']} genes by {protocol['select']}"
