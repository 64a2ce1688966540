"""A slide's pixels at any resolution: opened by OpenSlide, and read by it where its tiles are not plain JPEG."""

import math
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from survfuse.runtime.errors import EnvironmentFailure, InputError, is_machine_failure
from survfuse.runtime.log import warn
from survfuse.runtime.watch import reading
from survfuse.slide.settings import PLAUSIBLE_MPP
from survfuse.slide.tiff import DamagedTileError, LostTileError, TiffLevels

_UNITS = {"centimeter": 10_000.0, "inch": 25_400.0}  # µm
_TIFF_VENDORS = ("generic-tiff", "aperio")  # whose levels are pages of a TIFF, tile by tile
# A level may be this much coarser than asked and still count as fine enough: pyramids round their sizes.
_ROUNDED = 1.002
_LARGEST_TILE = 2**25  # pixels of a slide's own tile, which is decoded whole
# A slide's longest side: the largest glass for whole organs is 200 mm. Where it would be more, the resolution is wrong.
_LARGEST_MM = 250.0


class DamagedRegionError(InputError):
    """A part of a slide that cannot be read."""


class BlankRegionError(DamagedRegionError):
    """A part of a slide that its file leaves out: nothing was scanned there, or it was lost."""


class Slide:
    """An open slide. Reading is safe from several threads at once."""

    def __init__(self, path: Path, assumed_mpp: float | None = None) -> None:
        """Open ``path``; raises InputError for a file OpenSlide cannot read, or one with no usable resolution
        where none is assumed."""
        self.name = path.name
        self._path = path
        self._renewing = threading.Lock()
        try:
            with reading(path.name):
                self._slide = openslide.OpenSlide(path)
                properties = dict(self._slide.properties)
                self.size: tuple[int, int] = self._slide.dimensions  # width, height of level 0
                self._dimensions, self._downsamples = self._slide.level_dimensions, self._slide.level_downsamples
        except openslide.OpenSlideUnsupportedFormatError as cause:
            raise InputError(f"{path.name}: not a slide that OpenSlide reads (a tiled TIFF, say)") from cause
        except (openslide.OpenSlideError, OSError) as cause:
            if is_machine_failure(cause):
                raise EnvironmentFailure(f"{path.name}: cannot be opened ({cause})") from cause
            raise InputError(f"{path.name}: cannot be opened as a slide ({cause})") from cause
        if any(min(size) < 1 for size in self._dimensions) or not all(0.0 < by < math.inf for by in self._downsamples):
            raise InputError(f"{self.name}: has a level without pixels")
        # A label or another picture beside the slide is none of its levels, whatever it says of itself.
        self._levels = [level for level, size in enumerate(self._dimensions) if _is_reduced(size, self.size)]
        # (x, y) µm per pixel of level 0
        self.mpp, self.mpp_source = resolution(self.name, properties, assumed_mpp, self.size)
        vendor = properties[openslide.PROPERTY_NAME_VENDOR]
        self._tiles = _tile_sizes(properties, len(self._dimensions)) if vendor in _TIFF_VENDORS else {}
        # OpenSlide fills what an Aperio level leaves out from the level above.
        try:
            with reading(path.name):
                self._tiff = TiffLevels(path, vendor == "generic-tiff") if vendor in _TIFF_VENDORS else None
        except BaseException:
            self._slide.close()
            raise

    def __enter__(self) -> "Slide":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._slide.close()
        if self._tiff is not None:
            self._tiff.close()

    def level_for(self, downsample: float) -> int:
        """The coarsest level that is at least as fine as ``downsample`` level-0 pixels per pixel."""
        fine_enough = [level for level in self._levels if self._downsamples[level] <= downsample * _ROUNDED]
        return fine_enough[-1] if fine_enough else 0

    def excess(self, downsample: float) -> float:
        """Pixels, across and down, that are read for each one given at ``downsample`` level-0 pixels per pixel."""
        return max(1.0, downsample / self._downsamples[self.level_for(downsample)])

    def read(
        self, origin: tuple[int, int], side: tuple[float, float], px: tuple[int, int], blank: bool = True
    ) -> NDArray[np.uint8]:
        """The rectangle at level-0 ``origin``, ``side`` level-0 pixels wide and high, as [px[1], px[0], 3] RGB.

        Read from the nearest finer level and resampled with anti-aliasing where it differs by half a pixel or more,
        else from the level's nearest pixel on. What lies beyond the border or is left out is white. Raises
        DamagedRegionError, without ``blank`` also where the slide has no pixel of the rectangle.
        """
        level = self.level_for(min(side[0] / px[0], side[1] / px[1]))
        downsample = self._downsamples[level]
        start = (origin[0] / downsample, origin[1] / downsample)  # in pixels of the level
        extent = (side[0] / downsample, side[1] / downsample)
        if all(abs(have - want) < 0.5 for have, want in zip(extent, px, strict=True)):
            with reading(self.name):
                return self._region(level, (round(start[0]), round(start[1])), px, blank)
        first = (int(np.floor(start[0])), int(np.floor(start[1])))
        offset = (start[0] - first[0], start[1] - first[1])
        end = (offset[0] + extent[0], offset[1] + extent[1])
        with reading(self.name):
            region = self._region(level, first, (int(np.ceil(end[0])), int(np.ceil(end[1]))), blank)
        return np.asarray(Image.fromarray(region).resize(px, Image.Resampling.BICUBIC, box=(*offset, *end)))

    def _region(self, level: int, start: tuple[int, int], size: tuple[int, int], blank: bool) -> NDArray[np.uint8]:
        """A rectangle in a level's own pixels, [size[1], size[0], 3]."""
        found = self._dimensions[level]
        downsample = self._downsamples[level]
        width, height = self._tiles.get(level, (0.0, 0.0))
        if width * height > _LARGEST_TILE:
            most = f"expected at most {_LARGEST_TILE:,} pixels"
            raise InputError(f"{self.name}: tiles of {width:.0f} × {height:.0f} px, {most}")
        origin = (round(start[0] * downsample), round(start[1] * downsample))
        if self._tiff is not None and found in self._tiff:
            if not blank and not self._tiff.holds(found, *start, *size):
                raise self._blank(origin)
            try:
                return self._tiff.read(found, *start, *size)
            except LostTileError as cause:
                raise self._damaged(origin, cause) from cause
            except DamagedTileError:
                pass  # OpenSlide judges what can still be read of it
        slide = self._slide
        try:
            region = slide.read_region(origin, level, size)
        except openslide.OpenSlideError:
            region = self._read_anew(slide, origin, level, size)
        if not blank and region.getchannel("A").getextrema()[1] == 0:
            raise self._blank(origin)
        return np.asarray(_on_white(region))

    def _read_anew(
        self, failed: openslide.OpenSlide, origin: tuple[int, int], level: int, size: tuple[int, int]
    ) -> Image.Image:
        """The region by a slide opened for it alone. One that ``failed`` answers every later call with its error,
        those of other threads among them: whether this region is at fault shows only here."""
        with self._renewing:
            try:
                if self._slide is failed:
                    self._slide = openslide.OpenSlide(self._path)
                with openslide.OpenSlide(self._path) as fresh:
                    return fresh.read_region(origin, level, size)
            except (openslide.OpenSlideError, OSError) as cause:
                if is_machine_failure(cause):
                    raise EnvironmentFailure(f"{self.name}: cannot be read ({cause})") from cause
                raise self._damaged(origin, cause) from cause

    def _blank(self, origin: tuple[int, int]) -> BlankRegionError:
        return BlankRegionError(f"{self.name}: the slide has no pixels at {origin[0]}, {origin[1]}")

    def _damaged(self, origin: tuple[int, int], cause: Exception) -> DamagedRegionError:
        return DamagedRegionError(f"{self.name}: the region at {origin[0]}, {origin[1]} cannot be read ({cause})")


def _is_reduced(size: tuple[int, int], whole: tuple[int, int]) -> bool:
    """Whether a picture of this size can show all of one that is ``whole``: its sides are rounded, by two pixels."""
    across, down = whole[0] / size[0], whole[1] / size[1]
    return abs(whole[0] / down - size[0]) <= 2.0 or abs(whole[1] / across - size[1]) <= 2.0


SINGLE_FILE = ("aperio", "generic-tiff", "hamamatsu", "leica", "philips", "sakura", "trestle", "ventana", "zeiss")


def check_single_file(path: Path) -> None:
    """Raise InputError for a format that has its pixels read from other files than itself."""
    try:
        with reading(path.name):
            vendor = openslide.OpenSlide.detect_format(path)
    except (openslide.OpenSlideError, OSError):
        return  # opening says what is wrong
    if vendor is not None and (vendor not in SINGLE_FILE or path.suffix.lower() in (".vms", ".vmu")):
        raise InputError(f"{path.name}: a slide of several files ({vendor}); expected one file that holds it all")


def _tile_sizes(properties: Mapping[str, str], levels: int) -> dict[int, tuple[float, float]]:
    """Width and height of each level's own tiles."""
    found = {}
    for level in range(levels):
        width, height = (properties.get(f"openslide.level[{level}].tile-{side}") for side in ("width", "height"))
        found[level] = (_number(width), _number(height))
    return found


def resolution(
    name: str, properties: Mapping[str, str], assumed: float | None, size: tuple[int, int] = (1, 1)
) -> tuple[tuple[float, float], str]:
    """(x, y) µm per level-0 pixel and where it was found: OpenSlide's own, else TIFF resolution tags, else ``assumed``.

    Implausible is what no microscope gives, pixels more than twice as long as wide, and a slide of ``size`` pixels that
    no glass would hold. Raises InputError where none is plausible and none is assumed.
    """
    stated = tuple(
        _number(properties.get(key)) for key in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
    )
    unit = _UNITS.get(properties.get("tiff.ResolutionUnit", ""), 0.0)
    density = [_number(properties.get(f"tiff.{axis}Resolution")) for axis in "XY"]
    tags = tuple(unit / value if value > 0.0 else 0.0 for value in density)
    low, high = PLAUSIBLE_MPP
    longest = 1000.0 * _LARGEST_MM  # µm
    for mpp, source in ((stated, "the slide"), (tags, "its TIFF resolution tags")):
        fits = all(low <= value <= high and value * px <= longest for value, px in zip(mpp, size, strict=True))
        if fits and max(mpp) <= 2.0 * min(mpp):
            return (mpp[0], mpp[1]), source
    found = ", ".join(f"{value:g}" for value in (*stated, *tags) if value) or "none"
    if assumed is None:
        raise InputError(
            f"{name}: no usable resolution (found {found}; expected {low} to {high} µm per pixel, of square pixels, on "
            f"{_LARGEST_MM:g} mm at most) and none is assumed"
        )
    warn(f"{name}: no usable resolution (found {found}); {assumed:g} µm per pixel is assumed, as stated")
    return (assumed, assumed), "the stated assumption"


def _on_white(region: Image.Image) -> Image.Image:
    """RGBA as OpenSlide gives it, transparent where the slide has no pixels → RGB on white."""
    alpha = region.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return region.convert("RGB")
    image = Image.new("RGB", region.size, (255, 255, 255))
    image.paste(region, mask=alpha)
    return image


def _number(text: str | None) -> float:
    """The number that a property spells, or 0 where it spells none."""
    try:
        return float(text) if text is not None else 0.0
    except ValueError:
        return 0.0
