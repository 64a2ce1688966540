"""How much of each tile a mask covers."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from survfuse.slide.grid import Grid

# A share computed by summing areas may miss its exact value by a rounding error; a tile that is covered by
# exactly the least share is kept.
_ROUNDING = 1e-9
_PIECE = 2048  # mask pixels, across and down, that are summed at once


@dataclass(frozen=True)
class Block:
    """A rectangle of mask pixels: ``tissue`` [h, w] placed at ``row``, ``column`` of the mask."""

    row: int
    column: int
    tissue: NDArray[np.bool_]


Part = tuple[slice, slice, NDArray[np.float64]]  # rows and columns of tiles, and mask pixels covered of each


class Coverage:
    """Share of each tile's area that a mask covers, exact to rounding, from blocks of the mask as they come.

    The mask of ``mask_size`` (width, height) is stretched over the slide's extent, whatever its resolution. The
    part of a tile beyond the slide's border counts as not covered.
    """

    def __init__(self, grid: Grid, mask_size: tuple[int, int]) -> None:
        scale = (mask_size[0] / grid.width, mask_size[1] / grid.height)
        self._across = _Axis(grid.x * scale[0], grid.side[0] * scale[0])
        self._down = _Axis(grid.y * scale[1], grid.side[1] * scale[1])
        self._area = np.zeros((len(grid.y), len(grid.x)))

    def parts(self, block: Block) -> list[Part]:
        """What ``block`` covers; small, whatever the block's size. Safe from several threads at once."""
        found = []
        height, width = block.tissue.shape
        for top in range(0, height, _PIECE):
            for left in range(0, width, _PIECE):
                tissue = block.tissue[top : top + _PIECE, left : left + _PIECE]
                if not tissue.any():
                    continue
                rows, row_overlap = self._down.overlap(block.row + top, tissue.shape[0])
                columns, column_overlap = self._across.overlap(block.column + left, tissue.shape[1])
                if tissue.all():
                    area = np.outer(row_overlap.sum(axis=1), column_overlap.sum(axis=1))
                else:
                    area = row_overlap @ tissue.astype(np.float64) @ column_overlap.T
                found.append((rows, columns, area))
        return found

    def add(self, parts: Iterable[Part]) -> None:
        for rows, columns, area in parts:
            self._area[rows, columns] += area

    def share(self) -> NDArray[np.float64]:
        """[rows, columns] of tiles."""
        return self._area / (self._down.side * self._across.side)


def coverage(grid: Grid, mask_size: tuple[int, int], blocks: Iterable[Block]) -> NDArray[np.float64]:
    """Coverage's share [rows, columns] by blocks, which may come in any order."""
    found = Coverage(grid, mask_size)
    for block in blocks:
        found.add(found.parts(block))
    return found.share()


def covered(share: NDArray[np.float64], least: float) -> NDArray[np.bool_]:
    """Tiles of which at least ``least`` is covered."""
    return share >= least - _ROUNDING


@dataclass(frozen=True)
class _Axis:
    """Tiles along one axis of the mask: starts [n] and side, in mask pixels."""

    starts: NDArray[np.float64]
    side: float

    def overlap(self, first: int, length: int) -> tuple[slice, NDArray[np.float64]]:
        """The tiles that meet pixels first … first + length − 1, and how much of each pixel each of them covers."""
        begin = int(np.searchsorted(self.starts + self.side, first, side="right"))
        end = int(np.searchsorted(self.starts, first + length, side="left"))
        edges = np.arange(first, first + length)
        starts = self.starts[begin:end, np.newaxis]
        shared = np.minimum(starts + self.side, edges + 1) - np.maximum(starts, edges)
        return slice(begin, end), np.clip(shared, 0.0, 1.0)
