"""The tables that an evaluation compares: predictions, outcomes, survival curves and clinical variables."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from survfuse.cohort.from_tables import read_variables
from survfuse.cohort.id_hints import hint
from survfuse.cohort.outcomes import TASKS_OWN, Outcome, OutcomeColumns, read_outcomes
from survfuse.cohort.problems import Problems
from survfuse.cohort.read import read_cohort
from survfuse.cohort.simulation_file import SIMULATION_FILE
from survfuse.evaluation.predictions import (
    Predicted,
    PredictionsTable,
    SurvivalTable,
    read_predictions,
    read_survival,
)
from survfuse.evaluation.trained_on import markers
from survfuse.runtime.arrays import Floats
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import counted, recorded, warn
from survfuse.runtime.spreadsheet import content
from survfuse.runtime.suggestions import unknown
from survfuse.tasks.task import Task

T = TypeVar("T")
_CLINICAL = "clinical"


@dataclass(frozen=True)
class Files:
    """What an evaluation reads."""

    predictions: Path
    outcomes: Path  # a table, or the folder of a cohort
    survival: Path | None = None
    versus: Path | None = None  # another model's predictions
    versus_survival: Path | None = None  # its survival curves
    clinical: Path | None = None  # a table with patients and variables
    by: tuple[str, ...] = ()  # variables to form subgroups by
    columns: OutcomeColumns = TASKS_OWN  # of the outcomes


@dataclass(frozen=True)
class StatedCurves:
    """Survival curves that a table states of n patients."""

    name: str  # of the file
    months: tuple[float, ...]  # T
    curves: tuple[Floats, ...]  # n, each [T]


@dataclass(frozen=True)
class Matched:
    """What the tables state of the same n patients, in the order of the predictions."""

    name: str  # of the file of predictions
    cases: tuple[str, ...]  # n
    predicted: tuple[Predicted, ...]  # n
    outcomes: tuple[Outcome, ...]  # n
    curves: StatedCurves | None
    versus: tuple[Predicted, ...] | None  # n
    versus_name: str  # of the file
    versus_curves: StatedCurves | None
    clinical: Mapping[str, Mapping[str, object]]  # by case and variable
    simulated: bool
    excluded: tuple[str, ...]  # training patients who were left out
    unpredicted: tuple[str, ...]  # patients with an outcome who were left out, as they have no prediction


@dataclass
class _Observed:
    """Outcomes, and what their source says beside them."""

    name: str
    outcomes: Mapping[str, Outcome | None] = field(default_factory=dict)
    readable: bool = True
    clinical: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


def read_inputs(files: Files, task: Task, exclude_training: bool = False) -> Matched:
    """Read all ``files`` and match them by case_id.

    With ``exclude_training``, rows whose training_patient is yes in either table of predictions are left out, and so
    are outcomes of patients without a row. Raises one InputError that lists everything wrong with the tables,
    including cases that only one of them has; one for an unknown variable, one for a table of clinical variables
    without any of the patients, one for another model's survival curves without what they are compared with, and one if
    nobody is left. Warns of patients whom the table of clinical variables lacks.
    """
    _check_versus(files)
    problems = Problems()
    predicted = read_predictions(files.predictions, problems)
    versus = read_predictions(files.versus, problems) if files.versus else None
    survival = read_survival(files.survival, problems) if files.survival else None
    versus_survival = read_survival(files.versus_survival, problems) if files.versus_survival else None
    observed = _observed(files.outcomes, task, files.columns, problems)
    clinical = _clinical(files, observed, problems)
    outcomes, variables = _by_case(observed.outcomes, predicted.cases), _by_case(clinical, predicted.cases)
    tables = [table for table in (predicted, versus) if table is not None and exclude_training]
    marked = [(table.name, _training_patients(table)) for table in tables]
    excluded = {case for _, cases in marked for case in cases}
    kept = [case for case in predicted.cases if case not in excluded]
    wanted = set(kept)
    unpredicted = [case for case in outcomes if case not in wanted] if exclude_training else []
    if predicted.readable and observed.readable:
        compared = set(outcomes) - set(unpredicted) - excluded
        if _report(wanted, compared, predicted.name, (observed.name, "no outcome"), problems):
            _hint(predicted, observed.name, outcomes, problems)
    for other in (versus, survival, versus_survival):
        if other is not None and other.readable and predicted.readable:
            said = (other.name, "no row for this case")
            if _report(wanted, set(other.cases) - excluded, predicted.name, said, problems):
                _hint(predicted, other.name, other.cases, problems)
    problems.raise_any("evaluation")
    if not kept:
        names = markers(marked, predicted.cases.keys())
        raise InputError(f"{names}: all patients are training patients, so that nobody is left to evaluate")
    _check_variables(files.by, variables)
    if files.by and files.clinical is not None:
        _check_patients(kept, variables, predicted.name, files.clinical.name)
    return Matched(
        predicted.name,
        tuple(kept),
        tuple(known for case in kept if (known := predicted.cases[case])),
        tuple(outcome for case in kept if (outcome := outcomes[case])),
        _stated_curves(survival, kept),
        tuple(known for case in kept if (known := versus.cases[case])) if versus else None,
        versus.name if versus else "",
        _stated_curves(versus_survival, kept),
        variables,
        _simulated(files.outcomes),
        tuple(case for case in predicted.cases if case in excluded),
        tuple(case for case in unpredicted if case not in excluded),
    )


def _check_versus(files: Files) -> None:
    """Raise InputError for another model's survival curves without its predictions, or without this model's curves."""
    needed = {"--versus": files.versus, "--survival": files.survival}
    if files.versus_survival is not None and (missing := [name for name, path in needed.items() if path is None]):
        raise InputError(f"--versus-survival needs {' and '.join(missing)} as well")


def _stated_curves(table: SurvivalTable | None, cases: Sequence[str]) -> StatedCurves | None:
    """What a table of survival curves states of ``cases``, if there is one."""
    if table is None:
        return None
    curves = tuple(curve for case in cases if (curve := table.cases[case]) is not None)
    return StatedCurves(table.name, tuple(table.months), curves)


def _observed(source: Path, task: Task, columns: OutcomeColumns, problems: Problems) -> _Observed:
    """The outcomes in the table, or of the cohort, at ``source``."""
    if not source.is_dir():
        table = read_outcomes(source, task.outcome, problems, columns)
        return _Observed(table.name, table.outcomes, table.readable)
    # What reading logs is of no interest here, but for its warnings: the first line says what was found.
    with recorded(show=False) as record:
        cohort = read_cohort(source, source, modalities=(_CLINICAL,), task=task, columns=columns)
    for warning in record.warnings:
        warn(warning)
    outcomes = {
        name: Outcome(bool(event), float(months))
        for name, event, months in zip(cohort.ids, cohort.events, cohort.times, strict=True)
    }
    return _Observed(source.name, outcomes, True, dict(zip(cohort.ids, cohort.clinical, strict=True)))


def _clinical(files: Files, observed: _Observed, problems: Problems) -> Mapping[str, Mapping[str, object]]:
    """Clinical variables by case: of the table if there is one, else of the cohort."""
    if files.clinical is None:
        if files.by and not observed.clinical and observed.readable and files.outcomes.is_file():
            raise InputError("--by needs clinical variables: --clinical TABLE, or a cohort's folder as OUTCOMES")
        return observed.clinical
    with problems.collect(None, files.clinical.name):
        return read_variables(files.clinical, problems)
    return {}


def _by_case(stated: Mapping[str, T], cases: Collection[str]) -> dict[str, T]:
    """What a table has ``stated`` of patients, by the id that ``cases`` has for each.

    Tables are read without an apostrophe before what a spreadsheet could compute. A case whose own id begins so, as a
    folder's name may, is then found by its id without it.
    """
    guarded = {plain: case for case in cases if case not in stated and (plain := content(case)) not in cases}
    return {guarded.get(name, name): value for name, value in stated.items()}


def _check_variables(by: Sequence[str], clinical: Mapping[str, Mapping[str, object]]) -> None:
    """Raise InputError for a variable that nobody has."""
    known = list(dict.fromkeys(name for values in clinical.values() for name in values))
    for name in by:
        if name not in known:
            raise InputError(unknown("clinical variable", name, known))


def _check_patients(
    kept: Sequence[str], clinical: Mapping[str, Mapping[str, object]], predictions: str, table: str
) -> None:
    """Raise InputError if the ``table`` of clinical variables has none of the patients; warn if it lacks some."""
    missing = [case for case in kept if case not in clinical]
    if len(missing) == len(kept):
        sides = f"{predictions} has {counted(kept, 'patient')}; {table} has {counted(clinical, 'patient')}"
        found = hint([set(kept), set(clinical)])
        raise InputError(f"no patient of {predictions} is in {table}: {sides}" + (f"; {found}" if found else ""))
    if missing:
        warn(f"{counted(missing, 'patient', len(kept))} not in {table}: missing in every subgroup's variable")


def _training_patients(table: PredictionsTable) -> set[str]:
    """The cases that the ``table`` says its model was trained on."""
    return {case for case, known in table.cases.items() if known is not None and known.training_patient}


def _simulated(outcomes: Path) -> bool:
    """Whether ``survfuse simulate`` made the cohort, or left its mark beside the table."""
    return ((outcomes if outcomes.is_dir() else outcomes.parent) / SIMULATION_FILE).exists()


def _report(wanted: set[str], found: set[str], name: str, other: tuple[str, str], problems: Problems) -> bool:
    """Add the cases that only the predictions, in the file ``name``, or another table has to ``problems``.

    ``other`` is the other file's name, and what is said of a case that it lacks. Returns whether there are any.
    """
    for case in sorted(found - wanted):
        problems.add("no prediction", case, name)
    for case in sorted(wanted - found):
        problems.add(other[1], case, other[0])
    return wanted != found


def _hint(predicted: PredictionsTable, other: str, cases: Collection[str], problems: Problems) -> None:
    """Add how the ids of the predictions differ from those of the file ``other``, if they would agree otherwise."""
    if found := hint([set(predicted.cases), set(cases)]):
        problems.add(found, file=f"{predicted.name} and {other}")
