"""Several columns of one gene, merged into one."""

from collections.abc import Sequence

import numpy as np

from survfuse.cohort.table_paths import DUPLICATES, MAX, MEAN
from survfuse.inputs.gene_names import gene_names
from survfuse.runtime.arrays import Floats
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import counted, stage


def merged_genes(genes: Sequence[str], values: Floats, how: str | None, file: str) -> tuple[tuple[str, ...], Floats]:
    """Distinct ``genes``, sorted, and their ``values`` [n, genes], those of one gene merged patient by patient.

    ``how`` is one of DUPLICATES; missing values are left out, and a gene without any stays missing (NaN). Raises
    InputError that names the genes with several columns if ``how`` is None, and names that more than one gene claims:
    two such columns may be of different genes.
    """
    places: dict[str, list[int]] = {}
    for place, gene in enumerate(genes):
        places.setdefault(gene, []).append(place)
    own = tuple(sorted(places))
    repeated = [gene for gene in own if len(places[gene]) > 1]
    merged = values[:, [places[gene][0] for gene in own]]
    if not repeated:
        return own, merged
    if claimed := [gene for gene in repeated if len(gene_names().claimants(gene)) > 1]:
        raise InputError(
            f"{counted(claimed, 'name')} of several genes with more than one row or column; give each its gene's symbol"
        )
    if how is None:
        raise InputError(
            f"{counted(repeated, 'gene')} with more than one row or column; say with --duplicates how to merge "
            f"them: {', '.join(DUPLICATES)}"
        )
    column = {gene: place for place, gene in enumerate(own)}
    for gene in repeated:
        merged[:, column[gene]] = _merged(values[:, places[gene]], how)
    rows = sum(len(places[gene]) for gene in repeated)
    stage("genes", f"{file}: {rows:,} of {counted(repeated, 'gene')} merged to their {how}")
    return own, merged


def _merged(values: Floats, how: str) -> Floats:
    """One value a patient [n] of several [n, k]; missing ones are left out."""
    present = ~np.isnan(values)
    if how == MAX:
        largest: Floats = np.fmax.reduce(values, axis=1)
        return largest
    sums = np.where(present, values, 0.0).sum(axis=1)
    numbers = present.sum(axis=1)
    divisor = numbers if how == MEAN else np.minimum(numbers, 1)
    merged: Floats = np.divide(sums, divisor, out=np.full(len(values), np.nan), where=divisor > 0)
    return merged
