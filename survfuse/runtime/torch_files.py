"""Torch files read safely: no code in them runs, and they take no more memory than their content needs."""

import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor
from torch.serialization import skip_data

from survfuse.runtime.errors import SurvfuseError, is_machine_failure
from survfuse.runtime.memory import at_most, available_memory, check_memory

_SLACK = 2**30  # bytes that reading may take beyond twice the file's content
# What zipfile raises for a file that is not a sound archive.
NOT_AN_ARCHIVE = (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, OverflowError)


def load_torch(path: Path, error: type[SurvfuseError], mapped: bool = False, numbers: bool = True) -> object:
    """The content of a torch file, which may be tensors and plain containers only.

    ``mapped`` leaves the tensors in the file until they are used, which takes a file that is ``stored_plainly``.
    Without ``numbers``, those of the tensors are not read and have any value.
    Raises ``error`` for any other file, and EnvironmentFailure if its content does not fit into the memory left.
    """
    try:
        bound = 2 * _unpacked(path) + _SLACK
        with at_most(bound), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd bytes in the file: the value read, or the error, is enough
            if not numbers:
                return _without_numbers(path)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except FileNotFoundError as cause:
        raise error(f"{path.name}: no such file") from cause
    except SurvfuseError:
        raise
    except Exception as cause:
        # Arbitrary bytes can make the restricted unpickler fail in any way.
        if not is_machine_failure(cause):
            if "numpy" in str(cause):
                raise error(
                    f"{path.name}: expected a tensor, found a pickled numpy array, which is not read; "
                    "torch.save(torch.from_numpy(array), file) writes a tensor"
                ) from cause
            raise error(f"{path.name}: cannot be read as a torch file ({type(cause).__name__})") from cause
        # Either the machine has run out of memory, or the file requested more than the limit.
        left = available_memory()
        if isinstance(cause, OSError) or (left is not None and left < bound):
            raise
        raise error(f"{path.name}: requests more memory than its content needs") from cause


def read_tensor(path: Path, error: type[SurvfuseError], mapped: bool = False, numbers: bool = True) -> Tensor:
    """The one dense tensor in a torch file, read as ``load_torch`` reads it; raises ``error`` for anything else."""
    value = load_torch(path, error, mapped, numbers)
    if not isinstance(value, Tensor):
        raise error(f"{path.name}: expected a tensor, found {type(value).__name__}")
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        raise error(f"{path.name}: expected a dense tensor, found {value.layout}, {value.dtype}")
    return value


def stored_plainly(path: Path) -> bool:
    """Whether a file is of torch's zip format with nothing in it compressed, so that its tensors can be mapped."""
    try:
        with zipfile.ZipFile(path) as archive:
            return all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
    except NOT_AN_ARCHIVE:
        return False


def _without_numbers(path: Path) -> object:
    """The content of a torch file but for the tensors' numbers; raises EOFError if it ends before those of one do."""
    with skip_data(), path.open("rb") as file:
        value = torch.load(file, map_location="cpu", weights_only=True)
        left = path.stat().st_size - file.tell() - 8  # in torch's older format, the numbers behind how many they are
    dense = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta
    if dense and left < value.untyped_storage().nbytes() and not zipfile.is_zipfile(path):
        raise EOFError
    return value


def _unpacked(path: Path) -> int:
    """Bytes of a file's content once unpacked; raises EnvironmentFailure if what is compressed exceeds the memory."""
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [entry.file_size for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
    except NOT_AN_ARCHIVE:
        return size
    if packed:
        check_memory(sum(packed), f"{path.name}'s compressed entries")
    return size + sum(packed)
