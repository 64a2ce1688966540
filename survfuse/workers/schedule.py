"""Items given to workers one by one as these become free, whatever becomes of the workers.

An item that fails on one worker is tried on another, three times in all; one whose worker died counts as failed. What
starts workers, carries items to them and restarts them is a ``Crew``: Ray's actors, or one process for each GPU.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from survfuse.runtime.errors import EnvironmentFailure, SurvfuseError
from survfuse.runtime.log import Record, count, stage, warn
from survfuse.workers.work import Attempt, Ended, Item, Item_contra, Result

MOST_ATTEMPTS = 3  # at one item
_MOST_IN_A_ROW = 3  # items that fail on a worker for its machine's fault, after which it gets no more
_PATIENCE = 3600.0  # seconds in which no worker runs, after which none is expected any more
_LOOK = 60.0  # seconds between looks at whether any worker runs
Handle = TypeVar("Handle")
Call = TypeVar("Call")


class WorkerDiedError(Exception):
    """A worker's process, or the machine that it ran on, is gone; the message says what is known of it.

    ``memory``: whether the system may have killed it since memory ran out, which the kernel does without a word.
    """

    def __init__(self, message: str, memory: bool = False) -> None:
        super().__init__(message)
        self.memory = memory


@dataclass(frozen=True)
class Place:
    """Where a worker runs: ``key`` tells nodes apart, ``name`` is for people."""

    key: str
    name: str


class Crew(Protocol[Handle, Call, Item_contra, Result]):
    """Workers, and calls to them. A call is what stands for a value that is not there yet."""

    @property
    def members(self) -> Sequence[Handle]:
        """The workers."""
        ...

    def start(self, worker: Handle) -> Call:
        """Let a worker load what it needs, in a new process if its own died; gives its place, or why it cannot work."""
        ...

    def run(self, worker: Handle, item: Item_contra, lacked: int) -> Call:
        """Let a worker do its work on ``item``; gives the attempt. ``lacked`` is as in ``Work.start``."""
        ...

    def ended(self, calls: Sequence[Call], seconds: float) -> Sequence[Call]:
        """Those of ``calls`` that have ended; waits until one has, ``seconds`` at most."""
        ...

    def place_of(self, call: Call) -> Place | SurvfuseError:
        """What ``start`` gives; raises WorkerDiedError, and any error that is not foreseen."""
        ...

    def attempt_of(self, call: Call) -> Attempt[Result]:
        """What ``run`` gives; raises WorkerDiedError, and any error that is not foreseen."""
        ...

    def dismiss(self, worker: Handle) -> None:
        """End a worker for good."""
        ...


@dataclass
class _Worker(Generic[Handle]):
    handle: Handle
    place: Place = Place("", "a worker")
    failed: set[int] = field(default_factory=set)  # items, or starts, since the last that did not fail


@dataclass
class _Pending(Generic[Item]):
    number: int
    item: Item
    failed_on: set[str] = field(default_factory=set)  # nodes
    attempts: int = 0
    lacked: int = 0


class Schedule(Generic[Handle, Call, Item, Result]):
    """One run of items through a crew; iterating over it yields what becomes of each item, once, as it ends.

    Raises EnvironmentFailure if no worker is left, InputError or BundleError if workers cannot start for a reason that
    lies in the input, and any error in a worker that is not foreseen.
    """

    def __init__(self, crew: Crew[Handle, Call, Item, Result], items: Sequence[Item]) -> None:
        self._crew = crew
        self._waiting = deque(_Pending(number, item) for number, item in enumerate(items))
        self._starting: dict[Call, _Worker[Handle]] = {}
        self._running: dict[Call, tuple[_Worker[Handle], _Pending[Item]]] = {}
        self._idle: list[_Worker[Handle]] = []
        self._reason = ""  # why the last worker was given up

    def __iter__(self) -> Iterator[Ended[Item, Result]]:
        if self._waiting:
            for handle in self._crew.members:
                self._start(_Worker(handle))
        alone_since = time.monotonic()
        while self._waiting or self._running:
            self._assign()
            if not self._running and not self._starting:
                raise EnvironmentFailure(f"no worker is left: {self._reason}")
            for call in self._crew.ended([*self._running, *self._starting], _LOOK):
                if call in self._starting:
                    self._began(self._starting.pop(call), call)
                else:
                    yield from self._finished(*self._running.pop(call), call)
            if self._running or self._idle:
                alone_since = time.monotonic()
            elif time.monotonic() - alone_since > _PATIENCE:
                raise EnvironmentFailure(f"no worker has run for {_PATIENCE / 60:g} minutes{self._because()}")
            elif time.monotonic() - alone_since >= _LOOK:
                stage("workers", f"waiting for the cluster to start {count(len(self._starting), 'worker')}")

    def _start(self, worker: _Worker[Handle]) -> None:
        self._starting[self._crew.start(worker.handle)] = worker

    def _began(self, worker: _Worker[Handle], call: Call) -> None:
        try:
            place = self._crew.place_of(call)
        except WorkerDiedError as death:
            # Three starts that fail are as bad as three items.
            self._failed(worker, -1 - len(worker.failed), f"a worker died while it started: {death}", died=True)
            return
        if isinstance(place, EnvironmentFailure):
            self._give_up(worker, str(place))
        elif isinstance(place, SurvfuseError):
            raise place
        else:
            worker.place = place
            self._idle.append(worker)

    def _assign(self) -> None:
        """Give each idle worker the first item that it may take."""
        nodes = {worker.place.key for worker in self._idle} | {w.place.key for w, _ in self._running.values()}
        for worker in tuple(self._idle):
            pending = self._item_for(worker, nodes)
            if pending is not None:
                self._idle.remove(worker)
                call = self._crew.run(worker.handle, pending.item, pending.lacked)
                self._running[call] = worker, pending

    def _item_for(self, worker: _Worker[Handle], nodes: set[str]) -> _Pending[Item] | None:
        """Take the first item that has not failed on the worker's node, or that has failed on all ``nodes``."""
        for _ in range(len(self._waiting)):
            pending = self._waiting[0]
            if worker.place.key not in pending.failed_on or nodes <= pending.failed_on:
                return self._waiting.popleft()
            self._waiting.rotate(-1)
        return None

    def _finished(self, worker: _Worker[Handle], pending: _Pending[Item], call: Call) -> Iterator[Ended[Item, Result]]:
        try:
            attempt = self._crew.attempt_of(call)
        except WorkerDiedError as death:
            text = f"the worker on {worker.place.name} died: {death}"
            attempt = Attempt(None, EnvironmentFailure(text), Record(), None, death.memory)
            self._failed(worker, pending.number, text, died=True)
        else:
            # A worker whose memory does not hold an item may hold a smaller batch of it, and others.
            if isinstance(attempt.error, EnvironmentFailure) and not attempt.lacked_memory:
                self._failed(worker, pending.number, f"{worker.place.name}: {attempt.error}", died=False)
            else:
                worker.failed.clear()
                self._idle.append(worker)
        pending.attempts += 1
        pending.lacked += attempt.lacked_memory
        if attempt.error is not None and self._is_worth_another(attempt.error, worker, pending):
            self._waiting.append(pending)
            return
        yield Ended(pending.item, attempt, worker.place.name, pending.attempts)

    def _is_worth_another(self, error: SurvfuseError, worker: _Worker[Handle], pending: _Pending[Item]) -> bool:
        """Whether to try an item again: what is wrong with a file is the same on the same node."""
        pending.failed_on.add(worker.place.key)
        others = {w.place.key for w, _ in self._running.values()} | {w.place.key for w in self._idle}
        elsewhere = not others <= pending.failed_on
        return pending.attempts < MOST_ATTEMPTS and (isinstance(error, EnvironmentFailure) or elsewhere)

    def _failed(self, worker: _Worker[Handle], number: int, reason: str, died: bool) -> None:
        """Count a failure of the machine's at the item ``number``; the worker goes on unless too many items failed."""
        worker.failed.add(number)
        if len(worker.failed) >= _MOST_IN_A_ROW:
            self._give_up(worker, reason)
        elif died:
            warn(f"{reason}; it is started again")
            self._start(worker)
        else:
            self._idle.append(worker)

    def _give_up(self, worker: _Worker[Handle], reason: str) -> None:
        warn(f"a worker is given up: {reason}")
        self._reason = reason
        self._crew.dismiss(worker.handle)

    def _because(self) -> str:
        return f": {self._reason}" if self._reason else ""
