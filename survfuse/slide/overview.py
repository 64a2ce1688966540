"""A whole slide as one small picture, and what of it the program takes for tissue."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from survfuse.runtime.arrays import Bools, Floats
from survfuse.runtime.log import recorded
from survfuse.slide.coverage import covered
from survfuse.slide.grid import Grid
from survfuse.slide.mask_check import mask_problem
from survfuse.slide.masks import PIXELS_PER_TILE, mask_coverage
from survfuse.slide.pixels import Slide
from survfuse.slide.reduced import reduced_image
from survfuse.slide.settings import SlideSettings
from survfuse.slide.stained import stained_tissue

if TYPE_CHECKING:
    from PIL.Image import Image

_CELLS, _CELLS_PER_TILE = 192, 16  # of a mask that is summed for a map, at most, across the slide and a tile
_FINER = 4  # how many times finer the map is: its edges lie where the share of tissue passes a half
_HALF = 0.5


def overview(slide: Slide, longest: int) -> tuple["Image", float]:
    """The whole slide as an RGB picture of at most ``longest`` pixels, and level-0 pixels per pixel of it.

    It is read in parts, from the coarsest level that is fine enough. What cannot be read is white. A slide that is
    smaller than ``longest`` keeps its size.
    """
    from PIL import Image

    downsample = max(1.0, max(slide.size) / longest)
    blocks = Grid.over(slide.size, (1.0, 1.0), PIXELS_PER_TILE, downsample, name=slide.name)
    rgb, _ = reduced_image(slide, blocks, most_unread=1.0)
    return Image.fromarray(rgb), downsample


def tissue_map(slide: Slide, mask: Path | None, settings: SlideSettings) -> Bools:
    """Where the program finds tissue [h, w], stretched over the slide: by the mask, or else by colour.

    The decision between the two is that of ``find_tissue``, whose warnings are not given again. With a mask, the map
    has some 700 pixels on its longer side, or fewer; by colour, the resolution at which tissue is looked for.

    Raises InputError as ``find_tissue`` does.
    """
    tiles = Grid.over(slide.size, slide.mpp, settings.tile_px, settings.mpp, name=slide.name)
    with recorded(show=False):
        if mask is not None and mask_problem(mask_coverage(mask, slide, tiles)[0], slide, tiles) is None:
            cells = _cells(slide, max(max(slide.size) / _CELLS, min(tiles.side) / _CELLS_PER_TILE))
            return _half_covered(mask_coverage(mask, slide, cells)[0])
        return stained_tissue(slide, tiles).tissue


def _half_covered(share: Floats) -> Bools:
    """Where the ``share`` of cells [h, w], linear between their centres, is a half or more: [_FINER h, _FINER w]."""
    from PIL import Image

    height, width = (_FINER * cells for cells in share.shape)
    finer = Image.fromarray(share.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    return covered(np.asarray(finer, dtype=np.float64), _HALF)


def _cells(slide: Slide, least: float) -> Grid:
    """A slide cut into equal cells, about square and ``least`` level-0 pixels wide or a little more."""
    across, down = (length / max(1, int(length / least)) for length in slide.size)
    return Grid.over(slide.size, (1.0 / across, 1.0 / down), 1, 1.0, name=slide.name)
