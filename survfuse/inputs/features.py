"""Tile features on disk, in the field's layouts.

HDF5 as CLAM and TRIDENT write it: ``features`` [N, D] or [1, N, D] and ``coords`` [N, 2] in level-0 pixels, with
TRIDENT's attributes; or as STAMP does: ``feats``. Torch files as the challenge published them: one tensor [N, D].

The size that a file states is compared with the memory that is left before the file is read.
"""

import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from survfuse.inputs.feature_hdf5 import (
    BLOCK,
    as_hdf5,
    check_extent,
    features_dataset,
    h5_blocks,
    rows_at_a_time,
    stated_encoder,
    tile_coordinates,
)
from survfuse.inputs.feature_tile import stated_tile
from survfuse.runtime.errors import InputError, brief, is_machine_failure
from survfuse.runtime.files import atomic_path
from survfuse.runtime.log import Note, count
from survfuse.runtime.memory import check_memory
from survfuse.runtime.torch_files import NOT_AN_ARCHIVE, read_tensor, stored_plainly
from survfuse.runtime.watch import reading
from survfuse.slide.stated_tile import StatedTile
from survfuse.slide.suffixes import HDF5_SUFFIXES

if TYPE_CHECKING:
    from torch import Tensor

    from survfuse.runtime.row_source import Rows2D


_PIECE = 2**22  # bytes of an archive's entry looked through at a time


@dataclass(frozen=True)
class Features:
    """Tile features [N, D], float32 or in the half precision they are stored in, and what the file states of them."""

    values: "Rows2D"  # more than a gigabyte may stay in their file
    half: bool  # whether they are stored in half precision
    encoder: str | None  # as the file names it
    notes: tuple[Note, ...] = ()  # for the log
    coordinates: NDArray[np.int64] | None = None  # [N, 2], level-0 pixels, if the file states them
    name: str = ""  # their name in messages
    tile: StatedTile | None = None  # that they are of, if the file states it


def features_of(source: "Path | Rows2D | NDArray[np.floating]", name: str) -> Features:
    """A case's tile features: read from a file, or those in memory or in files [N, D], which messages call ``name``.

    Raises InputError as ``read_features`` does.
    """
    from survfuse.runtime.row_source import RowSource

    if isinstance(source, Path):
        return read_features(source)
    if isinstance(source, RowSource):
        return _checked(Features(source, source.element_size() == 2, None, name=name), Path(name), lambda: None)
    values, place = _in_memory(source, name), Path(name)
    half = values.element_size() == 2
    kept = values if half else values.float()
    return _checked(Features(kept, half, None, name=name), place, lambda: None)


def read_features(path: Path) -> Features:
    """Read ``.h5``, ``.hdf5`` or ``.pt``.

    Raises InputError for another layout, no tiles, values that are not finite, or nothing but zeros, and
    EnvironmentFailure if they are larger than the memory that is left. Features of more than a gigabyte stay in their
    file, but for those of torch's older format and of compressed torch files.
    """
    with reading(path.name) as go_on:
        features = _read_h5(path, go_on) if path.suffix.lower() in HDF5_SUFFIXES else _read_pt(path, go_on)
        return _checked(replace(features, name=path.name), path, go_on)


def _checked(features: Features, path: Path, go_on: Callable[[], None]) -> Features:
    """``features`` with a note of tiles without any value; raises InputError for values that are not finite."""
    done = empty = 0
    for block in row_blocks(features.values):
        go_on()
        empty += int((largest_values(path, block, done) == 0).sum())
        done += len(block)
    if empty == len(features.values):
        raise InputError(f"{path.name}: every feature of {count(empty, 'tile')} is 0")
    if not empty:
        return features
    note = Note(f"{count(empty, 'tile')} with all features 0", ("tiles with all features 0",))
    return replace(features, notes=(*features.notes, note))


def _in_memory(source: "Tensor | NDArray[np.floating]", name: str) -> "Tensor":
    """Features [N, D] of a dense tensor, an array or a DataFrame; raises InputError for anything else."""
    import numpy as np
    import torch

    if isinstance(source, torch.Tensor):
        values = source.detach()
        if values.layout is not torch.strided or values.is_meta or values.is_quantized:
            raise InputError(f"{name}: expected a dense tensor of features, found {values.layout} on {values.device}")
    else:
        array = np.asarray(source)
        if array.dtype.kind in "iub":
            raise InputError(f"{name}: expected features of floating-point numbers, found {array.dtype}")
        if array.dtype.kind != "f":
            raise InputError(f"{name}: expected features as an array or tensor, found {type(source).__name__}")
        # torch takes neither the other byte order, nor strides below 0, nor more than 8 bytes.
        size = min(array.dtype.itemsize, 8)
        values = torch.from_numpy(np.ascontiguousarray(array, dtype=f"f{size}"))
    if not values.is_floating_point():
        raise InputError(f"{name}: expected features of floating-point numbers, found {values.dtype}")
    return two_dimensional(Path(name), values.cpu())


def largest_values(path: Path, values: "Tensor", first: int) -> "Tensor":
    """The largest magnitude [n] of each tile's features [n, D]; raises InputError if one is NaN or infinite.

    ``first`` is the number of the first of these tiles in its file.
    """
    import torch

    largest: Tensor = torch.linalg.vector_norm(values, ord=float("inf"), dim=1)
    broken = (~largest.isfinite()).nonzero()
    if len(broken):
        raise InputError(f"{path.name}: features of tile {first + int(broken[0])} are NaN or infinite")
    return largest


def row_blocks(values: "Rows2D") -> "Iterator[Tensor]":
    """Features [N, D] in blocks of at most 2,048 tiles."""
    return (values[start : start + BLOCK] for start in range(0, len(values), BLOCK))


def write_features(
    path: Path, values: "Tensor", coordinates: NDArray[np.int64], attributes: dict[str, Any], tile: dict[str, Any]
) -> None:
    """Write features [N, D] and coordinates [N, 2] as CLAM and TRIDENT read them, whole or not at all.

    ``attributes`` describe the features (encoder, slide, mpp); ``tile`` describes the grid in TRIDENT's terms.
    """
    import h5py

    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        features = file.create_dataset("features", data=values.numpy())
        coords = file.create_dataset("coords", data=coordinates)
        for holder in (file, features):
            holder.attrs.update(attributes)
        coords.attrs.update(tile)


def _read_h5(path: Path, go_on: Callable[[], None]) -> Features:
    import h5py
    import torch

    from survfuse.inputs.stored_features import StoredFeatures
    from survfuse.runtime.row_source import HELD

    with as_hdf5(path), h5py.File(path, "r") as file:
        dataset = features_dataset(path, file)
        half = dataset.dtype.itemsize == 2
        rows, length = dataset.shape[-2:]
        kept = torch.float16 if half else torch.float32
        notes = () if "coords" in file else (Note("no coords (not needed)"),)
        encoder, tile = stated_encoder(file, dataset), stated_tile(path, file, dataset)
        if rows * length * kept.itemsize > HELD:
            stored = StoredFeatures(path, dataset)
            return Features(stored, half, encoder, notes, tile_coordinates(file, rows), tile=tile)
        held = rows_at_a_time(dataset) * length * dataset.dtype.itemsize
        check_memory(rows * length * kept.itemsize + held, f"features of {count(rows, 'tile')} × {length}")
        values = torch.empty(rows, length, dtype=kept)
        done = 0
        for block in h5_blocks(dataset):
            go_on()
            values[done : done + len(block)] = block
            done += len(block)
        return Features(values, half, encoder, notes, tile_coordinates(file, rows), tile=tile)


def _read_pt(path: Path, go_on: Callable[[], None]) -> Features:
    """A torch file. If nothing in it is compressed it is mapped, and takes memory only as it is read."""
    import torch

    from survfuse.inputs.stored_features import ConvertedFeatures
    from survfuse.runtime.row_source import HELD

    mapped = stored_plainly(path)
    stored = read_matrix(path, mapped)
    check_sums(path, go_on)
    half = stored.dtype in (torch.float16, torch.bfloat16)
    kept = stored.dtype if half else torch.float32
    if stored.dtype == kept and stored.is_contiguous():
        return Features(stored, half, None)
    if mapped and kept.itemsize * stored.numel() > HELD:
        return Features(ConvertedFeatures(stored, kept), half, None)
    check_memory(kept.itemsize * stored.numel(), f"features of {count(len(stored), 'tile')} × {stored.shape[1]}")
    return Features(torch.empty(stored.shape, dtype=kept).copy_(stored), half, None)


def check_sums(path: Path, go_on: Callable[[], None]) -> None:
    """Raise InputError if an entry of torch's zip format does not fit its checksum, which torch does not check.

    If no entry's fits, the file was written without checksums, as torch can.
    """
    if not zipfile.is_zipfile(path):  # torch's older format has none
        return
    right, wrong = 0, ""
    try:
        opened = zipfile.ZipFile(path)
    except NOT_AN_ARCHIVE as cause:
        if is_machine_failure(cause):
            raise
        raise InputError(f"{path.name}: damaged ({brief(cause)})") from cause
    with opened as archive:
        for entry in archive.infolist():
            try:
                with archive.open(entry) as file:
                    while file.read(_PIECE):
                        go_on()
                right += entry.file_size > 0
            except (*NOT_AN_ARCHIVE, EOFError, RuntimeError, zlib.error) as cause:
                if is_machine_failure(cause):
                    raise
                wrong = wrong or brief(cause)
    if wrong and right:
        raise InputError(f"{path.name}: damaged ({wrong})")


def read_matrix(path: Path, mapped: bool = False, numbers: bool = True) -> "Tensor":
    """Features [N, D] of a torch file, of the floating dtype it has; raises InputError for anything else.

    With ``mapped`` they stay in the file, which must be of torch's zip format, until they are used. Without ``numbers``
    only the shape and the type are those of the file.
    """
    values = read_tensor(path, InputError, mapped, numbers)
    if not values.is_floating_point():
        raise InputError(f"{path.name}: expected a tensor of floating-point numbers, found {values.dtype}")
    return two_dimensional(path, values.detach())


def two_dimensional(path: Path, values: "Tensor") -> "Tensor":
    """[N, D] from [N, D] or [1, N, D], N and D at least 1; raises InputError for other shapes."""
    if values.ndim == 3 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != 2 or values.shape[1] == 0:
        raise InputError(f"{path.name}: expected features [N, D] or [1, N, D], found shape {list(values.shape)}")
    if len(values) == 0:
        raise InputError(f"{path.name}: holds no tiles")
    check_extent(path, len(values), values.shape[1])
    return values
