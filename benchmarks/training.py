"""Time and memory of training at the task's size: 176 patients × about 1,500 tiles × 1,024, all 19,359 genes.

    python benchmarks/training.py FOLDER [--fusion auto] [OPTION ...]
    python benchmarks/training.py FOLDER --large --fusion auto --folds 2 --inner 2 --epochs 3

The first time, it simulates FOLDER/cohort. ``--large`` makes 500 patients × 10,000 tiles × 1,024 (20 GB), to measure
memory. Other options go to ``survfuse train``.
Prints the command's own log, then wall time, its peak of resident memory and, of that, what is anonymous.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

from survfuse.cohort.simulate import simulate

PATIENTS, GENES, TILES, SEED = 176, 19_359, 1500, 11
LARGE_PATIENTS, LARGE_GENES, LARGE_TILES = 500, 2000, 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fusion", default="bilinear")
    parser.add_argument("--large", action="store_true")
    options, others = parser.parse_known_args()
    cohort = options.folder / "cohort"
    if not cohort.exists():
        _large(cohort) if options.large else simulate(cohort, PATIENTS, SEED, GENES, TILES)
    for leftover in ("bundle", "bundle.training"):
        shutil.rmtree(options.folder / leftover, ignore_errors=True)
    command = [sys.executable, "-m", "survfuse", "train", str(cohort), "--out", str(options.folder / "bundle")]
    command += ["--fusion", options.fusion, "--select", "none", *others]
    started = time.monotonic()
    process = subprocess.Popen(command)
    peak = {"VmRSS": 0, "RssAnon": 0}
    while process.poll() is None:
        for name, kilobytes in _memory(process.pid).items():
            peak[name] = max(peak[name], kilobytes)
        time.sleep(0.2)
    print(f"exit code {process.returncode}, {time.monotonic() - started:.0f} s")
    print(f"peak resident {peak['VmRSS'] / 2**20:.2f} GiB, anonymous {peak['RssAnon'] / 2**20:.2f} GiB")


def _large(cohort: Path) -> None:
    """Bags of 64 simulated tiles, each drawn again and again: memory does not ask whether tiles differ."""
    simulate(cohort, LARGE_PATIENTS, SEED, LARGE_GENES, 64)
    random = torch.Generator().manual_seed(SEED)
    for path in sorted((cohort / "features/features").iterdir()):
        tiles = torch.load(path, weights_only=True)
        torch.save(tiles[torch.randint(len(tiles), (LARGE_TILES,), generator=random)], path)
    shutil.rmtree(cohort / "features/coordinates")


def _memory(process: int) -> dict[str, int]:
    """Kilobytes now resident, and anonymous, of a process; nothing once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return {}
    return {
        key: int(value.split()[0])
        for key, _, value in (line.partition(":") for line in lines)
        if key in ("VmRSS", "RssAnon")
    }


if __name__ == "__main__":
    main()
