"""What a training leaves in its work folder: its report, and the members from which an interrupted one resumes."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from survfuse.runtime.errors import SurvfuseError
from survfuse.training.state import members_folder


@contextmanager
def cleared(work: Path, features: Path) -> Iterator[None]:
    """Remove ``features``, copies of the cohort's features in ``work``, once the block has ended.

    If it ended with an error before a member was trained, and ``work`` was not there before, that is removed as well.
    An interrupted run keeps all: started again, it needs them.
    """
    before = work.exists()
    try:
        yield
    except SurvfuseError:
        if not any(members_folder(work).glob("*")):
            _clear(work, features)
            if not before and work.is_dir() and not any(work.iterdir()):
                work.rmdir()
        raise
    _clear(work, features)


def _clear(work: Path, features: Path) -> None:
    shutil.rmtree(features, ignore_errors=True)
    members = members_folder(work)
    if members.is_dir() and not any(members.iterdir()):
        members.rmdir()
