"""A training's state on disk: finished members, from which a killed run resumes, and TensorBoard's scalars."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from survfuse import __version__
from survfuse.networks.families import Family
from survfuse.runtime.files import atomic_path
from survfuse.tasks.modalities import combination_name, parse_combination
from survfuse.training.folds import Split
from survfuse.training.member import Fitted, TrainedMember
from survfuse.training.training_data import TrainingData
from survfuse.training.work_units import WorkUnit

_WEIGHTS, _RISKS, _BY_STEP = "weights", "risks", "risks_by_step"  # kinds of tensors in a member's file


class TrainingState:
    """The finished members of one training, a file each, below a ``work`` folder that other trainings may share."""

    def __init__(self, work: Path, data: TrainingData, device: torch.device) -> None:
        self.fingerprint = fingerprint(data, device)
        self.folder = members_folder(work) / f"{data.cohort.task.name}-{self.fingerprint}"
        self._scalars = work / "tensorboard"
        self._data = data

    def holds(self, unit: WorkUnit) -> bool:
        """Whether every member of ``unit`` is finished."""
        return all(self._file(unit.family, split).exists() for split in unit.splits)

    def write(self, members: Sequence[TrainedMember]) -> None:
        """Keep finished members, each file whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for member in members:
            self._write_scalars(member)  # first, since a member that was kept is not trained again
            self._write_member(member)

    def read(self, unit: WorkUnit) -> list[TrainedMember]:
        """The members of a finished ``unit``, in the order of its splits."""
        family = self._data.families[unit.family]
        return [self._read_member(family, self._data.splits_by_name[name]) for name in unit.splits]

    def clear(self) -> None:
        """Remove the members; the scalars stay."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, family: str, split: str) -> Path:
        return self.folder / f"{family}-{split}.safetensors"

    def _write_member(self, member: TrainedMember) -> None:
        fitted = member.fitted
        tensors = {f"{_WEIGHTS}/{name}": value.contiguous() for name, value in fitted.state.items()}
        for combination, risks in member.risks.items():
            tensors[f"{_RISKS}/{combination_name(combination)}"] = torch.from_numpy(risks)
        for combination, by_step in fitted.risks_by_step.items():
            tensors[f"{_BY_STEP}/{combination_name(combination)}"] = by_step.double().contiguous()
        facts = {name: getattr(fitted, name) for name in ("best_epoch", "training", "inner", "penalty")}
        with atomic_path(self._file(member.family.name, member.split.name)) as temporary:
            save_file(tensors, temporary, metadata={"fitted": json.dumps(facts)})

    def _read_member(self, family: Family, split: Split) -> TrainedMember:
        with safe_open(self._file(family.name, split.name), "pt") as file:
            facts = json.loads(file.metadata()["fitted"])
            kinds: dict[str, dict[str, Tensor]] = {_WEIGHTS: {}, _RISKS: {}, _BY_STEP: {}}
            for name in file.keys():  # noqa: SIM118  (not a mapping)
                kind, _, rest = name.partition("/")
                kinds[kind][rest] = file.get_tensor(name)
        risks = {parse_combination(name): value.numpy() for name, value in kinds[_RISKS].items()}
        by_step = {parse_combination(name): value for name, value in kinds[_BY_STEP].items()}
        fitted = Fitted(
            kinds[_WEIGHTS],
            facts["best_epoch"],
            tuple(facts["training"]),
            tuple(facts["inner"]),
            by_step,
            facts["penalty"],
        )
        return TrainedMember(family, split, fitted, risks)

    def _write_scalars(self, member: TrainedMember) -> None:
        """Losses of each epoch for TensorBoard, one run for each network."""
        if not member.fitted.training:
            return
        from torch.utils.tensorboard import SummaryWriter

        folder = self._scalars / f"{member.family.name}-{member.split.name}"
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed before it wrote the member
        with SummaryWriter(str(folder)) as writer:
            for epoch, losses in enumerate(zip(member.fitted.training, member.fitted.inner, strict=True), start=1):
                writer.add_scalar("loss/training", losses[0], epoch)
                writer.add_scalar("loss/inner", losses[1], epoch)


def members_folder(work: Path) -> Path:
    """Where the members of unfinished trainings lie below ``work``."""
    return work / "members"


def fingerprint(data: TrainingData, device: torch.device) -> str:
    """What members depend on, as 16 hexadecimal digits: state of a different cohort, protocol or release is not reused.

    The fusion is left out, since a family's members are the same with or without a stack.
    """
    cohort, digest = data.cohort, hashlib.sha256()
    protocol = {name: value for name, value in asdict(data.protocol).items() if name not in ("fusion", "calibration")}
    facts: dict[str, object] = {
        "release": __version__, "protocol": protocol, "sizes": data.sizes.to_json(),
        "device": device.type, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "ids": cohort.ids, "genes": cohort.genes,
        "vocabulary": data.vocabulary.to_json() if data.vocabulary is not None else None,
    }  # fmt: skip
    if cohort.bags is not None:
        facts["tiles"] = [bag.tiles for bag in cohort.bags]
        probes = [bag.rows(np.array([0, bag.tiles // 2, bag.tiles - 1])) for bag in cohort.bags]
        digest.update(torch.cat(probes).numpy().tobytes())
    digest.update(json.dumps(facts, sort_keys=True).encode())
    # Variables as they are encoded: a table and JSON spell the same ones differently.
    for values in (cohort.times, cohort.events, cohort.expression, data.clinical):
        digest.update(b"none" if values is None else np.ascontiguousarray(values).tobytes())
    if cohort.vectors is not None:  # trainings without them have the same fingerprint as before there were any
        digest.update(np.ascontiguousarray(cohort.vectors).tobytes())
    return digest.hexdigest()[:16]
