"""What C libraries write to stderr themselves, past Python: the organiser would see every line of it."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO


@contextmanager
def native_stderr() -> Iterator[list[str]]:
    """The lines written to the process's stderr within the block, by any thread: collected when it ends, not shown."""
    said: list[str] = []
    with ExitStack() as stack:
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
            said.extend(line for line in collected.read().decode(errors="replace").splitlines() if line.strip())


def _memory() -> IO[bytes]:
    """A file that has no name, in memory where the system can: a job may have no folder to write to."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("stderr"), "w+b")
    return tempfile.TemporaryFile()
