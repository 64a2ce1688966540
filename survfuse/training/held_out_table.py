"""Each patient's nested held-out prediction, as a table to be evaluated or pooled with others."""

from pathlib import Path

import numpy as np

from survfuse.cohort.read import Cohort
from survfuse.evaluation.summary import HeldOut
from survfuse.runtime.spreadsheet import write_table
from survfuse.training.held_out import held_out_survival
from survfuse.training.protocol import Protocol
from survfuse.training.stacking import Stacked

HELD_OUT_CSV = "heldout.csv"


def write_held_out(folder: Path, cohort: Cohort, protocol: Protocol, stacked: Stacked, held: HeldOut) -> None:
    """Write ``heldout.csv`` into ``folder``: case_id, fold, risk, months, and survival by each year of follow-up.

    ``held`` is what the report judges, of the same ``stacked`` risks; curves are of the same folds, read at whole
    years. Numbers are written in full, so that the report's concordance can be computed from the file.
    """
    years = np.arange(12.0, max(12.0, float(cohort.times.max())) + 1.0, 12.0)
    survival = held_out_survival(cohort, protocol, stacked, years)
    names = [f"{year:g}" for year in years]
    columns = zip(cohort.ids, held.folds, held.risks, held.months, survival, strict=True)
    rows: list[dict[str, str | float]] = [
        {
            "case_id": name,
            "fold": int(fold),
            "risk": float(risk),
            "months": float(months),
            **dict(zip(names, curve.tolist(), strict=True)),
        }
        for name, fold, risk, months, curve in columns
    ]
    write_table(folder / HELD_OUT_CSV, rows)
