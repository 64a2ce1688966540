"""The training report as one HTML page, without scripts, that loads nothing."""

from collections.abc import Mapping, Sequence

import numpy as np

from survfuse.evaluation.facts import Json
from survfuse.evaluation.finding import (
    combinations_sentence,
    difference_sentence,
    families_sentence,
    ranking_sentence,
    reversed_sentence,
    simulated_sentence,
)
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
    interval,
    large_rows,
    shared_figures,
)
from survfuse.evaluation.summary import CandidateFigures, HeldOut, HeldOutFigures, MemberCurve, Summary
from survfuse.evaluation.svg import style
from survfuse.evaluation.training_drawings import (
    combination_drawing,
    family_drawing,
    fold_drawing,
    loss_drawing,
    risk_drawing,
)
from survfuse.evaluation.tripod import training_items
from survfuse.runtime.log import count
from survfuse.survival.numbers import number_text

_NOTICE = "notice"  # the fact that comes first on the page, after what was found
_CLINICAL = "clinical"  # the combination of clinical variables alone

_CAPTIONS = CAPTIONS | {
    "folds": "Concordance within each outer fold (dots; dashed: their mean) and of all held-out risks pooled, with "
    "its 95% interval (diamond).",
    "risks": "Held-out risks of the patients with the event and of those censored, who may have it later: shares of "
    "each group.",
    "families": "Concordance of the reported risks (diamond) and of each family alone, with 95% intervals, and the "
    "families’ mean weights.",
    "combinations": "Concordance of held-out risks under each combination of modalities, with 95% intervals; diamond: "
    "all modalities.",
    "losses": "Loss of each member by epoch, on its training patients and on the inner patients that chose the epoch "
    "kept. Members differ in patients, so their levels differ.",
}


def training_finding(found: HeldOutFigures, simulated: bool) -> list[str]:
    """What was found, in words, the most important first.

    Whether the ranking is told from chance and from clinical variables alone, and whether patients are simulated; then
    a high-risk group that does better, families without evidence of a gain, and modalities that do better without the
    others.
    """
    figures, combinations = found.summary, found.combinations
    same_time = bool(np.ptp(found.judged.times) == 0.0)
    ranking, events, draws = figures["harrell_concordance"], figures["events"], figures["draws"]
    first = [ranking_sentence(ranking, events, draws, "nested held-out C", same_time)]
    if len(combinations) > 1 and _CLINICAL in combinations:
        gain = combinations[_CLINICAL]["difference"]
        first.append(difference_sentence("The model with all modalities", "clinical variables alone", gain))
    first.append(simulated_sentence(simulated))
    higher = {
        name: entry["difference"]
        for name, entry in combinations.items()
        if entry["difference"]["value"] is not None and entry["difference"]["value"] < 0
    }
    others = [
        reversed_sentence(found.performance["risk_groups"]),
        _families(figures["candidates"]),
        combinations_sentence(higher),
    ]
    return [" ".join(filter(None, first)), *filter(None, others)]


def _families(candidates: Mapping[str, CandidateFigures]) -> str:
    """The sentence on the family that ranks best alone; empty if none is defined."""
    values = {family: entry["concordance"]["value"] for family, entry in candidates.items()}
    known = {family: value for family, value in values.items() if value is not None}
    if not known:
        return ""
    best = max(known, key=lambda family: known[family])
    return families_sentence(best, len(candidates), candidates[best]["difference"])


def training_page(
    held: HeldOut,
    found: HeldOutFigures,
    finding: Sequence[str],
    facts: Mapping[str, Json],
    curves: Sequence[MemberCurve],
    subject: str,
) -> str:
    """The page: what was ``finding``, the notice among the ``facts``, figures and drawings, then the other facts.

    ``subject`` says in the title whose figures these are.
    """
    figures, shared = found.summary, found.performance
    survival = shared["survival"]
    assert survival is not None
    with style():
        drawings = shared_figures(found.judged, shared) | {
            "folds": fold_drawing(held, figures),
            "risks": risk_drawing(held),
            "families": family_drawing(figures, _weights(facts)),
            "combinations": combination_drawing(found.combinations),
            "losses": loss_drawing(curves),
        }
        shown = drawn(drawings, _CAPTIONS)
    return render(
        "training.html",
        title=f"Held-out performance{': ' if subject else ''}{subject}",
        finding=finding,
        notice=facts.get(_NOTICE),
        facts={name: value for name, value in facts.items() if name != _NOTICE},
        figures=figures,
        lead=f"{count(figures['patients'], 'patient')}, {count(figures['events'], 'event')}.",
        draws=count(figures["draws"], "draw"),
        drawn=shown,
        ranking=_ranking_rows(figures),
        fold_text=f"By fold: mean {number_text(figures['folds']['mean'])}, "
        f"standard deviation {number_text(figures['folds']['sd'])}.",
        auc_rows=auc_rows(shared),
        family_rows=_family_rows(figures["candidates"]),
        combination_rows=_combination_rows(found),
        group_text=group_text(shared["risk_groups"]),
        group_rows=group_rows(shared),
        large_rows=large_rows(survival["in_the_large"]),
        brier_rows=brier_rows(
            figures["integrated_brier"],
            figures["integrated_brier_kaplan_meier"],
            figures["integrated_brier_difference"],
        ),
        brier_over_time_rows=brier_over_time_rows(survival),
        calibration_text=calibration_text(survival),
        calibration_rows=calibration_rows(survival),
        decision_rows=decision_rows(survival),
        tripod=training_items("losses" in shown, bool(figures["candidates"])),
    )


def _weights(facts: Mapping[str, Json]) -> dict[str, float]:
    """The families' mean weights, if the facts state them."""
    stated = facts.get("family_weights")
    if not isinstance(stated, dict):
        return {}
    return {name: float(weight) for name, weight in stated.items() if isinstance(weight, int | float)}


def _ranking_rows(figures: Summary) -> list[Row]:
    return [
        ("Harrell’s C of the risks", *cells(figures["harrell_concordance"])),
        ("Harrell’s C of the predicted months (the challenge’s figure)", *cells(figures["months_concordance"])),
        ("Uno’s C of the risks", *cells(figures["uno_concordance"])),
        *((f"AUC at {month} months", *cells(area)) for month, area in figures["auc"].items()),
    ]


def _family_rows(candidates: Mapping[str, CandidateFigures]) -> list[Row]:
    """Rows of (family, C, interval, reported − family, interval over patients, interval over folds)."""
    return [
        (
            family,
            *cells(entry["concordance"]),
            *cells(entry["difference"], "+.3f"),
            interval(entry["difference_by_fold"]["low"], entry["difference_by_fold"]["high"], "+.3f"),
        )
        for family, entry in candidates.items()
    ]


def _combination_rows(found: HeldOutFigures) -> list[Row]:
    """Rows of (combination, C, interval, all − combination, interval); none if there is only one."""
    if len(found.combinations) < 2:
        return []
    first = next(iter(found.combinations))
    return [
        (name, *cells(entry["concordance"]), *(("", "") if name == first else cells(entry["difference"], "+.3f")))
        for name, entry in found.combinations.items()
    ]
