"""What a cohort is under a protocol: its tables, splits and widths, and each member's inputs."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from torch import Tensor

from survfuse.cohort.category_check import without_own_values
from survfuse.cohort.expression_check import check_expression
from survfuse.cohort.number_check import check_numbers
from survfuse.cohort.outcome_check import check_no_outcomes
from survfuse.cohort.read import Cohort
from survfuse.inputs.clinical import Vocabulary, fit_vocabulary
from survfuse.inputs.expression import LOG_STANDARDISE, Expression
from survfuse.networks.families import Family, families_of
from survfuse.networks.sizes import Sizes
from survfuse.runtime.arrays import Floats
from survfuse.runtime.errors import InputError
from survfuse.tasks.modalities import Combination, all_combinations
from survfuse.training.fit_cox import COMPONENTS
from survfuse.training.folds import FoldKey, Split, nested_splits
from survfuse.training.input_maps import ClinicalMap, ExpressionMap, InputMaps, choose_genes, varying
from survfuse.training.member import Prepared
from survfuse.training.protocol import NONE, Protocol
from survfuse.training.tile_clusters import TileClusters
from survfuse.training.variables_shown import show_variables


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
        alone = family.modalities == ("rna",)
        components = self.sizes.components
        if family.linear and not alone:
            components = min(COMPONENTS, components)
        return replace(self.sizes, components=components, stand_ins=self.sizes.stand_ins and not family.linear)

    def combinations(self, family: Family) -> list[Combination]:
        """The combinations of modalities that a family's members are trained to score."""
        if family.linear or self.sizes.stand_ins:
            return all_combinations(family.modalities)
        return [family.modalities]

    def maps(self, split: Split) -> InputMaps:
        """A split's input maps, fitted only to its fitted patients; only the most recent are kept."""
        if split.name not in self._last_maps:
            self._last_maps.clear()
            self._last_maps[split.name] = InputMaps(self._expression_map(split), self._clinical_map(split))
        return self._last_maps[split.name]

    def prepared(self, family: Family, split: Split) -> Prepared:
        """What a family's member of ``split`` is fitted to."""
        # The protocol's seed, split and family together: no two members of neighbouring seeds share a stream.
        place = list(families_of(family.task_modalities)).index(family.name)
        numbers = [self.protocol.seed, split.repeat, split.fold, split.number, place]
        seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
        inputs = dict(self.inputs(split))
        if "rna" in inputs:
            inputs["rna"] = inputs["rna"][:, : self.family_sizes(family).components]
        return Prepared(split, seed, inputs)

    def inputs(self, split: Split) -> Mapping[str, Tensor]:
        """Every patient's components [n, K] and clinical vector [n, C] by a split's maps; kept for all families."""
        if split.name not in self._inputs:
            maps, inputs = self.maps(split), {}
            if maps.expression is not None and self.rna is not None:
                inputs["rna"] = maps.expression.apply(self.rna)
            if maps.clinical is not None and self.clinical is not None:
                inputs["clinical"] = maps.clinical.apply(self.clinical)
            self._inputs[split.name] = inputs
        return self._inputs[split.name]

    def clusters(self, split: Split) -> TileClusters:
        """Tile clusters of a split's fold, by all of its training patients: clustering sees no outcome."""
        if split.fold_key not in self._clusters:
            assert self.cohort.bags is not None
            training = np.union1d(split.fitted, split.inner)
            seed = int(np.random.SeedSequence([self.protocol.seed, *split.fold_key]).generate_state(1)[0])
            clusters = TileClusters.fit(self.cohort.bags, training, self.sizes.clusters, seed)
            self._clusters[split.fold_key] = clusters
        return self._clusters[split.fold_key]

    def _expression_map(self, split: Split) -> ExpressionMap | None:
        if self.rna is None or self.expression is None:
            return None
        rows, protocol = split.fitted, self.protocol
        outcomes = (self.cohort.times[rows], self.cohort.events[rows])
        standardised = protocol.transform == LOG_STANDARDISE
        spread = self.expression.scale if standardised else np.ones(self.rna.shape[1])
        chosen = choose_genes(self.rna[rows], spread, protocol.select, protocol.genes, outcomes)
        return ExpressionMap.fit(self.rna[rows], chosen, self.sizes.components)

    def _clinical_map(self, split: Split) -> ClinicalMap | None:
        if self.clinical is None or self.vocabulary is None:
            return None
        return ClinicalMap.fit(self.clinical[split.fitted], self.vocabulary)


def training_data(cohort: Cohort, protocol: Protocol, sizes: Sizes) -> TrainingData:
    """Prepare ``cohort`` under ``protocol``. ``sizes`` gives the widths; those set by the data are replaced.

    Raises InputError for a cohort that is too small for its folds, lacks a modality that the fusion needs or whose
    expression does not vary, and for widths that do not fit the task.
    """
    task = cohort.task
    try:
        sizes.check_pairs(task.modalities)
    except ValueError as cause:
        raise InputError(str(cause)) from cause
    modalities = known_modalities(cohort)
    all_families = families_of(task.modalities)
    families = {name: all_families[name] for name in protocol.chosen_families(all_families, modalities)}
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
    folds = protocol.folds, protocol.inner, protocol.repeats
    splits = tuple(nested_splits(cohort.times, cohort.events, *folds, protocol.seed))
    return replace(data, splits=splits, sizes=_sizes(data, splits))


def known_modalities(cohort: Cohort) -> Combination:
    """The task's modalities that the cohort's patients have; clinical variables count if any patient has one."""
    has = {
        "slide": cohort.bags is not None,
        "rna": cohort.expression is not None,
        "clinical": any(cohort.clinical),
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
    return replace(
        data.sizes,
        tile=cohort.bags[0].dimension if cohort.bags is not None else data.sizes.tile,
        genes=genes,
        components=min(fewest - 1, chosen, protocol.components),
        clinical=max(1, len(data.vocabulary.columns)) if data.vocabulary else 1,
        standardised=True,
        stand_ins=protocol.optimisation.modality_dropout > 0.0,
    )
