"""What one member is fitted to, and what fitting gives."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from survfuse.tasks.modalities import Combination
from survfuse.training.folds import Split
from survfuse.training.stacking import MemberRisks


@dataclass(frozen=True)
class Prepared:
    """What one member is fitted to: its split, seed, and every patient's inputs by its own transforms."""

    split: Split
    seed: int
    rna: Tensor | None  # [n, K] float32
    clinical: Tensor | None  # [n, C] float32


@dataclass(frozen=True)
class Fitted:
    """One member's weights at its best step, and what it said of its inner patients on the way there.

    A step is an epoch of a network, or a penalty of a linear model.
    """

    state: dict[str, Tensor]
    best_epoch: int  # from 1; 0 for a linear model
    training: tuple[float, ...]  # loss of each epoch, with dropout; empty for a linear model
    inner: tuple[float, ...]  # loss of the inner patients at each step
    judged: dict[Combination, Tensor]  # [steps, inner patients] their risks at each step


@dataclass(frozen=True)
class TrainedMember:
    """One trained network as its file in the training state holds it."""

    family: str
    split: Split
    fitted: Fitted
    risks: Mapping[Combination, NDArray[np.float64]]  # [n], NaN for the fitted patients

    def scored(self) -> MemberRisks:
        judged = {combination: value.numpy() for combination, value in self.fitted.judged.items()}
        return MemberRisks(self.family, self.split, self.risks, np.array(self.fitted.inner), judged)
