"""One slide's tile features in a file: a reference that its header gives, read when they are used.

Numbers are mapped, so the operating system can drop a page at any time, and no file stays open. Files that cannot be
mapped directly (chunked or compressed HDF5, torch's legacy format) are copied once, when they are first read, into a
cache folder as .npy. Every value is checked once to be finite; the cache records that, too, by the file's path, size
and time of change. Files in the cache may be deleted whenever no run uses them.

A reference is small to pickle: another process maps the same file, and checks that it is the same.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from survfuse.cohort.feature_header import FeatureHeader, read_header
from survfuse.inputs.feature_hdf5 import as_hdf5, features_name, h5_blocks
from survfuse.inputs.features import largest_values, read_matrix, row_blocks
from survfuse.runtime.errors import EnvironmentFailure, InputError
from survfuse.runtime.files import atomic_path
from survfuse.runtime.mapped import expect
from survfuse.runtime.tensors import all_finite
from survfuse.slide.suffixes import HDF5_SUFFIXES

_PIECE = 2**22  # bytes read ahead at a time
_UNSEEN = (FileNotFoundError, NotADirectoryError, PermissionError)


@dataclass(eq=False)
class FeatureFile:
    """Tile features [N, D] of one slide, which ``open_features`` found in the file ``path``.

    Everything that reads them raises EnvironmentFailure for a file that is not there any more, and InputError for one
    that has changed since and for features that are NaN or infinite.
    """

    path: Path  # absolute
    cache: Path  # absolute; a folder for the copy and for the record that all values are finite
    size: int  # bytes of the file
    changed: int  # its time of change, ns
    key: str  # the name in the cache of its copy and record
    header: FeatureHeader
    checked: bool  # whether all values are known to be finite
    _mapped: Tensor | None = field(default=None, repr=False)
    _scattered: bool = field(default=False, repr=False)  # whether the system expects rows here and there

    def __len__(self) -> int:
        return self.header.shape[0]

    def __getstate__(self) -> dict[str, object]:
        """Everything but the mapping, which another process makes for itself."""
        return vars(self) | {"_mapped": None, "_scattered": False}

    @property
    def shape(self) -> tuple[int, int]:
        """[N, D]."""
        return self.header.shape

    @property
    def dtype(self) -> torch.dtype:
        """The type of the features once they are mapped."""
        return self.header.dtype

    @property
    def _copy_path(self) -> Path:
        return self.cache / f"{self.key}.npy"

    @property
    def unchecked_bytes(self) -> int:
        """How many bytes must be read to check the features; 0 once they are known to be finite."""
        return 0 if self.checked else self.header.bytes

    def check(self) -> None:
        """Check that all features are finite, unless that is known, and record it; make the copy if there is one."""
        if not self.checked:
            for _ in self.blocks(len(self)):
                pass

    def all(self) -> Tensor:
        """All features [N, D], mapped."""
        self.check()
        return self._values()

    def select(self, index: Tensor) -> Tensor:
        """Features [len(index), D] of the tiles numbered in ``index``, in that order."""
        values = self._values(scattered=True).index_select(0, index)
        if not self.checked and not all_finite(values.float()):
            for place, tile in enumerate(index.tolist()):
                largest_values(self.path, values[place : place + 1].float(), tile)
        return values

    def blocks(self, size: int) -> Iterator[Tensor]:
        """All features in order, mapped, at most ``size`` [≤ size, D] at a time."""
        values, checked = self._values(), self.checked
        for start in range(0, len(self), size):
            block = values[start : start + size]
            if not checked:
                for _ in _finite(self.path, row_blocks(block), start):
                    pass
            yield block
        if not checked:
            self._record()

    def warm(self) -> None:
        """Read the file, or its copy, once from beginning to end, so that the system has it in memory.

        What cannot be read is left to whoever uses the features.
        """
        copy = self._copy_path
        with suppress(OSError), (copy if copy.exists() else self.path).open("rb", buffering=0) as file:
            piece = memoryview(bytearray(_PIECE))
            while file.readinto(piece):
                pass

    def _values(self, scattered: bool = False) -> Tensor:
        """All features, mapped; the copy is made, and checked, if there is none yet.

        ``scattered`` says whether rows here and there are wanted, or all.
        """
        if not self.header.copied:
            self._check_unchanged()
        if self._mapped is None:
            self._mapped = self._map()
            self._scattered = False
        if scattered != self._scattered:
            expect(self._mapped, scattered)
            self._scattered = scattered
        return self._mapped

    def _map(self) -> Tensor:
        if self.header.copied:
            copy = self._copy_path
            if not copy.exists():
                self._copy(copy)
            self.checked = True
            return _map_npy(copy)
        if self.header.offset is None:
            return read_matrix(self.path, mapped=True)
        return _map(self.path, self.header.offset, self.dtype, self.shape)

    def _check_unchanged(self) -> None:
        """Raise InputError if the file is not the one that was opened, by its size and time of change."""
        try:
            status = self.path.stat()
        except _UNSEEN as cause:
            if self._mapped is not None:  # what is mapped stays when its file is removed
                return
            text = f"{self.path}: cannot be read ({cause.strerror}); it was, when it was opened"
            raise EnvironmentFailure(text) from cause
        if (status.st_size, status.st_mtime_ns) != (self.size, self.changed):
            raise InputError(f"{self.path}: has changed since it was opened")

    def _copy(self, copy: Path) -> None:
        """Write the features to ``copy`` as .npy, whole or not at all; the file must stay as it was opened."""
        self._check_unchanged()
        self.cache.mkdir(parents=True, exist_ok=True)
        half = self.dtype == torch.float16
        with atomic_path(copy) as temporary, temporary.open("wb") as file:
            header = {"descr": np.dtype(np.float16 if half else np.float32).str, "fortran_order": False}
            np.lib.format.write_array_header_1_0(file, header | {"shape": self.shape})
            for block in _finite(self.path, self._file_blocks()):
                values = block if half else block.float()
                file.write(np.ascontiguousarray(values.numpy()).data)
            file.flush()
            os.fsync(file.fileno())
            self._check_unchanged()

    def _file_blocks(self) -> Iterator[Tensor]:
        """The features of a file that cannot be mapped, some rows at a time."""
        if self.path.suffix.lower() in HDF5_SUFFIXES:
            return _h5_blocks(self.path)
        return row_blocks(read_matrix(self.path))

    def _record(self) -> None:
        """Keep in the cache that every value is finite."""
        self.checked = True
        self.cache.mkdir(parents=True, exist_ok=True)
        (self.cache / f"{self.key}.checked").touch()


def open_features(path: Path, cache: Path) -> FeatureFile:
    """The features in a file, ``.h5`` or torch, as its header describes them; no feature is read.

    ``cache`` is the folder for a copy, if the file cannot be mapped, and for the record that its values are finite.
    Raises InputError as ``read_header`` does.
    """
    header, status = read_header(path), path.stat()
    name = os.fsencode(f"{path.resolve()}\n{status.st_size}\n{status.st_mtime_ns}")
    key = hashlib.sha256(name).hexdigest()
    checked = (cache / f"{key}{'.npy' if header.copied else '.checked'}").exists()
    return FeatureFile(path.absolute(), cache.absolute(), status.st_size, status.st_mtime_ns, key, header, checked)


def _h5_blocks(path: Path) -> Iterator[Tensor]:
    """The features of an HDF5 file, some rows at a time."""
    import h5py

    with as_hdf5(path), h5py.File(path, "r") as file:
        yield from h5_blocks(file[features_name(file)])


def _finite(path: Path, blocks: Iterator[Tensor], first: int = 0) -> Iterator[Tensor]:
    """``blocks`` unchanged; raises InputError at the first tile whose features are not finite in float32.

    ``first`` is the number of the blocks' first tile in its file.
    """
    for block in blocks:
        largest_values(path, block.float(), first)
        yield block
        first += len(block)


def _map_npy(path: Path) -> Tensor:
    """The numbers in a .npy file that ``_copy`` wrote, mapped."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        offset = file.tell()
    return _map(path, offset, torch.float16 if dtype == np.float16 else torch.float32, shape)


def _map(path: Path, offset: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Numbers [shape] mapped from a file; they begin at byte ``offset``, a multiple of their size.

    Unlike numpy, torch keeps no file open for a mapping: a cohort can have more slides than a process may open files.
    """
    first, number = offset // dtype.itemsize, int(np.prod(shape))
    values = torch.from_file(str(path), shared=False, size=first + number, dtype=dtype)
    return values[first:].view(shape)
