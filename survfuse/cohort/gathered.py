"""What was found of a cohort's patients, wherever it lay."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from survfuse.cohort.outcomes import Outcome
from survfuse.runtime.arrays import Floats


@dataclass
class Gathered:
    """n patients; what is wrong with any is among the problems, so that what they lack is not."""

    ids: Sequence[str]  # n, sorted
    simulated: bool
    slides: Mapping[str, Sequence[Path]] = field(default_factory=dict)  # feature files by patient
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    clinical: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    genes: tuple[str, ...] = ()  # G
    expression: Floats | None = None  # [n, G], NaN where a patient lacks a gene
    coordinates: Mapping[str, Path | None] = field(default_factory=dict)
    vectors: Mapping[str, Sequence[Path]] = field(default_factory=dict)  # files of slide-level vectors by patient
    outcome_variables: tuple[str, ...] = ()  # columns of the clinical table that were named as the outcome's
