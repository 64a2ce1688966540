"""Tile geometry against brute force, and masks in every layout they come in."""

import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import pyvips
import SimpleITK as sitk
import tifffile
from conftest import MASK, ROOT, SLIDE
from hypothesis import given, settings
from hypothesis import strategies as st

from survfuse.runtime.errors import InputError
from survfuse.slide import masks
from survfuse.slide.coverage import Block, coverage, covered
from survfuse.slide.grid import Grid
from survfuse.slide.masks import mask_coverage
from survfuse.slide.pixels import Slide
from survfuse.slide.stained import stained_tissue
from survfuse.slide.tissue import find_tissue


def brute_force(grid: Grid, mask: np.ndarray) -> np.ndarray:
    """Every tile, every mask pixel, one at a time: the area they share, over the tile's area."""
    height, width = mask.shape
    across, down = width / grid.width, height / grid.height
    share = np.zeros((len(grid.y), len(grid.x)))
    for j, y in enumerate(grid.y):
        for i, x in enumerate(grid.x):
            left, right = x * across, (x + grid.side[0]) * across
            top, bottom = y * down, (y + grid.side[1]) * down
            area = 0.0
            for row, column in zip(*np.nonzero(mask), strict=True):
                wide = min(right, column + 1) - max(left, column)
                high = min(bottom, row + 1) - max(top, row)
                area += max(wide, 0.0) * max(high, 0.0)
            share[j, i] = area / ((right - left) * (bottom - top))
    return share


@settings(max_examples=80, deadline=None)
@given(
    width=st.integers(3, 97),
    height=st.integers(3, 97),
    mask_width=st.integers(1, 41),
    mask_height=st.integers(1, 41),
    mpp=st.tuples(st.floats(0.2, 1.7), st.floats(0.2, 1.7)),
    tile_px=st.integers(5, 40),
    cut=st.tuples(st.integers(1, 13), st.integers(1, 13)),
    seed=st.integers(0, 2**31),
)
def test_coverage_equals_brute_force_whatever_the_sizes(
    width, height, mask_width, mask_height, mpp, tile_px, cut, seed
):
    mask = np.random.default_rng(seed).random((mask_height, mask_width)) < 0.5
    grid = Grid.over((width, height), mpp, tile_px, 1.0)
    blocks = [
        Block(row, column, mask[row : row + cut[0], column : column + cut[1]])
        for row in range(0, mask_height, cut[0])
        for column in range(0, mask_width, cut[1])
    ]
    expected = brute_force(grid, mask)
    assert coverage(grid, (mask_width, mask_height), blocks) == pytest.approx(expected, abs=1e-9)
    assert coverage(grid, (mask_width, mask_height), blocks[::-1]) == pytest.approx(expected, abs=1e-9)


def test_tiles_start_where_the_formula_says():
    grid = Grid.over((2220, 2967), (0.499, 0.25), 224, 1.0)
    assert grid.x.tolist() == [round(i * 224 * 1.0 / 0.499) for i in range(5)]
    assert grid.y.tolist() == [round(i * 224 * 1.0 / 0.25) for i in range(4)]
    assert grid.x[-1] < 2220 <= round(5 * 224 / 0.499)


def test_a_tile_exactly_at_the_least_share_is_kept():
    grid = Grid.over((30, 30), (1.0, 1.0), 10, 1.0)
    mask = np.zeros((30, 30), dtype=bool)
    mask[:5, :10] = True  # half of the first tile
    mask[10:14, :10] = True  # four tenths of the one below
    kept = covered(coverage(grid, (30, 30), [Block(0, 0, mask)]), 0.5)
    assert grid.origins(kept).tolist() == [[0, 0]]


def test_what_lies_beyond_the_border_is_not_covered():
    grid = Grid.over((15, 10), (1.0, 1.0), 10, 1.0)
    share = coverage(grid, (3, 2), [Block(0, 0, np.ones((2, 3), dtype=bool))])
    assert share.tolist() == [[1.0, 0.5]]


@pytest.fixture(scope="module")
def slide():
    with Slide(SLIDE) as opened:
        yield opened


@pytest.fixture(scope="module")
def grid(slide):
    return Grid.over(slide.size, slide.mpp, 224, 1.0)


@pytest.fixture(scope="module")
def mask():
    """A mask at an odd resolution, close to the slide's shape: 139 × 187 px."""
    rows, columns = np.mgrid[:187, :139]
    return ((rows - 100.0) ** 2 / 75**2 + (columns - 65.0) ** 2 / 45**2 < 1.0).astype(np.uint8)


def _write_tiff(path: Path, mask: np.ndarray, **options) -> None:
    tifffile.imwrite(path, mask, **options)


@pytest.mark.parametrize(
    ("layout", "options"),
    [
        ("tiles", {"tile": (64, 48), "compression": "lzw"}),
        ("deflated tiles", {"tile": (16, 16), "compression": "deflate"}),
        ("strips", {"rowsperstrip": 7}),
        ("deflated strips", {"rowsperstrip": 7, "compression": "deflate"}),
        ("rows", {"rowsperstrip": 1, "compression": "lzw"}),
        ("one strip", {}),
        ("16 bits", {"dtype": np.uint16}),
        ("grey and alpha", {"alpha": True, "tile": (64, 64)}),
        ("colour", {"photometric": "rgb", "tile": (64, 64)}),
        ("separate planes", {"photometric": "rgb", "planarconfig": "separate", "tile": (64, 64)}),
        ("sparse", {"tile": (32, 32), "sparse": True}),
    ],
)
def test_a_mask_covers_the_same_however_it_is_stored(tmp_path, slide, grid, mask, layout, options):
    stored = (mask * 255).astype(options.pop("dtype", np.uint8))
    if options.pop("alpha", False):
        stored = np.stack([stored, np.full_like(stored, 255)], axis=-1)
        options |= {"extrasamples": ["unassalpha"], "photometric": "minisblack", "planarconfig": "contig"}
    elif options.get("planarconfig") == "separate":
        stored = np.stack([np.zeros_like(stored), stored, stored])
    elif "photometric" in options:
        stored = np.stack([stored, np.zeros_like(stored), stored], axis=-1)
    if options.pop("sparse", False):
        stored[:64] = 0
    _write_tiff(tmp_path / "mask.tif", stored, **options)
    share, _ = mask_coverage(tmp_path / "mask.tif", slide, grid)
    tissue = mask.astype(bool)
    if layout == "sparse":
        tissue[:64] = False
    assert share == pytest.approx(brute_force(grid, tissue), abs=1e-9)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("colour", [False, True])
def test_an_mha_mask_covers_as_its_pixels_say(tmp_path, slide, grid, mask, compress, colour):
    stored = np.stack([mask * 0, mask, mask], axis=-1) if colour else mask
    image = sitk.GetImageFromArray(stored, isVector=colour)
    sitk.WriteImage(image, tmp_path / "mask.mha", useCompression=compress)
    share, _ = mask_coverage(tmp_path / "mask.mha", slide, grid)
    assert share == pytest.approx(brute_force(grid, mask.astype(bool)), abs=1e-9)


def test_a_pyramid_is_read_at_the_coarsest_level_that_resolves_a_tile(tmp_path, slide, grid, mask):
    """At the slide's full size a tile is 449 px wide: 32 px are still there at an eighth, 28 at a sixteenth."""
    full = np.kron(mask, np.ones((16, 16), dtype=np.uint8))[:2967, :2220]
    with tifffile.TiffWriter(tmp_path / "mask.tif") as file:
        for level in range(6):
            reduced = full[:: 2**level, :: 2**level]
            file.write(reduced, tile=(64, 64), subfiletype=int(level > 0), compression="deflate")
    share, how = mask_coverage(tmp_path / "mask.tif", slide, grid)
    assert how == "mask level 3, 278 × 371 px"
    whole = coverage(grid, slide.size, [Block(0, 0, full.astype(bool))])
    assert np.abs(share - whole).max() < 0.03


def test_an_empty_mask_gives_way_to_the_slides_own_tissue(tmp_path, slide, grid):
    _write_tiff(tmp_path / "empty.tif", np.zeros((300, 225), dtype=np.uint8))
    without = find_tissue(slide, grid, None, 0.5)
    empty = find_tissue(slide, grid, tmp_path / "empty.tif", 0.5)
    assert empty.origins.tolist() == without.origins.tolist()
    assert "the mask is empty" in empty.found_by
    assert "no mask given" in without.found_by


def test_saturation_follows_otsus_criterion_written_out(slide, grid):
    """Tissue by saturation against the same rule written with other libraries, on the whole slide at once."""
    from PIL import Image, ImageFilter

    tissue, threshold, *_ = stained_tissue(slide, grid)
    whole = slide.read((0, 0), tuple(map(float, slide.size)), (tissue.shape[1], tissue.shape[0]))
    smooth = Image.fromarray(whole).convert("HSV").getchannel("S").filter(ImageFilter.MedianFilter(7))
    values = np.asarray(smooth)
    counts = np.bincount(values.ravel(), minlength=256).astype(float)
    levels = np.arange(256)
    between = []  # Otsu's criterion, threshold by threshold
    for level in levels[:-1]:
        low, high = counts[: level + 1].sum(), counts[level + 1 :].sum()
        if low and high:
            means = (counts * levels)[: level + 1].sum() / low, (counts * levels)[level + 1 :].sum() / high
            between.append((low * high * (means[0] - means[1]) ** 2, level))
    assert abs(max(between)[1] - threshold) <= 3
    assert (tissue == (values > max(between)[1])).mean() > 0.98


def test_the_sample_mask_marks_what_the_slide_shows(slide, grid):
    by_mask, by_slide = find_tissue(slide, grid, MASK, 0.5), find_tissue(slide, grid, None, 0.5)
    assert {tuple(origin) for origin in by_slide.origins} <= {tuple(origin) for origin in by_mask.origins}
    assert len(by_mask.origins) - len(by_slide.origins) <= 1


def test_masks_that_cannot_be_placed_are_refused(tmp_path, slide, grid):
    _write_tiff(tmp_path / "wide.tif", np.ones((100, 300), dtype=np.uint8))
    (tmp_path / "torn.tif").write_bytes(MASK.read_bytes()[:300])
    (tmp_path / "text.mha").write_text("ObjectType = Image\n")
    for name, message in (
        ("wide.tif", "does not have the slide.s shape"),
        ("torn.tif", "TIFF mask"),
        ("text.mha", "MHA mask"),
    ):
        with pytest.raises(InputError, match=message):
            mask_coverage(tmp_path / name, slide, grid)


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_torn_mask_is_refused_in_one_line(tmp_path, slide, grid, kept, capfd):
    data = MASK.read_bytes()
    (tmp_path / "torn.tif").write_bytes(data[: int(kept * len(data))])
    with pytest.raises(InputError, match="TIFF mask"):
        mask_coverage(tmp_path / "torn.tif", slide, grid)
    assert capfd.readouterr().err == ""


def test_a_mask_stored_the_other_way_round_is_refused_not_inverted(tmp_path, slide, grid, mask):
    _write_tiff(tmp_path / "white.tif", mask, photometric="miniswhite")
    with pytest.raises(InputError, match="MINISWHITE"):
        mask_coverage(tmp_path / "white.tif", slide, grid)


def test_no_tile_with_enough_tissue_is_an_error(tmp_path, slide, grid):
    dots = np.zeros((300, 225), dtype=np.uint8)
    dots[::50, ::50] = 1
    _write_tiff(tmp_path / "dots.tif", dots)
    with pytest.raises(InputError, match="none of 35 tiles"):
        find_tissue(slide, grid, tmp_path / "dots.tif", 0.5)


def test_a_mask_s_size_costs_no_memory(tmp_path):
    """400 million pixels in tiles that deflate to a thousandth: all but a few are given back as they are summed."""
    alike = [zlib.compress(bytes([value]) * 512 * 512) for value in (0, 1)]
    across = -(-20_000 // 512)
    tiles = (alike[(number // across + number) % 2] for number in range(across * across))
    layout = {"tile": (512, 512), "compression": "deflate", "metadata": None}
    tifffile.imwrite(tmp_path / "mask.tif", tiles, shape=(20_000, 20_000), dtype=np.uint8, **layout)
    code = (
        "import re, sys, types; from pathlib import Path; from survfuse.runtime.log import peak_memory;"
        "from survfuse.slide.grid import Grid; from survfuse.slide.masks import mask_coverage;"
        "import tifffile, imagecodecs;"
        "slide = types.SimpleNamespace(name='s', size=(20000, 20000), mpp=(1.0, 1.0));"
        "grid = Grid.over(slide.size, (1.0, 1.0), 32, 1.0);"
        "megabytes = lambda: float(re.search('[0-9]+', peak_memory())[0]);"
        "before = megabytes(); share, how = mask_coverage(Path(sys.argv[1]), slide, grid);"
        "print(share.mean(), megabytes() - before)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "mask.tif")]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    share, grown = map(float, ended.stdout.split())
    assert share == pytest.approx(0.5, abs=0.02) and grown < 100.0


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("one.tif", {"compression": "deflate"}),
        ("two.tif", {"compression": "deflate", "rowsperstrip": 186}),
        ("tile.tif", {"compression": "deflate", "tile": (192, 144)}),
        ("planes.tif", {"photometric": "rgb", "planarconfig": "separate", "tile": (64, 64)}),
        ("mask.mha", {}),
    ],
)
def test_a_mask_that_must_be_held_whole_has_a_limit(tmp_path, slide, grid, mask, monkeypatch, name, options):
    if name.endswith(".mha"):
        sitk.WriteImage(sitk.GetImageFromArray(mask.astype(np.uint16)), str(tmp_path / name))
    else:
        _write_tiff(tmp_path / name, np.stack([mask] * 3) if "planarconfig" in options else mask, **options)
    held = {"two.tif": 186 * 139, "tile.tif": 192 * 144, "planes.tif": 3 * mask.size, "mask.mha": 2 * mask.size}
    held = held.get(name, mask.size)
    monkeypatch.setattr(masks, "LARGEST_HELD", held)
    share, _ = mask_coverage(tmp_path / name, slide, grid)
    assert share == pytest.approx(brute_force(grid, mask.astype(bool)), abs=1e-9)
    monkeypatch.setattr(masks, "LARGEST_HELD", held - 1)
    with pytest.raises(InputError, match=f"{name}: .*cannot be held"):
        mask_coverage(tmp_path / name, slide, grid)


def test_rows_of_an_uncompressed_mask_are_mapped_one_band_after_the_other(tmp_path, slide, grid, mask, monkeypatch):
    tall = np.repeat(np.repeat(mask, 8, axis=0), 8, axis=1)  # 1,112 × 1,496 px: three bands
    expected = brute_force(grid, mask.astype(bool))
    for number, stored in enumerate((tall, tall.astype(">u2"), np.stack([tall * 0, tall, tall * 0], axis=-1))):
        options = {"byteorder": ">"} if stored.dtype.itemsize == 2 else {}
        _write_tiff(tmp_path / f"{number}.tif", stored, photometric="rgb" if stored.ndim == 3 else None, **options)
        monkeypatch.setattr(masks, "LARGEST_HELD", 1)  # nothing is held
        share, _ = mask_coverage(tmp_path / f"{number}.tif", slide, grid)
        assert share == pytest.approx(expected, abs=1e-9)


def test_a_slide_of_one_level_is_read_a_little_at_a_time(tmp_path):
    """Tissue is looked for at a thirty-second of a tile, which here is 70 px of the only level there is."""
    pixels = np.random.default_rng(0).integers(0, 255, (3000, 2600, 3), dtype=np.uint8)
    image = pyvips.Image.new_from_array(pixels).copy(xres=10_000, yres=10_000)
    image.tiffsave(str(tmp_path / "s.tif"), tile=True)
    with Slide(tmp_path / "s.tif") as opened:
        grid = Grid.over(opened.size, opened.mpp, 224, 1.0)
        read, sides = opened.read, []
        opened.read = lambda origin, side, px: sides.append(max(side)) or read(origin, side, px)
        found = stained_tissue(opened, grid).tissue
    assert found.shape == (round(3000 / 70), round(2600 / 70))
    assert max(sides) <= 2048 + 70
