"""Slides and masks as they really come: the right answer with a line in the log, or one named refusal."""

import io
import json
import math
import os
import shutil
import struct
from collections.abc import Iterable
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
import pyvips
import SimpleITK as sitk
import tifffile
import torch
from conftest import MASK, OUTPUT_FILE, PLACES, ROOT, SLIDE, end_of, give_slide, months
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from survfuse.runtime.errors import InputError
from survfuse.slide.damage import MOST_DAMAGED
from survfuse.slide.encode import tile_features
from survfuse.slide.encoders import Encoder
from survfuse.slide.grid import MOST_GRID_TILES, Grid
from survfuse.slide.mask_check import mask_problem
from survfuse.slide.masks import mask_coverage
from survfuse.slide.pixels import Slide
from survfuse.slide.resolution import resolution
from survfuse.slide.tissue import find_tissue

RESOLUTION = {"resolution": (1 / 0.499e-4, 1 / 0.499e-4), "resolutionunit": "CENTIMETER", "metadata": None}
TILED = {"tile": (256, 256)}


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    return pyvips.Image.new_from_file(str(SLIDE)).numpy()


def tiff(*levels: np.ndarray, **options: object) -> bytes:
    """A tiled TIFF of these levels, at the sample slide's resolution."""
    held = io.BytesIO()
    with tifffile.TiffWriter(held) as file:
        for number, level in enumerate(levels):
            file.write(level, subfiletype=int(number > 0), **(RESOLUTION | TILED | {"photometric": "rgb"} | options))
    return held.getvalue()


def directories(data: bytes) -> list[int]:
    """Where a classic little-endian TIFF's directories begin."""
    found, (offset,) = [], struct.unpack_from("<I", data, 4)
    while offset:
        found.append(offset)
        (offset,) = struct.unpack_from("<I", data, end_of_directory(data, offset))
    return found


def end_of_directory(data: bytes, offset: int) -> int:
    return offset + 2 + 12 * struct.unpack_from("<H", data, offset)[0]


def with_next(data: bytes, directory: int, following: int) -> bytes:
    """``data`` whose directory of this number is followed by the one at ``following``."""
    changed = bytearray(data)
    struct.pack_into("<I", changed, end_of_directory(data, directories(data)[directory]), following)
    return bytes(changed)


def with_tag(data: bytes, directory: int, tag: int, value: int, count: int | None = None) -> bytes:
    """``data`` with a tag's value, or the place of its values, replaced."""
    changed, offset = bytearray(data), directories(data)[directory]
    for place in range(offset + 2, end_of_directory(data, offset), 12):
        if struct.unpack_from("<H", data, place)[0] == tag:
            struct.pack_into("<I", changed, place + 8, value)
            if count is not None:
                struct.pack_into("<I", changed, place + 4, count)
            return bytes(changed)
    raise KeyError(tag)


# --- kinds of slide ---


def test_sixteen_bits_alpha_and_cmyk_are_the_same_slide(slide_case, tmp_path, pixels):
    """OpenSlide's, and so libtiff's, reading of them: the very pixels of the slide in RGB."""
    opaque = np.full((*pixels.shape[:2], 1), 255, dtype=np.uint8)
    kinds = {
        "rgb": tiff(pixels),
        "16 bits": tiff(pixels.astype(np.uint16) * 257),
        "alpha": tiff(np.dstack([pixels, opaque]), extrasamples=["unassalpha"]),
        "cmyk": tiff(np.dstack([255 - pixels, 0 * opaque]), photometric="separated"),
        "lzw": tiff(pixels, compression="lzw"),
    }
    found = {}
    for name, data in kinds.items():
        give_slide(slide_case, "s.tif", data)
        assert end_of(slide_case, tmp_path / name) == 0
        found[name] = months(tmp_path / name)
    assert len(set(found.values())) == 1, found


def test_transparent_pixels_are_white(tmp_path, pixels):
    alpha = np.full((512, 512, 1), 255, dtype=np.uint8)
    alpha[:, 256:] = 0
    (tmp_path / "s.tif").write_bytes(tiff(np.dstack([pixels[:512, :512], alpha]), extrasamples=["unassalpha"]))
    with Slide(tmp_path / "s.tif") as slide:
        read = slide.read((0, 0), (512.0, 512.0), (512, 512))
    assert np.array_equal(read[:, :256], pixels[:512, :256]) and (read[:, 256:] == 255).all()


@pytest.mark.parametrize("depth", [8, 16])
def test_a_slide_without_colour_is_refused(slide_case, output, capsys, pixels, depth):
    grey = pixels[..., 1].astype(np.uint16) * 257 if depth == 16 else pixels[..., 1]
    give_slide(slide_case, "s.tif", tiff(grey, photometric="minisblack"))
    assert end_of(slide_case, output) == 2
    assert "s.tif: has no colour where the mask marks tissue" in capsys.readouterr().err


def strips(pixels: np.ndarray) -> bytes:
    held = io.BytesIO()
    tifffile.imwrite(held, pixels, photometric="rgb", **RESOLUTION)
    return held.getvalue()


REFUSED = {
    "a PNG called .tif": (lambda p: pyvips.Image.new_from_array(p[:512]).pngsave_buffer(), "not a slide"),
    "a JPEG called .tif": (lambda p: pyvips.Image.new_from_array(p[:512]).jpegsave_buffer(), "not a slide"),
    "text": (lambda _: b"a slide", "not a slide"),
    "empty": (lambda _: b"", "not a slide"),
    "in strips": (strips, "not a slide"),
    "floating-point": (lambda p: tiff(p.astype(np.float32) / 255), "can not handle images with 32-bit samples"),
    "JPEG 2000": (lambda p: tiff(p, compression="jpeg2000"), "Unsupported TIFF compression"),
    "cut off early": (lambda _: SLIDE.read_bytes()[:300_000], "not a slide"),
    "cut off in its pixels": (lambda p: tiff(p)[:-3_000_000], "cannot be read"),
    "a directory that leads to itself": (lambda p: with_next(tiff(p), 0, directories(tiff(p))[0]), "not a slide"),
    "directories in a circle": (
        lambda _: with_next(SLIDE.read_bytes(), 4, directories(SLIDE.read_bytes())[1]),
        "not a slide",
    ),
    "no width": (lambda p: with_tag(tiff(p), 0, 256, 0), "cannot be opened as a slide"),
    "of 2^31 pixels a side": (
        lambda p: with_tag(with_tag(tiff(p), 0, 256, 2**31), 0, 257, 2**31),
        "cannot be opened as a slide",
    ),
    "of 10^6 pixels a side": (
        lambda p: with_tag(with_tag(tiff(p), 0, 256, 10**6), 0, 257, 10**6),
        "cannot be opened as a slide",
    ),
    "one tile of 65,536 pixels a side": (
        lambda p: with_tag(with_tag(tiff(p), 0, 322, 65_536), 0, 323, 65_536),
        "tiles of 65536 × 65536 px",
    ),
    "tiles without width": (lambda p: with_tag(tiff(p), 0, 322, 0), "cannot be opened as a slide"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_slide_is_refused_in_one_line(slide_case, output, capsys, pixels, kind):
    make, message = REFUSED[kind]
    give_slide(slide_case, "s.tif", make(pixels))
    assert end_of(slide_case, output) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if not line.startswith("survfuse: warning: ")]) == 1
    assert lines[-1].startswith("survfuse: InputError: s.tif: ") and message in lines[-1]


def test_levels_are_not_needed_and_one_of_a_pixel_does_no_harm(slide_case, tmp_path, pixels):
    """One level alone, or beside it one of a pixel, of none, or of another shape: the tiles come from the first."""
    half = pixels[::2, ::2]
    kinds = [tiff(pixels), tiff(pixels, pixels[:1, :1]), tiff(pixels, pixels[:40, :500])]
    kinds += [with_tag(tiff(pixels, half), 1, tag, 0) for tag in (256, 257)]
    found = set()
    for number, data in enumerate(kinds):
        give_slide(slide_case, "s.tif", data)
        assert end_of(slide_case, tmp_path / str(number)) == 0
        found.add(months(tmp_path / str(number)))
    assert len(found) == 1


def test_the_suffix_does_not_matter(slide_case, tmp_path):
    expected = json.loads((ROOT / "test/expected/interf0" / OUTPUT_FILE).read_text())
    for name in ("s.svs", "s.dat", "s"):
        give_slide(slide_case, name, SLIDE.read_bytes())
        assert end_of(slide_case, tmp_path / name) == 0
        assert months(tmp_path / name) == pytest.approx(expected, rel=1e-3)


def test_several_files_in_a_folder_are_refused_and_hidden_ones_are_none(slide_case, output, capsys):
    folder = slide_case / PLACES["slide"]
    (folder / ".DS_Store").write_text("x")
    (folder / "notes").mkdir()
    assert end_of(slide_case, output) == 0
    shutil.copy(SLIDE, folder / "second.tif")
    assert end_of(slide_case, output) == 2
    assert (
        "expected one file in bladder-cancer-tissue-biopsy-wsi/, found 3S_001_HE.tif, second.tif"
        in capsys.readouterr().err
    )


def test_features_under_a_slides_suffix_and_the_other_way_round_are_refused(slide_case, case, output):
    give_slide(slide_case, "s.h5", SLIDE.read_bytes())
    assert end_of(slide_case, output) == 2
    (features,) = (case / PLACES["slide"]).iterdir()
    features.rename(features.with_suffix(".tif"))
    assert end_of(case, output) == 2


@pytest.mark.parametrize(
    ("density", "unit"), [(1, 2), (1e9, 3), (72, 2), (2**31, 3), (0, 3), (96, 1)], ids=lambda value: f"{value:g}"
)
def test_absurd_resolutions_are_refused(slide_case, output, capsys, pixels, density, unit):
    data = tiff(pixels, resolution=(density, density) if density else (1, 1), resolutionunit=unit)
    give_slide(slide_case, "s.tif", data if density else zero_density(data))
    assert end_of(slide_case, output) == 2
    assert "no usable resolution" in capsys.readouterr().err


def zero_density(data: bytes) -> bytes:
    """Both resolutions 0 / 0."""
    changed = bytearray(data)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        for name in ("XResolution", "YResolution"):
            place = file.pages.first.tags[name].valueoffset
            changed[place : place + 8] = bytes(8)
    return bytes(changed)


def test_resolutions_that_contradict_each_other_or_the_size_of_glass_are_not_used():
    """Pixels are as wide as high, and no glass holds half a metre."""
    for mpp, size in (((0.25, 1.0), (1000, 1000)), ((5.0, 5.0), (100_000, 1000)), ((0.5, 0.5), (1000, 10**6))):
        properties = dict(
            zip((openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y), map(str, mpp), strict=True)
        )
        with pytest.raises(InputError, match="no usable resolution"):
            resolution("s", properties, None, size)
        assert resolution("s", properties, 0.5, size)[0] == (0.5, 0.5)


def test_a_grid_that_no_slide_has_is_refused():
    with pytest.raises(InputError, match=r"are 1,993,744 tiles; expected at most 1,048,576"):
        Grid.over((63_232, 63_232), (5.0, 5.0), 224, 1.0)
    assert len(Grid.over((100_000, 100_000), (0.25, 0.25), 224, 1.0)) < 20_000


@given(
    size=st.tuples(st.integers(1, 2**31), st.integers(1, 2**31)),
    mpp=st.tuples(st.floats(0.05, 5.0), st.floats(0.05, 5.0)),
    tile_px=st.integers(1, 512),
)
def test_any_grid_is_bounded_and_within_its_slide_or_refused(size, mpp, tile_px):
    try:
        grid = Grid.over(size, mpp, tile_px, 1.0)
    except InputError as error:
        assert "tiles; expected at most" in str(error)
        tiles = [-(-length * per // tile_px) for length, per in zip(size, mpp, strict=True)]
        assert math.prod(tiles) > MOST_GRID_TILES / 4
        return
    assert 1 <= len(grid) <= MOST_GRID_TILES
    for starts, length, side in ((grid.x, size[0], grid.side[0]), (grid.y, size[1], grid.side[1])):
        assert starts[0] == 0 and starts[-1] < length and (np.abs(np.diff(starts) - side) <= 1.0).all()


@settings(max_examples=60, deadline=None)
@given(
    origin=st.tuples(st.integers(-3000, 6000), st.integers(-3000, 6000)),
    side=st.tuples(st.floats(1.0, 5000.0), st.floats(1.0, 5000.0)),
    px=st.tuples(st.integers(1, 64), st.integers(1, 64)),
)
def test_any_region_is_read_and_white_beyond_the_border(origin, side, px):
    with Slide(SLIDE) as slide:
        read = slide.read(origin, side, px)
        outside = any(
            at >= length or at + extent <= 0 for at, extent, length in zip(origin, side, slide.size, strict=True)
        )
    assert read.shape == (px[1], px[0], 3) and read.dtype == np.uint8
    assert not outside or (read >= 250).all()


# --- damaged tiles ---


class Mean:
    """An encoder that gives a tile's mean colour."""

    class spec:  # noqa: N801
        dimension, input_px = 3, 224

    batch, in_flight, device, precision = 16, 1, torch.device("cpu"), torch.float32

    def autocast(self) -> torch.autocast:
        return torch.autocast("cpu", enabled=False)

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        return tiles.float().mean(dim=(1, 2))


@pytest.fixture(scope="module", params=["jpeg", "deflate"])
def large(request, tmp_path_factory, pixels) -> Path:
    """200 tiles of 224 px of stained tissue, called 1 µm/px, each a tile of the file as well."""
    root = tmp_path_factory.mktemp("large")
    chance = np.random.default_rng(0)
    places = zip(chance.integers(1600, 2700, 200), chance.integers(900, 1200, 200), strict=True)  # within the tissue
    tiles = np.stack([pixels[y : y + 224, x : x + 224] for y, x in places]).reshape(20, 10, 224, 224, 3)
    image = tiles.swapaxes(1, 2).reshape(20 * 224, 10 * 224, 3)
    options = {"photometric": "ycbcr", "compression": "jpeg"} if request.param == "jpeg" else {"photometric": "rgb"}
    options = {"tile": (224, 224), "resolution": (10_000, 10_000)} | {"compression": "deflate"} | options
    (root / "s.tif").write_bytes(
        tiff_of(np.ascontiguousarray(image), **(options | {"resolutionunit": "CENTIMETER", "metadata": None}))
    )
    return root / "s.tif"


def tiff_of(image: np.ndarray, **options: object) -> bytes:
    held = io.BytesIO()
    tifffile.imwrite(held, image, **options)
    return held.getvalue()


def damaged(path: Path, folder: Path, numbers: list[int]) -> Path:
    """A copy of which these tiles are zeros: a JPEG from its middle on, others from their start."""
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        for number in numbers:
            start, length = page.dataoffsets[number], page.databytecounts[number]
            kept = length // 2 if page.compression == 7 else 0
            data[start + kept : start + length] = bytes(length - kept)
    (folder / "s.tif").write_bytes(data)
    return folder / "s.tif"


def every_tile(path: Path) -> tuple[torch.Tensor, np.ndarray, int]:
    """tile_features of all 20 × 10 tiles of ``large`` or a copy."""
    with Slide(path) as slide:
        grid = Grid.over(slide.size, slide.mpp, 224, 1.0)
        return tile_features(slide, grid, grid.origins(np.ones((20, 10), dtype=bool)), Mean())


def test_up_to_two_percent_of_the_tiles_may_be_damaged(large, tmp_path):
    """Those are left out, and every other tile's features are those of the slide without damage."""
    whole, rows, none = every_tile(large)
    assert (len(whole), none) == (200, 0) and MOST_DAMAGED * 200 == 4
    found, rows, lost = every_tile(damaged(large, tmp_path, [0, 7, 8, 199]))
    left = [row for row in range(200) if row not in (0, 7, 8, 199)]
    assert lost == 4 and rows.tolist() == left
    assert torch.equal(found, whole[left])
    with pytest.raises(
        InputError, match=r"more than 4 of 200 tissue tiles \(2%\) cannot be read; s.tif: the region at"
    ):
        every_tile(damaged(large, tmp_path, [0, 7, 8, 100, 199]))


def without(path: Path, folder: Path, numbers: Iterable[int]) -> Path:
    """A copy that leaves these tiles out, as a sparse file does: they have no byte."""
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        for name in ("TileOffsets", "TileByteCounts"):
            tag = file.pages.first.tags[name]
            size = {3: 2, 4: 4, 16: 8}[int(tag.dtype)]  # TIFF 6.0: SHORT, LONG; BigTIFF: LONG8
            for number in numbers:
                place = tag.valueoffset + size * number
                data[place : place + size] = bytes(size)
    (folder / "sparse.tif").write_bytes(data)
    return folder / "sparse.tif"


def test_tiles_that_the_slide_leaves_out_are_not_taken_for_white_tissue(large, tmp_path):
    """However many there are: a scanner leaves out glass, over which a mask may reach."""
    whole, *_ = every_tile(large)
    left = [row for row in range(200) if row not in range(40, 90)]
    sparse = without(large, tmp_path, range(40, 90))
    found, rows, lost = every_tile(sparse)
    assert lost == 50 and rows.tolist() == left
    assert torch.equal(found, whole[left])
    with Slide(sparse) as slide:  # whoever asks for a region of it has it in white
        assert (slide.read((0, 4 * 224), (224.0, 224.0), (224, 224)) == 255).all()
    with pytest.raises(InputError, match="has no pixels where 200 tissue tiles should be"):
        every_tile(without(large, tmp_path, range(200)))


def test_tiles_that_are_left_out_allow_no_more_damage(large, tmp_path):
    """Two percent are of the tiles that there are: of 100, two."""
    sparse = without(large, tmp_path, range(100, 200))
    *_, lost = every_tile(damaged(sparse, tmp_path, [0, 7]))
    assert lost == 102
    with pytest.raises(InputError, match=r"more than 2 of 1\d\d tissue tiles \(2%\) cannot be read"):
        every_tile(damaged(sparse, tmp_path, [0, 7, 8]))


def test_damage_where_tissue_is_searched_is_counted_and_not_taken_for_glass(large, tmp_path):
    with Slide(damaged(large, tmp_path, [3, 120])) as slide:
        grid = Grid.over(slide.size, slide.mpp, 224, 1.0)
        tissue = find_tissue(slide, grid, None, 0.5)
        assert {(3 * 224, 0), (0, 12 * 224)} <= set(map(tuple, tissue.origins.tolist()))
        _, _, lost = tile_features(slide, grid, tissue.origins, Mean())
    assert lost == 2
    with (
        Slide(damaged(large, tmp_path, list(range(0, 200, 20)))) as slide,
        pytest.raises(InputError, match="more than 2% of the slide cannot be read"),
    ):
        find_tissue(slide, grid, None, 0.5)


def test_the_log_says_how_many_tiles_are_damaged(slide_case, output, capsys, pixels):
    """A mosaic of the sample slide, 4 × 3, of which one tile is torn that lies within one of ours."""
    mosaic = np.tile(pixels[:2048, :2048], (4, 3, 1))
    data = bytearray(tiff(mosaic, compression="deflate", compressionargs={"level": 1}))
    number = 4 * (mosaic.shape[1] // 256) + 4
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        start, length = (places[number] for places in (file.pages.first.dataoffsets, file.pages.first.databytecounts))
    data[start : start + length] = bytes(length)
    give_slide(slide_case, "s.tif", bytes(data))
    shutil.rmtree(slide_case / PLACES["mask"])
    assert end_of(slide_case, output) == 0
    assert "tissue tiles cannot be read or have no pixels, and are left out" in capsys.readouterr().err


# --- masks ---


def give_mask(case: Path, name: str, data: bytes) -> None:
    folder = case / PLACES["mask"]
    for path in folder.iterdir():
        path.unlink()
    (folder / name).write_bytes(data)


class Sample:
    """What a mask's reader asks of the sample slide."""

    name, size, mpp = "s", (2220, 2967), (0.499, 0.499)


@pytest.fixture(scope="session")
def marked() -> np.ndarray:
    """The sample's own mask, where it is 277 × 370."""
    with tifffile.TiffFile(MASK) as file:
        return file.pages[1].asarray()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (np.zeros_like, "the mask is empty; tissue found by saturation"),
        (
            lambda mask: np.full_like(mask, 255),
            "the mask marks the whole slide, including glass; tissue found by saturation",
        ),
        (lambda mask: (mask == 0).astype(np.uint8), "as an inverted mask does; tissue found by saturation"),
    ],
    ids=["empty", "all ones", "inverted"],
)
def test_a_mask_that_tells_nothing_apart_is_no_mask(slide_case, tmp_path, capsys, marked, change, said):
    give_mask(slide_case, "m.tif", tiff_of(change(marked), photometric="minisblack"))
    assert end_of(slide_case, tmp_path / "useless") == 0
    found = capsys.readouterr()
    assert said in found.out and "warning: m.tif: the mask" in found.err
    (slide_case / PLACES["mask"] / "m.tif").unlink()
    assert end_of(slide_case, tmp_path / "none") == 0
    assert months(tmp_path / "useless") == months(tmp_path / "none")


def test_a_mask_of_part_of_the_tissue_is_taken_as_it_is(slide_case, output, capsys, marked):
    """Tissue that it leaves out is stained, but so is what it marks."""
    part = marked.copy()
    part[: len(part) // 2] = 0
    give_mask(slide_case, "m.tif", tiff_of(part, photometric="minisblack"))
    assert end_of(slide_case, output) == 0
    said = capsys.readouterr()
    assert said.err == "" and "tissue found by saturation" not in said.out


class Shown:
    """A slide of these pixels at 1 µm/px, as much of one as a mask is judged by."""

    name, mpp = "s", (1.0, 1.0)

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels, self.size = pixels, (pixels.shape[1], pixels.shape[0])

    def read(self, origin: tuple[int, int], side: tuple[float, float], px: tuple[int, int]) -> np.ndarray:
        x, y = origin
        return np.asarray(Image.fromarray(self.pixels[y : y + round(side[1]), x : x + round(side[0])]).resize(px))


def judged(shown: np.ndarray, marked: np.ndarray) -> str | None:
    """What is said of a mask that marks whole tiles of 224 px, [rows, columns]."""
    slide = Shown(shown)
    return mask_problem(marked.astype(float), slide, Grid.over(slide.size, slide.mpp, 224, 1.0))


def scene(pixels: np.ndarray, *kinds: str) -> np.ndarray:
    """A column of tiles for each of ``kinds``, ten high."""
    chance = np.random.default_rng(0)
    flat = np.full((2240, 224, 3), 245, dtype=np.uint8)
    tissue = np.resize(pixels[1300:2420, 900:1124], (2240, 224, 3))
    parts = {"glass": flat, "white": np.full_like(flat, 255), "tissue": tissue}
    parts["black"] = chance.integers(0, 4, flat.shape, dtype=np.uint8)  # a scanner's border, whose hues are noise
    fragments = parts["white"].copy()
    for top in range(0, 2240, 224):
        fragments[top : top + 60, :60] = tissue[:60, :60]
    parts["fragments"] = fragments
    return np.ascontiguousarray(np.hstack([parts[kind] for kind in kinds]))


@pytest.mark.parametrize(
    ("kinds", "columns"),
    [
        (["tissue"] * 4, [1, 1, 1, 1]),  # a crop: all of it is tissue
        (["tissue", "tissue", "glass", "glass"], [1, 0, 0, 0]),  # a part of the tissue
        (["fragments", "fragments", "white", "white"], [1, 1, 0, 0]),  # a hull around small pieces on clipped white
        (["fragments", "fragments", "white", "black"], [1, 1, 0, 0]),
        (["tissue", "glass", "black", "black"], [1, 0, 0, 0]),
        (["glass", "glass", "tissue", "glass"], [0, 0, 1, 0]),
        (["glass", "tissue", "glass", "glass"], [1, 1, 0, 0]),  # generous
    ],
)
def test_masks_that_may_be_meant_are_left_alone(pixels, kinds, columns):
    assert judged(scene(pixels, *kinds), np.tile(np.array(columns), (10, 1))) is None


def test_masks_that_cannot_be_meant_are_not(pixels):
    shown = scene(pixels, "glass", "tissue", "tissue", "glass")
    assert "inverted mask" in judged(shown, np.tile([1, 0, 0, 1], (10, 1)))
    assert "whole slide" in judged(shown, np.ones((10, 4)))
    assert "is empty" in judged(shown, np.zeros((10, 4)))
    with pytest.raises(InputError, match="has no colour"):
        judged(shown[..., :1].repeat(3, axis=2), np.tile([0, 1, 1, 0], (10, 1)))


MASKS_REFUSED = {
    "of another shape": (lambda m: tiff_of(m[:, ::3]), "does not have the slide's shape"),
    "a PNG": (lambda m: pyvips.Image.new_from_array(m).pngsave_buffer(), "cannot be read as a TIFF mask"),
    "empty": (lambda _: b"", "cannot be read as a TIFF mask"),
    "cut off": (lambda _: MASK.read_bytes()[: len(MASK.read_bytes()) // 2], "no page can be read"),
    "grey from white": (lambda m: tiff_of(m, photometric="miniswhite"), "expected grey from black"),
    "palette": (
        lambda m: tiff_of(m, photometric="palette", colormap=np.zeros((3, 256), dtype=np.uint16)),
        "expected grey from black",
    ),
    "JPEG 2000": (lambda m: tiff_of(m, tile=(256, 256), compression="jpeg2000"), "expected none, LZW, deflate"),
    "pages in a circle": (lambda m: circle(m, 3), "cannot be read as a TIFF mask"),
    "pages in a circle of 150": (lambda m: circle(m[:1, :1], 150), "cannot be read as a TIFF mask"),
    "a level without width": (lambda m: without_width(m), "a level without pixels"),
    "a JPEG that states 60,000 pixels a side": (lambda m: jpeg_bomb(m), "states more pixels than its tile has"),
    "a tile of 2^31 bytes": (lambda m: byte_count(m), "do not lie within the file"),
    "a damaged tile": (lambda m: torn(m), "cannot be read as a TIFF mask"),
}


def circle(mask: np.ndarray, pages: int) -> bytes:
    held = io.BytesIO()
    with tifffile.TiffWriter(held) as file:
        for _ in range(pages):
            file.write(mask, photometric="minisblack", metadata=None)
    data = held.getvalue()
    return with_next(data, pages - 1, directories(data)[0])


def without_width(mask: np.ndarray) -> bytes:
    held = io.BytesIO()
    with tifffile.TiffWriter(held) as file:
        file.write(mask, photometric="minisblack", metadata=None)
        file.write(mask[::2, ::2], photometric="minisblack", metadata=None)
    return with_tag(held.getvalue(), 1, 256, 0)


def jpeg_bomb(mask: np.ndarray) -> bytes:
    data = bytearray(tiff_of(mask, photometric="minisblack", tile=(256, 256), compression="jpeg"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 60_000, 60_000)
    return bytes(data)


def byte_count(mask: np.ndarray) -> bytes:
    data = tiff_of(mask, photometric="minisblack", rowsperstrip=len(mask), compression="deflate", metadata=None)
    return with_tag(data, 0, 279, 2**31 - 1)


def torn(mask: np.ndarray) -> bytes:
    data = bytearray(tiff_of(mask, photometric="minisblack", tile=(128, 128), compression="deflate"))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        start, length = file.pages.first.dataoffsets[4], file.pages.first.databytecounts[4]
    data[start : start + length] = bytes(length)
    return bytes(data)


@pytest.mark.parametrize("kind", MASKS_REFUSED)
def test_what_is_no_mask_is_refused_in_one_line(slide_case, output, capsys, marked, kind):
    make, message = MASKS_REFUSED[kind]
    give_mask(slide_case, "m.tif", make(marked))
    assert end_of(slide_case, output) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("survfuse: InputError: ") and message in line


def test_a_mask_of_sixteen_bits_or_floating_point_marks_what_is_not_zero(slide_case, tmp_path, marked):
    binary = np.where(marked, np.uint8(255), np.uint8(0))
    found = set()
    for number, mask in enumerate((binary, binary.astype(np.uint16) * 257, binary.astype(np.float32) / 255)):
        give_mask(slide_case, "m.tif", tiff_of(mask, photometric="minisblack", tile=(128, 128)))
        assert end_of(slide_case, tmp_path / str(number)) == 0
        found.add(months(tmp_path / str(number)))
    assert len(found) == 1


def test_what_is_no_number_marks_no_tissue_and_alpha_does_not_either(tmp_path, marked):
    grid = Grid.over(Sample.size, Sample.mpp, 224, 1.0)
    binary = np.where(marked, np.uint8(255), np.uint8(0))
    (tmp_path / "m.tif").write_bytes(tiff_of(binary, photometric="minisblack"))
    expected, _ = mask_coverage(tmp_path / "m.tif", Sample(), grid)
    gaps = np.where(marked, np.float32(1), np.float32(np.nan))
    (tmp_path / "nan.tif").write_bytes(tiff_of(gaps, photometric="minisblack"))
    sitk.WriteImage(sitk.GetImageFromArray(gaps), str(tmp_path / "nan.mha"))
    rgba = np.stack([binary, binary, binary, np.full_like(binary, 255)], axis=-1)
    sitk.WriteImage(sitk.GetImageFromArray(rgba, isVector=True), str(tmp_path / "rgba.mha"))
    for name in ("nan.tif", "nan.mha", "rgba.mha"):
        found, _ = mask_coverage(tmp_path / name, Sample(), grid)
        assert np.allclose(found, expected) and 0 < expected.sum() < expected.size


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "packbits", "jpeg", "zstd", "lzma"])
@pytest.mark.parametrize("layout", [{"tile": (128, 128)}, {"rowsperstrip": 40}], ids=["tiles", "strips"])
def test_masks_in_the_codings_of_tiff_are_the_same_mask(tmp_path, marked, compression, layout):
    """JPEG spreads an edge by some pixels, and all of those are not zero."""
    solid = np.zeros_like(marked)
    solid[64:256, 64:192] = 255  # whole blocks of a JPEG

    grid = Grid.over(Sample.size, Sample.mpp, 224, 1.0)
    (tmp_path / "m.tif").write_bytes(tiff_of(solid, photometric="minisblack", compression=compression, **layout))
    (tmp_path / "plain.tif").write_bytes(tiff_of(solid, photometric="minisblack"))
    found, expected = (mask_coverage(tmp_path / name, Sample(), grid)[0] for name in ("m.tif", "plain.tif"))
    assert np.allclose(found, expected, atol=1e-6)


def mha(data_file: str, marked: np.ndarray) -> bytes:
    header = f"ObjectType = Image\nNDims = 2\nDimSize = {marked.shape[1]} {marked.shape[0]}\nElementType = MET_UCHAR\n"
    return (header + f"ElementDataFile = {data_file}\n").encode() + marked.tobytes()


def test_an_mha_mask_is_read_from_itself_alone(slide_case, tmp_path, capsys, marked):
    give_mask(slide_case, "m.mha", mha("LOCAL", marked))
    assert end_of(slide_case, tmp_path / "local") == 0
    expected = json.loads((ROOT / "test/expected/interf0" / OUTPUT_FILE).read_text())
    assert months(tmp_path / "local") == pytest.approx(expected, rel=1e-2)
    (tmp_path / "secret.raw").write_bytes(marked.tobytes())
    for number, name in enumerate((str(tmp_path / "secret.raw"), "../../../secret.raw", "LIST", "m%03d.raw 1 2 1", "")):
        give_mask(slide_case, "m.mha", mha(name, marked))
        assert end_of(slide_case, tmp_path / str(number)) == 2
        assert "expected its pixels in the file itself" in capsys.readouterr().err


@pytest.mark.parametrize("before", ["", " ", "\t", "\x0b"])
def test_an_mha_header_is_read_as_it_is_checked(slide_case, output, tmp_path, marked, before):
    """ITK takes blanks before a key, and a colon for the sign of equality."""
    (tmp_path / "secret.raw").write_bytes(marked.tobytes())
    header = f"ObjectType = Image\nNDims = 2\nDimSize = {marked.shape[1]} {marked.shape[0]}\nElementType = MET_UCHAR\n"
    sign = "=" if before else ":"
    data = f"{header}{before}ElementDataFile {sign} {tmp_path / 'secret.raw'}\nElementDataFile = LOCAL\n"
    give_mask(slide_case, "m.mha", data.encode())
    assert end_of(slide_case, output) == 2


@pytest.mark.parametrize("kind", ["cut off", "too few", "flipped", "not compressed"])
def test_damaged_pixels_of_an_mha_are_not_filled(slide_case, output, marked, kind):
    packed = imagecodecs.zlib_encode(marked.tobytes())
    few = imagecodecs.zlib_encode(marked.tobytes()[: marked.size // 2])
    flipped = packed[: len(packed) // 2] + bytes([packed[len(packed) // 2] ^ 255]) + packed[len(packed) // 2 + 1 :]
    pixels = {"cut off": packed[: len(packed) // 2], "too few": few, "flipped": flipped}.get(kind)
    header = mha("LOCAL", marked)[: -marked.size]
    if pixels is None:
        give_mask(slide_case, "m.mha", header + marked.tobytes()[: marked.size // 2])
    else:
        head, _, tail = header.partition(b"ElementDataFile")
        give_mask(slide_case, "m.mha", head + b"CompressedData = True\nElementDataFile" + tail + pixels)
    assert end_of(slide_case, output) == 2


@pytest.mark.parametrize("tail", ["end", "zeros"])
def test_a_damaged_jpeg_in_a_mask_marks_no_tissue(slide_case, output, capsys, marked, tail):
    """libjpeg fills what is missing with grey, which is not zero."""
    data = bytearray(tiff_of(marked, photometric="minisblack", tile=(128, 128), compression="jpeg"))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        places = list(zip(file.pages.first.dataoffsets, file.pages.first.databytecounts, strict=True))
    start, length = max(places, key=lambda place: place[1])
    half = length - length // 2
    filled = {"zeros": bytes(half - 2) + b"\xff\xd9", "end": (b"\xff\xd9").ljust(half, b"\0")}
    data[start + length // 2 : start + length] = filled[tail]
    give_mask(slide_case, "m.tif", bytes(data))
    assert end_of(slide_case, output) == 2
    assert "a JPEG in it is damaged" in capsys.readouterr().err


def test_a_mask_of_more_pixels_than_a_slide_can_have_is_refused(slide_case, output, capsys):
    tile = np.full((2048, 2048), 255, dtype=np.uint8)
    layout = {"shape": (2967 * 20, 2220 * 20), "dtype": np.uint8, "tile": (2048, 2048), "compression": "deflate"}
    packed = imagecodecs.zlib_encode(tile)
    held = io.BytesIO()
    tifffile.imwrite(held, iter([packed] * (29 * 22)), photometric="minisblack", **layout)
    give_mask(slide_case, "m.tif", held.getvalue())
    assert end_of(slide_case, output) == 2
    assert "expected no more than the slide has" in capsys.readouterr().err


def test_a_picture_of_another_shape_is_no_level(slide_case, tmp_path, pixels):
    """A label, though it calls itself a reduced image, of a size that tiles would be read from."""
    noise = np.random.default_rng(0).integers(0, 255, (1480, 1500, 3), dtype=np.uint8)
    for name, others in (("plain", []), ("label", [noise])):
        give_slide(slide_case, "s.tif", tiff(pixels, *others))
        assert end_of(slide_case, tmp_path / name) == 0
    assert months(tmp_path / "plain") == months(tmp_path / "label")


def test_a_slide_of_several_files_is_refused(slide_case, output, tmp_path, capsys):
    """Hamamatsu's VMS names its pictures, which may lie anywhere."""
    pyvips.Image.new_from_file(str(SLIDE)).crop(0, 0, 512, 512).jpegsave(str(tmp_path / "outside.jpg"))
    text = "[Virtual Microscope Specimen]\nNoLayers=1\nNoJpegColumns=1\nNoJpegRows=1\n"
    text += f"ImageFile={tmp_path / 'outside.jpg'}\nMapFile={tmp_path / 'outside.jpg'}\n"
    give_slide(slide_case, "s.vms", text.encode())
    assert end_of(slide_case, output) == 2
    assert "s.vms: " in capsys.readouterr().err


def test_an_mha_bomb_is_refused_by_its_header(slide_case, output, capsys):
    header = (
        b"ObjectType = Image\nNDims = 2\nDimSize = 2220000 2967000\nElementType = MET_UCHAR\nCompressedData = True\n"
    )
    give_mask(slide_case, "m.mha", header + b"ElementDataFile = LOCAL\n" + imagecodecs.zlib_encode(bytes(1000)))
    assert end_of(slide_case, output) == 2
    assert "cannot be held" in capsys.readouterr().err


def test_a_deflate_bomb_gives_no_more_than_its_tile(tmp_path, marked):
    """A tile whose data unpack to 400 MB: what is beyond the tile is not unpacked."""
    bomb = imagecodecs.zlib_encode(np.full(400_000_000, 255, dtype=np.uint8), level=9)
    held = io.BytesIO()
    layout = {"shape": (256, 192), "dtype": np.uint8, "tile": (256, 192), "compression": "zlib"}
    tifffile.imwrite(held, iter([bomb]), photometric="minisblack", **layout)
    (tmp_path / "m.tif").write_bytes(held.getvalue())

    class Size:
        name, size, mpp = "s", (1920, 2560), (0.5, 0.5)

    before = peak()
    try:
        mask_coverage(tmp_path / "m.tif", Size(), Grid.over(Size.size, Size.mpp, 224, 1.0))
    except InputError as error:
        assert "cannot be read as a TIFF mask" in str(error)
    assert peak() - before < 200_000_000


def peak() -> int:
    status = Path(f"/proc/{os.getpid()}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


def test_an_mha_of_a_mask_is_simpleitks(tmp_path, marked):
    """What the refusals above leave is still what ITK itself writes."""
    sitk.WriteImage(sitk.GetImageFromArray(marked), str(tmp_path / "m.mha"), useCompression=True)

    grid = Grid.over(Sample.size, Sample.mpp, 224, 1.0)
    (tmp_path / "m.tif").write_bytes(tiff_of(marked, photometric="minisblack"))
    by_itk, _ = mask_coverage(tmp_path / "m.mha", Sample(), grid)
    by_tiff, _ = mask_coverage(tmp_path / "m.tif", Sample(), grid)
    assert np.allclose(by_itk, by_tiff)


# --- memory of a device, a reader that dies ---


class Crowded(torch.nn.Module):
    """A network on a device that runs out of memory, at first for more than ``most`` tiles at once, later for any."""

    def __init__(self, network: torch.nn.Module, most: int, last: int) -> None:
        super().__init__()
        self.network, self.most, self.left = network, most, last

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        if len(tiles) > self.most or self.left < len(tiles):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.left -= len(tiles)
        return self.network(tiles)


def crowd(monkeypatch, most: int, last: int) -> None:
    """Have the job's encoder meet a full device in the middle of its tiles."""
    loaded = Encoder.__init__

    def load(self, spec, network, device):
        loaded(self, spec, network, device)
        self.network = Crowded(self.network, most, last)

    monkeypatch.setattr(Encoder, "__init__", load)


def test_device_memory_that_runs_out_in_the_middle_takes_smaller_batches(slide_case, tmp_path, monkeypatch):
    assert end_of(slide_case, tmp_path / "plain") == 0
    crowd(monkeypatch, 2, 10**6)
    assert end_of(slide_case, tmp_path / "crowded") == 0
    assert months(tmp_path / "crowded") == pytest.approx(months(tmp_path / "plain"), rel=1e-6)


def test_device_memory_that_holds_no_tile_any_more_ends_in_code_4(slide_case, output, capsys, monkeypatch):
    crowd(monkeypatch, 2, 5)
    assert end_of(slide_case, output) == 4
    assert "device memory cannot hold one tile" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "code"), [(MemoryError(), 4), (OSError(5, "Input/output error"), 4), (RuntimeError("unforeseen"), 1)]
)
def test_a_reader_that_dies_ends_the_job(slide_case, output, monkeypatch, raised, code):
    read, calls = Slide.read, []

    def dying(self, origin, side, px, blank=True):
        calls.append(px)
        if px == (224, 224) and sum(call == px for call in calls) > 4:
            raise raised
        return read(self, origin, side, px, blank)

    monkeypatch.setattr(Slide, "read", dying)
    assert end_of(slide_case, output) == code


def test_readers_that_cannot_be_started_are_the_machines_failure(slide_case, output, capsys, monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refuse)
    assert end_of(slide_case, output) == 4
    assert "no thread could be started" in capsys.readouterr().err
