"""One process for each of several devices of this machine: a crew without Ray.

Processes are started as programs of their own. multiprocessing would import the caller's main module once more in each,
and run it, if it is a script without a guard.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Generic

from survfuse.runtime.errors import SurvfuseError
from survfuse.workers.schedule import Place, WorkerDiedError
from survfuse.workers.work import Attempt, Item, Result, Work

_LONGEST_END = 10.0  # seconds that a process may take to end


class DeviceProcess:
    """A device, and the process that computes on it."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.connection: Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def open(self, threads: int) -> Connection:
        """Start the process, in place of one that died; returns the connection to it."""
        self.close()
        ours, theirs = socket.socketpair()
        with theirs:
            environment = os.environ | {
                "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
                "OMP_NUM_THREADS": str(threads),
            }
            # -P: what lies in the working folder is not imported, unless this process would.
            command = [sys.executable, "-P", "-m", "survfuse.workers.process", str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
        self.connection = Connection(ours.detach())
        return self.connection

    def death(self) -> WorkerDiedError:
        """How the process ended, which has closed its connection: its exit code or signal."""
        assert self._process is not None
        try:
            code = self._process.wait(_LONGEST_END)
        except subprocess.TimeoutExpired:
            return WorkerDiedError("it closed its connection")
        return WorkerDiedError(f"signal {-code}" if code < 0 else f"exit code {code}", code == -signal.SIGKILL)

    def close(self) -> None:
        """End the process."""
        if self.connection is not None:
            self.connection.close()  # at which the process ends
            self.connection = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Processes(Generic[Item, Result]):
    """A crew of one process for each device. A call is the connection on which its answer will come."""

    def __init__(self, work: Work[Item, Result], devices: Sequence[str], threads: int) -> None:
        self._work, self._threads = work, threads
        self._members = [DeviceProcess(device) for device in devices]
        self._of: dict[Connection, DeviceProcess] = {}

    @property
    def members(self) -> Sequence[DeviceProcess]:
        """The processes, of which none has started yet."""
        return self._members

    def start(self, worker: DeviceProcess) -> Connection:
        """Start a process and let it load what it needs."""
        call = worker.open(self._threads)
        self._of[call] = worker
        self._send(call, (self._work, worker.device, self._threads))
        return call

    def run(self, worker: DeviceProcess, item: Item, lacked: int) -> Connection:
        """Send an item to a process."""
        assert worker.connection is not None
        self._send(worker.connection, (item, lacked))
        return worker.connection

    def ended(self, calls: Sequence[Connection], seconds: float) -> Sequence[Connection]:
        """The calls whose answers have come, or whose processes are gone."""
        return [call for call in wait(calls, seconds) if isinstance(call, Connection)]

    def place_of(self, call: Connection) -> Place | SurvfuseError:
        """The device as a place, or why nothing can be computed there."""
        answer = self._answer(call)
        if isinstance(answer, SurvfuseError):
            return answer
        return Place(self._of[call].device, self._of[call].device)

    def attempt_of(self, call: Connection) -> Attempt[Result]:
        """The attempt that a process made."""
        answer = self._answer(call)
        assert isinstance(answer, Attempt)
        return answer

    def dismiss(self, worker: DeviceProcess) -> None:
        """End a process."""
        worker.close()

    def _send(self, call: Connection, message: object) -> None:
        with suppress(OSError):  # the process is gone, as its answer will show
            call.send(message)

    def _answer(self, call: Connection) -> object:
        try:
            answer = call.recv()
        except (EOFError, OSError) as cause:
            raise self._of[call].death() from cause
        if isinstance(answer, BaseException) and not isinstance(answer, SurvfuseError):
            raise answer
        return answer


@contextmanager
def processes(work: Work[Item, Result], devices: Sequence[str], threads: int) -> Iterator[Processes[Item, Result]]:
    """A crew of one process of ``threads`` threads for each of ``devices``; they are ended with the block."""
    crew = Processes(work, devices, threads)
    try:
        yield crew
    finally:
        for member in crew.members:
            member.close()
