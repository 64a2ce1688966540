"""Sound inputs, small ones, that mutations start from."""

import io
import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import tifffile
import torch
from slide_writers import MPP, write_dicom, write_mirax, write_vms

from survfuse.tasks.chimera3 import TASK

ROOT = Path(__file__).resolve().parent.parent.parent
OUTPUT_FILE = TASK.output_file
PLACES = {name: socket.place for name, socket in TASK.sockets.items()}  # by modality, and "mask"
DEMONSTRATION = ROOT / "resources" / "demonstration"
CASES = ROOT / "test" / "input"
SLIDE = CASES / "interf0/images/bladder-cancer-tissue-biopsy-wsi/3S_001_HE.tif"
MASK = CASES / "interf0/images/tissue-mask/3S_001_HE_mask.tif"


def read_object(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@cache
def h5_files(length: int = 1280, fixed: bool = False) -> list[bytes]:
    """Features as CLAM and TRIDENT write them: in one piece, chunked, compressed, of half precision, of three axes.

    ``fixed`` names the encoder in text of fixed length: that of variable length lies in a heap, in which HDF5 may
    search without end.
    """
    values = np.random.default_rng(0).random((9, length)).astype(np.float32)
    layouts = [
        (values, {}),
        (values, {"chunks": (4, length)}),
        (values.astype(np.float16), {"compression": "gzip"}),
        (values[None], {"compression": "lzf", "shuffle": True, "fletcher32": True}),
    ]
    written = []
    for data, options in layouts:
        held = io.BytesIO()
        with h5py.File(held, "w") as file:
            file.create_dataset("features", data=data, **options)
            file["coords"] = np.zeros((9, 2), dtype=np.int64)
            file.attrs["encoder"] = np.bytes_("efficientnet-lite0") if fixed else "efficientnet-lite0"
            file["coords"].attrs.update(patch_size=224, name="x")
        written.append(held.getvalue())
    return written


@cache
def pt_files(length: int = 1280, rows: int = 7) -> list[bytes]:
    """Features as torch writes them: two formats, several types."""
    values = torch.rand(rows, length, generator=torch.Generator().manual_seed(0))
    written = []
    for value, zipped in ((values, True), (values, False), (values.half(), True), (values.double()[None], True)):
        held = io.BytesIO()
        torch.save(value, held, _use_new_zipfile_serialization=zipped)
        written.append(held.getvalue())
    return written


@cache
def vector_files() -> dict[str, list[bytes]]:
    """Slide-level vectors by suffix: as TRIDENT and STAMP write them, and of torch."""
    values = np.random.default_rng(1).random(96).astype(np.float32)
    hdf5 = []
    for name, options, attributes in (
        ("features", {"chunks": (1,), "maxshape": (None,)}, {"savetodir": "x/slide_features_titan", "name": "s"}),
        ("feats", {}, {"encoder": "titan", "feat_type": "slide"}),
        ("features", {"compression": "gzip", "fletcher32": True}, {}),
    ):
        held = io.BytesIO()
        with h5py.File(held, "w") as file:
            file.create_dataset(name, data=values, **options).attrs.update(attributes)
            file.attrs.update(attributes)
            file["coords"] = np.zeros((9, 2), dtype=np.int64)
        hdf5.append(held.getvalue())
    return {".h5": hdf5, ".pt": pt_files(96, rows=1)}


@cache
def masks() -> list[bytes]:
    """Masks of the sample slide's shape: the sample's own, and small ones in every coding that is read."""
    marked = np.zeros((371, 278), dtype=np.uint8)
    marked[100:300, 50:200] = 255
    written = [MASK.read_bytes()]
    layouts = [
        {"tile": (64, 64), "compression": "deflate"},
        {"tile": (64, 64), "compression": "lzw", "predictor": True},
        {"tile": (128, 128), "compression": "jpeg"},
        {"rowsperstrip": 16, "compression": "packbits"},
        {"tile": (64, 64)},
        {},
    ]
    for layout in layouts:
        held = io.BytesIO()
        with tifffile.TiffWriter(held) as file:
            file.write(marked, photometric="minisblack", subifds=1 if "tile" in layout else 0, **layout)
            file.write(marked[::2, ::2], photometric="minisblack", subfiletype=1, **layout)
        written.append(held.getvalue())
    return written


@cache
def slides() -> list[bytes]:
    """The sample slide, and small tiled TIFFs in other codings and colours."""
    with tifffile.TiffFile(SLIDE) as file:
        pixels = file.pages[1].asarray()[:768, :768]
    grey, alpha = pixels[..., 1], np.dstack([pixels, np.full(pixels.shape[:2], 255, dtype=np.uint8)])
    resolution = {"resolution": (10_000, 10_000), "resolutionunit": "CENTIMETER", "metadata": None, "tile": (256, 256)}
    layouts = [
        (pixels, {"photometric": "ycbcr", "compression": "jpeg", "subsampling": (2, 2)}),
        (pixels, {"photometric": "rgb", "compression": "deflate"}),
        (pixels, {"photometric": "rgb", "compression": "lzw"}),
        (pixels, {"photometric": "rgb", "compression": "jpeg2000"}),
        (pixels, {"photometric": "rgb"}),
        (grey, {"photometric": "minisblack", "compression": "deflate"}),
        (alpha, {"photometric": "rgb", "extrasamples": ["unassalpha"], "compression": "deflate"}),
        (pixels.astype(np.uint16) * 257, {"photometric": "rgb", "compression": "deflate"}),
    ]
    written = [SLIDE.read_bytes()]
    for image, layout in layouts:
        held = io.BytesIO()
        with tifffile.TiffWriter(held) as file:
            file.write(image, **layout, **resolution)
            file.write(image[::2, ::2], subfiletype=1, **layout, **resolution)
        written.append(held.getvalue())
    return written


@cache
def slides_in_several_files() -> list[dict[str, bytes]]:
    """Their files by name within one folder: a DICOM series of two levels, MIRAX, Hamamatsu's VMS."""
    with tifffile.TiffFile(SLIDE) as file:
        pixels = file.pages[1].asarray()[:512, :512]
    series = "1.2.826.0.1.3680043.2.1125.1"
    written = []
    for write in (
        lambda root: [write_dicom(root / f"{n}.dcm", pixels[::n, ::n], series, n * MPP, n) for n in (1, 2)],
        lambda root: write_mirax(root / "s.mrxs", pixels),
        lambda root: write_vms(root / "s.vms", pixels),
    ):
        with TemporaryDirectory() as folder:
            write(Path(folder))
            files = [path for path in Path(folder).rglob("*") if path.is_file()]
            written.append({path.relative_to(folder).as_posix(): path.read_bytes() for path in files})
    return written
