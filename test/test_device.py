"""Which device is chosen, what is said of a GPU that cannot be used, and how far rounding moves a prediction."""

import copy
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import CASES, CHOOSES_A_GPU, DEMONSTRATION, MASK, ROOT, SLIDE, run_job

import survfuse.runtime.device as device
from survfuse.bundle.load import load, load_members
from survfuse.cli.main import main as survfuse
from survfuse.networks.ensemble import Ensemble, Member
from survfuse.runtime.device import chosen_device, chosen_devices, driver_version, runs_on
from survfuse.runtime.errors import EnvironmentFailure, InputError
from survfuse.slide.encoders import load_encoder
from survfuse.slide.grid import Grid
from survfuse.slide.pixels import Slide
from survfuse.slide.read_ahead import read_ahead
from survfuse.slide.tissue import find_tissue

CPU, CUDA = torch.device("cpu"), torch.device("cuda")

# What the kernel modules themselves say: NVIDIA's own, and the open one.
PROPRIETARY = """\
NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.82.01  Wed Oct 27 21:21:55 UTC 2021
GCC version:  gcc version 9.4.0 (Ubuntu 9.4.0-1ubuntu1~20.04.2)
"""
OPEN = """\
NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22-I3-AF03-09-1)  \
Sun Jul 20 07:29:00 UTC 2025
GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04)
"""
# torch/csrc and c10/cuda: the texts of a driver that is too old, and of kernels that are missing.
TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by downloading "
    "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx Alternatively, go to: "
    "https://pytorch.org to install a PyTorch version that has been compiled with your version of the CUDA driver."
)
NO_KERNEL = (
    "CUDA error: no kernel image is available for execution on the device\n"
    "CUDA kernel errors might be asynchronously reported at some other API call.\n"
    "For debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
)
BUILD_12_8 = ["sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]  # torch 2.9.1+cu128's own list


class Machine:
    """A machine that may have a driver, its nodes and a GPU, as torch and the file system show it."""

    def __init__(self, patch: pytest.MonkeyPatch, root: Path) -> None:
        self._patch, self._root = patch, root
        patch.setattr(device, "DRIVER", root / "version")
        patch.setattr(device, "NODES", (root / "nvidiactl", root / "nvidia0"))
        patch.setattr(torch.version, "cuda", "12.8")
        patch.setattr(torch, "__version__", "2.9.1+cu128")
        for name in ("SURVFUSE_DEVICE", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG"):
            patch.setenv(name, "")  # so that what the code sets is put back afterwards
            patch.delenv(name)
        self.says(lambda: False)
        self.fails_to_start("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU")

    def has_driver(self, text: str = PROPRIETARY, nodes: bool = True) -> None:
        (self._root / "version").write_text(text)
        if nodes:
            (self._root / "nvidiactl").touch()

    def says(self, is_available: Callable[[], bool]) -> None:
        self._patch.setattr(torch.cuda, "is_available", is_available)

    def fails_to_start(self, text: str) -> None:
        def fail() -> None:
            raise RuntimeError(text)

        self._patch.setattr(torch.cuda, "init", fail)

    def has_gpu(self, capability: tuple[int, int] = (7, 5), name: str = "Tesla T4") -> None:
        self.has_gpus({name: capability})

    def has_gpus(self, gpus: dict[str, tuple[int, int]]) -> None:
        """GPUs by their name, with their capability."""
        self.has_driver(OPEN)
        self.says(lambda: True)
        self._patch.setattr(torch.cuda, "device_count", lambda: len(gpus))
        self._patch.setattr(torch.cuda, "get_device_name", lambda gpu: list(gpus)[gpu.index or 0])
        self._patch.setattr(torch.cuda, "get_device_capability", lambda gpu: list(gpus.values())[gpu.index or 0])
        self._patch.setattr(torch.cuda, "get_arch_list", lambda: BUILD_12_8)
        self.computing(lambda _: None)

    def computing(self, compute: Callable[[torch.device], None]) -> None:
        self._patch.setattr(device, "_compute", compute)

    def set(self, name: str, value: str) -> None:
        self._patch.setenv(name, value)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """A machine without NVIDIA's driver, at first."""
    return Machine(monkeypatch, tmp_path)


@pytest.fixture
def switches():
    """torch's switches, put back to what they were."""
    cudnn, matmul, filling = torch.backends.cudnn, torch.backends.cuda.matmul, torch.utils.deterministic
    before = (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32)
    mode, filled = torch.get_deterministic_debug_mode(), filling.fill_uninitialized_memory
    yield
    cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before
    torch.set_deterministic_debug_mode(mode)
    filling.fill_uninitialized_memory = filled


def warned(capfd: pytest.CaptureFixture) -> str:
    """The one line of stderr."""
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("survfuse: warning: the GPU cannot be used: ")
    assert lines[0].endswith("; the CPU is used instead")
    return lines[0]


def failing(text: str, kind: type[Exception] = RuntimeError) -> Callable[[torch.device], None]:
    def fail(gpu: torch.device) -> None:
        raise kind(text)

    return fail


@pytest.mark.parametrize("value", [None, "", "auto", "cpu"])
def test_without_a_gpu_the_cpu_is_taken_without_a_word(machine, capfd, value):
    if value is not None:
        machine.set("SURVFUSE_DEVICE", value)
    assert chosen_device() == CPU
    assert capfd.readouterr().err == ""


def test_cuda_without_a_gpu_is_an_error(machine):
    machine.set("SURVFUSE_DEVICE", "cuda")
    with pytest.raises(EnvironmentFailure, match=r"^SURVFUSE_DEVICE=cuda: no NVIDIA GPU or driver was found$"):
        chosen_device()


@pytest.mark.parametrize("value", ["gpu", "CUDA", "cuda:", "cuda:01", "cuda:-1", "cuda:1 ", "cpu:0", "cuda:N", " cpu"])
def test_another_name_is_an_error_that_says_what_is_allowed(machine, value):
    machine.has_gpu()
    machine.set("SURVFUSE_DEVICE", value)
    with pytest.raises(EnvironmentFailure, match=f"SURVFUSE_DEVICE={value}: expected auto, cpu, cuda or cuda:N"):
        chosen_device()
    with pytest.raises(InputError, match=r"unknown device '.*'; expected one of auto, cpu, cuda, cuda:N"):
        chosen_device(value)


@pytest.mark.parametrize(
    ("option", "variable", "expected"),
    [("cpu", "cuda", CPU), ("cuda", "cpu", CUDA), ("auto", "cpu", CUDA), (None, "cpu", CPU), ("cpu", "nonsense", CPU)],
)
def test_the_command_line_takes_precedence(machine, switches, option, variable, expected):
    machine.has_gpu()
    machine.set("SURVFUSE_DEVICE", variable)
    assert chosen_device(option) == expected


def test_commands_leave_the_choice_to_the_variable_unless_told(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("survfuse.prediction.table.predict", lambda *_, device, **__: asked.append(device))
    words = ["predict", str(tmp_path), "--model", str(tmp_path), "--out", str(tmp_path / "out.csv")]
    assert survfuse(words) == 0 and survfuse([*words, "--device", "auto"]) == 0
    assert asked == [None, "auto"]


def test_the_drivers_version_is_read_from_either_kernel_module(machine):
    assert driver_version() is None
    machine.has_driver(PROPRIETARY)
    assert driver_version() == "470.82.01"
    machine.has_driver(OPEN)
    assert driver_version() == "580.65.06"
    machine.has_driver("GCC version:  gcc version 9.4.0\n")
    assert driver_version() is None


def test_a_driver_too_old_is_one_warning_with_its_version_and_what_torch_needs(machine, capfd):
    """torch warns of it where it first counts devices, and then has none."""

    def counting() -> bool:
        warnings.warn(f"CUDA initialization: {TOO_OLD} (Triggered internally at c10/cuda.)", stacklevel=1)
        return False

    machine.has_driver(PROPRIETARY)
    machine.says(counting)
    assert chosen_device() == CPU
    line = warned(capfd)
    assert "NVIDIA driver on your system is too old (found version 11040)" in line
    assert "NVIDIA driver 470.82.01" in line
    assert "torch 2.9.1+cu128 is built for CUDA 12.8, which needs driver 525 or newer" in line
    assert "http" not in line


# docs.nvidia.com/deploy/cuda-compatibility, Table 1
@pytest.mark.parametrize(("cuda", "oldest"), [("11.8", "450"), ("12.8", "525"), ("13.0", "580"), ("99.1", None)])
def test_the_driver_needed_follows_from_torchs_cuda(machine, monkeypatch, capfd, cuda, oldest):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    machine.has_driver()
    chosen_device()
    line = warned(capfd)
    assert f"is built for CUDA {cuda}" in line
    assert (f"needs driver {oldest} or newer" in line) if oldest else ("needs" not in line)


def test_torchs_error_is_the_reason_where_it_does_not_warn(machine, capfd):
    machine.has_driver()
    machine.fails_to_start("Unexpected error from cudaGetDeviceCount(). Error 803: unsupported display driver\nmore")
    assert chosen_device() == CPU
    line = warned(capfd)
    assert "Error 803: unsupported display driver; NVIDIA driver 470.82.01" in line


def test_nodes_without_a_readable_driver_are_a_warning_too(machine, capfd):
    machine.has_driver()
    device.DRIVER.unlink()
    chosen_device()
    assert "NVIDIA driver of unknown version" in warned(capfd)


def test_a_driver_whose_gpus_were_not_given_to_the_container(machine, capfd):
    machine.has_driver(OPEN, nodes=False)
    chosen_device()
    line = warned(capfd)
    assert "this process was given no GPU (docker run --gpus all" in line and "580.65.06" in line


def test_a_torch_without_cuda_says_so(machine, monkeypatch, capfd):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    machine.has_driver(OPEN)
    assert chosen_device() == CPU
    line = warned(capfd)
    assert "torch is built without CUDA" in line and "2.9.1+cpu" in line and "580.65.06" in line


@pytest.mark.parametrize("visible", ["", "-1", "-1,0"])
def test_gpus_hidden_on_purpose_are_no_warning(machine, capfd, visible):
    machine.has_gpu()
    machine.set("CUDA_VISIBLE_DEVICES", visible)
    assert chosen_device() == CPU
    assert capfd.readouterr().err == ""
    with pytest.raises(EnvironmentFailure, match=f"device cuda: CUDA_VISIBLE_DEVICES={visible} hides every GPU"):
        chosen_device("cuda")


def test_a_visible_gpu_is_used(machine, switches):
    machine.has_gpu()
    machine.set("CUDA_VISIBLE_DEVICES", "0,1")
    assert chosen_device() == CUDA


TWO = {"Tesla T4": (7, 5), "NVIDIA H100": (9, 0)}
OLD_AND_NEW = {"Quadro P2000": (6, 1), "NVIDIA H100": (9, 0)}


def test_one_of_several_gpus_is_taken_by_its_number(machine, switches):
    machine.has_gpus(TWO)
    checked = []
    machine.computing(checked.append)
    machine.set("SURVFUSE_DEVICE", "cuda:0")
    chosen = [chosen_device("cuda:1"), chosen_device(), chosen_device("cuda"), chosen_device("auto")]
    assert chosen == checked == [torch.device("cuda:1"), torch.device("cuda:0"), CUDA, CUDA]


@pytest.mark.parametrize(
    ("gpus", "number", "there"),
    [
        (TWO, 2, "2 GPUs can be seen, cuda:0 to cuda:1"),
        ({"T4": (7, 5)}, 1, "1 GPU can be seen, cuda:0"),
        (TWO, 999, "2 GPUs"),
    ],
)
def test_a_gpu_that_is_not_there_is_an_error_that_says_how_many_are(machine, gpus, number, there):
    machine.has_gpus(gpus)
    for choose in (chosen_device, chosen_devices):
        with pytest.raises(EnvironmentFailure, match=f"^device cuda:{number}: there is no such GPU; {there}"):
            choose(f"cuda:{number}")


def test_a_numbered_gpu_is_asked_for_where_there_is_none(machine):
    with pytest.raises(EnvironmentFailure, match=r"^device cuda:1: no NVIDIA GPU or driver was found$"):
        chosen_device("cuda:1")


def test_only_the_gpu_that_is_taken_is_checked(machine, switches, capfd):
    machine.has_gpus(OLD_AND_NEW)
    assert chosen_device("cuda:1") == torch.device("cuda:1")
    assert capfd.readouterr().err == ""
    with pytest.raises(EnvironmentFailure, match=r"^device cuda:0: the GPU cannot be used: Quadro P2000 has compute"):
        chosen_device("cuda:0")


@pytest.mark.parametrize("option", ["auto", "cuda"])
def test_all_gpus_may_be_used_side_by_side(machine, switches, capfd, option):
    machine.has_gpus(TWO)
    assert chosen_devices(option) == (torch.device("cuda:0"), torch.device("cuda:1"))
    assert torch.are_deterministic_algorithms_enabled()
    machine.has_gpu()
    assert chosen_devices(option) == (chosen_device(option),) == (CUDA,)
    assert capfd.readouterr().err == ""


def test_one_device_that_is_named_is_the_only_one(machine, switches):
    machine.has_gpus(TWO)
    assert chosen_devices("cuda:1") == (torch.device("cuda:1"),)
    assert chosen_devices("cpu") == (CPU,)
    machine.set("SURVFUSE_DEVICE", "cuda:0")
    assert chosen_devices() == (torch.device("cuda:0"),)


def test_a_gpu_that_cannot_be_used_is_left_out_with_a_warning(machine, switches, capfd):
    machine.has_gpus({**OLD_AND_NEW, "Tesla T4": (7, 5)})
    assert chosen_devices() == (torch.device("cuda:1"), torch.device("cuda:2"))
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("survfuse: warning: cuda:0: the GPU cannot be used: Quadro P2000 has compute capability 6.1")
    assert line.endswith("; it is left out")


def test_if_no_gpu_can_be_used_the_cpu_is_the_only_device(machine, capfd):
    machine.has_gpus({"Quadro P2000": (6, 1), "GTX 1080": (6, 1)})
    assert chosen_devices() == (CPU,)
    assert "Quadro P2000" in warned(capfd)
    with pytest.raises(EnvironmentFailure, match=r"^device cuda: the GPU cannot be used: Quadro P2000"):
        chosen_devices("cuda")


def test_devices_without_a_gpu_and_with_hidden_ones_are_the_cpu(machine, capfd):
    assert chosen_devices() == (CPU,)
    machine.has_gpus(TWO)
    machine.set("CUDA_VISIBLE_DEVICES", "-1")
    assert chosen_devices() == (CPU,)
    assert capfd.readouterr().err == ""


# CUDA C++ Programming Guide: machine code within a major version, PTX for all that is later.
@pytest.mark.parametrize(
    ("capability", "architectures", "expected"),
    [
        ((7, 5), BUILD_12_8, True),
        ((8, 9), BUILD_12_8, True),  # by sm_86
        ((12, 1), BUILD_12_8, True),
        ((6, 1), BUILD_12_8, False),
        ((11, 0), BUILD_12_8, False),
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80", "compute_80"], True),
        ((7, 5), ["compute_80"], False),
        ((9, 0), ["sm_90a"], True),
        ((9, 1), ["sm_90a"], False),
        ((10, 3), ["sm_100f"], True),
        ((12, 0), ["compute_100f"], False),
        ((7, 5), ["gfx906"], False),
    ],
)
def test_a_build_runs_on_the_capabilities_it_has_code_for(capability, architectures, expected):
    assert runs_on(capability, architectures) is expected


def test_a_gpu_that_torch_has_no_code_for_is_a_warning_with_its_capability(machine, capfd):
    machine.has_gpu((6, 1), "Quadro P2000")
    assert chosen_device() == CPU
    line = warned(capfd)
    assert "Quadro P2000 has compute capability 6.1, torch has code for sm_70 sm_75" in line
    assert "580.65.06" in line and "CUDA 12.8" in line


@pytest.mark.parametrize(
    ("compute", "reason"),
    [
        (failing(NO_KERNEL), "CUDA error: no kernel image is available for execution on the device; "),
        (failing(NO_KERNEL, torch.AcceleratorError), "no kernel image is available for execution on the device; "),
        (failing("CUDA out of memory. Tried 2 MiB", torch.OutOfMemoryError), "CUDA out of memory. Tried 2 MiB; "),
        (failing("lazily at initialization", torch.cuda.DeferredCudaCallError), "lazily at initialization; "),
        (failing(""), "RuntimeError; "),
    ],
)
def test_a_gpu_that_fails_to_compute_is_a_warning_with_the_reason(machine, capfd, compute, reason):
    machine.has_gpu()
    machine.computing(compute)
    before = torch.are_deterministic_algorithms_enabled()
    assert chosen_device() == CPU
    assert reason in warned(capfd)
    assert torch.are_deterministic_algorithms_enabled() is before  # on the CPU nothing changes
    machine.set("SURVFUSE_DEVICE", "cuda")
    with pytest.raises(EnvironmentFailure, match=r"^SURVFUSE_DEVICE=cuda: the GPU cannot be used: ") as failure:
        chosen_device()
    assert reason in failure.value.line() and "580.65.06" in failure.value.line()


def test_sums_that_come_out_wrong_are_noticed(monkeypatch):
    """The check itself, on the CPU in a GPU's place: right sums pass, and a wrong product or convolution does not."""
    ones, convolution = torch.ones, torch.nn.functional.conv2d
    monkeypatch.setattr(torch, "ones", lambda *shape, **_: ones(*shape))
    synchronised = []
    monkeypatch.setattr(torch.cuda, "synchronize", synchronised.append)
    device._compute(CUDA)
    assert synchronised == [CUDA]
    monkeypatch.setattr(torch.nn.functional, "conv2d", lambda *a: convolution(*a) + 1.0)
    with pytest.raises(RuntimeError, match="give wrong results"):
        device._compute(CUDA)
    monkeypatch.setattr(torch.nn.functional, "conv2d", convolution)
    monkeypatch.setattr(torch, "ones", lambda *shape, **_: ones(*shape) * 2.0)
    with pytest.raises(RuntimeError, match="give wrong results"):
        device._compute(CUDA)


def test_a_gpu_is_made_deterministic_and_keeps_float32(machine, switches, capfd):
    torch.backends.cudnn.benchmark = torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.deterministic = False
    machine.has_gpu()
    set_when_computing = []
    machine.computing(lambda _: set_when_computing.append(os.environ.get("CUBLAS_WORKSPACE_CONFIG")))
    assert chosen_device() == CUDA
    assert capfd.readouterr().err == ""
    assert set_when_computing == [":4096:8"]  # cuBLAS reads it at its first product
    assert torch.are_deterministic_algorithms_enabled() and not torch.utils.deterministic.fill_uninitialized_memory
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


def test_switching_to_deterministic_kernels_is_silent():
    """In a fresh process, as some versions of torch warn of the switches' names at their first use."""
    environment = {**os.environ, "SURVFUSE_DEVICE": "auto", "PYTHONWARNINGS": "always"}
    command = [sys.executable, "-c", CHOOSES_A_GPU]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=120)
    assert (ended.stdout, ended.stderr) == ("cuda\n", "")


def test_a_workspace_that_the_user_chose_stays(machine, switches):
    machine.has_gpu()
    machine.set("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    chosen_device()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_the_cpu_is_left_as_it_is(machine):
    before = torch.get_deterministic_debug_mode()
    chosen_device()
    assert torch.get_deterministic_debug_mode() == before
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


needs_no_gpu = pytest.mark.skipif(
    device.DRIVER.exists() or any(node.exists() for node in device.NODES), reason="this machine has an NVIDIA driver"
)


@needs_no_gpu
@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("cuda", "survfuse: EnvironmentFailure: SURVFUSE_DEVICE=cuda: no NVIDIA GPU or driver was found"),
        (
            "nonsense",
            "survfuse: EnvironmentFailure: SURVFUSE_DEVICE=nonsense: expected auto, cpu, cuda or cuda:N, N a GPU's "
            "number from 0",
        ),
    ],
)
def test_a_job_that_cannot_have_its_device_ends_in_4_without_output(tmp_path, value, line):
    ended = run_job(CASES / "interf1", tmp_path / "output", SURVFUSE_DEVICE=value)
    assert ended.returncode == 4
    assert ended.stderr.splitlines() == [line]
    assert list((tmp_path / "output").iterdir()) == []


@needs_no_gpu
def test_a_job_without_a_gpu_says_nothing_on_stderr(tmp_path):
    ended = run_job(CASES / "interf1", tmp_path / "output", SURVFUSE_DEVICE="auto")
    assert (ended.returncode, ended.stderr) == (0, "")


@needs_no_gpu
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler for a driver's library")
def test_torch_itself_meets_a_driver_too_old(tmp_path):
    """No text of torch's is assumed here: a driver library of CUDA 11.4 is put in its way, in a fresh process."""
    (tmp_path / "version").write_text(PROPRIETARY)
    (tmp_path / "nvidiactl").touch()
    (tmp_path / "driver.c").write_text(
        "int cuInit(unsigned flags) { return 0; }\n"
        "int cuDriverGetVersion(int *version) { *version = 11040; return 0; }\n"
        "int cuGetProcAddress(const char *n, void **p, int v, unsigned long long f) { *p = 0; return 500; }\n"
    )
    library = ["cc", "-shared", "-fPIC", "-o", str(tmp_path / "libcuda.so.1"), str(tmp_path / "driver.c")]
    subprocess.run(library, check=True, timeout=60)
    code = (
        "import sys, pathlib, survfuse.runtime.device as device\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "device.DRIVER, device.NODES = root / 'version', (root / 'nvidiactl',)\n"
        "print(device.chosen_device())\n"
    )
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "SURVFUSE_DEVICE": ""}
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        timeout=120,
    )
    assert (ended.returncode, ended.stdout) == (0, "cpu\n")
    assert len(ended.stderr.splitlines()) == 1
    assert "driver on your system is too old (found version 11040); NVIDIA driver 470.82.01; torch" in ended.stderr


@pytest.fixture(scope="module")
def tiles() -> torch.Tensor:
    """The sample slide's tissue, [N, 224, 224, 3]."""
    with Slide(SLIDE) as slide:
        grid = Grid.over(slide.size, slide.mpp, 224, 1.0)
        batches = read_ahead(slide, grid, find_tissue(slide, grid, MASK, 0.5).origins, 224, 64)
        return torch.cat([batch.clone() for batch in batches])


def test_float32_stays_within_the_stated_tolerance_of_float64(tiles):
    """Encoder and demonstration bundle in float32, what every device runs, against the same in float64."""
    encoder = load_encoder("efficientnet-lite0", None, CPU)
    exact_network = copy.deepcopy(encoder.network).double()
    with torch.no_grad():
        exact = exact_network((tiles.permute(0, 3, 1, 2).double() / 255.0 - 0.5) / 0.5)
    features = encoder(tiles)
    assert ((features - exact).norm(dim=1) / exact.norm(dim=1)).max() < 1e-5

    bundle = load(DEMONSTRATION)
    members = load_members(bundle)
    exact_members = [
        Member(m.family, m.sizes, m.standings, {name: tensor.double() for name, tensor in m.state.items()})
        for m in members
    ]
    scored = bundle.manifest.combinations
    folder = CASES / "interf0"
    expression = json.loads((folder / "bulk-rna-seq-bladder-cancer.json").read_text())
    variables = json.loads((folder / "chimera-clinical-data-of-bladder-cancer-recurrence-patients.json").read_text())
    others = [
        torch.from_numpy(vector)
        for vector in (bundle.expression.encode(expression).values, bundle.vocabulary.encode(variables).values)
    ]
    for use in ((True, True), (False, False), (True, False), (False, True)):
        given = [vector if used else None for vector, used in zip(others, use, strict=True)]
        found = Ensemble(members, scored)(features, *given).risk
        doubled = [vector.double() if vector is not None else None for vector in given]
        expected = Ensemble(exact_members, scored)(exact, *doubled).risk
        assert found == pytest.approx(expected, abs=1e-6)
        moved = bundle.calibration.months(found).months / bundle.calibration.months(expected).months - 1.0
        assert abs(float(moved)) < 1e-3
