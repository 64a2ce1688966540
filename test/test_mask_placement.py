"""Where a mask lies on its slide, and which of its values are tissue, against masks whose construction says so."""

import math
from pathlib import Path
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import pyvips
import SimpleITK as sitk
import tifffile
from conftest import MASK, SLIDE

from survfuse.cli.main import main
from survfuse.runtime.errors import InputError
from survfuse.slide.coverage import covered
from survfuse.slide.grid import Grid
from survfuse.slide.mask_place import mask_place
from survfuse.slide.mask_values import MaskValues
from survfuse.slide.masks import mask_coverage

# The slide of NCRF #6 and grandqc #31: 4 px of it are one of the mask, which states that.
SLIDE_4X = SimpleNamespace(name="slide.tif", size=(4440, 5934), mpp=(0.499, 0.499))
MPP = 4 * 0.499
ROWS, COLUMNS = np.mgrid[:1482, :1110]
TISSUE = ((ROWS - 900.0) ** 2 / 500**2 + (COLUMNS - 700.0) ** 2 / 350**2 < 1.0).astype(np.uint8)


def tiles_of(path: Path, slide: SimpleNamespace = SLIDE_4X) -> tuple[set[tuple[int, int]], str]:
    grid = Grid.over(slide.size, slide.mpp, 224, 1.0)
    share, how = mask_coverage(path, slide, grid)
    return {(int(x), int(y)) for x, y in grid.origins(covered(share, 0.5))}, how


def write(path: Path, mask: np.ndarray, mpp: float | None = MPP, unit: str = "CENTIMETER", **options: object) -> Path:
    per_unit = {"CENTIMETER": 1e4, "INCH": 25_400.0}[unit]
    stated = {"resolution": (per_unit / mpp,) * 2, "resolutionunit": unit} if mpp else {"resolutionunit": "NONE"}
    tifffile.imwrite(path, mask, **({"tile": (256, 256), "compression": "lzw", "metadata": None} | stated | options))
    return path


def padded(mask: np.ndarray, side: int, value: int = 0) -> np.ndarray:
    """Zeros to the right and below, up to whole tiles."""
    height, width = (-(-length // side) * side for length in mask.shape)
    return np.pad(mask, ((0, height - mask.shape[0]), (0, width - mask.shape[1])), constant_values=value)


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> set[tuple[int, int]]:
    """The tiles of the mask as it is before it is padded."""
    return tiles_of(write(tmp_path_factory.mktemp("true") / "mask.tif", TISSUE))[0]


@pytest.mark.parametrize("unit", ["CENTIMETER", "INCH"])
@pytest.mark.parametrize("side", [128, 256, 512])
def test_a_padded_mask_is_placed_by_the_resolution_that_it_states(tmp_path, expected, side, unit):
    found, how = tiles_of(write(tmp_path / "mask.tif", padded(TISSUE, side), unit=unit))
    assert found == expected and "placed by its resolution, 1.996 µm/px" in how


def test_a_padded_pyramid_is_placed_at_every_level(tmp_path, expected):
    image = pyvips.Image.new_from_array(padded(TISSUE * 255, 128)).copy(xres=1000 / MPP, yres=1000 / MPP)
    options = {"tile": True, "pyramid": True, "compression": "deflate", "region_shrink": "nearest"}
    image.tiffsave(str(tmp_path / "mask.tif"), tile_width=128, tile_height=128, **options)
    found, how = tiles_of(tmp_path / "mask.tif")
    assert found == expected and "mask level 1, 576 × 768 px, placed" in how


@pytest.mark.parametrize(("reduced", "side"), [(4, 256), (4, 1024), (16, 512), (32, 512)])
def test_a_mask_padded_in_the_slide_s_pixels_and_then_reduced_is_placed(tmp_path, reduced, side):
    """Its own sides are no whole tiles: 4440 × 5934 px padded to 4608 × 6144, and then a sixteenth of that."""
    whole = np.kron(TISSUE, np.ones((4, 4), dtype=np.uint8))[:5934, :4440]
    found, expected = (
        tiles_of(write(tmp_path / "mask.tif", mask[::reduced, ::reduced], 0.499 * reduced, tile=None, rowsperstrip=64))
        for mask in (padded(whole, side), whole)
    )
    assert found[0] == expected[0] and f"placed by its resolution, {0.499 * reduced:.4g} µm/px" in found[1]


def test_a_mask_with_more_rows_is_placed(tmp_path, expected):
    rows = np.pad(TISSUE, ((0, 28), (0, 0)))
    assert tiles_of(write(tmp_path / "mask.tif", rows))[0] == expected


def test_a_padded_mha_mask_is_placed(tmp_path, expected):
    image = sitk.GetImageFromArray(padded(TISSUE, 128))
    image.SetSpacing((MPP / 1000, MPP / 1000))
    sitk.WriteImage(image, tmp_path / "mask.mha")
    assert tiles_of(tmp_path / "mask.mha")[0] == expected


@pytest.mark.parametrize("shape", [(1408, 1024), (1408, 1110), (1536, 1024)])
def test_a_mask_cut_off_at_whole_tiles_is_placed_with_a_warning(tmp_path, expected, capsys, shape):
    """To tiles of 128 px that lie on the slide whole: on both sides, below, and at the right with padding below."""
    cut = np.pad(TISSUE, ((0, 128), (0, 0)))[: shape[0], : shape[1]]
    found, how = tiles_of(write(tmp_path / "mask.tif", cut))
    least = min(4 * shape[0] / 5934, 4 * shape[1] / 4440)
    assert found == expected and "placed by its resolution" in how
    assert f"it ends at {least:.1%} of the slide; the rest counts as no tissue" in capsys.readouterr().err


@pytest.mark.parametrize("mpp", [1.99, 2.0])
def test_a_padded_mask_s_resolution_may_be_rounded(tmp_path, expected, mpp):
    below = np.pad(TISSUE, ((0, 54), (0, 0)))
    for number, mask in enumerate((below, padded(TISSUE, 128))):
        assert tiles_of(write(tmp_path / f"{number}.tif", mask, mpp))[0] == expected


def test_a_resolution_is_read_wherever_it_is_stated(tmp_path, expected):
    mask = padded(TISSUE, 128)
    ome = {f"PhysicalSize{axis}": MPP for axis in "XY"} | {f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}
    tifffile.imwrite(tmp_path / "ome.ome.tif", mask, tile=(256, 256), metadata={"axes": "YX"} | ome)
    tifffile.imwrite(tmp_path / "imagej.tif", mask, imagej=True, resolution=(1 / MPP,) * 2, metadata={"unit": "um"})
    without_unit = write(tmp_path / "inch.tif", mask, unit="INCH")  # which TIFF 6.0 takes where none is stated
    with tifffile.TiffFile(without_unit) as file:
        tag = file.pages[0].tags[296]
    changed = bytearray(without_unit.read_bytes())
    changed[tag.offset : tag.offset + 2] = (65_000).to_bytes(2, "little")
    without_unit.write_bytes(changed)
    for name in ("ome.ome.tif", "imagej.tif", "inch.tif"):
        assert tiles_of(tmp_path / name)[0] == expected


def test_a_mask_of_another_shape_with_tissue_where_padding_would_be_is_refused(tmp_path):
    other = np.ones((1482, 1500), dtype=np.uint8)
    with pytest.raises(InputError, match=r"mask\.tif: 1500 × 1482 px does not have the slide's shape, 4440 × 5934 px"):
        tiles_of(write(tmp_path / "mask.tif", other))


@pytest.mark.parametrize("mpp", [0.499, 1.99, 2.0, 2.1, 353.0, 1000.0, None])
def test_a_resolution_that_is_not_the_mask_s_own_moves_nothing(tmp_path, expected, mpp):
    """Copied from the slide, rounded, of the wrong objective, 72 dpi, ITK's default and none."""
    assert tiles_of(write(tmp_path / "mask.tif", TISSUE, mpp))[0] == expected


def test_a_resolution_that_would_move_the_far_edge_by_half_a_tile_is_warned_of(tmp_path, capsys):
    tiles_of(write(tmp_path / "mask.tif", TISSUE, 2.1))
    assert "mask.tif: states 2.1 µm/px, by which the slide would be 1,055 × 1,410 px" in capsys.readouterr().err


def test_masks_of_many_sizes_lie_where_they_were_made():
    """Padded masks that state their resolution, and masks of the slide's shape that state it wrongly by up to 10%."""
    random = Random(1)
    for _ in range(1000):
        size, reduced = (random.randrange(3000, 120_000), random.randrange(3000, 90_000)), random.choice((4, 16, 64))
        slide = SimpleNamespace(name="slide.tif", size=size, mpp=(0.499, 0.499))
        grid = Grid.over(size, slide.mpp, 224, 1.0)
        exact = tuple(random.choice((math.floor, math.ceil, round))(length / reduced) for length in size)
        side = random.choice((64, 128, 256, 512))
        whole = tuple(side * math.ceil(length / side) for length in exact)
        mpp, wrong = 0.499 * reduced, 0.499 * reduced * random.uniform(0.9, 1.1)
        for mask, stated in ((exact, wrong), (whole, mpp)):
            if any(have > 2 * needed for have, needed in zip(mask, exact, strict=True)):
                continue  # more padding than mask
            scale = mask_place("mask.tif", mask, [(stated, stated)], slide, grid).scale
            off = [abs(scale[axis] * reduced - 1) * size[axis] / grid.side[axis] for axis in (0, 1)]
            assert max(off) < 0.5  # of a tile, at the far edge


def test_a_mask_of_the_slide_s_shape_that_says_otherwise_is_stretched(tmp_path):
    """Tissue up to its border cannot be padding."""
    full = np.ones((1536, 1152), dtype=np.uint8)
    found, how = tiles_of(write(tmp_path / "mask.tif", full))
    assert len(found) == 10 * 13 and "placed" not in how  # every tile that lies on the slide by half


def test_a_padded_mask_without_resolution_is_warned_of_from_half_a_tile_on(tmp_path, capsys):
    tiles_of(write(tmp_path / "mask.tif", np.pad(TISSUE, ((0, 80), (0, 0))), None))
    (line,) = capsys.readouterr().err.splitlines()
    # 1562 rows for 1482: the last row is 80/1562 of 5934 px off, but for rounding, in tiles of 449 px.
    tiles = float(line.split("at the far edge is ")[1].split()[0])
    assert tiles == pytest.approx(80 / 1562 * 5934 / 448.9, abs=0.1) and "state the mask's resolution" in line


def test_a_tenth_of_a_tile_is_no_reason_for_a_warning(tmp_path, capsys):
    tiles_of(write(tmp_path / "mask.tif", np.pad(TISSUE, ((0, 8), (0, 0))), None))
    assert capsys.readouterr().err == ""


def test_a_mask_square_in_micrometres_fits_a_slide_of_oblong_pixels(tmp_path, capsys):
    """Pixels of 0.5 × 0.4654 µm: width over height differs by 7.4% in pixels, and not at all in µm."""
    slide = SimpleNamespace(name="slide.tif", size=(4440, 6374), mpp=(0.499, 0.499 * 5934 / 6374))
    found, _ = tiles_of(write(tmp_path / "mask.tif", TISSUE, None), slide)
    assert capsys.readouterr().err == "" and len(found) > 20


def test_what_a_tile_holds_beyond_the_mask_s_border_does_not_count(tmp_path):
    """A writer may fill the last tiles with anything: here tissue, as copies of the border are."""
    grid = Grid.over((300, 300), (1.0, 1.0), 100, 1.0)
    mask = np.zeros((300, 300), dtype=np.uint8)
    whole = [np.full((256, 256), 1, dtype=np.uint8) for _ in range(4)]
    for number, tile in enumerate(whole):
        row, column = divmod(number, 2)
        own = mask[256 * row : 256 * row + 256, 256 * column : 256 * column + 256]
        tile[: own.shape[0], : own.shape[1]] = own
    options = {"tile": (256, 256), "compression": "deflate", "metadata": None}
    tifffile.imwrite(tmp_path / "mask.tif", iter(whole), shape=mask.shape, dtype=np.uint8, **options)
    share, _ = mask_coverage(tmp_path / "mask.tif", SimpleNamespace(name="s", size=(300, 300), mpp=(1.0, 1.0)), grid)
    assert not share.any()


# Turned and mirrored masks


@pytest.mark.parametrize("stated", range(2, 9))
def test_a_mask_to_be_turned_is_refused(tmp_path, stated):
    path = write(tmp_path / "mask.tif", TISSUE, extratags=[(274, "H", 1, stated, True)])
    with pytest.raises(InputError, match=rf"mask\.tif: states orientation {stated} \("):
        tiles_of(path)


@pytest.mark.parametrize("inner", [False, True])
def test_a_pyramid_is_refused_by_what_its_first_page_states(tmp_path, inner):
    """Its other level, which is the one that is read, states no orientation."""
    options = {"tile": (128, 128), "compression": "lzw", "metadata": None}
    with tifffile.TiffWriter(tmp_path / "mask.tif") as file:
        file.write(TISSUE, extratags=[(274, "H", 1, 4, True)], subifds=int(inner), **options)
        file.write(TISSUE[::2, ::2], subfiletype=1, **options)
    with pytest.raises(InputError, match=r"mask\.tif: states orientation 4 \(bottom-left\) for 1110 × 1482 px"):
        tiles_of(tmp_path / "mask.tif")


@pytest.mark.parametrize("stated", [0, 1, 9])
def test_numbers_that_are_no_orientation_turn_nothing(tmp_path, expected, stated, capsys):
    path = write(tmp_path / "mask.tif", TISSUE, extratags=[(274, "H", 1, stated, True)])
    assert tiles_of(path)[0] == expected and not capsys.readouterr().err


def test_an_mha_mask_whose_axes_are_turned_is_refused(tmp_path):
    image = sitk.GetImageFromArray(TISSUE)
    image.SetDirection((1.0, 0.0, 0.0, -1.0))
    sitk.WriteImage(image, tmp_path / "mask.mha")
    with pytest.raises(InputError, match=r"mask\.mha: states TransformMatrix 1 0 0 -1; expected pixels stored as"):
        tiles_of(tmp_path / "mask.mha")


def test_extract_refuses_a_mask_to_be_turned(tmp_path, capsys):
    path = write(tmp_path / "mask.tif", TISSUE[::2, ::2], extratags=[(274, "H", 1, 4, True)])
    assert main(["extract", str(SLIDE), "--mask", str(path), "--out", str(tmp_path / "x.h5")]) == 2
    assert "mask.tif: states orientation 4 (bottom-left)" in capsys.readouterr().err


# Values


@pytest.mark.parametrize("quality", [50, 75, 90])
def test_the_grey_noise_of_a_lossy_mask_is_not_tissue(tmp_path, expected, quality):
    image = pyvips.Image.new_from_array(TISSUE * 255)
    image.tiffsave(str(tmp_path / "mask.tif"), tile=True, compression="jpeg", Q=quality)
    assert len(np.unique(tifffile.imread(tmp_path / "mask.tif"))) > 16
    found, how = tiles_of(tmp_path / "mask.tif")
    assert found == expected and "of which values from 127.5 on are tissue" in how


def test_a_probability_map_counts_from_one_half_on(tmp_path, expected):
    probability = np.where(TISSUE == 1, 0.5 + 0.5 * ROWS / 1482, 0.49 * ROWS / 1482).astype(np.float32)
    probability[0, 0], probability[-1, -1] = 1.0, np.nan
    found, how = tiles_of(write(tmp_path / "mask.tif", probability, compression=None))
    assert found == expected and "values from 0.5 on" in how


def test_the_largest_probability_counts_beside_pixels_without_one(tmp_path):
    """Weak values in the first strip, and NaN in every other strip, do not lower the limit."""
    probability = np.full((1482, 1110), 0.3, dtype=np.float32) * (1 + COLUMNS / 1e5)
    probability[600:] = np.where(TISSUE[600:] == 1, 0.9, probability[600:])
    probability[600:, :20] = np.nan
    _, how = tiles_of(write(tmp_path / "mask.tif", probability.astype(np.float32), tile=None, rowsperstrip=200))
    assert "values from 0.45 on" in how


def test_values_are_told_apart_in_parts():
    """An array in any order and byte order, larger than a part, against numpy's own distinct values."""
    random = np.random.default_rng(0)
    for dtype in (np.uint8, np.int16, ">u2", np.float32):
        for most in (5, 200):
            array = random.integers(0, most, (1100, 900, 2)).astype(dtype)
            for values in (array, array[::2, ::-1, :1], array.transpose(2, 1, 0)):
                rule = MaskValues()
                rule.tissue(values)
                distinct = np.unique(values)
                limit = distinct[-1] / 2 if len(distinct) > 16 else 0.0
                assert rule.better_limit(lossy=False) == limit and rule.better_limit(lossy=True) == distinct[-1] / 2


@pytest.mark.parametrize("labels", [(0, 1), (0, 255), (0, 1, 2, 3), (0, 1, 255)])
def test_of_a_few_labels_every_one_but_0_is_tissue(tmp_path, expected, labels):
    kinds = np.array(labels[1:], dtype=np.uint8)[(ROWS // 100) % (len(labels) - 1)]
    found, how = tiles_of(write(tmp_path / "mask.tif", TISSUE * kinds))
    assert found == expected and "values" not in how


@pytest.mark.parametrize("largest", [40, 200, 255])
def test_numbers_of_objects_below_half_of_the_largest_are_warned_of(tmp_path, capsys, largest):
    """255 ends a usual range of probabilities, of which those below a half are meant not to count."""
    numbers = (TISSUE * (1 + (ROWS + COLUMNS) % largest)).astype(np.uint16)
    _, how = tiles_of(write(tmp_path / "mask.tif", numbers))
    assert f"values from {largest / 2:g} on" in how
    said, left_out = capsys.readouterr().err, (numbers < largest / 2)[TISSUE == 1].mean()
    if largest == 255:
        assert not said
    else:
        assert f"mask.tif: {left_out:.0%} of what is not 0 lies below {largest / 2:g}, half of the largest" in said


def test_a_palette_mask_is_named(tmp_path):
    colours = np.zeros((3, 256), dtype=np.uint16)
    path = write(tmp_path / "palette.tif", TISSUE, photometric="palette", colormap=colours)
    with pytest.raises(InputError, match=r"palette\.tif: mask stored as PALETTE: expected grey from black, or RGB"):
        tiles_of(path)


def test_a_header_comment_with_an_umlaut_is_read(tmp_path, expected):
    image = sitk.GetImageFromArray(TISSUE)
    sitk.WriteImage(image, tmp_path / "mask.mha")
    data = (tmp_path / "mask.mha").read_bytes()
    for encoding in ("utf-8", "latin-1"):
        comment = "Comment = Prüfer\nElementDataFile".encode(encoding)
        (tmp_path / "mask.mha").write_bytes(data.replace(b"ElementDataFile", comment, 1))
        assert tiles_of(tmp_path / "mask.mha")[0] == expected


def test_the_sample_s_mask_is_read_as_before():
    slide = SimpleNamespace(name="s", size=(2220, 2967), mpp=(0.499, 0.499))
    found, how = tiles_of(MASK, slide)
    assert len(found) == 11 and how == "mask level 1, 277 × 370 px"
