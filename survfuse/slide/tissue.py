"""Which tiles hold tissue: from the mask given, or else from the slide's own colours."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from survfuse.runtime.errors import NoTissueError
from survfuse.runtime.log import count, warn
from survfuse.slide.coverage import Block, coverage, covered
from survfuse.slide.grid import Grid
from survfuse.slide.mask_check import mask_problem
from survfuse.slide.masks import mask_coverage
from survfuse.slide.pixels import Slide
from survfuse.slide.stained import doubt, stained_tissue

_FEW = 4  # tiles of a slide that is hardly one: its resolution may be why


@dataclass(frozen=True)
class Tissue:
    """The tiles that hold tissue."""

    origins: NDArray[np.int64]  # [N, 2] level-0 x, y, row by row
    tiles: int  # of the whole grid
    found_by: str  # in words, for the log


def find_tissue(slide: Slide, grid: Grid, mask: Path | None, least: float) -> Tissue:
    """The tiles of which at least the share ``least`` is tissue.

    Without a mask, or with one that does not distinguish tissue from glass, tissue is found by saturation (Otsu),
    without plain background and pen ink.

    Raises NoTissueError if no tile qualifies, and InputError for a mask that cannot be read or has a different shape,
    a slide without colour, and a slide of which too much cannot be read.
    """
    share, found_by = None, "no mask given; tissue found by saturation"
    if mask is not None:
        share, found_by = mask_coverage(mask, slide, grid)
        if problem := mask_problem(share, slide, grid):
            share, found_by = None, f"the mask {problem}; tissue found by saturation"
            warn(f"{mask.name}: {found_by}")
    if share is None:
        found = stained_tissue(slide, grid)
        found_by = f"{found_by} above {found.threshold} of 255{f'; {found.set_aside}' if str(found.set_aside) else ''}"
        if reason := doubt(found):
            warn(f"{slide.name}: {reason}; a tissue mask would settle it")
        share = coverage(grid, (found.tissue.shape[1], found.tissue.shape[0]), [Block(0, 0, found.tissue)])
    origins = grid.origins(covered(share, least))
    if not len(origins):
        few = f"; with so few tiles, check its resolution, {slide.mpp[0]:.3g} µm per pixel" if len(grid) <= _FEW else ""
        raise NoTissueError(
            f"{slide.name}: none of {count(len(grid), 'tile')} is at least {least:.0%} tissue ({found_by}){few}"
        )
    return Tissue(origins, len(grid), found_by)
