"""Everything that a GPU can get wrong, and what it is worth, in one run: a checkout and Python packages are enough.

    make gpu-check [PY=python3]
    python benchmarks/gpu.py [--device cuda:1] [--only WORD ...] [--out FOLDER] [--seconds 460]

Checks come first, then figures, each with a time of its own; what does not fit into the whole time is skipped and said
so, as is what needs a package that is not installed. Writes gpu-check.json and gpu-check.md to FOLDER (default:
build/gpu-check). Exit codes: 0 all checks passed; 1 one failed or nothing was checked; 4 there is no GPU to check, and
nothing is written.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from gpu_results import Cell, Item

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 460.0
PROGRAM = "gpu-check"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check and measure the GPU; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, or cuda:N for one of several GPUs")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="items whose name contains a WORD")
    parser.add_argument("--out", type=Path, default=ROOT / "build/gpu-check", metavar="FOLDER")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="after which nothing new is begun")
    parser.add_argument("--commit", help="what was checked, for a checkout without its git repository")
    options = parser.parse_args(arguments)
    if sys.version_info < (3, 11):  # noqa: UP036 (a borrowed machine may have an older one)
        return _ended(f"survfuse needs Python 3.11 or newer, found {platform.python_version()}")
    missing = missing_packages()
    if absent := {"torch", "numpy"}.intersection(missing):
        return _ended(f"nothing can be checked without {' and '.join(sorted(absent))}")
    if options.device.partition(":")[0] != "cuda":
        return _ended(f"expected --device cuda or cuda:N, found {options.device}")
    _find_packages()
    from survfuse.runtime.device import chosen_device
    from survfuse.runtime.errors import SurvfuseError

    try:
        device = chosen_device(options.device)
    except SurvfuseError as error:
        return _ended(str(error))
    if missing:
        print(f"not installed: {', '.join(missing)}; what needs them is skipped", flush=True)
    return checked(device, all_items(device), options, missing)


def checked(
    device: "torch.device", items: "Sequence[Item]", options: argparse.Namespace, missing: Sequence[str]
) -> int:
    """Run ``items`` on ``device`` and write what they found; returns the exit code."""
    from gpu_results import Clock, Compared, Report, failures, results_of

    chosen = [item for item in items if not options.only or any(word in item.name for word in options.only)]
    started = time.monotonic()
    results = results_of(chosen, Clock(options.seconds), sys.stdout)
    report = Report(machine(device, options.commit), results, time.monotonic() - started, missing)
    for path in report.write(options.out):
        print(f"written  {path}")
    failed = failures(results)
    passed = sum(isinstance(result, Compared) for result in results) - sum(isinstance(f, Compared) for f in failed)
    print(f"{passed} checks passed, {len(failed)} failed")
    return 1 if failed or not passed else 0


def all_items(device: "torch.device") -> "list[Item]":
    """Checks, then figures. Where their imports need a package that is not installed, they are skipped."""
    from gpu_results import Item, Skipped, missing_package

    found: list[Item] = []
    for module in ("gpu_checks", "gpu_speeds", "gpu_figures"):
        try:
            found += __import__(module).items(device)
        except ModuleNotFoundError as error:
            missing = missing_package(error)
            if missing is None:
                raise
            why = f"needs {missing}, which is not installed"
            found.append(Item(module, 0.0, lambda _, module=module, why=why: iter([Skipped(module, why)])))  # type: ignore[misc]
    return found


def machine(device: "torch.device", commit: str | None = None) -> "dict[str, Cell]":
    """What was measured on: card, driver, versions and commit."""
    import torch

    from survfuse.prediction.predictor import device_name
    from survfuse.runtime.device import driver_version

    on_gpu = device.type == "cuda"
    cudnn = torch.backends.cudnn.version() if on_gpu else None
    return {
        "card": device_name(device),
        "card's memory, GB": round(torch.cuda.get_device_properties(device).total_memory / 1e9, 1) if on_gpu else None,
        "driver": driver_version(),
        "torch": torch.__version__,
        "CUDA": torch.version.cuda,
        "cuDNN": str(cudnn) if cudnn else None,
        "Python": platform.python_version(),
        "cores": str(os.cpu_count()),
        "commit": commit or _commit(),
    }


def missing_packages() -> list[str]:
    """The packages of pyproject.toml, for inference and training, that are not installed."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["train"]]
    names = [re.split(r"[^A-Za-z0-9._-]", each)[0] for each in needed]
    return [name for name in names if not _installed(name)]


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _find_packages() -> None:
    """Let this process and its children import survfuse from the checkout."""
    places = [str(ROOT), str(ROOT / "benchmarks")]
    sys.path[:0] = [place for place in places if place not in sys.path]
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join([*places, *(path for path in inherited if path and path not in places)])


def _commit() -> str | None:
    """What git calls the checkout, "-dirty" if it was changed; None where it has no repository."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return None
    return ended.stdout.strip() or None


def _ended(reason: str) -> int:
    print(f"{PROGRAM}: {reason}; nothing was checked", file=sys.stderr)
    return 4


if __name__ == "__main__":
    sys.exit(main())
