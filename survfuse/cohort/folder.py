"""A cohort in a folder with one of the task's layouts.

A layout is recognised by its folders (``Task.layouts``). An outcome may be in a patient's clinical file, in a table, or
in both if they agree.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from survfuse.cohort.events import read_event
from survfuse.cohort.expression import ExpressionRows
from survfuse.cohort.gathered import Gathered
from survfuse.cohort.layout import (
    find_layout,
    patient_ids,
    patients_slides,
    patients_vectors,
    report_misplaced,
    visible_files,
)
from survfuse.cohort.outcomes import Outcome, OutcomeColumns, OutcomesTable, read_outcomes
from survfuse.cohort.problems import Problems
from survfuse.cohort.simulation_file import SIMULATION_FILE
from survfuse.cohort.stated_variables import StatedVariables
from survfuse.cohort.time_unit import MONTHS, read_months
from survfuse.inputs.clinical import is_missing
from survfuse.runtime.errors import InputError
from survfuse.runtime.files import read_object
from survfuse.runtime.log import listing, progress
from survfuse.slide.suffixes import HDF5_SUFFIXES
from survfuse.tasks.task import VECTOR, CohortLayout, Task


def gather_folder(
    root: Path,
    outcomes: Path | None,
    modalities: Sequence[str],
    with_outcomes: bool,
    task: Task,
    columns: OutcomeColumns,
    variables: StatedVariables,
    problems: Problems,
) -> Gathered:
    """Every patient under ``root``; ``read_cohort`` says what the arguments are. Raises InputError without a layout."""
    layout = find_layout(root, task.layouts)
    table = _outcomes_table(root, layout, outcomes, task, columns, problems)
    ids = patient_ids(root, layout, table, modalities, problems)
    if not ids and not problems.listed:
        raise InputError(f"{root}: expected patients as {layout.clinical.format(id='<id>')}, found none")
    if layout.own_folders:
        report_misplaced(root, layout, ids, modalities, problems)
    slides = patients_slides(root, layout, ids, table, problems) if "slide" in modalities else {}
    vectors = patients_vectors(root, layout, ids, table, problems) if VECTOR in modalities else {}
    reader = _PatientReader(root, layout, table, problems, modalities, with_outcomes, task, columns, variables)
    for name in progress(ids, len(ids), "reading"):
        reader.read(name)
    whole = "rna" in modalities and not problems.listed
    genes, expression = reader.expression.matrix() if whole else ((), None)
    return Gathered(
        ids=ids,
        simulated=(root / SIMULATION_FILE).exists(),
        slides=slides,
        outcomes=reader.outcomes,
        clinical=reader.clinical,
        genes=genes,
        expression=expression,
        coordinates={name: _coordinates(root, layout, slides.get(name, ())) for name in ids},
        vectors=vectors,
    )


def _coordinates(root: Path, layout: CohortLayout, slides: Sequence[Path]) -> Path | None:
    """The file that says where the tiles of a patient's only slide lie; None if there is none."""
    if len(slides) != 1:
        return None
    if slides[0].suffix.lower() in HDF5_SUFFIXES:
        return slides[0]
    beside = root / layout.coordinates / f"{slides[0].stem}.npy"
    return beside if layout.coordinates and beside.is_file() else None


def _outcomes_table(
    root: Path, layout: CohortLayout, given: Path | None, task: Task, columns: OutcomeColumns, problems: Problems
) -> OutcomesTable:
    """What the table ``given`` states, or else the one CSV at the root if the layout has one; empty without any."""
    at_root = [path for path in visible_files(root) if path.suffix.lower() == ".csv"] if layout.table else []
    tables = [given] if given else at_root
    if len(tables) > 1:
        names = listing(path.name for path in tables)
        problems.add(f"expected one CSV of outcomes, found {names}; name the one to read")
        return OutcomesTable(names, readable=False)
    return read_outcomes(tables[0], task.outcome, problems, columns) if tables else OutcomesTable()


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
    columns: OutcomeColumns
    stated: StatedVariables
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
                stated[keys.time] = read_months(months, keys.most_months, keys.time, self.columns.unit or MONTHS)
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
        for variable, value in self.clinical[name].items():
            with self.problems.collect(name, file):
                self.stated.check(variable, value, self.task)

    def _keep_expression(self, name: str) -> None:
        """Keep the values of the patient's expression file."""
        path = self._path(self.layout.expression, name)
        values = self._object(name, path)
        if values is None:
            return
        with self.problems.collect(name, path.name):
            self.expression.add(values)
