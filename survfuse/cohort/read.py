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

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from survfuse.cohort.bags import Bag, open_bag
from survfuse.cohort.layout import (
    PUBLISHED,
    REFERENCE,
    Layout,
    find_layout,
    patient_ids,
    patients_slides,
    report_misplaced,
    visible_files,
)
from survfuse.cohort.outcomes import Outcome, OutcomesTable, read_event, read_months, read_outcomes_table
from survfuse.cohort.problems import Problems, naming_file
from survfuse.inputs.clinical import Numeric, is_missing, read_label, read_number
from survfuse.inputs.expression import raw_expression
from survfuse.runtime.errors import InputError
from survfuse.runtime.files import read_object
from survfuse.runtime.log import count, listing, progress
from survfuse.tasks.chimera3 import MISSING_CODES, OUTCOME_KEYS, PLAUSIBLE
from survfuse.tasks.modalities import MODALITIES

EVENT_KEY, TIME_KEY = OUTCOME_KEYS
SIMULATION_FILE = "simulation.json"  # written by ``survfuse simulate``; its presence marks a simulated cohort


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

    ``cache`` is a folder for what ``survfuse.cohort.bags`` keeps; ``outcomes`` a CSV with columns case_id, time
    (months) and event, in any of their spellings; files of modalities not in ``modalities`` are not looked at. Without
    ``with_outcomes`` none is asked for: times are NaN and events False. Raises one
    InputError that lists everything that is wrong with any patient or file.
    """
    if not modalities or not set(modalities) <= set(MODALITIES):
        raise InputError(f"expected modalities among {', '.join(MODALITIES)}, found {', '.join(modalities) or 'none'}")
    layout, problems = find_layout(root), Problems()
    table = _outcomes_table(root, layout, outcomes, problems)
    ids = patient_ids(root, layout, table, modalities, problems)
    if not ids and not problems.found:
        raise InputError(f"{root}: expected patients as {layout.clinical.format(id='<id>')}, found none")
    if layout is PUBLISHED:
        report_misplaced(root, ids, modalities, problems)
    slides = patients_slides(root, layout, ids, table, problems) if "slide" in modalities else {}

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


def _outcomes_table(root: Path, layout: Layout, given: Path | None, problems: Problems) -> OutcomesTable:
    """What the CSV ``given`` states, or the one at the root of the reference's layout; empty where there is none."""
    found = [path for path in visible_files(root) if path.suffix.lower() == ".csv"] if layout is REFERENCE else []
    tables = [given] if given else found
    if len(tables) > 1:
        names = listing(path.name for path in tables)
        problems.add(None, f"expected one CSV of outcomes, found {names}; name the one to read")
        return OutcomesTable(names, readable=False)
    return read_outcomes_table(tables[0], problems) if tables else OutcomesTable("")


@dataclass
class _Reader:
    """Reads patients one at a time; what is wrong with any goes to ``problems``."""

    root: Path
    layout: Layout
    table: OutcomesTable
    problems: Problems
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
                with naming_file(path):
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
        for key, check in ((EVENT_KEY, read_event), (TIME_KEY, read_months)):
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
            with self.problems.of(name), naming_file(Path(f"{name}_CD.json")):
                if variable in PLAUSIBLE:
                    low, high = PLAUSIBLE[variable]
                    read_number(Numeric(variable, 0.0, 0.0, low, high), value, MISSING_CODES)
                else:
                    read_label(variable, value, MISSING_CODES)


def _read_present(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path.name}: no such file")
    return read_object(path, InputError, literals=True)


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


def _check_alike(bags: Mapping[str, Bag], problems: Problems) -> str | None:
    """The encoder that the patients' features are of, where any states it. Names patients unlike the most."""
    _report_odd("features of length", {name: bag.dimension for name, bag in bags.items()}, problems)
    stated = {name: bag.encoder for name, bag in bags.items() if bag.encoder is not None}
    _report_odd("features of encoder", stated, problems)
    return next(iter(stated.values()), None)


def _report_odd(what: str, found: Mapping[str, Hashable], problems: Problems) -> None:
    usual, *others = [value for value, _ in Counter(found.values()).most_common()] or [None]
    if not others:
        return
    most = sum(value == usual for value in found.values())
    odd = (f"{value} in {listing(name for name in found if found[name] == value)}" for value in others)
    problems.add(None, f"{what} {usual} in {count(most, 'patient')}, but {', '.join(odd)}")
