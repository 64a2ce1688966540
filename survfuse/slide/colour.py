"""What the colours of a haematoxylin and eosin slide show: saturation, stained pixels and empty glass."""

import numpy as np

from survfuse.runtime.arrays import Bools, Pixels
from survfuse.runtime.errors import InputError

STAINED = 13  # of 255: saturation above which a pixel is stained
_GREY = 3  # of 255: saturation that rounding can give to grey
_BLACK = 30  # of 255: nearly black, where saturation is noise
BRIGHT, _EVEN = 180, 8.0  # of 255: glass is at least so bright, and varies no more


def extremes(rgb: Pixels) -> tuple[Pixels, Pixels]:
    """The greatest and the least channel [...] of RGB [..., 3]: numpy reduces so short an axis many times more slowly.

    >>> [channel.tolist() for channel in extremes(np.array([[20, 120, 60], [5, 4, 3]], dtype=np.uint8))]
    [[120, 5], [20, 3]]
    """
    red, green, blue = (rgb[..., channel] for channel in range(3))
    return np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)


def saturation(rgb: Pixels) -> Pixels:
    """HSV saturation [...], of 255, of RGB [..., 3].

    >>> saturation(np.array([[200, 100, 150], [90, 90, 90], [0, 0, 0]], dtype=np.uint8)).tolist()
    [127, 0, 0]
    """
    most, least = extremes(rgb)
    share: Pixels = ((most - least).astype(np.uint16) * np.uint16(255) // np.maximum(most, 1)).astype(np.uint8)
    return share


def is_stained(rgb: Pixels) -> Bools:
    """Which pixels [...] of RGB [..., 3] are coloured, and not nearly black."""
    stained: Bools = (saturation(rgb) > STAINED) & (extremes(rgb)[0] > _BLACK)
    return stained


def is_glass(tiles: Pixels) -> Bools:
    """Which of the RGB tiles [n, px, px, 3] are empty glass: hardly any colour, bright, and even.

    Fat and lumen are as bright but not as even.
    """
    light = tiles.max(axis=-1).astype(np.float64)
    plain = is_stained(tiles).mean(axis=(1, 2)) < 0.05
    glass: Bools = plain & (np.median(light, axis=(1, 2)) > BRIGHT) & (light.std(axis=(1, 2)) < _EVEN)
    return glass


def check_colour(name: str, tiles: Pixels) -> None:
    """Raise InputError if the RGB tiles [n, px, px, 3] of the slide ``name`` show something, but all of it is grey."""
    dark = (tiles.max(axis=-1) < BRIGHT).mean()
    if dark > 0.05 and saturation(tiles).max() < _GREY:
        raise InputError(f"{name}: has no colour where the mask marks tissue; expected haematoxylin and eosin")
