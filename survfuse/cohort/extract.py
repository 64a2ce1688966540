"""A cohort's slides → their tile features, for every slide without any.

Slides lie in their patient's folder as <id>_HE*.tif or the like, or as a folder <id>_HE* of one slide's files,
masks beside them as <slide>_mask.tif or .mha; features are written to <slide>.h5 in the layout's folder for them.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch

from survfuse.cohort.layout import misplaced_slides, patients_folders
from survfuse.inputs.features import write_features
from survfuse.runtime.errors import BundleError, InputError, SurvfuseError
from survfuse.runtime.files import sha256
from survfuse.runtime.log import count, progress, stage, warn
from survfuse.slide.dicom import series_of
from survfuse.slide.encoders import Encoder, load_encoder
from survfuse.slide.extract import Extracted, extract
from survfuse.slide.parts import is_slide_folder, slide_file
from survfuse.slide.preview import write_preview
from survfuse.slide.settings import SlideSettings
from survfuse.slide.suffixes import FEATURE_SUFFIXES, MASK_SUFFIXES, SLIDE_SUFFIXES
from survfuse.tasks.registry import DEFAULT
from survfuse.tasks.task import Task

_DICOM = ".dcm"
_MASK = "_mask"  # ends the stem of a slide's mask
# What features depend on, as their file states it.
_DECIDING = ("encoder", "tile_px", "tile_mpp", "min_coverage", "mask", "weights_sha256")


@dataclass(frozen=True)
class CohortSlide:
    """One slide of a cohort and its tissue mask, if it has one."""

    path: Path
    mask: Path | None


@dataclass(frozen=True)
class Failure:
    """A file from which no features were extracted."""

    name: str
    cause: str


def extract_cohort(
    root: Path,
    out: Path | None,
    settings: SlideSettings,
    weights: Path | None,
    device: torch.device,
    task: Task = DEFAULT,
    previews: Path | None = None,
) -> None:
    """Write the features of every slide under ``root`` to the same layout under ``out`` (``root`` if None).

    ``weights`` is the encoder's weight file, None for the embedded encoder. The layout is the first of ``task``. A
    slide is skipped if its features are complete and were made with the same settings, weights and mask. If a slide
    fails, it is named and the others are still extracted. ``previews`` is a folder for a preview of each slide,
    <slide>.jpg, made with its features; of a slide that is skipped, only if there is none yet.

    Raises InputError that lists all failures at the end, or at once if there are no slides or the encoder cannot be
    loaded; EnvironmentFailure, at once, if the machine fails.
    """
    layout = task.layouts[0]
    slides, failures = find_slides(root, task)
    if not slides and not failures:
        names = f"{layout.folder('<id>')}/<id>_HE*{'|'.join(SLIDE_SUFFIXES)}"
        raise InputError(f"{root}: expected slides {names}, found none")
    extract_slides(str(root), slides, failures, (out or root) / layout.features[0], settings, weights, device, previews)


def extract_slides(
    source: str,
    slides: Sequence[CohortSlide],
    failures: Sequence[Failure],
    folder: Path,
    settings: SlideSettings,
    weights: Path | None,
    device: torch.device,
    previews: Path | None,
) -> None:
    """Write the features of ``slides`` to ``folder``, as ``extract_cohort`` says.

    ``failures`` are files that are no slides or not to be told apart; ``source`` is what their error begins with.
    """
    if weights is not None and not weights.is_file():
        raise InputError(f"{weights}: no such weight file")
    failed = list(failures)
    digest = sha256(weights) if weights is not None else None
    todo = [slide for slide in slides if not _is_done(folder, slide, settings, digest)]
    stage("slides", f"{count(len(slides), 'slide')}, {len(slides) - len(todo):,} already extracted")
    if previews is not None:
        previews.mkdir(parents=True, exist_ok=True)
        failed += _preview_all([slide for slide in slides if slide not in todo], folder, settings, previews)
    if todo:
        encoder = load_encoder(settings.encoder, weights, device)
        folder.mkdir(parents=True, exist_ok=True)
        failed += _extract_all(todo, folder, settings, weights, digest, encoder, previews)
    _summarise(source, len(slides), len(todo), failed)


def write_extracted(
    path: Path,
    slide_name: str,
    settings: SlideSettings,
    extracted: Extracted,
    weights_sha256: str | None = None,
    mask: Path | None = None,
) -> None:
    """Write one slide's features to ``path`` as HDF5 that CLAM and TRIDENT read, with everything that decided them.

    ``slide_name`` is the slide's file name without suffix, ``weights_sha256`` the checksum of the encoder's weight
    file if one was given, ``mask`` the slide's tissue mask. The file is written whole or not at all.
    """
    attributes = {"name": slide_name, "mpp": extracted.mpp, **_made_with(settings, weights_sha256, mask)}
    if settings.assumed_mpp is not None and extracted.mpp == (settings.assumed_mpp, settings.assumed_mpp):
        attributes["assumed_mpp"] = settings.assumed_mpp
    tile = {
        "name": slide_name,
        "patch_size": settings.tile_px,
        "patch_size_level0": round(extracted.grid.side[0]),
        "overlap": 0,
        # Magnification by the usual convention of 10 µm per pixel at 1×.
        "level0_magnification": 10.0 / extracted.mpp[0],
        "target_magnification": 10.0 / settings.mpp,
        "level0_width": extracted.grid.width,
        "level0_height": extracted.grid.height,
    }
    write_features(path, extracted.features, extracted.origins, attributes, tile)


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


def _made_with(settings: SlideSettings, weights_sha256: str | None, mask: Path | None) -> dict[str, object]:
    """What a feature file states about how it was made; its slide is skipped only if it states the same."""
    made_with: dict[str, object] = {
        "encoder": settings.encoder,
        "tile_px": settings.tile_px,
        "tile_mpp": settings.mpp,
        "min_coverage": settings.min_coverage,
    }
    if mask is not None:
        made_with["mask"] = mask.name
    if weights_sha256 is not None:
        made_with["weights_sha256"] = weights_sha256
    return made_with


def _is_done(folder: Path, slide: CohortSlide, settings: SlideSettings, weights_sha256: str | None) -> bool:
    """Whether the slide's features exist, complete and made in the same way; logs why they are extracted anew."""
    path = folder / f"{slide.path.stem}.h5"
    if not path.exists():
        return False
    expected = _made_with(settings, weights_sha256, slide.mask)
    stated = _attributes(path, settings.dimension)
    differing = [name for name in _DECIDING if stated.get(name) != expected.get(name)]
    # An assumed resolution is stated only if the slide itself stated none.
    if stated.get("assumed_mpp") not in (None, settings.assumed_mpp):
        differing.append("assumed_mpp")
    if differing:
        why = f"made with a different {', '.join(differing)}" if stated else "incomplete"
        stage("outdated", f"{path.name}: {why}; extracted anew")
    return not differing


def _attributes(path: Path, dimension: int) -> dict[str, object]:
    """What a feature file states about itself; empty unless it is complete, with ``dimension`` features a tile."""
    try:
        with h5py.File(path, "r") as file:
            features, coords = file["features"], file["coords"]
            if features.shape[1:] != (dimension,) or coords.shape != (len(features), 2):
                return {}
            return {
                name: value.item() if isinstance(value, np.generic) else value for name, value in file.attrs.items()
            }
    except (OSError, RuntimeError, KeyError, ValueError, AttributeError):
        return {}


def _extract_all(
    slides: list[CohortSlide],
    folder: Path,
    settings: SlideSettings,
    weights: Path | None,
    digest: str | None,
    encoder: Encoder,
    previews: Path | None,
) -> list[Failure]:
    """Write the features of ``slides`` into ``folder``; the slides that failed. ``digest`` is that of ``weights``."""
    failures = []
    for place, slide in enumerate(progress(slides, len(slides), "slides")):
        path = folder / f"{slide.path.stem}.h5"
        stage("slide", f"{place + 1:,} of {len(slides):,}: {slide.path.name}")
        try:
            opened = slide_file(slide.path)
            extracted = extract(opened, slide.mask, settings, weights, encoder.device, InputError, lambda: encoder)
            write_extracted(path, slide.path.stem, settings, extracted, digest, slide.mask)
            if previews is not None:
                write_preview(_preview(previews, slide), opened, slide.mask, settings, extracted.origins)
        except (InputError, BundleError) as error:  # this slide's fault; a failure of the machine ends the run
            failures.append(_failure(slide, error))
            continue
        for other in (path.with_suffix(suffix) for suffix in FEATURE_SUFFIXES):
            if other != path and other.exists():
                warn(f"{other.name} lies next to {path.name}; a cohort takes one file per slide")
    return failures


def _preview_all(slides: list[CohortSlide], folder: Path, settings: SlideSettings, previews: Path) -> list[Failure]:
    """Write the previews that ``slides`` with features in ``folder`` do not have yet; the slides that failed."""
    failures = []
    missing = [slide for slide in slides if not _preview(previews, slide).exists()]
    for slide in progress(missing, len(missing), "previews"):
        with h5py.File(folder / f"{slide.path.stem}.h5", "r") as file:
            origins = file["coords"][()].astype(np.int64)
        try:
            write_preview(_preview(previews, slide), slide_file(slide.path), slide.mask, settings, origins)
        except InputError as error:
            failures.append(_failure(slide, error))
    if missing:
        stage("previews", f"{len(missing) - len(failures):,} of {count(len(missing), 'slide')} already extracted")
    return failures


def _preview(previews: Path, slide: CohortSlide) -> Path:
    return previews / f"{slide.path.stem}.jpg"


def _failure(slide: CohortSlide, error: SurvfuseError) -> Failure:
    """What is said at the end of a slide that failed, which is also warned of at once."""
    warn(f"{slide.path.name} failed: {error}")
    return Failure(f"{slide.path.parent.name}/{slide.path.name}", str(error))


def _summarise(source: str, slides: int, todo: int, failures: list[Failure]) -> None:
    """Log the result; raises InputError that lists the failures, if there are any."""
    for failure in failures:
        stage("failed", f"{failure.name}: {failure.cause}")
    if failures:
        causes = "; ".join(f"{failure.name}: {failure.cause}" for failure in failures)
        raise InputError(f"{source}: no features extracted from {count(len(failures), 'file')}: {causes}")
    stage("written", f"features of {count(todo, 'slide')}; {slides - todo:,} already extracted")
