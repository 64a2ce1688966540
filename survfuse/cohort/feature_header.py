"""What a file of tile features holds, by its header: shape, type, layout, tile encoder and tile."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from survfuse.inputs.feature_hdf5 import as_hdf5, features_dataset, stated_encoder
from survfuse.inputs.feature_tile import stated_tile
from survfuse.inputs.features import read_matrix
from survfuse.runtime.errors import InputError
from survfuse.runtime.torch_files import stored_plainly
from survfuse.slide.registry import known_encoder
from survfuse.slide.stated_tile import StatedTile
from survfuse.slide.suffixes import HDF5_SUFFIXES

if TYPE_CHECKING:
    import h5py

_MAPPABLE: dict[np.dtype[np.generic], torch.dtype] = {
    np.dtype(np.float16): torch.float16,
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float64): torch.float64,
}


@dataclass(frozen=True)
class FeatureHeader:
    """What a file's header says of its features [N, D]."""

    shape: tuple[int, int]
    dtype: torch.dtype  # of the features once they are mapped
    offset: int | None  # at which byte the numbers of an HDF5 file begin; None if it is copied, and for torch files
    copied: bool  # whether they cannot be mapped from the file itself
    encoder: str | None = None  # tile encoder's name, if the file states it
    tile: StatedTile | None = None  # if the file states it

    @property
    def bytes(self) -> int:
        """How many bytes the features have once they are mapped."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize


def read_header(path: Path) -> FeatureHeader:
    """The header of a file of tile features, ``.h5`` or torch; no feature is read.

    Raises InputError for another layout, no floating-point numbers, no tiles, and a file that ends before its features.
    """
    if not path.is_file():
        raise InputError(f"{path.name}: no such file")
    return _hdf5(path) if path.suffix.lower() in HDF5_SUFFIXES else _torch(path)


def _torch(path: Path) -> FeatureHeader:
    if stored_plainly(path):
        values = read_matrix(path, mapped=True)
        return FeatureHeader((len(values), values.shape[1]), values.dtype, None, copied=False)
    values = read_matrix(path, numbers=False)
    return FeatureHeader((len(values), values.shape[1]), _copy_dtype(values.dtype == torch.float16), None, copied=True)


def _hdf5(path: Path) -> FeatureHeader:
    import h5py

    with as_hdf5(path), h5py.File(path, "r") as file:
        dataset = features_dataset(path, file)
        rows, length = dataset.shape[-2:]
        offset = _offset(path, dataset)
        dtype = _MAPPABLE[dataset.dtype] if offset is not None else _copy_dtype(dataset.dtype == np.float16)
        encoder, tile = stated_encoder(file, dataset), stated_tile(path, file, dataset)
    known = known_encoder(encoder) if encoder is not None else None
    return FeatureHeader((rows, length), dtype, offset, offset is None, known, tile)


def _offset(path: Path, dataset: "h5py.Dataset") -> int | None:
    """At which byte the dataset's numbers begin if they are contiguous and torch can map them; None otherwise."""
    offset = dataset.id.get_offset() if dataset.chunks is None and not dataset.is_virtual else None
    if offset is None or dataset.dtype not in _MAPPABLE or offset % dataset.dtype.itemsize:
        return None
    # A truncated file: reading it would raise an error, but mapping it would kill the process.
    if offset + dataset.size * dataset.dtype.itemsize > path.stat().st_size:
        raise InputError(f"{path.name}: ends before its features do")
    return int(offset)


def _copy_dtype(half: bool) -> torch.dtype:
    """The type of a copy's numbers: half precision stays, all else becomes what networks take."""
    return torch.float16 if half else torch.float32
