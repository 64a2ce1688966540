"""A slide's pixels straight from the JPEG tiles of its TIFF, in a level's own pixels.

OpenSlide places a region by level-0 coordinates. On a reduced level these fall between pixels, OpenSlide interpolates,
and a tile takes five times as long as its decoding. What is not laid out plainly is left to OpenSlide.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tifffile import TiffPage

_CACHE = 48 * 2**20  # bytes of decoded tiles that are kept: tiles that are read one after the other share some
# Frame headers of JPEG (ITU-T T.81, Table B.1): all markers from C0 to CF but DHT, JPG and DAC.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class DamagedTileError(Exception):
    """A tile that cannot be decoded, and why."""


@dataclass(frozen=True)
class _Level:
    """What of a page is needed once its file's directories are closed."""

    tile: tuple[int, int]  # width, height
    across: int  # tiles
    offsets: Sequence[int]
    lengths: Sequence[int]
    decode: Callable[[bytes, int], NDArray[np.uint8]]

    @classmethod
    def of(cls, page: "TiffPage") -> "_Level":
        decode, tables, header = page.decode, page.jpegtables, page.jpegheader
        return cls(
            (page.tilewidth, page.tilelength),
            -(-page.imagewidth // page.tilewidth),
            page.dataoffsets,
            page.databytecounts,
            lambda data, number: decode(data, number, jpegtables=tables, jpegheader=header)[0][0],
        )


class TiffLevels:
    """The plainly tiled levels of a pyramid, named by their sizes. Reading is safe from several threads at once."""

    def __init__(self, path: Path) -> None:
        """Open ``path``, which OpenSlide has found to be a slide; a file that is no such TIFF has no levels."""
        import tifffile

        self._levels: dict[tuple[int, int], _Level] = {}
        self._descriptor = os.open(path, os.O_RDONLY)
        try:
            with tifffile_complaints(), tifffile.TiffFile(path) as file:
                pages = [page.aspage() for page in file.pages]
                sizes = Counter((page.imagewidth, page.imagelength) for page in pages)
                self._levels = {
                    size: _Level.of(page)
                    for page in pages
                    if _is_plain(page) and sizes[size := (page.imagewidth, page.imagelength)] == 1
                }
        except (tifffile.TiffFileError, ValueError, RuntimeError, IndexError, KeyError, TypeError):
            self._levels = {}
        largest = max((level.tile[0] * level.tile[1] * 3 for level in self._levels.values()), default=1)
        self._tile = lru_cache(max(8, _CACHE // largest))(self._decoded)

    def close(self) -> None:
        os.close(self._descriptor)

    def __contains__(self, size: tuple[int, int]) -> bool:
        """Whether there is a level of this width and height."""
        return size in self._levels

    def read(self, size: tuple[int, int], left: int, top: int, width: int, height: int) -> NDArray[np.uint8]:
        """A rectangle of the level of this ``size``, [height, width, 3] RGB; white beyond its border and where the file
        leaves a tile out. Raises DamagedTileError."""
        across, down = self._levels[size].tile
        region = np.full((height, width, 3), 255, dtype=np.uint8)
        right, bottom = min(left + width, size[0]), min(top + height, size[1])
        for row in range(max(top, 0) // down, -(-bottom // down)):
            for column in range(max(left, 0) // across, -(-right // across)):
                tile = self._tile(size, row, column)
                if tile is None:
                    continue
                x, y = column * across, row * down
                x0, x1 = max(left, x), min(right, x + across)
                y0, y1 = max(top, y), min(bottom, y + down)
                region[y0 - top : y1 - top, x0 - left : x1 - left] = tile[y0 - y : y1 - y, x0 - x : x1 - x]
        return region

    def _decoded(self, size: tuple[int, int], row: int, column: int) -> NDArray[np.uint8] | None:
        level = self._levels[size]
        number = row * level.across + column
        if not level.lengths[number]:
            return None
        data = os.pread(self._descriptor, level.lengths[number], level.offsets[number])
        if frame_size(data) != level.tile:
            raise DamagedTileError(f"tile {column}, {row} is no JPEG of {level.tile[0]} × {level.tile[1]} px")
        try:
            return level.decode(data, number)
        except (RuntimeError, ValueError) as cause:  # imagecodecs' errors are the former
            raise DamagedTileError(f"tile {column}, {row}: {cause}") from cause


def frame_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that a JPEG's frame header states, or None where it has none.

    Read before it is decoded: a few bytes can state a frame of four thousand million pixels.
    """
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        if data[place + 1] in _FRAMES:
            return int.from_bytes(data[place + 7 : place + 9]), int.from_bytes(data[place + 5 : place + 7])
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return None


@contextmanager
def tifffile_complaints() -> Iterator[list[str]]:
    """What tifffile logs within the block, kept from stderr."""
    complaints: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: complaints.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("tifffile")
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield complaints
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates


def _is_plain(page: "TiffPage") -> bool:
    """Whether the page is of JPEG tiles in RGB of 8 bits, all in one plane."""
    return (
        page.is_tiled
        and page.compression == 7
        and page.photometric in (2, 6)  # RGB, and as JPEG keeps it
        and page.samplesperpixel == 3
        and page.bitspersample == 8
        and page.planarconfig == 1
        and page.imagedepth == 1
        and len(page.databytecounts) == len(page.dataoffsets)
        and len(page.dataoffsets) == -(-page.imagewidth // page.tilewidth) * -(-page.imagelength // page.tilelength)
    )
