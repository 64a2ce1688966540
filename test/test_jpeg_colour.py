"""Colours of JPEG tiles whose own markers contradict the TIFF: those that OpenSlide, and so libtiff, gives."""

from collections.abc import Callable

import imagecodecs
import numpy as np
import openslide
import pytest
import pyvips
import tifffile
from conftest import SLIDE

from survfuse.slide.pixels import Slide

TILE = 256
PIXELS = pyvips.Image.new_from_file(str(SLIDE)).crop(600, 900, 512, 512).numpy()
APERIO = "Aperio Image Library v12\r\n512x512 |AppMag = 20|MPP = 0.499"
Edit = Callable[[bytes], bytes]


def segments(jpeg: bytes) -> list[bytes]:
    """A JPEG's marker segments after its start; the last has the coded pixels and the end."""
    found, place = [], 2
    while jpeg[place + 1] != 0xDA:
        length = 2 + int.from_bytes(jpeg[place + 2 : place + 4])
        found.append(jpeg[place : place + length])
        place += length
    return [*found, jpeg[place:]]


def without_markers(jpeg: bytes, before: bytes = b"") -> bytes:
    """The JPEG without its application markers, with ``before`` in their place."""
    return b"\xff\xd8" + before + b"".join(part for part in segments(jpeg) if part[1] & 0xF0 != 0xE0)


def adobe(transform: int) -> bytes:
    return b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])


def named(jpeg: bytes, names: bytes) -> bytes:
    """The JPEG with other names of its three components, in the frame's and the scan's header."""
    parts = []
    for part in segments(without_markers(jpeg)):
        changed = bytearray(part)
        if part[1] in (0xC0, 0xC1, 0xC2):
            changed[10:19:3] = names
        elif part[1] == 0xDA:
            changed[5:11:2] = names
        parts.append(bytes(changed))
    return b"\xff\xd8" + b"".join(parts)


MARKERS: dict[str, Edit] = {
    "JFIF": lambda jpeg: jpeg,
    "none": without_markers,
    "Adobe says RGB": lambda jpeg: without_markers(jpeg, adobe(0)),
    "Adobe says YCbCr": lambda jpeg: without_markers(jpeg, adobe(1)),
    "components R, G, B": lambda jpeg: named(jpeg, b"RGB"),
    "components 0, 1, 2": lambda jpeg: named(jpeg, b"\0\1\2"),
}


def tiles(space: str, edit: Edit, subsampling: str) -> list[bytes]:
    parts = [PIXELS[y : y + TILE, x : x + TILE] for y in (0, TILE) for x in (0, TILE)]
    options = {"colorspace": "RGB", "outcolorspace": space, "level": 92, "subsampling": subsampling}
    return [edit(imagecodecs.jpeg8_encode(np.ascontiguousarray(part), **options)) for part in parts]


def write(path, jpegs: list[bytes], photometric: str, subsampling: tuple[int, int] | None, aperio: bool) -> None:
    layout = {"tile": (TILE, TILE), "compression": "jpeg", "metadata": None, "subsampling": subsampling}
    if photometric == "rgb":
        layout["compressionargs"] = {"outcolorspace": "rgb"}  # else tifffile states YCbCr all the same
    options = {
        "resolution": (1e4 / 0.499,) * 2,
        "resolutionunit": "CENTIMETER",
        "description": APERIO if aperio else "",
    }
    tifffile.imwrite(
        path, iter(jpegs), shape=(512, 512, 3), dtype=np.uint8, photometric=photometric, **layout, **options
    )


def both(path) -> tuple[np.ndarray, np.ndarray]:
    """The slide's pixels and OpenSlide's."""
    with Slide(path) as slide, openslide.OpenSlide(path) as other:
        read = slide.read((100, 100), (300.0, 300.0), (300, 300)).astype(int)
        return read, np.asarray(other.read_region((100, 100), 0, (300, 300)).convert("RGB")).astype(int)


@pytest.mark.parametrize("aperio", [False, True], ids=["generic", "Aperio"])
@pytest.mark.parametrize("markers", MARKERS)
@pytest.mark.parametrize(
    ("space", "photometric"), [("YCBCR", "ycbcr"), ("RGB", "ycbcr"), ("YCBCR", "rgb"), ("RGB", "rgb")]
)
def test_colours_are_openslides(tmp_path, space, photometric, markers, aperio):
    jpegs = tiles(space, MARKERS[markers], "444")
    write(tmp_path / "s.tif", jpegs, photometric, (1, 1) if photometric == "ycbcr" else None, aperio)
    with tifffile.TiffFile(tmp_path / "s.tif") as file:
        assert file.pages.first.photometric.name.lower() == photometric
    ours, openslides = both(tmp_path / "s.tif")
    assert np.abs(ours - openslides).max() <= 1
    if space.lower() == photometric:  # the TIFF tells the truth, whatever the markers say
        assert np.abs(ours - PIXELS[100:400, 100:400]).mean() < 4


@pytest.mark.parametrize("markers", MARKERS)
def test_subsampled_colours_too(tmp_path, markers):
    write(tmp_path / "s.tif", tiles("YCBCR", MARKERS[markers], "420"), "ycbcr", (2, 2), False)
    with Slide(tmp_path / "s.tif") as slide:
        assert (512, 512) in slide._tiff  # decoded directly
    ours, openslides = both(tmp_path / "s.tif")
    assert np.abs(ours - openslides).max() <= 1
