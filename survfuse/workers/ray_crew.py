"""A Ray cluster as a crew: each worker is an actor, which Ray places on a machine, and to which it brings items.

Ray moves everything between machines, and unpickles it; this project unpickles nothing from files. Whoever reaches
Ray's ports can run code on its machines, unless they must show its token; nothing is encrypted. A cluster belongs in a
private network. One that is started here listens on the loopback interface alone, and has a token of its own.
"""

import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Generic

from survfuse import __version__
from survfuse.runtime.device_choice import requested_device
from survfuse.runtime.errors import EnvironmentFailure, SurvfuseError, one_line
from survfuse.runtime.log import count, stage
from survfuse.workers.hand import Hand, host_name
from survfuse.workers.schedule import Place, WorkerDiedError
from survfuse.workers.settings import AUTO, LOCAL, Cluster
from survfuse.workers.work import Attempt, Item, Result, Work

if TYPE_CHECKING:
    import ray

_ANSWERS_WITHIN = 10.0  # seconds
_LONGEST_TEMP = 20  # characters; Ray adds up to 80, and a socket's path has at most 107
# Read when Ray is imported. No report of use is sent anywhere; a worker without a GPU is told to use the CPU, not
# deprived of GPUs; without "clusters" Ray takes this machine's address to be 127.0.0.1 and listens there alone,
# which is its way on Windows and macOS.
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
_TOKEN = "RAY_AUTH_TOKEN"


class _Actor(Generic[Item, Result]):
    """A worker's side of the crew."""

    def __init__(self, device: str, threads: int, versions: str) -> None:
        self._device, self._threads, self._versions = device, threads, versions
        self._hand: Hand[Item, Result] | None = None

    def start(self, work: Work[Item, Result]) -> Place | SurvfuseError:
        """The worker's place, or why it cannot work."""
        import ray

        name = host_name()
        if (own := _versions()) != self._versions:
            return EnvironmentFailure(f"{name} has {own}; expected {self._versions}, as on the machine of the command")
        self._hand = Hand(work, self._device, self._threads)
        return self._hand.start() or Place(ray.get_runtime_context().get_node_id(), name)

    def run(self, item: Item, lacked: int) -> Attempt[Result]:
        """One attempt at ``item``."""
        assert self._hand is not None
        return self._hand.run(item, lacked)


@dataclass(frozen=True)
class RayCluster:
    """A cluster that this process is connected to, and what each worker takes of it."""

    cluster: Cluster
    device: str  # of each worker
    gpus: float  # of each worker
    room: int  # workers that fit now

    def workers(self, items: int) -> int:
        """How many workers to start for ``items``: no more than these, and than were asked for."""
        return min(self.cluster.workers or self.room, max(1, items))

    @contextmanager
    def crew(self, work: Work[Item, Result], items: int) -> "Iterator[Actors[Item, Result]]":
        """Workers for ``items``; they end with the block."""
        import ray

        threads = self.cluster.cpus_per_worker
        kind = ray.remote(_Actor).options(
            num_cpus=threads,
            num_gpus=self.gpus,
            # Libraries count threads when they are imported.
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}},
        )
        held, versions = ray.put(work), _versions()
        slots = [Slot() for _ in range(self.workers(items))]
        try:
            yield Actors(slots, lambda: kind.remote(self.device, threads, versions), held)
        finally:
            for slot in slots:
                slot.clear()


class Slot:
    """A worker's place among the others, and the actor that fills it."""

    actor: Any = None

    def clear(self) -> None:
        """End the actor, if there is one."""
        import ray

        if self.actor is not None and ray.is_initialized():
            ray.kill(self.actor)
        self.actor = None


class Actors(Generic[Item, Result]):
    """A crew of Ray's actors. A call is the reference to an object that will hold its answer."""

    def __init__(self, slots: Sequence[Slot], make: Callable[[], Any], work: "ray.ObjectRef[Any]") -> None:
        self._slots, self._make, self._work = slots, make, work

    @property
    def members(self) -> Sequence[Slot]:
        """The workers, of which none has an actor yet."""
        return self._slots

    def start(self, worker: Slot) -> "ray.ObjectRef[object]":
        """A new actor in place of one that died: Ray's own restart would leave it without what it had loaded."""
        worker.clear()
        worker.actor = self._make()
        call: ray.ObjectRef[object] = worker.actor.start.remote(self._work)
        return call

    def run(self, worker: Slot, item: Item, lacked: int) -> "ray.ObjectRef[object]":
        """Send an item to an actor."""
        call: ray.ObjectRef[object] = worker.actor.run.remote(item, lacked)
        return call

    def ended(self, calls: "Sequence[ray.ObjectRef[object]]", seconds: float) -> "Sequence[ray.ObjectRef[object]]":
        """The calls that have ended."""
        import ray

        return ray.wait(list(calls), num_returns=1, timeout=seconds)[0]

    def place_of(self, call: "ray.ObjectRef[object]") -> Place | SurvfuseError:
        """Where an actor runs, or why it cannot work."""
        place = _answer(call)
        assert isinstance(place, Place | SurvfuseError)
        return place

    def attempt_of(self, call: "ray.ObjectRef[object]") -> Attempt[Result]:
        """The attempt that an actor made."""
        attempt = _answer(call)
        assert isinstance(attempt, Attempt)
        return attempt

    def dismiss(self, worker: Slot) -> None:
        """End an actor."""
        worker.clear()


@contextmanager
def connected(cluster: Cluster, device: str | None) -> Iterator[RayCluster]:
    """The cluster, connected to or started; left again, or ended, with the block.

    ``device`` is as in ``Cluster.check``. Raises EnvironmentFailure if Ray is in use by this process already or cannot
    be reached, and if no worker fits the cluster.
    """
    name, _ = requested_device(device)
    with _environment(cluster):
        if cluster.address not in (LOCAL, AUTO):
            _check_answers(cluster)
        import ray

        if ray.is_initialized():
            raise EnvironmentFailure("--cluster: this process is connected to a Ray cluster already")
        folder = _new_folder() if cluster.is_local else None
        try:
            _connect(cluster, folder)
            found = _room(cluster, name)
            machines = sum(node["Alive"] for node in ray.nodes())
            each = count(cluster.cpus_per_worker, "thread") + (f" and {found.gpus:g} GPU" if found.gpus else "")
            room = f"room for {count(found.room, 'worker')} of {each}"
            stage("cluster", f"{cluster.address}: {count(machines, 'node')}, {room}")
            yield found
        finally:
            ray.shutdown()
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _environment(cluster: Cluster) -> Iterator[None]:
    """The variables that Ray reads, for the time of the block; raises EnvironmentFailure if it is too late for them."""
    alone = _is_loopback(cluster)
    # Who is asked for no token lets other users of this machine run what they like as this one.
    token = {"RAY_AUTH_MODE": "token", _TOKEN: os.environ.get(_TOKEN) or secrets.token_hex(32)}
    ours = _SETTINGS | (_LOOPBACK if alone else {}) | (token if cluster.is_local else {})
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        from ray._private import ray_constants

        if cluster.address != AUTO and getattr(ray_constants, "ENABLE_RAY_CLUSTER", not alone) == alone:
            others = "listens on all addresses" if alone else "knows this machine alone"
            raise EnvironmentFailure(f"cluster {cluster.address}: Ray, as this process has imported it, {others}")
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _new_folder() -> str:
    """A folder for what Ray writes; the system's place for these, unless Ray's sockets in it had too long a path."""
    usual = tempfile.gettempdir()
    return tempfile.mkdtemp(prefix="ray-", dir=usual if len(usual) <= _LONGEST_TEMP else "/tmp")


def _check_answers(cluster: Cluster) -> None:
    """Raise EnvironmentFailure if nothing listens at the address; Ray itself would try for minutes."""
    host, _, port = cluster.address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWERS_WITHIN).close()
    except OSError as cause:
        reason = cause.strerror or str(cause)
        raise EnvironmentFailure(f"cluster {cluster.address}: cannot be reached ({reason})") from cause


def _connect(cluster: Cluster, folder: str | None) -> None:
    import ray

    given: dict[str, Any] = {"address": cluster.address}
    if cluster.is_local:
        given |= {"include_dashboard": False, "_temp_dir": folder}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **given)
    except (OSError, RuntimeError, ValueError, TimeoutError) as cause:
        origin = cause.__cause__ or cause
        said = f"{one_line(str(cause))[:200]}" + (f" ({one_line(str(origin))[:300]})" if origin is not cause else "")
        raise EnvironmentFailure(f"cluster {cluster.address}: {said}") from cause
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray's own ends the process without a word of ours
    if cluster.is_local and not ip_address(ray.util.get_node_ip_address()).is_loopback:
        raise EnvironmentFailure("cluster local: Ray does not keep to the loopback interface")


def _room(cluster: Cluster, device: str) -> RayCluster:
    """What a worker takes, and how many of them fit; raises EnvironmentFailure if none does."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if device == "cpu":
        gpus = 0.0
    elif cluster.gpus_per_worker is not None:
        gpus = cluster.gpus_per_worker
    else:
        gpus = 1.0 if device == "cuda" or any(node.get("GPU") for node in nodes) else 0.0
    room = sum(_fitting(node, cluster.cpus_per_worker, gpus) for node in nodes)
    asked = cluster.workers or 1
    # The machines of another cluster may still be joining it.
    if room < asked and (cluster.is_local or cluster.workers is None):
        needs = count(cluster.cpus_per_worker, "CPU") + (f" and {gpus:g} GPU" if gpus else "")
        raise EnvironmentFailure(
            f"cluster {cluster.address}: room for {count(room, 'worker')} of {needs}, expected at least {asked:,}"
        )
    return RayCluster(cluster, "cuda" if gpus else "cpu", gpus, max(room, asked))


def _fitting(node: Mapping[str, float], cpus: int, gpus: float) -> int:
    """How many workers fit a node with these resources.

    >>> _fitting({"CPU": 16.0, "GPU": 2.0}, 2, 0.1), _fitting({"CPU": 16.0}, 2, 0.0), _fitting({"CPU": 16.0}, 2, 1.0)
    (8, 8, 0)
    """
    by_cpu = int(node.get("CPU", 0.0) // cpus)
    # As many shares as a whole GPU has; ten tenths of floating point are one.
    return min(by_cpu, int(node.get("GPU", 0.0)) * int(1.0 / gpus + 1e-6)) if gpus else by_cpu


def _answer(call: "ray.ObjectRef[object]") -> object:
    """A call's answer; raises WorkerDiedError if it was lost, and an error in the worker that is not foreseen."""
    import ray
    from ray.exceptions import ActorUnavailableError, ObjectLostError, OutOfMemoryError, RayActorError, RaySystemError

    try:
        return ray.get(call)
    except OutOfMemoryError as cause:
        raise WorkerDiedError("its machine ran out of memory", memory=True) from cause
    except ActorUnavailableError as cause:
        raise WorkerDiedError("its process does not answer") from cause
    except (RayActorError, ObjectLostError, RaySystemError) as cause:
        # Ray cannot tell why a process is gone: the kernel, for lack of memory, kills it without a word.
        said = _said(cause)
        raise WorkerDiedError(said, memory="node" not in said) from cause


def _said(death: BaseException) -> str:
    """What Ray knows of a death, on one line: the sentence after its list of names and numbers."""
    text = one_line(str(death))
    for mark in ("The actor died because ", "Worker exit detail: ", "The actor is dead because "):
        if mark in text:
            text = text.partition(mark)[2]
    return text[:200].rstrip(". ")


def _versions() -> str:
    """What must be the same on all machines for the same bytes."""
    python = ".".join(map(str, sys.version_info[:2]))
    return f"survfuse {__version__}, torch {version('torch')}, Python {python}"


def _is_loopback(cluster: Cluster) -> bool:
    """Whether the cluster is this machine's, and listens for it alone."""
    host = cluster.address.rpartition(":")[0].strip("[]")
    if cluster.is_local or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
