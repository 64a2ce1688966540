"""From trained members to a bundle: weights behind their input maps, tables, calibration, model card."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from survfuse.bundle.encoder_weights import carry_weights
from survfuse.bundle.manifest import Manifest, MemberEntry, member_file
from survfuse.bundle.place import new_bundle_folder
from survfuse.bundle.save import Tables, save
from survfuse.cohort.read import Cohort
from survfuse.evaluation.summary import Summary
from survfuse.inputs.expression import Expression
from survfuse.networks.families import Family
from survfuse.networks.sizes import Sizes
from survfuse.networks.weighting import MemberWeight, RiskScale
from survfuse.runtime.arrays import Rows
from survfuse.runtime.log import count, stage
from survfuse.slide.settings import SlideSettings
from survfuse.survival.calibration import Calibration
from survfuse.survival.curves import SurvivalCurve
from survfuse.tasks.modalities import Combination, combination_name, ordered
from survfuse.tasks.task import VECTOR
from survfuse.training.averages import averages
from survfuse.training.member import TrainedMember
from survfuse.training.model_card import model_card
from survfuse.training.provenance import NOTICES, purpose
from survfuse.training.stacking import Stacked
from survfuse.training.training_data import TrainingData
from survfuse.training.training_patients import training_patients


def freeze(
    data: TrainingData,
    members: Sequence[TrainedMember],
    stacks: Mapping[Combination, Stacked],
    facts: Mapping[str, object],
    figures: Summary,
    settings: SlideSettings,
    root: Path,
    weights: Path | None,
    device: torch.device,
) -> None:
    """Write the ensemble of ``stacks`` to ``root`` as a bundle, whole or not at all.

    ``facts`` come from ``result_facts``, ``figures`` from the report; ``weights`` is a tile encoder's weight file to
    copy into the bundle; ``device`` is where the average patient's slide vectors are computed.
    """
    # A split's members together: they share their input maps.
    members = sorted(members, key=lambda member: member.split.name)
    weighted = [(member, own) for member in members if (own := _standings(member, stacks))]
    kept = [member for member, _ in weighted]
    genes = _genes_used(data, kept)
    reads = {name for member in kept for name in member.family.modalities}
    entries = tuple(
        MemberEntry(member_file(number), member.family.name, _sizes(data, member.family, genes).to_json(), own)
        for number, (member, own) in enumerate(weighted)
    )
    scales = {
        combination_name(combination): RiskScale(stacked.location, stacked.scale)
        for combination, stacked in stacks.items()
    }
    # A manifest does not include the figures of single candidates.
    provenance = dict(facts) | {"held_out": {name: value for name, value in figures.items() if name != "candidates"}}
    with new_bundle_folder(root) as partial:
        carried = carry_weights(settings, partial, weights) if "slide" in reads else settings
        stated = purpose(data)
        vector = data.cohort.vector_settings
        manifest = Manifest(stated, NOTICES[stated], provenance, carried, scales, entries, (), vector)
        tables = _tables(data, stacks, reads, genes, model_card(manifest, figures, data.cohort.task))
        families = [(member.family, _sizes(data, member.family, genes)) for member in kept]
        expression = (tables.expression, genes) if tables.expression is not None else None
        mean = averages(data, families, _states(data, kept, genes), expression, device)
        modalities = ordered((name for combination in stacks for name in combination), data.cohort.task.modalities)
        known = training_patients(data, modalities, genes, str(facts["fingerprint"]))
        tables = replace(tables, averages=mean, training_patients=known)
        save(partial, replace(manifest, tables=tables.present()), _states(data, kept, genes), tables)
    names = ", ".join(dict.fromkeys(member.family.name for member in kept))
    stage("frozen", f"{root}: {count(len(kept), 'member')} of {names}")


def _tables(
    data: TrainingData, stacks: Mapping[Combination, Stacked], reads: set[str], genes: Rows, card: str
) -> Tables:
    """The bundle's tables; those of modalities that no member reads are left out."""
    cohort, reference = data.cohort, next(iter(stacks.values())).reference
    return Tables(
        Calibration.fit(cohort.times, cohort.events, reference, data.protocol.calibration),
        _expression(data, genes) if "rna" in reads else None,
        data.vocabulary if "clinical" in reads else None,
        {combination_name(combination): _curve(stacked, cohort) for combination, stacked in stacks.items()},
        card,
    )


def _curve(stacked: Stacked, cohort: Cohort) -> SurvivalCurve:
    """Risk → survival of new patients, whose risks are means over more members than the reference risks are."""
    known = stacked.reference, cohort.times, cohort.events
    return SurvivalCurve.fit(*known).steeper(stacked.dilution, *known)


def _standings(member: TrainedMember, stacks: Mapping[Combination, Stacked]) -> dict[str, MemberWeight]:
    """How a member counts, by the name of each combination in which it does."""
    key = member.family.name, member.split.name
    return {
        combination_name(combination): stacked.standings[key]
        for combination, stacked in stacks.items()
        if key in stacked.standings
    }


def _sizes(data: TrainingData, family: Family, genes: Rows) -> Sizes:
    return replace(data.family_sizes(family), genes=max(1, len(genes)))


def _genes_used(data: TrainingData, members: Sequence[TrainedMember]) -> Rows:
    """Places of the genes that any of ``members`` gives weight; a bundle needs no others from a case."""
    used = np.zeros(data.sizes.genes, dtype=bool)
    for split in {m.split.name: m.split for m in members if "rna" in m.family.modalities}.values():
        expression = data.maps(split).expression
        assert expression is not None
        used |= expression.factor != 0.0
    return np.flatnonzero(used)


def _expression(data: TrainingData, genes: Rows) -> Expression:
    """The table of the genes that are used."""
    assert data.cohort.expression is not None
    names = tuple(data.cohort.genes[place] for place in genes)
    return Expression.fit(names, data.cohort.expression[:, genes], data.protocol.transform)


def _states(data: TrainingData, members: Sequence[TrainedMember], genes: Rows) -> Iterable[dict[str, Tensor]]:
    """Each frozen member's tensors: its weights behind its fixed input maps."""
    for member in members:
        maps, state = data.maps(member.split), dict(member.fitted.state)
        if "rna" in member.family.modalities and maps.expression is not None:
            weight, bias = maps.expression.layer()
            components = data.family_sizes(member.family).components
            state |= {"expression.weight": weight[:components, genes], "expression.bias": bias[:components]}
        if "clinical" in member.family.modalities and maps.clinical is not None:
            state["variables.weight"], state["variables.bias"] = maps.clinical.layer()
        if VECTOR in member.family.modalities and maps.vector is not None:
            weight, bias = maps.vector.layer()
            components = data.family_sizes(member.family).vector_components
            state |= {"vector_axes.weight": weight[:components], "vector_axes.bias": bias[:components]}
        yield state
