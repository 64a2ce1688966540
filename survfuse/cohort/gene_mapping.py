"""Names of genes in tables → approved symbols."""

from collections import Counter
from collections.abc import Sequence

from survfuse.inputs.gene_names import ALIAS, CASE, DATE, ENSEMBL, PREVIOUS, SYMBOL, gene_names
from survfuse.runtime.log import NAMED, counted, listing, stage, warn

_ORDER = (SYMBOL, PREVIOUS, ALIAS, ENSEMBL, DATE, CASE)


def approved_genes(names: Sequence[str], file: str) -> list[str]:
    """The approved symbol of each of ``names`` [G]; a name that no gene or more than one claims stays as it is.

    The log counts how names were found, in which table, and names those that were not.
    """
    table = gene_names()
    found = [table.find(name) for name in names]
    counts = Counter(one.how for one in found if one is not None)
    if set(counts) - {SYMBOL}:
        ways = ", ".join(f"{counts[how]:,} by {how}" for how in _ORDER if counts[how])
        stage("genes", f"{file}: {ways} (table of {table.date}: {table.source})")
    lost = dict.fromkeys(name for name, one in zip(names, found, strict=True) if one is None)
    claimed = [name for name in lost if table.claimants(name)]
    if claimed:
        whose = listing((f"{name}: {' or '.join(table.claimants(name))}" for name in claimed), NAMED)
        warn(f"{file}: {counted(claimed, 'gene')} kept by a name that more than one gene claims ({whose})")
    if unknown := [name for name in lost if name not in set(claimed)]:
        stage("genes", f"{file}: {counted(unknown, 'name')} unknown, kept as they are")
    return [one.symbol if one is not None else name for name, one in zip(names, found, strict=True)]
