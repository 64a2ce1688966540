"""Orders in which a slide's tiles are encoded.

Tiles are lined up along a curve that fills the plane (Morton 1966): what lies in one square of a quadtree is one
stretch of the line. Along it, neighbours share what was decoded for them. Visited by the van der Corput sequence
(1935), whose every prefix is spread over the line, every prefix is an even sample of the tissue.
"""

import numpy as np
from numpy.typing import NDArray

_SEED = 20_220  # of the digits that are turned, so that no corner of the slide comes first on every slide


def along_curve(columns: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tiles at ``columns`` [N] and ``rows`` [N] of a grid, neighbour after neighbour: a permutation of 0 … N − 1."""
    return np.argsort(_interleaved(columns, rows), kind="stable")


def spread(columns: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same tiles in an order of which every prefix is spread evenly over them."""
    line = along_curve(columns, rows)
    digits = max(1, (len(line) - 1).bit_length())
    places = np.arange(2**digits)
    reversed_places = np.zeros_like(places)
    for digit in range(digits):
        reversed_places |= ((places >> digit) & 1) << (digits - 1 - digit)
    reversed_places ^= np.random.default_rng(_SEED).integers(2**digits)
    return line[reversed_places[reversed_places < len(line)]]


def _interleaved(columns: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place on the Morton curve: the bits of column and row in turn."""
    place = np.zeros_like(columns)
    for bit in range(31):
        place |= (((columns >> bit) & 1) << (2 * bit)) | (((rows >> bit) & 1) << (2 * bit + 1))
    return place
