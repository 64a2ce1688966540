"""Where the files of a cohort lie: which layout a folder has, and which patient a file belongs to."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from survfuse.cohort.outcomes import OutcomesTable
from survfuse.cohort.problems import Problems
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import counted
from survfuse.slide.parts import is_slide_folder
from survfuse.slide.suffixes import FEATURE_SUFFIXES, MASK_SUFFIXES, SLIDE_SUFFIXES
from survfuse.tasks.task import CohortLayout

_NUMBERED = re.compile(r"(?![A-Za-z]).*")  # what may follow "_HE": "_HEALTHY" is another word


def find_layout(root: Path, layouts: Sequence[CohortLayout]) -> CohortLayout:
    """The one of ``layouts`` whose folders are present; raises InputError if none is, or more than one."""
    present = [(layout, [mark for mark in layout.marks if (root / mark).is_dir()]) for layout in layouts]
    present = [(layout, marks) for layout, marks in present if marks]
    if len(present) > 1:
        both = " and ".join(", ".join(marks) for _, marks in present)
        raise InputError(f"{root}: both {both} are there; expected the folders of one layout")
    if not present:
        either = ", or in ".join(_folders(layout) for layout in layouts)
        raise InputError(f"{root}: expected patients in {either}; found neither")
    return present[0][0]


def _folders(layout: CohortLayout) -> str:
    """The folders by which a layout is recognised, in words."""
    if layout.own_folders:
        return f"folders {layout.folder('<id>')}"
    return f"folders {', '.join(layout.marks[:-1])} and {layout.marks[-1]}"


def visible_files(folder: Path) -> list[Path]:
    """What is in a folder, sorted. Hidden files, which other programs leave behind, are left out."""
    return sorted(path for path in folder.glob("*") if not path.name.startswith("."))


def patients_folders(root: Path, layout: CohortLayout) -> list[Path]:
    """The folders of the patients under ``root``, sorted, each named by its patient's id."""
    above = (root / layout.folder("<id>")).parent
    return [path for path in visible_files(above) if path.is_dir()]


def patient_ids(
    root: Path, layout: CohortLayout, table: OutcomesTable, modalities: Sequence[str], problems: Problems
) -> tuple[str, ...]:
    """Every id that a folder, a clinical or expression file or the table names, sorted.

    A patient without the folder that the layout asks for, and a JSON file named otherwise, are problems.
    """
    if layout.own_folders:
        ids = {path.name for path in patients_folders(root, layout)}
        for name in sorted(set(table.outcomes) - ids):
            problems.add(f"is in {table.name}, but there is no folder {layout.folder(name)}", name)
        return tuple(sorted(ids))
    ids = set(table.outcomes)
    for place in _files(layout, modalities):
        ending = place.name.removeprefix("{id}")
        for path in visible_files(root / place.parent):
            name = path.name.removesuffix(ending)
            if name not in ("", path.name):
                ids.add(name)
            elif path.suffix.lower() == ".json":
                problems.add(f"expected a name <id>{ending}", file=f"{place.parent}/{path.name}")
    return tuple(sorted(ids))


def _files(layout: CohortLayout, modalities: Sequence[str]) -> list[PurePosixPath]:
    """Where the JSON files of a patient lie: the clinical one, and that of the expression if it is read."""
    return [PurePosixPath(layout.clinical), *([PurePosixPath(layout.expression)] if "rna" in modalities else [])]


def report_misplaced(
    root: Path, layout: CohortLayout, ids: Sequence[str], modalities: Sequence[str], problems: Problems
) -> None:
    """Add to ``problems`` the files in a patient's folder that are named after another patient."""
    endings = tuple(place.name.removeprefix("{id}") for place in _files(layout, modalities))
    for name in ids:
        folder = root / layout.folder(name)
        strays = misplaced_slides(folder, ids) if "slide" in modalities else []
        strays += [
            path
            for path in visible_files(folder)
            if path.name.endswith(endings) and path.name not in {f"{name}{ending}" for ending in endings}
        ]
        for path in strays:
            file = f"{layout.folder(name)}/{path.name}"
            problems.add("is not named after its folder's patient", name, file)


def misplaced_slides(folder: Path, ids: Iterable[str]) -> list[Path]:
    """Slides and masks in a patient's folder that are named after another of the patients ``ids``, or after none."""
    return [
        path
        for path in visible_files(folder)
        if "_HE" in path.stem
        and (path.suffix.lower() in {*SLIDE_SUFFIXES, *MASK_SUFFIXES} or is_slide_folder(path))
        and patient_of(path.stem, ids) != folder.name
    ]


def patient_of(stem: str, ids: Iterable[str]) -> str | None:
    """Which of ``ids`` a slide's file belongs to: the longest one that is followed by ``_HE`` in ``stem``.

    What follows ``_HE`` numbers or names one of several slides.

    >>> patient_of("3A_001_HE_2", ["3A", "3A_001"])
    '3A_001'
    """
    owners = (name for name in ids if stem.startswith(f"{name}_HE") and _NUMBERED.fullmatch(stem[len(name) + 3 :]))
    return max(owners, key=len, default=None)


def patients_slides(
    root: Path, layout: CohortLayout, ids: Sequence[str], table: OutcomesTable, problems: Problems
) -> dict[str, list[Path]]:
    """Each patient's feature files, by the table's slide_id or else by their names.

    A file that belongs to no patient, a patient without files and a listed slide without a file are problems.
    """
    listed = table.slides
    slides: dict[str, list[Path]] = {name: [] for name in ids}
    stems = _feature_files(root, layout.features, problems)
    for stem, path in stems.items():
        named = patient_of(stem, ids)
        owner = listed.get(stem, named)
        if owner is None:
            problems.add("no patient of that name; expected <id>_HE*", file=f"{path.parent.name}/{path.name}")
        elif named not in (None, owner):
            problems.add(f"is named after {named}", owner, path.name)
        elif owner in slides:
            slides[owner].append(path)
    if not stems and not listed:
        places = " or ".join(layout.features)
        lacking = f"{counted(ids, 'patient')} without tile features <id>_HE*.pt, .h5 or .hdf5 in {places}"
        problems.add(f"{lacking}; leave them out with --modalities")
        return slides
    absent = set()
    for stem, name in listed.items():
        # A slide_id that repeats the case_id names no file: those are found by the patient's name.
        if stem not in stems and name in slides and stem != name:
            problems.add(f"no features for the slide {stem}, listed in {table.name}", name)
            absent.add(name)
    for name in ids:
        if not slides[name] and name not in absent:
            problems.add(f"no features {name}_HE*.pt, .h5 or .hdf5 in {' or '.join(layout.features)}", name)
    return slides


def patients_vectors(
    root: Path, layout: CohortLayout, ids: Sequence[str], table: OutcomesTable, problems: Problems
) -> dict[str, list[Path]]:
    """Each patient's files of slide-level vectors: named after the patient, after a slide, or as the table's slide_id.

    A folder that is not there, a file that belongs to no patient, and patients without files are problems.
    """
    vectors: dict[str, list[Path]] = {name: [] for name in ids}
    if not (root / layout.vectors).is_dir():
        problems.add(f"no slide-level vectors: expected a folder {layout.vectors}; leave them out with --modalities")
        return vectors
    strangers = []
    for stem, path in _feature_files(root, (layout.vectors,), problems).items():
        owner = stem if stem in vectors else table.slides.get(stem, patient_of(stem, ids))
        if owner is None:
            strangers.append(path.name)
        elif owner in vectors:
            vectors[owner].append(path)
    if strangers:
        problems.add(f"{counted(strangers, 'file')} of no patient; expected <id> or <id>_HE*", file=layout.vectors)
    for name in ids:
        whole = [path.name for path in vectors[name] if path.stem == name]
        if not vectors[name]:
            problems.add(f"no slide-level vector {name}.h5, .hdf5 or .pt in {layout.vectors}", name)
        elif whole and len(vectors[name]) > 1:
            problems.add(f"both {whole[0]}, of all slides, and {name}_HE*; expected one or the other", name)
    return vectors


def _feature_files(root: Path, folders: Sequence[str], problems: Problems) -> dict[str, Path]:
    """Feature files by stem, sorted. Two of one slide in a folder are a problem: either could be meant."""
    stems: dict[str, Path] = {}
    for folder in folders:
        for path in visible_files(root / folder):
            if path.suffix.lower() not in FEATURE_SUFFIXES:
                continue
            first = stems.setdefault(path.stem, path)
            if first is not path and first.parent == path.parent:
                problems.add(f"both {first.name} and {path.name}; expected one file per slide", file=folder)
    return dict(sorted(stems.items()))
