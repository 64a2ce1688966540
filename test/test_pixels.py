"""Reading a slide at any resolution, against the whole slide resampled by other means."""

import numpy as np
import pytest
import pyvips
from conftest import SLIDE
from PIL import Image

from survfuse.runtime.errors import InputError
from survfuse.slide.pixels import Slide
from survfuse.slide.resolution import resolution


def write_slide(path, image: np.ndarray, mpp: float | None, unit: str = "cm", pyramid: bool = True) -> None:
    """A tiled TIFF without loss, so that pixels can be compared."""
    per_mm = 1000.0 / mpp if mpp else 0.0
    vips = pyvips.Image.new_from_array(image).copy(xres=per_mm, yres=per_mm)
    vips.tiffsave(str(path), tile=True, pyramid=pyramid, tile_width=128, tile_height=128, resunit=unit)


@pytest.fixture(scope="module")
def pixels():
    """The real slide's level 0, 2967 × 2220 × 3."""
    return pyvips.Image.new_from_file(str(SLIDE), page=0).numpy()


@pytest.fixture(scope="module")
def lossless(pixels, tmp_path_factory):
    path = tmp_path_factory.mktemp("slide") / "lossless.tif"
    write_slide(path, pixels, 0.5)
    return path


def test_at_level_0_the_pixels_are_the_files(lossless, pixels):
    with Slide(lossless) as slide:
        read = slide.read((301, 555), (224.0, 224.0), (224, 224))
    assert np.array_equal(read, pixels[555:779, 301:525])


@pytest.mark.parametrize("side", [300.5, 448.0, 700.0, 1500.25])
def test_resampling_follows_the_whole_slide_resized(lossless, pixels, side):
    origin = (640, 1160)
    box = (origin[0], origin[1], origin[0] + side, origin[1] + side)
    expected = Image.fromarray(pixels).resize((224, 224), Image.Resampling.BICUBIC, box=box)
    with Slide(lossless) as slide:
        read = slide.read(origin, (side, side), (224, 224)).astype(float)
    error = np.abs(read - np.asarray(expected, dtype=float))
    # A level of the pyramid was averaged once before, so sharp edges differ by a few grey values; a shift of one
    # pixel of the tile would show as several times this.
    shifted = np.abs(np.roll(read, 1, axis=1) - np.asarray(expected, dtype=float))
    assert error.mean() < 5.0
    assert error.mean() < 0.5 * shifted.mean()


def test_the_nearest_finer_level_is_read(lossless):
    with Slide(lossless) as slide:
        downsamples = slide._slide.level_downsamples
        for asked in (0.7, 1.0, 1.9, 2.0, 2.1, 3.9, 5.0, 100.0):
            level = slide.level_for(asked)
            finer = [number for number, found in enumerate(downsamples) if found <= max(asked, 1.0) * 1.002]
            assert level == finer[-1]


def test_a_fine_pattern_is_averaged_not_aliased(tmp_path):
    """A checkerboard of single pixels, shrunk by 2.5 from one level, must come out grey."""
    board = np.indices((1000, 1000)).sum(axis=0) % 2 * 255
    write_slide(tmp_path / "board.tif", np.repeat(board[..., None], 3, axis=2).astype(np.uint8), 0.4, pyramid=False)
    with Slide(tmp_path / "board.tif") as slide:
        read = slide.read((100, 100), (560.0, 560.0), (224, 224))
    assert np.abs(read.astype(int) - 127).max() <= 12


def test_beyond_the_border_is_white(lossless, pixels):
    with Slide(lossless) as slide:
        read = slide.read((2120, 2867), (224.0, 224.0), (224, 224))
    assert np.array_equal(read[:100, :100], pixels[2867:, 2120:])
    assert (read[100:] == 255).all() and (read[:, 100:] == 255).all()


@pytest.mark.parametrize("unit", ["cm", "inch"])
def test_resolution_comes_from_the_tags(tmp_path, pixels, unit):
    write_slide(tmp_path / "slide.tif", pixels[:300, :300], 0.25, unit)
    with Slide(tmp_path / "slide.tif") as slide:
        assert slide.mpp == pytest.approx((0.25, 0.25), rel=1e-4)


@pytest.mark.parametrize("mpp", [None, 352.8, 0.001])
def test_no_usable_resolution_is_an_error_unless_one_is_assumed(tmp_path, pixels, mpp, capsys):
    """72 dpi, an image editor's default, is 352.8 µm per pixel."""
    write_slide(tmp_path / "slide.tif", pixels[:300, :300], mpp)
    with pytest.raises(InputError, match="no usable resolution"):
        Slide(tmp_path / "slide.tif")
    with Slide(tmp_path / "slide.tif", assumed_mpp=0.5) as slide:
        assert slide.mpp == (0.5, 0.5)
    assert "0.5 µm per pixel is assumed" in capsys.readouterr().err


def tags(unit: str, x: str, y: str) -> dict[str, str]:
    return {"tiff.ResolutionUnit": unit, "tiff.XResolution": x, "tiff.YResolution": y}


@pytest.mark.parametrize(
    ("properties", "mpp", "source"),
    [
        ({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.26", "tiff.XResolution": "1"}, (0.25, 0.26), "the slide"),
        (
            tags("centimeter", "20000", "40000"),
            (0.5, 0.25),
            "tags",
        ),
        (tags("inch", "50800", "50800"), (0.5, 0.5), "tags"),
        (
            tags("none", "20000", "20000"),
            (0.7, 0.7),
            "assumption",
        ),
        (tags("inch", "72", "72"), (0.7, 0.7), "assumption"),
        ({"openslide.mpp-x": "nan", "openslide.mpp-y": "what"}, (0.7, 0.7), "assumption"),
        ({"openslide.mpp-x": "0.5", "openslide.mpp-y": "900"}, (0.7, 0.7), "assumption"),
    ],
)
def test_resolution_is_the_first_that_is_plausible(properties, mpp, source):
    found, where = resolution("slide", properties, 0.7)
    assert found == pytest.approx(mpp) and source in where


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.tif").write_text("not a slide")
    Image.new("RGB", (50, 50)).save(tmp_path / "photo.tif")
    (tmp_path / "torn.tif").write_bytes(SLIDE.read_bytes()[:2000])
    for name in ("text.tif", "photo.tif", "torn.tif"):
        with pytest.raises(InputError, match=name):
            Slide(tmp_path / name)
