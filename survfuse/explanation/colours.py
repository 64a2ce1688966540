"""Colours of contributions, the same in every file; told apart with every type of colour vision."""

import numpy as np
from numpy.typing import NDArray

from survfuse.runtime.arrays import Bools, Floats

Rgb = tuple[int, int, int]

RAISES, LOWERS, NOT_TOLD = "raises risk", "lowers risk", "not told from zero"
COLOURS: dict[str, Rgb] = {RAISES: (181, 67, 42), LOWERS: (43, 106, 153), NOT_TOLD: (138, 143, 152)}
NEUTRAL: Rgb = (247, 247, 247)  # of a contribution of 0
PALER = 0.6  # of the way to white, for what is not told from zero
LARGEST = 99.0  # percentile of |contribution| that has the full colour: a few extreme tiles must not pale the others


def colour_class(value: float, told: bool) -> str:
    """The name of what a part does, by its ``value`` and whether it is ``told`` from zero.

    >>> colour_class(-0.2, True), colour_class(-0.2, False)
    ('lowers risk', 'not told from zero')
    """
    if not told:
        return NOT_TOLD
    return RAISES if value > 0.0 else LOWERS


def hexadecimal(colour: Rgb) -> str:
    """A colour as HTML writes it.

    >>> hexadecimal(COLOURS["raises risk"])
    '#b5432a'
    """
    return "#{:02x}{:02x}{:02x}".format(*colour)


def colour_limit(values: Floats) -> float:
    """The |contribution| from which on ``values`` [N] have the full colour; 1 if all of them are 0."""
    sizes = np.abs(values)
    return float(np.percentile(sizes, LARGEST)) or float(sizes.max()) or 1.0


def diverging(values: NDArray[np.floating], told: Bools, limit: float) -> NDArray[np.uint8]:
    """RGBA [..., 4] of ``values`` [...], where ``told`` [...] says which of them are told from zero.

    The colour runs from that of LOWERS at -``limit`` over near-white at 0 to that of RAISES at ``limit``, in equal
    steps of sRGB. What is not told from zero is paler. NaN is transparent, everything else opaque: programs disagree
    on what colours mean that are partly transparent.
    """
    share = np.clip(np.nan_to_num(values) / limit, -1.0, 1.0)[..., np.newaxis]
    ends = np.where(share < 0.0, COLOURS[LOWERS], COLOURS[RAISES])
    colours = NEUTRAL + np.abs(share) * (ends - NEUTRAL)
    colours += np.where(told, 0.0, PALER)[..., np.newaxis] * (255.0 - colours)
    rgba = np.zeros((*values.shape, 4), dtype=np.uint8)
    known = ~np.isnan(values)
    rgba[known, :3] = np.rint(colours[known]).astype(np.uint8)
    rgba[known, 3] = 255
    return rgba
