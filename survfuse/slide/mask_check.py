"""Whether a mask distinguishes tissue from glass, judged by the slide's colours."""

import math
from contextlib import suppress

import numpy as np

from survfuse.runtime.arrays import Bools, Floats, Pixels
from survfuse.slide.colour import check_colour, is_glass, is_stained
from survfuse.slide.coverage import covered
from survfuse.slide.damage import DamagedRegionError
from survfuse.slide.grid import Grid
from survfuse.slide.pixels import Slide
from survfuse.slide.plain import is_even

_WHOLE = 0.999  # share of the slide from which a mask counts as marking all of it
_INSIDE = 0.9  # share of a tile that the mask must cover for the tile to be looked at as one of the mask's
_GLASS_IN_WHOLE = 0.1  # share of glass tiles from which a mask of the whole slide is useless
# An inverted mask: at least this share of its tiles is glass, at most this share of pixels inside it is stained, and at
# least this share outside it.
_GLASS_INVERTED, _STAINED_INSIDE, _STAINED_OUTSIDE = 0.25, 0.15, 0.6
_TILES, _PX = 32, 16  # tiles that are looked at inside a mask, and outside, and their side in pixels


def mask_problem(share: Floats, slide: Slide, grid: Grid) -> str | None:
    """Why a mask that covers ``share`` [rows, columns] of the tiles does not distinguish tissue from glass.

    None for a mask that is right or in doubt. Raises InputError for a slide without colour.
    """
    if not share.any():
        return "is empty"
    inside, outside = (_sample(slide, grid, tiles) for tiles in (covered(share, _INSIDE), share == 0.0))
    if inside is None:
        return None
    check_colour(slide.name, inside)
    empty = is_glass(inside) | is_even(inside)  # glass, or what surrounds it: black, grey or tinted
    glass = empty.mean()
    if share.sum() * math.prod(grid.side) >= _WHOLE * math.prod(slide.size):
        return "marks the whole slide, including glass" if glass >= _GLASS_IN_WHOLE else None
    if outside is not None and glass >= _GLASS_INVERTED:
        within, without = (is_stained(inside) & ~empty[:, None, None]).mean(), is_stained(outside).mean()
        if within < _STAINED_INSIDE and without > _STAINED_OUTSIDE:
            return "marks glass and leaves out what is stained, as an inverted mask does"
    return None


def _sample(slide: Slide, grid: Grid, tiles: Bools) -> Pixels | None:
    """Some of the ``tiles`` marked [rows, columns], reduced, as [n, px, px, 3] RGB; None if none can be read.

    Tiles that extend over the border are left out: beyond it they would be white.
    """
    origins = grid.origins(tiles)
    origins = origins[(origins + np.ceil(grid.side) <= slide.size).all(axis=1)]
    if not len(origins):
        return None
    sample = []
    for x, y in origins[np.unique(np.linspace(0, len(origins) - 1, _TILES).astype(int))]:
        with suppress(DamagedRegionError):
            sample.append(slide.read((int(x), int(y)), grid.side, (_PX, _PX)))
    return np.stack(sample) if sample else None
