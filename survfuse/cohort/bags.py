"""Bags larger than memory: tile features mapped from their files and read on demand.

The operating system can drop a mapped page at any time, so a cohort's features occupy memory only while they are used.
Files that cannot be mapped directly (chunked or compressed HDF5, torch's legacy format) are copied once into a cache
folder as .npy. Every value is checked once to be finite; the cache records that, too, by the file's path, size and
time of change. Files in the cache may be deleted whenever no run uses them.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from survfuse.inputs.feature_hdf5 import as_hdf5, features_dataset, features_name, h5_blocks, stated_encoder
from survfuse.inputs.feature_tile import stated_tile
from survfuse.inputs.features import largest_values, read_matrix, row_blocks
from survfuse.runtime.arrays import Rows
from survfuse.runtime.errors import InputError
from survfuse.runtime.files import atomic_path
from survfuse.runtime.torch_files import stored_plainly
from survfuse.slide.registry import known_encoder
from survfuse.slide.stated_tile import StatedTile
from survfuse.slide.suffixes import HDF5_SUFFIXES

if TYPE_CHECKING:
    import h5py

_Dtype = np.dtype[np.generic]
_MAPPABLE: dict[_Dtype, torch.dtype] = {
    np.dtype(np.float16): torch.float16,
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float64): torch.float64,
}


class Bag:
    """Tile features of one patient: those of all the patient's slides, in the order of the slides."""

    def __init__(self, parts: Sequence[Tensor], encoder: str | None = None, tile: StatedTile | None = None) -> None:
        """Pool ``parts``, one tensor [N, D] or [1, N, D] a slide, of any floating dtype and usually mapped from a file.

        ``encoder`` is the tile encoder's name and ``tile`` the tile, if a file states them. Raises InputError without
        any part, and for parts that differ in D.
        """
        self._parts = [part[0] if part.ndim == 3 and part.shape[0] == 1 else part for part in parts]
        if not self._parts or any(part.ndim != 2 or not part.is_floating_point() for part in self._parts):
            raise InputError("expected features [N, D] or [1, N, D] of floating-point numbers, of one slide at least")
        lengths = sorted({part.shape[1] for part in self._parts})
        if len(lengths) > 1:
            raise InputError(f"slides with features of different lengths: {', '.join(map(str, lengths))}")
        self._ends = np.cumsum([len(part) for part in self._parts])
        self.encoder = encoder
        self.tile = tile

    @classmethod
    def of(cls, values: Tensor, encoder: str | None = None) -> "Bag":
        """The bag of tile features [N, D] that are in memory already."""
        return cls([values], encoder)

    @property
    def tiles(self) -> int:
        """N, the number of tiles of all slides."""
        return int(self._ends[-1])

    @property
    def slides(self) -> "list[Bag]":
        """A bag for each slide."""
        return [Bag([part], self.encoder, self.tile) for part in self._parts]

    @property
    def dimension(self) -> int:
        """D, the length of a tile's features."""
        return int(self._parts[0].shape[1])

    def rows(self, index: Rows | None = None) -> Tensor:
        """Features [len(index), D] float32 of the tiles numbered in ``index``, in that order; all [N, D] if None.

        The result must not be written to: all tiles of a single float32 slide are the mapped file itself, not a copy.
        Raises IndexError for a tile below 0 or beyond the last.

        >>> Bag([torch.zeros(2, 1), torch.ones(2, 1)]).rows(np.array([3, 0])).tolist()
        [[1.0], [0.0]]
        """
        if index is None:
            parts = [part.float() for part in self._parts]
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        index = np.array(index, dtype=np.int64, order="C")  # a copy: torch takes no reversed or read-only view
        if index.size and not 0 <= index.min() <= index.max() < self.tiles:
            raise IndexError(f"tile {int(index.min())} or {int(index.max())} of a bag of {self.tiles}")
        if len(self._parts) == 1:
            return self._parts[0].index_select(0, torch.from_numpy(index)).float()
        features = torch.empty(len(index), self.dimension)
        part_of = np.searchsorted(self._ends, index, side="right")
        for number, part in enumerate(self._parts):
            places = np.flatnonzero(part_of == number)
            within = index[places] - (self._ends[number] - len(part))
            features[torch.from_numpy(places)] = part.index_select(0, torch.from_numpy(within)).float()
        return features

    def whole(self) -> Tensor:
        """All tiles [N, D], in half precision if every slide's are stored so, else float32.

        The result must not be written to, as for ``rows``.
        """
        if not all(part.element_size() == 2 for part in self._parts):
            return self.rows()
        return self._parts[0] if len(self._parts) == 1 else torch.cat(self._parts)

    def chunks(self, size: int) -> Iterator[Tensor]:
        """All tiles in order, at most ``size`` [≤ size, D] float32 at a time; no chunk spans two slides.

        A chunk must not be written to, as for ``rows``.
        """
        for part in self._parts:
            for start in range(0, len(part), size):
                yield part[start : start + size].float()


def open_bag(paths: Sequence[Path], cache: Path) -> Bag:
    """One patient's bag, mapped from the feature files of the patient's slides (``.h5`` or torch).

    ``cache`` is a folder, created if absent, for copies of files that cannot be mapped and for the record of those
    already checked. Raises InputError that lists every file that cannot be used (another layout, no floating-point
    numbers, no tiles, a tile with NaN or infinite features), and slides that differ in encoder, tile or length D.
    """
    cache.mkdir(parents=True, exist_ok=True)
    parts: list[Tensor] = []
    encoders: dict[str, str] = {}
    tiles: dict[StatedTile, str] = {}
    lengths: dict[int, str] = {}
    problems: list[str] = []
    for path in paths:
        try:
            part, encoder, tile = (
                _open_h5(path, cache) if path.suffix.lower() in HDF5_SUFFIXES else _open_pt(path, cache)
            )
        except InputError as error:
            problems.append(str(error))
            continue
        parts.append(part)
        lengths.setdefault(part.shape[1], path.name)
        if encoder is not None:
            encoders.setdefault(encoder, path.name)
        if tile is not None and not any(map(tile.is_same, tiles)):
            tiles[tile] = path.name
    for first_files, what in ((lengths, "lengths"), (encoders, "encoders"), (tiles, "tiles")):
        if len(first_files) > 1:
            each = ", ".join(f"{value} in {name}" for value, name in first_files.items())
            problems.append(f"slides with features of different {what}: {each}")
    if problems:
        raise InputError("; ".join(problems))
    return Bag(parts, next(iter(encoders), None), next(iter(tiles), None))


def _key(path: Path) -> str:
    """The name in the cache of a file's copy and record; it changes with the file's path, size and time of change."""
    path = path.resolve()
    status = path.stat()
    return hashlib.sha256(os.fsencode(f"{path}\n{status.st_size}\n{status.st_mtime_ns}")).hexdigest()


def _open_pt(path: Path, cache: Path) -> tuple[Tensor, None, None]:
    """Features mapped from a torch file, or from its copy; the file states no encoder and no tile."""
    if not path.is_file():
        raise InputError(f"{path.name}: no such file")
    key = _key(path)
    if not stored_plainly(path):
        copy = cache / f"{key}.npy"
        if not copy.exists():
            values = read_matrix(path)
            dtype = _copy_dtype(values.dtype == torch.float16)
            _copy(copy, _checked(path, row_blocks(values)), tuple(values.shape), dtype)
        return _map_npy(copy), None, None
    values = read_matrix(path, mapped=True)
    _check_once(path, values, cache / f"{key}.checked")
    return values, None, None


def _open_h5(path: Path, cache: Path) -> tuple[Tensor, str | None, StatedTile | None]:
    """Features mapped from an HDF5 file, or from its copy, and the encoder and the tile that the file states."""
    import h5py

    if not path.is_file():
        raise InputError(f"{path.name}: no such file")
    key = _key(path)
    with as_hdf5(path), h5py.File(path, "r") as file:
        dataset = features_dataset(path, file)
        offset, dtype = _offset(path, dataset), dataset.dtype
        shape: tuple[int, int] = dataset.shape[-2:]
        encoder, tile = stated_encoder(file, dataset), stated_tile(path, file, dataset)
    known = known_encoder(encoder) if encoder is not None else None
    if offset is not None:
        values = _map(path, offset, dtype, shape)
        _check_once(path, values, cache / f"{key}.checked")
        return values, known, tile
    copy = cache / f"{key}.npy"
    if not copy.exists():
        _copy(copy, _checked(path, _h5_blocks(path)), shape, _copy_dtype(dtype == np.float16))
    return _map_npy(copy), known, tile


def _offset(path: Path, dataset: "h5py.Dataset") -> int | None:
    """At which byte the dataset's numbers begin if they are contiguous and torch can map them; None otherwise."""
    offset = dataset.id.get_offset() if dataset.chunks is None and not dataset.is_virtual else None
    if offset is None or dataset.dtype not in _MAPPABLE or offset % dataset.dtype.itemsize:
        return None
    # A truncated file: reading it would raise an error, but mapping it would kill the process.
    if offset + dataset.size * dataset.dtype.itemsize > path.stat().st_size:
        raise InputError(f"{path.name}: ends before its features do")
    return int(offset)


def _h5_blocks(path: Path) -> Iterator[Tensor]:
    """The features of an HDF5 file, some rows at a time."""
    import h5py

    with as_hdf5(path), h5py.File(path, "r") as file:
        yield from h5_blocks(file[features_name(file)])


def _checked(path: Path, blocks: Iterator[Tensor]) -> Iterator[Tensor]:
    """``blocks`` unchanged; raises InputError at the first tile whose features are not finite in float32."""
    done = 0
    for block in blocks:
        largest_values(path, block.float(), done)
        yield block
        done += len(block)


def _check_once(path: Path, values: Tensor, record: Path) -> None:
    """Check mapped features unless the file ``record`` exists; create it."""
    if record.exists():
        return
    for _ in _checked(path, row_blocks(values)):
        pass
    record.touch()


def _copy_dtype(half: bool) -> _Dtype:
    """The type of a copy's numbers: half precision stays, all else becomes what networks take."""
    return np.dtype(np.float16) if half else np.dtype(np.float32)


def _copy(copy: Path, blocks: Iterator[Tensor], shape: tuple[int, ...], dtype: _Dtype) -> None:
    """Write ``blocks`` to ``copy`` as .npy of ``shape`` and ``dtype``, whole or not at all."""
    with atomic_path(copy) as temporary, temporary.open("wb") as file:
        header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            values = block if dtype == np.float16 else block.float()
            file.write(np.ascontiguousarray(values.numpy()).data)
        file.flush()
        os.fsync(file.fileno())


def _map_npy(path: Path) -> Tensor:
    """The numbers in a .npy file, mapped."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        offset = file.tell()
    return _map(path, offset, dtype, shape)


def _map(path: Path, offset: int, dtype: _Dtype, shape: tuple[int, ...]) -> Tensor:
    """Numbers [shape] mapped from a file; they begin at byte ``offset``, a multiple of their size.

    Unlike numpy, torch keeps no file open for a mapping: a cohort can have more slides than a process may open files.
    """
    first, number = offset // dtype.itemsize, int(np.prod(shape))
    values = torch.from_file(str(path), shared=False, size=first + number, dtype=_MAPPABLE[dtype])
    return values[first:].view(shape)
