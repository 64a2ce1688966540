"""Pen ink on the glass, told from stained tissue by which colours it absorbs."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from survfuse.runtime.arrays import Bools, Pixels
from survfuse.slide.colour import extremes

# Shares of the absorbance that are red's, green's and blue's, summed over the three, stay the same however thick a dye
# lies (Lambert 1760). Haematoxylin, eosin and red cells absorb green most (Ruifrok and Johnston 2001), so that every
# mixture of them does. The limits lie between what was measured of pens and of tissue in many stains (docs/method.md).
_COOL = 0.05  # least excess of red's share over green's: blue and green inks
_COOL_TOTAL, _COOL_CHROMA = 0.6, 25  # least total absorbance and range of the channels: fainter hues are uncertain
# Blue inks that let no more green through than red let more blue through than haematoxylin does, unless it is pale; by
# so much more if they are violet.
_BLUE, _BLUE_BLUE = -0.02, 0.182  # least excess of red's share over green's, greatest share of blue's
_VIOLET, _VIOLET_BLUE = -0.17, 0.155
_BLUE_TOTAL = 2.5
# Red inks let red through, and little else. Red cells may do so too, but a section is too thin for them to absorb as
# much: such red absorbs 2.8 on average in tissue at most, and 3.4 in pens' ink at least.
_RED_MEAN = 3.0
_BLACK, _BLACK_CHROMA = 60, 20  # of 255: the brightest channel of black, and the range of its channels
# Faded black absorbs all colours alike. So does dense haematoxylin in some stains, but for blue.
_GREY_LEAST, _GREY_MOST, _GREY_BLUE, _GREY_TOTAL = -0.06, 0.07, 0.28, 2.4
# Least absorbance of dense ink, and the most by which a share differs from the next pixel's where there is one dye.
# Of tissue, which has two, up to a fifth is so dense and even; of ink, nearly all. In darker pixels a grey level is a
# larger step of absorbance.
_DENSE, _ONE_DYE, _DARK = 2.0, 0.004, 4.0
_STEP = 3  # pixels: of those that are means of 3 × 3, every third says all


class Red(NamedTuple):
    """A range of reds, by shares of the absorbance and by its total."""

    red: float  # greatest share
    blue: float  # least share
    total: float  # least


PENS_OR_BLOOD, DENSER_THAN_BLOOD = Red(0.115, 0.37, 2.0), Red(0.13, 0.27, 3.4)


class Absorbed(NamedTuple):
    """Natural absorbances [...]."""

    red: NDArray[np.float32]
    green: NDArray[np.float32]
    blue: NDArray[np.float32]
    total: NDArray[np.float32]


def absorbed(rgb: Pixels) -> Absorbed:
    """What each pixel of RGB [..., 3] absorbs."""
    red, green, blue = (_ABSORBANCE[rgb[..., channel]] for channel in range(3))
    return Absorbed(red, green, blue, red + green + blue)


def is_cool(rgb: Pixels, light: Absorbed) -> Bools:
    """Which pixels [...] of RGB [..., 3], which absorb ``light``, have the colour of green or blue pens.

    >>> rgb = np.array([[20, 120, 60], [20, 30, 160], [50, 50, 140], [90, 70, 150], [220, 130, 180]], dtype=np.uint8)
    >>> is_cool(rgb, absorbed(rgb)).tolist()
    [True, True, True, False, False]
    """
    most, least = extremes(rgb)
    excess = light.red - light.green
    cool = (excess > _COOL * light.total) & (light.total > _COOL_TOTAL) & (most - least > _COOL_CHROMA)
    blue = (excess > _BLUE * light.total) & (light.blue < _BLUE_BLUE * light.total)
    blue |= (excess > _VIOLET * light.total) & (light.blue < _VIOLET_BLUE * light.total)
    blue &= light.total > _BLUE_TOTAL
    ink: Bools = cool | blue
    return ink


def is_red(light: Absorbed, limits: Red) -> Bools:
    """Which pixels [...] have the colour of red pens, within ``limits``.

    >>> light = absorbed(np.array([[190, 30, 50], [220, 60, 70], [150, 40, 50]], dtype=np.uint8))
    >>> is_red(light, PENS_OR_BLOOD).tolist()
    [True, True, False]
    >>> light = absorbed(np.array([[170, 20, 60], [220, 60, 70], [150, 40, 50]], dtype=np.uint8))
    >>> is_red(light, DENSER_THAN_BLOOD).tolist()
    [True, False, False]
    """
    red = (light.red < limits.red * light.total) & (light.blue > limits.blue * light.total)
    red &= light.total > limits.total
    return red


def is_black(rgb: Pixels, light: Absorbed) -> Bools:
    """Which pixels [...] of RGB [..., 3], which absorb ``light``, are black: ink, or what was not scanned.

    The densest nuclei are lighter, or bluer than faded ink.

    >>> rgb = np.array([[25, 25, 30], [80, 70, 85], [70, 45, 100]], dtype=np.uint8)
    >>> is_black(rgb, absorbed(rgb)).tolist()
    [True, True, False]
    """
    most, least = extremes(rgb)
    excess = light.red - light.green
    grey = (excess > _GREY_LEAST * light.total) & (excess < _GREY_MOST * light.total)
    grey &= (light.blue > _GREY_BLUE * light.total) & (light.total > _GREY_TOTAL)
    black: Bools = grey | (most <= _BLACK) & (most - least <= _BLACK_CHROMA)
    return black


def is_one_dye(light: Absorbed) -> Bools:
    """Which of all but the outermost pixels [h − 2, w − 2] are dense, and of the same hue as the next two."""
    total = light.total[1:-1, 1:-1]
    even, most = total > _DENSE, _ONE_DYE * np.maximum(total / _DARK, 1)
    for channel in (light.red, light.blue):
        share = channel / np.maximum(light.total, _DENSE / 2)
        middle = share[1:-1, 1:-1]
        even &= (np.abs(middle - share[1:-1, 2:]) < most) & (np.abs(middle - share[2:, 1:-1]) < most)
    return even


class Reds:
    """The mean absorbance of a slide's pixels with the colour of red pens, counted band by band."""

    def __init__(self) -> None:
        self._pixels, self._total = 0, 0.0

    def count(self, rgb: Pixels) -> None:
        """Count those of smoothed RGB [h, w, 3]."""
        light = absorbed(rgb[::_STEP, ::_STEP])
        totals = light.total[is_red(light, PENS_OR_BLOOD)]
        self._pixels += totals.size
        self._total += float(totals.sum(dtype=np.float64))

    def are_ink(self) -> bool:
        """Whether they absorb more than blood."""
        return self._total > _RED_MEAN * self._pixels


_ABSORBANCE = -np.log((np.arange(256, dtype=np.float32) + 1.0) / 256.0)  # [256], of a channel's value
