"""What workers do with each of many items, and what becomes of an item."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from survfuse.runtime.errors import SurvfuseError, as_survfuse_error, memory_ran_out
from survfuse.runtime.log import Record, recorded

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
Item_contra = TypeVar("Item_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)


class Work(Protocol[Item_contra, Result_co]):
    """Something to be done with each of many items, in this process, in others or on other machines.

    It is pickled on its way there, and so are items and results: none of them holds what a worker can read from files.
    """

    def start(self, device: "torch.device") -> Callable[[Item_contra, int], Result_co]:
        """Load what all items need, once for each worker, which computes on ``device``.

        The function returned takes an item, and how many earlier attempts at it may have ended for lack of memory. Both
        raise SurvfuseError: EnvironmentFailure where another worker may do better.
        """
        ...


@dataclass(frozen=True)
class Attempt(Generic[Result]):
    """One attempt at one item: its result, or why there is none; and what was logged."""

    result: Result | None
    error: SurvfuseError | None
    said: Record
    seconds: float | None  # None if the worker died
    lacked_memory: bool = False

    def checked(self) -> Result:
        """The result; raises the error if there is none."""
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result


@dataclass(frozen=True)
class Ended(Generic[Item, Result]):
    """What became of one item: the last attempt at it, the name of the node, and the number of attempts."""

    item: Item
    last: Attempt[Result]
    node: str = ""
    attempts: int = 1


def attempted(do: Callable[[Item, int], Result], item: Item, lacked: int, show: bool = False) -> Attempt[Result]:
    """Do the work on ``item``; foreseen errors become part of the attempt, others are raised. ``show`` prints its log.

    ``lacked`` earlier attempts may have ended for lack of memory.
    """
    started = time.monotonic()
    with recorded(show) as said:
        try:
            result = do(item, lacked)
        except Exception as cause:
            known = as_survfuse_error(cause)
            if known is None:
                raise
            origin = cause.__cause__ or cause
            lacking = memory_ran_out(cause) or memory_ran_out(origin)
            return Attempt(None, known, said, time.monotonic() - started, lacking)
    return Attempt(result, None, said, time.monotonic() - started)
