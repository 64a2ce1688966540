"""Where a bag's tiles lie on their slide."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from survfuse.runtime.arrays import Floats


@dataclass(frozen=True, eq=False)
class TilePlaces:
    """N tiles of one width on a slide, in its level-0 pixels."""

    origins: NDArray[np.int64]  # [N, 2] x, y of each tile's first corner
    side: tuple[float, float]  # x, y
    size: tuple[int, int]  # width and height of the slide, or of what the tiles cover if that is not known
    mpp: tuple[float, float] | None = None  # µm per level-0 pixel, x and y, if known

    def corners(self) -> Floats:
        """(left, top, right, bottom) [N, 4] of each tile, cut off at the slide's border."""
        first = self.origins.astype(np.float64)
        last = np.minimum(first + self.side, self.size)
        return np.concatenate([first, last], axis=1)
