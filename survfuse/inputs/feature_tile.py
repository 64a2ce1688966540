"""Which tiles a file's features are of, as the field's tools state it."""

from pathlib import Path
from typing import TYPE_CHECKING

from survfuse.inputs.feature_hdf5 import stated
from survfuse.runtime.errors import InputError
from survfuse.runtime.files import is_number
from survfuse.slide.settings import StatedTile

if TYPE_CHECKING:
    import h5py

_MPP_AT_1X = 10.0  # µm per pixel, the usual convention for a magnification


def stated_tile(path: Path, file: "h5py.File", dataset: "h5py.Dataset") -> StatedTile | None:
    """The tile that a file's features are of; None if it does not state both its pixels and their size.

    Read are this package's ``tile_px`` and ``tile_mpp``, TRIDENT's ``patch_size`` and ``target_magnification`` of the
    coordinates, and STAMP's ``tile_size_px`` and ``tile_size_um``. Raises InputError for features that are of whole
    slides or patients (STAMP's ``feat_type``).
    """
    import h5py

    kind = stated(("feat_type",), file)
    if kind not in (None, "tile"):
        raise InputError(f"{path.name}: expected features of tiles, found those of a {str(kind)[:40]}")
    coords = file.get("coords") if isinstance(file.get("coords", getlink=True), h5py.HardLink) else None
    holders = [holder for holder in (dataset, file, coords) if holder is not None]
    px, mpp = _number("tile_px", *holders), _number("tile_mpp", *holders)
    if px and mpp:
        return StatedTile(px, mpp)
    px, magnification = _number("patch_size", *holders), _number("target_magnification", *holders)
    if px and magnification:
        return StatedTile(px, _MPP_AT_1X / magnification)
    px, width = _number("tile_size_px", *holders), _number("tile_size_um", *holders)
    return StatedTile(px, width / px) if px and width else None


def _number(name: str, *holders: "h5py.HLObject") -> float:
    """The number above 0 that an attribute states; 0 if it states none."""
    value = stated((name,), *holders)
    return float(value) if is_number(value) and value > 0 else 0.0
