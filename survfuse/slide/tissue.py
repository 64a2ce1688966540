"""Which tiles hold tissue: from the mask given, or else from the slide's own colours."""

import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from survfuse.errors import InputError, NoTissueError
from survfuse.log import count, warn
from survfuse.slide.pixels import Slide
from survfuse.slide.tiff import tifffile_complaints
from survfuse.slide.tiles import Block, Coverage, Grid, Part, coverage, covered

# A mask level resolves a tile when the tile is this many of its pixels wide. Pyramids of masks may grow tissue by
# a pixel at every level, which is then at most 3% of a tile.
PIXELS_PER_TILE = 32
LARGEST_HELD = 2**30  # bytes of a mask, or of a part of one, that can only be read whole
_SATURATION_LEAST = 13  # of 255: a slide without tissue has no second class for Otsu to find
_BAND = 512  # rows handed out at a time, of an image held in memory or mapped from its file
_READ = 2048  # pixels, across and down, that are read of a slide at once
_BUFFER = 2**22  # bytes of a mask's file that are read at once
_PARALLEL = 2**25  # bytes of a decoded tile up to which several are decoded at once
_ASPECT_WARN, _ASPECT_REFUSE = 0.02, 0.10  # relative difference of mask and slide in width over height


@dataclass(frozen=True)
class Tissue:
    """Tiles that hold tissue."""

    origins: NDArray[np.int64]  # [N, 2] level-0 x, y, row by row
    tiles: int  # tiles of the whole grid
    found_by: str  # for the log


def find_tissue(slide: Slide, grid: Grid, mask: Path | None, least: float) -> Tissue:
    """Tiles of which at least the share ``least`` is tissue.

    Without a mask, or with one that marks nothing, tissue is found by the slide's saturation (Otsu). Raises
    NoTissueError where no tile qualifies, and InputError for a mask that cannot be read or is of another shape.
    """
    share, found_by = None, "no mask given; tissue found by saturation"
    if mask is not None:
        share, found_by = mask_coverage(mask, slide, grid)
        if not share.any():
            share, found_by = None, "the mask is empty; tissue found by saturation"
    if share is None:
        tissue, threshold = saturated(slide, grid)
        found_by = f"{found_by} above {threshold} of 255"
        share = coverage(grid, (tissue.shape[1], tissue.shape[0]), [Block(0, 0, tissue)])
    origins = grid.origins(covered(share, least))
    if not len(origins):
        raise NoTissueError(
            f"{slide.name}: none of {count(len(grid), 'tile')} is at least {least:.0%} tissue ({found_by})"
        )
    return Tissue(origins, len(grid), found_by)


def mask_coverage(path: Path, slide: Slide, grid: Grid) -> tuple[NDArray[np.float64], str]:
    """Share of each tile [rows, columns] that the mask file covers, and how the mask was read."""
    if path.suffix.lower() in (".mha", ".mhd"):
        return _mha_coverage(path, slide, grid)
    return _tiff_coverage(path, slide, grid)


def saturated(slide: Slide, grid: Grid) -> tuple[NDArray[np.bool_], int]:
    """Tissue [h, w] by saturation, stretched over the slide, and the threshold used, of 255.

    The HSV saturation of a reduced image is smoothed by a median and split by Otsu's method (Otsu 1979).
    """
    import SimpleITK as sitk

    step = (grid.side[0] / PIXELS_PER_TILE, grid.side[1] / PIXELS_PER_TILE)  # level-0 pixels per pixel read
    size = (max(1, round(slide.size[0] / step[0])), max(1, round(slide.size[1] / step[1])))
    step = (slide.size[0] / size[0], slide.size[1] / size[1])
    saturation = np.zeros((size[1], size[0]), dtype=np.uint8)
    # A slide of one level is read at full resolution: a little of it at a time.
    block = max(1, int(_READ / min(slide.excess(min(step)), 16 * PIXELS_PER_TILE)))
    for top in range(0, size[1], block):
        for left in range(0, size[0], block):
            px = (min(block, size[0] - left), min(block, size[1] - top))
            origin = (round(left * step[0]), round(top * step[1]))
            rgb = slide.read(origin, (px[0] * step[0], px[1] * step[1]), px).astype(np.int16)
            most = rgb.max(axis=2)
            chroma = (most - rgb.min(axis=2)) * 255 // np.maximum(most, 1)
            saturation[top : top + px[1], left : left + px[0]] = chroma
    smooth = sitk.Median(sitk.GetImageFromArray(saturation), [3, 3])
    otsu = sitk.OtsuThresholdImageFilter()
    otsu.Execute(smooth)
    threshold = max(int(otsu.GetThreshold()), _SATURATION_LEAST)
    return sitk.GetArrayViewFromImage(smooth) > threshold, threshold


def _tiff_coverage(path: Path, slide: Slide, grid: Grid) -> tuple[NDArray[np.float64], str]:
    import tifffile

    try:
        with tifffile_complaints() as complaints, tifffile.TiffFile(path) as file:
            page, level = _coarsest_page(file, slide, grid)
            size = (page.imagewidth, page.imagelength)
            _check_aspect(path.name, size, slide.size)
            share = _page_coverage(page, Coverage(grid, size))
    except (tifffile.TiffFileError, ValueError, RuntimeError, IndexError, KeyError) as cause:
        raise InputError(f"{path.name}: cannot be read as a TIFF mask ({type(cause).__name__}: {cause})") from cause
    for complaint in complaints:
        # A broken chain of pages is a torn file: the levels that are left may not be the right ones.
        if complaint.startswith("<tifffile.TiffPages"):
            raise InputError(f"{path.name}: cannot be read as a TIFF mask ({complaint})")
        warn(f"{path.name}: {complaint}")
    return share, f"mask level {level}, {size[0]} × {size[1]} px"


def _coarsest_page(file: "tifffile.TiffFile", slide: Slide, grid: Grid) -> tuple["tifffile.TiffPage", int]:  # noqa: F821
    """The coarsest level of the mask's pyramid on which a tile still spans PIXELS_PER_TILE pixels."""
    first = file.pages.first
    levels = [first]
    for page in [*list(file.pages)[1:], *(first.pages or ())]:
        page = page.aspage()
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


def _page_coverage(page: "tifffile.TiffPage", found: Coverage) -> NDArray[np.float64]:  # noqa: F821
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
        found.add(found.parts(Block(0, 0, (page.asarray()[:colours] != 0).any(axis=0))))
        return found.share()
    if page.is_memmappable:
        for block in _mapped_bands(page, colours):
            found.add(found.parts(block))
        return found.share()
    held = math.prod(page.chunks) * page.dtype.itemsize
    _check_held(page.parent.filehandle.name, held, "in one tile or strip")

    def block(segment: tuple) -> Block | None:
        decoded, (_, _, row, column, _), (_, height, width, _) = segment
        if decoded is None:  # one that the file leaves out, all zero
            return None
        # A tile that reaches over the image's border is decoded whole; height and width are the part within.
        return Block(row, column, (decoded[0, :height, :width, :colours] != 0).any(axis=-1))

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
    for top in range(0, page.imagelength, _BAND):
        shape = (min(_BAND, page.imagelength - top), width, samples)
        offset = page.dataoffsets[0] + top * width * samples * dtype.itemsize
        # Mapped anew, so that the rows before are given back.
        values = np.memmap(page.parent.filehandle.path, dtype, "r", offset, shape)
        yield Block(top, 0, (values[..., :colours] != 0).any(axis=-1))


def _check_held(name: str, size: int, how: str) -> None:
    if size > LARGEST_HELD:
        raise InputError(f"{name}: {size:,} bytes {how} cannot be held; expected at most {LARGEST_HELD:,}, or tiles")


def _mha_coverage(path: Path, slide: Slide, grid: Grid) -> tuple[NDArray[np.float64], str]:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        size, samples = reader.GetSize(), reader.GetNumberOfComponents()
        if any(extent != 1 for extent in size[2:]):
            raise InputError(f"{path.name}: expected one plane, found an image of size {size}")
        bits = re.search(r"(\d+)-bit", sitk.GetPixelIDValueAsString(reader.GetPixelID()))
        _check_held(path.name, math.prod(size) * samples * (int(bits[1]) // 8 if bits else 8), "in an MHA file")
        image = reader.Execute()
    except RuntimeError as cause:
        raise InputError(
            f"{path.name}: cannot be read as an MHA mask ({' '.join(str(cause).split())[-200:]})"
        ) from cause
    _check_aspect(path.name, size[:2], slide.size)
    values = sitk.GetArrayViewFromImage(image).reshape(size[1], size[0], samples)
    return coverage(grid, size[:2], _bands(values)), f"mask {size[0]} × {size[1]} px"


def _bands(values: NDArray) -> Iterator[Block]:
    """Rows of an image [h, w, samples] held in memory; non-zero is tissue."""
    for top in range(0, len(values), _BAND):
        yield Block(top, 0, (values[top : top + _BAND] != 0).any(axis=-1))


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
