"""MetaImage files (MHA), read strictly: ITK fills in what is missing and follows a header to other files."""

import math
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from survfuse.runtime.errors import InputError
from survfuse.runtime.native_stderr import native_stderr

if TYPE_CHECKING:
    from SimpleITK import Image

_HEADER = 2**16  # bytes; a header has a few hundred as a rule


def read_mha(path: Path, largest: int) -> "Image":
    """The image of one plane in ``path``, of at most ``largest`` bytes.

    Raises InputError for a larger one, and for a file whose header is unusual or whose pixels are damaged, incomplete
    or not in the file itself (or beside it, for an ``.mhd``).
    """
    import SimpleITK as sitk

    header, start = _read_header(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with native_stderr():  # its exception says the same
            reader.ReadImageInformation()
        size: tuple[int, ...] = reader.GetSize()
        _check_direction(path, len(size), reader.GetDirection())
        if any(extent != 1 for extent in size[2:]):
            raise InputError(f"{path.name}: expected one plane, found an image of size {size}")
        bits = re.search(r"(\d+)-bit", sitk.GetPixelIDValueAsString(reader.GetPixelID()))
        length = math.prod(size) * int(reader.GetNumberOfComponents()) * (int(bits[1]) // 8 if bits else 8)
        if length > largest:
            most = f"expected at most {largest:,}"
            raise InputError(f"{path.name}: {length:,} bytes in an MHA file cannot be held; {most}")
        if header["ElementDataFile"] == "LOCAL":
            _check_pixels(path, header, start, length)
        with native_stderr():  # its exception says the same
            image: Image = reader.Execute()
    except RuntimeError as cause:
        raise InputError(
            f"{path.name}: cannot be read as an MHA mask ({' '.join(str(cause).split())[-200:]})"
        ) from cause
    return image


def _read_header(path: Path) -> tuple[dict[str, str], int]:
    """A MetaImage's header by its keys, and the position at which its pixels begin.

    Raises InputError for a header that is not plain lines KEY = VALUE, which ITK would read in its own way, and for one
    that takes the pixels from any other file than itself or, for an ``.mhd``, one beside it.
    """
    with path.open("rb") as file:
        data = file.read(_HEADER)
    header: dict[str, str] = {}
    start = 0
    while "ElementDataFile" not in header:
        end = data.find(b"\n", start)
        line = re.fullmatch(rb"(\w+) = ([^\0-\x1f\x7f]*)\r?", data[start:end]) if end >= 0 else None
        if line is None or line[1].decode() in header:
            raise InputError(f"{path.name}: cannot be read as an MHA mask (expected a header of lines KEY = VALUE)")
        header[line[1].decode()] = line[2].decode("utf-8", errors="replace").strip()
        start = end + 1
    name = header["ElementDataFile"]
    beside = path.suffix.lower() == ".mhd" and re.fullmatch(r"\w[\w .-]*", name) and name != "LIST"
    if name != "LOCAL" and not beside:
        raise InputError(f"{path.name}: cannot be read as an MHA mask (expected its pixels in the file itself)")
    return header, start


def _check_direction(path: Path, axes: int, direction: Sequence[float]) -> None:
    """Raise InputError unless the axes of the image [axes · axes] run as its pixels are stored."""
    if any(abs(cosine - (place % (axes + 1) == 0)) > 1e-3 for place, cosine in enumerate(direction)):
        stated = " ".join(f"{cosine:g}" for cosine in direction)
        raise InputError(f"{path.name}: states TransformMatrix {stated}; expected pixels stored as they are shown")


def _check_pixels(path: Path, header: Mapping[str, str], start: int, expected: int) -> None:
    """Raise InputError unless the pixels from position ``start`` on are ``expected`` bytes."""
    with path.open("rb") as file:
        file.seek(start)
        if header.get("CompressedData", "False").lower() == "true":
            unpack = zlib.decompressobj()
            try:
                length = len(unpack.decompress(file.read(), expected + 1))
            except zlib.error:
                length = -1
            sound = length == expected and unpack.eof
        else:
            sound = path.stat().st_size - start >= expected and header.get("BinaryData", "True").lower() == "true"
    if not sound:
        raise InputError(f"{path.name}: cannot be read as an MHA mask (its pixels are damaged or cut off)")
