"""Tissue by the slide's own colours: what is stained, and neither plain background nor pen ink."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from survfuse.runtime.arrays import Bools, Pixels
from survfuse.slide.colour import BRIGHT, STAINED, extremes, saturation
from survfuse.slide.grid import Grid
from survfuse.slide.ink import (
    DENSER_THAN_BLOOD,
    PENS_OR_BLOOD,
    Absorbed,
    Reds,
    absorbed,
    is_black,
    is_cool,
    is_one_dye,
    is_red,
)
from survfuse.slide.pixels import Slide
from survfuse.slide.plain import PlainColours, is_plain
from survfuse.slide.reduced import reduced_image

# Otsu's threshold is at least that of stained pixels: a slide without tissue has no second class to find. It is at most
# this, or strong colours that are neither ink nor tissue would raise it above pale tissue.
_HIGHEST = 50
_ROWS = 256  # rows of the reduced image that are looked at at once
_SAID = 0.005  # share of the slide from which what is set aside is said
# Of 255: a plain colour at least so bright, with at least this range of its channels, may be tissue after all.
_NOT_DARK, _COLOURED = 60, 40
_DOUBTFUL = 0.05  # share of the slide from which such a colour is warned of
_ONE_DYE = 0.4  # share of the tissue found from which what looks like one dye is warned of


@dataclass(frozen=True)
class SetAside:
    """Shares of a slide that are coloured or dark and still not tissue."""

    ink: float  # of the colour of pens
    black: float  # and not plain
    plain: float  # background or fills of one colour, other than glass
    coloured: float  # the part of ``plain`` that has a colour which no usual background has

    def __str__(self) -> str:
        """In words, for the log; empty if it is hardly anything."""
        parts = [(self.ink, "pen ink"), (self.black, "black"), (self.plain, "plain background")]
        said = [f"{share:.1%} {what}" for share, what in parts if share >= _SAID]
        return f"not tissue: {', '.join(said)}" if said else ""


class Stained(NamedTuple):
    """Tissue by colour."""

    tissue: Bools  # [h, w], stretched over the slide
    threshold: int  # of saturation, of 255
    set_aside: SetAside
    one_dye: float  # share of the tissue that is as dense and as even in hue as ink


class Colours(NamedTuple):
    """What the colours of an image show."""

    saturation: Pixels  # [h, w], of 255; 0 where it is plain background, black or ink
    one_dye: Bools  # [h, w], as in Stained
    set_aside: SetAside


def stained_tissue(slide: Slide, grid: Grid) -> Stained:
    """Tissue by saturation in a reduced image of the slide, without plain background and pen ink.

    The HSV saturation is smoothed by a median and split by Otsu's method (Otsu 1979). What cannot be read counts as
    tissue, so that its tiles are tried. Raises InputError if that is too much of the slide.
    """
    rgb, unread = reduced_image(slide, grid)
    colours = colours_of(rgb)
    del rgb
    found = stained_in(colours)
    return found._replace(tissue=found.tissue | unread)


def stained_in(colours: Colours) -> Stained:
    """What has a saturation above Otsu's threshold."""
    stained, threshold = _above_otsu(colours.saturation)
    one_dye = float(colours.one_dye[stained].mean()) if stained.any() else 0.0
    return Stained(stained, threshold, colours.set_aside, one_dye)


def colours_of(rgb: Pixels) -> Colours:
    """What the colours of RGB [h, w, 3] show."""
    plain_colours, reds = PlainColours(), Reds()
    for _, _, smooth in _bands(rgb):
        plain_colours.count(smooth)
        reds.count(smooth)
    table, red_is_ink = plain_colours.table(), reds.are_ink()
    colours = np.empty(rgb.shape[:2], dtype=np.uint8)
    one_dye = np.empty(rgb.shape[:2], dtype=bool)
    pixels = np.zeros(4, dtype=np.int64)
    for rows, sharp, smooth in _bands(rgb):
        light = absorbed(smooth)
        one_dye[rows] = is_one_dye(light)
        light = Absorbed(*(channel[1:-1, 1:-1] for channel in light))
        ink = is_cool(smooth[1:-1, 1:-1], light) | is_red(light, DENSER_THAN_BLOOD)
        if red_is_ink:
            ink |= is_red(light, PENS_OR_BLOOD)
        colours[rows], counts = _colour_of_band(table, sharp, smooth, ink, is_black(smooth[1:-1, 1:-1], light))
        pixels += counts
    return Colours(colours, one_dye, SetAside(*(pixels / colours.size).tolist()))


def _colour_of_band(table: Bools, sharp: Pixels, smooth: Pixels, ink: Bools, black: Bools) -> tuple[Pixels, list[int]]:
    """Saturation of all but the outermost pixels of a band, as in Colours; pixels of each kind, as in SetAside."""
    plain = is_plain(table, sharp) | is_plain(table, smooth)
    # Pixels beside a dark background are mixed with it, which leaves their hue.
    dark = _with_neighbours(plain & (extremes(smooth)[0] < BRIGHT))
    plain, sharp, smooth = plain[1:-1, 1:-1], sharp[1:-1, 1:-1], smooth[1:-1, 1:-1]
    most, least = extremes(smooth)
    colour = np.where(plain | dark | ink | black, np.uint8(0), saturation(sharp))
    plain = (plain & ~ink & ((most < BRIGHT) | (saturation(smooth) > STAINED))) | dark & black
    coloured = plain & (most > _NOT_DARK) & (most - least > _COLOURED)
    return colour, [int(kind.sum()) for kind in (ink & ~black, black & ~plain, plain, coloured)]


def _with_neighbours(marked: Bools) -> Bools:
    """All but the outermost pixels [h − 2, w − 2] of ``marked`` [h, w]: whether they or any neighbour is marked."""
    across = marked[:, :-2] | marked[:, 1:-1] | marked[:, 2:]
    near: Bools = across[:-2] | across[1:-1] | across[2:]
    return near


def doubt(found: Stained) -> str | None:
    """Why what was taken for tissue is in doubt; None if it is not."""
    set_aside = found.set_aside
    if set_aside.coloured >= _DOUBTFUL:
        return f"{set_aside.coloured:.0%} of the slide has one even colour and was not taken for tissue"
    if set_aside.ink >= _DOUBTFUL and set_aside.ink > found.tissue.mean():
        return f"{set_aside.ink:.0%} of the slide is pen ink, more than is tissue"
    if found.one_dye >= _ONE_DYE:
        return f"{found.one_dye:.0%} of what was taken for tissue is as even in hue as one dye, and may be pen ink"
    return None


def _above_otsu(colours: Pixels) -> tuple[Bools, int]:
    """Where the saturation [h, w] is above Otsu's threshold within its limits; and the threshold."""
    import SimpleITK as sitk

    smooth = sitk.Median(sitk.GetImageFromArray(colours), [3, 3])
    otsu = sitk.OtsuThresholdImageFilter()
    otsu.Execute(smooth)
    threshold = min(max(int(otsu.GetThreshold()), STAINED), _HIGHEST)
    return sitk.GetArrayViewFromImage(smooth) > threshold, threshold


def _bands(rgb: Pixels) -> Iterator[tuple[slice, Pixels, Pixels]]:
    """Bands of RGB [h, w, 3]: which rows, these pixels, and means of 3 × 3, both with one more pixel all around."""
    from PIL import Image, ImageFilter

    height = len(rgb)
    for top in range(0, height, _ROWS):
        bottom = min(top + _ROWS, height)
        first, last = max(top - 2, 0), min(bottom + 2, height)
        mean = np.asarray(Image.fromarray(rgb[first:last]).filter(ImageFilter.BoxBlur(1)))
        rows = np.clip(np.arange(top - 1, bottom + 1), 0, height - 1)
        margin = ((0, 0), (1, 1), (0, 0))
        yield (
            slice(top, bottom),
            np.pad(rgb[rows], margin, mode="edge"),
            np.pad(mean[rows - first], margin, mode="edge"),
        )
