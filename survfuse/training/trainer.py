"""From a cohort to an ensemble's members: every family on every split, resumable.

What follows from their risks (weights, scales, calibration, the bundle, the report) is survfuse.training.freeze.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import survfuse
from survfuse.cohort.read import Cohort
from survfuse.inputs.clinical import Vocabulary, fit_vocabulary
from survfuse.inputs.expression import LOG_STANDARDISE, Expression
from survfuse.networks.families import FAMILIES, build
from survfuse.networks.fusion import Network
from survfuse.networks.sizes import Sizes
from survfuse.runtime.errors import InputError
from survfuse.runtime.files import atomic_path
from survfuse.runtime.log import count, progress, stage
from survfuse.tasks.modalities import MODALITIES, Combination, all_combinations, combination_name, parse_combination
from survfuse.training.fit_cox import COMPONENTS, Clusters, fit_fold
from survfuse.training.fit_networks import fit_stack, inner_sizes
from survfuse.training.folds import Split, nested_splits
from survfuse.training.input_maps import ClinicalMap, ExpressionMap, choose_genes, varying
from survfuse.training.member import Fitted, Prepared, TrainedMember
from survfuse.training.member_risks import network_risks
from survfuse.training.protocol import NONE, Protocol

_STACK_BYTES = 1.5e9  # of activations that one stacked pass may hold


class Trainer:
    """A cohort's tables, splits and members under one protocol."""

    def __init__(
        self, cohort: Cohort, sizes: Sizes, protocol: Protocol, work: Path, device: torch.device | str = "cpu"
    ) -> None:
        """``sizes`` gives widths; those set by the data are replaced. ``work`` keeps finished members between runs,
        and TensorBoard's scalars.

        Raises InputError for a cohort too small for its folds or without a modality that the fusion needs.
        """
        self.cohort, self.protocol, self.device = cohort, protocol, torch.device(device)
        self.modalities = tuple(
            name
            for name, has in zip(MODALITIES, (cohort.bags, cohort.expression, any(cohort.clinical)), strict=True)
            if has is not None and has is not False
        )
        self.families = protocol.families(self.modalities)
        if self.rna is not None and not varying(self.rna).any():
            raise InputError(
                "expression: no gene differs between patients, so there is nothing to learn from; leave it out "
                "with --modalities"
            )
        self.splits = nested_splits(
            cohort.times, cohort.events, protocol.folds, protocol.inner, protocol.repeats, protocol.seed
        )
        fewest = min(len(split.fitted) for split in self.splits)
        genes = cohort.expression.shape[1] if cohort.expression is not None else 1
        chosen = genes if protocol.select == NONE else min(genes, protocol.genes)
        self.sizes = replace(
            sizes,
            tile=cohort.bags[0].dimension if cohort.bags is not None else sizes.tile,
            genes=genes,
            components=min(fewest - 1, chosen, protocol.components),
            clinical=max(1, len(self.vocabulary.columns)) if self.vocabulary else 1,
            standardised=True,
            stand_ins=protocol.optimisation.modality_dropout > 0.0,
        )
        self._last_maps: tuple[str, ExpressionMap | None, ClinicalMap | None] | None = None
        self._known_inputs: dict[str, tuple[Tensor | None, Tensor | None]] = {}
        self._known_clusters: dict[tuple[int, int], Clusters] = {}
        self.state = work / "members" / self._fingerprint()
        self.scalars = work / "tensorboard"

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        if "clinical" not in self.modalities:
            return None
        names = sorted({name for patient in self.cohort.clinical for name in patient})
        return fit_vocabulary(self.cohort.clinical, names)

    @cached_property
    def expression(self) -> Expression | None:
        if "rna" not in self.modalities:
            return None
        return Expression.fit(self.cohort.genes, self.cohort.expression, self.protocol.transform)

    @cached_property
    def rna(self) -> NDArray[np.float64] | None:
        """[n, G] as the bundle's table gives it, but for absent genes: each member imputes them by its own patients."""
        if self.expression is None:
            return None
        values = self.expression.transformed(self.cohort.expression).astype(np.float64)
        values[np.isnan(self.cohort.expression)] = np.nan
        return values

    @cached_property
    def clinical(self) -> NDArray[np.float64] | None:
        """[n, C] as the bundle's vocabulary gives it."""
        if self.vocabulary is None:
            return None
        return np.stack([self.vocabulary.encode(patient).values for patient in self.cohort.clinical]).astype(np.float64)

    def family_sizes(self, family: str) -> Sizes:
        """Sizes of a family's frozen members."""
        network = FAMILIES[family]
        alone = network.modalities == ("rna",)
        components = self.sizes.components if alone or not network.linear else min(COMPONENTS, self.sizes.components)
        return replace(self.sizes, components=components, stand_ins=self.sizes.stand_ins and not network.linear)

    def maps(self, split: Split) -> tuple[ExpressionMap | None, ClinicalMap | None]:
        """What a member does to its inputs, learnt from its fitted patients alone; those asked for last are kept."""
        if self._last_maps is None or self._last_maps[0] != split.name:
            self._last_maps = split.name, *self._fitted_maps(split)
        return self._last_maps[1:]

    def _fitted_maps(self, split: Split) -> tuple[ExpressionMap | None, ClinicalMap | None]:
        rows, expression, clinical = split.fitted, None, None
        if self.rna is not None:
            outcomes = (self.cohort.times[rows], self.cohort.events[rows])
            protocol = self.protocol
            standardised = protocol.transform == LOG_STANDARDISE
            spread = self.expression.scale if standardised else np.ones(self.rna.shape[1])
            chosen = choose_genes(self.rna[rows], spread, protocol.select, protocol.genes, outcomes)
            expression = ExpressionMap.fit(self.rna[rows], chosen, self.sizes.components)
        if self.clinical is not None:
            clinical = ClinicalMap.fit(self.clinical[rows], self.vocabulary)
        return expression, clinical

    def combinations(self, family: str) -> list[Combination]:
        """The combinations of modalities that a family's members are trained to score."""
        own = FAMILIES[family].modalities
        if FAMILIES[family].linear or self.sizes.stand_ins:
            return all_combinations(own)
        return [own]

    def members(self) -> Iterator[TrainedMember]:
        """Every family's member of every split, trained now or read from an earlier run's state."""
        self.state.mkdir(parents=True, exist_ok=True)
        tasks = [(family, task) for family in self.families for task in self._tasks(family)]
        total = sum(len(task) for _, task in tasks)
        kept = sum(self._file(family, split).exists() for family, task in tasks for split in task)
        if kept:
            stage("resumed", f"{count(kept, 'member')} of {total} were trained before")
        for family, task in progress(tasks, total, "training", lambda item: len(item[1])):
            if not all(self._file(family, split).exists() for split in task):
                self._train(family, task)
            for split in task:
                yield self._read(family, split)

    def _tasks(self, family: str) -> Iterator[list[Split]]:
        """Splits whose members are fitted together: a fold's, and as many folds' as memory allows."""
        protocol, at_once = self.protocol, self.protocol.inner
        if not FAMILIES[family].linear:
            at_once = max(1, int(_STACK_BYTES / self._member_bytes(family)))
            if at_once > protocol.inner:
                at_once -= at_once % protocol.inner
        for start in range(0, len(self.splits), at_once):
            yield self.splits[start : start + at_once]

    def _member_bytes(self, family: str) -> float:
        patients = max(len(split.fitted) for split in self.splits)
        numbers = 4.0 * sum(self.sizes.rna)
        if "slide" in FAMILIES[family].modalities:
            assert self.cohort.bags is not None
            tiles = min(self.protocol.optimisation.tiles, max(bag.tiles for bag in self.cohort.bags))
            numbers += tiles * (self.sizes.tile + 6.0 * (self.sizes.bag + 2 * self.sizes.attention))
        return 4.0 * patients * numbers

    def _train(self, family: str, task: Sequence[Split]) -> None:
        prepared = [self._prepared(family, split) for split in task]
        sizes = inner_sizes(self.family_sizes(family), self.family_sizes(family).stand_ins)
        cohort = self.cohort
        if FAMILIES[family].linear:
            clusters = self._clusters(task[0]) if "slide" in FAMILIES[family].modalities else None
            fitted, penalty = fit_fold(family, prepared, clusters, cohort.times, cohort.events)
            note = f"penalty {penalty:g}"
        else:
            fitted = fit_stack(
                family, sizes, prepared, cohort.bags, cohort.times, cohort.events, self.protocol.optimisation,
                self.protocol.seed, self.device,
            )  # fmt: skip
            note = f"best epochs {min(f.best_epoch for f in fitted)} to {max(f.best_epoch for f in fitted)}"
        self._write_scalars(family, task, fitted)  # first: a member that is there is not trained again
        for member, found in zip(prepared, fitted, strict=True):
            network = build(family, sizes)
            network.load_state_dict(found.state)
            self._write(family, member, found, self._risks(network, member))
        folds = ", ".join(sorted({f"{split.repeat + 1}.{split.fold + 1}" for split in task}))
        stage("trained", f"{family}: {count(len(task), 'member')} of fold {folds}; {note}")

    def _prepared(self, family: str, split: Split) -> Prepared:
        # Family, split and the protocol's seed together: no two members of neighbouring seeds share a stream.
        numbers = [self.protocol.seed, split.repeat, split.fold, split.number, list(FAMILIES).index(family)]
        seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
        inputs = self._inputs(split)
        rna = inputs[0][:, : self.family_sizes(family).components] if inputs[0] is not None else None
        return Prepared(split, seed, rna, inputs[1])

    def _inputs(self, split: Split) -> tuple[Tensor | None, Tensor | None]:
        """Every patient's components and clinical vector by a split's maps; kept, as every family asks for them."""
        if split.name not in self._known_inputs:
            expression, clinical = self.maps(split)
            self._known_inputs[split.name] = (
                expression.apply(self.rna) if expression is not None else None,
                clinical.apply(self.clinical) if clinical is not None else None,
            )
        return self._known_inputs[split.name]

    def _clusters(self, split: Split) -> Clusters:
        """A fold's tile clusters, by all of its training patients: they take no outcome."""
        unit = (split.repeat, split.fold)
        if unit not in self._known_clusters:
            training = np.union1d(split.fitted, split.inner)
            seed = int(np.random.SeedSequence([self.protocol.seed, *unit]).generate_state(1)[0])
            self._known_clusters[unit] = Clusters.fit(self.cohort.bags, training, self.sizes.clusters, seed)
        return self._known_clusters[unit]

    def _risks(self, network: Network, member: Prepared) -> dict[Combination, NDArray[np.float64]]:
        rows = np.union1d(member.split.inner, member.split.held_out)
        combinations = self.combinations(network.family)
        scored = network_risks(
            network, self.cohort.bags, member.rna, member.clinical, combinations, rows.tolist(), self.device
        )
        risks = {}
        for combination, found in scored.items():
            risks[combination] = np.full(len(self.cohort.ids), np.nan)
            risks[combination][rows] = found.numpy()
        return risks

    def _file(self, family: str, split: Split) -> Path:
        return self.state / f"{family}-{split.name}.safetensors"

    def _write(
        self, family: str, member: Prepared, fitted: Fitted, risks: Mapping[Combination, NDArray[np.float64]]
    ) -> None:
        tensors = {f"weights/{name}": value.contiguous() for name, value in fitted.state.items()}
        tensors |= {f"risks/{combination_name(key)}": torch.from_numpy(value) for key, value in risks.items()}
        tensors |= {
            f"judged/{combination_name(key)}": value.double().contiguous() for key, value in fitted.judged.items()
        }
        facts = {"best_epoch": fitted.best_epoch, "training": fitted.training, "inner": fitted.inner}
        with atomic_path(self._file(family, member.split)) as temporary:
            save_file(tensors, temporary, metadata={"fitted": json.dumps(facts)})

    def _write_scalars(self, family: str, task: Sequence[Split], fitted: Sequence[Fitted]) -> None:
        """Losses of each epoch for TensorBoard, one run for each member."""
        from torch.utils.tensorboard import SummaryWriter

        for split, found in zip(task, fitted, strict=True):
            if found.training:
                folder = self.scalars / f"{family}-{split.name}"
                shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed before it wrote the member
                with SummaryWriter(str(folder)) as writer:
                    for epoch, losses in enumerate(zip(found.training, found.inner, strict=True), start=1):
                        writer.add_scalar("loss/training", losses[0], epoch)
                        writer.add_scalar("loss/inner", losses[1], epoch)

    def _read(self, family: str, split: Split) -> TrainedMember:
        with safe_open(self._file(family, split), "pt") as file:
            facts = json.loads(file.metadata()["fitted"])
            kinds: dict[str, dict[str, Tensor]] = {"weights": {}, "risks": {}, "judged": {}}
            for name in file.keys():  # noqa: SIM118  (not a mapping)
                kind, _, rest = name.partition("/")
                kinds[kind][rest] = file.get_tensor(name)
        risks = {parse_combination(name): value.numpy() for name, value in kinds["risks"].items()}
        judged = {parse_combination(name): value for name, value in kinds["judged"].items()}
        losses = (tuple(facts[name]) for name in ("training", "inner"))
        return TrainedMember(family, split, Fitted(kinds["weights"], facts["best_epoch"], *losses, judged), risks)

    def _fingerprint(self) -> str:
        """What members depend on, so that state of another cohort, protocol or release is not taken up.

        The fusion is left out: a family's members are the same in a stack and alone.
        """
        cohort, digest = self.cohort, hashlib.sha256()
        protocol = {
            name: value for name, value in asdict(self.protocol).items() if name not in ("fusion", "calibration")
        }
        facts: dict[str, Any] = {"release": survfuse.__version__, "protocol": protocol, "sizes": self.sizes.to_json()}
        facts |= {"device": self.device.type, "threads": torch.get_num_threads(), "torch": torch.__version__}
        facts |= {"ids": cohort.ids, "genes": cohort.genes, "clinical": [dict(patient) for patient in cohort.clinical]}
        if cohort.bags is not None:
            facts["tiles"] = [bag.tiles for bag in cohort.bags]
            probes = [bag.rows(np.array([0, bag.tiles // 2, bag.tiles - 1])) for bag in cohort.bags]
            digest.update(torch.cat(probes).numpy().tobytes())
        digest.update(json.dumps(facts, sort_keys=True).encode())
        for values in (cohort.times, cohort.events, cohort.expression):
            digest.update(b"none" if values is None else np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()[:16]
