"""The platform's names and places: what lies under /input, as one Case.

Socket slugs and paths are those of CHIMERA Task 3 on Grand Challenge. A job names its sockets in
``inputs.json``; the object that carries the slug is called ``interface`` or, on newer platforms, ``socket``.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from survfuse.runtime.errors import InputError
from survfuse.runtime.files import read_json
from survfuse.runtime.log import listing, warn
from survfuse.slide.settings import FEATURE_SUFFIXES
from survfuse.tasks.chimera3 import CLINICAL, MASK, PLACES, RNA, SLIDE
from survfuse.tasks.modalities import Combination, ordered

_SHOWN = 1000  # files that are looked at for a message


@dataclass(frozen=True)
class Case:
    """One patient's inputs; what the patient lacks is None. At most one of ``slide`` and ``features`` is set."""

    name: str
    slide: Path | None
    mask: Path | None
    features: Path | None
    rna: Path | None
    clinical: Path | None
    found_by: str  # how the sockets were learnt, for the log

    @property
    def given(self) -> Combination:
        """The modalities that the case has a file for."""
        files = {"slide": self.slide or self.features, "rna": self.rna, "clinical": self.clinical}
        return ordered(name for name, file in files.items() if file is not None)


def read_case(root: Path) -> Case:
    """The case under ``root``, dispatched by ``inputs.json`` or, without it, by the files that lie there.

    A socket that is not listed, or has no file, is one that the case lacks. Raises InputError for sockets of another
    interface, several files in one, something else than a file in a file's place, and where nothing is there.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected the job's inputs there")
    declared = root / "inputs.json"
    if os.path.lexists(declared):
        places, found_by = _declared(declared), "inputs.json"
    else:
        places = {slug: place for slug, place in PLACES.items() if os.path.lexists(root / place)}
        found_by = "the files present (no inputs.json)"
    if not places or not places.keys() <= PLACES.keys():
        came = listing(sorted(places)) or "none of them"
        raise InputError(
            f"unknown set of sockets from {found_by}: expected {', '.join(PLACES)}, found {{{came}}}; "
            f"files: {listing(_lying(root)) or 'none'}"
        )
    slide = _only_file(root, places, SLIDE)
    given = slide is not None and slide.suffix.lower() in FEATURE_SUFFIXES
    mask = _only_file(root, places, MASK) if slide is not None and not given else None
    rna, clinical = (_file(root, places, slug) for slug in (RNA, CLINICAL))
    if slide is None and MASK in places:
        warn(f"{MASK}: not looked at, as there is no slide")
    if slide is None and rna is None and clinical is None:
        raise InputError(f"the sockets from {found_by} hold no file; files: {listing(_lying(root)) or 'none'}")
    return Case(
        name=slide.stem if slide is not None else "a case without slide",
        slide=None if given else slide,
        mask=mask,
        features=slide if given else None,
        rna=rna,
        clinical=clinical,
        found_by=found_by,
    )


def _lying(root: Path) -> list[str]:
    """Some of the files under ``root``, for a message."""
    files = (path for path in root.rglob("*") if not path.is_dir())
    return sorted(str(path.relative_to(root)) for path in islice(files, _SHOWN))


def _declared(path: Path) -> dict[str, str]:
    """Socket slug → path relative to the input folder, as ``inputs.json`` states them."""
    entries = read_json(path, InputError)
    if not isinstance(entries, list):
        raise InputError("inputs.json: expected an array of sockets")
    places: dict[str, str] = {}
    for number, entry in enumerate(entries):
        slug, place = _socket(entry, number)
        if slug in places:
            raise InputError(f"inputs.json: socket {slug} is listed twice")
        places[slug] = place
    return places


def _socket(entry: Any, number: int) -> tuple[str, str]:
    named = [entry[key] for key in ("interface", "socket") if entry.get(key)] if isinstance(entry, dict) else []
    if len(named) == 2 and not _agree(*named):
        raise InputError(f"inputs.json: 'interface' and 'socket' of entry {number} are not the same")
    inner = named[0] if named else None
    slug = inner.get("slug") if isinstance(inner, dict) else None
    if not isinstance(slug, str):
        raise InputError(f"inputs.json: entry {number} has no 'interface' or 'socket' object with a slug")
    place = inner.get("relative_path") or PLACES.get(slug, "")
    if not isinstance(place, str) or "\0" in place:
        raise InputError(f"inputs.json: relative_path of {slug[:80]} is no path")
    if PurePosixPath(place).is_absolute() or ".." in PurePosixPath(place).parts:
        raise InputError(f"inputs.json: relative_path of {slug[:80]} leads outside the input folder")
    return slug, place


def _agree(interface: Any, socket: Any) -> bool:
    """Whether two descriptions name the same socket, and no other place where both state one."""
    if not isinstance(interface, dict) or not isinstance(socket, dict):
        return True  # the first decides
    places = [place for inner in (interface, socket) if (place := inner.get("relative_path"))]
    return interface.get("slug") == socket.get("slug") and all(place == places[0] for place in places)


def _only_file(root: Path, places: Mapping[str, str], slug: str) -> Path | None:
    """The one file of an image socket, None where it has none; its name is free, and hidden files do not count."""
    if slug not in places:
        return None
    folder = root / places[slug]
    if not os.path.lexists(folder):
        warn(f"{slug}: listed among the sockets, but {places[slug]} is not there")
        return None
    if not folder.is_dir():
        raise InputError(f"{slug}: expected a folder at {places[slug]}, found something else")
    visible = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    found = [path for path in visible if not path.is_dir()] or visible
    if not found:
        warn(f"{slug}: listed among the sockets, but {folder.name}/ holds no file")
        return None
    if len(found) > 1:
        raise InputError(f"{slug}: expected one file in {folder.name}/, found {listing(path.name for path in found)}")
    return _checked(found[0], slug)


def _file(root: Path, places: Mapping[str, str], slug: str) -> Path | None:
    """The file of a JSON socket, None where it has none."""
    if slug not in places:
        return None
    if not os.path.lexists(root / places[slug]):
        warn(f"{slug}: listed among the sockets, but {places[slug]} is not there")
        return None
    return _checked(root / places[slug], slug)


def _checked(path: Path, slug: str) -> Path:
    if not path.is_file():
        found = "a folder" if path.is_dir() else "a link to nothing" if path.is_symlink() else "something else"
        raise InputError(f"{slug}: expected a file, found {found} at {path.name}")
    return path
