"""Tissue masks: TIFF and MHA files → how much of each tile they cover, read in parts."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from survfuse.runtime.arrays import Floats
from survfuse.runtime.errors import InputError, is_machine_failure
from survfuse.runtime.log import warn
from survfuse.runtime.watch import reading
from survfuse.slide.coverage import Block, Coverage, Part
from survfuse.slide.grid import Grid
from survfuse.slide.mask_place import MaskPlace, Pair, mask_place, stated_mpp
from survfuse.slide.mask_values import MaskValues
from survfuse.slide.mha import read_mha
from survfuse.slide.orientation import check_orientation
from survfuse.slide.pixels import Slide
from survfuse.slide.tiff import UNREADABLE, has_unsound_jpeg, pages_of, tifffile_complaints

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

# A mask level resolves a tile that is this many of its pixels wide. Pyramids of masks may grow tissue by a pixel at
# every level, which is then at most 3% of a tile.
PIXELS_PER_TILE = 32
LARGEST_HELD = 2**30  # bytes of a mask, or of a part of one, that can only be read whole
_BAND = 512  # rows read at a time, of an image held in memory or mapped from its file
_BUFFER = 2**22  # bytes of a mask's file that are read at once
_PARALLEL = 2**25  # bytes of a decoded tile up to which several are decoded at once
_FINEST = 2  # pixels of a mask for each of the slide's, at most
_MOST_INNER = 100  # pages of a mask that lie within its first
_NO_SPACING = (1.0, 1.0)  # mm, ITK's for an image that states none
_MANY_BELOW = 0.1  # of a mask's marked area, below its limit, from which on it is said
_JPEG = 7
# Of TIFF 6.0, and deflate by its two numbers, LZMA and Zstandard: none unpacks to more than the size of a tile.
_CODINGS = (1, 2, 3, 4, 5, _JPEG, 8, 32773, 32946, 34925, 50000)

_Segment = tuple[NDArray[Any] | None, tuple[int, int, int, int, int], tuple[int, int, int, int]]  # tifffile's


def mask_coverage(path: Path, slide: Slide, grid: Grid) -> tuple[Floats, str]:
    """The share of each tile [rows, columns] that the mask file covers, and in words how the mask was read.

    A mask has the slide's shape at any resolution, or states the resolution by which it is placed (``mask_place``);
    ``MaskValues`` says which of its values are tissue. Raises InputError for a mask that cannot be read, is finer than
    the slide, has another shape, or is to be turned or mirrored.
    """
    with reading(path.name) as go_on:
        if path.suffix.lower() in (".mha", ".mhd"):
            return _mha_coverage(path, slide, grid)
        return _tiff_coverage(path, slide, grid, go_on)


def _tiff_coverage(path: Path, slide: Slide, grid: Grid, go_on: Callable[[], None]) -> tuple[Floats, str]:
    import tifffile

    try:
        with tifffile_complaints() as complaints, tifffile.TiffFile(path) as file:
            page, level = _coarsest_page(file, slide, grid)
            size = (page.imagewidth, page.imagelength)
            first = file.pages[0].aspage()
            for stating in (first, page):
                check_orientation(path.name, stating)
            if any(mask > _FINEST * px + _BAND for mask, px in zip(size, slide.size, strict=True)):
                raise InputError(f"{path.name}: {size[0]:,} × {size[1]:,} px, expected no more than the slide has")

            def place(stated: Sequence[Pair]) -> MaskPlace:
                whole = (first.imagewidth, first.imagelength)
                return mask_place(path.name, whole, stated, slide, grid).at(size)

            def add(summed: Coverage, values: MaskValues) -> None:
                _add_page(page, summed, values, go_on)

            found = place(stated_mpp(first))
            _check_coding(path, page)
            share, how = _summed(path.name, found, lambda: place(()), grid, page.compression == _JPEG, add)
    except UNREADABLE as cause:
        if is_machine_failure(cause):
            raise
        why = f"{type(cause).__name__}: {str(cause)[:200]}"
        raise InputError(f"{path.name}: cannot be read as a TIFF mask ({why})") from cause
    for complaint in complaints:
        # A broken chain of pages is a torn file: the remaining levels may not be the right ones.
        if complaint.startswith("<tifffile.TiffPages"):
            raise InputError(f"{path.name}: cannot be read as a TIFF mask ({complaint})")
        if not complaint.startswith("<tifffile.TiffTag 274 "):  # an orientation that is none, and turns nothing
            warn(f"{path.name}: {complaint}")
    return share, f"mask level {level}, {how}"


def _summed(
    name: str,
    place: MaskPlace,
    stretched: Callable[[], MaskPlace],
    grid: Grid,
    lossy: bool,
    add: Callable[[Coverage, MaskValues], None],
) -> tuple[Floats, str]:
    """The shares that ``add`` sums and how the mask was read, in words.

    It is called once more if the values that it met ask for another rule, or if there is tissue beyond the slide: then
    the mask is ``stretched`` instead of lying at its ``place``.
    """
    values, summed = MaskValues(), Coverage(grid, place.scale)
    add(summed, values)
    if limit := values.better_limit(lossy):
        every, may_be_labels = float(summed.share().sum()), values.may_be_labels()
        values, summed = MaskValues(limit), Coverage(grid, place.scale)
        add(summed, values)
        if may_be_labels and not lossy:
            _warn_of_labels(name, limit, 1.0 - float(summed.share().sum()) / every if every else 0.0)
    if summed.beyond and place.stated:
        warn(f"{name}: marks tissue beyond the slide{place.described()}; it is stretched over the slide instead")
        place = stretched()
        summed = Coverage(grid, place.scale)
        add(summed, values)
    width, height = place.size
    return summed.share(), f"{width} × {height} px{place.described()}{values.described()}"


def _warn_of_labels(name: str, limit: float, left_out: float) -> None:
    """Warn where ``limit`` leaves out much, a share, of what a mask of many whole numbers marks."""
    if left_out > _MANY_BELOW:
        warn(
            f"{name}: {left_out:.0%} of what is not 0 lies below {limit:g}, half of the largest value, and does not "
            "count as tissue; if its values are numbers of objects, write 1 for all of them"
        )


def _coarsest_page(file: "TiffFile", slide: Slide, grid: Grid) -> tuple["TiffPage", int]:
    """The coarsest level of the mask's pyramid on which a tile still spans PIXELS_PER_TILE pixels."""
    pages = list(pages_of(file))
    if not pages:
        raise ValueError("no page can be read")
    first = pages[0]
    levels = [first]
    within = first.pages
    inner = [within[number].aspage() for number in range(min(len(within), _MOST_INNER))] if within is not None else []
    for page in (*pages[1:], *inner):
        if min(page.imagewidth, page.imagelength) < 1:
            raise ValueError("a level without pixels")
        # A reduced copy has the first page's shape and kind; any other page is a label or a thumbnail.
        ratio = first.imagewidth / page.imagewidth
        alike = abs(first.imagelength / ratio - page.imagelength) <= 1.0 + page.imagelength / 1000
        if ratio > 1.0 and alike and page.samplesperpixel == first.samplesperpixel:
            levels.append(page)
    levels.sort(key=lambda page: -page.imagewidth)
    chosen = 0
    for level, page in enumerate(levels):
        across = grid.side[0] * page.imagewidth / slide.size[0]
        down = grid.side[1] * page.imagelength / slide.size[1]
        if min(across, down) >= PIXELS_PER_TILE:
            chosen = level
    return levels[chosen], chosen


def _check_coding(path: Path, page: "TiffPage") -> None:
    """Raise InputError for a page that is not decoded: its coding states its own size, or its data is unsound."""
    if page.compression not in _CODINGS:
        names = "none, LZW, deflate, PackBits, JPEG, CCITT, LZMA or Zstandard"
        raise InputError(f"{path.name}: mask compressed as {_name(page.compression)}: expected {names}")
    if page.imagedepth != 1:
        raise InputError(f"{path.name}: mask of {page.imagedepth} planes: expected one")
    length = path.stat().st_size
    if any(
        not 0 <= start <= start + size <= length
        for start, size in zip(page.dataoffsets, page.databytecounts, strict=True)
    ):
        raise InputError(f"{path.name}: its tiles or strips do not lie within the file, which may be cut off")
    if page.compression == _JPEG and has_unsound_jpeg(path, page):
        raise InputError(f"{path.name}: a JPEG in it is damaged, or states more pixels than its tile has")


def _add_page(page: "TiffPage", summed: Coverage, values: MaskValues, go_on: Callable[[], None]) -> None:
    """Add the page to ``summed``, tile by tile or strip by strip as they are decoded; alpha does not count."""
    name, colours = page.parent.filehandle.name, max(1, page.samplesperpixel - len(page.extrasamples))
    # Grey from black, RGB, and JPEG's YCbCr, which is decoded to RGB. Grey from white stores white as 0, and a palette
    # stores places in a table of colours: there 0 need not mean background.
    if page.photometric not in (1, 2, 6):
        found = _name(page.photometric)
        raise InputError(f"{name}: mask stored as {found}: expected grey from black, or RGB")
    if page.planarconfig == 2 and page.samplesperpixel > 1:
        # Each sample has its own plane: the samples of a pixel are far apart in the file.
        _check_held(name, page.nbytes, "in separate planes")
        summed.add(summed.parts(Block(0, 0, values.tissue(page.asarray()[:colours], axis=0))))
        return
    if page.is_memmappable:
        for block in _mapped_bands(page, colours, values):
            go_on()
            summed.add(summed.parts(block))
        return
    held = math.prod(page.chunks) * _dtype(page).itemsize
    _check_held(name, held, "in one tile or strip")

    def block_of(segment: _Segment) -> Block | None:
        go_on()
        decoded, (_, _, row, column, _), (_, height, width, _) = segment
        if decoded is None:  # left out of the file: all zero
            return None
        # A tile that extends beyond the image's border is decoded whole, and holds there what its writer pleased.
        height, width = min(height, page.imagelength - row), min(width, page.imagewidth - column)
        return Block(row, column, values.tissue(decoded[0, :height, :width, :colours]))

    def parts_of(segment: _Segment) -> list[Part]:
        block = block_of(segment)
        return summed.parts(block) if block is not None else []

    if page.is_tiled:
        # Decoded and summed in the same thread, so that only a few numbers per tile are kept, whatever its size.
        workers = min(8, os.cpu_count() or 1) if held <= _PARALLEL else 1
        for parts in page.segments(func=parts_of, maxworkers=workers, buffersize=_BUFFER):
            summed.add(parts)
        return
    strips = page.segments(func=block_of, maxworkers=1, buffersize=_BUFFER)  # each decoded when it is requested
    for joined in _joined(filter(None, strips)):
        summed.add(summed.parts(joined))


def _joined(strips: Iterable[Block]) -> Iterator[Block]:
    """Consecutive strips as blocks of up to _BAND rows: a strip may be a single row."""
    waiting: list[Block] = []
    for strip in strips:
        if waiting and (waiting[-1].row + len(waiting[-1].tissue) != strip.row or strip.row - waiting[0].row >= _BAND):
            yield Block(waiting[0].row, 0, np.concatenate([block.tissue for block in waiting]))
            waiting = []
        waiting.append(strip)
    if waiting:
        yield Block(waiting[0].row, 0, np.concatenate([block.tissue for block in waiting]))


def _mapped_bands(page: "TiffPage", colours: int, values: MaskValues) -> Iterator[Block]:
    """Rows of a page that lies uncompressed and in one piece in its file."""
    width, samples = page.imagewidth, page.samplesperpixel
    dtype = _dtype(page).newbyteorder(page.parent.byteorder)
    band = max(1, min(_BAND, LARGEST_HELD // max(1, width * samples * dtype.itemsize)))
    for top in range(0, page.imagelength, band):
        shape = (min(band, page.imagelength - top), width, samples)
        offset = page.dataoffsets[0] + top * width * samples * dtype.itemsize
        # Each band is mapped anew, so that the memory of the one before is freed.
        band_values = np.memmap(page.parent.filehandle.path, dtype, "r", offset, shape)
        yield Block(top, 0, values.tissue(band_values[..., :colours]))


def _mha_coverage(path: Path, slide: Slide, grid: Grid) -> tuple[Floats, str]:
    import SimpleITK as sitk

    image = read_mha(path, LARGEST_HELD)
    width, height = image.GetSize()[:2]
    spacing = image.GetSpacing()[:2]
    stated = [(1000.0 * spacing[0], 1000.0 * spacing[1])] if spacing != _NO_SPACING else []  # mm
    samples = sitk.GetArrayViewFromImage(image).reshape(height, width, image.GetNumberOfComponentsPerPixel())

    def place(stated: Sequence[Pair]) -> MaskPlace:
        return mask_place(path.name, (width, height), stated, slide, grid)

    def add(summed: Coverage, values: MaskValues) -> None:
        for block in _bands(samples, values):
            summed.add(summed.parts(block))

    share, how = _summed(path.name, place(stated), lambda: place(()), grid, False, add)
    return share, f"mask {how}"


def _bands(samples: NDArray[Any], values: MaskValues) -> Iterator[Block]:
    """Rows of an image [h, w, samples] held in memory; of two and four samples the last is alpha."""
    colours = {2: 1, 4: 3}.get(samples.shape[-1], samples.shape[-1])
    for top in range(0, len(samples), _BAND):
        yield Block(top, 0, values.tissue(samples[top : top + _BAND, :, :colours]))


def _dtype(page: "TiffPage") -> np.dtype[np.generic]:
    if page.dtype is None:
        raise ValueError("samples of an unknown type")
    return page.dtype


def _name(number: int) -> str:
    """The name of one of tifffile's enumerated numbers, or the number if it has none."""
    return str(getattr(number, "name", number))


def _check_held(name: str, size: int, how: str) -> None:
    if size > LARGEST_HELD:
        raise InputError(f"{name}: {size:,} bytes {how} cannot be held; expected at most {LARGEST_HELD:,}, or tiles")
