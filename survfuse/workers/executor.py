"""Where a work's items are done: in this process, in one process for each GPU, or on a cluster."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from survfuse.runtime.errors import EnvironmentFailure
from survfuse.runtime.log import recorded
from survfuse.workers.schedule import Schedule
from survfuse.workers.settings import Cluster
from survfuse.workers.shared_folder import SharedFolder, shared_folder
from survfuse.workers.work import Ended, Item, Result, Work, attempted

if TYPE_CHECKING:
    import torch

    from survfuse.workers.ray_crew import RayCluster


class Executor(Protocol):
    """Does a work's items somewhere."""

    @property
    def device(self) -> "torch.device":
        """The kind of device that items are computed on."""
        ...

    @property
    def is_here(self) -> bool:
        """Whether items are done in this process, which then prints what is logged."""
        ...

    @property
    def is_remote(self) -> bool:
        """Whether items may be done on other machines, which may not see the same files."""
        ...

    def connect(self) -> None:
        """Reach what other machines there are, before anything is written; raises EnvironmentFailure if it fails."""
        ...

    def results(self, work: Work[Item, Result], items: Sequence[Item]) -> Generator[Ended[Item, Result], None, None]:
        """Yield each item once, when it has ended, in any order. To be closed: workers end with it.

        An error of the input is part of what became of the item, and so is, on a cluster, a failure of the machine that
        came back on others. Raises EnvironmentFailure if nothing more can be done.
        """
        ...


class LocalExecutor:
    """Does items on this machine: one after the other in this process or, with several devices, in one for each."""

    is_remote = False

    def __init__(self, *devices: "torch.device") -> None:
        self._devices = devices

    @property
    def device(self) -> "torch.device":
        """The first device."""
        return self._devices[0]

    def connect(self) -> None:
        """Nothing: this machine is there."""

    @property
    def is_here(self) -> bool:
        """Whether there is one device."""
        return len(self._devices) == 1

    def results(self, work: Work[Item, Result], items: Sequence[Item]) -> Generator[Ended[Item, Result], None, None]:
        """As in ``Executor``. In this process items keep their order, and a failure of the machine ends the run."""
        if self.is_here:
            yield from self._here(work, items)
            return
        import torch

        from survfuse.workers.processes import processes

        threads = max(1, torch.get_num_threads() // len(self._devices))
        with processes(work, [str(device) for device in self._devices], threads) as crew:
            yield from Schedule(crew, items)

    def _here(self, work: Work[Item, Result], items: Sequence[Item]) -> Generator[Ended[Item, Result], None, None]:
        if not items:
            return
        do = work.start(self.device)
        for item in items:
            attempt = attempted(do, item, 0, show=True)
            if isinstance(attempt.error, EnvironmentFailure):
                raise attempt.error
            yield Ended(item, attempt)


class ClusterExecutor:
    """Does items on a Ray cluster, which is connected to, or started, when it is first needed."""

    is_here, is_remote = False, True

    def __init__(self, cluster: Cluster, device: str | None, until: ExitStack) -> None:
        self._cluster, self._device, self._until = cluster, device, until

    @cached_property
    def _ray(self) -> "RayCluster":
        from survfuse.workers.ray_crew import connected

        return self._until.enter_context(connected(self._cluster, self._device))

    def connect(self) -> None:
        """Connect to the cluster, or start it, if that is still to be done."""
        _ = self._ray

    @property
    def device(self) -> "torch.device":
        """The kind of the workers' devices."""
        import torch

        return torch.device(self._ray.device)

    def results(self, work: Work[Item, Result], items: Sequence[Item]) -> Generator[Ended[Item, Result], None, None]:
        """As in ``Executor``."""
        if items:
            with self._ray.crew(work, len(items)) as crew:
                yield from Schedule(crew, items)


def each_result(
    executor: Executor, work: Work[Item, Result], items: Sequence[Item]
) -> Generator[tuple[Item, Result], None, None]:
    """Each item with its result when it ends; raises what ended one without any. To be closed, as in ``Executor``."""
    with closing(executor.results(work, items)) as results:
        for ended in results:
            yield ended.item, ended.last.checked()


def seen_by_workers(executor: Executor, folder: Path) -> AbstractContextManager[SharedFolder | None]:
    """A context in which workers on other machines can tell whether they see ``folder``; None if there are none."""
    return shared_folder(folder) if executor.is_remote else nullcontext()


@contextmanager
def executor(
    device: str | None = None, cluster: Cluster | None = None, all_gpus: bool = True, say: bool = True
) -> Iterator[Executor]:
    """What does a command's work: ``cluster``, or this machine. Its processes and connections end with the block.

    ``device`` is as in ``chosen_device``; ``all_gpus``: every GPU of this machine rather than one. Without ``say``, the
    warning of a GPU that cannot be used is left to the caller. Raises InputError and EnvironmentFailure for a device or
    a cluster that cannot be used.
    """
    if cluster is None:
        from survfuse.runtime.device import chosen_device, chosen_devices

        with nullcontext() if say else recorded(show=False):
            devices = chosen_devices(device) if all_gpus else (chosen_device(device),)
        yield LocalExecutor(*devices)
        return
    cluster.check(device)
    with ExitStack() as until:
        yield ClusterExecutor(cluster, device, until)
