"""Tile features on disk, in the field's layouts.

HDF5 as CLAM and TRIDENT write it: ``features`` [N, D] or [1, N, D] and ``coords`` [N, 2] in level-0 pixels, with
TRIDENT's attributes. Torch files as CHIMERA published them: one tensor [N, D].
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from survfuse.errors import EnvironmentFailure, InputError, SurvfuseError, named
from survfuse.files import whole
from survfuse.log import count

if TYPE_CHECKING:
    import h5py
    from torch import Tensor


@dataclass(frozen=True)
class Features:
    """Tile features [N, D] float32, and what the file says of them."""

    values: "Tensor"
    half: bool  # whether they are stored in half precision
    encoder: str | None  # as the file names it
    coordinates: NDArray[np.int64] | None  # [N, 2] level-0 x, y


def read_features(path: Path) -> Features:
    """Read ``.h5`` or ``.pt``; raises InputError for another layout, no tiles, or values that are not finite."""
    from survfuse.weights import all_finite

    features = _read_h5(path) if path.suffix.lower() == ".h5" else _read_pt(path)
    values = features.values
    if not all_finite(values):
        row = int((~values.isfinite().all(dim=1)).nonzero()[0])
        raise InputError(f"{path.name}: features of tile {row} are NaN or infinite")
    return features


def check_encoder(features: Features, name: str, encoder: str, aliases: tuple[str, ...], dimension: int) -> None:
    """Raise InputError where ``features`` are not of the encoder that the bundle was trained on."""
    found = features.values.shape[1]
    if found != dimension:
        raise InputError(f"{name}: features of length {found}, but the bundle takes {encoder}'s of length {dimension}")
    if features.encoder is not None and features.encoder not in (encoder, *aliases):
        raise InputError(f"{name}: features of {features.encoder!r}, but the bundle takes those of {encoder!r}")


def write_features(
    path: Path, values: "Tensor", coordinates: NDArray[np.int64], attributes: dict[str, Any], tile: dict[str, Any]
) -> None:
    """Write features [N, D] and coordinates [N, 2] as CLAM and TRIDENT read them, whole or not at all.

    ``attributes`` describe the features (encoder, slide, mpp); ``tile`` describes the grid in TRIDENT's terms.
    """
    import h5py

    with whole(path) as temporary, h5py.File(temporary, "w") as file:
        features = file.create_dataset("features", data=values.numpy())
        coords = file.create_dataset("coords", data=coordinates)
        for holder in (file, features):
            holder.attrs.update(attributes)
        coords.attrs.update(tile)


def _read_h5(path: Path) -> Features:
    import h5py
    import torch

    with as_hdf5(path), h5py.File(path, "r") as file:
        dataset = features_dataset(path, file)
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
            values = torch.from_numpy(np.asarray(dataset[()], dtype=np.float32))
        coords = file.get("coords")
        coordinates = np.asarray(coords[()]) if isinstance(coords, h5py.Dataset) else None
        half = dataset.dtype.itemsize == 2
        return Features(two_dimensional(path, values), half, stated_encoder(file, dataset), coordinates)


@contextmanager
def as_hdf5(path: Path) -> Iterator[None]:
    """What h5py raises for a file it cannot read, as InputError."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError) as cause:
        raise InputError(f"{path.name}: cannot be read as HDF5 ({cause})") from cause


def features_dataset(path: Path, file: "h5py.File") -> "h5py.Dataset":
    """The file's dataset of features, [N, D] or [1, N, D], which fits its coordinates; raises InputError for others."""
    import h5py

    dataset, coords = file.get("features"), file.get("coords")
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != "f" or dataset.shape is None:
        raise InputError(f"{path.name}: expected a dataset 'features' of floating-point numbers")
    shape = dataset.shape
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] != 1) or shape[-1] == 0:
        raise InputError(f"{path.name}: expected features [N, D] or [1, N, D], found shape {list(shape)}")
    if shape[-2] == 0:
        raise InputError(f"{path.name}: holds no tiles")
    if isinstance(coords, h5py.Dataset) and coords.shape[-2:] != (shape[-2], 2):
        raise InputError(f"{path.name}: {count(shape[-2], 'tile')}, but coords of shape {coords.shape}")
    return dataset


def stated_encoder(file: "h5py.File", dataset: "h5py.Dataset") -> str | None:
    """The tile encoder's name, as the file or its dataset of features gives it; None where neither does."""
    encoder = {**file.attrs, **dataset.attrs}.get("encoder")
    if isinstance(encoder, np.ndarray) and encoder.size == 1:
        encoder = encoder.item()
    if isinstance(encoder, bytes):  # HDF5 has strings of fixed and of variable length
        encoder = encoder.decode("utf-8", errors="replace")
    return str(encoder) if encoder is not None else None


def _read_pt(path: Path) -> Features:
    values = read_matrix(path)
    return Features(values.float(), values.element_size() == 2, None, None)


def read_matrix(path: Path, mapped: bool = False) -> "Tensor":
    """Features [N, D] of a torch file, of the floating dtype it has; raises InputError for anything else.

    ``mapped`` leaves them in the file, which must be of torch's zip format, until they are looked at.
    """
    values = read_tensor(path, InputError, mapped)
    if not values.is_floating_point():
        raise InputError(f"{path.name}: expected a tensor of floating-point numbers, found {values.dtype}")
    return two_dimensional(path, values.detach())


def read_tensor(path: Path, error: type[SurvfuseError], mapped: bool = False) -> "Tensor":
    """The one tensor in a torch file; no code in it is run. Raises ``error`` for anything else."""
    import torch

    value = load_torch(path, error, mapped)
    if not isinstance(value, torch.Tensor):
        raise error(f"{path.name}: expected a tensor, found {type(value).__name__}")
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        raise error(f"{path.name}: expected a dense tensor, found {value.layout}, {value.dtype}")
    return value


def load_torch(path: Path, error: type[SurvfuseError], mapped: bool = False) -> Any:
    """What a torch file holds, restricted to tensors and plain containers; raises ``error`` for any other file."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as cause:
        # The restricted unpickler, given arbitrary bytes, fails in whatever way those bytes lead it to. A failing
        # machine is another matter.
        if isinstance(named(cause), EnvironmentFailure) and not isinstance(cause, FileNotFoundError):
            raise
        raise error(f"{path.name}: cannot be read as a torch file ({type(cause).__name__})") from cause


def two_dimensional(path: Path, values: "Tensor") -> "Tensor":
    """[N, D] from [N, D] or [1, N, D], N and D at least 1; raises InputError for other shapes."""
    if values.ndim == 3 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != 2 or values.shape[1] == 0:
        raise InputError(f"{path.name}: expected features [N, D] or [1, N, D], found shape {list(values.shape)}")
    if len(values) == 0:
        raise InputError(f"{path.name}: holds no tiles")
    return values
