"""A slide's pixels straight from the JPEG tiles of its TIFF, in a level's own pixels.

OpenSlide places a region by level-0 coordinates. On a reduced level these fall between pixels, OpenSlide interpolates,
and a tile takes five times as long as its decoding. What is not laid out plainly, or not sound to the last byte, is
left to OpenSlide.
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
from numpy.typing import NDArray

from survfuse.runtime.errors import InputError

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage


_CACHE = 48 * 2**20  # bytes of decoded tiles that are kept: tiles that are read one after the other share some
_LARGEST_SIDE = 2048  # px of a tile
_MOST_PAGES = 1000  # of a file; a pyramid has about ten, and a chain of pages may lead back into itself
# What tifffile raises for directories that make no sense.
UNREADABLE = (ValueError, RuntimeError, LookupError, TypeError, AttributeError, ArithmeticError, OSError, struct.error)
# The markers that begin and end a JPEG; within its coded pixels these bytes do not follow each other.
_START, _END = b"\xff\xd8", b"\xff\xd9"
# Frame headers of JPEG (ITU-T T.81, Table B.1): all markers from C0 to CF but DHT, JPG and DAC.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class DamagedTileError(Exception):
    """A tile that is not sound to the last byte, and why."""


class LostTileError(DamagedTileError):
    """A tile whose pixels are not in the file: a decoder that goes on makes them up."""


@dataclass(frozen=True)
class _Level:
    """What of a page is needed once its file's directories are closed."""

    tile: tuple[int, int]  # width, height
    across: int  # tiles
    offsets: Sequence[int]
    lengths: Sequence[int]
    tables: bytes  # a JPEG's tables that its tiles leave out, up to where a tile's own goes on

    @classmethod
    def of(cls, page: "TiffPage") -> "_Level":
        tile = (page.tilewidth, page.tilelength)
        return cls(tile, -(-page.imagewidth // tile[0]), page.dataoffsets, page.databytecounts, _tables_before(page))


class TiffLevels:
    """The plainly tiled levels of a pyramid, named by their sizes. Reading is safe from several threads at once."""

    def __init__(self, path: Path, sparse: bool) -> None:
        """Open ``path``, which OpenSlide has found to be a slide; a file that is no such TIFF has no levels.

        With ``sparse``, tiles that the file leaves out are white; without, a level that leaves any out is none. Raises
        InputError for tiles of more bytes than the file has.
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
        """Whether the file has any tile under this rectangle of the level of this ``size``."""
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

    def _decoded(self, size: tuple[int, int], row: int, column: int) -> NDArray[np.uint8] | None:
        level = self._levels[size]
        number = row * level.across + column
        if not level.lengths[number]:
            return None
        where = f"tile {column}, {row}"
        try:
            data = os.pread(self._descriptor, level.lengths[number], level.offsets[number])
        except OSError as cause:
            raise DamagedTileError(f"{where}: {cause.strerror}") from cause
        size, place = frame_header(data)
        if size != level.tile:
            raise DamagedTileError(f"{where} is no JPEG of {level.tile[0]} × {level.tile[1]} px")
        if data.find(_END, place) < 0:  # what is missing would be made up
            raise LostTileError(f"{where} is a JPEG without an end")
        try:
            return _decode(level.tables + data[len(_START) :])
        except ValueError as cause:
            unpadded = _without_padding(data)
            if str(cause).startswith("Corrupt JPEG data") and unpadded != data:
                with suppress(ValueError):
                    return _decode(level.tables + unpadded[len(_START) :])
            # What libjpeg only remarks upon: too few coded pixels, which it fills with grey, codes that are none, or
            # bytes left over where all pixels are done, which then are not those that were meant.
            lost = str(cause).startswith(("Corrupt JPEG data", "Premature end"))
            raise (LostTileError if lost else DamagedTileError)(f"{where}: {cause}") from cause


def _without_padding(data: bytes) -> bytes:
    """A JPEG without the zeros that some writers put before its end; coded pixels are padded with ones."""
    return data[: data.rindex(_END)].rstrip(b"\0") + _END


def _tables_before(page: "TiffPage") -> bytes:
    """What stands before the page's JPEGs: the tables that they share, or a JPEG's beginning alone."""
    tables = page.jpegtables
    return tables[: tables.rindex(_END)] if tables else _START


def _decode(data: bytes) -> NDArray[np.uint8]:
    """A JPEG's pixels [h, w, 3] RGB; raises ValueError for anything that libjpeg errs at, or only remarks upon."""
    from simplejpeg import decode_jpeg

    return decode_jpeg(data, colorspace="RGB", fastdct=False, fastupsample=False, strict=True)


def frame_header(data: bytes) -> tuple[tuple[int, int] | None, int]:
    """Width and height that a JPEG states, None where it has no frame, and the header's place.

    Looked at before it is decoded: a few bytes can state more pixels than the tile is meant to have.
    """
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        if data[place + 1] == 0xFF:  # any number of these may come before a marker
            place += 1
            continue
        if data[place + 1] in _FRAMES:
            height, width = (int.from_bytes(data[at : at + 2]) for at in (place + 5, place + 7))
            return (width, height), place
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return None, place


def _plain_levels(path: Path, length: int, sparse: bool) -> dict[tuple[int, int], _Level]:
    """Pages of a file of ``length`` bytes that are plain, by their sizes; none of a size that several have."""
    import tifffile

    with tifffile_complaints(), tifffile.TiffFile(path) as file:
        pages = list(pages_of(file))
        if any(max(page.databytecounts, default=0) > length for page in pages):
            # OpenSlide makes room for as much as is stated, and ends the process where there is none.
            raise InputError(f"{path.name}: states a tile of more bytes than the file has")
        sizes = Counter((page.imagewidth, page.imagelength) for page in pages)
        return {
            size: _Level.of(page)
            for page in pages
            if sizes[size := (page.imagewidth, page.imagelength)] == 1 and _is_plain(page, length, sparse)
        }


def pages_of(file: "TiffFile") -> "Iterator[TiffPage]":
    """A file's pages in turn; raises ValueError where they do not come to an end."""
    for number in range(_MOST_PAGES):
        try:
            page = file.pages[number].aspage()
        except IndexError:
            return
        yield page
    raise ValueError(f"more than {_MOST_PAGES:,} pages")


def has_unsound_jpeg(path: Path, page: "TiffPage") -> bool:
    """Whether any JPEG of the page states more pixels than its tile or strip has, has no end, or is damaged."""
    height = page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength)
    most = (page.tilewidth if page.is_tiled else page.imagewidth) * height
    before = _tables_before(page)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for offset, length in zip(page.dataoffsets, page.databytecounts, strict=True):
            if not length:
                continue
            data = os.pread(descriptor, length, offset)
            size, place = frame_header(data)
            if size is None or size[0] * size[1] > most or data.find(_END, place) < 0:
                return True
            try:
                _decode(before + data[len(_START) :])
            except ValueError:  # what libjpeg fills in would count as tissue
                return True
    finally:
        os.close(descriptor)
    return False


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
