"""What one member is fitted to, and what fitting gives."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from survfuse.networks.families import Family
from survfuse.runtime.arrays import Floats
from survfuse.tasks.modalities import Combination
from survfuse.training.folds import Split
from survfuse.training.stacking import MemberRisks


@dataclass(frozen=True)
class Prepared:
    """What one member is fitted to: its split, its seed, and every patient's inputs by its own maps."""

    split: Split
    seed: int
    inputs: Mapping[str, Tensor]  # [n, width] float32 by modality; not the slide, whose tiles are read from bags


@dataclass(frozen=True)
class Fitted:
    """One member's weights at its best step, and its risks of its inner patients at every step.

    A step is an epoch of a network, or a pair of penalties of a linear model.
    """

    state: dict[str, Tensor]
    best_epoch: int  # from 1; 0 for a linear model
    training: tuple[float, ...]  # loss of each epoch, with dropout; empty for a linear model
    inner: tuple[float, ...]  # loss of the inner patients at each step
    risks_by_step: dict[Combination, Tensor]  # [steps, inner patients]
    penalty: float | None = None  # of a linear model


@dataclass(frozen=True)
class TrainedMember:
    """One trained network with its risks of the cohort's patients."""

    family: Family
    split: Split
    fitted: Fitted
    risks: Mapping[Combination, Floats]  # [n], NaN for the fitted patients

    def member_risks(self) -> MemberRisks:
        """What stacking needs of the member."""
        by_step = {combination: value.numpy() for combination, value in self.fitted.risks_by_step.items()}
        return MemberRisks(self.family, self.split, self.risks, np.array(self.fitted.inner), by_step)
