"""Slide-level vectors on disk and in memory: what TITAN, PRISM, CHIEF or GigaPath make of a whole slide.

HDF5 as TRIDENT writes it: ``features`` [V], in a folder ``slide_features_<encoder>``; or as STAMP does: ``feats`` with
``feat_type`` slide or patient, and ``encoder``. Torch files: one tensor [V]. [1, V] and [1, 1, V] are taken as well.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from survfuse.inputs.feature_hdf5 import as_hdf5, check_written, float_dataset, stated
from survfuse.inputs.features import check_sums
from survfuse.runtime.errors import InputError, NoTissueError
from survfuse.runtime.files import atomic_path
from survfuse.runtime.log import count, listing
from survfuse.runtime.watch import reading
from survfuse.slide.suffixes import FEATURE_SUFFIXES, HDF5_SUFFIXES
from survfuse.slide.vector_settings import MOST_NUMBERS

if TYPE_CHECKING:
    import h5py
    import torch

    Values = NDArray[np.floating] | torch.Tensor

_FOLDER = re.compile(r"(?:.*[/\\])?slide_features_([^/\\]+)[/\\]*", re.DOTALL)  # as TRIDENT names it
_LONGEST_NAME = 200


@dataclass(frozen=True, eq=False)
class SlideVector:
    """A slide-level vector [V], and the slide encoder that its file names."""

    values: NDArray[np.float32]
    encoder: str | None  # in lower case
    name: str  # in messages
    of_patient: bool = False  # whether its file states that it is of all of a patient's slides
    of_slides: tuple[NDArray[np.float32], ...] = ()  # those that it is the mean of


def vector_of(source: "Path | Values | SlideVector", name: str) -> SlideVector:
    """A case's slide-level vector: read from a file, or the one in memory [V], which messages call ``name``.

    Raises InputError as ``read_vector`` does.
    """
    if isinstance(source, Path):
        return read_vector(source)
    if isinstance(source, SlideVector):
        return source
    import torch

    if isinstance(source, torch.Tensor):
        if source.layout is not torch.strided or source.is_meta or source.is_quantized:
            raise InputError(f"{name}: expected a dense slide-level vector, found {source.layout} on {source.device}")
        source = source.detach().cpu().double().numpy() if source.is_floating_point() else source.detach().cpu().numpy()
    try:
        values = np.asarray(source)
    except ValueError as cause:  # lists of different lengths
        raise InputError(f"{name}: expected a slide-level vector of numbers ({cause})") from cause
    return _checked(values, None, name)


def read_vector(path: Path) -> SlideVector:
    """Read a slide-level vector from ``.h5``, ``.hdf5`` or ``.pt``.

    Raises InputError for another layout, tile features, values that are not finite, and nothing but zeros, and
    NoTissueError for an empty vector, which TRIDENT writes for a slide without tissue.
    """
    if path.suffix.lower() not in FEATURE_SUFFIXES:
        raise InputError(f"{path.name}: expected a slide-level vector in {', '.join(FEATURE_SUFFIXES)}")
    with reading(path.name) as go_on:
        if path.suffix.lower() in HDF5_SUFFIXES:
            values, encoder, of_patient = _read_h5(path)
        else:
            values, encoder, of_patient = _read_pt(path, go_on), None, False
        found = _checked(values, encoder or _encoder_of(path.absolute().parent.name), path.name)
        return replace(found, of_patient=of_patient)


def mean_vector(vectors: Sequence[SlideVector]) -> SlideVector:
    """The mean of the vectors of a patient's slides.

    Raises InputError for different lengths or encoders, and for a vector that is of all slides already.

    >>> first, second = (SlideVector(np.array([x], dtype=np.float32), None, "slide") for x in (1.0, 3.0))
    >>> mean_vector([first, second]).values.tolist()
    [2.0]
    """
    first, *others = vectors
    if not others:
        return first
    if whole := [each.name for each in vectors if each.of_patient]:
        raise InputError(f"{whole[0]} is of all of the patient's slides, beside {count(len(others), 'other vector')}")
    lengths = {len(each.values): each.name for each in vectors}
    encoders = {each.encoder: each.name for each in vectors if each.encoder is not None}
    for found, what in ((lengths, "lengths"), (encoders, "encoders")):
        if len(found) > 1:
            each = ", ".join(f"{value} in {name}" for value, name in found.items())
            raise InputError(f"slide-level vectors of different {what}: {each}")
    mean: NDArray[np.float32] = np.stack([each.values.astype(np.float64) for each in vectors]).mean(axis=0).astype("f4")
    of_slides = tuple(each.values for each in vectors)
    return SlideVector(mean, next(iter(encoders), None), listing(each.name for each in vectors), of_slides=of_slides)


def write_vector(path: Path, values: NDArray[np.floating], encoder: str) -> None:
    """Write a slide-level vector [V] in float32 and its slide encoder's name as HDF5, whole or not at all."""
    import h5py

    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file["features"] = values.astype(np.float32)
        file.attrs.update({"encoder": encoder, "feat_type": "slide"})


def _read_h5(path: Path) -> tuple[NDArray[np.floating], str | None, bool]:
    """The vector, its slide encoder, and whether it is of all of a patient's slides."""
    import h5py

    with as_hdf5(path), h5py.File(path, "r") as file:
        kind = stated(("feat_type",), file)
        if kind not in (None, "slide", "patient"):
            raise InputError(f"{path.name}: expected a slide-level vector, found features of a {str(kind)[:40]}")
        dataset = float_dataset(path, file)
        _check_shape(dataset.shape, path.name)
        check_written(path, dataset)
        return np.asarray(dataset[()]), _stated_encoder(file, dataset), kind == "patient"


def _stated_encoder(file: "h5py.File", dataset: "h5py.Dataset") -> str | None:
    """The slide encoder: STAMP names it, TRIDENT names the folder that it wrote to."""
    encoder = stated(("encoder",), dataset, file)
    return str(encoder)[:_LONGEST_NAME] if encoder else _encoder_of(str(stated(("savetodir",), dataset, file)))


def _encoder_of(folder: str) -> str | None:
    """The slide encoder by the name that TRIDENT gives the folder of its vectors; None for another name."""
    named = _FOLDER.fullmatch(folder)
    return named[1][:_LONGEST_NAME] if named is not None else None


def _read_pt(path: Path, go_on: Callable[[], None]) -> NDArray[np.floating]:
    from survfuse.runtime.torch_files import read_tensor

    tensor = read_tensor(path, InputError).detach()
    check_sums(path, go_on)
    _check_shape(tuple(tensor.shape), path.name)
    if not tensor.is_floating_point():
        raise InputError(f"{path.name}: expected a vector of floating-point numbers, found {tensor.dtype}")
    values: NDArray[np.floating] = tensor.double().numpy()
    return values


def _checked(values: NDArray[np.generic], encoder: str | None, name: str) -> SlideVector:
    """The vector as float32 [V]; raises InputError for what is none."""
    if values.dtype.kind != "f":
        raise InputError(f"{name}: expected a slide-level vector of floating-point numbers, found {values.dtype}")
    _check_shape(values.shape, name)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
        flat = values.reshape(-1).astype(np.float32)
    broken = np.flatnonzero(~np.isfinite(flat))
    if len(broken):
        raise InputError(f"{name}: number {broken[0] + 1} of its slide-level vector is NaN or infinite")
    if not flat.any():
        raise InputError(f"{name}: every number of its slide-level vector is 0")
    return SlideVector(flat, encoder.lower() if encoder is not None else None, name)


def _check_shape(shape: tuple[int, ...], name: str) -> None:
    if shape == (0,):
        raise NoTissueError(f"{name}: empty; TRIDENT writes such a slide-level vector for a slide without tissue")
    if not shape or len(shape) > 3 or any(extent != 1 for extent in shape[:-1]):
        kind = "; tile features are the modality slide" if len(shape) in (2, 3) else ""
        raise InputError(f"{name}: expected one slide-level vector [V], found shape {list(shape)}{kind}")
    if not 0 < shape[-1] <= MOST_NUMBERS:
        raise InputError(f"{name}: expected a slide-level vector of 1 to {MOST_NUMBERS:,} numbers, found {shape[-1]:,}")
