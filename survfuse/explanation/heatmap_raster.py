"""Contributions of tiles as an image: one value a pixel, and the same image at half its size, and so on."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from survfuse.explanation.attribution import Parts
from survfuse.runtime.arrays import Bools, Floats
from survfuse.slide.tile_places import TilePlaces

Raster = NDArray[np.float32]  # [H, W], NaN where no tile lies

TILE = 256  # px across and down, of the image's own tiles
LEAST_TILE = 8  # px of the map that a tile is wide, at least
MOST_PIXELS = 2**26  # of a map; a slide of 100,000 × 80,000 px in tiles of 224 has 31 million
SMALLEST = 256  # px: a level this wide and high is the last


@dataclass(frozen=True, eq=False)
class HeatMap:
    """Contributions on a grid that begins at the slide's corner: pixel × ``downsample`` = level-0 pixel."""

    downsample: float
    values: Raster
    spread: Raster | None  # standard deviations of the values, if they are known

    @property
    def told(self) -> Bools:
        """Which pixels [H, W] are told from zero, as tiles are; False where no tile lies."""
        told: Bools = np.abs(self.values) > (self.spread if self.spread is not None else 0.0)
        return told

    def levels(self) -> Iterator["HeatMap"]:
        """This map, and each map of half its size, until one fits into SMALLEST pixels across and down."""
        level = self
        yield level
        while max(level.values.shape) > SMALLEST:
            spread = halved(level.spread) if level.spread is not None else None
            level = HeatMap(2.0 * level.downsample, halved(level.values), spread)
            yield level


def heat_map(places: TilePlaces, parts: Parts) -> HeatMap:
    """The contributions ``parts`` [N] where the tiles lie.

    The downsample is the largest power of two at which a tile is at least LEAST_TILE pixels wide and high, and never
    less than 1; a map of more than MOST_PIXELS pixels is made coarser until it has as many. A pixel takes the value of
    the tile that its centre lies in, the mean if tiles overlap there.
    """
    downsample = _downsample(places)
    width, height = (-(-length // downsample) for length in places.size)
    # Pixel i has its centre at (i + ½) · downsample; a tile has those from its first edge to before its last.
    edges = np.ceil(places.corners() / downsample - 0.5).astype(np.int64).tolist()
    boxes = [(slice(top, bottom), slice(left, right)) for left, top, right, bottom in edges]
    times: NDArray[np.unsignedinteger] = np.zeros((height, width), dtype=np.min_scalar_type(len(boxes)))
    for box in boxes:
        times[box] += 1
    values = _mean(parts.values, boxes, times)
    spread = _mean(parts.spread, boxes, times) if parts.spread is not None else None
    return HeatMap(float(downsample), values, spread)


def halved(image: Raster) -> Raster:
    """An image of half the width and height, rounded up: the mean of two by two pixels, without NaN.

    >>> halved(np.array([[1, 3, np.nan], [5, np.nan, np.nan]], dtype=np.float32)).tolist()
    [[3.0, nan]]
    """
    height, width = (-(-length // 2) for length in image.shape)
    total = np.zeros((height, width), dtype=np.float32)
    times = np.zeros((height, width), dtype=np.uint8)
    for quarter in (image[row::2, column::2] for row in (0, 1) for column in (0, 1)):
        known = ~np.isnan(quarter)
        within = slice(quarter.shape[0]), slice(quarter.shape[1])
        np.add(total[within], quarter, out=total[within], where=known)
        times[within] += known
    return _divided(total, times)


def _downsample(places: TilePlaces) -> int:
    downsample = 1
    while min(places.side) >= 2 * downsample * LEAST_TILE:
        downsample *= 2
    while _padded(places.size[0], downsample) * _padded(places.size[1], downsample) > MOST_PIXELS:
        downsample *= 2
    return downsample


def _padded(length: int, downsample: int) -> int:
    """Pixels along a side of an image of whole tiles."""
    return -(-length // (downsample * TILE)) * TILE


def _mean(numbers: Floats, boxes: list[tuple[slice, slice]], times: NDArray[np.unsignedinteger]) -> Raster:
    """The mean of the ``numbers`` [N] whose ``boxes`` meet at a pixel; ``times`` [H, W] is how many do."""
    total = np.zeros(times.shape, dtype=np.float32)
    for number, box in zip(numbers.astype(np.float32), boxes, strict=True):
        total[box] += number
    return _divided(total, times)


def _divided(total: Raster, times: NDArray[np.unsignedinteger]) -> Raster:
    """``total`` / ``times`` in the place of ``total``; NaN where ``times`` is 0."""
    np.divide(total, times, out=total, where=times > 1, casting="same_kind")
    total[times == 0] = np.nan
    return total
