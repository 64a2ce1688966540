"""What C libraries write to stderr themselves, past Python: the organiser would see every line of it."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import IO

_ONE_AT_A_TIME = Lock()  # a second redirection would take the first one's for the stderr that it is to bring back


@contextmanager
def native_stderr(word: str = "") -> Iterator[list[str]]:
    """The lines with ``word`` that are written to the process's stderr within the block, collected when it ends.

    Other lines, which may be other threads', are shown then. In one process, one block runs at a time.
    """
    said: list[str] = []
    with _ONE_AT_A_TIME, ExitStack() as stack:
        try:
            kept = stack.enter_context(os.fdopen(os.dup(2), "wb"))
            collected = stack.enter_context(_memory())
        except OSError:  # such as a stderr closed by the process that started this one
            yield said
            return
        try:
            os.dup2(collected.fileno(), 2)
            yield said
        finally:
            os.dup2(kept.fileno(), 2)
            collected.seek(0)
            for line in collected:
                text = line.decode(errors="replace").strip()
                if text and word in text:
                    said.append(text)
                elif text:
                    kept.write(line)


def _memory() -> IO[bytes]:
    """A file that has no name, in memory where the system can: a job may have no folder to write to."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("stderr"), "w+b")
    return tempfile.TemporaryFile()
