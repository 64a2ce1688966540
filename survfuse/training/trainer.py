"""From a cohort to an ensemble's members: every family on every split, resumable.

What follows from the members' risks (weights, scales, calibration, the bundle, the report) is in ``train``.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from survfuse.runtime.log import count, progress, stage
from survfuse.training.fit_work import fitted
from survfuse.training.member import TrainedMember
from survfuse.training.state import TrainingState
from survfuse.training.training_data import TrainingData
from survfuse.training.work_units import WorkUnit, work_units
from survfuse.workers.executor import Executor


@dataclass(frozen=True)
class Trainer:
    """The data, the state that keeps finished members, and the executor that fits the others."""

    data: TrainingData
    state: TrainingState
    executor: Executor

    def members(self) -> list[TrainedMember]:
        """Every family's member of every split, family by family, trained now or read from an earlier run's state.

        The order in which units finish does not matter: all members are read back from the state.
        """
        every = work_units(self.data)
        missing = [unit for unit in every if not self.state.holds(unit)]
        total, left = _members(every), _members(missing)
        if left < total:
            stage("resumed", f"{count(total - left, 'member')} of {total} already trained")
        with closing(fitted(self.executor, self.data, missing)) as results:
            for _, members in progress(results, left, "training", lambda result: len(result[1])):
                self.state.write(members)
                stage("trained", _summary(members))
        return [member for unit in every for member in self.state.read(unit)]


def _members(some: Sequence[WorkUnit]) -> int:
    return sum(len(unit.splits) for unit in some)


def _summary(members: Sequence[TrainedMember]) -> str:
    """One line on the members of a unit."""
    folds = ", ".join(sorted({f"{member.split.repeat + 1}.{member.split.fold + 1}" for member in members}))
    best = [member.fitted.best_epoch for member in members]
    note = f"best epochs {min(best)} to {max(best)}"
    if members[0].family.linear:
        note = f"penalty {members[0].fitted.penalty:g}"
    return f"{members[0].family.name}: {count(len(members), 'member')} of fold {folds}; {note}"
