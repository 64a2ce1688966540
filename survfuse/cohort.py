"""Many patients with outcomes, read from either of the field's layouts; the folders that are there tell which.

CHIMERA's published one:

    data/<id>/<id>_CD.json               clinical variables and the outcome
    data/<id>/<id>_RNA.json              gene symbol → expression
    features/features/<id>_HE*.pt|.h5    tile features [N, D], a file a slide

The CHIMERA reference's own:

    clinics/<id>_CD.json   seqs/<id>_RNA.json   pt_files/<id>_HE*.pt or h5_files/<id>_HE*.h5
    one CSV at the root: case_id, slide_id, Time, Progression

An outcome may stand in _CD.json, in a CSV, or in both where they agree.
"""

import csv
import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from survfuse.bags import Bag, open_bag
from survfuse.clinical import MISSING_CODES, OUTCOME_KEYS, PLAUSIBLE, Numeric, is_missing, read_label, read_number
from survfuse.errors import InputError
from survfuse.files import is_number, read_object
from survfuse.log import count, listing, progress
from survfuse.rna import raw_expression

EVENT_KEY, TIME_KEY = OUTCOME_KEYS
SIMULATION_FILE = "simulation.json"  # written by ``survfuse simulate``; its presence marks a simulated cohort
MODALITIES = ("slide", "rna", "clinical")
MOST_MONTHS = 1e4  # a time beyond this is a slip or a code

FEATURE_SUFFIXES = (".pt", ".h5")
SLIDE_SUFFIXES = (".tif", ".tiff", ".svs", ".ndpi", ".mrxs")
MASK_SUFFIXES = (".tif", ".tiff", ".mha")

# Spellings of the CSV's columns, in lower case.
_COLUMNS = {
    "case_id": ("case_id",),
    "time": ("time", "time_months", "time_to_prog_or_fuend"),
    "event": ("progression", "event"),
    "slide_id": ("slide_id",),
}
Outcome = tuple[bool, float]  # event, months


@dataclass(frozen=True)
class Cohort:
    """n patients with outcomes, in the order of their ids. A modality that was not asked for is None or empty."""

    ids: tuple[str, ...]
    times: NDArray[np.float64]  # [n] months
    events: NDArray[np.bool_]  # [n]
    bags: tuple[Bag, ...] | None  # n, each of all the patient's slides
    genes: tuple[str, ...]
    expression: NDArray[np.float64] | None  # [n, G] as in the files, NaN where a gene is absent
    clinical: tuple[Mapping[str, Any], ...]  # without the outcome
    simulated: bool
    encoder: str | None  # of the tile features, where a file states it


def read_cohort(
    root: Path,
    cache: Path,
    outcomes: Path | None = None,
    modalities: Sequence[str] = MODALITIES,
    with_outcomes: bool = True,
) -> Cohort:
    """Read every patient under ``root``, in either layout.

    ``cache`` is a folder for what ``survfuse.bags`` keeps; ``outcomes`` a CSV with columns case_id, time (months) and
    event, in any of their spellings; files of modalities not in ``modalities`` are not looked at. Without
    ``with_outcomes`` none is asked for: times are NaN and events False. Raises one
    InputError that lists everything that is wrong with any patient or file.
    """
    if not modalities or not set(modalities) <= set(MODALITIES):
        raise InputError(f"expected modalities among {', '.join(MODALITIES)}, found {', '.join(modalities) or 'none'}")
    layout, problems = _find_layout(root), _Problems()
    table = _outcomes_table(root, layout, outcomes, problems)
    ids = _patients(root, layout, table, modalities, problems)
    if not ids and not problems.found:
        raise InputError(f"{root}: expected patients as {layout.clinical.format(id='<id>')}, found none")
    if layout is PUBLISHED:
        _report_misplaced(root, ids, modalities, problems)
    slides = _slides(root, layout, ids, table, problems) if "slide" in modalities else {}

    reader = _Reader(root, layout, table, problems, modalities, with_outcomes)
    bags: dict[str, Bag] = {}
    for name in progress(ids, len(ids), "reading"):
        reader.read(name)
        if slides.get(name):
            with problems.of(name):
                bags[name] = open_bag(slides[name], cache)
    encoder = _check_alike(bags, problems)
    problems.raise_any(root)
    genes, expression = reader.expression.matrix() if "rna" in modalities else ((), None)
    return Cohort(
        ids=ids,
        times=np.array([reader.outcomes[name][1] if with_outcomes else np.nan for name in ids]),
        events=np.array([with_outcomes and reader.outcomes[name][0] for name in ids]),
        bags=tuple(bags[name] for name in ids) if "slide" in modalities else None,
        genes=genes,
        expression=expression,
        clinical=tuple(reader.clinical.get(name, {}) for name in ids),
        simulated=(root / SIMULATION_FILE).exists(),
        encoder=encoder,
    )


def patient_of(stem: str, ids: Iterable[str]) -> str | None:
    """Which of ``ids`` a slide's file belongs to: the longest that stands before ``_HE`` at the start of ``stem``.

    What follows ``_HE`` numbers or names one of several slides.

    >>> patient_of("3A_001_HE_2", ["3A", "3A_001"])
    '3A_001'
    """
    begun = (name for name in ids if stem.startswith(f"{name}_HE") and _NUMBERED.fullmatch(stem[len(name) + 3 :]))
    return max(begun, key=len, default=None)


_NUMBERED = re.compile(r"(?![A-Za-z]).*")  # "_HEALTHY" is another word


def misplaced(folder: Path, ids: Iterable[str]) -> list[Path]:
    """Slides and masks in data/<id> that by their names belong to another patient."""
    return [
        path
        for path in _visible(folder)
        if path.suffix.lower() in {*SLIDE_SUFFIXES, *MASK_SUFFIXES}
        and "_HE" in path.stem
        and patient_of(path.stem, ids) != folder.name
    ]


@dataclass(frozen=True)
class _Layout:
    """Where files lie under the root; {id} stands for the patient's."""

    clinical: str
    expression: str
    features: tuple[str, ...]  # folders; of two files of one slide in different ones, the first folder's is read


PUBLISHED = _Layout("data/{id}/{id}_CD.json", "data/{id}/{id}_RNA.json", ("features/features",))
# CLAM writes the same features into both folders; torch files can be mapped as they lie.
REFERENCE = _Layout("clinics/{id}_CD.json", "seqs/{id}_RNA.json", ("pt_files", "h5_files"))


def _find_layout(root: Path) -> _Layout:
    theirs = [name for name in ("clinics", "seqs", *REFERENCE.features) if (root / name).is_dir()]
    published = (root / "data").is_dir()
    if published and theirs:
        raise InputError(f"{root}: both data and {', '.join(theirs)} are there; expected the folders of one layout")
    if not published and not theirs:
        raise InputError(
            f"{root}: expected patients as folders data/<id>, or in folders clinics, seqs and pt_files; found neither"
        )
    return PUBLISHED if published else REFERENCE


def _visible(folder: Path) -> list[Path]:
    """What is in a folder, sorted; hidden files are other programs' leavings."""
    return sorted(path for path in folder.glob("*") if not path.name.startswith("."))


@dataclass
class _Problems:
    """Everything found wrong so far: the patient, where it is one's, and what it is."""

    found: list[tuple[str | None, str]] = field(default_factory=list)

    def add(self, patient: str | None, text: str) -> None:
        self.found.append((patient, text))

    @contextmanager
    def of(self, patient: str | None) -> Iterator[None]:
        """Keep an InputError of the block as a problem of ``patient``."""
        try:
            yield
        except InputError as error:
            self.add(patient, str(error))

    def raise_any(self, root: Path) -> None:
        """Raise InputError that lists all problems, patient by patient, if there are any."""
        if not self.found:
            return
        ordered = sorted(self.found, key=lambda problem: problem[0] or "")
        texts = [f"{patient}: {text}" if patient else text for patient, text in ordered]
        patients = len({patient for patient, _ in self.found if patient})
        unusable = f", {count(patients, 'patient')} cannot be used" if patients else ""
        raise InputError(f"{root}: {count(len(texts), 'problem')}{unusable}: {'; '.join(texts)}")


@dataclass
class _Table:
    """What a CSV states."""

    name: str  # empty where there is no CSV
    outcomes: dict[str, Outcome | None] = field(default_factory=dict)  # None: stated, but not usable
    slides: dict[str, str] = field(default_factory=dict)  # slide's stem → patient
    readable: bool = True

    def answers_for(self, patient: str) -> bool:
        """Whether a row states the patient's outcome, or one may that cannot be read and was reported."""
        return patient in self.outcomes or not self.readable


def _outcomes_table(root: Path, layout: _Layout, given: Path | None, problems: _Problems) -> _Table:
    """What the CSV ``given`` states, or the one at the root of the reference's layout; empty where there is none."""
    found = [path for path in _visible(root) if path.suffix.lower() == ".csv"] if layout is REFERENCE else []
    tables = [given] if given else found
    if len(tables) > 1:
        names = listing(path.name for path in tables)
        problems.add(None, f"expected one CSV of outcomes, found {names}; name the one to read")
        return _Table(names, readable=False)
    return _read_table(tables[0], problems) if tables else _Table("")


def _read_table(path: Path, problems: _Problems) -> _Table:
    table = _Table(path.name)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            header = next(lines, [])
            places = _column_places(path.name, header)
            for cells in lines:
                if any(cell.strip() for cell in cells):
                    _add_row(table, lines.line_num, cells, len(header), places, problems)
    except InputError as error:
        problems.add(None, str(error))
    except (UnicodeDecodeError, csv.Error) as cause:
        problems.add(None, f"{path.name}: cannot be read as CSV ({cause})")
    except OSError as cause:
        problems.add(None, f"{path}: cannot be read ({cause.strerror or cause})")
    else:
        return table
    table.readable = False
    return table


def _column_places(name: str, header: list[str]) -> dict[str, int]:
    """Where each known column stands; raises InputError for one that is missing or is there twice."""
    places = {}
    for column, spellings in _COLUMNS.items():
        found = [place for place, cell in enumerate(header) if cell.strip().lower() in spellings]
        if len(found) > 1 or (not found and column != "slide_id"):
            problem = "is there more than once" if found else f"is missing (found {listing(header) or 'no columns'})"
            raise InputError(f"{name}: the column {' or '.join(spellings)} {problem}")
        if found:
            places[column] = found[0]
    return places


def _add_row(
    table: _Table, line: int, cells: list[str], width: int, places: Mapping[str, int], problems: _Problems
) -> None:
    where = f"{table.name}, line {line}"
    if len(cells) != width:
        problems.add(None, f"{where}: expected {width} cells, found {len(cells)}")
        return
    row = {column: cells[place].strip() for column, place in places.items()}
    name = row["case_id"]
    if not name:
        problems.add(None, f"{where}: no case_id")
        return
    outcome: Outcome | None = None
    with problems.of(name):
        event, time = _as_number(row["event"]), _as_number(row["time"])
        outcome = (_event(f"{where}: event", event), _months(f"{where}: time", time))
    before = table.outcomes.setdefault(name, outcome)
    if None not in (before, outcome) and before != outcome:
        problems.add(name, f"{where}: another outcome than in an earlier line")
    slide = row.get("slide_id", "")
    stem = slide.rsplit(".", 1)[0] if slide.lower().endswith((*FEATURE_SUFFIXES, *SLIDE_SUFFIXES)) else slide
    if stem and table.slides.setdefault(stem, name) != name:
        problems.add(name, f"{where}: the slide {stem} is listed for {table.slides[stem]} as well")


def _as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _event(where: str, value: Any) -> bool:
    if isinstance(value, bool) or value not in (0, 1):
        raise InputError(f"{where}: expected 0 or 1")
    return bool(value)


def _months(where: str, value: Any) -> float:
    if not is_number(value) or not 0 <= value < MOST_MONTHS:
        raise InputError(f"{where}: expected months of at least 0 and below {MOST_MONTHS:,.0f}")
    return float(value)


def _patients(
    root: Path, layout: _Layout, table: _Table, modalities: Sequence[str], problems: _Problems
) -> tuple[str, ...]:
    """Every id that a folder, a file of variables or the CSV names; one that only the CSV names is a problem."""
    if layout is PUBLISHED:
        found = {path.name for path in _visible(root / "data") if path.is_dir()}
        for name in sorted(set(table.outcomes) - found):
            problems.add(name, f"is in {table.name}, but there is no folder data/{name}")
        return tuple(sorted(found))
    found = set(table.outcomes)
    for pattern in (layout.clinical, layout.expression) if "rna" in modalities else (layout.clinical,):
        folder, ending = pattern.split("/{id}")
        for path in _visible(root / folder):
            name = path.name.removesuffix(ending)
            if name not in ("", path.name):
                found.add(name)
            elif path.suffix.lower() == ".json":
                problems.add(None, f"{folder}/{path.name}: expected a name <id>{ending}")
    return tuple(sorted(found))


def _report_misplaced(root: Path, ids: Sequence[str], modalities: Sequence[str], problems: _Problems) -> None:
    """Name files in data/<id> that are called after another patient."""
    endings = ("_CD.json", "_RNA.json") if "rna" in modalities else ("_CD.json",)
    for name in ids:
        folder = root / "data" / name
        strays = misplaced(folder, ids) if "slide" in modalities else []
        strays += [
            path
            for path in _visible(folder)
            if path.name.endswith(endings) and path.name not in {f"{name}{ending}" for ending in endings}
        ]
        for path in strays:
            problems.add(name, f"data/{name}/{path.name}: is called after another patient than its folder")


def _slides(
    root: Path, layout: _Layout, ids: Sequence[str], table: _Table, problems: _Problems
) -> dict[str, list[Path]]:
    """Each patient's feature files, by the CSV's slide_id or else by their names; what fits nobody is a problem."""
    listed = table.slides
    slides: dict[str, list[Path]] = {name: [] for name in ids}
    stems = _feature_files(root, layout, problems)
    for stem, path in stems.items():
        called = patient_of(stem, ids)
        owner = listed.get(stem, called)
        if owner is None:
            problems.add(None, f"{path.parent.name}/{path.name}: no patient of that name; expected <id>_HE*")
        elif called not in (None, owner):
            problems.add(owner, f"{path.name}: is called after {called}")
        elif owner in slides:
            slides[owner].append(path)
    absent = set()
    for stem, name in listed.items():
        # A slide_id that repeats the case_id names no file: the files are found by the patient's name.
        if stem not in stems and name in slides and stem != name:
            problems.add(name, f"no features of the slide {stem}, listed in {table.name}")
            absent.add(name)
    for name in ids:
        if not slides[name] and name not in absent:
            problems.add(name, f"no features {name}_HE*.pt or .h5 in {' or '.join(layout.features)}")
    return slides


def _feature_files(root: Path, layout: _Layout, problems: _Problems) -> dict[str, Path]:
    """Feature files by their stems, sorted. A slide twice in a folder is a problem: which is meant is not plain."""
    stems: dict[str, Path] = {}
    for folder in layout.features:
        for path in _visible(root / folder):
            if path.suffix.lower() not in FEATURE_SUFFIXES:
                continue
            first = stems.setdefault(path.stem, path)
            if first is not path and first.parent == path.parent:
                problems.add(None, f"{folder}: both {first.name} and {path.name}; expected one file a slide")
    return dict(sorted(stems.items()))


@dataclass
class _Reader:
    """Reads patients one at a time; what is wrong with any goes to ``problems``."""

    root: Path
    layout: _Layout
    table: _Table
    problems: _Problems
    modalities: Sequence[str]
    with_outcomes: bool
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    clinical: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    expression: "_Expression" = field(default_factory=lambda: _Expression())

    def read(self, name: str) -> None:
        variables = self._variables(name)
        if variables is not None:
            if self.with_outcomes:
                self._outcome(name, variables)
            if "clinical" in self.modalities:
                self._check_variables(name, variables)
                self.clinical[name] = {key: value for key, value in variables.items() if key not in OUTCOME_KEYS}
        if "rna" in self.modalities:
            path = self.root / self.layout.expression.format(id=name)
            with self.problems.of(name):
                values = _read_present(path)
                with _naming(path):
                    self.expression.add(values)

    def _variables(self, name: str) -> dict[str, Any] | None:
        """The patient's _CD.json, or None where it cannot be read. It may be absent where nothing of it is needed."""
        path = self.root / self.layout.clinical.format(id=name)
        answered = not self.with_outcomes or self.table.answers_for(name)
        if "clinical" not in self.modalities and not path.exists() and answered:
            return {}
        with self.problems.of(name):
            return _read_present(path)
        return None

    def _outcome(self, name: str, variables: Mapping[str, Any]) -> None:
        """Keep the outcome that the CSV and the variables state: one of them at least, and both the same."""
        file = f"{name}_CD.json"
        stated: dict[str, float] = {}
        for key, check in ((EVENT_KEY, _event), (TIME_KEY, _months)):
            if not is_missing(variables.get(key), MISSING_CODES):
                with self.problems.of(name):
                    stated[key] = check(f"{file}: {key}", variables[key])
            elif not self.table.answers_for(name):
                without = f", and {self.table.name} has no row" if self.table.name else ""
                self.problems.add(name, f"{file}: states no {key}{without}")
        row = self.table.outcomes.get(name)
        if row is not None:
            for key, value in zip((EVENT_KEY, TIME_KEY), row, strict=True):
                if not math.isclose(stated.get(key, value), value, rel_tol=1e-9):
                    self.problems.add(name, f"{file}: states another {key} than {self.table.name}")
            self.outcomes[name] = row
        elif len(stated) == 2:
            self.outcomes[name] = (bool(stated[EVENT_KEY]), stated[TIME_KEY])

    def _check_variables(self, name: str, variables: Mapping[str, Any]) -> None:
        for variable, value in variables.items():
            if variable in OUTCOME_KEYS:
                continue
            with self.problems.of(name), _naming(Path(f"{name}_CD.json")):
                if variable in PLAUSIBLE:
                    low, high = PLAUSIBLE[variable]
                    read_number(Numeric(variable, 0.0, 0.0, low, high), value, MISSING_CODES)
                else:
                    read_label(variable, value, MISSING_CODES)


def _read_present(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path.name}: no such file")
    return read_object(path, InputError, literals=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name before the message of an InputError."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from error


class _Expression:
    """Patients' expression as it is read: numbers alone, so that no parsed file is kept."""

    def __init__(self) -> None:
        self._column: dict[str, int] = {}  # gene → its place, in the order of first sight
        self._rows: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []  # places and values of each patient

    def add(self, expression: Mapping[str, Any]) -> None:
        """Add one patient's; raises InputError naming the genes whose values cannot be used."""
        if not expression:
            raise InputError("expected expression values, found none")
        try:
            values = raw_expression(expression, tuple(expression))
        except InputError:
            raise InputError(listing(_unusable(expression))) from None
        places = np.array([self._column.setdefault(gene, len(self._column)) for gene in expression], dtype=np.int64)
        if self._rows and np.array_equal(places, self._rows[-1][0]):
            places = self._rows[-1][0]  # as a rule all patients have the same genes in the same order
        self._rows.append((places, values))

    def matrix(self) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        """Genes in the order of their names, and values [n, G], NaN where a patient lacks one."""
        genes = tuple(sorted(self._column))
        place = np.empty(len(genes), dtype=np.int64)
        place[[self._column[gene] for gene in genes]] = np.arange(len(genes))
        values = np.full((len(self._rows), len(genes)), np.nan)
        for row, (places, found) in enumerate(self._rows):
            values[row, place[places]] = found
        return genes, values


def _unusable(expression: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with each gene that has an unusable value."""
    for gene, value in expression.items():
        try:
            raw_expression({gene: value}, ())
        except InputError as error:
            yield str(error)


def _check_alike(bags: Mapping[str, Bag], problems: _Problems) -> str | None:
    """The encoder that the patients' features are of, where any states it. Names patients unlike the most."""
    _report_odd("features of length", {name: bag.dimension for name, bag in bags.items()}, problems)
    stated = {name: bag.encoder for name, bag in bags.items() if bag.encoder is not None}
    _report_odd("features of encoder", stated, problems)
    return next(iter(stated.values()), None)


def _report_odd(what: str, found: Mapping[str, Hashable], problems: _Problems) -> None:
    usual, *others = [value for value, _ in Counter(found.values()).most_common()] or [None]
    if not others:
        return
    most = sum(value == usual for value in found.values())
    odd = (f"{value} in {listing(name for name in found if found[name] == value)}" for value in others)
    problems.add(None, f"{what} {usual} in {count(most, 'patient')}, but {', '.join(odd)}")
