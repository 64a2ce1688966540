"""The picture of a whole slide against OpenSlide's own, and the tissue map against the mask and the tiles kept."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import openslide
import pytest
import pyvips
import tifffile
from conftest import MASK, SLIDE
from PIL import Image

from survfuse.slide.coverage import Block, coverage, covered
from survfuse.slide.grid import Grid
from survfuse.slide.overview import overview, tissue_map
from survfuse.slide.pixels import Slide
from survfuse.slide.settings import SlideSettings
from survfuse.slide.tissue import find_tissue

SETTINGS = SlideSettings("efficientnet-lite0", 1280)


def difference(picture: Image.Image, other: Image.Image) -> float:
    """The mean absolute difference of two pictures, of 255."""
    other = other.convert("RGB").resize(picture.size)
    return float(np.abs(np.asarray(picture, dtype=float) - np.asarray(other, dtype=float)).mean())


@pytest.mark.parametrize("longest", [3000, 900, 64])
def test_the_overview_is_the_whole_slide_at_the_stated_downsample(longest):
    with Slide(SLIDE) as slide:
        picture, downsample = overview(slide, longest)
    whole = openslide.OpenSlide(SLIDE)
    assert picture.mode == "RGB" and max(picture.size) <= longest
    assert picture.size == tuple(round(side / downsample) for side in whole.dimensions)
    assert downsample == max(1.0, max(whole.dimensions) / longest)
    assert difference(picture, whole.get_thumbnail(picture.size)) < 4.0
    assert difference(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), whole.get_thumbnail(picture.size)) > 10.0


LARGE = 20_000  # pixels across and down: 1.2 GB of RGB

MEMORY = """
import resource, sys
from pathlib import Path
from survfuse.slide.overview import overview
from survfuse.slide.pixels import Slide
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
with Slide(Path(sys.argv[1])) as slide:
    overview(slide, 16)
    before = peak()
    picture, _ = overview(slide, 500)
    print(peak() - before, *picture.getpixel((125, 250)), *picture.getpixel((375, 250)))
"""


def test_a_large_slide_of_one_level_is_never_held_whole(tmp_path: Path):
    left, right = (pyvips.Image.black(LARGE // 2, LARGE).new_from_image(rgb) for rgb in ([200, 40, 90], [30, 160, 70]))
    image = left.join(right, "horizontal").cast("uchar")
    image.tiffsave(str(tmp_path / "large.tif"), tile=True, tile_width=512, compression="jpeg", xres=2000, yres=2000)
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "large.tif")]
    more, *colours = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert more < 150  # MB
    assert np.abs(np.array(colours) - [200, 40, 90, 30, 160, 70]).max() <= 6


def test_with_a_mask_the_map_is_the_mask():
    with Slide(SLIDE) as slide:
        found = tissue_map(slide, MASK, SETTINGS)
    mask = Image.fromarray((tifffile.imread(MASK) > 0).astype(np.uint8) * 255)
    expected = np.asarray(mask.resize(found.shape[::-1], Image.Resampling.BOX)) > 127
    assert min(found.shape) > 100
    assert (found == expected).mean() > 0.99


@pytest.mark.parametrize("marked", [0, 1])  # an empty mask, one of everything
def test_without_a_usable_mask_the_map_holds_the_tiles_that_are_found_by_colour(marked, tmp_path, capsys):
    mask = tmp_path / "mask.tif"
    tifffile.imwrite(mask, np.full((370, 277), marked, dtype=np.uint8))
    with Slide(SLIDE) as slide:
        found = tissue_map(slide, mask, SETTINGS)
        assert capsys.readouterr() == ("", "")
        assert (found == tissue_map(slide, None, SETTINGS)).all()
        grid = Grid.over(slide.size, slide.mpp, SETTINGS.tile_px, SETTINGS.mpp)
        kept = find_tissue(slide, grid, None, SETTINGS.min_coverage)
    share = coverage(grid, found.shape[::-1], [Block(0, 0, found)])
    assert grid.origins(covered(share, SETTINGS.min_coverage)).tolist() == kept.origins.tolist()
