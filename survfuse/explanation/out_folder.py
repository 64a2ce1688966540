"""The folder of an explanation, written beside its place and moved there whole."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from survfuse.runtime.errors import EnvironmentFailure, InputError
from survfuse.runtime.files import temporary_path
from survfuse.runtime.suggestions import check_is_folder

SCHEMA = "survfuse-explanation-1"
RECORD, PAGE, CONTRIBUTIONS, TILES = "case.json", "case.html", "contributions.csv", "tiles.geojson"
HEATMAP, COLOURED = "heatmap.tif", "heatmap-rgba.tif"
FILES = (PAGE, CONTRIBUTIONS, TILES, HEATMAP, COLOURED, RECORD)  # of one case; the last says that it is whole


def check_out(out: Path, apart: Mapping[str, Path | None]) -> Path:
    """The folder that ``out`` leads to, which need not exist.

    Raises InputError for a file, a folder with anything but explanations, one in a folder that does not exist, one that
    has the working folder in it, and one that is, holds or lies in any of the places ``apart``, by what they are.
    """
    out = out.resolve()
    for what, place in apart.items():
        other = place.resolve() if place is not None else None
        if other is not None and (out.is_relative_to(other) or other.is_relative_to(out)):
            raise InputError(f"{out}: expected a folder apart from {what}, {other}")
    if Path.cwd().is_relative_to(out):
        raise InputError(f"{out}: the working folder, or one above it, cannot be replaced by an explanation")
    check_is_folder(out.parent)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: expected a folder for the explanation, found a file")
    if out.is_dir() and (others := _others(out)):
        raise InputError(f"{out}: holds {others[0][:80]}, which is no explanation; expected an empty or absent folder")
    return out


@contextmanager
def new_out_folder(out: Path) -> Iterator[Path]:
    """Yield a folder to write to; it replaces ``out``, which ``check_out`` gave, if the block ends without an error.

    It lies beside ``out``, or in it where nothing can be written or moved beside it, as where a volume is mounted:
    what is in it then replaces what is in ``out``. Raises EnvironmentFailure if it cannot be written there either.
    """
    partial = _partial(out)
    try:
        yield partial
        if partial.parent == out:
            _fill(out, partial)
        else:
            _replace(out, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _partial(out: Path) -> Path:
    """A new folder beside ``out``, or else in it."""
    beside = temporary_path(out)
    try:
        beside.mkdir()
        return beside
    except OSError as cause:
        within = temporary_path(out / out.name)
        with suppress(OSError):
            within.mkdir()
            return within
        raise EnvironmentFailure(f"{out}: cannot be written ({cause.strerror})") from cause


def _replace(out: Path, partial: Path) -> None:
    """Move ``partial`` to ``out``; what was there is put back if that fails."""
    former = temporary_path(out)
    try:
        if out.exists():
            os.replace(out, former)
    except OSError:  # a mounted folder cannot be moved
        _fill(out, partial)
        return
    try:
        os.replace(partial, out)
    except BaseException:
        if former.exists():
            os.replace(former, out)
        raise
    shutil.rmtree(former, ignore_errors=True)


def _fill(out: Path, partial: Path) -> None:
    """Move what is in ``partial`` into ``out`` in place of all that is there; what was moved goes if that fails."""
    moved = []
    try:
        for path in [path for path in out.iterdir() if path != partial]:
            _remove(path)
        # A folder without a record is not taken for an explanation.
        for path in sorted(partial.iterdir(), key=lambda path: path.name == RECORD):
            moved.append(Path(shutil.move(path, out / path.name)))
    except BaseException:
        for path in moved:
            _remove(path)
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _others(out: Path) -> list[str]:
    """What is in ``out`` besides the explanation of a case, or a folder for each of several."""
    if _is_explanation(out):
        return []
    return sorted(path.name for path in out.iterdir() if not (path.is_dir() and _is_explanation(path)))


def _is_explanation(folder: Path) -> bool:
    """Whether ``folder`` holds an explanation of a case and nothing else."""
    if not {path.name for path in folder.iterdir()} <= {*FILES}:
        return False
    try:
        record = json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record.get("schema") == SCHEMA
