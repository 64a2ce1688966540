"""Time and memory of training at the task's size: 176 patients × about 1,500 tiles × 1,024, all 19,359 genes.

    python benchmarks/training.py FOLDER [--fusion auto]     simulates FOLDER/cohort first, where it is not there

Prints the command's own log, then wall time, its peak of resident memory and, of that, what is anonymous.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

from survfuse.simulate import simulate

PATIENTS, GENES, TILES, SEED = 176, 19_359, 1500, 11


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fusion", default="bilinear")
    parser.add_argument("--tiles", default="32", help="drawn from each bag for a step")
    options = parser.parse_args()
    cohort = options.folder / "cohort"
    if not cohort.exists():
        simulate(cohort, PATIENTS, SEED, GENES, TILES)
    for leftover in ("bundle", "bundle.training"):
        shutil.rmtree(options.folder / leftover, ignore_errors=True)
    command = [sys.executable, "-m", "survfuse", "train", str(cohort), "--out", str(options.folder / "bundle")]
    command += ["--fusion", options.fusion, "--select", "none", "--tiles", options.tiles]
    started = time.monotonic()
    process = subprocess.Popen(command)
    peak = {"VmRSS": 0, "RssAnon": 0}
    while process.poll() is None:
        for name, kilobytes in _memory(process.pid).items():
            peak[name] = max(peak[name], kilobytes)
        time.sleep(0.2)
    print(f"exit code {process.returncode}, {time.monotonic() - started:.0f} s")
    print(f"peak resident {peak['VmRSS'] / 2**20:.2f} GiB, anonymous {peak['RssAnon'] / 2**20:.2f} GiB")


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
