"""Time and memory of training at the task's size: 176 patients × about 1,500 tiles × 1,024, all 19,359 genes.

    python benchmarks/training.py FOLDER [--fusion auto] [OPTION ...]
    python benchmarks/training.py FOLDER --large --fusion auto --folds 2 --inner 2 --epochs 3

The first time, it simulates FOLDER/cohort. ``--large`` makes 500 patients × 10,000 tiles × 1,024 (20 GB), to measure
memory. Other options go to ``survfuse train``.
Prints the command's own log, then wall time, its peak of resident memory and, of that, what is anonymous.
"""

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from peak import Peak, peak_of

from survfuse.cohort.simulate import simulate

PATIENTS, GENES, TILES, SEED = 176, 19_359, 1500, 11
LARGE_PATIENTS, LARGE_GENES, LARGE_TILES = 500, 2000, 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fusion", default="bilinear")
    parser.add_argument("--large", action="store_true")
    options, others = parser.parse_known_args()
    made(options.folder, options.large)
    found = trained(options.folder, ["--fusion", options.fusion, *others])
    print(f"exit code {found.code}, {found.seconds:.0f} s")
    print(f"peak resident {found.resident:.2f} GiB, anonymous {found.anonymous:.2f} GiB")


def made(folder: Path, large: bool = False) -> None:
    """Simulate the cohort of ``folder`` unless it is there."""
    cohort = folder / "cohort"
    if not cohort.exists():
        _large(cohort) if large else simulate(cohort, PATIENTS, SEED, GENES, TILES)


def trained(
    folder: Path,
    options: Sequence[str],
    limit: float = float("inf"),
    watch: Callable[[], object] = lambda: None,
    output: int | None = None,
) -> Peak:
    """Train on the cohort of ``folder`` with ``options``; ``limit``, ``watch`` and ``output`` are as in ``peak_of``."""
    for leftover in ("bundle", "bundle.training"):
        shutil.rmtree(folder / leftover, ignore_errors=True)
    command = [sys.executable, "-m", "survfuse", "train", str(folder / "cohort"), "--out", str(folder / "bundle")]
    return peak_of([*command, "--select", "none", *options], limit, watch, output)


def _large(cohort: Path) -> None:
    """Bags of 64 simulated tiles, each drawn again and again: memory does not ask whether tiles differ."""
    simulate(cohort, LARGE_PATIENTS, SEED, LARGE_GENES, 64)
    random = torch.Generator().manual_seed(SEED)
    for path in sorted((cohort / "features/features").iterdir()):
        tiles = torch.load(path, weights_only=True)
        torch.save(tiles[torch.randint(len(tiles), (LARGE_TILES,), generator=random)], path)
    shutil.rmtree(cohort / "features/coordinates")


if __name__ == "__main__":
    main()
