"""Where networks run, and how alike their numbers are there.

The same device gives the same number each time: kernels are deterministic where torch has such (every operation that
inference uses), cuDNN chooses its algorithms without timing them, and float32 is never shortened to TF32.

CPU and GPU add in different orders, so their numbers differ by rounding. Tolerances between them:

    encoder                                    tile features    risk     months
    float32 (efficientnet-lite0 everywhere)    1e-5             1e-6     1e-3
    half precision on either device            1e-1             1e-2     1e-2 for most cases

For tiles of half precision a GPU's layers over them are in fp16 as well, summed in float32: 2e-3 of a member's slide
vector (test/test_fusion.py), below what the tiles themselves bring.

Features and months relative, a tile's features by their norm; the risk is in standard deviations of the reference
risks. Where calibration is steep, between reference risks that nearly coincide, months move most: a risk moved by 1e-6
moves the demonstration bundle's by 5e-7 in the median and 2e-4 at most. These come from emulation on a CPU, float32
against float64 and bf16, not from a GPU; test/test_device.py holds float32 to them on the sample slide.
"""

import os
import re
import warnings
from pathlib import Path

import torch

from survfuse.runtime.errors import EnvironmentFailure
from survfuse.runtime.log import warn

VARIABLE = "SURVFUSE_DEVICE"
CHOICES = ("auto", "cpu", "cuda")
# The driver's own account of itself, and the nodes through which a process reaches it and its first GPU.
DRIVER = Path("/proc/driver/nvidia/version")
NODES = (Path("/dev/nvidiactl"), Path("/dev/nvidia0"))
# By CUDA's major version, for all of its minor ones: docs.nvidia.com/deploy/cuda-compatibility, Table 1.
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
# What torch raises: the runtime's failures and out of memory, a build without CUDA, a failed start.
_CUDA_ERRORS = (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError)


class _UnusableError(Exception):
    """Why a GPU or driver that is there cannot be used, in one line."""


class _AbsentError(_UnusableError):
    """There is no GPU, or none is meant to be used."""


def chosen_device(option: str | None = None) -> torch.device:
    """Where networks run: the command line's ``option``, else SURVFUSE_DEVICE, else auto.

    auto is the GPU, or the CPU where there is none; a GPU or driver that is there but cannot be used is warned of.
    Raises EnvironmentFailure for an unknown name, and where cuda is asked for and cannot be had.
    """
    name = option or os.environ.get(VARIABLE) or "auto"
    asked_by = f"--device {name}" if option else f"{VARIABLE}={name}"
    if name not in CHOICES:
        raise EnvironmentFailure(f"{asked_by}: expected {', '.join(CHOICES[:-1])} or {CHOICES[-1]}")
    if name == "cpu":
        return torch.device("cpu")
    try:
        # torch warns of an unusable GPU itself, in many lines; what it says comes back in the reason. Some versions
        # warn of the deterministic switches' names too.
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            _check_cuda(said)
            _make_deterministic()
    except _UnusableError as reason:
        if name == "cuda":
            raise EnvironmentFailure(f"{asked_by}: {reason}") from reason
        if not isinstance(reason, _AbsentError):
            warn(f"{reason}; the CPU is used instead")
        return torch.device("cpu")
    return torch.device("cuda")


def driver_version() -> str | None:
    """The NVIDIA kernel module's version, "470.82.01" for one; None where it says none.

    Its line is "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.82.01  Wed …", and for the open module
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build …".
    """
    try:
        text = DRIVER.read_text(errors="replace")
    except OSError:
        return None
    found = re.search(r"^NVRM version:.*?\s(\d+(?:\.\d+)+)\s", text, re.MULTILINE)
    return found[1] if found else None


def runs_on(capability: tuple[int, int], architectures: list[str]) -> bool:
    """Whether a build for ``architectures`` (torch.cuda.get_arch_list()) has code for a GPU of ``capability``.

    Machine code sm_XY runs on GPUs of the same major version and no lower minor one, sm_XYa on that one alone; PTX
    compute_XY is compiled for any later one ("CUDA C++ Programming Guide", binary and PTX compatibility).
    """
    for architecture in architectures:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", architecture)
        if not found:
            continue
        kind, suffix, built = found[1], found[4], (int(found[2]), int(found[3]))
        if suffix == "a":
            fits = built == capability
        else:
            fits = built <= capability and (built[0] == capability[0] or (kind == "compute" and not suffix))
        if fits:
            return True
    return False


def _check_cuda(said: list[warnings.WarningMessage]) -> None:
    """Return where the GPU computes; raises _UnusableError with the reason where not. ``said`` fills with torch's."""
    if _hidden():
        raise _AbsentError(f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']} hides every GPU")
    if not torch.cuda.is_available():
        if not any(path.exists() for path in (DRIVER, *NODES)):
            raise _AbsentError("no NVIDIA GPU or driver was found")
        raise _UnusableError(_described(_why_unavailable(said)))
    # cuBLAS reads it when it starts; docs.nvidia.com/cuda/cublas, "Results Reproducibility".
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
        architectures = torch.cuda.get_arch_list()
        if not runs_on(capability, architectures):
            built = " ".join(architectures)
            reason = f"{name} has compute capability {capability[0]}.{capability[1]}, torch has code for {built}"
            raise _UnusableError(_described(reason))
        _compute()
    except _CUDA_ERRORS as cause:
        raise _UnusableError(_described(_first_line(cause))) from cause


def _hidden() -> bool:
    """Whether CUDA_VISIBLE_DEVICES hides every GPU; those after a -1 are hidden."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible is not None and visible.split(",")[0].strip() in ("", "-1")


def _compute() -> None:
    """A small matrix product and convolution on the GPU; raises RuntimeError where they fail or give wrong sums."""
    with torch.inference_mode():
        ones = torch.ones(1, 3, 16, 16, device="cuda")
        product = ones[0, 0] @ ones[0, 0]
        sums = torch.nn.functional.conv2d(ones, torch.ones(4, 3, 3, 3, device="cuda"))
        torch.cuda.synchronize()
        if not ((product == 16.0).all() and (sums == 27.0).all()):
            raise RuntimeError("a product and a convolution of ones come out wrong")


def _why_unavailable(said: list[warnings.WarningMessage]) -> str:
    """Why torch finds no GPU though a driver or its nodes are there: its own warning, or its error."""
    if torch.version.cuda is None:
        return "torch is built without CUDA"
    if not any(node.exists() for node in NODES):
        return "a driver is loaded, but no GPU is given to this process (docker run --gpus all gives them)"
    for warning in said:
        if "CUDA" in str(warning.message):
            return _first_line(warning.message)
    try:
        torch.cuda.init()
    except _CUDA_ERRORS as cause:
        return _first_line(cause)
    return "torch finds none"


def _described(reason: str) -> str:
    """``reason`` with what a reader needs to act on it: the driver, torch's CUDA, and the driver that it needs."""
    text = f"the GPU cannot be used: {reason}; NVIDIA driver {driver_version() or 'of unknown version'}"
    text += f"; torch {torch.__version__} is built "
    cuda = torch.version.cuda
    if cuda is None:
        return f"{text}for no CUDA"
    oldest = OLDEST_DRIVER.get(int(cuda.split(".")[0]))
    return f"{text}for CUDA {cuda}" + (f", which needs driver {oldest} or newer" if oldest else "")


def _first_line(cause: object) -> str:
    """What torch says, without its advice, which goes on for lines."""
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0].split(" Please ")[0][:300].rstrip(" .") if lines else type(cause).__name__


def _make_deterministic() -> None:
    """Deterministic kernels and unshortened float32 on the GPU, for the rest of the process."""
    # An operation without a deterministic kernel goes on with a warning: inference has none (torch's list, under
    # use_deterministic_algorithms), and one that a new encoder brings must not fail a job.
    torch.use_deterministic_algorithms(True, warn_only=True)
    # That mode also fills new memory, against code that reads it unwritten; nothing here does.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    # Products of half precision are summed in float32 to the end.
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
