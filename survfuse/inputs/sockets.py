"""Read a job's input folder as one Case.

A job names its sockets in ``inputs.json``; the object that holds a socket's slug is called ``interface`` or, on newer
platforms, ``socket``. Slugs and places are the task's.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath

from survfuse.inputs.case import UNNAMED, Case
from survfuse.runtime.errors import InputError
from survfuse.runtime.files import read_json
from survfuse.runtime.log import listing, warn
from survfuse.slide.suffixes import FEATURE_SUFFIXES
from survfuse.tasks.registry import DEFAULT
from survfuse.tasks.task import MASK, Task

_SHOWN = 1000  # files that are looked at for a message
INPUTS_FILE = "inputs.json"


def is_case(root: Path, task: Task = DEFAULT) -> bool:
    """Whether ``root`` is laid out as a job's input folder: it has ``inputs.json`` or a socket's place."""
    places = [INPUTS_FILE, *(socket.place for socket in task.sockets.values())]
    return any(os.path.lexists(root / place) for place in places)


def read_case(root: Path, task: Task = DEFAULT) -> Case:
    """The case in the input folder ``root``, found by ``inputs.json`` or, without it, by the files present.

    The case lacks a socket that is not listed or has no file. Raises InputError for sockets of another interface,
    several files in one socket that are not one slide, anything but a file where a file belongs, and a folder without
    any input.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected the job's inputs there")
    known = {socket.slug: socket.place for socket in task.sockets.values()}
    declared = root / INPUTS_FILE
    if os.path.lexists(declared):
        places, found_by = _declared(declared, known), INPUTS_FILE
    else:
        places = {slug: place for slug, place in known.items() if os.path.lexists(root / place)}
        found_by = f"the files present (no {INPUTS_FILE})"
    if not places or not places.keys() <= known.keys():
        came = listing(sorted(places)) or "none of them"
        raise InputError(
            f"unknown set of sockets from {found_by}: expected {', '.join(known)}, found {{{came}}}; "
            f"files: {listing(_files_below(root)) or 'none'}"
        )
    slugs = {key: socket.slug for key, socket in task.sockets.items()}
    slide = _only_file(root, places, slugs.get("slide"), _opened)
    features = slide is not None and slide.suffix.lower() in FEATURE_SUFFIXES
    mask = _only_file(root, places, slugs.get(MASK)) if slide is not None and not features else None
    rna, clinical = (_file(root, places, slugs.get(modality)) for modality in ("rna", "clinical"))
    if slide is None and slugs.get(MASK) in places:
        warn(f"{slugs[MASK]}: ignored, since there is no slide")
    if slide is None and rna is None and clinical is None:
        raise InputError(f"the sockets from {found_by} hold no file; files: {listing(_files_below(root)) or 'none'}")
    return Case(
        slide=None if features else slide,
        mask=mask,
        features=slide if features else None,
        rna=rna,
        clinical=clinical,
        name=slide.stem if slide is not None else root.resolve().name or UNNAMED,
        found_by=found_by,
    )


def _files_below(root: Path) -> list[str]:
    """Some of the files under ``root``, for a message."""
    files = (path for path in root.rglob("*") if not path.is_dir())
    return sorted(str(path.relative_to(root)) for path in islice(files, _SHOWN))


def _declared(path: Path, known: Mapping[str, str]) -> dict[str, str]:
    """Socket slug → path relative to the input folder, as ``inputs.json`` states them."""
    entries = read_json(path, InputError)
    if not isinstance(entries, list):
        raise InputError("inputs.json: expected an array of sockets")
    places: dict[str, str] = {}
    for number, entry in enumerate(entries):
        slug, place = _socket(entry, number, known)
        if slug in places:
            raise InputError(f"inputs.json: socket {slug} is listed twice")
        places[slug] = place
    return places


def _socket(entry: object, number: int, known: Mapping[str, str]) -> tuple[str, str]:
    """One entry's slug and place, which by default is the one that is ``known``."""
    described = [entry[key] for key in ("interface", "socket") if entry.get(key)] if isinstance(entry, dict) else []
    if len(described) == 2 and not _agree(*described):
        raise InputError(f"inputs.json: 'interface' and 'socket' of entry {number} are not the same")
    inner = described[0] if described and isinstance(described[0], dict) else {}
    slug = inner.get("slug")
    if not isinstance(slug, str):
        raise InputError(f"inputs.json: entry {number} has no 'interface' or 'socket' object with a slug")
    place = inner.get("relative_path") or known.get(slug, "")
    if not isinstance(place, str) or "\0" in place:
        raise InputError(f"inputs.json: relative_path of {slug[:80]} is not a path")
    if PurePosixPath(place).is_absolute() or ".." in PurePosixPath(place).parts:
        raise InputError(f"inputs.json: relative_path of {slug[:80]} leads outside the input folder")
    return slug, place


def _agree(interface: object, socket: object) -> bool:
    """Whether two descriptions name the same socket and, if both state a place, the same place."""
    if not isinstance(interface, dict) or not isinstance(socket, dict):
        return True  # the first decides
    places = [place for inner in (interface, socket) if (place := inner.get("relative_path"))]
    return interface.get("slug") == socket.get("slug") and all(place == places[0] for place in places)


def _only_file(
    root: Path,
    places: Mapping[str, str],
    slug: str | None,
    opened: Callable[[Sequence[Path]], Path | None] = lambda _: None,
) -> Path | None:
    """The one file of an image socket, None if it has none; its name is free, and hidden files do not count.

    Where the socket holds something else than one file, ``opened`` says which file opens the image that it is.
    """
    if slug is None or slug not in places:
        return None
    folder = root / places[slug]
    if not os.path.lexists(folder):
        warn(f"{slug}: listed among the sockets, but {places[slug]} is missing")
        return None
    if not folder.is_dir():
        raise InputError(f"{slug}: expected a folder at {places[slug]}, found something else")
    visible = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [path for path in visible if not path.is_dir()] or visible
    if not files:
        warn(f"{slug}: listed among the sockets, but {folder.name}/ holds no file")
        return None
    if (len(files) > 1 or files[0].is_dir()) and (file := opened(files)) is not None:
        return _checked(file, slug)
    if len(files) > 1:
        raise InputError(f"{slug}: expected one file in {folder.name}/, found {listing(path.name for path in files)}")
    return _checked(files[0], slug)


def _opened(found: Sequence[Path]) -> Path | None:
    """The file that opens the slide which ``found`` is, in several files or in one folder; None if it is none."""
    from survfuse.slide.parts import is_slide_folder, one_slide, slide_file  # not for a slide in one file

    if len(found) == 1:
        return slide_file(found[0]) if is_slide_folder(found[0]) else None
    return one_slide(found) if all(path.is_file() for path in found) else None


def _file(root: Path, places: Mapping[str, str], slug: str | None) -> Path | None:
    """The file of a JSON socket, None if it has none."""
    if slug is None or slug not in places:
        return None
    if not os.path.lexists(root / places[slug]):
        warn(f"{slug}: listed among the sockets, but {places[slug]} is missing")
        return None
    return _checked(root / places[slug], slug)


def _checked(path: Path, slug: str) -> Path:
    """``path``, if it is a file; raises InputError if not."""
    if not path.is_file():
        found = "a folder" if path.is_dir() else "a broken link" if path.is_symlink() else "something else"
        raise InputError(f"{slug}: expected a file, found {found} at {path.name}")
    return path
