"""Where the files of a cohort lie."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from survfuse.cohort.outcomes import OutcomesTable
from survfuse.cohort.problems import Problems
from survfuse.runtime.errors import InputError
from survfuse.slide.settings import FEATURE_SUFFIXES, MASK_SUFFIXES, SLIDE_SUFFIXES


def patient_of(stem: str, ids: Iterable[str]) -> str | None:
    """Which of ``ids`` a slide's file belongs to: the longest that stands before ``_HE`` at the start of ``stem``.

    What follows ``_HE`` numbers or names one of several slides.

    >>> patient_of("3A_001_HE_2", ["3A", "3A_001"])
    '3A_001'
    """
    begun = (name for name in ids if stem.startswith(f"{name}_HE") and _NUMBERED.fullmatch(stem[len(name) + 3 :]))
    return max(begun, key=len, default=None)


_NUMBERED = re.compile(r"(?![A-Za-z]).*")  # "_HEALTHY" is another word


def misplaced(folder: Path, ids: Iterable[str]) -> list[Path]:
    """Slides and masks in data/<id> that by their names belong to another patient."""
    return [
        path
        for path in visible_files(folder)
        if path.suffix.lower() in {*SLIDE_SUFFIXES, *MASK_SUFFIXES}
        and "_HE" in path.stem
        and patient_of(path.stem, ids) != folder.name
    ]


@dataclass(frozen=True)
class Layout:
    """Where files lie under the root; {id} stands for the patient's."""

    clinical: str
    expression: str
    features: tuple[str, ...]  # folders; of two files of one slide in different ones, the first folder's is read


PUBLISHED = Layout("data/{id}/{id}_CD.json", "data/{id}/{id}_RNA.json", ("features/features",))
# CLAM writes the same features into both folders; torch files can be mapped as they lie.
REFERENCE = Layout("clinics/{id}_CD.json", "seqs/{id}_RNA.json", ("pt_files", "h5_files"))


def find_layout(root: Path) -> Layout:
    theirs = [name for name in ("clinics", "seqs", *REFERENCE.features) if (root / name).is_dir()]
    published = (root / "data").is_dir()
    if published and theirs:
        raise InputError(f"{root}: both data and {', '.join(theirs)} are there; expected the folders of one layout")
    if not published and not theirs:
        raise InputError(
            f"{root}: expected patients as folders data/<id>, or in folders clinics, seqs and pt_files; found neither"
        )
    return PUBLISHED if published else REFERENCE


def visible_files(folder: Path) -> list[Path]:
    """What is in a folder, sorted; hidden files are other programs' leavings."""
    return sorted(path for path in folder.glob("*") if not path.name.startswith("."))


def patient_ids(
    root: Path, layout: Layout, table: OutcomesTable, modalities: Sequence[str], problems: Problems
) -> tuple[str, ...]:
    """Every id that a folder, a file of variables or the CSV names; one that only the CSV names is a problem."""
    if layout is PUBLISHED:
        found = {path.name for path in visible_files(root / "data") if path.is_dir()}
        for name in sorted(set(table.outcomes) - found):
            problems.add(name, f"is in {table.name}, but there is no folder data/{name}")
        return tuple(sorted(found))
    found = set(table.outcomes)
    for pattern in (layout.clinical, layout.expression) if "rna" in modalities else (layout.clinical,):
        folder, ending = pattern.split("/{id}")
        for path in visible_files(root / folder):
            name = path.name.removesuffix(ending)
            if name not in ("", path.name):
                found.add(name)
            elif path.suffix.lower() == ".json":
                problems.add(None, f"{folder}/{path.name}: expected a name <id>{ending}")
    return tuple(sorted(found))


def report_misplaced(root: Path, ids: Sequence[str], modalities: Sequence[str], problems: Problems) -> None:
    """Name files in data/<id> that are called after another patient."""
    endings = ("_CD.json", "_RNA.json") if "rna" in modalities else ("_CD.json",)
    for name in ids:
        folder = root / "data" / name
        strays = misplaced(folder, ids) if "slide" in modalities else []
        strays += [
            path
            for path in visible_files(folder)
            if path.name.endswith(endings) and path.name not in {f"{name}{ending}" for ending in endings}
        ]
        for path in strays:
            problems.add(name, f"data/{name}/{path.name}: is called after another patient than its folder")


def patients_slides(
    root: Path, layout: Layout, ids: Sequence[str], table: OutcomesTable, problems: Problems
) -> dict[str, list[Path]]:
    """Each patient's feature files, by the CSV's slide_id or else by their names; what fits nobody is a problem."""
    listed = table.slides
    slides: dict[str, list[Path]] = {name: [] for name in ids}
    stems = _feature_files(root, layout, problems)
    for stem, path in stems.items():
        called = patient_of(stem, ids)
        owner = listed.get(stem, called)
        if owner is None:
            problems.add(None, f"{path.parent.name}/{path.name}: no patient of that name; expected <id>_HE*")
        elif called not in (None, owner):
            problems.add(owner, f"{path.name}: is called after {called}")
        elif owner in slides:
            slides[owner].append(path)
    absent = set()
    for stem, name in listed.items():
        # A slide_id that repeats the case_id names no file: the files are found by the patient's name.
        if stem not in stems and name in slides and stem != name:
            problems.add(name, f"no features of the slide {stem}, listed in {table.name}")
            absent.add(name)
    for name in ids:
        if not slides[name] and name not in absent:
            problems.add(name, f"no features {name}_HE*.pt or .h5 in {' or '.join(layout.features)}")
    return slides


def _feature_files(root: Path, layout: Layout, problems: Problems) -> dict[str, Path]:
    """Feature files by their stems, sorted. A slide twice in a folder is a problem: which is meant is not plain."""
    stems: dict[str, Path] = {}
    for folder in layout.features:
        for path in visible_files(root / folder):
            if path.suffix.lower() not in FEATURE_SUFFIXES:
                continue
            first = stems.setdefault(path.stem, path)
            if first is not path and first.parent == path.parent:
                problems.add(None, f"{folder}: both {first.name} and {path.name}; expected one file a slide")
    return dict(sorted(stems.items()))
