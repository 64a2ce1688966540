"""Train an ensemble on a cohort, and write its bundle and report."""

from collections.abc import Collection, Sequence
from pathlib import Path

import torch

from survfuse.bundle.manifest import MANIFEST
from survfuse.bundle.place import check_place
from survfuse.cohort.read import Cohort
from survfuse.evaluation.report import write_report
from survfuse.evaluation.summary import MemberCurve
from survfuse.networks.sizes import Sizes
from survfuse.runtime.errors import BundleError, InputError
from survfuse.runtime.files import read_object
from survfuse.runtime.log import count, counted, stage
from survfuse.slide.encoders import load_encoder
from survfuse.slide.settings import SlideSettings
from survfuse.survival.metrics import concordance
from survfuse.training.freeze import freeze
from survfuse.training.held_out import ensemble_stacks, held_out
from survfuse.training.held_out_table import write_held_out
from survfuse.training.member import TrainedMember
from survfuse.training.protocol import Protocol
from survfuse.training.provenance import NOTICES, purpose, result_facts, training_facts
from survfuse.training.state import TrainingState, members_folder
from survfuse.training.trainer import Trainer
from survfuse.training.training_data import TrainingData, training_data
from survfuse.workers.executor import Executor, LocalExecutor


def check_out(out: Path, work: Path) -> None:
    """Raise InputError if ``out`` contains anything that ``train`` did not write there in an earlier run with ``work``.

    ``train`` checks this too. Call this first, before the cohort is read, which takes longer.
    """
    check_place(out, remains=any(members_folder(work).glob("*")))


def train(
    cohort: Cohort,
    protocol: Protocol,
    sizes: Sizes,
    settings: SlideSettings,
    out: Path,
    work: Path,
    weights: Path | None = None,
    executor: Executor | None = None,
    draws: int = 500,
    name: str = "",
) -> None:
    """Train on ``cohort`` what ``work`` does not hold yet, write the bundle to ``out`` and the report to ``work``.

    ``sizes`` are the networks' widths (those set by the data are replaced), ``settings`` say how the cohort's tile
    features were made, and ``weights`` is the tile encoder's weight file, to be copied into the bundle. Units are
    fitted by ``executor`` (default: this machine's CPU). ``draws`` are the bootstrap draws of the report's intervals,
    and ``name`` is the cohort's in the report's title.

    The bundle appears whole, and only then are the members in ``work`` removed. A run that is killed and restarted
    ends with the same bundle; on the CPU the same cohort and protocol give the same bytes.

    Raises InputError if ``out`` holds another bundle, for features of another length, encoder or tile, for a cohort
    that is too small for its folds or lacks a modality that the fusion needs, and if nothing is learnt.
    """
    check_out(out, work)
    if cohort.bags is not None and cohort.bags[0].dimension != settings.dimension:
        raise InputError(
            f"features of length {cohort.bags[0].dimension}, but {settings.encoder} gives {settings.dimension}; "
            "see --encoder"
        )
    if cohort.bags is not None:
        settings.check_features(cohort.bags[0].dimension, cohort.encoder, tile=cohort.tile)
        if silent := [name for name, bag in zip(cohort.ids, cohort.bags, strict=True) if bag.tile is None]:
            whose = f" of {counted(silent, 'patient', len(cohort.ids))}" if cohort.tile is not None else ""
            stage("features", f"tile size{whose} not stated; taken to be {settings.tile}, by --encoder and --mpp")
    if cohort.vector_settings is not None:
        stage("vectors", f"slide-level, {cohort.vector_settings}")
    stage("cohort", f"{count(len(cohort.ids), 'patient')}, {count(int(cohort.events.sum()), 'event')}")
    where = executor or LocalExecutor(torch.device("cpu"))
    data = training_data(cohort, protocol, sizes)
    state = TrainingState(work, data, where.device)
    if (out / MANIFEST).exists():
        if not _written_by(data, state, out):
            check_place(out)
        stage("resumed", f"{out} is already complete")
    else:
        if weights is not None:
            load_encoder(settings.encoder, weights, torch.device("cpu"))  # an unusable file fails before training
        members = Trainer(data, state, where).members()
        # This machine may have no device of the cluster's kind.
        device = where.device if where.is_here else torch.device("cpu")
        _write(data, state, members, settings, out, work, weights, draws, device, name)
    state.clear()
    stage("written", str(out))


def _write(
    data: TrainingData,
    state: TrainingState,
    members: Sequence[TrainedMember],
    settings: SlideSettings,
    out: Path,
    work: Path,
    weights: Path | None,
    draws: int,
    device: torch.device,
    name: str,
) -> None:
    """Write the report on ``members`` and their held-out predictions, then the bundle."""
    cohort = data.cohort
    stacks = ensemble_stacks(members, data.families, cohort)
    held = held_out(cohort, data.protocol, next(iter(stacks.values())), stacks)
    facts = result_facts(data, state.fingerprint, stacks)
    notice = {"notice": NOTICES[purpose(data)]}
    subject = f"{name or 'a cohort'}, {_model_name(members, held.candidates)}"
    figures = write_report(work, held, _loss_curves(members), notice | facts, draws, subject)
    stage("report", f"{work / 'report.html'}; held-out C {concordance(held.times, held.events, held.risks):.3f}")
    write_held_out(work, cohort, data.protocol, next(iter(stacks.values())), held)
    freeze(data, members, stacks, facts, figures, settings, out, weights, device)


def _model_name(members: Sequence[TrainedMember], families: Collection[str]) -> str:
    """What was trained, in short: its only family or their number, and how many members."""
    kinds = next(iter(families)) if len(families) == 1 else f"{len(families)} families"
    return f"{kinds}, {count(len(members), 'member')}"


def _loss_curves(members: Sequence[TrainedMember]) -> list[MemberCurve]:
    """The loss curve of each network."""
    return [
        MemberCurve(
            member.family.name,
            member.split.repeat,
            member.split.fold,
            member.split.number,
            member.fitted.best_epoch,
            member.fitted.training,
            member.fitted.inner,
        )
        for member in members
        if member.fitted.training
    ]


def _written_by(data: TrainingData, state: TrainingState, root: Path) -> bool:
    """Whether the bundle at ``root`` is that of this training, which was killed before it removed its members."""
    stated = read_object(root / MANIFEST, BundleError).get("provenance")
    if not state.folder.is_dir() or not isinstance(stated, dict):
        return False
    facts = training_facts(data, state.fingerprint)
    return {name: stated.get(name) for name in facts} == facts
