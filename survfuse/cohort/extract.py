"""A whole cohort's slides → their tile features, as far as they are not there yet.

data/<id>/<id>_HE*.tif and the like, with masks <slide>_mask.tif or .mha beside them, become
features/features/<slide>.h5.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from survfuse.cohort.layout import misplaced
from survfuse.inputs.features import write_features
from survfuse.runtime.errors import BundleError, InputError
from survfuse.runtime.files import sha256
from survfuse.runtime.log import count, progress, stage, warn
from survfuse.slide.encoders import Encoder, load_encoder
from survfuse.slide.extract import Extracted, extract
from survfuse.slide.settings import MASK_SUFFIXES, SLIDE_SUFFIXES, SlideSettings

_MASK = "_mask"  # ends the stem of a slide's mask


@dataclass(frozen=True)
class CohortSlide:
    """One slide of a cohort and its tissue mask, if it has one."""

    path: Path
    mask: Path | None


@dataclass(frozen=True)
class Failure:
    """A file that gave no features, and why."""

    name: str
    cause: str


def extract_cohort(
    root: Path, out: Path | None, settings: SlideSettings, weights: Path | None, device: torch.device
) -> None:
    """Write the features of every slide under ``root``/data to features/features under ``out`` (``root`` if None).

    A slide whose features are there, whole and made by the same settings, weights and mask, is passed over. One that
    fails is named and the others go on; InputError then lists them all at the end. Raises at once where there is no
    slide, where the encoder cannot be loaded, and where the machine fails.
    """
    if weights is not None and not weights.is_file():
        raise InputError(f"{weights}: no such weight file")
    slides, failures = find_slides(root)
    if not slides and not failures:
        raise InputError(f"{root}: expected slides data/<id>/<id>_HE*{'|'.join(SLIDE_SUFFIXES)}, found none")
    folder = (out or root) / "features" / "features"
    folder.mkdir(parents=True, exist_ok=True)
    digest = sha256(weights) if weights is not None else None
    todo = [slide for slide in slides if not _is_done(folder, slide, settings, digest)]
    stage("slides", f"{count(len(slides), 'slide')}, {len(slides) - len(todo):,} with features already")
    if todo:
        encoder = load_encoder(settings.encoder, weights, device)
        failures += _extract_all(todo, folder, settings, weights, digest, encoder)
    _summarise(root, len(slides), len(todo), failures)


def write_extracted(
    path: Path,
    slide_name: str,
    settings: SlideSettings,
    found: Extracted,
    weights_sha256: str | None = None,
    mask: Path | None = None,
) -> None:
    """Write one slide's features as HDF5 that CLAM and TRIDENT read, with all that decided what they are.

    ``slide_name`` is the slide's file name without suffix; ``weights_sha256`` that of the encoder's weight file, where
    one was given. The file is written whole or not at all.
    """
    attributes = {"name": slide_name, "mpp": found.mpp, **_stated(settings, weights_sha256, mask)}
    if settings.assumed_mpp is not None and found.mpp == (settings.assumed_mpp, settings.assumed_mpp):
        attributes["assumed_mpp"] = settings.assumed_mpp
    tile = {
        "name": slide_name,
        "patch_size": settings.tile_px,
        "patch_size_level0": round(found.grid.side[0]),
        "overlap": 0,
        # Magnification by the usual convention of 10 µm per pixel at 1×.
        "level0_magnification": 10.0 / found.mpp[0],
        "target_magnification": 10.0 / settings.mpp,
        "level0_width": found.grid.width,
        "level0_height": found.grid.height,
    }
    write_features(path, found.features, found.origins, attributes, tile)


def find_slides(root: Path) -> tuple[list[CohortSlide], list[Failure]]:
    """Every slide under ``root``/data with its mask, and the files whose names do not tell what they belong to."""
    folders = sorted(path for path in (root / "data").glob("*") if path.is_dir())
    ids = [folder.name for folder in folders]
    slides: list[CohortSlide] = []
    failures: list[Failure] = []
    for folder in folders:
        strays = misplaced(folder, ids)
        failures += [
            Failure(f"{folder.name}/{path.name}", "is called after another patient than its folder") for path in strays
        ]
        found, unclear = _slides_in(folder, set(strays))
        slides += found
        failures += unclear
    return slides, failures


def _slides_in(folder: Path, strays: set[Path]) -> tuple[list[CohortSlide], list[Failure]]:
    """The slides of one patient; a slide of two files or two masks, and a mask without its slide, fail."""
    files = [path for path in sorted(folder.glob(f"{folder.name}_HE*")) if path.is_file() and path not in strays]
    masks = [path for path in files if path.stem.endswith(_MASK) and path.suffix.lower() in MASK_SUFFIXES]
    images = [path for path in files if path.suffix.lower() in SLIDE_SUFFIXES and path not in masks]
    stems = Counter(path.stem for path in images)
    slides, failures = [], []
    for path in images:
        own = [mask for mask in masks if mask.stem == path.stem + _MASK]
        name = f"{folder.name}/{path.name}"
        if stems[path.stem] > 1:
            failures.append(Failure(name, "another file is of the same slide"))
        elif len(own) > 1:
            failures.append(Failure(name, f"has {len(own)} masks: {', '.join(mask.name for mask in own)}"))
        else:
            slides.append(CohortSlide(path, own[0] if own else None))
    for mask in masks:
        if mask.stem.removesuffix(_MASK) not in stems:
            failures.append(Failure(f"{folder.name}/{mask.name}", "is the mask of no slide"))
    return slides, failures


def _stated(settings: SlideSettings, weights_sha256: str | None, mask: Path | None) -> dict[str, Any]:
    """What a feature file says of how it was made, and must say for its slide to be passed over."""
    stated: dict[str, Any] = {
        "encoder": settings.encoder,
        "tile_px": settings.tile_px,
        "tile_mpp": settings.mpp,
        "min_coverage": settings.min_coverage,
    }
    if mask is not None:
        stated["mask"] = mask.name
    if weights_sha256 is not None:
        stated["weights_sha256"] = weights_sha256
    return stated


def _is_done(folder: Path, slide: CohortSlide, settings: SlideSettings, weights_sha256: str | None) -> bool:
    path = folder / f"{slide.path.stem}.h5"
    if not path.exists():
        return False
    expected = _stated(settings, weights_sha256, slide.mask)
    found = _attributes(path, settings.dimension)
    differing = [name for name in ("mask", "weights_sha256", *expected) if found.get(name) != expected.get(name)]
    # An assumed resolution counts only where the slide stated none.
    if found.get("assumed_mpp") not in (None, settings.assumed_mpp):
        differing.append("assumed_mpp")
    if differing:
        stage("again", f"{path.name}: made otherwise ({', '.join(dict.fromkeys(differing))})" if found else path.name)
    return not differing


def _attributes(path: Path, dimension: int) -> dict[str, Any]:
    """What a feature file says of itself; nothing where it is not a whole one of ``dimension`` features a tile."""
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
) -> list[Failure]:
    """Write the features of ``slides``; those that failed."""
    failures = []
    for place, slide in enumerate(progress(slides, len(slides), "slides")):
        path = folder / f"{slide.path.stem}.h5"
        stage("slide", f"{place + 1:,} of {len(slides):,}: {slide.path.name}")
        try:
            found = extract(slide.path, slide.mask, settings, weights, encoder.device, InputError, encoder)
        except (InputError, BundleError) as error:  # of this slide; what ails the machine ends the run
            warn(f"{slide.path.name} fails: {error}")
            failures.append(Failure(f"{slide.path.parent.name}/{slide.path.name}", str(error)))
            continue
        write_extracted(path, slide.path.stem, settings, found, digest, slide.mask)
        if path.with_suffix(".pt").exists():
            warn(f"{path.with_suffix('.pt').name} lies beside {path.name}; a cohort takes one file a slide")
    return failures


def _summarise(root: Path, slides: int, todo: int, failures: list[Failure]) -> None:
    """Say how it went; raises InputError that lists what failed."""
    for failure in failures:
        stage("failed", f"{failure.name}: {failure.cause}")
    if failures:
        causes = "; ".join(f"{failure.name}: {failure.cause}" for failure in failures)
        raise InputError(f"{root}: no features of {count(len(failures), 'file')}: {causes}")
    stage("written", f"features of {count(todo, 'slide')}, {slides - todo:,} were there")
