"""How an ensemble is trained: every choice that a user can make, with its default."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from survfuse.inputs.expression import LOG_STANDARDISE
from survfuse.networks.families import Family
from survfuse.runtime.errors import InputError
from survfuse.survival.calibration import CONTINUOUS

NONE, VARIANCE, COX_SCORE = "none", "variance", "cox-score"  # rules by which genes are selected
AUTO = "auto"
# From the simplest to the paper's. A cohort that lacks a modality trains the families that do not need it.
CANDIDATES = (
    "clinical",
    "cox-rna",
    "cox-slide",
    "cox-vector",
    "cox-rna+clinical",
    "cox-vector+clinical",
    "cox",
    "rna+clinical",
    "vector+clinical",
    "bilinear",
)


@dataclass(frozen=True)
class Optimisation:
    """How networks are fitted. The defaults suit a cohort of a few hundred patients.

    Raises InputError for values out of range.
    """

    epochs: int = 300  # at most
    patience: int = 20  # epochs without a better inner loss
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    tiles: int = 32  # drawn from each bag for a step; four times as many, always the same, for the inner loss
    modality_dropout: float = 0.1  # chance that a step hides a patient's modality; 0: no stand-ins are learnt

    def __post_init__(self) -> None:
        if min(self.epochs, self.patience, self.tiles) < 1:
            raise InputError("expected at least 1 epoch, 1 epoch of patience and 1 tile")
        if self.learning_rate <= 0.0 or self.weight_decay < 0.0 or not 0.0 <= self.modality_dropout < 1.0:
            raise InputError(
                "expected a learning rate above 0, a weight decay of at least 0, a modality dropout from 0 to below 1"
            )


@dataclass(frozen=True)
class Protocol:
    """How an ensemble is trained. Raises InputError for values out of range.

    Which families ``fusion`` may name depends on the task, so ``chosen_families`` checks it.
    """

    fusion: str = AUTO  # one family, or the stack of all candidates
    folds: int = 5
    inner: int = 5  # members of each fold; each is stopped by another part of its training patients
    repeats: int = 1  # partitions into folds
    seed: int = 0
    select: str = VARIANCE  # rule by which genes are selected
    genes: int = 5000  # selected at most
    components: int = 256  # principal axes of expression at most; in most cohorts the fitted patients span fewer
    transform: str = LOG_STANDARDISE  # of expression
    calibration: str = CONTINUOUS
    optimisation: Optimisation = field(default_factory=Optimisation)

    def __post_init__(self) -> None:
        if self.folds < 2 or self.inner < 2 or min(self.repeats, self.genes, self.components) < 1:
            raise InputError("expected at least 2 folds, 2 inner parts, 1 repeat, 1 gene and 1 component")
        if not 0 <= self.seed < 2**32:
            raise InputError("expected a seed of at least 0 and below 2^32")

    def chosen_families(self, families: Mapping[str, Family], modalities: Sequence[str]) -> list[str]:
        """Names of the families to train on a cohort that has ``modalities``, among all ``families`` of its task.

        Raises InputError for an unknown ``fusion``, for one that needs a modality that the cohort lacks, and if no
        candidate is left.

        >>> from survfuse.networks.families import families_of
        >>> Protocol().chosen_families(families_of(("slide", "rna", "clinical")), ("rna", "clinical"))
        ['clinical', 'cox-rna', 'cox-rna+clinical', 'rna+clinical']
        """
        if self.fusion != AUTO:
            if self.fusion not in families:
                raise InputError(f"unknown fusion {self.fusion!r}; expected {AUTO}, {', '.join(families)}")
            lacking = set(families[self.fusion].modalities) - set(modalities)
            if lacking:
                raise InputError(f"{self.fusion} needs {', '.join(sorted(lacking))}, which the cohort does not have")
            return [self.fusion]
        chosen = [name for name in CANDIDATES if name in families and set(families[name].modalities) <= set(modalities)]
        if not chosen:
            raise InputError("the cohort has no modality that a family could be trained on")
        return chosen
