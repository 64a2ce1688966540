"""Which tiles hold tissue: from the mask given, or else from the slide's own colours."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from survfuse.runtime.arrays import Bools
from survfuse.runtime.errors import InputError, NoTissueError
from survfuse.runtime.log import count, warn
from survfuse.slide.colour import STAINED, saturation
from survfuse.slide.coverage import Block, coverage, covered
from survfuse.slide.damage import MOST_DAMAGED, DamagedRegionError
from survfuse.slide.grid import Grid
from survfuse.slide.mask_check import mask_problem
from survfuse.slide.masks import PIXELS_PER_TILE, mask_coverage
from survfuse.slide.pixels import Slide

_FEW = 4  # tiles of a slide that is hardly one: its resolution may be why
_READ = 2048  # pixels, across and down, that are read of a slide at once


@dataclass(frozen=True)
class Tissue:
    """The tiles that hold tissue."""

    origins: NDArray[np.int64]  # [N, 2] level-0 x, y, row by row
    tiles: int  # of the whole grid
    found_by: str  # in words, for the log


def find_tissue(slide: Slide, grid: Grid, mask: Path | None, least: float) -> Tissue:
    """The tiles of which at least the share ``least`` is tissue.

    Without a mask, or with one that does not distinguish tissue from glass, tissue is found by saturation (Otsu).
    Raises NoTissueError if no tile qualifies, and InputError for a mask that cannot be read or has a different shape,
    a slide without colour, and a slide of which too much cannot be read.
    """
    share, found_by = None, "no mask given; tissue found by saturation"
    if mask is not None:
        share, found_by = mask_coverage(mask, slide, grid)
        if problem := mask_problem(share, slide, grid):
            share, found_by = None, f"the mask {problem}; tissue found by saturation"
            warn(f"{mask.name}: {found_by}")
    if share is None:
        tissue, threshold = saturated(slide, grid)
        found_by = f"{found_by} above {threshold} of 255"
        share = coverage(grid, (tissue.shape[1], tissue.shape[0]), [Block(0, 0, tissue)])
    origins = grid.origins(covered(share, least))
    if not len(origins):
        few = f"; its {slide.mpp[0]:.3g} µm per pixel make it that small" if len(grid) <= _FEW else ""
        raise NoTissueError(
            f"{slide.name}: none of {count(len(grid), 'tile')} is at least {least:.0%} tissue ({found_by}){few}"
        )
    return Tissue(origins, len(grid), found_by)


def saturated(slide: Slide, grid: Grid) -> tuple[Bools, int]:
    """Tissue by saturation, as a mask [h, w] stretched over the slide, and the threshold used, of 255.

    The HSV saturation of a reduced image is smoothed by a median and split by Otsu's method (Otsu 1979). What cannot be
    read counts as tissue, so that its tiles are tried. Raises InputError if that is too much of the slide.
    """
    import SimpleITK as sitk

    step = (grid.side[0] / PIXELS_PER_TILE, grid.side[1] / PIXELS_PER_TILE)  # level-0 pixels per pixel read
    size = (max(1, round(slide.size[0] / step[0])), max(1, round(slide.size[1] / step[1])))
    reduced = _Reduced(slide, size)
    # A slide of one level is read at full resolution, and therefore in smaller parts.
    block = max(1, int(_READ / min(slide.excess(min(reduced.step)), 16 * PIXELS_PER_TILE)))
    for top in range(0, size[1], block):
        for left in range(0, size[0], block):
            reduced.read(left, top, min(block, size[0] - left), min(block, size[1] - top))
    smooth = sitk.Median(sitk.GetImageFromArray(reduced.saturation), [3, 3])
    otsu = sitk.OtsuThresholdImageFilter()
    otsu.Execute(smooth)
    # At least that of stained pixels: a slide without tissue has no second class for Otsu to find.
    threshold = max(int(otsu.GetThreshold()), STAINED)
    return (sitk.GetArrayViewFromImage(smooth) > threshold) | reduced.unread, threshold


class _Reduced:
    """A slide's saturation in ``size`` (width, height) pixels, and which of these could not be read."""

    def __init__(self, slide: Slide, size: tuple[int, int]) -> None:
        self._slide = slide
        self.step = (slide.size[0] / size[0], slide.size[1] / size[1])  # level-0 pixels per pixel
        self.saturation = np.zeros((size[1], size[0]), dtype=np.uint8)
        self.unread = np.zeros((size[1], size[0]), dtype=bool)

    def read(self, left: int, top: int, width: int, height: int) -> None:
        """Fill this rectangle; if it cannot be read whole, in parts, down to the size of a tile."""
        origin = (round(left * self.step[0]), round(top * self.step[1]))
        place = (slice(top, top + height), slice(left, left + width))
        try:
            rgb = self._slide.read(origin, (width * self.step[0], height * self.step[1]), (width, height))
            self.saturation[place] = saturation(rgb)
        except DamagedRegionError as problem:
            if max(width, height) > PIXELS_PER_TILE:
                for x, part_width in _halves(width):
                    for y, part_height in _halves(height):
                        self.read(left + x, top + y, part_width, part_height)
                return
            self.unread[place] = True
            if self.unread.mean() > MOST_DAMAGED:
                share = f"{MOST_DAMAGED:.0%} of the slide"
                raise InputError(f"{self._slide.name}: more than {share} cannot be read; {problem}") from problem


def _halves(length: int) -> list[tuple[int, int]]:
    """Start and length of both halves of a length, the first of whole tiles; the length itself if within a tile."""
    if length <= PIXELS_PER_TILE:
        return [(0, length)]
    first = max(1, length // 2 // PIXELS_PER_TILE) * PIXELS_PER_TILE
    return [(0, first), (first, length - first)]
