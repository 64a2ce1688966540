"""Where units are fitted: on this machine, one after the other.

``train`` accepts any other executor with the same method, such as one for a cluster. A unit is a few names, and ``fit``
is a function of a module, so that both are small to send. ``data`` is in memory, with the cohort's features mapped: an
executor whose workers run elsewhere should be given the cohort's path, so that the workers can open the cohort.
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
        """Yield each unit once with its members when it ends, in any order. An error in ``fit`` is passed on."""
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
        """Yield each unit with its members when it ends."""
        for unit in units:
            yield unit, fit(data, unit, self._device)
