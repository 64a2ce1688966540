"""What C libraries write to stderr themselves, past Python: the organiser would see every line of it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, Thread

_ONE_AT_A_TIME = Lock()  # a second redirection would take the first one's for the stderr that it is to bring back
_LONGEST_WAIT = 2.0  # seconds, for a process that another thread has started meanwhile, and that has this stderr


@contextmanager
def native_stderr(word: str = "") -> Iterator[list[str]]:
    """The lines with ``word`` that are written to the process's stderr within the block, collected when it ends.

    Other lines, which may be other threads', are shown then. In one process, one block runs at a time.
    """
    said: list[str] = []
    with _ONE_AT_A_TIME:
        try:
            kept = os.dup(2)
        except OSError:  # such as a stderr closed by the process that started this one
            yield said
            return
        # A pipe ends when no write to it is under way any more, which nothing else shows of another thread's.
        reader, writer = os.pipe()
        collecting = Thread(target=_collect, args=(reader, os.dup(kept), word, said), daemon=True)
        collecting.start()
        try:
            os.dup2(writer, 2)
            os.close(writer)
            yield said
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            collecting.join(_LONGEST_WAIT)


def _collect(reader: int, kept: int, word: str, said: list[str]) -> None:
    """Keep the lines with ``word`` that come from ``reader``, and write the others to ``kept`` when it ends."""
    others = []
    with os.fdopen(reader, "rb") as lines, os.fdopen(kept, "wb") as stderr:
        for line in lines:
            text = line.decode(errors="replace").strip()
            if text and word in text:
                said.append(text)
            elif text:
                others.append(line)
        stderr.writelines(others)
