"""Where a mask lies on its slide: stretched over it, or placed by the resolution that the mask states."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from survfuse.runtime.errors import InputError
from survfuse.runtime.log import warn
from survfuse.slide.grid import Grid

if TYPE_CHECKING:
    from tifffile import TiffPage

    from survfuse.slide.pixels import Slide

Pair = tuple[float, float]  # of x and y
_REFUSE = 0.10  # relative difference in shape from which a mask is of another slide
_WARN_TILES = 0.5  # displacement of a mask's far edge, in tiles, from which on it is said
# A mask is padded to whole tiles, of up to so many pixels, and at most to twice its size.
_MOST_PADDING, _MOST_PADDED = 512, 2.0
_TILE_SIDES = (64, 128, 256, 512, 1024)
_UNITS = {2: 25_400.0, 3: 10_000.0}  # µm; TIFF 6.0, tag 296
_SQUARE = 1.05  # sides of the pixels of a mask that states a resolution, at most


@dataclass(frozen=True)
class MaskPlace:
    """How a mask of ``size`` (width, height) lies on its slide, whose first pixel is at the mask's first."""

    size: tuple[int, int]
    scale: Pair  # mask pixels per level-0 pixel
    stated: Pair | None = None  # µm per mask pixel by which it was placed; None if it was stretched

    def at(self, size: tuple[int, int]) -> "MaskPlace":
        """The same place of a level of the mask that has this ``size`` (width, height)."""
        across, down = size[0] / self.size[0], size[1] / self.size[1]
        return MaskPlace(size, (self.scale[0] * across, self.scale[1] * down), self.stated)

    def described(self) -> str:
        """The placement in words, for the log; empty for the usual one."""
        return f", placed by its resolution, {self.stated[0]:.4g} µm/px" if self.stated else ""


def mask_place(name: str, mask: tuple[int, int], mpp: Pair | None, slide: "Slide", grid: Grid) -> MaskPlace:
    """The place of a ``mask`` of this size (width, height) that states ``mpp`` µm per pixel, or None, on its slide.

    ``mask`` is that of its finest level. One of the slide's shape, in pixels or in µm, is stretched over it, up to a
    pixel of rounding on each side. Another is placed by the resolution that it states if it then covers the slide and
    extends beyond it by padding alone; one of the slide's shape, too, if that padding ends at whole tiles. If it states
    none it is stretched all the same, with a warning from half a tile's displacement on. Raises InputError for a mask
    whose shape is too different.
    """
    px = slide.size
    stretched = MaskPlace(mask, (mask[0] / px[0], mask[1] / px[1]))
    off = _misfit(mask, px)
    if mpp is not None and max(mpp) <= _SQUARE * min(mpp) and mask != px:
        fine = slide.mpp
        covers = (px[0] * fine[0] / mpp[0], px[1] * fine[1] / mpp[1])  # the slide, in mask pixels
        off = min(off, _misfit(mask, (px[0] * fine[0], px[1] * fine[1])))
        if _is_padded(mask, covers) and (off or _ends_at_tiles(mask, covers)):
            return MaskPlace(mask, (fine[0] / mpp[0], fine[1] / mpp[1]), mpp)
    elif off:
        off = min(off, _misfit(mask, (px[0] * slide.mpp[0], px[1] * slide.mpp[1])))
    if off > _REFUSE:
        raise InputError(f"{name}: {mask[0]} × {mask[1]} px does not have the slide's shape, {px[0]} × {px[1]} px")
    tiles = off * max(length / side for length, side in zip(px, grid.side, strict=True))
    if tiles >= _WARN_TILES:
        warn(
            f"{name}: {mask[0]} × {mask[1]} px is stretched by {off:.1%} to the slide's {px[0]} × {px[1]} px; if it is "
            f"padded, tissue at the far edge is {tiles:.1f} tiles off: state the mask's resolution in its file"
        )
    return stretched


def stated_mpp(page: "TiffPage") -> Pair | None:
    """µm per pixel of a mask's first ``page``, by its resolution tags; None if they state none."""
    tags = [page.tags.get(code) for code in (282, 283, 296)]
    if any(tag is None for tag in tags):
        return None
    across, down, unit = (tag.value for tag in tags if tag is not None)
    per_unit = [_fraction(across), _fraction(down)]
    length = _UNITS.get(int(unit) if isinstance(unit, int) else 0)
    if length is None or not all(per_unit):
        return None
    return length / per_unit[0], length / per_unit[1]


def _fraction(value: object) -> float:
    """A TIFF rational; 0 if it is none."""
    if isinstance(value, Sequence) and len(value) == 2 and value[1]:
        return float(value[0]) / float(value[1])
    return 0.0


def _misfit(mask: tuple[int, int], slide: Pair) -> float:
    """Relative difference in width over height, less what a pixel of rounding on each side of the mask explains."""
    wide = (mask[0] + 1) / max(mask[1] - 1, 1) * slide[1] / slide[0]
    narrow = max(mask[0] - 1, 1) / (mask[1] + 1) * slide[1] / slide[0]
    return max(1.0 / wide - 1.0, narrow - 1.0, 0.0)


def _is_padded(mask: tuple[int, int], covers: Pair) -> bool:
    """Whether a mask covers a slide of ``covers`` mask pixels, up to two, and beyond it no more than padding."""
    return all(
        needed - 2.0 <= have <= min(needed + _MOST_PADDING, _MOST_PADDED * needed)
        for have, needed in zip(mask, covers, strict=True)
    )


def _ends_at_tiles(mask: tuple[int, int], covers: Pair) -> bool:
    """Whether a mask's sides are those of a slide of ``covers`` mask pixels, rounded up to whole tiles."""
    return any(
        all(have == side * math.ceil((needed - 1.0) / side) for have, needed in zip(mask, covers, strict=True))
        for side in _TILE_SIDES
    ) and any(have > needed + 2.0 for have, needed in zip(mask, covers, strict=True))
