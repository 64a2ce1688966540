"""A case's slide for the page: a picture of the whole, the outline of its tissue, and single tiles."""

import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray
from PIL import Image

from survfuse.explanation.explanation import Explanation
from survfuse.runtime.arrays import Bools
from survfuse.runtime.log import recorded
from survfuse.slide.overview import overview, tissue_map
from survfuse.slide.parts import slide_file
from survfuse.slide.pixels import Slide
from survfuse.slide.tile_places import TilePlaces

_LONGEST = 2400  # pixels of the picture of a slide
_QUALITY = 80  # of JPEG
_TILE = 224  # pixels of a tile's picture, across and down
_CELLS = 512  # of the tissue map that is outlined, across and down
_SMALLEST = 0.05  # of a tile's area: outlines of less are left out

Polygon = NDArray[np.int64]  # [K, 2] x, y in level-0 pixels; it is closed from the last to the first


@dataclass(frozen=True, eq=False)
class Pictures:
    """What is seen of a slide; pictures are JPEG files in memory."""

    whole: bytes
    size: tuple[int, int]  # width and height of ``whole`` in pixels
    outline: tuple[Polygon, ...]  # of the tissue, holes included
    tiles: Mapping[int, bytes]  # by row


def pictures(explanation: Explanation, rows: Collection[int]) -> Pictures | None:
    """The slide of an explained case, and its tiles at ``rows``; None for a case without a slide's pixels.

    Raises InputError if the slide can no longer be read.
    """
    case, places, settings = explanation.case, explanation.places, explanation.bundle.manifest.slide
    if case.slide is None or places is None:
        return None
    # What there is to say of the slide was said when its tiles were read.
    with recorded(show=False), Slide(slide_file(case.slide), settings.assumed_mpp) as slide:
        whole, _ = overview(slide, _LONGEST)
        tissue = tissue_map(slide, case.mask, settings)
        tiles = {row: _jpeg(_tile(slide, places, row)) for row in rows}
    return Pictures(_jpeg(whole), whole.size, outline(tissue, places), tiles)


def outline(tissue: Bools, places: TilePlaces) -> tuple[Polygon, ...]:
    """The boundaries of a ``tissue`` map [h, w] that is stretched over the slide of ``places``, holes included.

    Lines run halfway between what is tissue and what is not. Boundaries of a small part of a tile are left out.
    """
    height, width = (min(_CELLS, cells) for cells in tissue.shape)
    reduced = Image.fromarray(tissue.astype(np.uint8) * 255).resize((width, height), Image.Resampling.BOX)
    share = np.pad(np.asarray(reduced) / 255.0, 1)  # tissue at the border is outlined, too
    scale = np.array([places.size[0] / width, places.size[1] / height])  # level-0 pixels per cell
    polygons = []
    for line in contour_generator(z=share).lines(0.5):
        corners = (np.asarray(line)[:-1] - 0.5) * scale
        if _area(corners) >= _SMALLEST * places.side[0] * places.side[1]:
            polygons.append(np.clip(np.rint(corners), 0, places.size).astype(np.int64))
    return tuple(polygons)


def _area(corners: NDArray[np.float64]) -> float:
    """The area of a polygon [K, 2], by the shoelace formula."""
    x, y = corners.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2.0


def _tile(slide: Slide, places: TilePlaces, row: int) -> Image.Image:
    x, y = places.origins[row].tolist()
    return Image.fromarray(slide.read((x, y), places.side, (_TILE, _TILE)))


def _jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
