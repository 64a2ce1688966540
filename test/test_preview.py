"""Previews of extraction: what they show is the slide, the mask's outline and the tiles that have features."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import openslide
import pytest
import pyvips
from canvases import plain_canvas, sample_picture, write_slide
from conftest import MASK, SLIDE
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion

from survfuse.api import extract
from survfuse.cli.main import main
from survfuse.runtime.errors import InputError
from survfuse.slide.preview import LONGEST, OUTLINE, TILE


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The folder of a slide's features and preview."""
    folder = tmp_path_factory.mktemp("preview")
    extract(SLIDE, folder / "slide.h5", mask=MASK, preview=folder / "slide.jpg", device="cpu")
    return folder


def like(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Which pixels [h, w] have about this colour, as far as JPEG keeps it."""
    return np.abs(picture.astype(int) - colour).max(axis=-1) < 40


def opened(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
        return np.asarray(image)


def test_it_is_a_jpeg_of_the_slide(made):
    picture = opened(made / "slide.jpg")
    slide = openslide.OpenSlide(SLIDE)
    width, height = slide.dimensions
    assert picture.shape[0] == LONGEST and picture.shape[1] == round(width * LONGEST / height)
    plain = np.asarray(slide.get_thumbnail(slide.dimensions).convert("RGB").resize(picture.shape[1::-1]), dtype=int)
    drawn = binary_dilation(like(picture, TILE) | like(picture, OUTLINE), iterations=4)
    assert drawn.mean() < 0.2
    assert np.abs(picture - plain)[~drawn].mean() < 8.0


def test_the_outline_runs_along_the_masks_border(made):
    picture = opened(made / "slide.jpg")
    mask = pyvips.Image.new_from_file(str(MASK))[0].numpy() > 0
    mask = np.asarray(Image.fromarray(mask).resize(picture.shape[1::-1], Image.Resampling.NEAREST))
    border = mask & ~binary_erosion(mask)
    line = like(picture, OUTLINE)
    near = binary_dilation(border, iterations=12)
    assert (line & near).sum() > 0.97 * line.sum() > 2000
    assert (border & binary_dilation(line, iterations=12)).sum() > 0.9 * border.sum()


def test_the_tiles_with_features_are_outlined_and_no_others(made):
    picture = opened(made / "slide.jpg")
    downsample = openslide.OpenSlide(SLIDE).dimensions[1] / LONGEST
    with h5py.File(made / "slide.h5") as file:
        kept = {tuple(origin) for origin in file["coords"][()].tolist()}
        side = 224 / file.attrs["mpp"][0]
    lines = like(picture, TILE)
    for column in range(4):
        for row in range(6):
            x, y = round(column * side), round(row * side)
            inner = [slice(round((at + 6) / downsample), round((at + side - 6) / downsample)) for at in (y, x)]
            assert lines[inner[0], inner[1]].mean() < 0.01  # a tile itself stays as it is
            # The corner's two lines, from the middle of each side.
            left = lines[round((y + side / 4) / downsample) : round((y + side / 2) / downsample)]
            left = left[:, round(x / downsample) : round(x / downsample) + 3].any(axis=1)
            beside = {(x, y), (round((column - 1) * side), y)} & kept
            assert (left.mean() > 0.6) == bool(beside), (x, y)


def test_features_are_the_same_with_and_without(made, tmp_path):
    extract(SLIDE, tmp_path / "slide.h5", mask=MASK, device="cpu")
    with h5py.File(made / "slide.h5") as one, h5py.File(tmp_path / "slide.h5") as other:
        np.testing.assert_array_equal(one["features"][()], other["features"][()])
        np.testing.assert_array_equal(one["coords"][()], other["coords"][()])


def test_without_a_mask_the_outline_is_around_what_was_found_by_colour(tmp_path):
    margin = 1500
    canvas = plain_canvas(sample_picture(), margin)
    top, left = margin + 1500, margin + 1000
    canvas[top : top + 1000, left : left + 600] = sample_picture()[1500:2500, 1000:1600]
    slide = write_slide(tmp_path / "slide.tif", canvas)
    assert main(["extract", str(slide), "--out", str(tmp_path / "s.h5"), "--preview", str(tmp_path / "s.jpeg")]) == 0
    picture = opened(tmp_path / "s.jpeg")
    assert max(picture.shape) == LONGEST
    downsample = max(canvas.shape) / LONGEST
    rows, columns = np.nonzero(like(picture, OUTLINE))
    assert [rows.min(), rows.max()] == pytest.approx([top / downsample, (top + 1000) / downsample], abs=15)
    assert [columns.min(), columns.max()] == pytest.approx([left / downsample, (left + 600) / downsample], abs=15)


def test_a_small_slide_keeps_its_size(tmp_path):
    slide = write_slide(tmp_path / "slide.tif", np.ascontiguousarray(sample_picture()[1500:2500, 1000:1700]))
    extract(slide, tmp_path / "s.h5", preview=tmp_path / "s.jpg", device="cpu")
    assert opened(tmp_path / "s.jpg").shape == (1000, 700, 3)


@pytest.mark.parametrize(
    ("preview", "message"),
    [
        ("slide.png", r"slide\.png: a preview is a JPEG; expected a name that ends in \.jpg or \.jpeg$"),
        ("nowhere/slide.jpg", "no such folder"),
        ("folder.jpg", "expected a file of its own for the preview"),
        ("features.jpg", "expected a file of its own for the preview"),
    ],
)
def test_a_preview_that_cannot_be_written_is_refused_before_the_slide_is_read(tmp_path, preview, message):
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "slide.tif").write_text("no slide")
    with pytest.raises(InputError, match=message):
        extract(tmp_path / "slide.tif", tmp_path / "features.jpg", preview=tmp_path / preview)
    assert {path.name for path in tmp_path.iterdir()} == {"folder.jpg", "slide.tif"}


def test_without_tissue_there_is_no_preview(tmp_path):
    slide = write_slide(tmp_path / "slide.tif", np.full((900, 900, 3), 245, dtype=np.uint8))
    with pytest.raises(InputError):
        extract(slide, tmp_path / "s.h5", preview=tmp_path / "s.jpg", device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["slide.tif"]


# Cohorts


@pytest.fixture
def slides(tmp_path) -> Path:
    """Two patients, one of them with a mask."""
    root = tmp_path / "slides"
    for name in ("P1", "P2"):
        (root / "data" / name).mkdir(parents=True)
        shutil.copy(SLIDE, root / "data" / name / f"{name}_HE.tif")
    shutil.copy(MASK, root / "data/P1/P1_HE_mask.tif")
    return root


def test_a_cohort_has_a_preview_of_each_slide_and_missing_ones_need_no_encoder(slides, monkeypatch, capsys):
    previews = slides.with_name("previews") / "of this cohort"
    command = ["extract", str(slides), "--mpp", "2", "--preview", str(previews)]
    assert main(command) == 0
    whole = {path.name: path.read_bytes() for path in previews.iterdir()}
    assert set(whole) == {"P1_HE.jpg", "P2_HE.jpg"} and whole["P1_HE.jpg"] != whole["P2_HE.jpg"]

    (previews / "P1_HE.jpg").unlink()
    (previews / "P2_HE.jpg").write_bytes(b"kept as it is")
    monkeypatch.setattr("survfuse.slide.encoders.load_encoder", lambda *_: pytest.fail("no encoder is needed"))
    capsys.readouterr()
    assert main(command) == 0
    assert "previews     1 of 1 slide already extracted" in capsys.readouterr().out
    assert (previews / "P1_HE.jpg").read_bytes() == whole["P1_HE.jpg"]
    assert (previews / "P2_HE.jpg").read_bytes() == b"kept as it is"


def test_features_that_are_made_again_have_a_new_preview(slides):
    previews = slides / "previews"
    extract(slides, mpp=2.0, preview=previews, device="cpu")
    first = {path.name: path.read_bytes() for path in previews.iterdir()}
    (slides / "features/features/P2_HE.h5").unlink()
    for path in previews.iterdir():
        path.write_bytes(b"old")
    extract(slides, mpp=2.0, preview=previews, device="cpu")
    assert (previews / "P1_HE.jpg").read_bytes() == b"old"
    assert (previews / "P2_HE.jpg").read_bytes() == first["P2_HE.jpg"]


def test_a_slide_that_can_no_longer_be_read_is_named_and_the_others_have_theirs(slides, capsys):
    extract(slides, mpp=2.0, device="cpu")
    (slides / "data/P1/P1_HE.tif").write_text("no slide")
    assert main(["extract", str(slides), "--mpp", "2", "--preview", str(slides / "previews")]) == 2
    assert "P1_HE.tif: not a slide" in capsys.readouterr().err
    assert [path.name for path in (slides / "previews").iterdir()] == ["P2_HE.jpg"]


def test_a_cohorts_previews_are_a_folder(slides, tmp_path):
    (tmp_path / "file.jpg").touch()
    with pytest.raises(InputError, match="expected a folder, found a file"):
        extract(slides, preview=tmp_path / "file.jpg", device="cpu")
