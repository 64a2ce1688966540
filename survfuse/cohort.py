"""Many patients with outcomes, read from CHIMERA's published layout.

data/<id>/<id>_CD.json               clinical variables and the outcome
data/<id>/<id>_RNA.json              gene symbol → expression
features/features/<id>_HE.pt         tile features [N, D]
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from survfuse.clinical import MISSING_CODES, OUTCOME_KEYS, PLAUSIBLE, Numeric, is_missing, read_number
from survfuse.errors import InputError
from survfuse.featurefile import read_features
from survfuse.files import read_object
from survfuse.log import count, progress
from survfuse.rna import raw_expression

EVENT_KEY, TIME_KEY = OUTCOME_KEYS
SIMULATION_FILE = "simulation.json"  # written by ``survfuse simulate``; its presence marks a simulated cohort


@dataclass(frozen=True)
class Cohort:
    """n patients, one slide each."""

    ids: tuple[str, ...]
    times: NDArray[np.float64]  # [n] months
    events: NDArray[np.bool_]  # [n]
    bags: tuple[Tensor, ...]  # n × [N, D] float32
    genes: tuple[str, ...]
    expression: NDArray[np.float64]  # [n, G] as in the files, NaN where a gene is absent
    clinical: tuple[Mapping[str, Any], ...]  # without the outcome
    simulated: bool


def read_cohort(root: Path) -> Cohort:
    """Read every patient under ``root``; raises InputError that lists all problems found, patient by patient."""
    folders = sorted(path for path in (root / "data").glob("*") if path.is_dir())
    if not folders:
        raise InputError(f"{root}: expected patients as folders data/<id>, found none")
    patients, problems = [], []
    for folder in progress(folders, len(folders), "reading"):
        try:
            patients.append(_read_patient(root, folder.name))
        except InputError as error:
            problems.append(f"{folder.name}: {error}")
    if problems:
        raise InputError(f"{root}: {count(len(problems), 'patient')} cannot be used: {'; '.join(problems)}")
    lengths = {patient.bag.shape[1] for patient in patients}
    if len(lengths) > 1:
        raise InputError(f"{root}: features of different lengths: {sorted(lengths)}")
    genes = tuple(sorted({gene for patient in patients for gene in patient.expression}))
    return Cohort(
        ids=tuple(folder.name for folder in folders),
        times=np.array([patient.time for patient in patients]),
        events=np.array([patient.event for patient in patients]),
        bags=tuple(patient.bag for patient in patients),
        genes=genes,
        expression=np.stack([raw_expression(patient.expression, genes) for patient in patients]),
        clinical=tuple(patient.clinical for patient in patients),
        simulated=(root / SIMULATION_FILE).exists(),
    )


@dataclass(frozen=True)
class _Patient:
    time: float
    event: bool
    bag: Tensor
    expression: Mapping[str, Any]
    clinical: Mapping[str, Any]


def _read_patient(root: Path, name: str) -> _Patient:
    variables = read_object(root / "data" / name / f"{name}_CD.json", InputError)
    event, time = (variables.get(key) for key in (EVENT_KEY, TIME_KEY))
    if isinstance(event, bool) or event not in (0, 1):
        raise InputError(f"{EVENT_KEY}: expected 0 or 1")
    if isinstance(time, bool) or not isinstance(time, (int, float)) or is_missing(time, ("-1",)) or not 0 <= time < 1e4:
        raise InputError(f"{TIME_KEY}: expected months of at least 0")
    for variable, (low, high) in PLAUSIBLE.items():
        read_number(Numeric(variable, 0.0, 0.0, low, high), variables.get(variable), MISSING_CODES)
    expression = read_object(root / "data" / name / f"{name}_RNA.json", InputError)
    raw_expression(expression, ())  # every value is checked here, where the patient is known
    return _Patient(
        time=float(time),
        event=bool(event),
        bag=read_features(root / "features" / "features" / f"{name}_HE.pt").values,
        expression=expression,
        clinical={key: value for key, value in variables.items() if key not in OUTCOME_KEYS},
    )
