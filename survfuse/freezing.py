"""From trained members to a bundle: weights, scales, calibration, held-out figures, model card."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from survfuse.bundle import (
    DEMONSTRATION,
    MANIFEST,
    RESEARCH,
    Manifest,
    MemberEntry,
    Scale,
    Standing,
    Tables,
    member_file,
    save,
)
from survfuse.calibration import Calibration
from survfuse.card import model_card
from survfuse.cohort import Cohort
from survfuse.combinations import Combination, all_combinations, name_of, ordered
from survfuse.curves import SurvivalCurve
from survfuse.errors import BundleError, InputError
from survfuse.files import read_object
from survfuse.fusion import FAMILIES
from survfuse.log import count, stage
from survfuse.metrics import concordance
from survfuse.place import check_place, placed
from survfuse.report import HeldOut, MemberCurve, write_report
from survfuse.rna import Expression
from survfuse.slide.carried import carry_weights
from survfuse.slide.encoders import load_encoder
from survfuse.slide.settings import SlideSettings
from survfuse.stacking import Stacked, stack
from survfuse.training import Member, Trainer

Floats = NDArray[np.float64]
NOTICES = {
    DEMONSTRATION: "Trained on simulated patients: the months it predicts mean nothing clinically.",
    RESEARCH: "For research use. Not a medical device.",
}


def train(
    trainer: Trainer, settings: SlideSettings, root: Path, work: Path, weights: Path | None, draws: int = 500
) -> None:
    """Train what ``work`` does not yet hold, write the bundle to ``root`` and the report to ``work``.

    ``weights`` is a tile encoder's weight file to carry along, ``draws`` the bootstrap's in the report. The bundle
    appears whole, and the members kept in ``work`` go only then: a run that was killed and is started again ends with
    the same bundle. Raises InputError where ``root`` holds another bundle.
    """
    if (root / MANIFEST).exists():
        if not _written_by(trainer, root):
            check_place(root)
        stage("resumed", f"{root} was finished before")
        shutil.rmtree(trainer.state, ignore_errors=True)
        return
    if weights is not None:
        load_encoder(settings.encoder, weights, torch.device("cpu"))  # what is wrong with it shows before training
    members = list(trainer.members())
    stacks = ensemble_stacks(trainer, members)
    held = held_out(trainer, next(iter(stacks.values())))
    figures = write_report(work, held, _curves(members), _facts(trainer, stacks), draws)
    stage("report", f"{work / 'report.html'}; held-out C {concordance(held.times, held.events, held.risks):.3f}")
    freeze(trainer, members, stacks, settings, root, weights, figures)
    shutil.rmtree(trainer.state, ignore_errors=True)


def _written_by(trainer: Trainer, root: Path) -> bool:
    """Whether the bundle at ``root`` is that of this training, which was killed before it cleared its members away."""
    stated = read_object(root / MANIFEST, BundleError).get("provenance")
    if not trainer.state.is_dir() or not isinstance(stated, dict):
        return False
    facts = _training_facts(trainer)
    return {name: stated.get(name) for name in facts} == facts


def ensemble_stacks(trainer: Trainer, members: Sequence[Member]) -> dict[Combination, Stacked]:
    """The ensemble under every combination of modalities it can score, all of them together first.

    Raises InputError where nothing was learnt with all of them; a lesser combination that tells no patients apart is
    left out and said so.
    """
    scored = [member.scored() for member in members]
    modalities = ordered(name for family in trainer.families for name in FAMILIES[family].modalities)
    found = {}
    for combination in all_combinations(modalities):
        if not any(set(known) <= set(combination) for member in scored for known in member.risks):
            continue
        try:
            found[combination] = stack(scored, combination, trainer.cohort.times, trainer.cohort.events)
        except InputError as problem:
            if combination == modalities:
                raise
            stage("left out", f"{name_of(combination)}: {problem}")
    return found


def held_out(trainer: Trainer, stacked: Stacked) -> HeldOut:
    """Nested predictions of every patient: risk, survival curve and months by units that have not seen them.

    A unit's curve and calibration come from its inner out-of-fold risks. Those are of single members, the held-out
    patients' are means over members, which vary less: they are brought to the former's spread by a factor that comes
    from the others held out with them, and from no outcome.
    """
    cohort, protocol = trainer.cohort, trainer.protocol
    grid = np.linspace(0.0, float(cohort.times.max()), 51)[1:]
    survival, months = np.zeros((len(cohort.times), len(grid))), np.zeros(len(cohort.times))
    folds = np.zeros(len(cohort.times), dtype=np.int64)
    for (repeat, fold), unit in stacked.units.items():
        rows, training = np.flatnonzero(~np.isnan(unit.held_out)), np.flatnonzero(~np.isnan(unit.judged))
        known = unit.judged[training], cohort.times[training], cohort.events[training]
        dilution = unit.dilution()
        risks = unit.held_out[rows] * dilution
        curve = SurvivalCurve.fit(*known)
        for row, risk, factor in zip(rows, risks, dilution, strict=True):
            survival[row] += curve.steeper(factor, *known).survival([risk], grid)[0] / protocol.repeats
        months[rows] += Calibration.fit(known[1], known[2], known[0], protocol.calibration).months(risks).months
        if repeat == 0:
            folds[rows] = fold
    months /= protocol.repeats
    reference, candidates = stacked.reference, stacked.candidates
    return HeldOut(cohort.times, cohort.events, folds, reference, candidates, grid, survival, months)


def freeze(
    trainer: Trainer,
    members: Sequence[Member],
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
    provenance = _facts(trainer, stacks) | {"held_out": _headline(figures)}
    scales = {name_of(combination): Scale(found.location, found.scale) for combination, found in stacks.items()}
    reference = next(iter(stacks.values())).reference
    with placed(root) as partial:
        carried = carry_weights(settings, partial, weights) if "slide" in reads else settings
        manifest = Manifest(purpose, NOTICES[purpose], provenance, carried, scales, entries, ())
        tables = Tables(
            Calibration.fit(cohort.times, cohort.events, reference, trainer.protocol.calibration),
            _expression(trainer, genes) if "rna" in reads else None,
            trainer.vocabulary if "clinical" in reads else None,
            {name_of(combination): _curve(found, cohort) for combination, found in stacks.items()},
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


def _standings(member: Member, stacks: Mapping[Combination, Stacked]) -> dict[str, Standing]:
    """How a member counts, by the name of each combination in which it does."""
    key = member.family, member.split.name
    counted = {combination: found.standings[key] for combination, found in stacks.items() if key in found.standings}
    return {name_of(combination): standing for combination, standing in counted.items()}


def _sizes(trainer: Trainer, family: str, genes: NDArray[np.int64]) -> Any:
    return replace(trainer.family_sizes(family), genes=max(1, len(genes)))


def _genes_used(trainer: Trainer, members: Sequence[Member]) -> NDArray[np.int64]:
    """Places of the genes that any of ``members`` gives weight; a bundle asks a case for no others."""
    used = np.zeros(trainer.sizes.genes, dtype=bool)
    for split in {m.split.name: m.split for m in members if "rna" in FAMILIES[m.family].modalities}.values():
        expression, _ = trainer.maps(split)
        used |= expression.factor != 0.0
    return np.flatnonzero(used)


def _expression(trainer: Trainer, genes: NDArray[np.int64]) -> Expression:
    names = tuple(trainer.cohort.genes[place] for place in genes)
    return Expression.fit(names, trainer.cohort.expression[:, genes], trainer.protocol.transform)


def _state(trainer: Trainer, member: Member, genes: NDArray[np.int64]) -> dict[str, Tensor]:
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


def _curves(members: Sequence[Member]) -> list[MemberCurve]:
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


def _facts(trainer: Trainer, stacks: Mapping[Combination, Stacked]) -> dict[str, Any]:
    """Of the cohort, the protocol and the weights, for the manifest, the model card and the report."""
    cohort = trainer.cohort
    full = next(iter(stacks.values()))
    families = sorted({family for shares in full.shares.values() for family in shares})
    mean = {f: float(np.mean([shares.get(f, 0.0) for shares in full.shares.values()])) for f in families}
    return _training_facts(trainer) | {
        "family_weights": {family: round(share, 4) for family, share in mean.items()},
        "combinations": {
            name_of(combination): round(concordance(cohort.times, cohort.events, found.reference), 4)
            for combination, found in stacks.items()
        },
    }


def _training_facts(trainer: Trainer) -> dict[str, Any]:
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
