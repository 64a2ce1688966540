"""Where a command's work is done beside this process, as a user asks for it; neither torch nor Ray is imported."""

import re
from dataclasses import dataclass

from survfuse.runtime.device_choice import requested_device
from survfuse.runtime.errors import InputError, check_extra

LOCAL, AUTO = "local", "auto"
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):([0-9]{1,5})")


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster, and what each worker takes of it.

    ``address`` is ``local``, which starts Ray on this machine alone, or the HOST:PORT of a cluster that runs already;
    ``auto`` is the one at RAY_ADDRESS or else on this machine, as in a job that Ray itself runs.
    ``workers`` is their number (default: as many as there is room for). A worker computes on ``cpus_per_worker``
    threads and, with ``gpus_per_worker`` above 0, on that share of a GPU (default: one GPU if the cluster has any).

    Raises InputError for an address of another form, and for numbers that make no worker.

    >>> Cluster("10.0.0.1:6379", gpus_per_worker=0.5).is_local
    False
    """

    address: str
    workers: int | None = None
    cpus_per_worker: int = 1
    gpus_per_worker: float | None = None

    def __post_init__(self) -> None:
        found = _ADDRESS.fullmatch(self.address)
        if self.address not in (LOCAL, AUTO) and (found is None or not 0 < int(found[2]) < 2**16):
            raise InputError(f"cluster: expected local, auto or HOST:PORT, found {self.address[:80]!r}")
        if self.workers is not None and self.workers < 1:
            raise InputError(f"workers: expected at least 1, found {self.workers}")
        if self.cpus_per_worker < 1:
            raise InputError(f"CPUs per worker: expected at least 1, found {self.cpus_per_worker}")
        share = self.gpus_per_worker
        # Ray gives out whole GPUs, or a share of one.
        if share is not None and not (0.0 <= share <= 1.0):
            raise InputError(f"GPUs per worker: expected a share from 0 to 1, found {share:g}")

    @property
    def is_local(self) -> bool:
        """Whether Ray is started on this machine alone."""
        return self.address == LOCAL

    def check(self, device: str | None) -> None:
        """Raise InputError for a ``device`` that no worker can have, and EnvironmentFailure if Ray is not installed.

        >>> Cluster("local", gpus_per_worker=0.0).check("cuda")
        Traceback (most recent call last):
        survfuse.runtime.errors.InputError: device cuda: expected a share of a GPU above 0 for each worker, found 0
        """
        name, _ = requested_device(device)
        if name.startswith("cuda:"):
            raise InputError(f"device {name}: a cluster gives out its GPUs itself; expected auto, cpu or cuda")
        if name == "cuda" and self.gpus_per_worker == 0.0:
            raise InputError("device cuda: expected a share of a GPU above 0 for each worker, found 0")
        check_extra("cluster", "--cluster")
