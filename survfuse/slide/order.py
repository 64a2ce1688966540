"""Orders in which a slide's tiles are encoded.

Tiles are lined up along a curve that fills the plane (Morton 1966): the tiles of one square of a quadtree are
consecutive. In this order, neighbouring tiles share what was decoded for them. Visited by a scrambled van der Corput
sequence (Owen 1995), any prefix samples the line, and so the tissue, evenly: half of the prefix comes from each half of
the line, a quarter from each quarter, and so on. The tile visited within each part is random: visits at regular
distances would over- or underrepresent tissue that repeats itself.
"""

import numpy as np
from numpy.typing import NDArray

_SEED = 20_220


def curve_order(columns: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tiles at ``columns`` [N] and ``rows`` [N] of a grid along the Morton curve: a permutation of 0 … N − 1.

    >>> curve_order(np.array([0, 1, 2, 0, 1, 2]), np.array([0, 0, 0, 1, 1, 1])).tolist()
    [0, 1, 3, 4, 2, 5]
    """
    return np.argsort(_interleaved(columns, rows), kind="stable")


def even_order(columns: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same tiles in an order such that any prefix samples them evenly: a permutation of 0 … N − 1.

    The same tiles always have the same order.
    """
    line = curve_order(columns, rows)
    random = np.random.default_rng(_SEED)
    place, turn = np.arange(len(line)), np.zeros(len(line), dtype=np.int64)
    digits = (len(line) - 1).bit_length()
    for digit in range(digits):
        # The binary digits of a place, reversed, are those of its turn. Whether the first or the second half of a
        # stretch is visited first is random for each stretch.
        swapped = random.integers(2, size=2**digit)[place >> (digits - digit)]
        turn |= (((place >> (digits - 1 - digit)) & 1) ^ swapped) << digit
    return line[np.argsort(turn)]


def _interleaved(columns: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions on the Morton curve: the bits of column and row in turn."""
    place = np.zeros_like(columns)
    for bit in range(31):
        place |= (((columns >> bit) & 1) << (2 * bit)) | (((rows >> bit) & 1) << (2 * bit + 1))
    return place
