"""How much of each tile a mask covers."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from survfuse.runtime.arrays import Bools, Floats
from survfuse.slide.grid import Grid

# A share summed from areas may miss its exact value by rounding; a tile covered by exactly the least share is kept.
_ROUNDING = 1e-9
_PIECE = 2048  # mask pixels, across and down, that are summed at once


@dataclass(frozen=True)
class Block:
    """A rectangle of mask pixels: ``tissue`` [h, w], placed at ``row``, ``column`` of the mask."""

    row: int
    column: int
    tissue: Bools


Part = tuple[slice, slice, Floats]  # rows and columns of tiles, and the area [rows, columns] covered, in mask pixels


class Coverage:
    """The share of each tile's area that a mask covers, exact to rounding, summed over blocks of the mask.

    ``scale`` (x, y) is in mask pixels per level-0 pixel, from the corner that both share. The part of a tile beyond the
    slide's border counts as not covered; ``beyond`` says whether any tissue lies there.
    """

    def __init__(self, grid: Grid, scale: tuple[float, float]) -> None:
        self.beyond = False
        self._extent = (math.ceil(grid.width * scale[0] - _ROUNDING), math.ceil(grid.height * scale[1] - _ROUNDING))
        self._across = _Axis(grid.x.astype(np.float64) * scale[0], grid.side[0] * scale[0])
        self._down = _Axis(grid.y.astype(np.float64) * scale[1], grid.side[1] * scale[1])
        self._area = np.zeros((len(grid.y), len(grid.x)))

    def parts(self, block: Block) -> list[Part]:
        """What ``block`` covers: a few numbers for each tile that it meets. Safe from several threads at once."""
        parts: list[Part] = []
        width, height = (max(0, end - at) for end, at in zip(self._extent, (block.column, block.row), strict=True))
        if block.tissue[height + 1 :].any() or block.tissue[:, width + 1 :].any():  # but for a pixel of rounding
            self.beyond = True
        within = block.tissue[:height, :width]
        height, width = within.shape
        for top in range(0, height, _PIECE):
            for left in range(0, width, _PIECE):
                tissue = within[top : top + _PIECE, left : left + _PIECE]
                if not tissue.any():
                    continue
                rows, row_overlap = self._down.overlap(block.row + top, tissue.shape[0])
                columns, column_overlap = self._across.overlap(block.column + left, tissue.shape[1])
                if tissue.all():
                    area = np.outer(row_overlap.sum(axis=1), column_overlap.sum(axis=1))
                else:
                    area = row_overlap @ tissue.astype(np.float64) @ column_overlap.T
                parts.append((rows, columns, area))
        return parts

    def add(self, parts: Iterable[Part]) -> None:
        """Add to the sums what ``parts`` gave for a block. Not safe from several threads at once."""
        for rows, columns, area in parts:
            self._area[rows, columns] += area

    def share(self) -> Floats:
        """The share of each tile [rows, columns] that the blocks so far cover."""
        return self._area / (self._down.side * self._across.side)


def coverage(grid: Grid, mask_size: tuple[int, int], blocks: Iterable[Block]) -> Floats:
    """The share of each tile [rows, columns] that a mask covers, from its blocks in any order.

    The mask of ``mask_size`` (width, height) is stretched over the slide.

    >>> grid = Grid.over((4, 2), (1.0, 1.0), tile_px=2, tile_mpp=1.0)
    >>> coverage(grid, (4, 2), [Block(0, 0, np.array([[1, 1, 1, 0], [1, 1, 0, 0]], dtype=bool))]).tolist()
    [[1.0, 0.25]]
    """
    summed = Coverage(grid, (mask_size[0] / grid.width, mask_size[1] / grid.height))
    for block in blocks:
        summed.add(summed.parts(block))
    return summed.share()


def covered(share: Floats, least: float) -> Bools:
    """Tiles [rows, columns] of which at least the share ``least`` is covered.

    >>> covered(np.array([[0.1 + 0.2, 0.2]]), 0.3).tolist()
    [[True, False]]
    """
    return share >= least - _ROUNDING


@dataclass(frozen=True)
class _Axis:
    """Tiles along one axis of the mask: where they start [n] and their side, in mask pixels."""

    starts: Floats
    side: float

    def overlap(self, first: int, length: int) -> tuple[slice, Floats]:
        """The tiles that meet the pixels first … first + length − 1, and their share [tiles, length] of each pixel."""
        begin = int(np.searchsorted(self.starts + self.side, first, side="right"))
        end = int(np.searchsorted(self.starts, first + length, side="left"))
        edges = np.arange(first, first + length)
        starts = self.starts[begin:end, np.newaxis]
        shared = np.minimum(starts + self.side, edges + 1) - np.maximum(starts, edges)
        return slice(begin, end), np.clip(shared, 0.0, 1.0)
