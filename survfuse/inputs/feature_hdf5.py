"""The HDF5 layout of tile features: finds the dataset, checks that it is sound, and reads its rows in blocks."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from survfuse.runtime.errors import InputError, is_machine_failure
from survfuse.runtime.files import is_number, spelt_number
from survfuse.runtime.log import count, listing

if TYPE_CHECKING:
    import h5py
    from torch import Tensor


MOST_FEATURE_TILES = 2**22  # of a file; a whole slide of 76 × 26 mm has about 40,000 of 224 µm
_MOST_FEATURES = 2**16
_LARGEST_CHUNK = 2**28  # bytes that chunks may have beyond a multiple of the features
_MOST_CHUNKS = 10**7
_SHOWN = 3  # of a file's contents, in a message
BLOCK = 2048  # tiles read or looked through at a time, about 8 MB
_UNREADABLE = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError)


@contextmanager
def as_hdf5(path: Path) -> Iterator[None]:
    """Turn what h5py raises for a file that it cannot read into InputError."""
    try:
        yield
    except _UNREADABLE as cause:
        if is_machine_failure(cause):
            raise
        if isinstance(cause, BlockingIOError):
            raise InputError(f"{path.name}: is still open in another program that writes it") from cause
        raise InputError(f"{path.name}: cannot be read as HDF5 ({str(cause)[:300]})") from cause


def h5_blocks(dataset: "h5py.Dataset") -> "Iterator[Tensor]":
    """A features dataset's rows in order, float16 or else float32, some thousands at a time.

    A block consists of whole chunks, so that none is unpacked twice. What float32 cannot hold becomes infinite.
    """
    size = rows_at_a_time(dataset)
    return (h5_rows(dataset, start, start + size) for start in range(0, dataset.shape[-2], size))


def h5_rows(dataset: "h5py.Dataset", start: int, stop: int) -> "Tensor":
    """The rows from ``start`` to before ``stop`` of a features dataset, as in ``h5_blocks``."""
    import torch

    dtype = np.dtype(np.float16 if dataset.dtype.itemsize == 2 else np.float32)
    with np.errstate(over="ignore"):
        rows = np.asarray(dataset[..., start:stop, :], dtype=dtype)
    return torch.from_numpy(rows.reshape(-1, dataset.shape[-1]))


def rows_at_a_time(dataset: "h5py.Dataset") -> int:
    """How many rows a block has: those of whole chunks, some thousands or else one chunk's."""
    deep = dataset.chunks[-2] if dataset.chunks else 1
    return int(min(max(1, BLOCK // deep) * deep, dataset.shape[-2]))


def features_dataset(path: Path, file: "h5py.File") -> "h5py.Dataset":
    """The file's dataset of features, [N, D] or [1, N, D].

    Raises InputError for another shape or type, one that does not fit the coordinates, one that lies in other files,
    and one of an implausible size.
    """
    import h5py

    dataset = float_dataset(path, file)
    # Coordinates are not needed, but if they do not fit, the file is wrong.
    coords = own_object(file, "coords")
    shape = dataset.shape
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] != 1) or shape[-1] == 0:
        whole = "; slide-level vectors are the modality vector" if len(shape) == 1 else ""
        raise InputError(f"{path.name}: expected features [N, D] or [1, N, D], found shape {list(shape)}{whole}")
    if shape[-2] == 0:
        raise InputError(f"{path.name}: holds no tiles")
    if coords is not None and not isinstance(coords, h5py.Dataset):
        raise InputError(f"{path.name}: expected a dataset of coordinates as 'coords', found something else")
    if coords is not None and (coords.shape is None or coords.shape[-2:] != (shape[-2], 2)):
        found = f"coords of shape {list(coords.shape or ())}; expected [{shape[-2]}, 2]"
        raise InputError(f"{path.name}: {count(shape[-2], 'tile')}, but {found}")
    check_extent(path, shape[-2], shape[-1])
    check_written(path, dataset)
    return dataset


def float_dataset(path: Path, file: "h5py.File") -> "h5py.Dataset":
    """The file's dataset of features, of any shape.

    Raises InputError for none, for another type, and for one that lies in other files.
    """
    import h5py

    dataset = _own(path, file, features_name(file))
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != "f" or dataset.shape is None:
        found = _contents(file)
        raise InputError(f"{path.name}: expected a dataset 'features' of floating-point numbers, found {found}")
    if dataset.is_virtual or dataset.external:
        raise InputError(f"{path.name}: its features lie in other files, which are not read")
    return dataset


def check_written(path: Path, dataset: "h5py.Dataset") -> None:
    """Raise InputError for features that were never written whole, or lie in chunks of an implausible size."""
    # Of chunks, both numbers take a walk over all of them: one is enough.
    written = dataset.id.get_num_chunks() if dataset.chunks else dataset.id.get_storage_size()
    if written == 0:
        raise InputError(f"{path.name}: its features were never written")
    if dataset.chunks:
        _check_chunks(path, dataset, written)


def features_name(file: "h5py.File") -> str:
    """What the file calls its features: ``features`` as CLAM and TRIDENT do, or else ``feats`` as STAMP does."""
    return "feats" if "features" not in file and "feats" in file else "features"


def _contents(file: "h5py.File") -> str:
    """What the file holds, in words."""
    import h5py

    found = []
    for name in islice(file, _SHOWN + 1):
        held = own_object(file, name)
        described = f"{held.dtype} {list(held.shape or ())}" if isinstance(held, h5py.Dataset) else "no dataset"
        found.append(f"{name[:40]!r} ({described})")
    return listing(found, _SHOWN) or "nothing"


def _check_chunks(path: Path, dataset: "h5py.Dataset", written: int) -> None:
    """Raise InputError for chunks that are larger than the features they hold, more than can be looked up, or of which
    not all were ``written``."""
    sides = zip(dataset.shape, dataset.chunks, strict=True)
    chunks = math.prod(-(-extent // side) for extent, side in sides)
    held = math.prod(dataset.chunks) * dataset.dtype.itemsize
    # Chunks are unpacked whole, and the outer ones may reach far beyond the features.
    if held * chunks > 4 * dataset.nbytes + _LARGEST_CHUNK or chunks > _MOST_CHUNKS:
        raise InputError(f"{path.name}: {dataset.nbytes:,} bytes of features in {chunks:,} chunks of {held:,} bytes")
    if written != chunks:
        raise InputError(f"{path.name}: {written:,} of {chunks:,} chunks of features were written")


def check_extent(path: Path, tiles: int, length: int) -> None:
    """Raise InputError for more tiles than any slide has, or longer features than any encoder gives."""
    if tiles > MOST_FEATURE_TILES or length > _MOST_FEATURES:
        raise InputError(
            f"{path.name}: features [{tiles:,}, {length:,}], "
            f"expected at most [{MOST_FEATURE_TILES:,}, {_MOST_FEATURES:,}]"
        )


def _own(path: Path, file: "h5py.File", name: str) -> "h5py.HLObject | None":
    """What the file itself holds under ``name``; raises InputError for what lies in another file."""
    import h5py

    if isinstance(file.get(name, getlink=True), h5py.ExternalLink):
        raise InputError(f"{path.name}: {name!r} is a link to another file, which is not followed")
    found = file.get(name)
    if found is not None and found.file.filename != file.filename:
        raise InputError(f"{path.name}: {name!r} lies in another file, which is not read")
    return found


def stated_encoder(file: "h5py.File", dataset: "h5py.Dataset") -> str | None:
    """The tile encoder's name, as the features' dataset or its file states it; None if neither does."""
    encoder = stated(("encoder", "extractor"), dataset, file)
    return str(encoder)[:200] if encoder is not None else None


def own_object(file: "h5py.File", name: str) -> "h5py.HLObject | None":
    """What lies in the file itself under ``name``; None if nothing does, or if that is a link to somewhere else."""
    import h5py

    return file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None


def stated(names: Sequence[str], *holders: "h5py.HLObject") -> object:
    """The first attribute of ``names`` that one of ``holders`` states, as Python's own type; None if none does."""
    for name in names:
        for holder in holders:
            if name in holder.attrs:
                value = holder.attrs[name]
                value = value.item() if isinstance(value, (np.ndarray, np.generic)) and value.size == 1 else value
                # HDF5 has strings of fixed and of variable length.
                return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value
    return None


def stated_number(name: str, *holders: "h5py.HLObject") -> float:
    """The number above 0 that an attribute states; 0 if it states none."""
    value = stated((name,), *holders)
    if isinstance(value, str):
        value = spelt_number(value)
    return float(value) if is_number(value) and value > 0 else 0.0


def tile_coordinates(file: "h5py.File", rows: int) -> NDArray[np.int64] | None:
    """The tiles' level-0 coordinates [N, 2], on which no prediction depends; None if none can be read."""
    import h5py

    coords = own_object(file, "coords")
    if not isinstance(coords, h5py.Dataset) or coords.dtype.kind not in "iu" or coords.is_virtual or coords.external:
        return None
    held = math.prod(coords.chunks) * coords.dtype.itemsize if coords.chunks else 0
    if (
        coords.shape[-2:] != (rows, 2)
        or coords.size != 2 * rows
        or coords.id.get_storage_size() == 0
        or held > _LARGEST_CHUNK
    ):
        return None
    try:
        return np.asarray(coords[:], dtype=np.int64).reshape(rows, 2)
    except OSError as cause:
        if is_machine_failure(cause):
            raise
        return None
