"""A slide's JPEG tiles, decoded directly, against OpenSlide."""

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
import pyvips
import tifffile
from conftest import SLIDE
from PIL import Image

from survfuse.runtime.errors import InputError
from survfuse.slide.damage import DamagedRegionError
from survfuse.slide.jpeg import frame_header
from survfuse.slide.pixels import Slide
from survfuse.slide.tiff import DamagedTileError, LostTileError, TiffLevels


@pytest.fixture(scope="module")
def even(tmp_path_factory):
    """A pyramid whose every level is exactly half of the one above, so that OpenSlide need not interpolate."""
    path = tmp_path_factory.mktemp("slide") / "even.tif"
    image = pyvips.Image.new_from_file(str(SLIDE)).crop(0, 0, 2048, 2048).copy(xres=2000, yres=2000)
    image.tiffsave(str(path), tile=True, tile_width=240, tile_height=176, pyramid=True, compression="jpeg", Q=85)
    return path


def by_openslide(path, level, left, top, width, height):
    """[height, width, 3], on white."""
    with openslide.OpenSlide(path) as slide:
        scale = round(slide.level_downsamples[level])
        region = slide.read_region((left * scale, top * scale), level, (width, height))
        image = Image.new("RGB", region.size, (255, 255, 255))
        image.paste(region, mask=region.getchannel("A"))
        return np.asarray(image)


RECTANGLES = [(0, 0, 224, 224), (333, 251, 500, 400), (239, 175, 2, 2), (700, 800, 224, 224), (1900, 1950, 300, 200)]


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("rectangle", RECTANGLES)
def test_pixels_are_openslides(even, level, rectangle):
    left, top, width, height = (part >> level if place < 2 else part for place, part in enumerate(rectangle))
    with Slide(even) as slide:
        size = slide._slide.level_dimensions[level]
        assert size in slide._tiff
        read = slide._tiff.read(size, left, top, width, height)
    assert np.array_equal(read, by_openslide(even, level, left, top, width, height))


def test_threads_read_the_same(even):
    with Slide(even) as slide, ThreadPoolExecutor(8) as pool:
        places = [(x, y) for x in range(0, 1800, 150) for y in range(0, 1800, 150)]
        found = list(pool.map(lambda place: slide._tiff.read((2048, 2048), *place, 224, 224), places))
    for place, read in zip(places[::17], found[::17], strict=True):
        assert np.array_equal(read, by_openslide(even, 0, *place, 224, 224))


def test_a_tile_starts_at_the_levels_nearest_pixel(even):
    """448 level-0 pixels from an odd place: half a pixel of level 1 is not interpolated, but left."""
    with Slide(even) as slide:
        read = slide.read((301, 517), (448.0, 448.0), (224, 224))
    assert np.array_equal(read, by_openslide(even, 1, round(150.5), round(258.5), 224, 224))


@pytest.mark.parametrize("side", [300.5, 452.0, 700.0, 1500.25])
def test_resampling_follows_the_whole_slide_resized(side):
    pixels = pyvips.Image.new_from_file(str(SLIDE), page=0).numpy()
    origin = (411, 1163)
    box = (origin[0], origin[1], origin[0] + side, origin[1] + side)
    expected = np.asarray(Image.fromarray(pixels).resize((224, 224), Image.Resampling.BICUBIC, box=box), dtype=float)
    with Slide(SLIDE) as slide:
        read = slide.read(origin, (side, side), (224, 224)).astype(float)
    # A level of the pyramid was averaged and compressed once before; a shift of one pixel shows as several times that.
    error = np.abs(read - expected).mean()
    assert error < 6.0
    assert error < 0.5 * np.abs(np.roll(read, 1, axis=1) - expected).mean()


def test_tiles_left_out_are_white(tmp_path):
    jpeg = imagecodecs.jpeg_encode(np.full((64, 64, 3), 90, dtype=np.uint8), level=95)
    tiles = [jpeg, b"", b"", jpeg]
    layout = {"tile": (64, 64), "compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 2)}
    options = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER", "metadata": None}
    tifffile.imwrite(tmp_path / "s.tif", iter(tiles), shape=(128, 128, 3), dtype=np.uint8, **layout, **options)
    with Slide(tmp_path / "s.tif") as slide:
        assert (128, 128) in slide._tiff
        read = slide.read((0, 0), (128.0, 128.0), (128, 128)).astype(int)
    assert np.abs(read[:64, :64] - 90).max() <= 2 and np.abs(read[64:, 64:] - 90).max() <= 2
    assert (read[:64, 64:] == 255).all() and (read[64:, :64] == 255).all()


@pytest.mark.parametrize("compression", ["none", "deflate", "lzw"])
def test_other_layouts_are_left_to_openslide(tmp_path, compression):
    image = pyvips.Image.new_from_file(str(SLIDE)).crop(300, 400, 512, 512).copy(xres=2000, yres=2000)
    image.tiffsave(str(tmp_path / "s.tif"), tile=True, compression=compression)
    with Slide(tmp_path / "s.tif") as slide:
        assert (512, 512) not in slide._tiff
        assert np.array_equal(slide.read((100, 50), (224.0, 224.0), (224, 224)), image.numpy()[50:274, 100:324])


def edited(path, tmp_path, edit):
    """A copy of ``path`` whose tile in the middle of level 0 has become ``edit`` of its bytes, of the same length."""
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        number = len(page.dataoffsets) // 2
        start, length = page.dataoffsets[number], page.databytecounts[number]
        across = -(-page.imagewidth // page.tilewidth)
        place = (number % across * page.tilewidth, number // across * page.tilelength)
    data[start : start + length] = edit(bytes(data[start : start + length]))
    (tmp_path / "edited.tif").write_bytes(data)
    return tmp_path / "edited.tif", place


def half_of(tile: bytes) -> bytes:
    return tile[: len(tile) // 2] + bytes(len(tile) - len(tile) // 2)


def less_coded(tile: bytes) -> bytes:
    """The end comes too early: libjpeg fills what is missing."""
    return (tile[: len(tile) * 3 // 4] + b"\xff\xd9").ljust(len(tile), b"\0")


@pytest.mark.parametrize(
    ("edit", "why", "lost"),
    [
        (lambda tile: bytes(len(tile)), "is not a JPEG of 240 × 176 px", False),
        (lambda tile: b"\xff\xd8\xff" + bytes(len(tile) - 3), "is not a JPEG of 240 × 176 px", False),
        (lambda tile: tile[:-2] + b"\0\0", "is a JPEG without an end", True),
        (half_of, "is a JPEG without an end", True),
        (less_coded, "premature end of data", True),
    ],
    ids=["zeros", "no frame", "no end", "half", "less coded"],
)
def test_a_damaged_tile_is_refused(even, tmp_path, edit, why, lost):
    """Also where OpenSlide would give pixels for it: those without an end, say."""
    path, place = edited(even, tmp_path, edit)
    levels = TiffLevels(path, True)
    with pytest.raises(LostTileError if lost else DamagedTileError, match=why):
        levels.read((2048, 2048), *place, 100, 100)
    levels.close()
    with Slide(path) as slide, pytest.raises(DamagedRegionError, match=f"at {place[0]}, {place[1]} cannot be read"):
        slide.read(place, (100.0, 100.0), (100, 100))


def test_torn_pixels_are_those_of_a_decoder_without_remarks_or_refused(tmp_path):
    """A byte of a tile changed by chance. Bytes left over where all pixels are done are remarked upon by libjpeg
    and passed over by OpenSlide, whose pixels are then not those of the slide."""
    random = np.random.default_rng(0)

    def tear(tile: bytes) -> bytes:
        torn = bytearray(tile)
        for place in random.integers(200, len(tile) - 10, 1):
            torn[place] = random.integers(256)
        return bytes(torn)

    refused = 0
    for _ in range(25):
        path, place = edited(SLIDE, tmp_path, tear)
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            number = len(page.dataoffsets) // 2
            data = path.read_bytes()[page.dataoffsets[number] :][: page.databytecounts[number]]
            tables = page.jpegtables[: page.jpegtables.rindex(b"\xff\xd9")]
        remarks = not sound(tables + data[2:])
        with Slide(path) as slide:
            try:
                slide.read(place, (100.0, 100.0), (100, 100))
            except DamagedRegionError:
                refused += 1
                assert remarks
            else:
                assert not remarks
    assert 0 < refused < 25


def sound(jpeg: bytes) -> bool:
    """Whether libvips reads a JPEG of which libjpeg has nothing to remark."""
    try:
        pyvips.Image.new_from_buffer(jpeg, "", fail_on="warning").copy_memory()
    except pyvips.Error:
        return False
    return True


@pytest.mark.parametrize("zeros", [1, 4, 33])
def test_zeros_before_a_jpegs_end_are_padding(tmp_path, zeros):
    """Some writers put them there. libjpeg remarks upon them; the pixels are whole."""
    chance = np.random.default_rng(0)
    image = chance.integers(0, 255, (256, 256, 3)).repeat(2, axis=0)[:256].astype(np.uint8)
    jpegs = [imagecodecs.jpeg_encode(np.roll(image, turn, axis=0)) for turn in range(4)]
    layout = {"tile": (256, 256), "compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 2)}
    options = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER", "metadata": None, **layout}
    for name, padding in (("plain", 0), ("padded", zeros)):
        tiles = [jpeg[:-2] + bytes(padding) + jpeg[-2:] for jpeg in jpegs]
        tifffile.imwrite(tmp_path / f"{name}.tif", iter(tiles), shape=(512, 512, 3), dtype=np.uint8, **options)
    read = []
    for name in ("plain", "padded"):
        with Slide(tmp_path / f"{name}.tif") as slide:
            read.append(slide.read((0, 0), (512.0, 512.0), (512, 512)))
    assert np.array_equal(*read)


def test_a_slide_that_is_refused_leaves_no_file_open(tmp_path):
    data = bytearray(SLIDE.read_bytes())
    with tifffile.TiffFile(SLIDE) as file:
        place = file.pages.first.tags["TileByteCounts"].valueoffset
    data[place : place + 4] = b"\xff\xff\xff\x7f"
    (tmp_path / "s.tif").write_bytes(data)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with pytest.raises(InputError, match="more bytes than the file has"):
            Slide(tmp_path / "s.tif")
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_an_openslide_error_does_not_reach_other_regions(tmp_path):
    """OpenSlide answers every call after an error with that error; regions beside a damaged one stay readable."""
    image = pyvips.Image.new_from_file(str(SLIDE)).crop(0, 0, 1024, 1024).copy(xres=2000, yres=2000)
    image.tiffsave(str(tmp_path / "s.tif"), tile=True, tile_width=256, tile_height=256, compression="deflate")
    with tifffile.TiffFile(tmp_path / "s.tif") as file:
        start, length = file.pages.first.dataoffsets[5], file.pages.first.databytecounts[5]
    data = bytearray((tmp_path / "s.tif").read_bytes())
    data[start : start + length] = bytes(length)
    (tmp_path / "s.tif").write_bytes(data)
    with Slide(tmp_path / "s.tif") as slide:
        for _ in range(2):
            with pytest.raises(DamagedRegionError, match="at 256, 256 cannot be read"):
                slide.read((256, 256), (100.0, 100.0), (100, 100))
            read = slide.read((600, 256), (100.0, 100.0), (100, 100))
            assert np.array_equal(read, image.numpy()[256:356, 600:700])


def test_bytes_that_fill_up_before_a_marker_are_passed_over(even, tmp_path):
    """ITU-T T.81, B.1.1.2: any marker may follow any number of FF. The tile's own comment makes room for them."""
    jpeg = imagecodecs.jpeg_encode(np.zeros((176, 240, 3), dtype=np.uint8))
    filled = jpeg[:2] + b"\xff\xff\xff" + jpeg[2:]
    assert frame_header(jpeg)[0] == frame_header(filled)[0] == (240, 176)
    path, place = edited(even, tmp_path, lambda tile: filled.ljust(len(tile), b"\0"))
    with Slide(path) as slide:
        assert (slide.read(place, (100.0, 100.0), (100, 100)) <= 2).all()


@pytest.mark.parametrize("change", ["past the end", "negative", "no width", "huge"])
def test_directories_that_make_no_sense_leave_the_level_to_openslide(even, tmp_path, change):
    with tifffile.TiffFile(even) as file:
        tags = file.pages.first.tags
        name = {"no width": "TileWidth"}.get(change, "TileOffsets")
        offset, byteorder = tags[name].valueoffset, file.byteorder
        kind = tags[name].dtype_name
    value = {"past the end": 2**31, "negative": 2**32 - 5, "no width": 0, "huge": 2**32 - 1}[change]
    data = bytearray(even.read_bytes())
    size = 2 if kind == "SHORT" else 4
    data[offset : offset + size] = value.to_bytes(size, "little" if byteorder == "<" else "big")
    (tmp_path / "odd.tif").write_bytes(data)
    levels = TiffLevels(tmp_path / "odd.tif", True)
    assert (2048, 2048) not in levels
    levels.close()


def test_an_aperio_level_that_leaves_tiles_out_is_left_to_openslide(tmp_path):
    """Which fills them from the level above."""
    jpeg = imagecodecs.jpeg_encode(np.full((64, 64, 3), 90, dtype=np.uint8), level=95)
    layout = {"tile": (64, 64), "compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 2), "metadata": None}
    layout["description"] = "Aperio Image Library v1\r\n128x128 |AppMag = 20|MPP = 0.5"
    with tifffile.TiffWriter(tmp_path / "s.svs") as file:
        file.write(iter([jpeg] * 4), shape=(128, 128, 3), dtype=np.uint8, **layout)
        file.write(iter([b""]), shape=(64, 64, 3), dtype=np.uint8, **layout)
    with Slide(tmp_path / "s.svs") as slide:
        assert slide._slide.level_dimensions == ((128, 128), (64, 64))
        assert (128, 128) in slide._tiff and (64, 64) not in slide._tiff
        assert np.abs(slide.read((0, 0), (128.0, 128.0), (64, 64)).astype(int) - 90).max() <= 2


def test_a_frame_larger_than_its_tile_is_not_decoded(even, tmp_path, monkeypatch):
    def enlarge(tile: bytes) -> bytes:
        at = tile.index(b"\xff\xc0") + 5
        return tile[:at] + b"\xff\xdc\xff\xdc" + tile[at + 4 :]

    path, place = edited(even, tmp_path, enlarge)
    levels = TiffLevels(path, True)
    decoded = []
    monkeypatch.setattr("survfuse.slide.tiff.decode", lambda *jpeg: decoded.append(jpeg))
    with pytest.raises(DamagedTileError, match="is not a JPEG of 240 × 176 px"):
        levels.read((2048, 2048), *place, 10, 10)
    assert not decoded
    levels.close()


@pytest.mark.parametrize("size", [(1, 1), (37, 91), (600, 20)])
def test_the_frame_header_states_the_images_size(size):
    jpeg = imagecodecs.jpeg_encode(np.zeros((size[1], size[0], 3), dtype=np.uint8))
    assert frame_header(jpeg)[0] == size
    assert frame_header(jpeg[:20])[0] is None and frame_header(b"")[0] is None
