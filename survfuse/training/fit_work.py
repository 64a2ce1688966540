"""What a worker does with a unit of training: its trained members."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import torch

from survfuse.training.fit_unit import fit_unit, read_slides
from survfuse.training.member import TrainedMember
from survfuse.training.training_data import TrainingData
from survfuse.training.work_units import WorkUnit
from survfuse.workers.executor import Executor, each_result


@dataclass(frozen=True)
class FitWork:
    """Fits units of ``data``, whose features are read where they lie."""

    data: TrainingData

    def start(self, device: torch.device) -> Callable[[WorkUnit, int], list[TrainedMember]]:
        """Nothing needs to be loaded beforehand."""
        return lambda unit, _: fit_unit(self.data, unit, device)


def fitted(
    executor: Executor, data: TrainingData, units: Sequence[WorkUnit]
) -> Generator[tuple[WorkUnit, list[TrainedMember]], None, None]:
    """Each of ``units`` with its members when it ends, as ``each_result`` gives them."""
    if executor.is_here:
        read_slides(data, units, executor.device)
    return each_result(executor, FitWork(data), units)
