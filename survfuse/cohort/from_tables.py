"""A cohort in tables: of slides, slide-level vectors, clinical variables and expression, joined by patient."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from survfuse.cohort.expression_table import ExpressionTable, read_expression
from survfuse.cohort.gathered import Gathered
from survfuse.cohort.id_hints import hint
from survfuse.cohort.outcome_names import outcome_names
from survfuse.cohort.outcomes import OutcomeColumns, OutcomesTable, outcome_places, read_outcomes
from survfuse.cohort.patient_column import patient_column
from survfuse.cohort.problems import Problems
from survfuse.cohort.simulation_file import SIMULATION_FILE
from survfuse.cohort.stated_variables import StatedVariables
from survfuse.cohort.table_paths import CohortTables
from survfuse.cohort.tables import read_table
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import count, counted, stage, warn
from survfuse.runtime.spreadsheet import content
from survfuse.slide.suffixes import FEATURE_SUFFIXES, HDF5_SUFFIXES, SLIDE_SUFFIXES
from survfuse.tasks.task import VECTOR, Task

_SLIDE_COLUMNS = {
    "file": ("file", "path", "filename", "file_name", "slide", "features"),
    "mask": ("mask", "mask_file"),
}
_VECTOR_COLUMNS = {"file": ("file", "path", "filename", "file_name", "vector", "slide", "features")}


class SlideFile(NamedTuple):
    """One row of a table of slides."""

    patient: str
    file: Path
    mask: Path | None


def gather_tables(
    tables: CohortTables,
    outcomes: Path | None,
    modalities: Sequence[str],
    with_outcomes: bool,
    task: Task,
    columns: OutcomeColumns,
    variables: StatedVariables,
    problems: Problems,
    genes: Collection[str] = (),
) -> Gathered:
    """The patients whom all tables of ``modalities`` name, and that of ``outcomes`` if they are needed.

    Without ``outcomes`` they are in the clinical table. ``genes`` are some that expression is of. Patients whom a table
    lacks are left out with a warning that names them. Raises InputError for a modality without a table, and if no
    patient is in all.
    """
    for name in modalities:
        if tables.of(name) is None:
            raise InputError(f"no table of the modality {name}; name it, or leave it out with --modalities")
    stated = _outcomes(tables, outcomes, task, columns, problems) if with_outcomes else None
    paths = (*tables.paths, *filter(None, [outcomes]))
    called = {path: path.name if [other.name for other in paths].count(path.name) == 1 else str(path) for path in paths}
    own: dict[str, set[str]] = {}  # what a file is called → its patients
    if stated is not None and stated.readable:
        own[called[outcomes] if outcomes is not None else stated.name] = set(stated.outcomes)
    clinical: Mapping[str, Mapping[str, object]] = {}
    slides: Mapping[str, Sequence[Path]] = {}
    vectors: Mapping[str, Sequence[Path]] = {}
    expression: ExpressionTable | None = None
    if tables.clinical is not None and "clinical" in modalities:
        with problems.collect(None, tables.clinical.name):
            clinical = read_variables(tables.clinical, problems)
            own[called[tables.clinical]] = set(clinical)
            _check_variables(clinical, variables, task, tables.clinical.name, problems)
    if tables.slides is not None and "slide" in modalities:
        with problems.collect(None, tables.slides.name):
            slides = _features(tables.slides, problems)
            own[called[tables.slides]] = set(slides)
    if tables.vectors is not None and VECTOR in modalities:
        with problems.collect(None, tables.vectors.name):
            vectors = _vectors(tables.vectors, problems)
            own[called[tables.vectors]] = set(vectors)
    if tables.expression is not None and "rna" in modalities:
        known = set().union(*own.values())
        with problems.collect(None, tables.expression.name):
            expression = read_expression(
                tables.expression,
                known,
                tables.duplicates,
                problems,
                lambda names: {*outcome_names(names, task), *(set(columns.named) & set(names))},
                genes,
            )
            own[called[tables.expression]] = set(expression.patients)
    problems.raise_any(str(tables))
    ids = _joined(own)
    usable = [name for name in ids if stated is None or stated.outcomes[name] is not None]
    rows = {name: place for place, name in enumerate(expression.patients)} if expression is not None else {}
    return Gathered(
        ids=usable,
        simulated=any((path.parent / SIMULATION_FILE).exists() for path in paths),
        slides={name: slides[name] for name in usable if name in slides},
        outcomes={name: outcome for name in usable if stated is not None and (outcome := stated.outcomes[name])},
        clinical={name: clinical[name] for name in usable if name in clinical},
        genes=expression.genes if expression is not None else (),
        expression=expression.values[[rows[name] for name in usable]] if expression is not None else None,
        coordinates={name: _coordinates(slides.get(name, ())) for name in usable},
        vectors={name: vectors[name] for name in usable if name in vectors},
        outcome_variables=columns.named if with_outcomes and _is_clinical(tables, outcomes) else (),
    )


def _is_clinical(tables: CohortTables, outcomes: Path | None) -> bool:
    """Whether the outcomes are in the clinical table."""
    if outcomes is None or tables.clinical is None:
        return outcomes is None
    return outcomes.samefile(tables.clinical)


def read_slides(
    path: Path, problems: Problems, columns: Mapping[str, Sequence[str]] = _SLIDE_COLUMNS
) -> list[SlideFile]:
    """The rows of a table of slides: patient, file and, if there is one, its tissue mask; ``columns`` are their names.

    Files are relative to the table's folder. Raises InputError for a missing column; a file that is not there, or is
    listed more than once, is a problem.
    """
    table = read_table(path, problems)
    patient = patient_column(table)
    places = table.columns(columns, optional=("mask",))
    found: list[SlideFile] = []
    seen: dict[Path, str] = {}
    for row in table.rows:
        name, file = content(row.cells[patient]).strip(), path.parent / content(row.cells[places["file"]])
        mask_name = content(row.cells[places["mask"]]) if "mask" in places else ""
        mask = path.parent / mask_name if mask_name else None
        absent = [one for one in (file, mask) if one is not None and not one.exists()]
        if not name or not row.cells[places["file"]]:
            problems.add("expected a patient and a file", file=path.name, line=row.line)
        elif absent:
            problems.add(f"no such file: {absent[0]}", name, path.name, row.line)
        elif (before := seen.get(file.resolve())) is not None:
            whose = f"{before} as well" if before != name else "the patient more than once"
            problems.add(f"{file.name} is listed for {whose}", name, path.name, row.line)
        else:
            seen[file.resolve()] = name
            found.append(SlideFile(name, file, mask))
    return found


def read_variables(path: Path, problems: Problems) -> dict[str, Mapping[str, object]]:
    """Patient → variable → value, by the heading of a clinical table. An empty cell is null, a plain number a number.

    Raises InputError for a table without patients or with two columns of one name. A patient's second row is a problem
    unless it states the same.
    """
    table = read_table(path, problems)
    place = patient_column(table)
    names = {column: name for column, name in enumerate(table.heading) if column != place and name}
    if repeated := sorted(name for name, number in Counter(names.values()).items() if number > 1):
        raise InputError(f"{counted(repeated, 'column')} more than once")
    patients: dict[str, Mapping[str, object]] = {}
    for row in table.rows:
        name = content(row.cells[place]).strip()
        variables = {own: _value(content(row.cells[column])) for column, own in names.items()}
        if not name:
            problems.add("no patient", file=path.name, line=row.line)
        elif patients.setdefault(name, variables) != variables:
            problems.add("its variables differ from an earlier line", name, path.name, row.line)
    return patients


def _check_variables(
    patients: Mapping[str, Mapping[str, object]], stated: StatedVariables, task: Task, file: str, problems: Problems
) -> None:
    for name, own in patients.items():
        for variable, value in own.items():
            with problems.collect(name, file):
                stated.check(variable, value, task)


def _value(cell: str) -> object:
    """A cell as JSON would have it: null, a number that is spelt plainly, or text.

    >>> _value(""), _value("70"), _value("0.5"), _value("007"), _value("T1")
    (None, 70, 0.5, '007', 'T1')
    """
    if not cell:
        return None
    for kind in (int, float):
        try:
            number = kind(cell)
        except ValueError:
            continue
        if str(number) == cell and number == number and abs(number) != float("inf"):
            return number
    return cell


def _outcomes(
    tables: CohortTables, outcomes: Path | None, task: Task, columns: OutcomeColumns, problems: Problems
) -> OutcomesTable:
    """What the table ``outcomes`` states, or else the clinical one."""
    path = outcomes or tables.clinical
    if path is None:
        raise InputError("no table of outcomes, and no clinical table with them; name one with --outcomes")
    if outcomes is None:
        table = read_table(path, Problems())
        try:
            outcome_places(table, task.outcome, columns)
        except InputError as error:
            raise InputError(
                f"{path.name} states no outcomes: {error}; name a table of them with --outcomes"
            ) from error
    return read_outcomes(path, task.outcome, problems, columns)


def _features(path: Path, problems: Problems) -> dict[str, list[Path]]:
    """Each patient's feature files; a slide itself is a problem."""

    def wrong(file: Path) -> str:
        is_slide = file.suffix.lower() in SLIDE_SUFFIXES or file.is_dir()
        return "a slide; extract its features first" if is_slide else "no feature file"

    return _by_patient(read_slides(path, problems), problems, path.name, wrong)


def _vectors(path: Path, problems: Problems) -> dict[str, list[Path]]:
    """Each patient's files of slide-level vectors."""
    try:
        rows = read_slides(path, problems, _VECTOR_COLUMNS)
    except InputError as error:
        raise InputError(f"{error}; vectors are read from files, their numbers not from columns") from error
    return _by_patient(rows, problems, path.name, lambda _: "no slide-level vector")


def _by_patient(
    rows: Sequence[SlideFile], problems: Problems, table: str, wrong: Callable[[Path], str]
) -> dict[str, list[Path]]:
    """Each patient's files; one with another suffix than those of features is a problem, ``wrong`` says of what."""
    found: dict[str, list[Path]] = {}
    for row in rows:
        if row.file.suffix.lower() in FEATURE_SUFFIXES:
            found.setdefault(row.patient, []).append(row.file)
        else:
            expected = f"is {wrong(row.file)} (expected {', '.join(FEATURE_SUFFIXES)})"
            problems.add(f"{row.file.name} {expected}", row.patient, table)
    return found


def _joined(own: Mapping[str, set[str]]) -> list[str]:
    """The patients of all files, sorted; those that a file lacks are warned of.

    Raises InputError if there is none, with names of both sides.
    """
    common = set.intersection(*own.values())
    everyone = set.union(*own.values())
    if not common:
        sides = "; ".join(f"{file} has {counted(sorted(ids), 'patient')}" for file, ids in own.items())
        how = hint(list(own.values()))
        raise InputError(f"no patient is in all of {', '.join(own)}: {sides}{f'; {how}' if how else ''}")
    for file, ids in own.items():
        if missing := sorted(everyone - ids):
            warn(f"{counted(missing, 'patient', len(everyone))} not in {file}, left out")
    if how := hint(list(own.values())):
        warn(f"tables of patients: {how}")
    stage("joined", f"{count(len(common), 'patient')} in all of {', '.join(own)}")
    return sorted(common)


def _coordinates(slides: Sequence[Path]) -> Path | None:
    """The file that says where the tiles of a patient's only slide lie; None if there is none."""
    return slides[0] if len(slides) == 1 and slides[0].suffix.lower() in HDF5_SUFFIXES else None
