"""What a job tells the process that watches it: its output, and the files that libraries are reading."""

import mmap
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class SharedStatus:
    """What a job tells its parent, in memory that both processes see: the path of its output and, for each library call
    in progress, the file it reads and when it began."""

    _PATH, _SLOT, _SLOTS = 4096, 256, 64

    def __init__(self) -> None:
        self._held = mmap.mmap(-1, self._PATH + self._SLOT * self._SLOTS)
        self._free = list(range(self._SLOTS))
        self._lock = threading.Lock()

    @property
    def output(self) -> str:
        return self._text(0, self._PATH)

    @output.setter
    def output(self, path: str) -> None:
        self._set_text(0, self._PATH, path)

    def begin(self, name: str) -> int | None:
        """Reserve a slot for a library call; None if none is free (the call is then not monitored)."""
        with self._lock:
            if not self._free:
                return None
            slot = self._free.pop()
        self._set_text(self._place(slot) + 8, self._SLOT - 8, name)
        self.go_on(slot)
        return slot

    def go_on(self, slot: int | None) -> None:
        if slot is not None:
            struct.pack_into("d", self._held, self._place(slot), time.monotonic())

    def end(self, slot: int | None) -> None:
        if slot is not None:
            struct.pack_into("d", self._held, self._place(slot), 0.0)
            with self._lock:
                self._free.append(slot)

    def oldest(self) -> tuple[str, float]:
        """The file that a library has been at work on for longest, or nothing, and when it began, or 0."""
        began = [struct.unpack_from("d", self._held, self._place(slot))[0] for slot in range(self._SLOTS)]
        first = min((at for at in began if at), default=0.0)
        if not first:
            return "", 0.0
        return self._text(self._place(began.index(first)) + 8, self._SLOT - 8), first

    def _place(self, slot: int) -> int:
        return self._PATH + self._SLOT * slot

    def _set_text(self, place: int, length: int, text: str) -> None:
        data = os.fsencode(text)[: length - 1]
        self._held[place : place + length] = data.ljust(length, b"\0")

    def _text(self, place: int, length: int) -> str:
        return os.fsdecode(self._held[place : place + length].rstrip(b"\0"))


_status: SharedStatus | None = None  # set once, before the job's process is started


def watched() -> SharedStatus:
    """Begin to share this process's status with the children that it forks from now on."""
    global _status
    _status = SharedStatus()
    return _status


def is_supervised() -> bool:
    """Whether a parent process watches this one; signals are then the parent's business."""
    return _status is not None


def tell_output(path: Path) -> None:
    """Tell the parent which file a failed job must not leave behind."""
    if _status is not None:
        _status.output = str(path.absolute())


@contextmanager
def reading(name: str) -> Iterator[Callable[[], None]]:
    """Mark a block in which a native library reads the input ``name``.

    If the library crashes within the block, or takes longer than the supervisor's patience, that file is blamed. Yields
    a function to call between the parts of longer work; each part then has the whole patience to itself.
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
