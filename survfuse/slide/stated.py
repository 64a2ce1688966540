"""What a slide's file states of its resolution: every place that a writer may have put it."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import openslide

# µm. OME-XML's units (2016-06 schema, UnitsLength) and ImageJ's, of those that a slide may be measured in.
_LENGTHS = {"nm": 1e-3, "µm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "mm": 1e3, "cm": 1e4}
_LENGTHS |= {"m": 1e6, "pm": 1e-6, "Å": 1e-4, "inch": 25_400.0, "in": 25_400.0, "pt": 25_400.0 / 72, "thou": 25.4}
_TAG_UNITS = {"centimeter": 10_000.0, "inch": 25_400.0}  # µm
_LONGEST = 2**22  # characters of OME-XML that are read
_APERIO = re.compile(r"\|\s*MPP\s*=\s*([0-9.eE+-]+)")
_IMAGEJ_UNIT = re.compile(r"^unit=(.*)$", re.MULTILINE)
_PIXELS, _ATTRIBUTE = (
    re.compile(r"<(?:\w+:)?Pixels\b([^<>]*)>"),
    re.compile(r"\b(\w+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')"),
)


@dataclass(frozen=True)
class Stated:
    """A resolution that a file states, 0 or NaN where it does not spell a number."""

    mpp: tuple[float, float]  # µm per level-0 pixel, x and y
    source: str  # in words


def stated_resolutions(properties: Mapping[str, str], size: tuple[int, int]) -> Iterator[Stated]:
    """Each resolution stated for a slide of ``size`` (width, height) pixels, the one to be preferred first.

    These are OpenSlide's own, that of the TIFF resolution tags, of OME-XML and of Aperio's or ImageJ's header in the
    TIFF's description, and the volume that DICOM images. ``properties`` are OpenSlide's.
    """
    get = properties.get
    yield Stated(_pair(get(openslide.PROPERTY_NAME_MPP_X), get(openslide.PROPERTY_NAME_MPP_Y)), "the slide")
    per_unit = _pair(get("tiff.XResolution"), get("tiff.YResolution"))
    yield Stated(_per(per_unit, _TAG_UNITS.get(get("tiff.ResolutionUnit", ""), 0.0)), "its TIFF resolution tags")
    description = get("tiff.ImageDescription") or get("openslide.comment") or ""
    if "Pixels" in description:
        yield Stated(_of_ome_xml(description[:_LONGEST], size), "its OME-XML")
    if found := _APERIO.search(description):
        yield Stated(_pair(found[1], found[1]), "its Aperio header")
    if description.startswith("ImageJ=") and (found := _IMAGEJ_UNIT.search(description)):
        yield Stated(_per(per_unit, _length(found[1])), "its ImageJ header")
    volume = _pair(get("dicom.ImagedVolumeWidth"), get("dicom.ImagedVolumeHeight"))  # mm
    yield Stated((1000.0 * volume[0] / size[0], 1000.0 * volume[1] / size[1]), "its imaged volume")


def property_number(text: str | None) -> float:
    """The number that an OpenSlide property spells; 0 if it spells none."""
    try:
        return float(text) if text is not None else 0.0
    except ValueError:
        return 0.0


def _pair(x: str | None, y: str | None) -> tuple[float, float]:
    return property_number(x), property_number(y)


def _per(density: tuple[float, float], unit: float) -> tuple[float, float]:
    """Pixels per ``unit`` µm → µm per pixel."""
    x, y = (unit / value if value > 0.0 else 0.0 for value in density)
    return x, y


def _of_ome_xml(text: str, size: tuple[int, int]) -> tuple[float, float]:
    """The physical size of a pixel of the first image in the OME-XML that has the slide's ``size``, in µm.

    Only the attributes of Pixels are read, by their form: no entity is expanded. A unit that is no length is NaN.
    """
    from html import unescape

    for pixels in _PIXELS.finditer(text):
        found = {name: unescape(double or single) for name, double, single in _ATTRIBUTE.findall(pixels[1])}
        if (found.get("SizeX"), found.get("SizeY")) == (str(size[0]), str(size[1])):
            x, y = (
                property_number(found.get(f"PhysicalSize{axis}")) * _length(found.get(f"PhysicalSize{axis}Unit", "µm"))
                for axis in "XY"
            )
            return x, y
    return 0.0, 0.0


def _length(unit: str) -> float:
    """A unit of length in µm; NaN if it is none. µ may be the Greek letter, escaped, or lost to another encoding."""
    plain = unit.strip().replace("\u03bc", "µ").replace("\\u00B5", "µ").replace("\ufffd", "µ").replace("Âµ", "µ")
    return _LENGTHS.get(plain, math.nan)
