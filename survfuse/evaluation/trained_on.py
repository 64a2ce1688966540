"""Which of the patients a model was trained on, as its table of predictions says, and what is said of that."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from survfuse.evaluation.predictions import Predicted
from survfuse.runtime.log import count, counted


@dataclass(frozen=True)
class TrainedOn:
    """What one table says of the patients evaluated."""

    name: str  # of the table
    whose: str  # training patients, in words
    patients: int
    inside: tuple[str, ...]  # whom its model was trained on
    unknown: tuple[str, ...]  # of whom the table does not say

    @property
    def number(self) -> int | None:
        """How many its model was trained on; None if it is known of nobody."""
        return None if len(self.unknown) == self.patients else len(self.inside)

    def in_sample(self) -> str:
        """That some are training patients; empty if none is known to be one."""
        if not self.inside:
            return ""
        return f"IN-SAMPLE: {len(self.inside)} of {count(self.patients, 'patient')} are among {self.whose}."

    def warning(self) -> str:
        """The same with names and what to do, for a reader of the log."""
        if not self.inside:
            return ""
        return (
            f"{counted(self.inside, 'patient', self.patients)} are among {self.whose}: these figures are in-sample, "
            "better than for new patients; --exclude-training leaves them out"
        )

    def not_known(self) -> str:
        """That the table does not say it of some; empty if it says it of all."""
        if not self.unknown:
            return ""
        return (
            f"Of {counted(self.unknown, 'patient')} it is not known whether they are among {self.whose}: the column "
            f"training_patient of {self.name} is missing or empty, so they are not left out."
        )


def trained_on(tables: Sequence[tuple[str, Sequence[Predicted]]], cases: Sequence[str]) -> list[TrainedOn]:
    """What each of the ``tables``, names with predictions [n], says of the ``cases`` [n]."""
    return [
        TrainedOn(
            name,
            "the bundle's training patients" if len(tables) == 1 else f"the training patients of {model} ({name})",
            len(cases),
            tuple(case for case, each in zip(cases, predicted, strict=True) if each.training_patient),
            tuple(case for case, each in zip(cases, predicted, strict=True) if each.training_patient is None),
        )
        for model, (name, predicted) in zip(("this model", "the other model"), tables, strict=False)
    ]


def markers(marked: Sequence[tuple[str, AbstractSet[str]]], cases: AbstractSet[str]) -> str:
    """The tables whose ``marked`` training patients are all ``cases``: those that have all, or else that have some."""
    alone = [name for name, inside in marked if cases <= inside]
    return " and ".join(dict.fromkeys(alone or [name for name, inside in marked if cases & inside]))
