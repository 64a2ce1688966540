"""Which device is requested; torch is not imported."""

import os
from collections.abc import Sequence

from survfuse.runtime.errors import EnvironmentFailure, InputError
from survfuse.runtime.suggestions import unknown

DEVICES: Sequence[str] = ("auto", "cpu", "cuda")
DEVICE_VARIABLE = "SURVFUSE_DEVICE"


def check_device(device: str | None) -> None:
    """Raise InputError for a device that is not auto, cpu or cuda; None, for SURVFUSE_DEVICE, is one."""
    if device is not None and device not in DEVICES:
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
    if name not in DEVICES:
        raise EnvironmentFailure(f"{asked_by}: expected auto, cpu or cuda")
    return name, asked_by
