"""Where a mask lies on its slide: stretched over it, or placed by the resolution that the mask states."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from survfuse.runtime.errors import InputError
from survfuse.runtime.log import warn
from survfuse.slide.grid import Grid
from survfuse.slide.stated import stated_resolutions

if TYPE_CHECKING:
    from tifffile import TiffPage

    from survfuse.slide.pixels import Slide

Pair = tuple[float, float]  # of x and y
_REFUSE = 0.10  # relative difference in shape from which a mask is of another slide
_WARN_TILES = 0.5  # displacement of a mask's far edge, in tiles, from which on it is said
# A mask is padded to whole tiles, of up to so many pixels, and at most to twice its size.
_MOST_PADDING, _MOST_PADDED = 512, 2.0
_TILE_SIDES = (64, 128, 256, 512, 1024)
_LEAST_TILE = 16  # mask pixels of a tile of the slide that still says something of a mask's size
_LEAST = 0.9  # of the slide, that a mask must reach to be one that was cut off at whole tiles
_ROUNDED = 0.005  # relative difference of a resolution from its rounded value, as of 2 from 1.996 µm
_INCH = 2
_UNITS = {_INCH: "inch", 3: "centimeter"}  # TIFF 6.0, tag 296; inches if it is absent
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


def mask_place(name: str, mask: tuple[int, int], stated: Sequence[Pair], slide: "Slide", grid: Grid) -> MaskPlace:
    """The place on its slide of a ``mask`` of this size (width, height), which states these µm per pixel, (x, y) each.

    ``mask`` is that of its finest level. One of the slide's shape, in pixels or in µm, is stretched over it, up to a
    pixel of rounding on each side. Another is placed by the first stated resolution by which it differs from the slide
    by what was padded or cut off at its end, on one side or to whole tiles, its own or the slide's; one of the slide's
    shape, too, if padding ends at whole tiles. Else it is stretched all the same, with a warning from half a tile's
    displacement on, by its shape or by what it states. Raises InputError for a mask whose shape is too different.
    """
    px = slide.size
    most = max(length / side for length, side in zip(px, grid.side, strict=True))  # tiles along the slide
    real = (px[0] * slide.mpp[0], px[1] * slide.mpp[1])  # µm
    off = min(_misfit(mask, px), _misfit(mask, real))
    for mpp in stated if mask != px else ():
        if max(mpp) <= _SQUARE * min(mpp):
            covers = (real[0] / mpp[0], real[1] / mpp[1])  # the slide, in mask pixels
            if not _is_near(mask, covers):
                continue
            if _is_explained(mask, covers, px, off):
                _warn_of_cut(name, mask, covers)
                return MaskPlace(mask, (slide.mpp[0] / mpp[0], slide.mpp[1] / mpp[1]), mpp)
            _warn_of_doubt(name, mask, covers, mpp, most)
    if off > _REFUSE:
        raise InputError(f"{name}: {mask[0]} × {mask[1]} px does not have the slide's shape, {px[0]} × {px[1]} px")
    if (tiles := off * most) >= _WARN_TILES:
        warn(
            f"{name}: {mask[0]} × {mask[1]} px is stretched by {off:.1%} to the slide's {px[0]} × {px[1]} px; if it is "
            f"padded, tissue at the far edge is {tiles:.1f} tiles off: state the mask's resolution in its file"
        )
    return MaskPlace(mask, (mask[0] / px[0], mask[1] / px[1]))


def stated_mpp(page: "TiffPage") -> list[Pair]:
    """µm per pixel, (x, y), of a mask's first ``page``, from each place that may state it."""
    across, down, unit = (page.tags.valueof(code) for code in (282, 283, 296))
    properties = {
        "tiff.XResolution": _fraction(across),
        "tiff.YResolution": _fraction(down),
        "tiff.ResolutionUnit": _UNITS.get(unit if isinstance(unit, int) else _INCH, ""),
        "tiff.ImageDescription": page.description,
    }
    stated = stated_resolutions(properties, (page.imagewidth, page.imagelength))
    return [found.mpp for found in stated if min(found.mpp) > 0.0]


def _fraction(value: object) -> str:
    """A TIFF rational as a decimal number; 0 if it is none."""
    if isinstance(value, Sequence) and len(value) == 2 and value[1]:
        return repr(float(value[0]) / float(value[1]))
    return "0"


def _misfit(mask: tuple[int, int], slide: Pair) -> float:
    """Relative difference in width over height, less what a pixel of rounding on each side of the mask explains."""
    wide = (mask[0] + 1) / max(mask[1] - 1, 1) * slide[1] / slide[0]
    narrow = max(mask[0] - 1, 1) / (mask[1] + 1) * slide[1] / slide[0]
    return max(1.0 / wide - 1.0, narrow - 1.0, 0.0)


def _is_near(mask: tuple[int, int], covers: Pair) -> bool:
    """Whether a mask is about as large as its slide of ``covers`` mask pixels, or longer by padding."""
    return all(
        _LEAST * needed <= have <= min(needed + _MOST_PADDING, _MOST_PADDED * needed)
        for have, needed in zip(mask, covers, strict=True)
    )


def _is_explained(mask: tuple[int, int], covers: Pair, px: tuple[int, int], off: float) -> bool:
    """Whether padding, or a cut, explains how a mask differs from its slide of ``px``, which is ``covers`` mask pixels.

    A resolution that is wrong would make both sides longer, or both shorter, in the same proportion. So a mask of the
    slide's shape must be padded to whole tiles. One whose shape differs by ``off`` must end at whole tiles, fit on one
    side, or differ in shape about as much as in length.
    """
    if not off:
        return _ends_at_tiles(mask, covers, px, (math.ceil,)) and any(
            h > n + 2.0 for h, n in zip(mask, covers, strict=True)
        )
    longer = [abs(have / needed - 1.0) for have, needed in zip(mask, covers, strict=True)]
    fits = min(longer) <= _ROUNDED or any(abs(h - n) <= 2.0 for h, n in zip(mask, covers, strict=True))
    return fits or off >= 0.5 * max(longer) or _ends_at_tiles(mask, covers, px, (math.ceil, math.floor))


def _warn_of_cut(name: str, mask: tuple[int, int], covers: Pair) -> None:
    """Warn of a mask that does not reach as far as its slide, of ``covers`` mask pixels; the rest is no tissue."""
    least = min(have / needed for have, needed in zip(mask, covers, strict=True))
    if least < 1.0 - _ROUNDED and any(have < needed - 2.0 for have, needed in zip(mask, covers, strict=True)):
        warn(f"{name}: by its resolution it ends at {least:.1%} of the slide; the rest counts as no tissue")


def _warn_of_doubt(name: str, mask: tuple[int, int], covers: Pair, mpp: Pair, most: float) -> None:
    """Warn of a mask that is stretched over a slide ``most`` tiles long, if its resolution says clearly otherwise."""
    off = max(abs(have / needed - 1.0) for have, needed in zip(mask, covers, strict=True))
    if off * most >= _WARN_TILES:
        warn(
            f"{name}: states {mpp[0]:.4g} µm/px, by which the slide would be {covers[0]:,.0f} × {covers[1]:,.0f} px of "
            f"the mask's {mask[0]:,} × {mask[1]:,}; padding does not explain that, and it is stretched over the slide"
        )


def _ends_at_tiles(mask: Pair, covers: Pair, px: Pair, rounded: Sequence[Callable[[float], int]]) -> bool:
    """Whether a mask's sides are those of a slide of ``px``, which is ``covers`` mask pixels, ``rounded`` to tiles.

    The tiles are the mask's, which may have been a pixel longer or shorter before, or the slide's, whose padded picture
    was then reduced.
    """

    def at_its_own(have: float, needed: float, _: float, side: int) -> bool:
        return have in [side * to_whole((needed + more) / side) for to_whole in rounded for more in (-1, 0, 1)]

    def at_the_slides(have: float, needed: float, length: float, side: int) -> bool:
        tile = side * needed / length
        padded = [tile * to_whole(length / side) for to_whole in rounded]
        return tile >= _LEAST_TILE and any(abs(have - end) < 1.0 for end in padded)

    return any(
        all(ends(*lengths, side) for lengths in zip(mask, covers, px, strict=True))
        for ends in (at_its_own, at_the_slides)
        for side in _TILE_SIDES
    )
