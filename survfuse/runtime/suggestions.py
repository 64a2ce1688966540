"""Paths and names that a user gives: those that are unknown or missing, with the nearest known one, or in conflict."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from survfuse.runtime.errors import InputError, SurvfuseError
from survfuse.runtime.log import listing

_SYNONYMS = {"gpu": "cuda"}  # common words for names that are spelt quite differently


def closest(name: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` whose spelling is nearest to ``name``; None if none is near.

    Nearness is difflib's ratio of matching characters, at least 0.6; upper and lower case count as equal.

    >>> closest("Bilinaer", ["bilinear", "concat"])
    'bilinear'
    >>> closest("tensor", ["uni", "phikon"]) is None
    True
    """
    from difflib import get_close_matches  # not for a job, which starts without it

    by_lower = {other.lower(): other for other in known}
    wanted = name.lower()
    if _SYNONYMS.get(wanted) in by_lower:
        return by_lower[_SYNONYMS[wanted]]
    nearest = get_close_matches(wanted, by_lower, n=1)
    return by_lower[nearest[0]] if nearest else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown ``name``: a suggestion, or nothing if none of ``known`` is near.

    >>> did_you_mean("--epoch", ["--epochs", "--patience"])
    '; did you mean --epochs?'
    """
    nearest = closest(name, known)
    return f"; did you mean {nearest}?" if nearest else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message about a ``name`` that is not among ``known``.

    >>> unknown("encoder", "unni", ["uni", "phikon"])
    "unknown encoder 'unni'; expected one of uni, phikon; did you mean uni?"
    """
    names = list(known)
    return f"unknown {kind} {name!r}; expected one of {listing(names, len(names))}{did_you_mean(name, names)}"


def nearest_path(path: Path) -> Path | None:
    """``path`` with each part that is not there replaced by the nearest name beside it; None if one has none."""
    there = Path(path.anchor)
    for part in path.parts[1 if path.anchor else 0 :]:
        if not (there / part).exists():
            try:
                nearest = closest(part, (entry.name for entry in there.iterdir()))
            except OSError:  # not a folder, or one that may not be read
                return None
            if nearest is None:
                return None
            part = nearest
        there /= part
    return there


def _missing(kind: str, path: Path) -> str:
    nearest = nearest_path(path)
    return f"{path}: no such {kind}" + (f"; did you mean {nearest}?" if nearest is not None else "")


def check_is_file(path: Path, error: type[SurvfuseError] = InputError) -> None:
    """Raise ``error`` unless ``path`` is a file, with a suggestion if nothing is there."""
    if not path.exists():
        raise error(_missing("file", path))
    if path.is_dir():
        raise error(f"{path}: expected a file, found a folder")


def check_is_folder(path: Path, error: type[SurvfuseError] = InputError) -> None:
    """Raise ``error`` unless ``path`` is a folder, with a suggestion if nothing is there."""
    if not path.exists():
        raise error(_missing("folder", path))
    if not path.is_dir():
        raise error(f"{path}: expected a folder, found a file")


def check_exists(path: Path, error: type[SurvfuseError] = InputError) -> None:
    """Raise ``error`` unless a file or folder is at ``path``, with a suggestion if nothing is there."""
    if not path.exists():
        raise error(_missing("file or folder", path))


def check_outputs(outputs: Mapping[str, Path | None], inputs: Iterable[Path | None]) -> None:
    """Raise InputError if a file to be written is also one of ``inputs``, or two of ``outputs`` are one file.

    ``outputs`` are files by the option that names them. Files are the same by whatever path leads to them; None stands
    for a file that was not asked for.
    """
    written = [(name, path) for name, path in outputs.items() if path is not None]
    read = [path for path in inputs if path is not None]
    for place, (name, path) in enumerate(written):
        if any(_same(path, other) for other in read):
            raise InputError(f"{path}: {name} would overwrite an input; expected another file")
        for other_name, other in written[:place]:
            if _same(path, other):
                raise InputError(f"{other_name} and {name}: expected two files, found {path} for both")


def _same(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:  # one of them is not there
        return first.resolve() == second.resolve()
