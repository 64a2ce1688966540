"""Bags larger than memory: tile features mapped from their files, read where they are asked for.

A mapped page belongs to the file and can be dropped at any time, so a cohort's features weigh on memory only while
they are looked at. What cannot be mapped as it lies (chunked or compressed HDF5, torch's legacy format) is copied once
into a cache folder as .npy. Every value is checked once to be finite; the cache remembers that too, under the file's
path, size and time of change. Files of the cache may be deleted whenever no run uses them.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from survfuse.inputs.features import (
    as_hdf5,
    features_dataset,
    h5_blocks,
    largest_values,
    read_matrix,
    row_blocks,
    stated_encoder,
)
from survfuse.runtime.errors import InputError
from survfuse.runtime.files import atomic_path
from survfuse.runtime.tensors import stored_plainly
from survfuse.slide.registry import ENCODERS

if TYPE_CHECKING:
    import h5py


_MAPPABLE = {np.dtype(np.float16): torch.float16, np.dtype(np.float32): torch.float32}
_MAPPABLE |= {np.dtype(np.float64): torch.float64}


class Bag:
    """Tile features of one patient, all of the patient's slides pooled, in the order of the slides."""

    def __init__(self, parts: Sequence[Tensor], encoder: str | None = None) -> None:
        """``parts``: one tensor [N, D] or [1, N, D] a slide, of any floating dtype, as a rule mapped from a file.

        ``encoder``: the tile encoder's name where a file states it. Raises InputError for no part, or parts that
        are not of one D.
        """
        self._parts = [part[0] if part.ndim == 3 and part.shape[0] == 1 else part for part in parts]
        if not self._parts or any(part.ndim != 2 or not part.is_floating_point() for part in self._parts):
            raise InputError("expected features [N, D] or [1, N, D] of floating-point numbers, of one slide at least")
        lengths = sorted({part.shape[1] for part in self._parts})
        if len(lengths) > 1:
            raise InputError(f"slides with features of different lengths: {', '.join(map(str, lengths))}")
        self._ends = np.cumsum([len(part) for part in self._parts])
        self.encoder = encoder

    @classmethod
    def of(cls, values: Tensor, encoder: str | None = None) -> "Bag":
        """A bag [N, D] that is in memory already."""
        return cls([values], encoder)

    @property
    def tiles(self) -> int:
        """N, over all slides."""
        return int(self._ends[-1])

    @property
    def dimension(self) -> int:
        """D, the length of a tile's features."""
        return int(self._parts[0].shape[1])

    def rows(self, index: NDArray[np.int64] | None = None) -> Tensor:
        """Features [len(index), D] float32 of the tiles numbered in ``index``, in its order; None takes all [N, D].

        Raises IndexError for a tile below 0 or beyond the last. All tiles of one float32 slide are the mapping
        itself and not a copy: the result is to be read, not written to.
        """
        if index is None:
            parts = [part.float() for part in self._parts]
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        index = np.array(index, dtype=np.int64, order="C")  # torch takes no reversed or read-only view
        if index.size and not 0 <= index.min() <= index.max() < self.tiles:
            raise IndexError(f"tile {int(index.min())} or {int(index.max())} of a bag of {self.tiles}")
        if len(self._parts) == 1:
            return self._parts[0].index_select(0, torch.from_numpy(index)).float()
        found = torch.empty(len(index), self.dimension)
        part_of = np.searchsorted(self._ends, index, side="right")
        for number, part in enumerate(self._parts):
            places = np.flatnonzero(part_of == number)
            within = index[places] - (self._ends[number] - len(part))
            found[torch.from_numpy(places)] = part.index_select(0, torch.from_numpy(within)).float()
        return found

    def chunks(self, size: int) -> Iterator[Tensor]:
        """All tiles in order, [≤ size, D] float32 at a time; to be read, not written to. No chunk spans two slides."""
        for part in self._parts:
            for start in range(0, len(part), size):
                yield part[start : start + size].float()


def open_bag(paths: Sequence[Path], cache: Path) -> Bag:
    """One patient's bag from the feature files of the patient's slides, ``.h5`` or torch, mapped and not read.

    ``cache`` is a folder, made where it is absent, for copies of what cannot be mapped and for the record of what was
    checked. Raises InputError that lists every file that cannot be used (another layout, no floating-point numbers,
    no tiles, a tile with NaN or infinite features), or slides whose encoders or lengths D differ.
    """
    cache.mkdir(parents=True, exist_ok=True)
    parts: list[Tensor] = []
    encoders: dict[str, str] = {}
    lengths: dict[int, str] = {}
    problems = []
    for path in paths:
        try:
            part, encoder = _open_h5(path, cache) if path.suffix.lower() == ".h5" else _open_pt(path, cache)
        except InputError as error:
            problems.append(str(error))
            continue
        parts.append(part)
        lengths.setdefault(part.shape[1], path.name)
        if encoder is not None:
            encoders.setdefault(encoder, path.name)
    for found, what in ((lengths, "lengths"), (encoders, "encoders")):
        if len(found) > 1:
            each = ", ".join(f"{value} in {name}" for value, name in found.items())
            problems.append(f"slides with features of different {what}: {each}")
    if problems:
        raise InputError("; ".join(problems))
    return Bag(parts, next(iter(encoders), None))


def known_encoder(name: str) -> str:
    """The registry's name for an encoder that a file names, where the registry knows it under that name or another."""
    return next((spec.name for spec in ENCODERS.values() if name in (spec.name, *spec.aliases)), name)


def _key(path: Path) -> str:
    """What a file's copy and record are kept under: another path, size or time of change is another file."""
    path = path.resolve()
    found = path.stat()
    return hashlib.sha256(os.fsencode(f"{path}\n{found.st_size}\n{found.st_mtime_ns}")).hexdigest()


def _open_pt(path: Path, cache: Path) -> tuple[Tensor, None]:
    if not path.is_file():
        raise InputError(f"{path.name}: no such file")
    key = _key(path)
    if not stored_plainly(path):
        copy = cache / f"{key}.npy"
        if not copy.exists():
            values = read_matrix(path)
            _copy(copy, _checked(path, row_blocks(values)), tuple(values.shape), _kept(values.dtype == torch.float16))
        return _map_npy(copy), None
    values = read_matrix(path, mapped=True)
    _check_once(path, values, cache / f"{key}.checked")
    return values, None


def _open_h5(path: Path, cache: Path) -> tuple[Tensor, str | None]:
    import h5py

    if not path.is_file():
        raise InputError(f"{path.name}: no such file")
    key = _key(path)
    with as_hdf5(path), h5py.File(path, "r") as file:
        dataset = features_dataset(path, file)
        offset, dtype = _offset(path, dataset), dataset.dtype
        shape: tuple[int, int] = dataset.shape[-2:]
        encoder = stated_encoder(file, dataset)
    known = known_encoder(encoder) if encoder is not None else None
    if offset is not None:
        values = _map(path, offset, dtype, shape)
        _check_once(path, values, cache / f"{key}.checked")
        return values, known
    copy = cache / f"{key}.npy"
    if not copy.exists():
        _copy(copy, _checked(path, _h5_blocks(path)), shape, _kept(dtype == np.float16))
    return _map_npy(copy), known


def _offset(path: Path, dataset: "h5py.Dataset") -> int | None:
    """Where in the file the dataset's numbers lie in one piece, as torch can map them; None where they do not."""
    offset = dataset.id.get_offset() if dataset.chunks is None and not dataset.is_virtual else None
    if offset is None or dataset.dtype not in _MAPPABLE or offset % dataset.dtype.itemsize:
        return None
    # A torn file, which reading would meet as an error and a mapping as the end of the process.
    if offset + dataset.size * dataset.dtype.itemsize > path.stat().st_size:
        raise InputError(f"{path.name}: ends before its features do")
    return int(offset)


def _h5_blocks(path: Path) -> Iterator[Tensor]:
    import h5py

    with as_hdf5(path), h5py.File(path, "r") as file:
        yield from h5_blocks(file["features"])


def _checked(path: Path, blocks: Iterator[Tensor]) -> Iterator[Tensor]:
    """``blocks`` passed on; raises InputError at the first tile that float32 does not hold as finite numbers."""
    done = 0
    for block in blocks:
        largest_values(path, block.float(), done)
        yield block
        done += len(block)


def _check_once(path: Path, values: Tensor, record: Path) -> None:
    """Check mapped features, unless ``record`` says that they were; leaves that record."""
    if record.exists():
        return
    for _ in _checked(path, row_blocks(values)):
        pass
    record.touch()


def _kept(half: bool) -> np.dtype[Any]:
    """The type a copy keeps: half precision as it is, everything else as networks take it."""
    return np.dtype(np.float16 if half else np.float32)


def _copy(copy: Path, blocks: Iterator[Tensor], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    with atomic_path(copy) as temporary, temporary.open("wb") as file:
        header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            values = block if dtype == np.float16 else block.float()
            file.write(np.ascontiguousarray(values.numpy()).data)
        file.flush()
        os.fsync(file.fileno())


def _map_npy(path: Path) -> Tensor:
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        offset = file.tell()
    return _map(path, offset, dtype, shape)


def _map(path: Path, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Tensor:
    """Numbers [shape] that lie in a file at ``offset`` bytes, a multiple of their size.

    torch's mapping, unlike numpy's, keeps no file open: a cohort has more slides than a process may open files.
    """
    first, number = offset // dtype.itemsize, int(np.prod(shape))
    values = torch.from_file(str(path), shared=False, size=first + number, dtype=_MAPPABLE[dtype])
    return values[first:].view(shape)
