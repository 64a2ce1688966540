"""Which device is requested; torch is not imported."""

import os
import re
from collections.abc import Sequence

from survfuse.runtime.errors import EnvironmentFailure, InputError
from survfuse.runtime.suggestions import unknown

DEVICES: Sequence[str] = ("auto", "cpu", "cuda", "cuda:N")  # N is a GPU's number, from 0
DEVICE_VARIABLE = "SURVFUSE_DEVICE"


def check_device(device: str | None) -> None:
    """Raise InputError for a device that is not auto, cpu, cuda or cuda:N; None, for SURVFUSE_DEVICE, is one.

    Whether there is such a GPU is not checked.
    """
    if device is not None and not _is_device(device):
        raise InputError(unknown("device", device, DEVICES))


def requested_device(device: str | None) -> tuple[str, str]:
    """The name of the requested device, and what requests it: the caller's ``device``, else SURVFUSE_DEVICE, else auto.

    Raises InputError for an unknown ``device``, EnvironmentFailure for an unknown value of the variable.
    """
    if device is not None:
        check_device(device)
        return device, f"device {device}"
    name = os.environ.get(DEVICE_VARIABLE) or "auto"
    asked_by = f"{DEVICE_VARIABLE}={name}"
    if not _is_device(name):
        raise EnvironmentFailure(f"{asked_by}: expected auto, cpu, cuda or cuda:N, N a GPU's number from 0")
    return name, asked_by


def _is_device(name: str) -> bool:
    return re.fullmatch(r"auto|cpu|cuda(:(0|[1-9][0-9]*))?", name) is not None
