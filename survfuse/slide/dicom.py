"""The series that a DICOM file states: the files of one series are one slide."""

from pathlib import Path
from typing import BinaryIO

_PREAMBLE = 128  # bytes before the four by which a DICOM file is known (PS3.10, 7.1)
_MAGIC = b"DICM"
_TRANSFER_SYNTAX, _SERIES = 0x0002_0010, 0x0020_000E  # tags: group, then element
_DELIMITERS = (0xFFFE_E00D, 0xFFFE_E0DD)  # end an item and a sequence
_IMPLICIT = "1.2.840.10008.1.2"  # the transfer syntax without value representations
# Value representations whose length takes four bytes, after two that are reserved (PS3.5, 7.1.2).
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_UNDEFINED = 0xFFFF_FFFF
_LONGEST_UID = 64
_MOST_ELEMENTS = 10_000  # that come before the series; a slide has about fifty
_DEEPEST = 16  # sequences within each other


def is_dicom(path: Path) -> bool:
    """Whether a file states that it is DICOM; a file that may not be read states nothing, here and below."""
    try:
        with path.open("rb") as file:
            return _starts(file)
    except PermissionError:
        return False


def series_of(path: Path) -> str | None:
    """A DICOM file's SeriesInstanceUID; None for a file that is not DICOM, or that does not state it.

    Only the elements before it are read, in the transfer syntaxes that are little-endian (PS3.5, 7.1 and 7.5).
    """
    try:
        with path.open("rb") as file:
            return _Elements(file).series() if _starts(file) else None
    except PermissionError:
        return None


def _starts(file: BinaryIO) -> bool:
    file.seek(_PREAMBLE)
    return file.read(len(_MAGIC)) == _MAGIC


class _Elements:
    """The elements of an open DICOM file, from where it stands."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._read = 0
        self._implicit = False

    def series(self) -> str | None:
        """The series that the top level states; what is nested may name others."""
        while (element := self._next()) is not None:
            tag, length = element
            if tag == _SERIES:
                return self._uid(length)
            if tag > _SERIES:  # elements come in the order of their tags
                return None
            if tag == _TRANSFER_SYNTAX:
                self._implicit = self._uid(length) == _IMPLICIT
            elif not self._skip(length, 0):
                return None
        return None

    def _next(self) -> tuple[int, int] | None:
        """Tag and length of the element that begins here; None at the end, or if there are too many."""
        head = self._file.read(8)
        self._read += 1
        if len(head) < 8 or self._read > _MOST_ELEMENTS:
            return None
        group, element = int.from_bytes(head[:2], "little"), int.from_bytes(head[2:4], "little")
        # The header's own group always has value representations, items and delimiters never do.
        if group == 0xFFFE or (self._implicit and group != 2):
            return group << 16 | element, int.from_bytes(head[4:], "little")
        if head[4:6] in _LONG:
            return group << 16 | element, int.from_bytes(self._file.read(4), "little")
        return group << 16 | element, int.from_bytes(head[6:], "little")

    def _uid(self, length: int) -> str | None:
        if length > _LONGEST_UID:
            return None
        return self._file.read(length).rstrip(b"\0 ").decode("ascii", "replace") or None

    def _skip(self, length: int, depth: int) -> bool:
        """Go past a value, which ends at its delimiter if its length is undefined; False if it does not end."""
        if length != _UNDEFINED:
            self._file.seek(length, 1)
            return True
        while depth < _DEEPEST and (element := self._next()) is not None:
            if element[0] in _DELIMITERS:
                return True
            if not self._skip(element[1], depth + 1):
                return False
        return False
