"""Slides in several files: which of them OpenSlide opens, and whether the others lie where they may.

A DICOM slide is a series of files in one folder, any of which opens it. MIRAX's ``x.mrxs`` has the folder ``x`` with
``Slidedat.ini``, and Hamamatsu's ``.vms`` and ``.vmu`` have pictures beside them; these text files name the others.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from survfuse.runtime.errors import InputError
from survfuse.runtime.log import listing
from survfuse.slide.dicom import is_dicom, series_of

_HEADS = (".mrxs", ".vms", ".vmu")  # of files that open a slide whose pixels lie in others
_MOST_FILES = 1000  # of one slide that are looked at
_LONGEST_INDEX = 2**22  # bytes of a text file that names others


def slide_file(path: Path) -> Path:
    """The file by which the slide at ``path`` is opened: itself, or one in it if it is the folder of a slide's files.

    Raises InputError for any other folder, and for a folder with files of several slides.
    """
    if not path.is_dir():
        return path
    files = _visible_files(path)
    opened = one_slide(files) if is_slide_folder(path) else None
    if opened is None:
        found = listing(file.name for file in files) or "no file"
        raise InputError(
            f"{path.name}/: expected a slide's file, or a folder with the files of one slide; found {found}"
        )
    return opened


def is_slide_folder(path: Path) -> bool:
    """Whether a folder directly holds DICOM files, or a file that opens a slide in several."""
    return path.is_dir() and any(
        file.suffix.lower() in _HEADS or is_dicom(file) for file in _visible_files(path)[:_MOST_FILES]
    )


def one_slide(files: Sequence[Path]) -> Path | None:
    """The one of ``files`` that opens the slide which they are together; None if they are not one slide.

    Raises InputError for DICOM files of several series, which are several slides.
    """
    if len(files) == 1:
        return files[0]
    heads = [path for path in files if path.suffix.lower() in _HEADS]
    if heads:
        parts = {path.name for path in files} - {heads[0].name}
        return heads[0] if len(heads) == 1 and parts <= set(_named_in(heads[0])) else None
    if not files or len(files) > _MOST_FILES:
        return None
    series: dict[str, Path] = {}  # one file of each
    for path in files:
        uid = series_of(path)
        if uid is None:
            return None
        series.setdefault(uid, path)
    if len(series) > 1:
        names = listing(path.name for path in series.values())
        raise InputError(
            f"{files[0].parent.name}/: expected the DICOM files of one slide, found {len(series):,} series, "
            f"for example in {names}"
        )
    return files[0]


def check_parts(path: Path) -> None:
    """Raise InputError if the slide that ``path`` opens has parts that are missing, or lie outside its folder.

    A path or a link to a file somewhere else would have other files read than the slide's; a pipe would never end.
    """
    inner = path.with_suffix("") if path.suffix.lower() == ".mrxs" else path.parent
    index = inner / "Slidedat.ini" if inner != path.parent else path
    if index != path and not index.is_file():
        raise InputError(f"{path.name}: expected its folder {inner.name}/ with {index.name} beside it, found none")
    for name in _named_in(path):
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts:
            raise InputError(
                f"{path.name}: names the file {name[:80]}; expected its files beside it, in its own folder"
            )
    if index == path and is_dicom(path):
        for beside in path.parent.iterdir():  # OpenSlide opens each to see whether it is of the series
            if not beside.is_file() and not beside.is_dir():
                raise InputError(f"{path.name}: {beside.name} beside it is not a file that can be read")


def _visible_files(folder: Path) -> list[Path]:
    """A folder's files, sorted, without hidden ones; none of a folder that may not be read."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())
    except PermissionError:
        return []


def _named_in(path: Path) -> list[str]:
    """The files that a slide's file names as its parts; none for a file that is not a text of names and values."""
    if path.suffix.lower() == ".mrxs":
        path = path.with_suffix("") / "Slidedat.ini"
        if not path.is_file():
            return []
    with path.open("rb") as file:
        # The byte-order mark of UTF-8 may come first, or empty lines.
        start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
        if start and not start.startswith((b"[", b"#")):
            return []
        file.seek(0)
        entries = [line.partition(b"=") for line in file.read(_LONGEST_INDEX).split(b"\n")]
    names = [value.strip() for key, _, value in entries if any(word in key.lower() for word in (b"file", b"image"))]
    return [name.decode("utf-8", "replace") for name in names if name]
