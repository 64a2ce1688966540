"""Tile features that are too large to be held: rows are read from their file, or converted, when they are used."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from survfuse.inputs.feature_hdf5 import as_hdf5, features_name, h5_rows, rows_at_a_time
from survfuse.runtime.row_source import RowSource

if TYPE_CHECKING:
    import h5py


class StoredFeatures(RowSource):
    """Features of an HDF5 file, float16 or else float32. The block that was read last is kept.

    Blocks consist of whole chunks, so that one pass over the rows unpacks each chunk once.
    """

    def __init__(self, path: Path, dataset: "h5py.Dataset") -> None:
        rows, length = dataset.shape[-2:]
        super().__init__(rows, length, torch.float16 if dataset.dtype.itemsize == 2 else torch.float32)
        self._path = path
        self._size = rows_at_a_time(dataset)
        self._last: tuple[int, Tensor] | None = None

    def between(self, start: int, stop: int) -> Tensor:
        """The rows from ``start`` to before ``stop``; raises InputError if they cannot be read."""
        parts = []
        for first in range(start - start % self._size, stop, self._size):
            parts.append(self._block(first)[max(start - first, 0) : stop - first])
        return parts[0] if len(parts) == 1 else torch.cat(parts) if parts else torch.empty(0, self.shape[1])

    def _block(self, first: int) -> Tensor:
        import h5py

        if self._last is None or self._last[0] != first:
            self._last = None
            with as_hdf5(self._path), h5py.File(self._path, "r") as file:
                self._last = first, h5_rows(file[features_name(file)], first, first + self._size)
        return self._last[1]


class ConvertedFeatures(RowSource):
    """Features mapped from a torch file in a type or order that networks do not take, converted to ``dtype``."""

    def __init__(self, stored: Tensor, dtype: torch.dtype) -> None:
        super().__init__(len(stored), stored.shape[1], dtype)
        self._stored = stored

    def between(self, start: int, stop: int) -> Tensor:
        """The rows from ``start`` to before ``stop``."""
        return self._stored[start:stop].to(self.dtype).contiguous()
