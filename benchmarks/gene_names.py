"""Make ``survfuse/inputs/gene_names.tsv.gz``, the table of human genes' names, from an export of HGNC.

    python benchmarks/gene_names.py EXPORT DATE SOURCE

EXPORT is a TSV of the HUGO Gene Nomenclature Committee (HGNC), whose data are public domain (CC0): its complete set
(genenames.org, one row a gene, several names in a cell joined by |), or its BioMart's export with one row for each
combination of a gene's names. DATE and SOURCE say when and where it was had; both are written into the table.
"""

import csv
import gzip
import sys
from pathlib import Path

TABLE = Path(__file__).parents[1] / "survfuse/inputs/gene_names.tsv.gz"
# Columns of the complete set, and of the BioMart's export as biorosetta keeps it.
COLUMNS = {
    "symbol": ("symbol", "symb"),
    "ensembl": ("ensembl_gene_id", "ensg"),
    "previous": ("prev_symbol", "synonym2"),
    "aliases": ("alias_symbol", "synonym1"),
}


def main(export: Path, date: str, source: str) -> None:
    """Write the table; one row a gene, sorted by symbol, so that the same export gives the same bytes."""
    genes: dict[str, dict[str, set[str]]] = {}
    with export.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t")
        places = {name: next(c for c in choices if c in (reader.fieldnames or ())) for name, choices in COLUMNS.items()}
        for row in reader:
            own = genes.setdefault(row[places["symbol"]], {name: set() for name in COLUMNS})
            for name, column in places.items():
                own[name] |= {part.strip() for part in (row[column] or "").split("|") if part.strip()}
    lines = [f"# {source}", f"# {date}", "\t".join(COLUMNS)]
    lines += ["\t".join("|".join(sorted(own[name])) for name in COLUMNS) for _, own in sorted(genes.items())]
    with TABLE.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as packed:
        packed.write(("\n".join(lines) + "\n").encode())
    print(f"{TABLE}: {len(genes):,} genes, {TABLE.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
