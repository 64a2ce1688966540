"""Tissue masks read in parts: TIFF and MHA."""

import math
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from survfuse.runtime.errors import InputError, is_machine_failure
from survfuse.runtime.log import warn
from survfuse.runtime.watch import reading
from survfuse.slide.coverage import Block, Coverage, Part, coverage
from survfuse.slide.grid import Grid
from survfuse.slide.pixels import Slide
from survfuse.slide.tiff import UNREADABLE, has_unsound_jpeg, pages_of, tifffile_complaints

# A mask level resolves a tile when the tile is this many of its pixels wide. Pyramids of masks may grow tissue by
# a pixel at every level, which is then at most 3% of a tile.
PIXELS_PER_TILE = 32
LARGEST_HELD = 2**30  # bytes of a mask, or of a part of one, that can only be read whole
_BAND = 512  # rows handed out at a time, of an image held in memory or mapped from its file
_BUFFER = 2**22  # bytes of a mask's file that are read at once
_PARALLEL = 2**25  # bytes of a decoded tile up to which several are decoded at once
_FINEST = 2  # pixels of a mask for one of the slide's, at most
_MOST_INNER = 100  # pages of a mask that lie within its first
_JPEG = 7
# TIFF 6.0's, and deflate by its two numbers, LZMA, Zstandard: unpacked into no more room than a tile has.
_CODINGS = (1, 2, 3, 4, 5, _JPEG, 8, 32773, 32946, 34925, 50000)
_MHA_HEADER = 2**16  # bytes, of a few hundred as a rule
_ASPECT_WARN, _ASPECT_REFUSE = 0.02, 0.10  # relative difference of mask and slide in width over height


def mask_coverage(path: Path, slide: Slide, grid: Grid) -> tuple[NDArray[np.float64], str]:
    """Share of each tile [rows, columns] that the mask file covers, and how the mask was read."""
    with reading(path.name) as go_on:
        if path.suffix.lower() in (".mha", ".mhd"):
            return _mha_coverage(path, slide, grid)
        return _tiff_coverage(path, slide, grid, go_on)


def _tiff_coverage(path: Path, slide: Slide, grid: Grid, go_on: Callable[[], None]) -> tuple[NDArray[np.float64], str]:
    import tifffile

    try:
        with tifffile_complaints() as complaints, tifffile.TiffFile(path) as file:
            page, level = _coarsest_page(file, slide, grid)
            size = (page.imagewidth, page.imagelength)
            _check_aspect(path.name, size, slide.size)
            if any(mask > _FINEST * px + _BAND for mask, px in zip(size, slide.size, strict=True)):
                raise InputError(f"{path.name}: {size[0]:,} × {size[1]:,} px, expected no more than the slide has")
            _check_coding(path, page)
            share = _page_coverage(page, Coverage(grid, size), go_on)
    except UNREADABLE as cause:
        if is_machine_failure(cause):
            raise
        why = f"{type(cause).__name__}: {str(cause)[:200]}"
        raise InputError(f"{path.name}: cannot be read as a TIFF mask ({why})") from cause
    for complaint in complaints:
        # A broken chain of pages is a torn file: the levels that are left may not be the right ones.
        if complaint.startswith("<tifffile.TiffPages"):
            raise InputError(f"{path.name}: cannot be read as a TIFF mask ({complaint})")
        warn(f"{path.name}: {complaint}")
    return share, f"mask level {level}, {size[0]} × {size[1]} px"


def _coarsest_page(file: "tifffile.TiffFile", slide: Slide, grid: Grid) -> tuple["tifffile.TiffPage", int]:  # noqa: F821
    """The coarsest level of the mask's pyramid on which a tile still spans PIXELS_PER_TILE pixels."""
    pages = list(pages_of(file))
    if not pages:
        raise ValueError("no page can be read")
    first = pages[0]
    levels = [first]
    inner = (first.pages[number].aspage() for number in range(min(len(first.pages or ()), _MOST_INNER)))
    for page in (*pages[1:], *inner):
        if min(page.imagewidth, page.imagelength) < 1:
            raise ValueError("a level without pixels")
        # A reduced copy has the first page's shape and kind; anything else is a label or thumbnail.
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


def _check_coding(path: Path, page: "tifffile.TiffPage") -> None:  # noqa: F821
    """Raise InputError for what is not decoded: codings that state their own size and may state any."""
    if page.compression not in _CODINGS:
        names = "none, LZW, deflate, PackBits, JPEG, CCITT, LZMA or Zstandard"
        raise InputError(f"{path.name}: mask compressed as {page.compression.name}: expected {names}")
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


def _page_coverage(
    page: "tifffile.TiffPage",  # noqa: F821
    found: Coverage,
    go_on: Callable[[], None],
) -> NDArray[np.float64]:
    """The share covered, from the page's tiles or strips as they are decoded; non-zero in any colour sample is tissue,
    alpha is not."""
    colours = max(1, page.samplesperpixel - len(page.extrasamples))
    # Grey from black, RGB, and RGB as JPEG keeps it. Grey from white shows a stored zero as white, and a palette
    # looks colours up: what is zero in such a mask is not plain to say.
    if page.photometric not in (1, 2, 6):
        raise InputError(f"mask stored as {page.photometric.name}: expected grey from black, or RGB")
    if page.planarconfig == 2 and page.samplesperpixel > 1:
        # Every sample in a plane of its own: the parts of one place are far apart in the file.
        _check_held(page.parent.filehandle.name, page.nbytes, "in separate planes")
        found.add(found.parts(Block(0, 0, _marked(page.asarray()[:colours]).any(axis=0))))
        return found.share()
    if page.is_memmappable:
        for block in _mapped_bands(page, colours):
            go_on()
            found.add(found.parts(block))
        return found.share()
    held = math.prod(page.chunks) * page.dtype.itemsize
    _check_held(page.parent.filehandle.name, held, "in one tile or strip")

    def block(segment: tuple) -> Block | None:
        go_on()
        decoded, (_, _, row, column, _), (_, height, width, _) = segment
        if decoded is None:  # one that the file leaves out, all zero
            return None
        # A tile that reaches over the image's border is decoded whole; height and width are the part within.
        return Block(row, column, _marked(decoded[0, :height, :width, :colours]).any(axis=-1))

    def parts(segment: tuple) -> list[Part]:
        tissue = block(segment)
        return found.parts(tissue) if tissue is not None else []

    if page.is_tiled:
        # Decoded and summed in the same thread: what waits is a few numbers a tile, however small it was in the file.
        workers = min(8, os.cpu_count() or 1) if held <= _PARALLEL else 1
        for summed in page.segments(func=parts, maxworkers=workers, buffersize=_BUFFER):
            found.add(summed)
        return found.share()
    strips = page.segments(func=block, maxworkers=1, buffersize=_BUFFER)  # each decoded when it is asked for
    for joined in _joined(filter(None, strips)):
        found.add(found.parts(joined))
    return found.share()


def _joined(strips: Iterable[Block]) -> Iterator[Block]:
    """Strips that follow each other, as blocks of up to _BAND rows: a strip may be a single row."""
    waiting: list[Block] = []
    for strip in strips:
        if waiting and (waiting[-1].row + len(waiting[-1].tissue) != strip.row or strip.row - waiting[0].row >= _BAND):
            yield Block(waiting[0].row, 0, np.concatenate([block.tissue for block in waiting]))
            waiting = []
        waiting.append(strip)
    if waiting:
        yield Block(waiting[0].row, 0, np.concatenate([block.tissue for block in waiting]))


def _mapped_bands(page: "tifffile.TiffPage", colours: int) -> Iterator[Block]:  # noqa: F821
    """Rows of a page that lies uncompressed and in one piece in its file."""
    width, samples = page.imagewidth, page.samplesperpixel
    dtype = page.dtype.newbyteorder(page.parent.byteorder)
    band = max(1, min(_BAND, LARGEST_HELD // max(1, width * samples * dtype.itemsize)))
    for top in range(0, page.imagelength, band):
        shape = (min(band, page.imagelength - top), width, samples)
        offset = page.dataoffsets[0] + top * width * samples * dtype.itemsize
        # Mapped anew, so that the rows before are given back.
        values = np.memmap(page.parent.filehandle.path, dtype, "r", offset, shape)
        yield Block(top, 0, _marked(values[..., :colours]).any(axis=-1))


def _check_held(name: str, size: int, how: str) -> None:
    if size > LARGEST_HELD:
        raise InputError(f"{name}: {size:,} bytes {how} cannot be held; expected at most {LARGEST_HELD:,}, or tiles")


def _mha_coverage(path: Path, slide: Slide, grid: Grid) -> tuple[NDArray[np.float64], str]:
    import SimpleITK as sitk

    header, start = _mha_header(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with _native_silence():
            reader.ReadImageInformation()
        size, samples = reader.GetSize(), reader.GetNumberOfComponents()
        if any(extent != 1 for extent in size[2:]):
            raise InputError(f"{path.name}: expected one plane, found an image of size {size}")
        bits = re.search(r"(\d+)-bit", sitk.GetPixelIDValueAsString(reader.GetPixelID()))
        held = math.prod(size) * samples * (int(bits[1]) // 8 if bits else 8)
        _check_held(path.name, held, "in an MHA file")
        if header["ElementDataFile"] == "LOCAL":
            _check_mha_data(path, header, start, held)
        with _native_silence():
            image = reader.Execute()
    except RuntimeError as cause:
        raise InputError(
            f"{path.name}: cannot be read as an MHA mask ({' '.join(str(cause).split())[-200:]})"
        ) from cause
    _check_aspect(path.name, size[:2], slide.size)
    values = sitk.GetArrayViewFromImage(image).reshape(size[1], size[0], samples)
    return coverage(grid, size[:2], _bands(values)), f"mask {size[0]} × {size[1]} px"


@contextmanager
def _native_silence() -> Iterator[None]:
    """Keep from stderr what a library writes to it past Python; it says the same in its exception."""
    try:
        kept = os.dup(2)
    except OSError:  # closed by whoever started this
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _mha_header(path: Path) -> tuple[dict[str, str], int]:
    """A MetaImage's header by its keys, and where its pixels begin.

    Raises InputError for one that is not written plainly, which ITK would read in its own way, and for one that has the
    pixels read from any other file than itself, or one beside it.
    """
    with path.open("rb") as file:
        data = file.read(_MHA_HEADER)
    header: dict[str, str] = {}
    start = 0
    while "ElementDataFile" not in header:
        end = data.find(b"\n", start)
        line = re.fullmatch(rb"(\w+) = ([ -~]*)\r?", data[start:end]) if end >= 0 else None
        if line is None or line[1].decode() in header:
            raise InputError(f"{path.name}: cannot be read as an MHA mask (expected a header of lines KEY = VALUE)")
        header[line[1].decode()] = line[2].decode().strip()
        start = end + 1
    name = header["ElementDataFile"]
    beside = path.suffix.lower() == ".mhd" and re.fullmatch(r"\w[\w .-]*", name) and name != "LIST"
    if name != "LOCAL" and not beside:
        raise InputError(f"{path.name}: cannot be read as an MHA mask (expected its pixels in the file itself)")
    return header, start


def _check_mha_data(path: Path, header: Mapping[str, str], start: int, expected: int) -> None:
    """Raise InputError where the pixels from ``start`` on are not the ``expected`` bytes: ITK fills what is missing."""
    with path.open("rb") as file:
        file.seek(start)
        if header.get("CompressedData", "False").lower() == "true":
            unpack = zlib.decompressobj()
            try:
                found = len(unpack.decompress(file.read(), expected + 1))
            except zlib.error:
                found = -1
            sound = found == expected and unpack.eof
        else:
            sound = path.stat().st_size - start >= expected and header.get("BinaryData", "True").lower() == "true"
    if not sound:
        raise InputError(f"{path.name}: cannot be read as an MHA mask (its pixels are damaged or cut off)")


def _bands(values: NDArray) -> Iterator[Block]:
    """Rows of an image [h, w, samples] held in memory; non-zero in any sample but alpha is tissue."""
    colours = {2: 1, 4: 3}.get(values.shape[-1], values.shape[-1])
    for top in range(0, len(values), _BAND):
        yield Block(top, 0, _marked(values[top : top + _BAND, :, :colours]).any(axis=-1))


def _marked(values: NDArray) -> NDArray[np.bool_]:
    """Which values of a mask mark tissue: those that are not 0, of numbers that are any."""
    marked = values != 0
    return marked & ~np.isnan(values) if values.dtype.kind in "fc" else marked


def _check_aspect(name: str, mask: tuple[int, int], slide: tuple[int, int]) -> None:
    """Mask and slide must show the same rectangle; a pixel of rounding on either side of the mask is free."""
    wide = (mask[0] + 1) / max(mask[1] - 1, 1) * slide[1] / slide[0]
    narrow = max(mask[0] - 1, 1) / (mask[1] + 1) * slide[1] / slide[0]
    off = max(1.0 / wide - 1.0, narrow - 1.0, 0.0)
    if off > _ASPECT_REFUSE:
        raise InputError(
            f"{name}: {mask[0]} × {mask[1]} px has another shape than the slide's {slide[0]} × {slide[1]} px"
        )
    if off > _ASPECT_WARN:
        warn(f"{name}: {mask[0]} × {mask[1]} px is stretched by {off:.1%} to the slide's {slide[0]} × {slide[1]} px")
