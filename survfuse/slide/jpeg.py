"""The JPEGs in a TIFF: what one states before it is decoded, and whether it is sound to the last byte."""

from survfuse.runtime.arrays import Pixels

# The markers at which a JPEG begins and ends; within its coded pixels these bytes do not occur in sequence.
_START, _END = b"\xff\xd8", b"\xff\xd9"
# Put before a JPEG's other markers, JFIF's says that three components are YCbCr. That is what the TIFF states, which
# libtiff follows; libjpeg alone would follow Adobe's marker, or components that are named R, G and B.
_JFIF = b"\xff\xe0\x00\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0"
# Frame headers of JPEG (ITU-T T.81, Table B.1): all markers from C0 to CF but DHT, JPG and DAC.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def frame_header(data: bytes) -> tuple[tuple[int, int] | None, int]:
    """The width and height that a JPEG states, None if it has no frame, and the header's position.

    Read before the JPEG is decoded: a few bytes can state more pixels than the tile should have.
    """
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        if data[place + 1] == 0xFF:  # any number of these may come before a marker
            place += 1
            continue
        if data[place + 1] in _FRAMES:
            height, width = (int.from_bytes(data[at : at + 2]) for at in (place + 5, place + 7))
            return (width, height), place
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return None, place


def has_end(data: bytes, place: int) -> bool:
    """Whether the JPEG's end marker comes after position ``place``."""
    return data.find(_END, place) >= 0


def without_padding(data: bytes) -> bytes:
    """The JPEG without the zeros that some writers put before its end marker.

    Coded pixels are padded with ones, so none of them is lost. Raises ValueError for a JPEG without an end.
    """
    return data[: data.rindex(_END)].rstrip(b"\0") + _END


def shared_tables(tables: bytes | None) -> bytes:
    """A TIFF page's shared JPEG ``tables`` without their end marker, to put before each of its JPEGs."""
    return tables[: tables.rindex(_END)] if tables else _START


def decode(data: bytes, tables: bytes = _START) -> Pixels:
    """The pixels [h, w, 3] in RGB of a JPEG in YCbCr, whatever its markers say; ``tables`` are from ``shared_tables``.

    Raises ValueError for any error or warning of libjpeg.
    """
    from simplejpeg import decode_jpeg

    whole = _START + _JFIF + tables[len(_START) :] + data[len(_START) :]
    pixels: Pixels = decode_jpeg(whole, colorspace="RGB", fastdct=False, fastupsample=False, strict=True)
    return pixels
