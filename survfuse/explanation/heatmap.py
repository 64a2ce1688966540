"""A case's heat map as pyramidal TIFF, aligned with the slide: values in float32, and the same in colours.

Both are tiled, which viewers want of a pyramid. OpenSlide and SimpleITK read only the colours: neither reads float32
from TIFF tiles. The values are read by tifffile, libvips, Bio-Formats and QuPath.
"""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray

from survfuse import __version__
from survfuse.explanation.colours import COLOURS, LOWERS, NEUTRAL, NOT_TOLD, PALER, RAISES, colour_limit, diverging
from survfuse.explanation.explanation import Explanation
from survfuse.explanation.heatmap_raster import TILE, HeatMap, Raster, heat_map
from survfuse.explanation.out_folder import COLOURED, HEATMAP
from survfuse.runtime.files import atomic_path

UNIT = "standard deviations of the reference risks (log relative hazard)"

_MICRONS = 1e4  # in a centimetre


def write_heatmaps(folder: Path, explanation: Explanation) -> None:
    """Write heatmap.tif and heatmap-rgba.tif into ``folder``, each whole or not at all.

    The first has each tile's contribution as float32: a pixel takes that of the tile that its centre lies in, NaN where
    there is none; ``heat_map`` says at which downsample. The second has the same pixels in the colours of
    ``diverging``, with the full colour from the 99th percentile of |contribution| on, and alpha 0 outside of tiles.

    The resolution is stated if the slide's is known. ImageDescription is a JSON object: what the image is, the case,
    the downsample, the unit, the colours. The explanation must have ``mapped`` tiles.
    """
    assert explanation.mapped is not None
    whole = heat_map(*explanation.mapped)
    with atomic_path(folder / HEATMAP) as temporary, temporary.open("wb") as file:
        _write_values(file, explanation, whole)
    with atomic_path(folder / COLOURED) as temporary, temporary.open("wb") as file:
        _write_colours(file, explanation, whole)


def heatmap_bytes(explanation: Explanation) -> bytes:
    """What ``write_heatmaps`` writes to heatmap.tif."""
    assert explanation.mapped is not None
    file = io.BytesIO()
    _write_values(file, explanation, heat_map(*explanation.mapped))
    return file.getvalue()


def _write_values(file: BinaryIO, explanation: Explanation, whole: HeatMap) -> None:
    assert explanation.mapped is not None
    places, _ = explanation.mapped
    with tifffile.TiffWriter(file) as tiff:
        for level in whole.levels():
            about = _described(explanation, whole) if level is whole else None
            _add(tiff, level.values, level.values.shape, places.mpp, level, about)


def _write_colours(file: BinaryIO, explanation: Explanation, whole: HeatMap) -> None:
    assert explanation.mapped is not None
    places, parts = explanation.mapped
    limit = colour_limit(parts.values)
    colours = {
        "colours": {str(-limit): COLOURS[LOWERS], "0": NEUTRAL, str(limit): COLOURS[RAISES]},
        NOT_TOLD: f"{PALER:.0%} paler",
    }
    with tifffile.TiffWriter(file) as tiff:
        for level in whole.levels():
            about = _described(explanation, whole) | colours if level is whole else None
            _add(tiff, _coloured(level, limit), (*level.values.shape, 4), places.mpp, level, about)


def _described(explanation: Explanation, whole: HeatMap) -> dict[str, object]:
    return {
        "image": "survfuse heat map: each tile's contribution to the case's risk",
        "case": explanation.prediction.name,
        "downsample": whole.downsample,
        "unit": UNIT,
    }


def _coloured(level: HeatMap, limit: float) -> Iterator[NDArray[np.uint8]]:
    """The TIFF's tiles [256, 256, 4], row by row, each coloured when it is written."""
    height, width = level.values.shape
    told = level.told
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            part = slice(top, top + TILE), slice(left, left + TILE)
            rgba = diverging(level.values[part], told[part], limit)
            yield np.pad(rgba, ((0, TILE - rgba.shape[0]), (0, TILE - rgba.shape[1]), (0, 0)))


def _add(
    tiff: tifffile.TiffWriter,
    data: Raster | Iterator[NDArray[np.uint8]],
    shape: tuple[int, ...],
    mpp: tuple[float, float] | None,
    level: HeatMap,
    about: dict[str, object] | None,
) -> None:
    """Add a level of ``shape``, [H, W] of values or [H, W, 4] of colours; ``about`` is what the first one states."""
    coloured = len(shape) == 3
    tiff.write(
        data,
        shape=shape,
        dtype=np.uint8 if coloured else np.float32,
        photometric="rgb" if coloured else "minisblack",
        extrasamples=("unassalpha",) if coloured else None,
        tile=(TILE, TILE),
        compression="adobe_deflate",
        resolution=_per_centimetre(mpp, level.downsample) if mpp is not None else None,
        resolutionunit="CENTIMETER" if mpp is not None else None,
        subfiletype=0 if about is not None else 1,
        description=json.dumps(about) if about is not None else None,
        software=f"survfuse {__version__}",
        metadata=None,
    )


def _per_centimetre(mpp: tuple[float, float], downsample: float) -> tuple[float, float]:
    """Pixels of a map, across and down."""
    return _MICRONS / (mpp[0] * downsample), _MICRONS / (mpp[1] * downsample)
