"""Which tiles hold tissue: from the mask given, or else from the slide's own colours."""

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from survfuse.runtime.errors import InputError, NoTissueError
from survfuse.runtime.log import count, warn
from survfuse.slide.coverage import Block, coverage, covered
from survfuse.slide.grid import Grid
from survfuse.slide.masks import PIXELS_PER_TILE, mask_coverage
from survfuse.slide.pixels import DamagedRegionError, Slide
from survfuse.slide.settings import MOST_DAMAGED

_COLOUR_LEAST = 3  # of 255: saturation that rounding gives to grey
_BLACK, _BRIGHT, _EVEN = 30, 180, 8.0  # of 255: what is nearly black; glass is at least so bright, and so even
_SATURATION_LEAST = 13  # of 255: a slide without tissue has no second class for Otsu to find
_READ = 2048  # pixels, across and down, that are read of a slide at once
_WHOLE = 0.999  # share of the slide from which on a mask marks all of it
_WITHIN = 0.9  # share of a tile that a mask covers where the tile is looked at as one of the mask's
_GLASS_IN_ALL = 0.1  # share of tiles of glass, under a mask of the whole slide, from which on it tells nothing
# Of a mask that is inverted: tiles of glass within, at least; stained pixels within, at most, and without, at least.
_GLASS_INSTEAD, _STAINED_WITHIN, _STAINED_WITHOUT = 0.25, 0.15, 0.6
_LOOKED_AT, _LOOK_PX = 32, 16  # tiles within a mask, and without, that are looked at, and their side in pixels


@dataclass(frozen=True)
class Tissue:
    """Tiles that hold tissue."""

    origins: NDArray[np.int64]  # [N, 2] level-0 x, y, row by row
    tiles: int  # tiles of the whole grid
    found_by: str  # for the log


def find_tissue(slide: Slide, grid: Grid, mask: Path | None, least: float) -> Tissue:
    """Tiles of which at least the share ``least`` is tissue.

    Without a mask, or with one that does not tell tissue from background, tissue is found by the slide's saturation
    (Otsu). Raises NoTissueError where no tile qualifies, and InputError for a mask that cannot be read or is of another
    shape, and for a slide of which too much cannot be read.
    """
    share, found_by = None, "no mask given; tissue found by saturation"
    if mask is not None:
        share, found_by = mask_coverage(mask, slide, grid)
        if problem := _tells_nothing(share, slide, grid):
            share, found_by = None, f"the mask {problem}; tissue found by saturation"
            warn(f"{mask.name}: {found_by}")
    if share is None:
        tissue, threshold = saturated(slide, grid)
        found_by = f"{found_by} above {threshold} of 255"
        share = coverage(grid, (tissue.shape[1], tissue.shape[0]), [Block(0, 0, tissue)])
    origins = grid.origins(covered(share, least))
    if not len(origins):
        raise NoTissueError(
            f"{slide.name}: none of {count(len(grid), 'tile')} is at least {least:.0%} tissue ({found_by})"
        )
    return Tissue(origins, len(grid), found_by)


def _tells_nothing(share: NDArray[np.float64], slide: Slide, grid: Grid) -> str | None:
    """Why a mask that covers ``share`` [rows, columns] of the tiles does not tell tissue from glass, or None.

    Where it is not plain to see, the mask is right. Raises InputError for a slide without colour.
    """
    if not share.any():
        return "is empty"
    inside, outside = (_looked_at(slide, grid, tiles) for tiles in (covered(share, _WITHIN), share == 0.0))
    if inside is None:
        return None
    _check_colour(slide.name, inside)
    glass = _is_glass(inside).mean()
    if share.sum() * math.prod(grid.side) >= _WHOLE * math.prod(slide.size):
        return "marks the whole slide, glass as well" if glass >= _GLASS_IN_ALL else None
    if outside is not None and glass >= _GLASS_INSTEAD:
        within, without = _stained(inside).mean(), _stained(outside).mean()
        if within < _STAINED_WITHIN and without > _STAINED_WITHOUT:
            return "marks glass and leaves out what is stained, as one that is inverted does"
    return None


def _looked_at(slide: Slide, grid: Grid, tiles: NDArray[np.bool_]) -> NDArray[np.uint8] | None:
    """Some of the ``tiles`` marked [rows, columns], reduced, as [n, px, px, 3]; None where none can be looked at.

    Tiles over the border are not: what lies beyond it is white.
    """
    origins = grid.origins(tiles)
    origins = origins[(origins + np.ceil(grid.side) <= slide.size).all(axis=1)]
    if not len(origins):
        return None
    found = []
    for x, y in origins[np.unique(np.linspace(0, len(origins) - 1, _LOOKED_AT).astype(int))]:
        with suppress(DamagedRegionError):
            found.append(slide.read((int(x), int(y)), grid.side, (_LOOK_PX, _LOOK_PX)))
    return np.stack(found) if found else None


def _stained(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels [...] of RGB [..., 3] that are coloured. The saturation of what is nearly black is noise."""
    return (_chroma(rgb) > _SATURATION_LEAST) & (rgb.max(axis=-1) > _BLACK)


def _is_glass(tiles: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which of the tiles [n, px, px, 3] show nothing: next to no colour, bright, and even, as fat and lumen are not."""
    light = tiles.max(axis=-1).astype(np.float64)
    plain = _stained(tiles).mean(axis=(1, 2)) < 0.05
    return plain & (np.median(light, axis=(1, 2)) > _BRIGHT) & (light.std(axis=(1, 2)) < _EVEN)


def _check_colour(name: str, tiles: NDArray[np.uint8]) -> None:
    """Raise InputError where nothing in these tiles [n, px, px, 3] has a colour, though there is something to see."""
    dark = (tiles.max(axis=-1) < _BRIGHT).mean()
    if dark > 0.05 and _chroma(tiles).max() < _COLOUR_LEAST:
        raise InputError(f"{name}: has no colour where the mask marks tissue; expected haematoxylin and eosin")


def saturated(slide: Slide, grid: Grid) -> tuple[NDArray[np.bool_], int]:
    """Tissue [h, w] by saturation, stretched over the slide, and the threshold used, of 255.

    The HSV saturation of a reduced image is smoothed by a median and split by Otsu's method (Otsu 1979). What cannot be
    read counts as tissue, so that its tiles are tried; raises InputError where that is too much of the slide.
    """
    import SimpleITK as sitk

    step = (grid.side[0] / PIXELS_PER_TILE, grid.side[1] / PIXELS_PER_TILE)  # level-0 pixels per pixel read
    size = (max(1, round(slide.size[0] / step[0])), max(1, round(slide.size[1] / step[1])))
    reduced = _Reduced(slide, size)
    # A slide of one level is read at full resolution: a little of it at a time.
    block = max(1, int(_READ / min(slide.excess(min(reduced.step)), 16 * PIXELS_PER_TILE)))
    for top in range(0, size[1], block):
        for left in range(0, size[0], block):
            reduced.read(left, top, min(block, size[0] - left), min(block, size[1] - top))
    smooth = sitk.Median(sitk.GetImageFromArray(reduced.saturation), [3, 3])
    otsu = sitk.OtsuThresholdImageFilter()
    otsu.Execute(smooth)
    threshold = max(int(otsu.GetThreshold()), _SATURATION_LEAST)
    return (sitk.GetArrayViewFromImage(smooth) > threshold) | reduced.unread, threshold


class _Reduced:
    """A slide's saturation in ``size`` (width, height) pixels, and which of them could not be read."""

    def __init__(self, slide: Slide, size: tuple[int, int]) -> None:
        self._slide = slide
        self.step = (slide.size[0] / size[0], slide.size[1] / size[1])  # level-0 pixels per pixel
        self.saturation = np.zeros((size[1], size[0]), dtype=np.uint8)
        self.unread = np.zeros((size[1], size[0]), dtype=bool)

    def read(self, left: int, top: int, width: int, height: int) -> None:
        """Fill this rectangle; where it cannot be read whole, by parts, down to a tile's size."""
        origin = (round(left * self.step[0]), round(top * self.step[1]))
        place = (slice(top, top + height), slice(left, left + width))
        try:
            rgb = self._slide.read(origin, (width * self.step[0], height * self.step[1]), (width, height))
            self.saturation[place] = _chroma(rgb)
        except DamagedRegionError as problem:
            if max(width, height) > PIXELS_PER_TILE:
                for x, part_width in _halves(width):
                    for y, part_height in _halves(height):
                        self.read(left + x, top + y, part_width, part_height)
                return
            self.unread[place] = True
            if self.unread.mean() > MOST_DAMAGED:
                raise InputError(f"more than {MOST_DAMAGED:.0%} of the slide cannot be read; {problem}") from problem


def _halves(length: int) -> list[tuple[int, int]]:
    """Start and length of a length's halves, the first of whole tiles; of one that is no longer than a tile, itself."""
    if length <= PIXELS_PER_TILE:
        return [(0, length)]
    first = max(1, length // 2 // PIXELS_PER_TILE) * PIXELS_PER_TILE
    return [(0, first), (first, length - first)]


def _chroma(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """HSV saturation [...] of RGB [..., 3], of 255."""
    values = rgb.astype(np.int16)
    most = values.max(axis=-1)
    return ((most - values.min(axis=-1)) * 255 // np.maximum(most, 1)).astype(np.uint8)
