"""A simulated cohort written as the tables that people have: the same patients, spelt otherwise."""

import csv
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from survfuse.cohort.simulation_file import SIMULATION_FILE
from survfuse.cohort.table_paths import CohortTables
from survfuse.inputs.gene_names import gene_names
from survfuse.tasks.chimera3 import TASK

EVENT, TIME = TASK.outcome.keys
DAYS = 30.4375  # a month


def patients_of(root: Path) -> dict[str, dict[str, object]]:
    """Patient → clinical variables with the outcome, of a cohort in the published layout."""
    files = sorted(root.glob("data/*/*_CD.json"))
    return {path.parent.name: json.loads(path.read_text()) for path in files}


def expression_of(root: Path) -> dict[str, dict[str, float]]:
    """Patient → gene → expression."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(root.glob("data/*/*_RNA.json"))}


def write_rows(path: Path, rows: Sequence[Sequence[object]], separator: str = ",", decimal: str = ".") -> Path:
    """A text table of ``rows``, numbers with ``decimal`` as their point."""
    spelt = [
        [str(x).replace(".", decimal) if isinstance(x, float) else "" if x is None else x for x in r] for r in rows
    ]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=separator, lineterminator="\n").writerows(spelt)
    return path


def clinical_rows(patients: Mapping[str, Mapping[str, object]]) -> list[list[object]]:
    """Patient and variables without the outcome."""
    names = [name for name in next(iter(patients.values())) if name not in (EVENT, TIME)]
    return [["patient", *names], *([patient, *(own[name] for name in names)] for patient, own in patients.items())]


def ensembl_ids(genes: Sequence[str]) -> list[str]:
    """The genes' Ensembl ids, each with some version; the symbol of a gene without one."""
    table = gene_names()
    ids = {symbol: id_ for id_, symbols in table.ensembl.items() for symbol in symbols}
    return [f"{ids[gene]}.{place % 17 + 1}" if gene in ids else gene for place, gene in enumerate(genes)]


def write_tables(
    root: Path, folder: Path, separator: str = ";", decimal: str = ",", names: Callable[..., list[str]] = ensembl_ids
) -> tuple[CohortTables, Path]:
    """The cohort at ``root`` as tables in ``folder``, and its outcomes: in days, Dead or Alive."""
    folder.mkdir()
    shutil.copy(root / SIMULATION_FILE, folder)
    patients, expression = patients_of(root), expression_of(root)
    genes = list(next(iter(expression.values())))
    own = [
        [name, *(float(expression[p][gene]) for p in patients)] for name, gene in zip(names(genes), genes, strict=True)
    ]
    files = [[name, str(root / "features/features" / f"{name}_HE.pt")] for name in patients]
    outcomes = [[name, v[TIME] * DAYS, "Dead" if v[EVENT] else "Alive"] for name, v in patients.items()]
    tables = CohortTables(
        write_rows(folder / "slides.csv", [["patient", "file"], *files], separator),
        write_rows(folder / "clinical.csv", clinical_rows(patients), separator, decimal),
        write_rows(folder / "expression.csv", [["gene", *patients], *own], separator, decimal),
    )
    return tables, write_rows(folder / "outcomes.csv", [["patient", "time", "event"], *outcomes], separator, decimal)
