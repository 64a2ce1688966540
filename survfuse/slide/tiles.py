"""Where tiles lie on a slide, and how much of each a mask covers. Geometry alone: no image is read here."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from survfuse.errors import InputError

# A share computed by summing areas may miss its exact value by a rounding error; a tile that is covered by
# exactly the least share is kept.
_ROUNDING = 1e-9
MOST_TILES = 2**20  # of a grid; a glass of 76 × 26 mm has 40,000 of 224 µm
_PIECE = 2048  # mask pixels, across and down, that are summed at once


@dataclass(frozen=True)
class Block:
    """A rectangle of mask pixels: ``tissue`` [h, w] placed at ``row``, ``column`` of the mask."""

    row: int
    column: int
    tissue: NDArray[np.bool_]


@dataclass(frozen=True)
class Grid:
    """Tiles over a slide, in level-0 pixels, side by side unless asked to overlap.

    Tile (i, j) starts at x[i], y[j] = round(i · side), round(j · side) and reaches side pixels further; the last
    ones may reach over the border.
    """

    width: int
    height: int
    side: tuple[float, float]  # x, y
    x: NDArray[np.int64]  # [columns]
    y: NDArray[np.int64]  # [rows]

    @classmethod
    def over(
        cls, size: tuple[int, int], mpp: tuple[float, float], tile_px: int, tile_mpp: float, starts: int = 1
    ) -> "Grid":
        """Grid over a slide of ``size`` (width, height) at ``mpp`` (x, y) µm per pixel, both of level 0.

        With ``starts`` of 2, tiles start at every half side and overlap, and so on. Raises InputError where that gives
        more tiles than any slide has.
        """
        side = (tile_px * tile_mpp / mpp[0], tile_px * tile_mpp / mpp[1])
        tiles = math.prod(math.ceil(length / step * starts) for length, step in zip(size, side, strict=True))
        if tiles > MOST_TILES:
            raise InputError(
                f"{size[0]:,} × {size[1]:,} px at {mpp[0]:.4g} µm/px are {tiles:,} tiles; "
                f"expected at most {MOST_TILES:,}"
            )
        return cls(*size, side, _starts(size[0], side[0] / starts), _starts(size[1], side[1] / starts))

    def __len__(self) -> int:
        return len(self.x) * len(self.y)

    def origins(self, kept: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Level-0 (x, y) [N, 2] of the tiles marked in ``kept`` [rows, columns], row by row."""
        rows, columns = np.nonzero(kept)
        return np.stack([self.x[columns], self.y[rows]], axis=1)

    def places(self, origins: NDArray[np.int64]) -> NDArray[np.int64]:
        """(column, row) [N, 2] of the tiles at ``origins`` [N, 2]."""
        return np.stack([np.searchsorted(self.x, origins[:, 0]), np.searchsorted(self.y, origins[:, 1])], axis=1)


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


def _starts(length: int, step: float) -> NDArray[np.int64]:
    """round(i · step) for every i whose tile starts within ``length`` pixels."""
    starts = np.rint(np.arange(int(length / step) + 2) * step).astype(np.int64)
    return starts[starts < length]
