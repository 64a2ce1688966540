"""A slide with its tissue and its tiles, to check by eye what was found."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from survfuse.runtime.arrays import Bools
from survfuse.runtime.errors import InputError
from survfuse.runtime.files import atomic_path
from survfuse.slide.grid import Grid
from survfuse.slide.overview import overview, tissue_map
from survfuse.slide.pixels import Slide
from survfuse.slide.settings import SlideSettings
from survfuse.slide.tile_places import TilePlaces

SUFFIXES = (".jpg", ".jpeg")
LONGEST = 2000  # px, across or down
# Blue and green of Okabe and Ito, which stand out from stained tissue with every type of colour vision.
TILE, OUTLINE = (0, 114, 178), (0, 158, 115)

_WIDTH = 2  # px on both sides of the tissue's border
_TILE_PER_LINE, _WIDEST = 40, 3  # a tile is so many times as wide as its line, which has at most so many px
_QUALITY = 90


def check_preview(path: Path) -> None:
    """Raise InputError for a ``path`` whose name is not that of a JPEG."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: a preview is a JPEG; expected a name that ends in {' or '.join(SUFFIXES)}")


def write_preview(
    path: Path, slide: Path, mask: Path | None, settings: SlideSettings, origins: NDArray[np.int64]
) -> None:
    """Write the picture of a slide to ``path`` as JPEG, at most LONGEST pixels across and down, whole or not at all.

    A green line runs around the tissue, as ``mask`` or the slide's colours show it; the tiles kept, which begin at the
    level-0 ``origins`` [N, 2], are outlined in blue. Raises InputError for a slide or mask that cannot be read.
    """
    with Slide(slide, settings.assumed_mpp) as opened:
        picture, downsample = overview(opened, LONGEST)
        tissue = tissue_map(opened, mask, settings)
        grid = Grid.over(opened.size, opened.mpp, settings.tile_px, settings.mpp, name=opened.name)
    _draw_tiles(picture, TilePlaces(origins, grid.side, opened.size), downsample)
    drawn = _with_outline(picture, tissue)
    with atomic_path(path) as temporary:
        drawn.save(temporary, format="JPEG", quality=_QUALITY, subsampling=0)


def _draw_tiles(picture: Image.Image, places: TilePlaces, downsample: float) -> None:
    """Outline each tile; tiles side by side share a line, which is wider where tiles are large."""
    width = min(max(1, int(min(places.side) / downsample / _TILE_PER_LINE)), _WIDEST)
    last = (picture.width - 1, picture.height - 1)
    pen = ImageDraw.Draw(picture)
    for left, top, right, bottom in (places.corners() / downsample).round().tolist():
        pen.rectangle((left, top, min(right, last[0]), min(bottom, last[1])), outline=TILE, width=width)


def _with_outline(picture: Image.Image, tissue: Bools) -> Image.Image:
    """The picture with a line along the border of ``tissue`` [h, w], which is stretched over it."""
    stretched = Image.fromarray(tissue).resize(picture.size, Image.Resampling.NEAREST)
    inside = np.asarray(stretched, dtype=bool)
    pixels = np.array(picture)
    pixels[_near_another(inside, _WIDTH)] = OUTLINE
    return Image.fromarray(pixels)


def _near_another(values: Bools, distance: int) -> Bools:
    """Where [h, w] a pixel of the other value lies within ``distance`` pixels across or down."""
    near = np.zeros(values.shape, dtype=bool)
    for step in range(1, distance + 1):
        across = values[:, step:] != values[:, :-step]
        down = values[step:] != values[:-step]
        near[:, step:] |= across
        near[:, :-step] |= across
        near[step:] |= down
        near[:-step] |= down
    return near
