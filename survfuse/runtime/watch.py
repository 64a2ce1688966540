"""What a job shares with the process that watches it: its output, and the files that libraries are reading."""

import mmap
import os
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class SharedStatus:
    """A job's status in memory that it shares with its parent.

    It holds the paths of the outputs and, for each library call in progress, the file being read and the time at which
    the call, or its current part, began.
    """

    _PATH, _SLOT, _SLOTS = 16384, 256, 64  # bytes of the paths, bytes of a slot, and slots

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, self._PATH + self._SLOT * self._SLOTS)
        self._free = list(range(self._SLOTS))
        self._lock = threading.Lock()

    @property
    def outputs(self) -> tuple[str, ...]:
        """The paths of the job's outputs; none until the job has set them."""
        return tuple(filter(None, self._text(0, self._PATH).split("\0")))

    @outputs.setter
    def outputs(self, paths: tuple[str, ...]) -> None:
        """Set them."""
        self._set_text(0, self._PATH, "\0".join(paths))

    def begin(self, name: str) -> int | None:
        """Reserve a slot for a library call; None if none is free (the call is then not monitored)."""
        with self._lock:
            if not self._free:
                return None
            slot = self._free.pop()
        self._set_text(self._offset(slot) + 8, self._SLOT - 8, name)
        self.go_on(slot)
        return slot

    def go_on(self, slot: int | None) -> None:
        """Restart the time of the call in ``slot``: its next part begins."""
        if slot is not None:
            struct.pack_into("d", self._memory, self._offset(slot), time.monotonic())

    def end(self, slot: int | None) -> None:
        """Free ``slot``: its call has returned."""
        if slot is not None:
            struct.pack_into("d", self._memory, self._offset(slot), 0.0)
            with self._lock:
                self._free.append(slot)

    def oldest(self) -> tuple[str, float]:
        """The file of the longest library call in progress and when that began, on the monotonic clock.

        ("", 0.0) if there is no call in progress.
        """
        began = [struct.unpack_from("d", self._memory, self._offset(slot))[0] for slot in range(self._SLOTS)]
        first = min((at for at in began if at), default=0.0)
        if not first:
            return "", 0.0
        return self._text(self._offset(began.index(first)) + 8, self._SLOT - 8), first

    def _offset(self, slot: int) -> int:
        return self._PATH + self._SLOT * slot

    def _set_text(self, offset: int, length: int, text: str) -> None:
        data = os.fsencode(text)[: length - 1]
        self._memory[offset : offset + length] = data.ljust(length, b"\0")

    def _text(self, offset: int, length: int) -> str:
        return os.fsdecode(self._memory[offset : offset + length].rstrip(b"\0"))


_status: SharedStatus | None = None  # set once, before the job's process is started


def share_status() -> SharedStatus:
    """A new status, which this process shares with the children that it forks from now on."""
    global _status
    _status = SharedStatus()
    return _status


def is_supervised() -> bool:
    """Whether a parent process watches this one and handles signals for it."""
    return _status is not None


def tell_outputs(paths: Iterable[Path]) -> None:
    """Tell the parent which files and folders a failed job must not leave behind, whole or in part."""
    if _status is not None:
        _status.outputs = tuple(str(path.absolute()) for path in paths)


@contextmanager
def reading(name: str) -> Iterator[Callable[[], None]]:
    """Mark a block in which a native library reads the input ``name``.

    If the library crashes within the block, or takes longer than the supervisor's patience, that file is blamed. Yields
    a function to call between the parts of longer work, each of which then has the whole patience to itself.
    """
    status = _status
    slot = status.begin(name) if status is not None else None
    ended = False

    def go_on() -> None:
        if status is not None and not ended:
            status.go_on(slot)

    try:
        yield go_on
    finally:
        ended = True
        if status is not None:
            status.end(slot)
