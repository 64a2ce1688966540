"""Where networks run, and how closely their numbers agree between devices.

One device gives the same numbers every time: torch's deterministic kernels are used (it has one for every operation in
inference), cuDNN chooses its algorithms without timing them, and float32 is never reduced to TF32.

CPU and GPU add in different orders, so their numbers differ by rounding. Tolerances between them:

    encoder                                    tile features    risk     months
    float32 (efficientnet-lite0 everywhere)    1e-5             1e-6     1e-3
    half precision on either device            1e-1             1e-2     1e-2 for most cases

Feature and month tolerances are relative, a tile's features by their norm; the risk is in standard deviations of the
reference risks. With half-precision tiles, a GPU runs the layers on them in fp16 too, summed in float32: 2e-3 of a
member's slide vector (test/test_fusion.py), less than what the tiles themselves contribute.

Months move most where calibration is steep, between reference risks that nearly coincide: with the demonstration
bundle, a change of 1e-6 in the risk changes months by 5e-7 in the median and 2e-4 at most. These numbers come from
emulation on a CPU (float32 against float64 and bf16), not from a GPU; test/test_device.py holds float32 to them on the
sample slide.
"""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from survfuse.runtime.device_choice import requested_device
from survfuse.runtime.errors import EnvironmentFailure
from survfuse.runtime.log import count, warn

# Where the driver states its version, and the device nodes of the driver and of its first GPU.
DRIVER = Path("/proc/driver/nvidia/version")
NODES = (Path("/dev/nvidiactl"), Path("/dev/nvidia0"))
# By CUDA's major version, for all its minor versions: docs.nvidia.com/deploy/cuda-compatibility, Table 1.
_OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
# What torch raises for a failing runtime, lack of memory, a build without CUDA and a failed start.
_CUDA_ERRORS = (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError)


class _UnusableError(Exception):
    """Why a GPU or a driver cannot be used, in one line."""


class _AbsentError(_UnusableError):
    """There is no GPU, or every GPU is hidden on purpose."""


def chosen_device(option: str | None = None) -> torch.device:
    """The device for networks: the caller's ``option``, else SURVFUSE_DEVICE, else auto.

    auto is the GPU, or the CPU if there is none; it warns of a GPU or driver that cannot be used. cuda is torch's
    current GPU, cuda:N that of number N. torch's current device stays what it was. Raises InputError for an unknown
    ``option``, EnvironmentFailure for an unknown value of SURVFUSE_DEVICE, and for cuda and cuda:N if that GPU is not
    there or cannot be used.
    """
    name, asked_by = requested_device(option)
    if name == "cpu":
        return torch.device("cpu")
    try:
        return _usable_gpu("cuda" if name == "auto" else name)
    except _UnusableError as reason:
        return _instead(reason, name, asked_by)


def chosen_devices(option: str | None = None) -> tuple[torch.device, ...]:
    """The devices that one command may use side by side, at least one, for ``option`` as ``chosen_device`` takes it.

    For auto and cuda these are all visible GPUs, cuda:0 to cuda:N-1; it warns of those that cannot be used and leaves
    them out. With a single visible GPU, and for cuda:N and cpu, it is what ``chosen_device`` gives. Every GPU has
    computed something in this process, so processes for them must be spawned, not forked. Raises what ``chosen_device``
    raises, for cuda if none of the GPUs can be used.
    """
    name, asked_by = requested_device(option)
    if name not in ("auto", "cuda"):
        return (chosen_device(option),)
    try:
        return _usable_gpus()
    except _UnusableError as reason:
        return (_instead(reason, name, asked_by),)


def driver_version() -> str | None:
    """The version of the NVIDIA kernel module, such as "470.82.01"; None if it states none.

    Its line is "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.82.01  Wed …", and for the open module
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build …".
    """
    try:
        text = DRIVER.read_text(errors="replace")
    except OSError:
        return None
    version = re.search(r"^NVRM version:.*?\s(\d+(?:\.\d+)+)\s", text, re.MULTILINE)
    return version[1] if version else None


def runs_on(capability: tuple[int, int], architectures: list[str]) -> bool:
    """Whether a build for ``architectures`` (torch.cuda.get_arch_list()) has code for a GPU of ``capability``.

    Machine code sm_XY runs on GPUs of the same major version and the same or a higher minor one, sm_XYa on XY only; PTX
    compute_XY is compiled for any later GPU ("CUDA C++ Programming Guide", binary and PTX compatibility).

    >>> runs_on((8, 6), ["sm_80"]), runs_on((8, 6), ["sm_90"]), runs_on((12, 0), ["sm_80", "compute_90"])
    (True, False, True)
    """
    for architecture in architectures:
        parsed = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", architecture)
        if not parsed:
            continue
        kind, suffix, built = parsed[1], parsed[4], (int(parsed[2]), int(parsed[3]))
        if suffix == "a":
            fits = built == capability
        else:
            fits = built <= capability and (built[0] == capability[0] or (kind == "compute" and not suffix))
        if fits:
            return True
    return False


def _instead(reason: _UnusableError, name: str, asked_by: str) -> torch.device:
    """The CPU in place of a GPU that cannot be used, if ``name`` is auto; else raises EnvironmentFailure."""
    if name != "auto":
        raise EnvironmentFailure(f"{asked_by}: {reason}") from reason
    if not isinstance(reason, _AbsentError):
        warn(f"{reason}; the CPU is used instead")
    return torch.device("cpu")


def _usable_gpu(name: str) -> torch.device:
    """The GPU ``name``, cuda or cuda:N, once it has been checked; raises _UnusableError."""
    with _heard() as caught:
        _check_cuda(caught)
        _check_number(name)
        device = torch.device(name)
        _check_gpu(device)
        _make_deterministic()
    return device


def _usable_gpus() -> tuple[torch.device, ...]:
    """All visible GPUs that can be used, with a warning of each other one; raises _UnusableError if none can be."""
    with _heard() as caught:
        _check_cuda(caught)
        number = torch.cuda.device_count()
    if number == 1:
        return (_usable_gpu("cuda"),)
    usable: list[torch.device] = []
    unusable: dict[str, _UnusableError] = {}
    for name in (f"cuda:{each}" for each in range(number)):
        try:
            usable.append(_usable_gpu(name))
        except _UnusableError as reason:
            unusable[name] = reason
    if not usable:
        raise next(iter(unusable.values()))
    for name, why in unusable.items():
        warn(f"{name}: {why}; it is left out")
    return tuple(usable)


@contextmanager
def _heard() -> Iterator[list[warnings.WarningMessage]]:
    """What torch itself warns of, in place of its warnings.

    Of an unusable GPU these are many lines, of which our reasons quote what matters. Some versions also warn about the
    names of the deterministic switches.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def _check_cuda(caught: list[warnings.WarningMessage]) -> None:
    """Raise _UnusableError with the reason if torch finds no GPU; ``caught`` collects torch's own warnings."""
    if _hidden():
        raise _AbsentError(f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']} hides every GPU")
    if not torch.cuda.is_available():
        if not any(path.exists() for path in (DRIVER, *NODES)):
            raise _AbsentError("no NVIDIA GPU or driver was found")
        raise _UnusableError(_described(_why_unavailable(caught)))
    # cuBLAS reads this when it starts; docs.nvidia.com/cuda/cublas, "Results Reproducibility".
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def _check_number(name: str) -> None:
    """Raise _UnusableError if the GPU ``name``, cuda or cuda:N, has a number that no visible GPU has."""
    number = int(name.partition(":")[2] or 0)
    visible = torch.cuda.device_count()
    if number >= visible:
        names = "cuda:0" if visible == 1 else f"cuda:0 to cuda:{visible - 1}"
        raise _UnusableError(f"there is no such GPU; {count(visible, 'GPU')} can be seen, {names}")


def _check_gpu(device: torch.device) -> None:
    """Raise _UnusableError with the reason if the GPU ``device`` does not compute."""
    try:
        name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
        architectures = torch.cuda.get_arch_list()
        if not runs_on(capability, architectures):
            built = " ".join(architectures)
            reason = f"{name} has compute capability {capability[0]}.{capability[1]}, torch has code for {built}"
            raise _UnusableError(_described(reason))
        _compute(device)
    except _CUDA_ERRORS as cause:
        raise _UnusableError(_described(_first_line(cause))) from cause


def _hidden() -> bool:
    """Whether CUDA_VISIBLE_DEVICES hides every GPU; a -1 hides all that follow it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible is not None and visible.split(",")[0].strip() in ("", "-1")


def _compute(device: torch.device) -> None:
    """Compute a small product and convolution on ``device``; raises RuntimeError if they fail or give wrong sums."""
    with torch.inference_mode():
        ones = torch.ones(1, 3, 16, 16, device=device)
        product = ones[0, 0] @ ones[0, 0]
        sums = torch.nn.functional.conv2d(ones, torch.ones(4, 3, 3, 3, device=device))
        torch.cuda.synchronize(device)
        if not ((product == 16.0).all() and (sums == 27.0).all()):
            raise RuntimeError("a product and a convolution of ones give wrong results")


def _why_unavailable(caught: list[warnings.WarningMessage]) -> str:
    """Why torch finds no GPU although a driver or its device nodes exist, from torch's own warning or error."""
    if torch.version.cuda is None:
        return "torch is built without CUDA"
    if not any(node.exists() for node in NODES):
        return "a driver is loaded, but this process was given no GPU (docker run --gpus all provides them)"
    for warning in caught:
        if "CUDA" in str(warning.message):
            return _first_line(warning.message)
    try:
        torch.cuda.init()
    except _CUDA_ERRORS as cause:
        return _first_line(cause)
    return "torch finds none"


def _described(reason: str) -> str:
    """``reason`` with the driver's version, torch's CUDA version and the oldest driver that this CUDA needs."""
    text = f"the GPU cannot be used: {reason}; NVIDIA driver {driver_version() or 'of unknown version'}"
    text += f"; torch {torch.__version__} is built "
    cuda = torch.version.cuda
    if cuda is None:
        return f"{text}without CUDA"
    oldest = _OLDEST_DRIVER.get(int(cuda.split(".")[0]))
    return f"{text}for CUDA {cuda}" + (f", which needs driver {oldest} or newer" if oldest else "")


def _first_line(cause: object) -> str:
    """The first line of torch's message, without the advice that follows."""
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0].split(" Please ")[0][:300].rstrip(" .") if lines else type(cause).__name__


def _make_deterministic() -> None:
    """Deterministic kernels and unshortened float32 on the GPU, for the rest of the process."""
    # An operation without a deterministic kernel runs with a warning. Inference has none (see the list in torch's
    # documentation of use_deterministic_algorithms), and one in a new encoder must not fail a job.
    torch.use_deterministic_algorithms(True, warn_only=True)
    # That mode also fills new memory, in case code reads it before writing; no code here does.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # set up at run time
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    # Sum products of half precision in float32 throughout.
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
