"""A TIFF that says its pixels are to be turned or mirrored (tag 274) is refused by name, in every way to give it."""

import io

import numpy as np
import openslide
import pytest
import pyvips
import tifffile
from conftest import DEMONSTRATION, MASK, SLIDE, end_of, give_slide, months

import survfuse
from survfuse.cli.main import main
from survfuse.runtime.errors import InputError
from survfuse.slide.orientation import orientation
from survfuse.slide.pixels import Slide
from survfuse.slide.tiff import check_orientations

PIXELS = pyvips.Image.new_from_file(str(SLIDE)).crop(300, 400, 768, 512).numpy()
LEVELS = (PIXELS, np.ascontiguousarray(PIXELS[::2, ::2]))
APERIO = "Aperio Image Library v12\r\n768x512 |AppMag = 20|MPP = 0.499"
# What each orientation makes of the picture as it is to be shown, when it is stored (TIFF 6.0).
STORED = {
    1: lambda shown: shown,
    2: lambda shown: shown[:, ::-1],
    3: lambda shown: shown[::-1, ::-1],
    4: lambda shown: shown[::-1],
    5: lambda shown: shown.swapaxes(0, 1),
    6: lambda shown: shown.swapaxes(0, 1)[::-1],
    7: lambda shown: shown.swapaxes(0, 1)[::-1, ::-1],
    8: lambda shown: shown.swapaxes(0, 1)[:, ::-1],
}


def tiff(*levels: tuple[np.ndarray, int], compression: str = "lzw", kind: str = "H", **options: object) -> bytes:
    """A tiled TIFF of levels and their orientations, which are stored as tag 274 of this ``kind``."""
    held = io.BytesIO()
    plain = {"tile": (256, 256), "photometric": "rgb", "metadata": None, "resolutionunit": "CENTIMETER"} | options
    with tifffile.TiffWriter(held) as file:
        for level, stated in levels:
            tags = [(274, kind, 1, stated, True)] if stated is not None else []
            pixels = np.ascontiguousarray(level)
            file.write(pixels, resolution=(1e4 / 0.499,) * 2, compression=compression, extratags=tags, **plain)
    return held.getvalue()


@pytest.mark.parametrize("compression", ["lzw", "jpeg", None])
@pytest.mark.parametrize("stated", range(2, 9))
def test_pixels_to_be_turned_are_refused(tmp_path, stated, compression):
    (tmp_path / "s.tif").write_bytes(tiff((STORED[stated](PIXELS), stated), compression=compression))
    with pytest.raises(
        InputError, match=rf"s\.tif: states orientation {stated} \(.*\) for .* px; expected 1 \(top-left\)"
    ):
        Slide(tmp_path / "s.tif")


def test_why_openslide_mixes_up_the_tiles(tmp_path):
    """The reason to refuse (openslide #391): neither the stored nor the shown pixels, but tiles flipped in place."""
    (tmp_path / "s.tif").write_bytes(tiff((STORED[4](PIXELS), 4)))
    with openslide.OpenSlide(tmp_path / "s.tif") as slide:
        read = np.asarray(slide.read_region((0, 0), 0, (768, 512)).convert("RGB"))
    assert np.array_equal(read[:256], STORED[4](PIXELS)[:256][::-1])


def test_every_way_in_refuses_it(slide_case, output, tmp_path, capsys):
    path = give_slide(slide_case, "s.tif", tiff((PIXELS, 4)))
    assert end_of(slide_case, output) == 2
    assert "s.tif: states orientation 4 (bottom-left)" in capsys.readouterr().err
    assert main(["extract", str(path), "--out", str(tmp_path / "s.h5")]) == 2
    assert "s.tif: states orientation 4 (bottom-left)" in capsys.readouterr().err
    with pytest.raises(InputError, match="orientation 4"):
        survfuse.extract(path, tmp_path / "s.h5", device="cpu")
    with pytest.raises(InputError, match="orientation 4"):
        survfuse.load(DEMONSTRATION, device="cpu").predict(survfuse.Case(slide=path))
    assert not (tmp_path / "s.h5").exists()


def test_it_can_be_left_out_like_any_slide_that_cannot_be_used(slide_case, tmp_path, capsys):
    give_slide(slide_case, "s.tif", tiff((PIXELS, 6)))
    assert end_of(slide_case, tmp_path / "output", None, "--unusable-slide", "omit") == 0
    assert months(tmp_path / "output") > 0
    assert "the slide is left out: s.tif: states orientation 6" in capsys.readouterr().err


@pytest.mark.parametrize("description", [None, APERIO], ids=["generic", "Aperio"])
def test_a_reduced_level_counts_too(tmp_path, description):
    options = {"description": description} if description else {}
    for stated in ((4, 1), (1, 4)):
        (tmp_path / "s.tif").write_bytes(tiff(*zip(LEVELS, stated, strict=True), **options))
        size = (768, 512) if stated[0] == 4 else (384, 256)
        with pytest.raises(InputError, match=rf"orientation 4 \(bottom-left\) for {size[0]} × {size[1]} px"):
            Slide(tmp_path / "s.tif")


@pytest.mark.parametrize("kind", ["B", "H", "I"])
def test_the_tags_type_does_not_matter(tmp_path, kind):
    (tmp_path / "s.tif").write_bytes(tiff((PIXELS, 8), kind=kind))
    with pytest.raises(InputError, match="orientation 8"):
        Slide(tmp_path / "s.tif")


@pytest.mark.parametrize("stated", [None, 1, 0, 9])
def test_as_stored_and_no_orientation_at_all_are_read_as_stored(tmp_path, stated):
    (tmp_path / "s.tif").write_bytes(tiff((PIXELS, stated)))
    with tifffile.TiffFile(tmp_path / "s.tif") as file:
        assert orientation(file.pages.first) == 1
    with Slide(tmp_path / "s.tif") as slide:
        assert np.array_equal(slide.read((0, 0), (768.0, 512.0), (768, 512)), PIXELS)


def test_a_label_may_be_turned(tmp_path):
    """A picture in strips is none of the slide's levels."""
    held = io.BytesIO(tiff((PIXELS, 1)))
    with tifffile.TiffWriter(held, append=True) as file:
        file.write(PIXELS[:100, :90], photometric="rgb", metadata=None, extratags=[(274, "H", 1, 6, True)])
    (tmp_path / "s.tif").write_bytes(held.getvalue())
    with Slide(tmp_path / "s.tif") as slide:
        assert slide.size == (768, 512)


def test_other_formats_in_a_tiff_can_say_it_too(tmp_path):
    """Trestle's, which OpenSlide knows by the name of the software."""
    options = {"description": "Objective Power=20;OverlapsXY= 0 0", "software": "MedScan 1.0", "compression": "jpeg"}
    for stated in (1, 4):
        (tmp_path / f"s{stated}.tif").write_bytes(tiff((PIXELS, stated), **options))
        assert openslide.OpenSlide.detect_format(tmp_path / f"s{stated}.tif") == "trestle"
    with Slide(tmp_path / "s1.tif") as slide:
        assert slide.size == (768, 512)
    with pytest.raises(InputError, match="orientation 4"):
        Slide(tmp_path / "s4.tif")


def test_formats_whose_levels_are_not_plain_pages_are_searched_as_a_whole(tmp_path):
    (tmp_path / "s.scn").write_bytes(tiff((PIXELS, 3), tile=None))
    with pytest.raises(InputError, match=r"s\.scn: states orientation 3 \(bottom-right\)"):
        check_orientations(tmp_path / "s.scn", ndpi=False)
    for path in (SLIDE, MASK):
        check_orientations(path, ndpi=False)


def test_the_suffix_does_not_matter(tmp_path):
    """tifffile takes .ndpi for offsets of 64 bits, and would find no page."""
    for name in ("s.ndpi", "s.svs", "s"):
        (tmp_path / name).write_bytes(tiff((PIXELS, 4)))
        with pytest.raises(InputError, match="orientation 4"):
            Slide(tmp_path / name)
