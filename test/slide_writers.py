"""Writers of slides in several files: DICOM, MIRAX and Hamamatsu's VMS, as small as OpenSlide reads them."""

import struct
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pyvips

TILE = 256
MPP = 0.499
_LONG = ("OB", "SQ", "UN")


def tiles(pixels: np.ndarray) -> Iterator[bytes]:
    """The pixels as JPEGs of TILE × TILE px, row by row, white beyond the border."""
    height, width = (-(-side // TILE) * TILE for side in pixels.shape[:2])
    padded = np.full((height, width, 3), 255, dtype=np.uint8)
    padded[: pixels.shape[0], : pixels.shape[1]] = pixels
    for y in range(0, height, TILE):
        for x in range(0, width, TILE):
            part = np.ascontiguousarray(padded[y : y + TILE, x : x + TILE])
            yield imagecodecs.jpeg8_encode(part, level=95, subsampling="444")


# --- DICOM (PS3.5) ---


def element(tag: int, kind: str, value: bytes | str | float | list) -> bytes:
    """A DICOM element with its value representation; a sequence is a list of items."""
    if isinstance(value, list):
        value = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in value)
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, (int, float)):
        value = struct.pack({"US": "<H", "UL": "<I", "FL": "<f"}[kind], value)
    if len(value) % 2:
        value += b"\0" if kind in ("UI", "OB") else b" "
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + kind.encode()
    return head + (struct.pack("<HI", 0, len(value)) if kind in _LONG else struct.pack("<H", len(value))) + value


def write_dicom(path: Path, pixels: np.ndarray, series: str, mpp: float | None = MPP, number: int = 1) -> Path:
    """One level of a slide, TILED_FULL; instance ``number`` of its ``series``. Without ``mpp`` only its size in mm."""
    kind = "1.2.840.10008.5.1.4.1.1.77.1.6"  # VL Whole Slide Microscopy Image Storage
    instance = f"{series}.{number}"
    meta = element(0x00020001, "OB", b"\0\1") + element(0x00020002, "UI", kind) + element(0x00020003, "UI", instance)
    meta += element(0x00020010, "UI", "1.2.840.10008.1.2.4.50")  # JPEG
    height, width = pixels.shape[:2]
    side = (mpp or MPP) / 1000  # mm
    derived = "ORIGINAL\\PRIMARY\\VOLUME\\NONE" if number == 1 else "DERIVED\\PRIMARY\\VOLUME\\RESAMPLED"
    jpegs = [jpeg + b"\0" * (len(jpeg) % 2) for jpeg in tiles(pixels)]
    # Another series that the slide refers to, in a sequence and an item that end at their delimiters.
    referred = struct.pack("<HH2sHI", 0x0008, 0x1115, b"SQ", 0, 2**32 - 1) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 2**32 - 1
    )
    referred += element(0x0020000E, "UI", "1.2.3.4") + struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    body = element(0x00080008, "CS", derived) + element(0x00080016, "UI", kind) + element(0x00080018, "UI", instance)
    body += element(0x00080060, "CS", "SM") + referred
    body += element(0x0020000D, "UI", "1.2.3") + element(0x0020000E, "UI", series)
    body += element(0x00200013, "IS", str(number)) + element(0x00200052, "UI", "1.2.3.5")
    body += element(0x00209311, "CS", "TILED_FULL")
    body += element(0x00280002, "US", 3) + element(0x00280004, "CS", "YBR_FULL_422") + element(0x00280006, "US", 0)
    body += element(0x00280008, "IS", str(len(jpegs))) + element(0x00280010, "US", TILE)
    body += element(0x00280011, "US", TILE) + element(0x00280100, "US", 8) + element(0x00280101, "US", 8)
    body += element(0x00280102, "US", 7) + element(0x00280103, "US", 0)
    body += element(0x00480001, "FL", width * side) + element(0x00480002, "FL", height * side)
    body += element(0x00480006, "UL", width) + element(0x00480007, "UL", height)
    body += element(0x00480105, "SQ", [element(0x00480112, "DS", "20")])
    if mpp is not None:
        measures = element(0x00280030, "DS", f"{side:.9f}\\{side:.9f}")
        body += element(0x52009229, "SQ", [element(0x00289110, "SQ", [measures])])
    body += struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 2**32 - 1)
    for frame in (b"", *jpegs):
        body += struct.pack("<HHI", 0xFFFE, 0xE000, len(frame)) + frame
    body += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    path.write_bytes(bytes(128) + b"DICM" + element(0x00020000, "UL", len(meta)) + meta + body)
    return path


# --- MIRAX ---


def write_mirax(path: Path, pixels: np.ndarray, data_file: str = "Data0000.dat") -> Path:
    """A slide of one level, whose images touch: ``path`` and the folder beside it."""
    across, down = (-(-side // TILE) for side in (pixels.shape[1], pixels.shape[0]))
    folder = path.with_suffix("")
    folder.mkdir()
    images = list(tiles(pixels))
    path.write_bytes(images[0])  # a picture to be shown
    name = "0123456789ABCDEF"
    (folder / "Slidedat.ini").write_text(
        f"[GENERAL]\nSLIDE_VERSION=01.02\nSLIDE_ID={name}\nIMAGENUMBER_X={across}\nIMAGENUMBER_Y={down}\n"
        "OBJECTIVE_MAGNIFICATION=20\n"
        "[HIERARCHICAL]\nHIER_COUNT=1\nNONHIER_COUNT=0\nINDEXFILE=Index.dat\n"
        "HIER_0_NAME=Slide zoom level\nHIER_0_COUNT=1\nHIER_0_VAL_0_SECTION=LEVEL\n"
        f"[DATAFILE]\nFILE_COUNT=1\nFILE_0={data_file}\n"
        f"[LEVEL]\nOVERLAP_X=0\nOVERLAP_Y=0\nMICROMETER_PER_PIXEL_X={MPP}\nMICROMETER_PER_PIXEL_Y={MPP}\n"
        f"IMAGE_FORMAT=JPEG\nIMAGE_FILL_COLOR_BGR=16777215\nDIGITIZER_WIDTH={TILE}\nDIGITIZER_HEIGHT={TILE}\n"
        "IMAGE_CONCAT_FACTOR=0\n"
    )
    root = len("01.02" + name)
    levels = root + 8  # where the one level's pointer lies, after those to both kinds of record
    index = f"01.02{name}".encode() + struct.pack("<iii", levels, 0, levels + 4)
    index += struct.pack("<iiii", 0, levels + 12, len(images), 0)
    start = 0
    for number, image in enumerate(images):
        index += struct.pack("<iiii", number, start, len(image), 0)
        start += len(image)
    (folder / "Index.dat").write_bytes(index)
    (folder / "Data0000.dat").write_bytes(b"".join(images))
    return path


# --- Hamamatsu VMS ---


def write_vms(path: Path, pixels: np.ndarray, picture: str | None = None) -> Path:
    """A slide of one JPEG, whose name it states as ``picture``, and its map."""
    image = pyvips.Image.new_from_array(pixels)
    for name, part in ((f"{path.stem}.jpg", image), (f"{path.stem}_map.jpg", image.resize(1 / 8))):
        part.jpegsave(str(path.parent / name), restart_interval=8, Q=95, subsample_mode="off")
    path.write_text(
        "[Virtual Microscope Specimen]\nNoLayers=1\nNoJpegColumns=1\nNoJpegRows=1\n"
        f"ImageFile={picture or path.stem + '.jpg'}\nMapFile={path.stem}_map.jpg\n"
        f"PhysicalWidth={round(1000 * MPP * pixels.shape[1])}\nPhysicalHeight={round(1000 * MPP * pixels.shape[0])}\n"
        "SourceLens=20\n"
    )
    return path
