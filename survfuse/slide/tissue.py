"""Which tiles hold tissue: from the mask given, or else from the slide's own colours."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from survfuse.errors import InputError
from survfuse.log import count, warn
from survfuse.slide.pixels import Slide
from survfuse.slide.tiles import Block, Grid, coverage, covered

# A mask level resolves a tile when the tile is this many of its pixels wide. Pyramids of masks may grow tissue by
# a pixel at every level, which is then at most 3% of a tile.
PIXELS_PER_TILE = 32
LARGEST_MHA = 2**30  # bytes; such a file can only be read whole
_SATURATION_LEAST = 13  # of 255: a slide without tissue has no second class for Otsu to find
_BAND = 512  # rows handed out at a time, of an image in strips or held in memory
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
    InputError where no tile qualifies, and for a mask that cannot be read or has another shape than the slide.
    """
    share, found_by = None, "no mask given; tissue found by saturation"
    if mask is not None:
        share, found_by = mask_coverage(mask, slide, grid)
        if not share.any():
            share, found_by = None, "the mask is empty; tissue found by saturation"
    if share is None:
        tissue, threshold = saturated(slide, grid)
        found_by = f"{found_by} above {threshold} of 255"
        share = coverage(grid, (tissue.shape[1], tissue.shape[0]), _bands(tissue))
    origins = grid.origins(covered(share, least))
    if not len(origins):
        raise InputError(
            f"{slide.name}: none of {count(len(grid), 'tile')} is at least {least:.0%} tissue ({found_by})"
        )
    return Tissue(origins, len(grid), found_by)


def mask_coverage(path: Path, slide: Slide, grid: Grid) -> tuple[NDArray[np.float64], str]:
    """Share of each tile [rows, columns] that the mask file covers, and how the mask was read."""
    if path.suffix.lower() in (".mha", ".mhd"):
        tissue = _read_mha(path)
        size = (tissue.shape[1], tissue.shape[0])
        _check_aspect(path.name, size, slide.size)
        return coverage(grid, size, _bands(tissue)), f"mask {size[0]} × {size[1]} px"
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
    block = 16 * PIXELS_PER_TILE
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
        with _tifffile_complaints() as complaints, tifffile.TiffFile(path) as file:
            page, level = _coarsest_page(file, slide, grid)
            size = (page.imagewidth, page.imagelength)
            _check_aspect(path.name, size, slide.size)
            share = coverage(grid, size, _page_blocks(page))
    except (tifffile.TiffFileError, ValueError, RuntimeError, IndexError, KeyError) as cause:
        raise InputError(f"{path.name}: cannot be read as a TIFF mask ({type(cause).__name__}: {cause})") from cause
    for complaint in complaints:
        # A broken chain of pages is a torn file: the levels that are left may not be the right ones.
        if complaint.startswith("<tifffile.TiffPages"):
            raise InputError(f"{path.name}: cannot be read as a TIFF mask ({complaint})")
        warn(f"{path.name}: {complaint}")
    return share, f"mask level {level}, {size[0]} × {size[1]} px"


@contextmanager
def _tifffile_complaints() -> Iterator[list[str]]:
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


def _page_blocks(page: "tifffile.TiffPage") -> Iterator[Block]:  # noqa: F821
    """The page's tiles or strips as they are decoded; non-zero in any colour sample is tissue, alpha is not."""
    colours = max(1, page.samplesperpixel - len(page.extrasamples))
    # Grey from black, RGB, and RGB as JPEG keeps it. Grey from white shows a stored zero as white, and a palette
    # looks colours up: what is zero in such a mask is not plain to say.
    if page.photometric not in (1, 2, 6):
        raise InputError(f"mask stored as {page.photometric.name}: expected grey from black, or RGB")
    planes = page.planarconfig == 2 and page.samplesperpixel > 1
    if planes:  # every sample in a plane of its own: the blocks of one place are far apart in the file
        yield from _bands((page.asarray()[:colours] != 0).any(axis=0))
        return
    strips: list[Block] = []
    for decoded, (_, _, row, column, _), (_, height, width, _) in page.segments():
        if decoded is None:  # a segment that the file leaves out, all zero
            continue
        # A tile that reaches over the image's border is decoded whole; height and width are the part within.
        block = Block(row, column, (decoded[0, :height, :width, :colours] != 0).any(axis=-1))
        if page.is_tiled:
            yield block
            continue
        # A strip may be a single row: joined, far fewer and larger sums are taken.
        if strips and (strips[-1].row + len(strips[-1].tissue) != row or row - strips[0].row >= _BAND):
            yield _joined(strips)
            strips = []
        strips.append(block)
    if strips:
        yield _joined(strips)


def _joined(strips: list[Block]) -> Block:
    """Strips that follow each other, as one block."""
    return Block(strips[0].row, strips[0].column, np.concatenate([strip.tissue for strip in strips]))


def _read_mha(path: Path) -> NDArray[np.bool_]:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        size, samples = reader.GetSize(), reader.GetNumberOfComponents()
        needed = int(np.prod(size)) * samples
        if any(extent != 1 for extent in size[2:]):
            raise InputError(f"{path.name}: expected one plane, found an image of size {size}")
        if needed > LARGEST_MHA:
            raise InputError(f"{path.name}: {needed:,} values cannot be held; expected at most {LARGEST_MHA:,}")
        image = reader.Execute()
    except RuntimeError as cause:
        raise InputError(
            f"{path.name}: cannot be read as an MHA mask ({' '.join(str(cause).split())[-200:]})"
        ) from cause
    values = sitk.GetArrayViewFromImage(image)
    values = values.reshape(size[1], size[0], samples)
    return (values != 0).any(axis=-1)


def _bands(tissue: NDArray[np.bool_]) -> Iterator[Block]:
    for top in range(0, tissue.shape[0], _BAND):
        yield Block(top, 0, tissue[top : top + _BAND])


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
