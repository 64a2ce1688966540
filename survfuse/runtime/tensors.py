"""Weights that come from a file: networks built without memory for others, and values that can be computed with."""

import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from survfuse.runtime.errors import SurvfuseError, is_machine_failure
from survfuse.runtime.memory import at_most, available_memory, check_memory

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def shapes_only() -> Iterator[None]:
    """Modules built within have parameters on the meta device, and their initial values are never drawn.

    torch would go through its compiler's decompositions, whose import alone costs more than a second.
    """
    with torch.device("meta"), _Unfilled():
        yield


_FILLING = ("normal_", "uniform_", "fill_", "zero_")  # methods; every function of torch.nn.init fills as well


class _Unfilled(TorchFunctionMode):
    """Tensors without memory are not filled with values."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        target = args[0] if args else kwargs.get("tensor")  # torch.nn.init's functions name it
        fills = getattr(func, "__name__", "") in _FILLING or getattr(func, "__module__", "") == "torch.nn.init"
        if fills and isinstance(target, torch.Tensor) and target.is_meta:
            return target
        return func(*args, **kwargs)


def all_finite(tensor: torch.Tensor) -> bool:
    """Whether no value is NaN or infinite: a tensor's extremes are NaN where any is. One pass, and no memory."""
    return not tensor.numel() or all(map(torch.isfinite, tensor.aminmax()))


_SLACK = 2**30  # bytes that a reader may take beside the features themselves
# What zipfile raises for such files, and then h5py.
NOT_AN_ARCHIVE = (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, OverflowError)


def stored_plainly(path: Path) -> bool:
    """Whether a file is of torch's zip format and nothing in it is compressed: its tensors can then be mapped."""
    try:
        with zipfile.ZipFile(path) as archive:
            return all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
    except NOT_AN_ARCHIVE:
        return False


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
    """What a torch file holds, restricted to tensors and plain containers; raises ``error`` for any other file.

    No code in it is run, and what it takes is bounded by what it holds.
    """
    import torch

    try:
        bound = 2 * _unpacked(path) + _SLACK
        with at_most(bound), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd bytes in a file: what it is read as says enough
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except FileNotFoundError as cause:
        raise error(f"{path.name}: no such file") from cause
    except SurvfuseError:
        raise
    except Exception as cause:
        # The restricted unpickler, given arbitrary bytes, fails in whatever way those bytes lead it to.
        if not is_machine_failure(cause):
            raise error(f"{path.name}: cannot be read as a torch file ({type(cause).__name__})") from cause
        # Memory that ran out may be the machine's, or what the file may have of it.
        left = available_memory()
        if isinstance(cause, OSError) or (left is not None and left < bound):
            raise
        raise error(f"{path.name}: asks for more memory than what it holds accounts for") from cause


def _unpacked(path: Path) -> int:
    """Bytes of a file, or of what its archive unpacks to, which must find room in memory."""
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [entry.file_size for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
    except NOT_AN_ARCHIVE:
        return size
    if packed:
        check_memory(sum(packed), f"{path.name}'s compressed entries")
    return size + sum(packed)
