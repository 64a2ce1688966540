"""The file of one slide's features: what it states of how they were made, by which a later run knows it."""

from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from survfuse.cohort.slide_list import CohortSlide
from survfuse.runtime.log import stage
from survfuse.slide.settings import SlideSettings

if TYPE_CHECKING:
    from survfuse.slide.extract import Extracted

# What features depend on, as their file states it.
_DECIDING = ("encoder", "tile_px", "tile_mpp", "min_coverage", "mask", "weights_sha256")


def features_path(folder: Path, slide: CohortSlide) -> Path:
    """Where the features of ``slide`` are written below ``folder``."""
    return folder / f"{slide.path.stem}.h5"


def write_extracted(
    path: Path,
    slide_name: str,
    settings: SlideSettings,
    extracted: "Extracted",
    weights_sha256: str | None = None,
    mask: Path | None = None,
) -> None:
    """Write one slide's features to ``path`` as HDF5 that CLAM and TRIDENT read, with everything that decided them.

    ``slide_name`` is the slide's file name without suffix, ``weights_sha256`` the checksum of the encoder's weight
    file if one was given, ``mask`` the slide's tissue mask. The file is written whole or not at all.
    """
    from survfuse.inputs.features import write_features

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


def tiles_extracted(
    folder: Path, slide: CohortSlide, settings: SlideSettings, weights_sha256: str | None
) -> int | None:
    """The number of tiles of the slide's features if these exist, complete and made in the same way; else None.

    Logs why features that exist are extracted anew.
    """
    path = features_path(folder, slide)
    if not path.exists():
        return None
    expected = _made_with(settings, weights_sha256, slide.mask)
    tiles, stated = _stated(path, settings.dimension)
    differing = [name for name in _DECIDING if stated.get(name) != expected.get(name)]
    # An assumed resolution is stated only if the slide itself stated none.
    if stated.get("assumed_mpp") not in (None, settings.assumed_mpp):
        differing.append("assumed_mpp")
    if differing:
        why = f"made with a different {', '.join(differing)}" if stated else "incomplete"
        stage("outdated", f"{path.name}: {why}; extracted anew")
    return None if differing else tiles


def _stated(path: Path, dimension: int) -> tuple[int, dict[str, object]]:
    """A feature file's tiles, and what it states about itself: nothing unless it is complete, with ``dimension``
    features a tile."""
    try:
        with h5py.File(path, "r") as file:
            features, coords = file["features"], file["coords"]
            if features.shape[1:] != (dimension,) or coords.shape != (len(features), 2):
                return 0, {}
            return len(features), {
                name: value.item() if isinstance(value, np.generic) else value for name, value in file.attrs.items()
            }
    except (OSError, RuntimeError, KeyError, ValueError, AttributeError):
        return 0, {}
