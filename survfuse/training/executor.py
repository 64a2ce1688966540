"""Where units are fitted: on this machine, one after the other.

Another executor, such as one for a cluster, is given to ``train`` and has the same method. A unit is a few names, and
``fit`` is a function of a module, so that both are small to send. ``data`` is in memory, with the cohort's features
mapped: an executor whose workers are elsewhere is made with the cohort's path, and they open the cohort there.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch

from survfuse.training.member import TrainedMember
from survfuse.training.training_data import TrainingData
from survfuse.training.work_units import WorkUnit

Fit = Callable[[TrainingData, WorkUnit, torch.device], list[TrainedMember]]
Results = Iterator[tuple[WorkUnit, list[TrainedMember]]]


class Executor(Protocol):
    """Fits units somewhere."""

    @property
    def device(self) -> torch.device:
        """The kind of device that units are fitted on."""
        ...

    def results(self, fit: Fit, data: TrainingData, units: Sequence[WorkUnit]) -> Results:
        """Each unit with its members, as it ends: in any order, each once. An error of ``fit`` is passed on."""
        ...


class LocalExecutor:
    """Fits units on this machine, in their order."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @property
    def device(self) -> torch.device:
        """The device that units are fitted on."""
        return self._device

    def results(self, fit: Fit, data: TrainingData, units: Sequence[WorkUnit]) -> Results:
        """Each unit with its members, as it ends."""
        for unit in units:
            yield unit, fit(data, unit, self._device)
