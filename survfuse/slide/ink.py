"""Pen ink on the glass, told from stained tissue by which colours it absorbs."""

import numpy as np

from survfuse.runtime.arrays import Bools, Pixels
from survfuse.slide.colour import extremes

# Shares of the absorbance that are red's, green's and blue's, summed over the three: haematoxylin, eosin and red cells
# absorb green most, whatever their amounts (Ruifrok and Johnston 2001); blue and green inks absorb red more than green.
_COOL = 0.05  # least excess of red's share over green's
_COOL_TOTAL, _COOL_CHROMA = 0.6, 25  # least total absorbance and range of the channels: fainter hues are uncertain
# Red ink absorbs blue about as much as green, and next to no red. Eosin and red cells absorb less blue, or more red.
_RED_BLUE, _RED_RED, _RED_TOTAL = 0.415, 0.08, 2.0
_BLACK, _BLACK_CHROMA = 60, 20  # of 255: the brightest channel of black, and the range of its channels


def is_ink(rgb: Pixels) -> Bools:
    """Which pixels [...] of RGB [..., 3] have the colour of green, blue or red pens.

    >>> is_ink(np.array([[20, 120, 60], [20, 30, 160], [200, 20, 30]], dtype=np.uint8)).tolist()
    [True, True, True]
    >>> is_ink(np.array([[90, 70, 150], [220, 130, 180], [150, 40, 50]], dtype=np.uint8)).tolist()
    [False, False, False]
    """
    red, green, blue = (_ABSORBANCE[rgb[..., channel]] for channel in range(3))
    total = red + green + blue
    most, least = extremes(rgb)
    chroma = most - least
    cool = (red - green > _COOL * total) & (total > _COOL_TOTAL) & (chroma > _COOL_CHROMA)
    warm = (blue > _RED_BLUE * total) & (red < _RED_RED * total) & (total > _RED_TOTAL)
    ink: Bools = cool | warm
    return ink


def is_black(rgb: Pixels) -> Bools:
    """Which pixels [...] of RGB [..., 3] are black: ink, or what was not scanned. The densest nuclei are lighter."""
    most, least = extremes(rgb)
    black: Bools = (most <= _BLACK) & (most - least <= _BLACK_CHROMA)
    return black


_ABSORBANCE = -np.log((np.arange(256, dtype=np.float32) + 1.0) / 256.0)  # [256], of a channel's value
