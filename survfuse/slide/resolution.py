"""A slide's resolution: µm per pixel of level 0."""

from collections.abc import Mapping

import openslide

from survfuse.runtime.errors import InputError
from survfuse.runtime.log import warn
from survfuse.slide.settings import PLAUSIBLE_MPP

_UNITS = {"centimeter": 10_000.0, "inch": 25_400.0}  # µm
# The longest side of a slide; glass for whole organs is 200 mm long. A slide that would be longer states it wrongly.
_LARGEST_MM = 250.0


def resolution(
    name: str, properties: Mapping[str, str], assumed: float | None, size: tuple[int, int] = (1, 1)
) -> tuple[tuple[float, float], str]:
    """(x, y) µm per level-0 pixel, and in words where it comes from.

    It is OpenSlide's own value, else that of the TIFF resolution tags, else ``assumed``, the first that is plausible.
    Implausible are values that no microscope has, pixels more than twice as long as wide, and a slide of ``size``
    (width, height) pixels that would be longer than any glass. ``properties`` are OpenSlide's, ``name`` is for
    messages. Raises InputError if none is plausible and none is assumed.

    >>> resolution("slide.tif", {"openslide.mpp-x": "0.5", "openslide.mpp-y": "0.5"}, assumed=None)
    ((0.5, 0.5), 'the slide')
    """
    stated = tuple(
        property_number(properties.get(key)) for key in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
    )
    unit = _UNITS.get(properties.get("tiff.ResolutionUnit", ""), 0.0)
    density = [property_number(properties.get(f"tiff.{axis}Resolution")) for axis in "XY"]
    tags = tuple(unit / value if value > 0.0 else 0.0 for value in density)
    low, high = PLAUSIBLE_MPP
    longest = 1000.0 * _LARGEST_MM  # µm
    for mpp, source in ((stated, "the slide"), (tags, "its TIFF resolution tags")):
        fits = all(low <= value <= high and value * px <= longest for value, px in zip(mpp, size, strict=True))
        if fits and max(mpp) <= 2.0 * min(mpp):
            return (mpp[0], mpp[1]), source
    values = ", ".join(f"{value:g}" for value in (*stated, *tags) if value) or "none"
    if assumed is None:
        raise InputError(
            f"{name}: no usable resolution (found {values}; expected square pixels of {low} to {high} µm, "
            f"on at most {_LARGEST_MM:g} mm) and none is assumed"
        )
    warn(f"{name}: no usable resolution (found {values}); {assumed:g} µm per pixel is assumed, as requested")
    return (assumed, assumed), "the stated assumption"


def property_number(text: str | None) -> float:
    """The number that an OpenSlide property spells; 0 if it spells none."""
    try:
        return float(text) if text is not None else 0.0
    except ValueError:
        return 0.0
