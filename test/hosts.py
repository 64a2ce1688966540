"""Hosts on one machine: each has a network address, a name, mounts and processes of its own, as a cluster's have.

A host is a network namespace with a cable to a switch, which is one more namespace; nothing of it reaches the machine's
own network. Its programs run in a mount and a UTS namespace as well. That takes root and Linux.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_NETWORK = "10.77.0"
_PORT = 6379
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex * 2}  # of the nodes and of those who connect
AT_WORK = b"_Actor.run"  # in the title of a worker's process
_MEMORY = Path("/sys/fs/cgroup/memory")  # the controller of control groups, version 1


def why_no_hosts() -> str | None:
    """Why no hosts can be made here; None if they can."""
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "no ip or unshare command was found"
    made = subprocess.run(["ip", "netns", "add", "survfuse-probe"], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "delete", "survfuse-probe"], capture_output=True)
    if made.returncode:
        return f"the kernel lets nobody make network namespaces here: {made.stderr.strip()}"
    tried = subprocess.run(["unshare", "--mount", "--uts", "true"], capture_output=True, text=True)
    return f"the kernel lets nobody make mount namespaces here: {tried.stderr.strip()}" if tried.returncode else None


@dataclass
class Host:
    """One host, by its number from 1."""

    number: int
    folder: Path  # for its log
    processes: list[subprocess.Popen] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its network namespace, and what its programs take to be the machine's name."""
        return f"svf{self.number}"

    @property
    def address(self) -> str:
        """Its address on the hosts' network."""
        return f"{_NETWORK}.{self.number}"

    def command(self, words: Sequence[str], hidden: Sequence[Path] = ()) -> list[str]:
        """``words`` as a command on this host; the folders ``hidden`` are empty there."""
        covers = "".join(f"mount -t tmpfs none '{folder}'; " for folder in hidden)
        script = f'mount --make-rprivate /; {covers}hostname {self.name}; exec "$@"'
        within = ["unshare", "--mount", "--uts", "sh", "-c", script, "sh"]
        return ["ip", "netns", "exec", self.name, *within, *words]

    def start(self, words: Sequence[str], hidden: Sequence[Path] = (), **environment: str) -> subprocess.Popen:
        """Start a program on this host; its output goes to the host's log."""
        log = (self.folder / f"{self.name}.log").open("ab")
        process = subprocess.Popen(
            self.command(words, hidden), stdout=log, stderr=log, env=os.environ | environment, start_new_session=True
        )
        self.processes.append(process)
        return process

    def pids(self) -> list[int]:
        """Of all processes that run on this host."""
        found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True)
        return [int(word) for word in found.stdout.split()]

    def workers(self) -> list[int]:
        """Of the processes in which this project's work is done."""
        return [pid for pid in self.pids() if b"_Actor" in command_line(pid)]

    def is_at_work(self) -> bool:
        """Whether one of them has an item, by the title that Ray gives it."""
        return any(AT_WORK in command_line(pid) for pid in self.workers())

    def kill(self) -> None:
        """End every process of the host at once, as a power cut does."""
        while pids := self.pids():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        for process in self.processes:
            process.wait()
        self.processes.clear()


def command_line(pid: int | str) -> bytes:
    """A process's words; empty for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@contextmanager
def hosts(number: int, folder: Path) -> Iterator[list[Host]]:
    """``number`` hosts that reach each other; they and their processes end with the block."""
    every = [Host(each, folder) for each in range(1, number + 1)]
    switch = "svf-switch"
    _remove([*(host.name for host in every), switch])  # what a test run that was killed has left
    try:
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", switch, "link", "set", "br0", "up")
        for host in every:
            port = f"port{host.number}"
            _ip("netns", "add", host.name)
            _ip("link", "add", port, "netns", switch, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            _ip("-n", switch, "link", "set", port, "master", "br0", "up")
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
            _ip("-n", host.name, "link", "set", "eth0", "up")
            _ip("-n", host.name, "link", "set", "lo", "up")
        yield every
    finally:
        for host in every:
            host.kill()
        _remove([*(host.name for host in every), switch])


def start_ray(host: Host, head: Host, cpus: int, hidden: Sequence[Path] = ()) -> None:
    """Make ``host`` a node of the cluster of ``head``, whose node must be started first."""
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--node-ip-address={host.address}", "--block"]
    ray += [f"--num-cpus={cpus}", "--num-gpus=0", "--disable-usage-stats", f"--object-store-memory={10**8}"]
    if host is head:
        ray += ["--head", f"--port={_PORT}", "--include-dashboard=false", f"--temp-dir={host.folder / 'ray'}"]
    else:
        ray += [f"--address={head.address}:{_PORT}"]
    host.start(ray, hidden, PYTHONPATH=str(ROOT), **TOKEN)


def address_of(head: Host) -> str:
    """Where the cluster of ``head`` is reached."""
    return f"{head.address}:{_PORT}"


def wait_until(holds: Callable[[], object], seconds: float = 300.0) -> None:
    """Return once ``holds`` is true; fails after so many ``seconds``."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.1)


def memory_can_be_limited() -> bool:
    """Whether a control group of version 1 can be made for a host's memory."""
    return os.access(_MEMORY / "cgroup.procs", os.W_OK)


@contextmanager
def poor_workers(host: Host, memory: int) -> Iterator[None]:
    """Within the block, the kernel kills each worker of ``host`` that takes ``memory`` bytes once it has started."""
    group, done = _MEMORY / f"survfuse-{host.name}", threading.Event()
    group.mkdir(exist_ok=True)
    (group / "memory.limit_in_bytes").write_text(str(memory))

    def watch() -> None:
        while not done.wait(0.05):
            for pid in host.workers():
                with suppress(OSError):  # it has ended meanwhile
                    (group / "cgroup.procs").write_text(str(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        wait_until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _remove(names: Sequence[str]) -> None:
    for name in names:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True)
