"""Expression of many patients in one table: genes × patients or patients × genes, found out."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from survfuse.cohort.decimal_commas import with_points
from survfuse.cohort.duplicate_genes import merged_genes
from survfuse.cohort.gene_mapping import approved_genes
from survfuse.cohort.headings import PATIENT_COLUMNS, plain_name
from survfuse.cohort.problems import Problems
from survfuse.cohort.table_files import TableRow, delimited_rows, is_text, read_cells, separator_of, text_of
from survfuse.inputs.clinical import is_missing_word
from survfuse.inputs.expression import LARGEST
from survfuse.inputs.gene_names import gene_names
from survfuse.runtime.arrays import Floats
from survfuse.runtime.errors import InputError, unexpected
from survfuse.runtime.files import spelt_number
from survfuse.runtime.log import NAMED, count, counted, listing, progress, stage, warn

_SAMPLE = 50  # rows by which a column is known to hold numbers
_TRIED = 400  # names by which genes are recognised
_FEW_GENES = 0.5  # share of them below which names are not of genes: P53 is one's alias, and a patient's id
# Columns of numbers that are of no patient: cBioPortal's, STAR's as GDC has them, featureCounts'.
_NEITHER = frozenset(
    {"entrezgeneid", "entrezid", "unstranded", "strandedfirst", "strandedsecond", "tpmunstranded", "fpkmunstranded"}
    | {"fpkmuqunstranded", "length", "start", "end", "chr", "strand"}
)
# Spellings of the column of genes, as ``plain_name`` gives them.
_GENE_COLUMNS = frozenset(
    {"gene", "genes", "geneid", "genename", "genesymbol", "symbol", "hugosymbol", "hgncsymbol", "approvedsymbol"}
    | {"ensembl", "ensemblid", "ensemblgeneid", "ensemblgene", "probe", "probeid", "probeset", "feature", "featureid"}
)
# Counters of aligned reads that HTSeq and STAR write among the genes.
_COUNTERS = frozenset(
    {"N_unmapped", "N_multimapping", "N_noFeature", "N_ambiguous", "__no_feature", "__ambiguous"}
    | {"__too_low_aQual", "__not_aligned", "__alignment_not_unique"}
)


@dataclass(frozen=True)
class ExpressionTable:
    """Expression of n patients."""

    name: str  # of the file
    patients: tuple[str, ...]  # n, distinct
    genes: tuple[str, ...]  # G, distinct and sorted
    values: Floats  # [n, G] as in the file, NaN where a cell is empty or a word for missing


@dataclass(frozen=True)
class _Label:
    """A column that may name the rows."""

    heading: str
    cells: list[str]  # of each row


@dataclass(frozen=True)
class _Grid:
    """A table's numbers, with what names its rows."""

    labels: list[_Label]  # columns of text, and the first one
    columns: tuple[str, ...]  # headings of the numbers' columns
    values: Floats  # [rows, columns]


class _Rows(NamedTuple):
    """A table while it is read."""

    heading: tuple[str, ...]
    rows: Iterator[TableRow]
    number: int  # of rows, about
    decimal_commas: bool  # whether numbers may have them


def read_expression(
    path: Path,
    known: Collection[str],
    duplicates: str | None,
    problems: Problems,
    outcomes: Callable[[Sequence[str]], Collection[str]] = lambda _: (),
    genes_known: Collection[str] = (),
) -> ExpressionTable:
    """The table in a file of any format that ``read_cells`` takes.

    Patients are rows or columns, whichever has ids ``known`` from other tables, or else those that are no genes, those
    ``genes_known`` from a bundle or any. Other columns of text are ignored, and the log names them. Genes get their
    approved symbols (``approved_genes``); rows that are then of one gene are merged by ``duplicates``: max, mean or
    sum. Columns that ``outcomes`` says to be those of outcomes are left out with a warning.

    Raises InputError if it cannot be told which are the patients, and for one gene's several rows without
    ``duplicates``; unusable cells and repeated patients go to ``problems``.
    """
    grid = _grid(path, known, problems)
    label, across = _orientation(grid, set(known), set(genes_known), path.name)
    names = label.cells
    patients, genes, values = (grid.columns, names, grid.values.T) if across else (names, grid.columns, grid.values)
    ignored = [other.heading for other in grid.labels if other is not label and other.heading]
    if ignored:
        stage("expression", f"{path.name}: columns of text, ignored: {listing(ignored, NAMED)}")
    for name, number in Counter(patients).items():
        if number > 1:
            problems.add("more than one column" if across else "more than one row", name, path.name)
    shape = f"{count(len(genes), 'gene')} × {count(len(patients), 'patient')}"
    stage("expression", f"{path.name}: {shape}, {'genes' if across else 'patients'} in rows")
    others = [] if across else [name for name in genes if not gene_names().claimants(name)]  # BCR is a gene as well
    stated = set(outcomes(others))
    if stated:
        warn(f"{path.name}: {counted(sorted(stated), 'column')} of outcomes left out of the genes")
    kept = [place for place, gene in enumerate(genes) if gene and gene not in _COUNTERS and gene not in stated]
    if left := len(genes) - len(kept) - len(stated):
        stage("expression", f"{path.name}: {count(left, 'counter of reads or nameless gene')} left out")
    mapped = approved_genes([genes[place] for place in kept], path.name)
    own, merged = merged_genes(mapped, values[:, kept], duplicates, path.name)
    return ExpressionTable(path.name, tuple(patients), own, merged)


def _orientation(grid: _Grid, ids: set[str], genes: set[str], name: str) -> tuple[_Label, bool]:
    """The column that names the rows, and whether the rows are genes."""
    for label in grid.labels:
        if plain_name(label.heading) in PATIENT_COLUMNS:
            return label, False
    by_label = [len(ids & set(label.cells)) for label in grid.labels]
    across, down = len(ids & set(grid.columns)), max(by_label)
    if across or down:
        if down > across:
            return grid.labels[by_label.index(down)], False
        return _gene_column(grid), True
    if any(plain_name(label.heading) in _GENE_COLUMNS for label in grid.labels):
        return _gene_column(grid), True
    by_label = [len(genes & set(label.cells)) for label in grid.labels]
    if max(by_label) > len(genes & set(grid.columns)):
        return grid.labels[by_label.index(max(by_label))], True
    if genes & set(grid.columns):
        return grid.labels[0], False
    along, below = _share_of_genes(grid.columns), max(_share_of_genes(label.cells) for label in grid.labels)
    if max(along, below) < _FEW_GENES or along == below:
        raise InputError(
            f"{name}: cannot tell patients from genes: neither the first row nor a column has known patients or genes; "
            f"call the column of patients {PATIENT_COLUMNS[1]}, or that of genes gene"
        )
    return (_gene_column(grid), True) if below > along else (grid.labels[0], False)


def _gene_column(grid: _Grid) -> _Label:
    """The column of which most cells are names of genes; the first of several."""
    return max(grid.labels, key=lambda label: _share_of_genes(label.cells))


def _share_of_genes(names: Sequence[str]) -> float:
    """The share of some of ``names`` that are names of genes."""
    some = names[:: max(1, len(names) // _TRIED)]
    return sum(bool(gene_names().claimants(name)) for name in some) / max(1, len(some))


def _grid(path: Path, known: Collection[str], problems: Problems) -> _Grid:
    """The numbers of a table; unusable cells go to ``problems``."""
    source = _rows(path)
    heading, width, rows = source.heading, len(source.heading), source.rows
    sample = list(islice(rows, _SAMPLE))
    if not sample:
        raise InputError(f"{path.name}: expected a row for each gene or patient, found none")
    columns = [[row.cells[place] for row in sample if len(row.cells) == width] for place in range(width)]
    commas = source.decimal_commas and with_points(columns) != columns
    text = [place for place in range(width) if _is_text(place, heading, columns, commas, set(known))]
    numbers = [place for place in range(width) if place not in set(text) and plain_name(heading[place]) not in _NEITHER]
    if not text:
        raise InputError(f"{path.name}: expected a column that names the rows, found none")
    labels = {place: _Label(heading[place], []) for place in text}
    values = []
    for row in progress(chain(sample, rows), source.number, "expression"):
        if len(row.cells) != width:
            problems.add(f"expected {width:,} cells, found {len(row.cells):,}", file=path.name, line=row.line)
            continue
        for place, label in labels.items():
            label.cells.append(row.cells[place])
        values.append(_numbers(row, numbers, heading, commas, path.name, problems))
    columns_of_numbers = tuple(heading[place] for place in numbers)
    return _Grid(list(labels.values()), columns_of_numbers, np.array(values).reshape(-1, len(numbers)))


def _is_text(
    place: int, heading: Sequence[str], columns: Sequence[Sequence[str]], commas: bool, ids: Collection[str]
) -> bool:
    """Whether a column may name the rows: the first one, and those of which most cells are no numbers.

    A patient's or a gene's column is neither: what is no number there is wrong.
    """
    if heading[place] in ids:
        return False
    wrong = sum(_number(cell, commas) is None for cell in columns[place])
    if place == 0:
        named = plain_name(heading[0]) in {"", *PATIENT_COLUMNS, *_GENE_COLUMNS}
        return named or wrong > 0 or not gene_names().claimants(heading[0])
    return 2 * wrong > len(columns[place]) and not gene_names().claimants(heading[place])


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
        if "_" in together or not together.isascii():  # float takes 1_0 and digits of every script
            raise ValueError
        values = np.array(list(map(float, cells)))
    except ValueError:
        found = [_number(cell, commas) for cell in cells]
        values = np.array([np.nan if number is None else number for number in found])
        wrong = [place for place, number in enumerate(found) if number is None]
    else:
        wrong = np.flatnonzero(~np.isfinite(values) | (np.abs(values) > LARGEST)).tolist()
        wrong = [place for place in wrong if _number(cells[place], commas) is None]
    for place in wrong[:NAMED]:
        with problems.collect(None, file, row.line):
            raise unexpected(f"{heading[places[place]]}: expected a finite number", cells[place])
    return values


def _number(cell: str, commas: bool) -> float | None:
    """The number in a cell, NaN if it is missing, None if it holds anything else."""
    if not cell or is_missing_word(cell):
        return float("nan")
    if commas and "." in cell:
        return None
    number = spelt_number(cell.replace(",", ".") if commas else cell)
    return number if number is not None and abs(number) <= LARGEST else None
