"""What a cohort is under a protocol: its tables, splits and widths, and each member's inputs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from survfuse.cohort.category_check import without_own_values
from survfuse.cohort.expression_check import check_expression
from survfuse.cohort.number_check import check_numbers
from survfuse.cohort.outcome_check import check_no_outcomes
from survfuse.cohort.read import Cohort
from survfuse.inputs.clinical import Vocabulary, fit_vocabulary
from survfuse.inputs.expression import LOG_STANDARDISE, Expression
from survfuse.networks.build import shapes
from survfuse.networks.families import Family, families_of, family_number
from survfuse.networks.sizes import Sizes
from survfuse.runtime.arrays import Floats
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import progress, stage
from survfuse.tasks.modalities import Combination, all_combinations
from survfuse.tasks.task import VECTOR
from survfuse.training.fit_cox import COMPONENTS
from survfuse.training.fit_networks import inner_sizes
from survfuse.training.folds import FoldKey, Split, nested_splits
from survfuse.training.input_maps import ClinicalMap, ComponentMap, InputMaps, choose_genes, varying
from survfuse.training.member import Prepared
from survfuse.training.protocol import NONE, Protocol
from survfuse.training.tile_clusters import TileClusters, fit_centres, in_one_pass
from survfuse.training.variables_shown import show_variables

_MOST_WEIGHTS = 10**8  # of one network; training holds many at once


@dataclass(frozen=True)
class TrainingData:
    """A cohort of n patients under a protocol. What it computes depends only on its fields and is kept for reuse."""

    cohort: Cohort
    protocol: Protocol
    sizes: Sizes  # of all families; ``family_sizes`` gives one family's
    families: Mapping[str, Family]  # to train, by name, in the order of the stack
    splits: tuple[Split, ...]
    vocabulary: Vocabulary | None  # None without clinical variables
    expression: Expression | None  # None without expression
    _inputs: dict[str, Mapping[str, Tensor]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _clusters: dict[FoldKey, TileClusters] = field(default_factory=dict, init=False, repr=False, compare=False)
    _last_maps: dict[str, InputMaps] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def rna(self) -> Floats | None:
        """[n, G] transformed as by the bundle's table, but NaN where a gene is absent: each member imputes those by
        its own patients."""
        if self.expression is None or self.cohort.expression is None:
            return None
        values = self.expression.transformed(self.cohort.expression).astype(np.float64)
        values[np.isnan(self.cohort.expression)] = np.nan
        return values

    @cached_property
    def clinical(self) -> Floats | None:
        """[n, C] encoded as by the bundle's vocabulary."""
        if self.vocabulary is None:
            return None
        return np.stack([self.vocabulary.encode(patient).values for patient in self.cohort.clinical]).astype(np.float64)

    @cached_property
    def splits_by_name(self) -> Mapping[str, Split]:
        """The splits by ``Split.name``."""
        return {split.name: split for split in self.splits}

    def family_sizes(self, family: Family) -> Sizes:
        """Sizes of a family's frozen members."""
        sizes = self.sizes
        if not family.linear:
            return sizes
        components, of_vector = sizes.components, sizes.vector_components
        return replace(
            sizes,
            components=components if family.modalities == ("rna",) else min(COMPONENTS, components),
            vector_components=of_vector if family.modalities == (VECTOR,) else min(COMPONENTS, of_vector),
            stand_ins=False,
        )

    def combinations(self, family: Family) -> list[Combination]:
        """The combinations of modalities that a family's members are trained to score."""
        if family.linear or self.sizes.stand_ins:
            return all_combinations(family.modalities)
        return [family.modalities]

    def maps(self, split: Split) -> InputMaps:
        """A split's input maps, fitted only to its fitted patients; only the most recent are kept."""
        if split.name not in self._last_maps:
            self._last_maps.clear()
            maps = InputMaps(self._expression_map(split), self._clinical_map(split), self._vector_map(split))
            self._last_maps[split.name] = maps
        return self._last_maps[split.name]

    def prepared(self, family: Family, split: Split) -> Prepared:
        """What a family's member of ``split`` is fitted to."""
        # The protocol's seed, split and family together: no two members of neighbouring seeds share a stream.
        numbers = [self.protocol.seed, split.repeat, split.fold, split.number, family_number(family)]
        seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
        inputs, sizes = dict(self.inputs(split)), self.family_sizes(family)
        for name, components in (("rna", sizes.components), (VECTOR, sizes.vector_components)):
            if name in inputs:
                inputs[name] = inputs[name][:, :components]
        return Prepared(split, seed, inputs)

    def inputs(self, split: Split) -> Mapping[str, Tensor]:
        """Every patient's components [n, K], of expression and of slide-level vectors, and clinical vector [n, C] by a
        split's maps; kept for all families."""
        if split.name not in self._inputs:
            maps, inputs = self.maps(split), {}
            if maps.expression is not None and self.rna is not None:
                inputs["rna"] = maps.expression.apply(self.rna)
            if maps.clinical is not None and self.clinical is not None:
                inputs["clinical"] = maps.clinical.apply(self.clinical)
            if maps.vector is not None and self.cohort.vectors is not None:
                inputs[VECTOR] = maps.vector.apply(self.cohort.vectors)
            self._inputs[split.name] = inputs
        return self._inputs[split.name]

    def clusters(self, split: Split, device: torch.device) -> TileClusters:
        """Tile clusters of a split's fold, as ``read_slides`` finds them."""
        self.read_slides([split.fold_key], device)
        return self._clusters[split.fold_key]

    def read_slides(self, folds: Iterable[FoldKey], device: torch.device) -> None:
        """Find the tile clusters of ``folds``, unless they are known, by reading every slide once for all of them.

        A fold's clusters are of all of its training patients' tiles: clustering sees no outcome. ``device`` is that of
        its linear models.
        """
        missing = [key for key in dict.fromkeys(folds) if key not in self._clusters]
        if not missing:
            return
        bags = self.cohort.bags
        assert bags is not None
        splits = [[split for split in self.splits if split.fold_key == key] for key in missing]
        centres = []
        for key, own in progress(zip(missing, splits, strict=True), len(missing), "clustering"):
            training = np.union1d(own[0].fitted, own[0].inner)
            seed = int(np.random.SeedSequence([self.protocol.seed, *key]).generate_state(1)[0])
            centres.append(fit_centres(bags, training, self.sizes.clusters, seed))
        self._clusters.update(zip(missing, in_one_pass(bags, centres, splits, device), strict=True))

    def _expression_map(self, split: Split) -> ComponentMap | None:
        if self.rna is None or self.expression is None:
            return None
        rows, protocol = split.fitted, self.protocol
        outcomes = (self.cohort.times[rows], self.cohort.events[rows])
        standardised = protocol.transform == LOG_STANDARDISE
        spread = self.expression.scale if standardised else np.ones(self.rna.shape[1])
        chosen = choose_genes(self.rna[rows], spread, protocol.select, protocol.genes, outcomes)
        return ComponentMap.fit(self.rna[rows], chosen, self.sizes.components)

    def _vector_map(self, split: Split) -> ComponentMap | None:
        if self.cohort.vectors is None:
            return None
        every = np.ones(self.cohort.vectors.shape[1], dtype=bool)
        return ComponentMap.fit(self.cohort.vectors[split.fitted], every, self.sizes.vector_components)

    def _clinical_map(self, split: Split) -> ClinicalMap | None:
        if self.clinical is None or self.vocabulary is None:
            return None
        return ClinicalMap.fit(self.clinical[split.fitted], self.vocabulary)


def training_data(cohort: Cohort, protocol: Protocol, sizes: Sizes) -> TrainingData:
    """Prepare ``cohort`` under ``protocol``. ``sizes`` gives the widths; those set by the data are replaced.

    Raises InputError for a cohort that is too small for its folds, lacks a modality that the fusion needs or whose
    expression does not vary, and for widths that do not fit the task.
    """
    task, modalities = cohort.task, known_modalities(cohort)
    all_families = families_of(task.modalities)
    _check_known(protocol.fusion, task.modalities)
    families = {name: all_families[name] for name in protocol.chosen_families(all_families, modalities)}
    if VECTOR in modalities and not any(VECTOR in family.modalities for family in families.values()):
        stage("vectors", f"not read by --fusion {protocol.fusion}")
        return training_data(cohort.without_vectors(), protocol, sizes)
    sizes = sizes.for_modalities(task.modalities)
    try:
        sizes.check_pairs(task.modalities)
    except ValueError as cause:
        raise InputError(str(cause)) from cause
    vocabulary = _vocabulary(cohort) if "clinical" in modalities else None
    expression = None
    if cohort.expression is not None and "rna" in modalities:
        check_expression(cohort.ids, cohort.genes, cohort.expression, protocol.transform == LOG_STANDARDISE)
        expression = Expression.fit(cohort.genes, cohort.expression, protocol.transform)
    data = TrainingData(cohort, protocol, sizes, families, (), vocabulary, expression)
    if data.rna is not None and not varying(data.rna).any():
        raise InputError(
            "expression: no gene differs between patients, so there is nothing to learn from; leave it out with "
            "--modalities"
        )
    if cohort.vectors is not None and not varying(cohort.vectors).any():
        raise InputError(
            "slide-level vectors: none of their numbers differs between patients, so there is nothing to learn from; "
            "leave them out with --modalities"
        )
    folds = protocol.folds, protocol.inner, protocol.repeats
    splits = tuple(nested_splits(cohort.times, cohort.events, *folds, protocol.seed))
    data = replace(data, splits=splits, sizes=_sizes(data, splits))
    for family in families.values():
        _check_weights(family, data.family_sizes(family))
    return data


def _check_known(fusion: str, modalities: Combination) -> None:
    """Raise InputError for a family that there is only with slides, or with slide-level vectors."""
    others = tuple(name for name in modalities if name not in ("slide", VECTOR))
    known = families_of(("slide", VECTOR, *others)).get(fusion)
    if known is not None and fusion not in families_of(modalities):
        words = {VECTOR: "slide-level vectors"}
        lacking = [words.get(name, name) for name in known.modalities if name not in modalities]
        raise InputError(f"{fusion} needs {' and '.join(lacking)}, which the cohort does not have")


def _check_weights(family: Family, sizes: Sizes) -> None:
    """Raise InputError for networks of so many weights that neither memory nor patients are enough for them."""
    number = sum(shape.numel() for shape in shapes(family, inner_sizes(sizes)).values())
    if number > _MOST_WEIGHTS:
        raise InputError(
            f"{family.name}: a network would have {number:,} weights, expected at most {_MOST_WEIGHTS:,}; "
            "choose smaller widths, such as --embedding, or another --fusion"
        )


def known_modalities(cohort: Cohort) -> Combination:
    """The task's modalities that the cohort's patients have; clinical variables count if any patient has one."""
    has = {
        "slide": cohort.bags is not None,
        "rna": cohort.expression is not None,
        "clinical": any(cohort.clinical),
        VECTOR: cohort.vectors is not None,
    }
    return tuple(name for name in cohort.task.modalities if has[name])


def _vocabulary(cohort: Cohort) -> Vocabulary:
    known = cohort.stated_variables.by_name
    check_numbers(cohort.ids, cohort.clinical, cohort.task, known)
    check_no_outcomes(cohort.clinical, cohort.times, cohort.events, cohort.task, cohort.kept_variables)
    names = without_own_values(cohort.clinical, cohort.task, (*cohort.kept_variables, *known))
    if not names:
        raise InputError("clinical variables: none is left to learn from; leave them out with --modalities")
    stated = cohort.stated_variables.templates(names, cohort.task)
    vocabulary = fit_vocabulary(cohort.clinical, names, cohort.task, cohort.outcome_variables, stated)
    show_variables(cohort.clinical, vocabulary)
    return vocabulary


def _sizes(data: TrainingData, splits: tuple[Split, ...]) -> Sizes:
    """The widths of ``data``, those set by the data replaced."""
    cohort, protocol = data.cohort, data.protocol
    fewest = min(len(split.fitted) for split in splits)
    genes = cohort.expression.shape[1] if cohort.expression is not None else 1
    chosen = genes if protocol.select == NONE else min(genes, protocol.genes)
    length = cohort.vectors.shape[1] if cohort.vectors is not None else 0
    return replace(
        data.sizes,
        tile=cohort.bags[0].dimension if cohort.bags is not None else data.sizes.tile,
        genes=genes,
        components=min(fewest - 1, chosen, protocol.components),
        vector=length,
        vector_components=min(fewest - 1, length),
        clinical=max(1, len(data.vocabulary.columns)) if data.vocabulary else 1,
        standardised=True,
        stand_ins=protocol.optimisation.modality_dropout > 0.0,
    )
