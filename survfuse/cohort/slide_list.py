"""A cohort's slides with their masks, found by the names of files and folders."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from survfuse.cohort.layout import misplaced_slides, patients_folders
from survfuse.slide.dicom import series_of
from survfuse.slide.parts import is_slide_folder
from survfuse.slide.suffixes import MASK_SUFFIXES, SLIDE_SUFFIXES
from survfuse.tasks.registry import DEFAULT
from survfuse.tasks.task import Task

_DICOM = ".dcm"
_MASK = "_mask"  # ends the stem of a slide's mask


@dataclass(frozen=True, slots=True)
class CohortSlide:
    """One slide of a cohort and its tissue mask, if it has one."""

    path: Path
    mask: Path | None

    @property
    def name(self) -> str:
        """The slide's file in its folder: the same wherever the cohort lies."""
        return f"{self.path.parent.name}/{self.path.name}"

    def absolute(self) -> "CohortSlide":
        """The same files, for a process with another working folder."""
        return CohortSlide(self.path.absolute(), self.mask.absolute() if self.mask is not None else None)


@dataclass(frozen=True)
class Failure:
    """A file from which no features were extracted. ``is_machine``: the machine failed, not the file."""

    name: str
    cause: str
    is_machine: bool = False


def find_slides(root: Path, task: Task = DEFAULT) -> tuple[list[CohortSlide], list[Failure]]:
    """Every slide under ``root`` with its mask, and the files whose names do not show what they belong to."""
    folders = patients_folders(root, task.layouts[0])
    ids = [folder.name for folder in folders]
    slides: list[CohortSlide] = []
    failures: list[Failure] = []
    for folder in folders:
        strays = misplaced_slides(folder, ids)
        failures += [
            Failure(f"{folder.name}/{path.name}", "is not named after its folder's patient") for path in strays
        ]
        own, unclear = _slides_in(folder, set(strays))
        slides += own
        failures += unclear
    return slides, failures


def _slides_in(folder: Path, strays: set[Path]) -> tuple[list[CohortSlide], list[Failure]]:
    """One patient's slides. A slide with two files or two masks is a failure, and so is a mask without its slide."""
    found = [path for path in sorted(folder.glob(f"{folder.name}_HE*")) if path not in strays]
    files = [path for path in found if path.is_file()]
    masks = [path for path in files if path.stem.endswith(_MASK) and path.suffix.lower() in MASK_SUFFIXES]
    images = [path for path in files if path.suffix.lower() in SLIDE_SUFFIXES and path not in masks]
    series = {path: uid for path in images if path.suffix.lower() == _DICOM and (uid := series_of(path))}
    files_of = Counter(series.values())
    images = sorted([*images, *(path for path in found if is_slide_folder(path))])
    stems = Counter(path.stem for path in images)
    slides, failures = [], []
    for path in images:
        own = [mask for mask in masks if mask.stem == path.stem + _MASK]
        name = f"{folder.name}/{path.name}"
        if stems[path.stem] > 1:
            failures.append(Failure(name, "there is another file of the same slide"))
        elif files_of[series.get(path, "")] > 1:
            failures.append(Failure(name, "is one of several DICOM files of a slide; expected a folder with these"))
        elif len(own) > 1:
            failures.append(Failure(name, f"has {len(own)} masks: {', '.join(mask.name for mask in own)}"))
        else:
            slides.append(CohortSlide(path, own[0] if own else None))
    for mask in masks:
        if mask.stem.removesuffix(_MASK) not in stems:
            failures.append(Failure(f"{folder.name}/{mask.name}", "is a mask without a slide"))
    return slides, failures
