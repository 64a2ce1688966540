"""How a TIFF says that its stored pixels are to be turned or mirrored before they are shown."""

from typing import TYPE_CHECKING

from survfuse.runtime.errors import InputError

if TYPE_CHECKING:
    from tifffile import TiffPage

# What the first stored row and column are in the picture (TIFF 6.0, tag 274).
_NAMES = {
    1: "top-left",
    2: "top-right",
    3: "bottom-right",
    4: "bottom-left",
    5: "left-top",
    6: "right-top",
    7: "right-bottom",
    8: "left-bottom",
}
_TAG, AS_STORED = 274, 1


def orientation(page: "TiffPage") -> int:
    """A page's orientation, 1 to 8; 1, as it is stored, if it states none or another number, as libtiff has it."""
    tag = page.tags.get(_TAG)
    value = tag.value if tag is not None else AS_STORED
    number = value[0] if isinstance(value, (tuple, bytes)) and value else value
    return int(number) if number in _NAMES else AS_STORED


def check_orientation(name: str, page: "TiffPage") -> None:
    """Raise InputError for a page that is to be turned or mirrored.

    libtiff, and so OpenSlide, turns some codings within each tile and others not at all (openslide #391): neither
    gives the picture.
    """
    stated = orientation(page)
    if stated != AS_STORED:
        raise InputError(
            f"{name}: states orientation {stated} ({_NAMES[stated]}) for {page.imagewidth} × {page.imagelength} px; "
            f"expected {AS_STORED} ({_NAMES[AS_STORED]}), pixels stored as they are shown"
        )
