"""Where tiles lie on a slide. Only geometry: no image is read here."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from survfuse.runtime.arrays import Bools
from survfuse.runtime.errors import InputError

MOST_GRID_TILES = 2**20  # of a grid; a glass slide of 76 × 26 mm has 40,000 tiles of 224 µm


@dataclass(frozen=True)
class Grid:
    """Tiles over a slide, in level-0 pixels, side by side unless asked to overlap.

    Tile (i, j) begins at x[i], y[j] = round(i · side), round(j · side) and extends ``side`` pixels from there; the last
    tiles may extend beyond the slide's border.

    >>> grid = Grid.over((1000, 500), (0.5, 0.5), tile_px=224, tile_mpp=1.0)
    >>> grid.side, grid.x.tolist(), grid.y.tolist(), len(grid)
    ((448.0, 448.0), [0, 448, 896], [0, 448], 6)
    """

    width: int
    height: int
    side: tuple[float, float]  # x, y
    x: NDArray[np.int64]  # [columns]
    y: NDArray[np.int64]  # [rows]

    @classmethod
    def over(
        cls,
        size: tuple[int, int],
        mpp: tuple[float, float],
        tile_px: int,
        tile_mpp: float,
        starts: int = 1,
        name: str = "",
    ) -> "Grid":
        """The grid over a slide of ``size`` (width, height) at ``mpp`` (x, y) µm per pixel, both of level 0.

        Tiles are ``tile_px`` pixels of ``tile_mpp`` µm wide and high. With ``starts`` of 2 they begin at every half
        side and overlap, with 3 at every third, and so on. Raises InputError, which calls the slide ``name``, if
        there are more than MOST_GRID_TILES.
        """
        side = (tile_px * tile_mpp / mpp[0], tile_px * tile_mpp / mpp[1])
        tiles = math.prod(math.ceil(length / step * starts) for length, step in zip(size, side, strict=True))
        if tiles > MOST_GRID_TILES:
            raise InputError(
                f"{name + ': ' if name else ''}{size[0]:,} × {size[1]:,} px at {mpp[0]:.4g} µm/px are {tiles:,} tiles; "
                f"expected at most {MOST_GRID_TILES:,}"
            )
        return cls(*size, side, _starts(size[0], side[0] / starts), _starts(size[1], side[1] / starts))

    def __len__(self) -> int:
        """The number of tiles."""
        return len(self.x) * len(self.y)

    def origins(self, kept: Bools) -> NDArray[np.int64]:
        """Level-0 (x, y) [N, 2] of the tiles marked in ``kept`` [rows, columns], row by row."""
        rows, columns = np.nonzero(kept)
        return np.stack([self.x[columns], self.y[rows]], axis=1)

    def places(self, origins: NDArray[np.int64]) -> NDArray[np.int64]:
        """(column, row) [N, 2] of the tiles at level-0 ``origins`` [N, 2]."""
        return np.stack([np.searchsorted(self.x, origins[:, 0]), np.searchsorted(self.y, origins[:, 1])], axis=1)


def _starts(length: int, step: float) -> NDArray[np.int64]:
    """round(i · step) for every i whose tile begins within ``length`` pixels."""
    starts: NDArray[np.int64] = np.rint(np.arange(int(length / step) + 2) * step).astype(np.int64)
    return starts[starts < length]
