"""A whole slide at the resolution at which tissue is looked for."""

import numpy as np

from survfuse.runtime.arrays import Bools, Pixels
from survfuse.runtime.errors import InputError
from survfuse.slide.damage import MOST_DAMAGED, DamagedRegionError
from survfuse.slide.grid import Grid
from survfuse.slide.masks import PIXELS_PER_TILE
from survfuse.slide.pixels import Slide

_READ = 2048  # pixels, across and down, that are read of a slide at once


def reduced_image(slide: Slide, grid: Grid, most_unread: float = MOST_DAMAGED) -> tuple[Pixels, Bools]:
    """The slide as RGB [h, w, 3], PIXELS_PER_TILE pixels per tile, and which pixels [h, w] cannot be read.

    Those are white. Raises InputError if more than the share ``most_unread`` of the slide cannot be read.
    """
    step = (grid.side[0] / PIXELS_PER_TILE, grid.side[1] / PIXELS_PER_TILE)  # level-0 pixels per pixel read
    size = (max(1, round(slide.size[0] / step[0])), max(1, round(slide.size[1] / step[1])))
    reduced = _Reduced(slide, size, most_unread)
    # A slide of one level is read at full resolution, and therefore in smaller parts.
    block = max(1, int(_READ / min(slide.excess(min(reduced.step)), 16 * PIXELS_PER_TILE)))
    for top in range(0, size[1], block):
        for left in range(0, size[0], block):
            reduced.read(left, top, min(block, size[0] - left), min(block, size[1] - top))
    return reduced.rgb, reduced.unread


class _Reduced:
    """A slide in ``size`` (width, height) pixels, and which of these could not be read."""

    def __init__(self, slide: Slide, size: tuple[int, int], most_unread: float) -> None:
        self._slide, self._most_unread = slide, most_unread
        self.step = (slide.size[0] / size[0], slide.size[1] / size[1])  # level-0 pixels per pixel
        self.rgb = np.full((size[1], size[0], 3), 255, dtype=np.uint8)
        self.unread = np.zeros((size[1], size[0]), dtype=bool)

    def read(self, left: int, top: int, width: int, height: int) -> None:
        """Fill this rectangle; if it cannot be read whole, in parts, down to the size of a tile."""
        origin = (round(left * self.step[0]), round(top * self.step[1]))
        place = (slice(top, top + height), slice(left, left + width))
        try:
            self.rgb[place] = self._slide.read(origin, (width * self.step[0], height * self.step[1]), (width, height))
        except DamagedRegionError as problem:
            if max(width, height) > PIXELS_PER_TILE:
                for x, part_width in _halves(width):
                    for y, part_height in _halves(height):
                        self.read(left + x, top + y, part_width, part_height)
                return
            self.unread[place] = True
            if self.unread.mean() > self._most_unread:
                share = f"{self._most_unread:.0%} of the slide"
                raise InputError(f"{self._slide.name}: more than {share} cannot be read; {problem}") from problem


def _halves(length: int) -> list[tuple[int, int]]:
    """Start and length of both halves of a length, the first of whole tiles; the length itself if within a tile."""
    if length <= PIXELS_PER_TILE:
        return [(0, length)]
    first = max(1, length // 2 // PIXELS_PER_TILE) * PIXELS_PER_TILE
    return [(0, first), (first, length - first)]
