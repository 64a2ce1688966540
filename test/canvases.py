"""The sample slide's picture laid on a larger canvas, as a slide whose surroundings and marks are known."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyvips
from conftest import SLIDE

from survfuse.slide.grid import Grid
from survfuse.slide.pixels import Slide
from survfuse.slide.tissue import Tissue, find_tissue

MPP = 0.499  # the sample slide's
WHITE = 245  # of 255: its glass


def sample_picture() -> np.ndarray:
    """RGB [2967, 2220, 3]."""
    return pyvips.Image.new_from_file(str(SLIDE))[:3].numpy()


def plain_canvas(picture: np.ndarray, margin: int, colour: int | Sequence[int] = WHITE) -> np.ndarray:
    """A canvas of one colour with room for ``picture`` and this margin on all sides, in pixels."""
    height, width = (side + 2 * margin for side in picture.shape[:2])
    return np.full((height, width, 3), np.array(colour), dtype=np.uint8)


def place(picture: np.ndarray, canvas: np.ndarray, margin: int) -> np.ndarray:
    """The canvas with the picture at (margin, margin)."""
    canvas[margin : margin + picture.shape[0], margin : margin + picture.shape[1]] = picture
    return canvas


def write_slide(path: Path, canvas: np.ndarray) -> Path:
    """Write it as most scanners do: a pyramid of tiles in JPEG of quality 80."""
    image = pyvips.Image.new_from_array(canvas).copy(xres=1000 / MPP, yres=1000 / MPP)  # pixels per mm
    options = {"tile": True, "tile_width": 256, "tile_height": 256, "pyramid": True}
    image.tiffsave(str(path), compression="jpeg", Q=80, **options)
    return path


def tissue_of(path: Path) -> Tissue:
    """What is found without a mask."""
    with Slide(path) as slide:
        return find_tissue(slide, Grid.over(slide.size, slide.mpp, 224, 1.0), None, 0.5)


def places(found: Tissue) -> set[tuple[int, int]]:
    """Where its tiles begin, x and y."""
    return {(x, y) for x, y in found.origins.tolist()}
