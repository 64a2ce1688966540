"""Tiles whose features overflow in half precision, encoded again in float32.

fp16 ends at 65,504, which activations of some transformers exceed on a few tiles (on a T4, which has no native bf16).
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from survfuse.runtime.arrays import Rows
from survfuse.runtime.clock import TimeLimit
from survfuse.runtime.log import count, warn
from survfuse.slide.encode import tile_features
from survfuse.slide.encoders import Encoder
from survfuse.slide.grid import Grid
from survfuse.slide.pixels import Slide


def without_overflow(
    slide: Slide,
    grid: Grid,
    origins: NDArray[np.int64],
    features: Tensor,
    encoder: Encoder,
    limit: TimeLimit | None = None,
) -> tuple[Rows, Tensor]:
    """``features`` [N, D] of the tiles at level-0 ``origins`` [N, 2], those that are not finite computed in float32.

    Returns the rows [n] that are kept, ascending, and their features [n, D]; n is below N only where ``limit`` ends
    before all of them are encoded again. A warning says how many were. What ``encoder`` computed in float32 is
    returned as it is; so are features that are not finite in float32 either.
    """
    half = str(encoder.precision).removeprefix("torch.")
    overflowing = np.flatnonzero((~features.isfinite().all(dim=1)).numpy())
    kept = np.arange(len(features))
    if half == "float32" or not len(overflowing):
        return kept, features
    again, rows, _ = tile_features(slide, grid, origins[overflowing], encoder.in_float32(), limit)
    features[overflowing[rows]] = again
    of = f"{len(overflowing):,} of {count(len(features), 'tile')}"
    warn(f"{slide.name}: {encoder.spec.name} overflows in {half} on {of}; {len(rows):,} encoded again in float32")
    kept = np.delete(kept, np.delete(overflowing, rows))
    return kept, features[kept]
