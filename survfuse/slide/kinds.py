"""What a file is that is no slide, in words, for a message."""

from pathlib import Path

from survfuse.slide.dicom import is_dicom
from survfuse.slide.tiff import UNREADABLE, pages_of, tifffile_complaints

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # BigTIFF's are the last two
# What files begin with.
_STARTS = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\0\0\0\x0cjP": "a JPEG 2000 picture",
    b"GIF8": "a GIF picture",
    b"BM": "a BMP picture",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 file",
    b"%PDF": "a PDF",
    b"ObjectType": "an MHA image",
}


def kind_of(path: Path) -> str:
    """What the file at ``path`` is by its first bytes; a TIFF also by how its first page is stored."""
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        return "an empty file"
    if start.startswith(_TIFF):
        return _kind_of_tiff(path)
    if is_dicom(path):
        return "a DICOM file of something else than a slide"
    return next((kind for magic, kind in _STARTS.items() if start.startswith(magic)), "a file of no known kind")


def _kind_of_tiff(path: Path) -> str:
    import tifffile

    try:
        with tifffile_complaints(), tifffile.TiffFile(path) as file:
            tiled = next(pages_of(file)).is_tiled
    except (*UNREADABLE, StopIteration):
        return "a damaged or truncated TIFF"
    return "a TIFF that it does not know" if tiled else "a TIFF stored in strips, not in tiles"
