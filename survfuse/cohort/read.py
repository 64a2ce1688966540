"""A cohort: many patients with outcomes, read from a folder in any of the task's layouts, or from tables."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from survfuse.cohort.bags import Bag, open_bags
from survfuse.cohort.folder import gather_folder
from survfuse.cohort.from_tables import gather_tables
from survfuse.cohort.layout import find_layout
from survfuse.cohort.odd_values import report_odd
from survfuse.cohort.outcome_names import outcome_names
from survfuse.cohort.outcomes import TASKS_OWN, OutcomeColumns
from survfuse.cohort.problems import Problems
from survfuse.cohort.slide_vectors import read_vectors
from survfuse.cohort.stated_variables import NONE_STATED, StatedVariables
from survfuse.cohort.table_paths import CohortTables
from survfuse.cohort.time_unit import check_times
from survfuse.inputs.slide_vectors import SlideVector
from survfuse.runtime.arrays import Bools, Floats
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import listing, stage
from survfuse.runtime.suggestions import unknown
from survfuse.slide.registry import find_spec
from survfuse.slide.settings import SlideSettings
from survfuse.slide.stated_tile import StatedTile, merged
from survfuse.slide.vector_settings import VectorSettings
from survfuse.tasks.registry import DEFAULT
from survfuse.tasks.task import VECTOR, Task


@dataclass(frozen=True)
class Cohort:
    """n patients with outcomes, sorted by id. A modality that was not requested is None or empty."""

    ids: tuple[str, ...]  # n
    times: Floats  # [n] months
    events: Bools  # [n]
    bags: tuple[Bag, ...] | None  # n, each of all the patient's slides
    genes: tuple[str, ...]  # G
    expression: Floats | None  # [n, G] as in the files, NaN where a gene is absent
    clinical: tuple[Mapping[str, object], ...]  # n, without the outcome
    simulated: bool
    encoder: str | None  # that made the tile features, if a file states it
    task: Task = DEFAULT
    tile: StatedTile | None = None  # that the tile features are of, if a file states it
    outcome_variables: tuple[str, ...] = ()  # clinical variables that were left out, since their names are outcomes'
    coordinates: tuple[Path | None, ...] = ()  # n, files with the places of the tiles of patients with one slide
    kept_variables: tuple[str, ...] = ()  # that the user knows not to state the outcome
    stated_variables: StatedVariables = NONE_STATED  # what the user stated of clinical variables
    slide_vectors: tuple[SlideVector, ...] | None = None  # n, the mean of those of a patient's slides

    @cached_property
    def vectors(self) -> Floats | None:
        """The slide-level vectors [n, V]."""
        if self.slide_vectors is None:
            return None
        return np.stack([each.values for each in self.slide_vectors]).astype(np.float64)

    @cached_property
    def vector_settings(self) -> VectorSettings | None:
        """Of which encoder and length the slide-level vectors are; None without any."""
        if self.slide_vectors is None:
            return None
        encoder = next((each.encoder for each in self.slide_vectors if each.encoder is not None), None)
        return VectorSettings(encoder, len(self.slide_vectors[0].values), "slide" in self.task.modalities)

    def without_vectors(self) -> "Cohort":
        """The same cohort without slide-level vectors."""
        return replace(self, slide_vectors=None, task=self.task.without_vectors())

    def features_made_with(self, encoder: str | None, mpp: float | None) -> tuple[str, float]:
        """The tile encoder and the µm per pixel of its input: those given, else as the feature files state, else UNI
        at the usual resolution. Raises InputError for an encoder that is not known."""
        name = encoder or self.encoder or "uni"
        if mpp is None and self.tile is not None:
            mpp = round(self.tile.width / find_spec(name).input_px, 6)
        return name, SlideSettings.mpp if mpp is None else mpp


def read_cohort(
    root: Path | CohortTables,
    cache: Path,
    outcomes: Path | None = None,
    modalities: Sequence[str] | None = None,
    with_outcomes: bool = True,
    task: Task = DEFAULT,
    keep_variables: Sequence[str] = (),
    columns: OutcomeColumns = TASKS_OWN,
    variables: StatedVariables = NONE_STATED,
    genes: Collection[str] = (),
) -> Cohort:
    """Every patient under ``root``, which has one of the layouts of ``task``, or those whom all of its tables name.

    ``cache`` is a folder for copies that ``survfuse.cohort.bags`` keeps of some feature files. ``outcomes`` is a table
    with case_id, time and event, as ``read_outcomes`` takes it with ``columns``. Only the files of ``modalities`` (all
    of the task's, or of those that there are tables of, if None) are read; slide-level vectors, which no task asks for,
    if there are any. Without ``with_outcomes`` no outcome is
    needed: times are NaN and events False. With them, clinical variables whose names are outcomes' are left out, except
    ``keep_variables``. ``variables`` are what is stated of clinical variables. ``genes``
    are a bundle's, by which a table's genes are told from its patients.

    Raises one InputError that lists everything that is wrong with any patient or file, and one for times in another
    unit than stated.
    """
    if VECTOR not in task.modalities and (VECTOR in modalities if modalities is not None else has_vectors(root, task)):
        task = task.with_vectors()
    all_of_them = root.modalities(task) if isinstance(root, CohortTables) else task.modalities
    chosen = all_of_them if modalities is None else tuple(modalities)
    if not chosen or not set(chosen) <= set(task.modalities):
        expected = ", ".join(task.modalities)
        raise InputError(f"expected modalities among {expected}, found {', '.join(chosen) or 'none'}")
    problems = Problems()
    if isinstance(root, CohortTables):
        found = gather_tables(root, outcomes, chosen, with_outcomes, task, columns, variables, problems, genes)
    else:
        found = gather_folder(root, outcomes, chosen, with_outcomes, task, columns, variables, problems)
    bags = open_bags(found.slides, cache, problems)
    encoder, tile = _common_origin(bags, problems)
    vectors = read_vectors(found.vectors, problems)
    problems.raise_any(str(root))
    ids = tuple(found.ids)
    clinical = [found.clinical.get(name, {}) for name in ids]
    stated: Sequence[str] = ()
    if "clinical" in chosen:
        if with_outcomes:
            variables.check_names(clinical)
        clinical = variables.applied(clinical)
        if with_outcomes:
            stated = _outcome_variables(clinical, task, keep_variables, found.outcome_variables)
    times = np.array([found.outcomes[name].months if with_outcomes else np.nan for name in ids])
    if with_outcomes:
        check_times(ids, times, columns.unit)
    return Cohort(
        ids=ids,
        times=times,
        events=np.array([with_outcomes and found.outcomes[name].event for name in ids]),
        bags=tuple(bags[name] for name in ids) if "slide" in chosen else None,
        genes=found.genes,
        expression=found.expression if "rna" in chosen else None,
        clinical=tuple({key: value for key, value in patient.items() if key not in stated} for patient in clinical),
        simulated=found.simulated,
        encoder=encoder,
        tile=tile,
        task=task.with_vectors("slide" in chosen) if VECTOR in chosen else task,
        coordinates=tuple(found.coordinates.get(name) for name in ids),
        outcome_variables=tuple(stated),
        kept_variables=tuple(keep_variables),
        stated_variables=variables,
        slide_vectors=tuple(vectors[name] for name in ids) if VECTOR in chosen else None,
    )


def has_vectors(root: Path | CohortTables, task: Task) -> bool:
    """Whether the cohort at ``root`` has slide-level vectors: a table of them, or their folder."""
    if isinstance(root, CohortTables):
        return root.vectors is not None
    return (root / find_layout(root, task.layouts).vectors).is_dir()


def _outcome_variables(
    clinical: Sequence[Mapping[str, object]], task: Task, keep: Sequence[str], named: Sequence[str]
) -> list[str]:
    """The variables of the patients that are outcomes, to be left out, but for those to ``keep``; logged.

    Those ``named`` as the outcome are, and those that an outcome's name says.
    """
    names = list(dict.fromkeys(variable for patient in clinical for variable in patient))
    for name in keep:
        if name not in names:
            raise InputError(unknown("clinical variable", name, names))
    own = {*named, *outcome_names(names, task)}
    stated = [name for name in names if name in own and name not in keep]
    if stated:
        stage("clinical", f"outcomes, left out of the variables: {listing(stated)}")
    return stated


def _common_origin(bags: Mapping[str, Bag], problems: Problems) -> tuple[str | None, StatedTile | None]:
    """The encoder and the tile that the patients' feature files state; None for what none does.

    Patients whose features differ in length, encoder or tile from most patients' are problems.
    """
    report_odd("features of length", {name: bag.dimension for name, bag in bags.items()}, problems)
    stated = {name: bag.encoder for name, bag in bags.items() if bag.encoder is not None}
    tiles = merged({name: bag.tile for name, bag in bags.items() if bag.tile is not None})
    report_odd("features of encoder", stated, problems)
    report_odd("features of tiles of", tiles, problems)
    return next(iter(stated.values()), None), next(iter(tiles.values()), None)
