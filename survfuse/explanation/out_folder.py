"""The folder of an explanation, written beside its place and moved there whole."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from survfuse.runtime.errors import EnvironmentFailure, InputError
from survfuse.runtime.files import temporary_path

RECORD = "case.json"  # every explanation of a case has one


def check_out(out: Path) -> None:
    """Raise InputError if ``out`` is a file, or a folder with anything but explanations."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: expected a folder for the explanation, found a file")
    if not out.is_dir() or not any(out.iterdir()) or _is_explanation(out):
        return
    others = sorted(path.name for path in out.iterdir() if not (path.is_dir() and _is_explanation(path)))
    if others:
        raise InputError(f"{out}: holds {others[0][:80]}, which is no explanation; expected an empty or absent folder")


@contextmanager
def new_out_folder(out: Path) -> Iterator[Path]:
    """Yield a folder beside ``out`` to write to; it replaces ``out`` if the block ends without an error.

    Raises InputError as ``check_out`` does, and EnvironmentFailure if nothing can be written there.
    """
    check_out(out)
    out = out.absolute()
    partial = temporary_path(out)
    former = partial.with_suffix(".former")
    try:
        partial.mkdir(parents=True)
    except OSError as cause:
        raise EnvironmentFailure(f"{out}: cannot be written ({cause.strerror})") from cause
    try:
        yield partial
        if out.exists():
            os.replace(out, former)
        try:
            os.replace(partial, out)
        except BaseException:
            if former.exists():
                os.replace(former, out)
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if out.exists():
            shutil.rmtree(former, ignore_errors=True)


def _is_explanation(folder: Path) -> bool:
    return (folder / RECORD).is_file()
