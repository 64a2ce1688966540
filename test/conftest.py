"""What the tests share: the sample cases, the real reference data where it lies, a tiny trained bundle."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import pytest
import torch

import survfuse.container.job as job
from survfuse.api import demonstration
from survfuse.bundle.manifest import MANIFEST, SELF, manifest_digest
from survfuse.cli.main import main as survfuse
from survfuse.model import Model
from survfuse.tasks.chimera3 import TASK

ROOT = Path(__file__).resolve().parent.parent
CASES = ROOT / "test" / "input"
SLIDE = CASES / "interf0/images/bladder-cancer-tissue-biopsy-wsi/3S_001_HE.tif"
MASK = CASES / "interf0/images/tissue-mask/3S_001_HE_mask.tif"
FEATURES = CASES / "interf1/images/bladder-cancer-tissue-biopsy-wsi/3S_002_HE.h5"
DEMONSTRATION = ROOT / "resources" / "demonstration"
OUTPUT_FILE = TASK.output_file
# By modality, and "mask".
PLACES = {name: socket.place for name, socket in TASK.sockets.items()}
SLUGS = {name: socket.slug for name, socket in TASK.sockets.items()}

collect_ignore = ["fuzz", "make_cases.py", "rehearsal.py"]  # programs: they are not searched for doctests

# For a fresh Python: the device where a GPU passes its check, with all that choosing it switches and says.
CHOOSES_A_GPU = (
    "import survfuse.runtime.device as device; device._check_cuda = lambda said: None;"
    "device._check_number = device._check_gpu = lambda gpu: None; print(device.chosen_device())"
)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The published outcomes, calibration and vocabulary of CHIMERA Task 3; skips where they do not lie."""
    folder = ROOT.parent / "shared" / "data" / "chimera-task3"
    if not folder.is_dir():
        pytest.skip("the reference data does not lie beside this checkout")
    return folder


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small simulated cohort without tissue: features are random vectors of length 1,024."""
    root = tmp_path_factory.mktemp("cohort") / "simulated"
    assert survfuse(["simulate", str(root), "--patients", "60", "--seed", "5", "--genes", "24", "--tiles", "6"]) == 0
    return root


TINY = ["--bag=8", "--attention=4", "--rna", "8", "6", "--rank=4", "--pairs", "4", "3", "2"]
TINY += ["--hidden=5", "--embedding=3", "--fused=4", "--clusters=3", "--folds=2", "--inner=2", "--epochs=6"]
TINY += ["--draws=10", "--fusion=bilinear"]


@pytest.fixture(scope="session")
def bundle(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of four tiny members trained on ``cohort``."""
    root = tmp_path_factory.mktemp("bundle") / "tiny"
    assert survfuse(["train", str(cohort), "--out", str(root), *TINY]) == 0
    return root


def run_job(
    input_root: Path, output: Path, model: Path | None = None, **environment: str
) -> subprocess.CompletedProcess:
    """One job in a fresh process, as the platform starts it: on all cores, of which `make test` gives its tests one."""
    command = [sys.executable, str(ROOT / "inference.py"), "--input", str(input_root), "--output", str(output)]
    command += ["--model", str(model)] if model else []
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.run(command, capture_output=True, text=True, env=inherited | environment, timeout=300)


def edit_json(path: Path, **changes: object) -> None:
    """Set keys of a JSON object in place; None removes a key. A bundle's manifest keeps a checksum that fits."""
    value = json.loads(path.read_text()) | changes
    value = {key: entry for key, entry in value.items() if entry is not None}
    if path.name == MANIFEST:
        value[SELF] = manifest_digest(value)
    path.write_text(json.dumps(value))


def end_of(input_root: Path, output: Path, model: Path | None = None, *options: str) -> int:
    """Exit code of a job in this process; unless it is 0, nothing may lie in the output."""
    command = [
        "--input",
        str(input_root),
        "--output",
        str(output),
        *(["--model", str(model)] if model else []),
        *options,
    ]
    code = job.main(command)
    if code != 0 and output.is_dir():
        assert list(output.iterdir()) == []
    return code


def months(output: Path) -> float:
    """The one number that a job has left."""
    assert [path.name for path in output.iterdir()] == [OUTPUT_FILE]
    value = json.loads((output / OUTPUT_FILE).read_text())
    assert isinstance(value, float) and value >= 0.0
    return value


def give_slide(case: Path, name: str, data: bytes) -> Path:
    """Put a file in the place of a case's slide."""
    folder = case / PLACES["slide"]
    for path in folder.iterdir():
        path.unlink()
    (folder / name).write_bytes(data)
    return folder / name


@pytest.fixture(scope="session")
def model() -> Model:
    """The demonstration bundle, ready to predict on the CPU."""
    with redirect_stdout(None):
        return demonstration(device="cpu")


def edit_patients(root: Path, edit: Callable[[int, dict], dict], kind: str = "CD", whole: bool = False) -> None:
    """Update the JSON of each patient of a cohort, of the place n, by ``edit(n, values)``; None removes a key.

    ``kind`` is CD or RNA. With ``whole``, what ``edit`` gives replaces the values.
    """
    for place, path in enumerate(sorted(root.glob(f"data/*/*_{kind}.json"))):
        values = json.loads(path.read_text())
        gone = dict.fromkeys(values) if whole else {}
        edit_json(path, **(gone | edit(place, values)))


@contextmanager
def on_threads(number: int) -> Iterator[None]:
    """PyTorch computes on so many threads, whatever the number that the tests were started with."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def two_threads() -> Iterator[None]:
    with on_threads(2):
        yield


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


@pytest.fixture
def slide_case(tmp_path: Path) -> Path:
    """A copy of the case with a slide and its mask, to be broken."""
    return Path(shutil.copytree(CASES / "interf0", tmp_path / "slide"))


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """A copy of the case with features given, to be broken."""
    return Path(shutil.copytree(CASES / "interf1", tmp_path / "input"))
