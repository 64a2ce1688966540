"""The numbers of a table of expression, with what names its rows; read from text or a workbook."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from survfuse.cohort.decimal_commas import have_commas
from survfuse.cohort.headings import NAMING, PATIENT_COLUMNS, plain_name
from survfuse.cohort.problems import Problems
from survfuse.cohort.table_files import TableRow, delimited_rows, is_text, read_cells, separator_of, text_of
from survfuse.inputs.clinical import is_missing_word
from survfuse.inputs.expression import LARGEST
from survfuse.inputs.gene_names import gene_names
from survfuse.runtime.arrays import Floats
from survfuse.runtime.errors import InputError, unexpected
from survfuse.runtime.files import spelt_number
from survfuse.runtime.log import NAMED, listing, progress

SAMPLE = 50  # rows by which a column is known to hold numbers
# Columns of numbers that are of no patient: cBioPortal's, STAR's as GDC has them, featureCounts'.
NEITHER = frozenset(
    {"entrezgeneid", "entrezid", "unstranded", "strandedfirst", "strandedsecond", "tpmunstranded", "fpkmunstranded"}
    | {"fpkmuqunstranded", "length", "start", "end", "chr", "strand"}
)
# Spellings of the column of genes, as ``plain_name`` gives them.
GENE_COLUMNS = frozenset(
    {"gene", "genes", "geneid", "genename", "genesymbol", "symbol", "hugosymbol", "hgncsymbol", "approvedsymbol"}
    | {"ensembl", "ensemblid", "ensemblgeneid", "ensemblgene", "probe", "probeid", "probeset", "feature", "featureid"}
)


@dataclass(frozen=True)
class Label:
    """A column that may name the rows."""

    heading: str
    cells: list[str]  # of each row


@dataclass(frozen=True)
class Grid:
    """A table's numbers, with what names its rows."""

    labels: list[Label]  # columns of text, and the first one
    columns: tuple[str, ...]  # headings of the numbers' columns
    values: Floats  # [rows, columns]


class _Rows(NamedTuple):
    """A table while it is read."""

    heading: tuple[str, ...]
    rows: Iterator[TableRow]
    number: int  # of rows, about
    decimal_commas: bool  # whether numbers may have them


def text_grid(path: Path, known: Collection[str], problems: Problems) -> Grid:
    """The numbers of a table of text or of a workbook; unusable cells go to ``problems``.

    Raises InputError for a file that cannot be read, without rows, or without a column that may name them.
    """
    source = _rows(path)
    heading, width, rows = source.heading, len(source.heading), source.rows
    sample = list(islice(rows, SAMPLE))
    if not sample:
        raise InputError("expected a row for each gene or patient, found none")
    columns = [[row.cells[place] for row in sample if len(row.cells) == width] for place in range(width)]
    commas = source.decimal_commas and _have_commas(heading, columns)
    wrong = [sum(_is_no_number(cell, commas) for cell in column) for column in columns]
    empty = [place for place in range(width) if place and not heading[place] and not any(columns[place])]
    text, numbers = columns_of(heading, wrong, max(map(len, columns), default=0), known, empty)
    labels = {place: Label(heading[place], []) for place in text}
    values = []
    for row in progress(chain(sample, rows), source.number, "expression"):
        if len(row.cells) != width:
            problems.add(f"expected {width:,} cells, found {len(row.cells):,}", file=path.name, line=row.line)
            continue
        if any(row.cells[place] for place in empty):
            problems.add("a value in a column without a heading", file=path.name, line=row.line)
        for place, label in labels.items():
            label.cells.append(row.cells[place])
        values.append(_numbers(row, numbers, heading, commas, path.name, problems))
    columns_of_numbers = tuple(heading[place] for place in numbers)
    return Grid(list(labels.values()), columns_of_numbers, np.array(values).reshape(-1, len(numbers)))


def _have_commas(heading: Sequence[str], columns: Sequence[Sequence[str]]) -> bool:
    """Whether numbers have decimal commas, in ``columns`` that are not known to hold anything else."""
    others = NEITHER | NAMING | GENE_COLUMNS
    held = [column for name, column in zip(heading, columns, strict=True) if plain_name(name) not in others]
    return have_commas(held)


def _is_no_number(cell: str, commas: bool) -> bool:
    """Whether a cell is neither missing nor a number; one with a point is a number beside ``commas`` as well."""
    return cell_number(cell, commas) is None and cell_number(cell, False) is None


def columns_of(
    heading: Sequence[str], wrong: Sequence[int], rows: int, known: Collection[str], empty: Collection[int] = ()
) -> tuple[list[int], list[int]]:
    """(columns that may name the rows, columns of numbers), by how many of some ``rows`` are ``wrong`` as numbers.

    Names may be in the first column, and in those of which most cells are no numbers. Not in a patient's, whose ids are
    ``known``, or a gene's: what is no number there is wrong. Columns that are ``empty`` are neither. Raises InputError
    if no column may name the rows, for no column of numbers, and for one without a heading.
    """
    ids = set(known)
    text = [place for place, number in enumerate(wrong) if _names_rows(place, heading[place], number, rows, ids)]
    text = [place for place in text if place not in set(empty)]
    neither = {place for place, name in enumerate(heading) if plain_name(name) in NEITHER} | set(text) | set(empty)
    numbers = [place for place in range(len(heading)) if place not in neither]
    if not text:
        raise InputError("expected a column that names the rows, found none")
    if not numbers:
        raise InputError(f"expected columns of numbers beside {listing(filter(None, heading))}, found none")
    if nameless := [place + 1 for place in numbers if not heading[place]]:
        raise InputError(f"numbers without a heading in column {listing(map(str, nameless))}")
    return text, numbers


def _names_rows(place: int, name: str, wrong: int, rows: int, ids: Collection[str]) -> bool:
    if name in ids:
        return False
    if place == 0:
        named = plain_name(name) in {"", *PATIENT_COLUMNS, *GENE_COLUMNS}
        return named or wrong > 0 or not gene_names().claimants(name)
    return 2 * wrong > rows and not gene_names().claimants(name)


def _rows(path: Path) -> _Rows:
    """A table's heading and its rows, which are not kept; raises InputError for a file that cannot be read."""
    if not is_text(path):
        cells = read_cells(path)
        width = len(cells.heading)
        filled = (TableRow(row.line, row.cells + ("",) * (width - len(row.cells))) for row in cells.rows)
        return _Rows(cells.heading, filled, len(cells.rows), False)
    text = text_of(path)
    separator = separator_of(text)
    lines = (row for row in delimited_rows(text, separator) if any(row.cells))
    heading = next(lines, TableRow(1, ())).cells
    first = next(lines, None)
    rows: Iterator[TableRow] = chain([first] if first is not None else [], lines)
    if first is not None and len(first.cells) == len(heading) + 1:
        if first.cells[-1]:
            heading = ("", *heading)  # R names no column of row names
        else:
            rows = (TableRow(row.line, row.cells[:-1] if not row.cells[-1] else row.cells) for row in rows)
    return _Rows(heading, rows, text.count("\n"), separator != ",")


def _numbers(
    row: TableRow, places: Sequence[int], heading: Sequence[str], commas: bool, file: str, problems: Problems
) -> Floats:
    """The numbers in some of a row's cells, NaN for missing ones; what is neither goes to ``problems``."""
    cells = [row.cells[place] for place in places]
    together = "".join(cells)
    try:
        # float takes 1_0, digits of every script, and a point beside decimal commas.
        if "_" in together or not together.isascii() or (commas and "." in together):
            raise ValueError
        values = np.array(list(map(float, cells)))
    except ValueError:
        found = [cell_number(cell, commas) for cell in cells]
        values = np.array([np.nan if number is None else number for number in found])
        wrong = [place for place, number in enumerate(found) if number is None]
    else:
        wrong = np.flatnonzero(~np.isfinite(values) | (np.abs(values) > LARGEST)).tolist()
        wrong = [place for place in wrong if cell_number(cells[place], commas) is None]
    for place in wrong[:NAMED]:
        with problems.collect(None, file, row.line):
            how = " with a decimal comma" if commas else ""
            raise unexpected(f"{heading[places[place]]}: expected a finite number{how}", cells[place])
    return values


def cell_number(cell: str, commas: bool) -> float | None:
    """The number in a cell, NaN if it is missing, None if it holds anything else."""
    if not cell or is_missing_word(cell):
        return float("nan")
    if commas and "." in cell:
        return None
    number = spelt_number(cell.replace(",", ".") if commas else cell)
    return number if number is not None and abs(number) <= LARGEST else None
