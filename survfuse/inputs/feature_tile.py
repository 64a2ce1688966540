"""Which tiles a file's features are of, as the field's tools state it."""

from pathlib import Path
from typing import TYPE_CHECKING

from survfuse.inputs.feature_hdf5 import own_object, stated, stated_number
from survfuse.runtime.errors import InputError
from survfuse.slide.stated_tile import StatedTile

if TYPE_CHECKING:
    import h5py

_MPP_AT_1X = 10.0  # µm per pixel, the usual convention for a magnification


def stated_tile(path: Path, file: "h5py.File", dataset: "h5py.Dataset") -> StatedTile | None:
    """The tile that a file's features are of; None if it does not state its width on the slide.

    Read are this package's ``tile_px`` and ``tile_mpp``; of the coordinates, TRIDENT's ``patch_size`` and
    ``target_magnification`` or else ``patch_size_level0`` and ``level0_magnification``; and STAMP's ``tile_size_um``
    with ``tile_size_px``, or ``tile_size`` in its older files. Raises InputError for features that are of whole slides
    or patients (STAMP's ``feat_type``).
    """
    kind = stated(("feat_type",), file)
    if kind not in (None, "tile"):
        raise InputError(
            f"{path.name}: expected features of tiles, found those of a {str(kind)[:40]}; slide-level vectors are the "
            "modality vector"
        )
    holders = [holder for holder in (dataset, file, own_object(file, "coords")) if holder is not None]
    px, mpp = stated_number("tile_px", *holders), stated_number("tile_mpp", *holders)
    if px and mpp:
        return StatedTile(px, mpp)
    for pixels, magnification in (
        ("patch_size", "target_magnification"),
        ("patch_size_level0", "level0_magnification"),
    ):
        px, times = stated_number(pixels, *holders), stated_number(magnification, *holders)
        if px and times:
            return StatedTile(px, _MPP_AT_1X / times)
    width = stated_number("tile_size_um", *holders)
    if not width and stated(("unit",), *holders) == "um":
        width = stated_number("tile_size", *holders)
    px = stated_number("tile_size_px", *holders) if width else 0.0
    return (StatedTile(px, width / px) if px else StatedTile(None, width)) if width else None
