"""A worker's own side, in whatever process it lives."""

import os
import socket
from collections.abc import Callable
from typing import Generic

from survfuse.runtime.errors import EnvironmentFailure, SurvfuseError, as_survfuse_error
from survfuse.runtime.log import recorded
from survfuse.workers.work import Attempt, Item, Result, Work, attempted


class Hand(Generic[Item, Result]):
    """Loads what a work needs, once, and does it on one item after the other; prints nothing."""

    def __init__(self, work: Work[Item, Result], device: str, threads: int) -> None:
        """``device`` is as in ``chosen_device``; torch computes on ``threads`` threads."""
        self._work, self._device, self._threads = work, device, threads
        self._do: Callable[[Item, int], Result] | None = None

    def start(self) -> SurvfuseError | None:
        """Load what is needed; returns why that cannot be done, if that was foreseen."""
        import torch

        from survfuse.runtime.device import chosen_device

        with recorded(show=False):
            try:
                # Linear algebra counts its threads by OMP_NUM_THREADS, which whoever started this process has set.
                torch.set_num_threads(self._threads)
                self._do = self._work.start(chosen_device(self._device))
            except Exception as cause:
                known = as_survfuse_error(cause)
                if known is None:
                    raise
                return _elsewhere(known)
        return None

    def run(self, item: Item, lacked: int) -> Attempt[Result]:
        """One attempt at ``item``; the arguments are as in ``attempted``."""
        assert self._do is not None
        return attempted(self._do, item, lacked)


def host_name() -> str:
    """This machine's name, for people."""
    return socket.gethostname() or f"process {os.getpid()}"


def _elsewhere(error: SurvfuseError) -> SurvfuseError:
    """``error`` with the name of the machine, if that is at fault."""
    if isinstance(error, EnvironmentFailure) and not str(error).startswith(host_name()):
        return EnvironmentFailure(f"{host_name()}: {error}")
    return error
