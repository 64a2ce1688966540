"""The platform's names and places: what lies under /input, as one Case.

Socket slugs and paths are those of CHIMERA Task 3 on Grand Challenge. A job names its sockets in
``inputs.json``; the object that carries the slug is called ``interface`` or, on newer platforms, ``socket``.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from survfuse.errors import InputError
from survfuse.files import read_json
from survfuse.log import listing, warn

SLIDE = "bladder-cancer-tissue-biopsy-whole-slide-image"
MASK = "tissue-mask"
RNA = "bulk-rna-seq-bladder-cancer"
CLINICAL = "chimera-clinical-data-of-bladder-cancer-recurrence"
OUTPUT_FILE = "likelihood-of-bladder-cancer-recurrence.json"

PLACES = {
    SLIDE: "images/bladder-cancer-tissue-biopsy-wsi",
    MASK: "images/tissue-mask",
    RNA: "bulk-rna-seq-bladder-cancer.json",
    CLINICAL: "chimera-clinical-data-of-bladder-cancer-recurrence-patients.json",
}
INTERFACES = ({SLIDE, MASK, RNA, CLINICAL}, {SLIDE, RNA, CLINICAL})
FEATURE_SUFFIXES = (".h5", ".pt")


@dataclass(frozen=True)
class Case:
    """One patient's inputs. Exactly one of ``slide`` and ``features`` is set."""

    name: str
    slide: Path | None
    mask: Path | None
    features: Path | None
    rna: Path
    clinical: Path
    found_by: str  # how the sockets were learnt, for the log


def read_case(root: Path) -> Case:
    """The case under ``root``, dispatched by ``inputs.json`` or, without it, by the files that lie there.

    Raises InputError where the sockets are not one of INTERFACES or a socket's file is missing.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected the job's inputs there")
    declared = root / "inputs.json"
    if declared.exists():
        places, found_by = _declared(declared), "inputs.json"
    else:
        places = {slug: place for slug, place in PLACES.items() if (root / place).exists()}
        found_by = "the files present (no inputs.json)"
    if set(places) not in INTERFACES:
        expected = " or ".join("{" + ", ".join(s for s in PLACES if s in known) + "}" for known in INTERFACES)
        came = ", ".join(sorted(places)) or "none of them"
        lying = listing(sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()))
        raise InputError(
            f"unknown set of sockets from {found_by}: expected {expected}, found {{{came}}}; files: {lying or 'none'}"
        )
    slide = _only_file(root / places[SLIDE], SLIDE)
    given = slide.suffix.lower() in FEATURE_SUFFIXES
    mask = _mask(root / places[MASK]) if MASK in places and not given else None
    for slug in (RNA, CLINICAL):
        if not (root / places[slug]).is_file():
            raise InputError(f"{slug}: expected a file at {places[slug]}, found none")
    return Case(
        name=slide.stem,
        slide=None if given else slide,
        mask=mask,
        features=slide if given else None,
        rna=root / places[RNA],
        clinical=root / places[CLINICAL],
        found_by=found_by,
    )


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
    inner = (entry.get("interface") or entry.get("socket")) if isinstance(entry, dict) else None
    slug = inner.get("slug") if isinstance(inner, dict) else None
    if not isinstance(slug, str):
        raise InputError(f"inputs.json: entry {number} has no 'interface' or 'socket' object with a slug")
    place = inner.get("relative_path") or PLACES.get(slug, "")
    if not isinstance(place, str) or PurePosixPath(place).is_absolute() or ".." in PurePosixPath(place).parts:
        raise InputError(f"inputs.json: relative_path of {slug[:80]} leads outside the input folder")
    return slug, place


def _only_file(folder: Path, slug: str) -> Path:
    """The one file of an image socket; its name is free, and hidden files do not count."""
    found = _visible_files(folder)
    if len(found) != 1:
        names = listing(path.name for path in found) or "none"
        raise InputError(f"{slug}: expected exactly one file in {folder.name}/, found {names}")
    return found[0]


def _mask(folder: Path) -> Path | None:
    if _visible_files(folder):
        return _only_file(folder, MASK)
    warn(f"{MASK}: listed among the sockets, but {folder.name}/ holds no file")
    return None


def _visible_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
