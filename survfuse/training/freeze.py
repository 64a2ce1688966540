"""From trained members to a bundle: weights, scales, calibration, held-out figures, model card."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from survfuse.bundle.encoder_weights import carry_weights
from survfuse.bundle.manifest import DEMONSTRATION, RESEARCH, Manifest, MemberEntry, member_file
from survfuse.bundle.place import new_bundle_folder
from survfuse.bundle.save import Tables, save
from survfuse.cohort.read import Cohort
from survfuse.evaluation.summary import MemberCurve
from survfuse.inputs.expression import Expression
from survfuse.networks.families import FAMILIES
from survfuse.networks.weighting import MemberWeight, RiskScale
from survfuse.runtime.log import count, stage
from survfuse.slide.settings import SlideSettings
from survfuse.survival.calibration import Calibration
from survfuse.survival.curves import SurvivalCurve
from survfuse.survival.metrics import concordance
from survfuse.tasks.modalities import Combination, combination_name
from survfuse.training.member import TrainedMember
from survfuse.training.model_card import model_card
from survfuse.training.stacking import Stacked
from survfuse.training.trainer import Trainer

NOTICES = {
    DEMONSTRATION: "Trained on simulated patients: the months it predicts mean nothing clinically.",
    RESEARCH: "For research use. Not a medical device.",
}


def freeze(
    trainer: Trainer,
    members: Sequence[TrainedMember],
    stacks: Mapping[Combination, Stacked],
    settings: SlideSettings,
    root: Path,
    weights: Path | None,
    figures: Mapping[str, Any],
) -> None:
    """Write the ensemble of ``stacks`` to ``root`` as a bundle, whole or not at all."""
    cohort = trainer.cohort
    # A split's members together: they share their input maps.
    members = sorted(members, key=lambda member: member.split.name)
    standings = [_standings(member, stacks) for member in members]
    kept = [member for member, own in zip(members, standings, strict=True) if own]
    genes = _genes_used(trainer, kept)
    reads = {name for member in kept for name in FAMILIES[member.family].modalities}
    entries = tuple(
        MemberEntry(member_file(number), member.family, _sizes(trainer, member.family, genes).to_json(), own)
        for number, (member, own) in enumerate(zip(kept, filter(None, standings), strict=True))
    )
    purpose = DEMONSTRATION if cohort.simulated else RESEARCH
    provenance = facts(trainer, stacks) | {"held_out": _headline(figures)}
    scales = {
        combination_name(combination): RiskScale(found.location, found.scale) for combination, found in stacks.items()
    }
    reference = next(iter(stacks.values())).reference
    with new_bundle_folder(root) as partial:
        carried = carry_weights(settings, partial, weights) if "slide" in reads else settings
        manifest = Manifest(purpose, NOTICES[purpose], provenance, carried, scales, entries, ())
        tables = Tables(
            Calibration.fit(cohort.times, cohort.events, reference, trainer.protocol.calibration),
            _expression(trainer, genes) if "rna" in reads else None,
            trainer.vocabulary if "clinical" in reads else None,
            {combination_name(combination): _curve(found, cohort) for combination, found in stacks.items()},
            model_card(manifest, figures),
        )
        states = (_state(trainer, member, genes) for member in kept)
        save(partial, replace(manifest, tables=tables.present()), states, tables)
    families = ", ".join(dict.fromkeys(member.family for member in kept))
    stage("frozen", f"{root}: {count(len(kept), 'member')} of {families}")


def _curve(stacked: Stacked, cohort: Cohort) -> SurvivalCurve:
    """Risk → survival of new patients, whose risks are means over more members than the reference risks are."""
    known = stacked.reference, cohort.times, cohort.events
    return SurvivalCurve.fit(*known).steeper(stacked.dilution, *known)


def _standings(member: TrainedMember, stacks: Mapping[Combination, Stacked]) -> dict[str, MemberWeight]:
    """How a member counts, by the name of each combination in which it does."""
    key = member.family, member.split.name
    counted = {combination: found.standings[key] for combination, found in stacks.items() if key in found.standings}
    return {combination_name(combination): standing for combination, standing in counted.items()}


def _sizes(trainer: Trainer, family: str, genes: NDArray[np.int64]) -> Any:
    return replace(trainer.family_sizes(family), genes=max(1, len(genes)))


def _genes_used(trainer: Trainer, members: Sequence[TrainedMember]) -> NDArray[np.int64]:
    """Places of the genes that any of ``members`` gives weight; a bundle asks a case for no others."""
    used = np.zeros(trainer.sizes.genes, dtype=bool)
    for split in {m.split.name: m.split for m in members if "rna" in FAMILIES[m.family].modalities}.values():
        expression, _ = trainer.maps(split)
        used |= expression.factor != 0.0
    return np.flatnonzero(used)


def _expression(trainer: Trainer, genes: NDArray[np.int64]) -> Expression:
    names = tuple(trainer.cohort.genes[place] for place in genes)
    return Expression.fit(names, trainer.cohort.expression[:, genes], trainer.protocol.transform)


def _state(trainer: Trainer, member: TrainedMember, genes: NDArray[np.int64]) -> dict[str, Tensor]:
    """A frozen member's tensors: its weights behind its fixed input maps."""
    modalities, state = FAMILIES[member.family].modalities, dict(member.fitted.state)
    expression, clinical = trainer.maps(member.split)
    if "rna" in modalities:
        weight, bias = expression.layer()
        components = trainer.family_sizes(member.family).components
        state |= {"expression.weight": weight[:components, genes], "expression.bias": bias[:components]}
    if "clinical" in modalities:
        state["variables.weight"], state["variables.bias"] = clinical.layer()
    return state


def member_curves(members: Sequence[TrainedMember]) -> list[MemberCurve]:
    return [
        MemberCurve(
            m.family,
            m.split.repeat,
            m.split.fold,
            m.split.number,
            m.fitted.best_epoch,
            m.fitted.training,
            m.fitted.inner,
        )
        for m in members
        if m.fitted.training
    ]


def facts(trainer: Trainer, stacks: Mapping[Combination, Stacked]) -> dict[str, Any]:
    """Of the cohort, the protocol and the weights, for the manifest, the model card and the report."""
    cohort = trainer.cohort
    full = next(iter(stacks.values()))
    families = sorted({family for shares in full.shares.values() for family in shares})
    mean = {f: float(np.mean([shares.get(f, 0.0) for shares in full.shares.values()])) for f in families}
    return training_facts(trainer) | {
        "family_weights": {family: round(share, 4) for family, share in mean.items()},
        "combinations": {
            combination_name(combination): round(concordance(cohort.times, cohort.events, found.reference), 4)
            for combination, found in stacks.items()
        },
    }


def training_facts(trainer: Trainer) -> dict[str, Any]:
    """Of a training, before it has begun."""
    cohort = trainer.cohort
    return {
        "patients": len(cohort.ids),
        "events": int(cohort.events.sum()),
        "follow_up_months": [float(np.median(cohort.times)), float(cohort.times.max())],
        "simulated": cohort.simulated,
        "fingerprint": trainer.state.name,
        "protocol": asdict(trainer.protocol),
        "candidates": list(trainer.families),
    }


def _headline(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The report's figures that a manifest carries."""
    return {name: value for name, value in figures.items() if name != "candidates"}
