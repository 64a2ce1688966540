"""A slide's pixels decoded from the JPEG tiles of its TIFF, in a level's own pixels.

OpenSlide places a region by level-0 coordinates. On a reduced level these lie between pixels, so OpenSlide
interpolates, and a tile takes five times as long as its decoding. Pages that are not plain JPEG tiles, and tiles that
are not sound to the last byte, are left to OpenSlide.
"""

import logging
import os
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from survfuse.runtime.arrays import Pixels
from survfuse.runtime.errors import InputError
from survfuse.slide.jpeg import decode, frame_header, has_end, shared_tables, without_padding
from survfuse.slide.orientation import check_orientation

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

# What tifffile raises for directories that make no sense.
UNREADABLE = (ValueError, RuntimeError, LookupError, TypeError, AttributeError, ArithmeticError, OSError, struct.error)
_CACHE = 48 * 2**20  # bytes of decoded tiles that are kept: regions read one after the other share some
_LARGEST_SIDE = 2048  # px of a tile
_MOST_PAGES = 1000  # of a file; a pyramid has about ten, and a chain of pages may lead back into itself


class DamagedTileError(Exception):
    """A tile that is not sound to the last byte, and why."""


class LostTileError(DamagedTileError):
    """A tile whose pixels are not in the file, which a lenient decoder would invent."""


class TiffLevels:
    """The plainly tiled levels of a pyramid, by their size. Reading is safe from several threads at once."""

    def __init__(self, path: Path, sparse: bool) -> None:
        """Open ``path``, a slide as OpenSlide has found; a file that is not such a TIFF has no levels.

        With ``sparse``, tiles that the file leaves out are white; without, a level that leaves any out does not count.
        Raises InputError for a tile that states more bytes than the file has, and for tiles that are to be turned.
        """
        self._levels: dict[tuple[int, int], _Level] = {}
        self._descriptor = os.open(path, os.O_RDONLY)
        try:
            self._levels = _plain_levels(path, os.fstat(self._descriptor).st_size, sparse)
        except UNREADABLE:  # OpenSlide reads it all the same
            pass
        except BaseException:
            os.close(self._descriptor)
            raise
        largest = max((level.tile[0] * level.tile[1] * 3 for level in self._levels.values()), default=1)
        self._tile = lru_cache(max(8, _CACHE // largest))(self._decoded)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def __contains__(self, size: tuple[int, int]) -> bool:
        """Whether there is a level of this ``size`` (width, height)."""
        return size in self._levels

    def read(self, size: tuple[int, int], left: int, top: int, width: int, height: int) -> Pixels:
        """A rectangle of the level of this ``size``, in its own pixels, as [height, width, 3] RGB.

        It is white beyond the border and where the file leaves a tile out. Raises DamagedTileError.
        """
        across, down = self._levels[size].tile
        region = np.full((height, width, 3), 255, dtype=np.uint8)
        right, bottom = min(left + width, size[0]), min(top + height, size[1])
        for row, column in self._under(size, left, top, width, height):
            tile = self._tile(size, row, column)
            if tile is None:
                continue
            x, y = column * across, row * down
            x0, x1 = max(left, x), min(right, x + across)
            y0, y1 = max(top, y), min(bottom, y + down)
            if x0 >= x1 or y0 >= y1:  # the tile's part beyond the border
                continue
            region[y0 - top : y1 - top, x0 - left : x1 - left] = tile[y0 - y : y1 - y, x0 - x : x1 - x]
        return region

    def holds(self, size: tuple[int, int], left: int, top: int, width: int, height: int) -> bool:
        """Whether the file has any tile under this rectangle of the level of this ``size``, in its own pixels."""
        level = self._levels[size]
        under = self._under(size, left, top, width, height)
        return any(level.lengths[row * level.across + column] for row, column in under)

    def _under(self, size: tuple[int, int], left: int, top: int, width: int, height: int) -> Iterator[tuple[int, int]]:
        """Row and column of each tile under a rectangle of a level."""
        across, down = self._levels[size].tile
        right, bottom = min(left + width, size[0]), min(top + height, size[1])
        rows = range(max(top, 0) // down, -(-bottom // down))
        columns = range(max(left, 0) // across, -(-right // across))
        return product(rows, columns)

    def _decoded(self, size: tuple[int, int], row: int, column: int) -> Pixels | None:
        """The tile's pixels; None if the file leaves it out."""
        level = self._levels[size]
        number = row * level.across + column
        if not level.lengths[number]:
            return None
        where = f"tile {column}, {row}"
        try:
            data = os.pread(self._descriptor, level.lengths[number], level.offsets[number])
        except OSError as cause:
            raise DamagedTileError(f"{where}: {cause.strerror}") from cause
        stated, place = frame_header(data)
        if stated != level.tile:
            raise DamagedTileError(f"{where} is not a JPEG of {level.tile[0]} × {level.tile[1]} px")
        if not has_end(data, place):  # a decoder would invent what is missing
            raise LostTileError(f"{where} is a JPEG without an end")
        try:
            return decode(data, level.tables)
        except ValueError as cause:
            unpadded = without_padding(data)
            if str(cause).startswith("Corrupt JPEG data") and unpadded != data:
                with suppress(ValueError):
                    return decode(unpadded, level.tables)
            # libjpeg only warns of too few coded pixels, which it fills with grey, of invalid codes, and of bytes left
            # over once all pixels are done, which then are not the pixels that were meant.
            lost = str(cause).startswith(("Corrupt JPEG data", "Premature end"))
            raise (LostTileError if lost else DamagedTileError)(f"{where}: {cause}") from cause


def pages_of(file: "TiffFile") -> Iterator["TiffPage"]:
    """A file's pages one after the other; raises ValueError if they do not come to an end."""
    for number in range(_MOST_PAGES):
        try:
            page = file.pages[number].aspage()
        except IndexError:
            return
        yield page
    raise ValueError(f"more than {_MOST_PAGES:,} pages")


def check_orientations(path: Path, ndpi: bool) -> None:
    """Raise InputError for a slide in a TIFF of which any page is to be turned or mirrored; no other file is refused.

    For formats whose levels are not known to be pages with tiles. ``ndpi`` says whether offsets may have 64 bits, as in
    Hamamatsu's; tifffile alone would go by the file's suffix.
    """
    import tifffile

    with suppress(*UNREADABLE), tifffile_complaints(), tifffile.TiffFile(path, is_ndpi=ndpi) as file:
        for page in pages_of(file):
            check_orientation(path.name, page)


def has_unsound_jpeg(path: Path, page: "TiffPage") -> bool:
    """Whether a JPEG of the page is damaged, has no end, or states more pixels than its tile or strip has."""
    height = page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength)
    most = (page.tilewidth if page.is_tiled else page.imagewidth) * height
    tables = shared_tables(page.jpegtables)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for offset, length in zip(page.dataoffsets, page.databytecounts, strict=True):
            if not length:
                continue
            data = os.pread(descriptor, length, offset)
            size, place = frame_header(data)
            if size is None or size[0] * size[1] > most or not has_end(data, place):
                return True
            try:
                decode(data, tables)
            except ValueError:  # what libjpeg fills in would count as tissue
                return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def tifffile_complaints() -> Iterator[list[str]]:
    """The warnings that tifffile logs within the block, collected and kept from stderr."""
    complaints: list[str] = []
    handler = _Collector(complaints)
    logger = logging.getLogger("tifffile")
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield complaints
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates


class _Collector(logging.Handler):
    """Appends the messages of warnings and errors to ``messages``."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(record.getMessage())


@dataclass(frozen=True)
class _Level:
    """What is needed of a page once its file is closed."""

    tile: tuple[int, int]  # width, height
    across: int  # tiles
    offsets: Sequence[int]
    lengths: Sequence[int]
    tables: bytes  # JPEG tables that the tiles share

    @classmethod
    def of(cls, page: "TiffPage") -> "_Level":
        tile = (page.tilewidth, page.tilelength)
        across = -(-page.imagewidth // tile[0])
        return cls(tile, across, page.dataoffsets, page.databytecounts, shared_tables(page.jpegtables))


def _plain_levels(path: Path, length: int, sparse: bool) -> dict[tuple[int, int], _Level]:
    """The plain pages of a file of ``length`` bytes by their size; none of a size that several pages have."""
    import tifffile

    # A suffix would make it Hamamatsu's, which OpenSlide found it is not.
    with tifffile_complaints(), tifffile.TiffFile(path, is_ndpi=False) as file:
        pages = []
        for page in pages_of(file):
            if page.is_tiled:  # the others, such as the picture of a label, are none of OpenSlide's levels
                check_orientation(path.name, page)
            pages.append(page)
        if any(max(page.databytecounts, default=0) > length for page in pages):
            # OpenSlide would allocate as much as is stated, and end the process if there is not so much memory.
            raise InputError(f"{path.name}: states a tile of more bytes than the file has")
        sizes = Counter((page.imagewidth, page.imagelength) for page in pages)
        return {
            size: _Level.of(page)
            for page in pages
            if sizes[size := (page.imagewidth, page.imagelength)] == 1 and _is_plain(page, length, sparse)
        }


def _is_plain(page: "TiffPage", length: int, sparse: bool) -> bool:
    """Whether the page is of JPEG tiles in colour, 8 bits, in one plane, and all within the file's ``length``."""
    if not (
        page.is_tiled
        and page.compression == 7
        and page.photometric == 6  # YCbCr, which is what a JPEG is taken to hold
        and page.samplesperpixel == 3
        and page.bitspersample == 8
        and page.planarconfig == 1
        and page.imagedepth == 1
        and 0 < page.tilewidth <= _LARGEST_SIDE
        and 0 < page.tilelength <= _LARGEST_SIDE
    ):
        return False
    tiles = -(-page.imagewidth // page.tilewidth) * -(-page.imagelength // page.tilelength)
    if not len(page.dataoffsets) == len(page.databytecounts) == tiles:
        return False
    return all(
        (sparse if not count else start >= 0 and count > 0 and start + count <= length)
        for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)
    )
