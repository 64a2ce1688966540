"""Whether the machines of a cluster see the same files."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from survfuse.runtime.errors import EnvironmentFailure
from survfuse.runtime.files import write_text
from survfuse.workers.hand import host_name

_MARK = ".survfuse-cluster-"  # and a token: several commands may write to the folder


@dataclass(frozen=True)
class SharedFolder:
    """A folder with a mark in it, by which a machine knows whether its folder of that name is the same."""

    path: Path
    token: str

    @property
    def mark(self) -> Path:
        """The file that is there while the command runs."""
        return self.path / f"{_MARK}{self.token}"

    def check(self, *others: Path) -> None:
        """Raise EnvironmentFailure unless this machine sees the folder itself, and the files and folders ``others``."""
        if not self.mark.exists():
            raise EnvironmentFailure(_unseen(self.path))
        check_seen(*others)


@contextmanager
def shared_folder(path: Path) -> Iterator[SharedFolder]:
    """Mark the folder ``path``, which is made if it is absent, for the time of the block."""
    path = path.absolute()
    path.mkdir(parents=True, exist_ok=True)
    folder = SharedFolder(path, uuid.uuid4().hex)
    _clear(path)
    write_text(folder.mark, f"{host_name()} {os.getpid()}")
    try:
        yield folder
    finally:
        folder.mark.unlink(missing_ok=True)


def _clear(path: Path) -> None:
    """Remove the marks of commands on this machine that were killed."""
    for mark in path.glob(f"{_MARK}*"):
        with suppress(OSError, ValueError):
            host, process = mark.read_text(encoding="utf-8").rsplit(maxsplit=1)
            if host == host_name() and not Path("/proc", str(int(process))).exists():
                mark.unlink()


def check_seen(*paths: Path) -> None:
    """Raise EnvironmentFailure for the first of ``paths`` that this machine does not see."""
    for path in paths:
        if not path.exists():
            raise EnvironmentFailure(_unseen(path))


def _unseen(path: Path) -> str:
    return f"{host_name()} does not see {path}, which the machines of a cluster must share"
