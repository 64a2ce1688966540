"""Orders in which a slide's tiles are encoded.

Tiles are lined up along a curve that fills the plane (Morton 1966): what lies in one square of a quadtree is one
stretch of the line. Along it, neighbours share what was decoded for them. Visited by a scrambled van der Corput
sequence (Owen 1995), every prefix is an even sample of the line, and so of the tissue: half of it from each half of the
line, a quarter from each quarter, and so on. Where in its stretch a tile is visited is left to chance: visits at
regular distances would see too much or too little of a tissue that repeats itself.
"""

import numpy as np
from numpy.typing import NDArray

_SEED = 20_220


def curve_order(columns: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tiles at ``columns`` [N] and ``rows`` [N] of a grid, neighbour after neighbour: a permutation of 0 … N − 1."""
    return np.argsort(_interleaved(columns, rows), kind="stable")


def even_order(columns: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same tiles in an order of which every prefix is spread evenly over them; the same each time."""
    line = curve_order(columns, rows)
    random = np.random.default_rng(_SEED)
    place, turn = np.arange(len(line)), np.zeros(len(line), dtype=np.int64)
    digits = (len(line) - 1).bit_length()
    for digit in range(digits):
        # A place's digits, the highest first, become its turn's, the lowest first; chance says of each stretch which
        # of its halves is visited first.
        swapped = random.integers(2, size=2**digit)[place >> (digits - digit)]
        turn |= (((place >> (digits - 1 - digit)) & 1) ^ swapped) << digit
    return line[np.argsort(turn)]


def _interleaved(columns: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place on the Morton curve: the bits of column and row in turn."""
    place = np.zeros_like(columns)
    for bit in range(31):
        place |= (((columns >> bit) & 1) << (2 * bit)) | (((rows >> bit) & 1) << (2 * bit + 1))
    return place
