"""Without a mask, tissue is found whatever surrounds it: the sample's picture on canvases of other colours."""

import json
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from canvases import WHITE, place, places, plain_canvas, sample_picture, tissue_of, write_slide
from conftest import PLACES, SLUGS, end_of, give_slide, months

from survfuse.cli.main import main
from survfuse.runtime.errors import NoTissueError
from survfuse.slide.grid import Grid
from survfuse.slide.pixels import Slide
from survfuse.slide.tissue import find_tissue

MARGIN = 1344  # pixels: three quarters of the canvas are surroundings
NEARLY_BLACK = [(3, 0, 2), (12, 8, 10)]  # as scanners pad, after JPEG


@pytest.fixture(scope="module")
def picture():
    return sample_picture()


@pytest.fixture(scope="module")
def on_white(picture, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("white") / "s.tif"
    return write_slide(path, place(picture, plain_canvas(picture, MARGIN), MARGIN))


@pytest.fixture(scope="module")
def on_black(picture, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("black") / "s.tif"
    return write_slide(path, place(picture, plain_canvas(picture, MARGIN, NEARLY_BLACK[0]), MARGIN))


@pytest.fixture(scope="module")
def expected(on_white):
    """The tiles on white glass: as many as in the sample slide itself."""
    found = places(tissue_of(on_white))
    assert len(found) == 10
    return found


SURROUNDINGS = [255, 128, 0, *NEARLY_BLACK]
TINTED = [(240, 230, 245), (250, 240, 215), (60, 20, 40)]
PINK = (200, 150, 180)  # as eosin


@pytest.mark.parametrize("colour", SURROUNDINGS + TINTED, ids=str)
def test_the_tiles_are_the_same_on_every_plain_background(picture, expected, tmp_path, colour):
    path = write_slide(tmp_path / "s.tif", place(picture, plain_canvas(picture, MARGIN, colour), MARGIN))
    assert places(tissue_of(path)) == expected


def test_the_log_says_how_much_is_background(on_black, picture, capsys):
    """As much as lies outside the picture."""
    said = re.search(r"not tissue: ([\d.]+)% plain background", tissue_of(on_black).found_by)
    outside = 1 - picture[..., 0].size / plain_canvas(picture, MARGIN)[..., 0].size
    assert said and float(said[1]) == pytest.approx(100 * outside, abs=1.0)
    assert capsys.readouterr().err == ""


def test_white_glass_is_not_worth_a_word(on_white, capsys):
    assert "not tissue" not in tissue_of(on_white).found_by
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("colour", [WHITE, 128, NEARLY_BLACK[1]], ids=str)
def test_noise_of_the_background_is_not_tissue(picture, expected, tmp_path, colour):
    """Each channel of each pixel has its own, of standard deviation 15."""
    canvas = plain_canvas(picture, MARGIN, colour)
    noise = np.random.default_rng(0).standard_normal((1024, 1024, 3)) * 15
    repeats = [-(-side // 1024) for side in canvas.shape[:2]]
    noise = np.tile(noise.astype(np.int16), (*repeats, 1))[: canvas.shape[0], : canvas.shape[1]]
    noisy = np.clip(canvas + noise, 0, 255).astype(np.uint8)
    path = write_slide(tmp_path / "s.tif", place(picture, noisy, MARGIN))
    assert places(tissue_of(path)) == expected


def test_black_and_white_padding_may_lie_in_one_slide(picture, expected, tmp_path):
    canvas = plain_canvas(picture, MARGIN)
    canvas[:900] = canvas[:, :500] = NEARLY_BLACK[0]
    canvas[-1000:] = canvas[:, -150:] = 255
    canvas[:, -300:-150] = 0
    path = write_slide(tmp_path / "s.tif", place(picture, canvas, MARGIN))
    assert places(tissue_of(path)) == expected


def test_one_even_colour_that_could_be_a_stain_is_warned_of(picture, expected, tmp_path, capsys):
    """Three quarters of the slide are pink, which is no tissue, though pixels that mix it with tissue may be."""
    path = write_slide(tmp_path / "s.tif", place(picture, plain_canvas(picture, MARGIN, PINK), MARGIN))
    found = places(tissue_of(path))
    assert found >= expected and len(found) <= len(expected) + 1
    said = capsys.readouterr().err
    assert re.search(r"warning: s.tif: 7\d% of the slide has one even colour and was not taken for tissue", said)
    assert said.endswith("a tissue mask would settle it\n")


@pytest.mark.parametrize("colour", [0, NEARLY_BLACK[1]], ids=str)
def test_a_black_slide_has_no_tissue(tmp_path, colour):
    path = write_slide(tmp_path / "s.tif", plain_canvas(np.empty((1500, 1500, 3)), 0, colour))
    with pytest.raises(NoTissueError, match=r"^s.tif: none of 16 tiles is at least 50% tissue \(no mask given; .*\)$"):
        tissue_of(path)


def test_a_mask_of_the_whole_slide_is_useless_where_black_surrounds_tissue(on_black, expected, tmp_path, capsys):
    mask = tmp_path / "m.tif"
    with Slide(on_black) as slide:
        tifffile.imwrite(mask, np.full((slide.size[1] // 16, slide.size[0] // 16), 255, dtype=np.uint8))
        found = find_tissue(slide, Grid.over(slide.size, slide.mpp, 224, 1.0), mask, 0.5)
    assert places(found) == expected
    assert "m.tif: the mask marks the whole slide, including glass; tissue found" in capsys.readouterr().err


def test_features_are_extracted_of_the_tiles_within_black(on_black, expected, tmp_path, capsys):
    assert main(["extract", str(on_black), "--out", str(tmp_path / "s.h5")]) == 0
    with h5py.File(tmp_path / "s.h5") as file:
        assert {tuple(place) for place in file["coords"][:].tolist()} == expected
    assert re.search(r"10 tiles kept of 143; no mask given; .* 7\d\.\d% plain background", capsys.readouterr().out)


def test_a_job_predicts_the_same_whether_white_or_black_surrounds_the_tissue(
    slide_case, on_white, on_black, tmp_path, capsys
):
    """The tiles lie within the picture, whose pixels are the same in both."""
    shutil.rmtree(slide_case / PLACES["mask"])
    entries = json.loads((slide_case / "inputs.json").read_text())
    entries = [entry for entry in entries if entry["interface"]["slug"] != SLUGS["mask"]]
    (slide_case / "inputs.json").write_text(json.dumps(entries))
    for path in (on_white, on_black):
        give_slide(slide_case, "s.tif", path.read_bytes())
        assert end_of(slide_case, tmp_path / path.parent.name) == 0
    white, black = (months(tmp_path / path.parent.name) for path in (on_white, on_black))
    assert black == pytest.approx(white, rel=1e-3)
    assert "plain background" in capsys.readouterr().out
