"""Where tiles lie on a slide, and how much of each a mask covers. Geometry alone: no image is read here."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# A share computed by summing areas may miss its exact value by a rounding error; a tile that is covered by
# exactly the least share is kept.
_ROUNDING = 1e-9


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

        With ``starts`` of 2, tiles start at every half side and overlap, and so on.
        """
        side = (tile_px * tile_mpp / mpp[0], tile_px * tile_mpp / mpp[1])
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


def coverage(grid: Grid, mask_size: tuple[int, int], blocks: Iterable[Block]) -> NDArray[np.float64]:
    """Share of each tile's area that a mask covers, [rows, columns], exact to rounding.

    The mask of ``mask_size`` (width, height) is stretched over the slide's extent, whatever its resolution. The
    part of a tile beyond the slide's border counts as not covered. Blocks may come in any order, so that
    no more of the mask than one block has to be held.
    """
    scale = (mask_size[0] / grid.width, mask_size[1] / grid.height)
    across = _Axis(grid.x * scale[0], grid.side[0] * scale[0])
    down = _Axis(grid.y * scale[1], grid.side[1] * scale[1])
    area = np.zeros((len(grid.y), len(grid.x)))
    for block in blocks:
        if not block.tissue.any():
            continue
        rows, row_overlap = down.overlap(block.row, block.tissue.shape[0])
        columns, column_overlap = across.overlap(block.column, block.tissue.shape[1])
        area[rows, columns] += row_overlap @ block.tissue.astype(np.float64) @ column_overlap.T
    return area / (down.side * across.side)


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
