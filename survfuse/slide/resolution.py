"""A slide's resolution: µm per pixel of level 0."""

from collections.abc import Mapping, Sequence

import openslide

from survfuse.runtime.errors import InputError
from survfuse.runtime.log import warn
from survfuse.slide.settings import PLAUSIBLE_MPP
from survfuse.slide.stated import Stated, property_number, stated_resolutions

# The longest side of a slide; glass for whole organs is 200 mm long. A slide that would be longer states it wrongly.
_LARGEST_MM = 250.0
_CONTRADICTED = 1.05  # two places that state the same resolution differ by their rounding, not by this factor
_USUAL = 10.0  # µm per pixel at 1×: scanners give about 0.25 at 40× and 0.5 at 20×
_UNUSUAL = 2.5  # times that: a scanner may enlarge by two what its objective shows


def resolution(
    name: str, properties: Mapping[str, str], assumed: float | None, size: tuple[int, int] = (1, 1)
) -> tuple[tuple[float, float], str]:
    """(x, y) µm per level-0 pixel, and in words where it comes from.

    It is the first that the file states and that is plausible, else ``assumed``. Implausible are values that no
    microscope has, pixels more than twice as long as wide, and a slide of ``size`` (width, height) pixels that would
    be longer than any glass. One that another place in the file contradicts, or that its objective does not give, is
    used with a warning. ``properties`` are OpenSlide's, ``name`` is for messages. Raises InputError if none is
    plausible and none is assumed.

    >>> resolution("slide.tif", {"openslide.mpp-x": "0.5", "openslide.mpp-y": "0.5"}, assumed=None)
    ((0.5, 0.5), 'the slide')
    """
    stated = list(stated_resolutions(properties, size))
    plausible = [found for found in stated if _is_plausible(found.mpp, size)]
    if plausible:
        _warn_of_doubts(name, plausible, property_number(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)))
        return plausible[0].mpp, plausible[0].source
    low, high = PLAUSIBLE_MPP
    found = (
        f"no usable resolution (found {_in_words(stated)}; expected pixels of {low} to {high} µm, at most twice "
        f"as long as wide, on at most {_LARGEST_MM:g} mm)"
    )
    if assumed is None:
        raise InputError(f"{name}: {found} and none is assumed{_hint(stated, properties)}")
    warn(f"{name}: {found}; {assumed:g} µm per pixel is assumed, as requested")
    return (assumed, assumed), "the stated assumption"


def _is_plausible(mpp: tuple[float, float], size: tuple[int, int]) -> bool:
    low, high = PLAUSIBLE_MPP
    longest = 1000.0 * _LARGEST_MM  # µm
    fits = all(low <= value <= high and value * px <= longest for value, px in zip(mpp, size, strict=True))
    return fits and max(mpp) <= 2.0 * min(mpp)


def _warn_of_doubts(name: str, plausible: Sequence[Stated], power: float) -> None:
    """Warn of a resolution, the first of those that are ``plausible``, that something else in the file contradicts."""
    used = plausible[0]
    for other in plausible[1:]:
        if any(max(a, b) > _CONTRADICTED * min(a, b) for a, b in zip(used.mpp, other.mpp, strict=True)):
            warn(
                f"{name}: {_numbers(other.mpp)} per pixel in {other.source} contradicts {_numbers(used.mpp)} in "
                f"{used.source}, which comes first and is used"
            )
    usual = _USUAL / power if power > 0.0 else used.mpp[0]
    if not 1.0 / _UNUSUAL <= used.mpp[0] / usual <= _UNUSUAL:
        gives = f"its objective of {power:g}× usually gives about {usual:.2g}"
        warn(f"{name}: {_numbers(used.mpp)} per pixel from {used.source} may be wrong: {gives}")


def _in_words(stated: Sequence[Stated]) -> str:
    """The values that were found and where, each once; "none" if there are none."""
    places: dict[str, list[str]] = {}
    for found in stated:
        if any(value for value in found.mpp):
            places.setdefault(_numbers(found.mpp), []).append(found.source)
    return ", ".join(f"{values} in {' and '.join(sources)}" for values, sources in places.items()) or "none"


def _numbers(mpp: tuple[float, float]) -> str:
    x, y = (f"{value:.4g}" for value in mpp)
    return "an unknown unit" if "nan" in (x, y) else f"{x} µm" if x == y else f"{x} × {y} µm"


def _hint(stated: Sequence[Stated], properties: Mapping[str, str]) -> str:
    """The end of the message: which resolution may have been meant."""
    low, high = PLAUSIBLE_MPP
    first = next((found.mpp[0] for found in stated if found.mpp[0] > 0.0), 0.0)
    for times, how in ((10.0, "fine"), (0.1, "coarse")):
        if (first < low) == (times > 1.0) and low <= first * times <= high:
            return f"; if it is ten times too {how}, assume {first * times:.4g} (extract --assume-mpp)"
    power = property_number(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER))
    return f"; it states only an objective of {power:g}×, which is no resolution" if power > 0.0 and not first else ""
