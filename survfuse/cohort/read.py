"""A cohort: many patients with outcomes, read from a folder in any of the task's layouts.

A layout is recognised by its folders (``Task.layouts``). An outcome may be in a patient's clinical file, in a CSV
table, or in both if they agree.
"""

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from survfuse.cohort.bags import Bag, open_bag
from survfuse.cohort.expression import ExpressionRows
from survfuse.cohort.layout import find_layout, patient_ids, patients_slides, report_misplaced, visible_files
from survfuse.cohort.outcome_names import outcome_names
from survfuse.cohort.outcomes import Outcome, OutcomesTable, read_event, read_months, read_outcomes, warn_of_days
from survfuse.cohort.problems import Problems
from survfuse.inputs.clinical import Numeric, is_missing, read_label, read_number
from survfuse.runtime.arrays import Bools, Floats
from survfuse.runtime.errors import InputError
from survfuse.runtime.files import read_object
from survfuse.runtime.log import count, listing, progress, stage
from survfuse.runtime.suggestions import unknown
from survfuse.slide.stated_tile import StatedTile, merged
from survfuse.slide.suffixes import HDF5_SUFFIXES
from survfuse.tasks.registry import DEFAULT
from survfuse.tasks.task import CohortLayout, Task

SIMULATION_FILE = "simulation.json"  # written by ``survfuse simulate``; marks a cohort as simulated


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


def read_cohort(
    root: Path,
    cache: Path,
    outcomes: Path | None = None,
    modalities: Sequence[str] | None = None,
    with_outcomes: bool = True,
    task: Task = DEFAULT,
    keep_variables: Sequence[str] = (),
) -> Cohort:
    """Every patient under ``root``, which has one of the layouts of ``task``.

    ``cache`` is a folder for copies that ``survfuse.cohort.bags`` keeps of some feature files. ``outcomes`` is a CSV
    table with case_id, time in months and event, as ``read_outcomes`` takes it. Only the files of ``modalities`` (all
    of the task's if None) are read. Without ``with_outcomes`` no outcome is needed: times are NaN and events False.
    With them, clinical variables whose names are outcomes' are left out, except ``keep_variables``.

    Raises one InputError that lists everything that is wrong with any patient or file.
    """
    chosen = task.modalities if modalities is None else tuple(modalities)
    if not chosen or not set(chosen) <= set(task.modalities):
        expected = ", ".join(task.modalities)
        raise InputError(f"expected modalities among {expected}, found {', '.join(chosen) or 'none'}")
    layout, problems = find_layout(root, task.layouts), Problems()
    table = _outcomes_table(root, layout, outcomes, task, problems)
    ids = patient_ids(root, layout, table, chosen, problems)
    if not ids and not problems.listed:
        raise InputError(f"{root}: expected patients as {layout.clinical.format(id='<id>')}, found none")
    if layout.own_folders:
        report_misplaced(root, layout, ids, chosen, problems)
    slides = patients_slides(root, layout, ids, table, problems) if "slide" in chosen else {}

    reader = _PatientReader(root, layout, table, problems, chosen, with_outcomes, task)
    bags: dict[str, Bag] = {}
    for name in progress(ids, len(ids), "reading"):
        reader.read(name)
        if slides.get(name):
            with problems.collect(name):
                bags[name] = open_bag(slides[name], cache)
    encoder, tile = _common_origin(bags, problems)
    problems.raise_any(str(root))
    genes, expression = reader.expression.matrix() if "rna" in chosen else ((), None)
    clinical = [reader.clinical.get(name, {}) for name in ids]
    times = np.array([reader.outcomes[name].months if with_outcomes else np.nan for name in ids])
    if with_outcomes:
        warn_of_days(times)
    stated = _outcome_variables(clinical, task, keep_variables) if with_outcomes and "clinical" in chosen else []
    return Cohort(
        ids=ids,
        times=times,
        events=np.array([with_outcomes and reader.outcomes[name].event for name in ids]),
        bags=tuple(bags[name] for name in ids) if "slide" in chosen else None,
        genes=genes,
        expression=expression,
        clinical=tuple({key: value for key, value in patient.items() if key not in stated} for patient in clinical),
        simulated=(root / SIMULATION_FILE).exists(),
        encoder=encoder,
        tile=tile,
        task=task,
        coordinates=tuple(_coordinates(root, layout, slides.get(name, ())) for name in ids),
        outcome_variables=tuple(stated),
        kept_variables=tuple(keep_variables),
    )


def _coordinates(root: Path, layout: CohortLayout, slides: Sequence[Path]) -> Path | None:
    """The file that says where the tiles of a patient's only slide lie; None if there is none."""
    if len(slides) != 1:
        return None
    if slides[0].suffix.lower() in HDF5_SUFFIXES:
        return slides[0]
    beside = root / layout.coordinates / f"{slides[0].stem}.npy"
    return beside if layout.coordinates and beside.is_file() else None


def _outcome_variables(clinical: Sequence[Mapping[str, object]], task: Task, keep: Sequence[str]) -> list[str]:
    """The variables of the patients that an outcome's name says to be left out, but for those to ``keep``; logged."""
    names = list(dict.fromkeys(variable for patient in clinical for variable in patient))
    for name in keep:
        if name not in names:
            raise InputError(unknown("clinical variable", name, names))
    stated = [name for name in outcome_names(names, task) if name not in keep]
    if stated:
        stage("clinical", f"outcomes, left out of the variables: {listing(stated)}")
    return stated


def _outcomes_table(
    root: Path, layout: CohortLayout, given: Path | None, task: Task, problems: Problems
) -> OutcomesTable:
    """What the table ``given`` states, or else the one CSV at the root if the layout has one; empty without any."""
    at_root = [path for path in visible_files(root) if path.suffix.lower() == ".csv"] if layout.table else []
    tables = [given] if given else at_root
    if len(tables) > 1:
        names = listing(path.name for path in tables)
        problems.add(f"expected one CSV of outcomes, found {names}; name the one to read")
        return OutcomesTable(names, readable=False)
    return read_outcomes(tables[0], task.outcome, problems) if tables else OutcomesTable()


@dataclass
class _PatientReader:
    """Reads patients one at a time; what is wrong with any goes to ``problems``."""

    root: Path
    layout: CohortLayout
    table: OutcomesTable
    problems: Problems
    modalities: Sequence[str]
    with_outcomes: bool
    task: Task
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    clinical: dict[str, Mapping[str, object]] = field(default_factory=dict)
    expression: ExpressionRows = field(default_factory=ExpressionRows)

    def read(self, name: str) -> None:
        """Keep the outcome, the clinical variables and the expression of the patient ``name``, as far as requested."""
        path = self._path(self.layout.clinical, name)
        variables = self._variables(name, path)
        if variables is not None:
            if self.with_outcomes:
                self._keep_outcome(name, path.name, variables)
            if "clinical" in self.modalities:
                self._keep_variables(name, path.name, variables)
        if "rna" in self.modalities:
            self._keep_expression(name)

    def _path(self, place: str, name: str) -> Path:
        return self.root / place.format(id=name)

    def _variables(self, name: str, path: Path) -> Mapping[str, object] | None:
        """The patient's clinical file, None if it cannot be read. It may be absent if nothing in it is needed."""
        answered = not self.with_outcomes or self.table.covers(name)
        if "clinical" not in self.modalities and not path.exists() and answered:
            return {}
        return self._object(name, path)

    def _object(self, name: str, path: Path) -> Mapping[str, object] | None:
        """The JSON object in a patient's file, NaN and Infinity among its values; None if it cannot be read."""
        if not path.is_file():
            self.problems.add("no such file", name, path.name)
            return None
        try:
            return read_object(path, InputError, literals=True)
        except InputError as error:
            self.problems.add(str(error), name)
            return None

    def _keep_outcome(self, name: str, file: str, variables: Mapping[str, object]) -> None:
        """Keep the outcome that the table and the clinical file state: at least one of them, and both the same."""
        keys = self.task.outcome
        event, months = variables.get(keys.event), variables.get(keys.time)
        stated: dict[str, float] = {}
        if self._states(name, file, keys.event, event):
            with self.problems.collect(name, file):
                stated[keys.event] = read_event(event, keys.event)
        if self._states(name, file, keys.time, months):
            with self.problems.collect(name, file):
                stated[keys.time] = read_months(months, keys.most_months, keys.time)
        row = self.table.outcomes.get(name)
        if row is not None:
            for key, value in zip(keys.keys, row, strict=True):
                if not math.isclose(stated.get(key, value), value, rel_tol=1e-9):
                    self.problems.add(f"{key} differs from {self.table.name}", name, file)
            self.outcomes[name] = row
        elif len(stated) == 2:
            self.outcomes[name] = Outcome(bool(stated[keys.event]), stated[keys.time])

    def _states(self, name: str, file: str, key: str, value: object) -> bool:
        """Whether the clinical file states ``value`` for an outcome's ``key``; it is a problem if nothing does."""
        if not is_missing(value, self.task.missing_codes):
            return True
        if not self.table.covers(name):
            elsewhere = f", and {self.table.name} has no row" if self.table.name else ""
            self.problems.add(f"states no {key}{elsewhere}", name, file)
        return False

    def _keep_variables(self, name: str, file: str, variables: Mapping[str, object]) -> None:
        """Keep the clinical variables without the outcome, and check that each has a usable value."""
        self.clinical[name] = {key: value for key, value in variables.items() if key not in self.task.outcome.keys}
        codes = self.task.missing_codes
        for variable, value in self.clinical[name].items():
            with self.problems.collect(name, file):
                if variable in self.task.plausible:
                    low, high = self.task.plausible[variable]
                    read_number(Numeric(variable, 0.0, 0.0, low, high), value, codes, quote=True)
                else:
                    read_label(variable, value, codes)

    def _keep_expression(self, name: str) -> None:
        """Keep the values of the patient's expression file."""
        path = self._path(self.layout.expression, name)
        values = self._object(name, path)
        if values is None:
            return
        with self.problems.collect(name, path.name):
            self.expression.add(values)


def _common_origin(bags: Mapping[str, Bag], problems: Problems) -> tuple[str | None, StatedTile | None]:
    """The encoder and the tile that the patients' feature files state; None for what none does.

    Patients whose features differ in length, encoder or tile from most patients' are problems.
    """
    _report_odd("features of length", {name: bag.dimension for name, bag in bags.items()}, problems)
    stated = {name: bag.encoder for name, bag in bags.items() if bag.encoder is not None}
    tiles = merged({name: bag.tile for name, bag in bags.items() if bag.tile is not None})
    _report_odd("features of encoder", stated, problems)
    _report_odd("features of tiles of", tiles, problems)
    return next(iter(stated.values()), None), next(iter(tiles.values()), None)


def _report_odd(what: str, values: Mapping[str, Hashable], problems: Problems) -> None:
    """Add a problem that names the patients whose value is not the most common one."""
    usual, *others = [value for value, _ in Counter(values.values()).most_common()] or [None]
    if not others:
        return
    most = sum(value == usual for value in values.values())
    odd = (f"{value} in {listing(name for name in values if values[name] == value)}" for value in others)
    problems.add(f"{what} {usual} in {count(most, 'patient')}, but {', '.join(odd)}")
