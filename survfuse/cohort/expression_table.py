"""Expression of many patients in one table: genes × patients or patients × genes, found out."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from survfuse.cohort.duplicate_genes import merged_genes
from survfuse.cohort.expression_grid import GENE_COLUMNS, Grid, Label, text_grid
from survfuse.cohort.expression_parquet import parquet_grid
from survfuse.cohort.gene_mapping import approved_genes
from survfuse.cohort.headings import PATIENT_COLUMNS, plain_name
from survfuse.cohort.problems import Problems
from survfuse.cohort.table_files import is_parquet
from survfuse.inputs.gene_names import gene_names
from survfuse.runtime.arrays import Floats
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import NAMED, count, counted, listing, stage, warn

_TRIED = 400  # names by which genes are recognised
_FEW_GENES = 0.5  # share of them below which names are not of genes: P53 is one's alias, and a patient's id
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
    grid = (parquet_grid if is_parquet(path) else text_grid)(path, known, problems)
    label, across = _orientation(grid, set(known), set(genes_known))
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


def _orientation(grid: Grid, ids: set[str], genes: set[str]) -> tuple[Label, bool]:
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
    if any(plain_name(label.heading) in GENE_COLUMNS for label in grid.labels):
        return _gene_column(grid), True
    by_label = [len(genes & set(label.cells)) for label in grid.labels]
    if max(by_label) > len(genes & set(grid.columns)):
        return grid.labels[by_label.index(max(by_label))], True
    if genes & set(grid.columns):
        return grid.labels[0], False
    along, below = _share_of_genes(grid.columns), max(_share_of_genes(label.cells) for label in grid.labels)
    if max(along, below) < _FEW_GENES or along == below:
        raise InputError(
            f"cannot tell patients from genes: neither the first row nor a column has known patients or genes; "
            f"call the column of patients {PATIENT_COLUMNS[1]}, or that of genes gene"
        )
    return (_gene_column(grid), True) if below > along else (grid.labels[0], False)


def _gene_column(grid: Grid) -> Label:
    """The column of which most cells are names of genes; the first of several."""
    return max(grid.labels, key=lambda label: _share_of_genes(label.cells))


def _share_of_genes(names: Sequence[str]) -> float:
    """The share of some of ``names`` that are names of genes."""
    some = names[:: max(1, len(names) // _TRIED)]
    return sum(bool(gene_names().claimants(name)) for name in some) / max(1, len(some))
