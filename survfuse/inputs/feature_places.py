"""Where the tiles of a feature file lie on their slide, as the file states it or as their spacing shows."""

import math
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from survfuse.inputs.feature_hdf5 import as_hdf5, features_dataset, own_object, stated, stated_number, tile_coordinates
from survfuse.runtime.errors import InputError, brief
from survfuse.runtime.watch import reading
from survfuse.slide.settings import PLAUSIBLE_MPP
from survfuse.slide.suffixes import HDF5_SUFFIXES
from survfuse.slide.tile_places import TilePlaces

if TYPE_CHECKING:
    import h5py

MOST_PX = 2**21  # of a slide's side; 76 mm at 0.1 µm per pixel are 760,000
STATED, BY_SPACING = "as the file states it", "the usual distance between tiles"


def file_places(path: Path) -> tuple[TilePlaces, str] | None:
    """The places of the tiles in ``path``, and in words where their side comes from.

    ``path`` is an HDF5 file of features with coordinates, or a .npy file of coordinates [N, 2]. None if no coordinates
    are there or the tiles' side is not known. Raises InputError for a file that cannot be read.
    """
    with reading(path.name):
        if path.suffix.lower() not in HDF5_SUFFIXES:
            return places_of(read_coordinates(path))
        import h5py

        with as_hdf5(path), h5py.File(path, "r") as file:
            origins = tile_coordinates(file, features_dataset(path, file).shape[-2])
            found = places_of(origins, *_stated(file)) if origins is not None else None
            return (replace(found[0], mpp=_stated_mpp(file)), found[1]) if found is not None else None


def places_of(
    origins: NDArray[np.int64], side: float = 0.0, size: tuple[int, int] = (0, 0)
) -> tuple[TilePlaces, str] | None:
    """The places of tiles at level-0 ``origins`` [N, 2], and in words where their side comes from.

    Without a ``side`` it is the most frequent distance between neighbours in a row or column; None if there are none.
    Without a ``size`` of the slide, it ends where the tiles end.

    >>> places, words = places_of(np.array([[0, 0], [448, 0], [448, 448], [1344, 448]]))
    >>> places.side, places.size, words
    ((448.0, 448.0), (1792, 896), 'the usual distance between tiles')
    """
    words = STATED if side else BY_SPACING
    side = side or _usual_distance(origins)
    if not side or origins.min() < 0 or origins.max() > MOST_PX or not 1.0 <= side <= MOST_PX:
        return None
    last = origins.max(axis=0)
    # A last tile may extend beyond the slide, but begins on it.
    width, height = (
        given if begin < given <= MOST_PX else math.ceil(begin + side)
        for given, begin in zip(size, last.tolist(), strict=True)
    )
    return TilePlaces(origins, (side, side), (width, height)), words


def read_coordinates(path: Path) -> NDArray[np.int64]:
    """Level-0 coordinates [N, 2] of tiles in a .npy file; raises InputError for anything else."""
    try:
        values = np.load(path, allow_pickle=False, mmap_mode="r")
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as cause:
        raise InputError(f"{path.name}: cannot be read as coordinates ({brief(str(cause), 200)})") from cause
    if (
        not isinstance(values, np.ndarray)
        or values.ndim != 2
        or values.shape[1] != 2
        or values.dtype.kind not in "iuf"
        or not np.isfinite(values).all()
    ):
        raise InputError(f"{path.name}: expected coordinates [N, 2], found {_described(values)}")
    if len(values) and max(abs(float(values.min())), abs(float(values.max()))) > MOST_PX:
        raise InputError(f"{path.name}: expected coordinates of at most {MOST_PX:,} px")
    coordinates: NDArray[np.int64] = np.rint(values).astype(np.int64)
    return coordinates


def _stated(file: "h5py.File") -> tuple[float, tuple[int, int]]:
    """The side of a tile and the size of the slide, in level-0 pixels as TRIDENT states them; 0 for what is not."""
    holders = [holder for holder in (own_object(file, "coords"), file) if holder is not None]

    side, width, height = (
        stated_number(name, *holders) for name in ("patch_size_level0", "level0_width", "level0_height")
    )
    return side, (int(width), int(height))


def _stated_mpp(file: "h5py.File") -> tuple[float, float] | None:
    """µm per level-0 pixel, x and y, as this package states it."""
    value = np.asarray(stated(("mpp",), file))
    low, high = PLAUSIBLE_MPP
    sound = value.shape == (2,) and value.dtype.kind == "f" and bool(((value >= low) & (value <= high)).all())
    return (float(value[0]), float(value[1])) if sound else None


def _described(values: object) -> str:
    return f"{values.dtype} {list(values.shape)}" if isinstance(values, np.ndarray) else "several arrays"


def _usual_distance(origins: NDArray[np.int64]) -> float:
    """The most frequent distance between neighbours in a row or column of tiles; 0 if there are none."""
    gaps: list[NDArray[np.int64]] = []
    for along, across in ((0, 1), (1, 0)):
        order = np.lexsort((origins[:, along], origins[:, across]))
        inside = np.diff(origins[order, across]) == 0
        steps = np.diff(origins[order, along])[inside]
        gaps.append(steps[steps > 0])
    distances, times = np.unique(np.concatenate(gaps), return_counts=True)
    return float(distances[times.argmax()]) if len(distances) else 0.0
