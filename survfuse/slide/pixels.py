"""A slide's pixels at any resolution: OpenSlide opens it, and reads it unless its tiles are plain JPEGs."""

import math
import re
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np
import openslide
from PIL import Image

from survfuse.runtime.arrays import Pixels
from survfuse.runtime.errors import EnvironmentFailure, InputError, is_machine_failure
from survfuse.runtime.native_stderr import native_stderr
from survfuse.runtime.watch import reading
from survfuse.slide.damage import BlankRegionError, DamagedRegionError
from survfuse.slide.kinds import kind_of
from survfuse.slide.parts import check_parts
from survfuse.slide.resolution import resolution
from survfuse.slide.stated import property_number
from survfuse.slide.tiff import DamagedTileError, LostTileError, TiffLevels, check_orientations

_TIFF_VENDORS = ("generic-tiff", "aperio")  # formats whose levels are pages of a TIFF, tile by tile
_OTHER_TIFF_VENDORS = ("hamamatsu", "leica", "philips", "trestle", "ventana")  # and of others in a TIFF
# A level may be this much coarser than asked and still count as fine enough: pyramids round their sizes.
_ROUNDED = 1.002
_LARGEST_TILE = 2**25  # pixels of one of the slide's own tiles, which are decoded whole


class Slide:
    """An open slide, with its ``size`` and ``mpp``. Reading is safe from several threads at once."""

    def __init__(self, path: Path, assumed_mpp: float | None = None) -> None:
        """Open ``path``, taking ``assumed_mpp`` (µm per level-0 pixel) if it states no usable resolution.

        Raises InputError for a file that OpenSlide cannot read, and one without resolution if none is assumed;
        EnvironmentFailure if the machine fails.
        """
        self.name = path.name
        self._path = path
        self._renewing = threading.Lock()
        said: list[str] = []
        try:
            with reading(path.name):
                check_parts(path)
                with native_stderr("OpenSlide-") as said:
                    self._slide = openslide.OpenSlide(path)
                properties = _properties(self._slide)
                self.size: tuple[int, int] = self._slide.dimensions  # width, height of level 0
                self._dimensions, self._downsamples = self._slide.level_dimensions, self._slide.level_downsamples
        except openslide.OpenSlideUnsupportedFormatError as cause:
            if said:  # it knows the format, but takes one fault for another format
                raise InputError(f"{path.name}: cannot be opened as a slide ({_without_origin(said[0])})") from cause
            expected = "not a slide that OpenSlide reads (for example a tiled TIFF)"
            raise InputError(f"{path.name}: {expected}; found {kind_of(path)}") from cause
        except (openslide.OpenSlideError, OSError) as cause:
            if is_machine_failure(cause):
                raise EnvironmentFailure(f"{path.name}: cannot be opened ({cause})") from cause
            raise InputError(f"{path.name}: cannot be opened as a slide ({cause})") from cause
        if any(min(size) < 1 for size in self._dimensions) or not all(0.0 < by < math.inf for by in self._downsamples):
            raise InputError(f"{self.name}: has a level without pixels")
        # A label or other picture in the file is not one of the slide's levels, whatever the file states.
        self._levels = [level for level, size in enumerate(self._dimensions) if _is_reduced(size, self.size)]
        # (x, y) µm per pixel of level 0, and in words where that comes from
        self.mpp, self.mpp_source = resolution(self.name, properties, assumed_mpp, self.size)
        vendor = properties[openslide.PROPERTY_NAME_VENDOR]
        self._tiles = _tile_sizes(properties, len(self._dimensions)) if vendor in _TIFF_VENDORS else {}
        # What an Aperio level leaves out, OpenSlide takes from the level above: that is left to it.
        try:
            with reading(path.name):
                if vendor in _OTHER_TIFF_VENDORS:
                    check_orientations(path, vendor == "hamamatsu")
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
        """How many times more pixels, across and down, are read than are given at ``downsample``.

        ``downsample`` is in level-0 pixels per pixel, as in ``level_for``.
        """
        return max(1.0, downsample / self._downsamples[self.level_for(downsample)])

    def read(
        self, origin: tuple[int, int], side: tuple[float, float], px: tuple[int, int], blank: bool = True
    ) -> Pixels:
        """The rectangle at level-0 ``origin``, ``side`` level-0 pixels wide and high, as [px[1], px[0], 3] RGB.

        It is read from the nearest finer level, and resampled with anti-aliasing if the sizes differ by half a pixel or
        more; otherwise it begins at the level's nearest pixel. What lies beyond the border or is left out is white.

        Raises DamagedRegionError if it cannot be read and, without ``blank``, BlankRegionError if the slide has none of
        its pixels.
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

    def _region(self, level: int, start: tuple[int, int], size: tuple[int, int], blank: bool) -> Pixels:
        """A rectangle in a level's own pixels, [size[1], size[0], 3] RGB."""
        whole = self._dimensions[level]
        downsample = self._downsamples[level]
        width, height = self._tiles.get(level, (0.0, 0.0))
        if width * height > _LARGEST_TILE:
            most = f"expected at most {_LARGEST_TILE:,} pixels"
            raise InputError(f"{self.name}: tiles of {width:.0f} × {height:.0f} px, {most}")
        origin = (round(start[0] * downsample), round(start[1] * downsample))
        if self._tiff is not None and whole in self._tiff:
            if not blank and not self._tiff.holds(whole, *start, *size):
                raise self._blank(origin)
            try:
                return self._tiff.read(whole, *start, *size)
            except LostTileError as cause:
                raise self._damaged(origin, cause) from cause
            except DamagedTileError:
                pass  # OpenSlide decides whether it can still be read
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
        """The region, read from a slide opened just for it.

        A slide that ``failed`` once answers every later call with that error, also in other threads: only a fresh one
        shows whether this region is at fault.
        """
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


def _without_origin(line: str) -> str:
    """A line of GLib's log without the process and the time."""
    return re.sub(r"^.*\*\*: ([\d:.]+: )?", "", line)


def _properties(slide: openslide.OpenSlide) -> dict[str, str]:
    """A slide's properties, without those whose names are not UTF-8: openslide-python lists them, but finds none."""
    properties = {}
    for name in slide.properties:
        with suppress(KeyError):
            properties[name] = slide.properties[name]
    return properties


def _is_reduced(size: tuple[int, int], whole: tuple[int, int]) -> bool:
    """Whether a picture of this ``size`` can show all of one of the size ``whole``, up to two pixels of rounding."""
    across, down = whole[0] / size[0], whole[1] / size[1]
    return abs(whole[0] / down - size[0]) <= 2.0 or abs(whole[1] / across - size[1]) <= 2.0


def _tile_sizes(properties: Mapping[str, str], levels: int) -> dict[int, tuple[float, float]]:
    """Width and height of each level's own tiles; 0 if not stated."""
    sizes = {}
    for level in range(levels):
        width, height = (properties.get(f"openslide.level[{level}].tile-{side}") for side in ("width", "height"))
        sizes[level] = (property_number(width), property_number(height))
    return sizes


def _on_white(region: Image.Image) -> Image.Image:
    """OpenSlide's RGBA, transparent where the slide has no pixels → RGB on white."""
    alpha = region.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return region.convert("RGB")
    image = Image.new("RGB", region.size, (255, 255, 255))
    image.paste(region, mask=alpha)
    return image
