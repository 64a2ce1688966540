"""Without a mask, what a pen has drawn on the glass is not taken for tissue, and tissue stays tissue."""

import colorsys
import re

import numpy as np
import pytest
from canvases import place, places, plain_canvas, sample_picture, tissue_of, write_slide
from PIL import Image, ImageDraw

from survfuse.slide.colour import saturation
from survfuse.slide.stained import colours_of

MARGIN = 900  # pixels
GREEN, BLUE, BLACK, RED = (20, 120, 60), (20, 30, 160), (25, 25, 30), (200, 20, 30)
# % of the slide that lies within two pixels of the reduced image, 14 px each, of the edges of the widest outline.
EDGES = 4.0
PENS = {"green": GREEN, "blue": BLUE, "black": BLACK, "red": RED}
OTHER_PENS = [(190, 30, 50), (170, 20, 40), (150, 10, 20), (25, 25, 100), (50, 50, 140), (80, 70, 85), (60, 50, 55)]
# Violet, navy and pink absorb as haematoxylin and eosin do.
LIKE_STAINS = [(90, 30, 140), (20, 20, 70), (220, 60, 90)]
# Absorbances of red, green and blue by haematoxylin and eosin (Ruifrok and Johnston 2001; Macenko et al. 2009).
STAINS = {
    "Ruifrok": [[0.65, 0.704, 0.286], [0.072, 0.99, 0.105]],
    "Macenko": [[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]],
}


@pytest.fixture(scope="module")
def glass():
    """The sample's picture on a canvas of glass."""
    picture = sample_picture()
    return place(picture, plain_canvas(picture, MARGIN), MARGIN)


@pytest.fixture(scope="module")
def expected(glass, tmp_path_factory):
    """The tiles without any mark."""
    return places(tissue_of(write_slide(tmp_path_factory.mktemp("glass") / "s.tif", glass)))


@pytest.mark.parametrize("colour", [*PENS.values(), (255, 0, 0), (0, 255, 3), (200, 50, 60), (150, 130, 141)])
def test_saturation_is_that_of_hsv(colour):
    _, expected, _ = colorsys.rgb_to_hsv(*colour)
    assert saturation(np.array(colour, dtype=np.uint8)) == pytest.approx(255 * expected, abs=1)


def outline(glass: np.ndarray, width: int) -> np.ndarray:
    """Where a rectangle around the picture lies [h, w], its line this wide inwards from 300 px."""
    drawn = Image.new("1", (glass.shape[1], glass.shape[0]))
    ImageDraw.Draw(drawn).rectangle((300, 300, drawn.width - 300, drawn.height - 300), outline=1, width=width)
    return np.asarray(drawn)


def stroke(glass: np.ndarray, top: int, width: int) -> np.ndarray:
    """Where a line lies [h, w] that crosses the whole slide."""
    drawn = np.zeros(glass.shape[:2], dtype=bool)
    drawn[top : top + width] = True
    return drawn


def opaque(glass: np.ndarray, drawn: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.where(drawn[..., None], np.array(colour, dtype=np.uint8), glass)


def uneven(glass: np.ndarray, drawn: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Ink that lets light through, 0.7 to 1.3 times as thick as that of ``colour``, which varies over 64 px.

    Light of intensity I leaves it as I · T^d, T of the colour, d its thickness (Lambert 1760).
    """
    small = np.random.default_rng(0).integers(0, 256, [-(-side // 64) for side in drawn.shape], dtype=np.uint8)
    smooth = Image.fromarray(small).resize(drawn.shape[::-1], Image.Resampling.BICUBIC)
    thickness = 0.7 + 0.6 * np.asarray(smooth)[drawn].astype(np.float32)[:, None] / 255
    marked = glass.copy()
    marked[drawn] = glass[drawn] * (np.array(colour, dtype=np.float32) / 255) ** thickness
    return marked


def reduced(picture: np.ndarray) -> np.ndarray:
    """The picture in which tissue is looked for, of 7 µm per pixel."""
    return np.array(Image.fromarray(picture).reduce(14))


@pytest.mark.parametrize(("ink", "width"), [(opaque, 120), (opaque, 480), (uneven, 120)])
@pytest.mark.parametrize("pen", PENS)
def test_marks_around_the_tissue_change_no_tile(glass, expected, tmp_path, pen, ink, width):
    marked = ink(glass, outline(glass, width), PENS[pen])
    assert places(tissue_of(write_slide(tmp_path / "s.tif", marked))) == expected


@pytest.mark.parametrize("colour", OTHER_PENS, ids=str)
def test_uneven_ink_of_other_pens_is_not_tissue(glass, expected, tmp_path, capsys, colour):
    found = tissue_of(write_slide(tmp_path / "s.tif", uneven(glass, outline(glass, 480), colour)))
    assert places(found) == expected
    assert "dye" not in capsys.readouterr().err


@pytest.mark.parametrize("colour", LIKE_STAINS, ids=str)
def test_ink_of_a_stains_colour_is_warned_of(glass, tmp_path, capsys, colour):
    tissue_of(write_slide(tmp_path / "s.tif", uneven(glass, outline(glass, 480), colour)))
    words = r"warning: s.tif: \d+% of what was taken for tissue is as even in hue as one dye, and may be pen ink; "
    assert re.search(words, capsys.readouterr().err)


@pytest.mark.parametrize("eosin", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("haematoxylin", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("stains", STAINS)
def test_tissue_of_any_stain_is_not_ink(stains, haematoxylin, eosin):
    """The sample's amounts of both stains, times these, as other stains and scanners would show them."""
    absorbances = -np.log((reduced(sample_picture()) + 1.0) / 256)
    own = np.array(STAINS["Macenko"])
    amounts = np.clip(absorbances @ np.linalg.pinv(own), 0, None) * (haematoxylin, eosin)
    rgb = (256 * np.exp(-amounts @ np.array(STAINS[stains])) - 1).clip(0, 255).astype(np.uint8)
    shown = colours_of(rgb)
    assert shown.set_aside.ink + shown.set_aside.black < 0.01
    assert shown.one_dye.mean() < 0.2


def test_a_lake_of_blood_is_not_ink():
    """Its red is that of ink, but it absorbs less."""
    picture = reduced(sample_picture())
    thickness = np.random.default_rng(0).uniform(0.7, 1.3, (64, 96, 1))
    picture[64:128, 32:128] = 256 * (np.array([200, 60, 75]) / 256) ** thickness
    assert (colours_of(picture).saturation[66:126, 34:126] > 100).mean() > 0.99


@pytest.mark.parametrize("pen", ["green", "blue", "red"])
def test_how_much_is_ink_is_said_and_warned_of_if_it_is_more_than_tissue(glass, tmp_path, capsys, pen):
    """As much as was drawn, up to the pixels at its edges."""
    drawn = outline(glass, 480)
    found = tissue_of(write_slide(tmp_path / "s.tif", opaque(glass, drawn, PENS[pen])))
    said = re.search(r"not tissue: ([\d.]+)% pen ink", found.found_by)
    words = r"warning: s.tif: (\d+)% of the slide is pen ink, more than is tissue; "
    warned = re.search(words, capsys.readouterr().err)
    for share in (said, warned):
        assert share and float(share[1]) == pytest.approx(100 * drawn.mean(), abs=EDGES)


def test_black_ink_is_said_as_black_or_plain(glass, tmp_path):
    drawn = outline(glass, 480)
    found = tissue_of(write_slide(tmp_path / "s.tif", uneven(glass, drawn, BLACK)))
    shares = re.findall(r"([\d.]+)% (?:black|plain background)", found.found_by)
    assert sum(map(float, shares)) == pytest.approx(100 * drawn.mean(), abs=EDGES)


def test_a_few_marks_are_not_warned_of(glass, tmp_path, capsys):
    tissue_of(write_slide(tmp_path / "s.tif", opaque(glass, stroke(glass, 400, 60), GREEN)))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("pen", PENS)
def test_a_stroke_across_tissue_costs_no_tile_that_it_does_not_touch(glass, expected, tmp_path, pen):
    """A tile is 449 px high; the stroke lies within the row of tiles that begins at 2,693."""
    marked = uneven(glass, stroke(glass, 2800, 120), PENS[pen])
    found = places(tissue_of(write_slide(tmp_path / "s.tif", marked)))
    assert found <= expected
    assert {(x, y) for x, y in expected if y != 2693} <= found


@pytest.mark.parametrize("pen", PENS)
def test_tiles_wholly_under_ink_are_not_tissue(glass, expected, tmp_path, pen):
    marked = opaque(glass, stroke(glass, 2693, 449), PENS[pen])
    found = places(tissue_of(write_slide(tmp_path / "s.tif", marked)))
    assert found == {(x, y) for x, y in expected if y != 2693} < expected
