"""Train an ensemble on a cohort and write its bundle and report."""

import shutil
from pathlib import Path

import torch

from survfuse.bundle.manifest import MANIFEST
from survfuse.bundle.place import check_place
from survfuse.evaluation.report import write_report
from survfuse.runtime.errors import BundleError
from survfuse.runtime.files import read_object
from survfuse.runtime.log import stage
from survfuse.slide.encoders import load_encoder
from survfuse.slide.settings import SlideSettings
from survfuse.survival.metrics import concordance
from survfuse.training.freeze import facts, freeze, member_curves, training_facts
from survfuse.training.held_out import ensemble_stacks, held_out
from survfuse.training.trainer import Trainer


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
    figures = write_report(work, held, member_curves(members), facts(trainer, stacks), draws)
    stage("report", f"{work / 'report.html'}; held-out C {concordance(held.times, held.events, held.risks):.3f}")
    freeze(trainer, members, stacks, settings, root, weights, figures)
    shutil.rmtree(trainer.state, ignore_errors=True)


def _written_by(trainer: Trainer, root: Path) -> bool:
    """Whether the bundle at ``root`` is that of this training, which was killed before it cleared its members away."""
    stated = read_object(root / MANIFEST, BundleError).get("provenance")
    if not trainer.state.is_dir() or not isinstance(stated, dict):
        return False
    facts = training_facts(trainer)
    return {name: stated.get(name) for name in facts} == facts
