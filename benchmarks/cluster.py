"""What several workers gain and cost: python benchmarks/cluster.py speedup|overhead|scheduling.

speedup: the mosaic's pieces on one worker of one thread and on two, beside two plain processes that share nothing.
overhead: the time between a worker's slides, for each slide. scheduling: 100,000 slides that take no time.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from statistics import median
from typing import Any

from survfuse.cohort.extract_work import Numbered
from survfuse.cohort.slide_list import CohortSlide
from survfuse.workers.executor import executor
from survfuse.workers.settings import Cluster

PIECES, TURNS = 16, 3
NOTHINGS = 100_000


def main(what: str) -> None:
    """Run one benchmark and print its figures as JSON."""
    print(json.dumps({"speedup": speedup, "overhead": overhead, "scheduling": scheduling}[what](), indent=1))


def speedup() -> dict[str, object]:
    """Seconds of all pieces, from the first worker's beginning to the last one's end, and their ratio, turn by turn."""
    with pieces(PIECES) as cohort:
        turns = [
            (on_cluster(cohort, 1), on_cluster(cohort, 2), plain(cohort, 1), plain(cohort, 2)) for _ in range(TURNS)
        ]
    one, two, alone, pair = zip(*turns, strict=True)
    return {
        "pieces": PIECES,
        "seconds on one worker": one,
        "seconds on two workers": two,
        "speed-up": [a / b for a, b in zip(one, two, strict=True)],
        "seconds in one plain process": alone,
        "seconds in two plain processes, half of the pieces each": pair,
        "speed-up of plain processes": [a / b for a, b in zip(alone, pair, strict=True)],
    }


def overhead() -> dict[str, object]:
    """Seconds for each slide in which one worker does not work on any, from its first slide to its last."""
    with pieces(PIECES) as cohort:
        out = extracted(cohort, ["--cluster", "local", "--workers", "1"])
        records = json.loads((out / "extract.json").read_text())["slides"]
        files = sorted((out / "features/features").glob("*.h5"), key=lambda path: path.stat().st_mtime_ns)
    spent = (files[-1].stat().st_mtime_ns - files[0].stat().st_mtime_ns) / 1e9
    first = files[0].stem
    working = sum(record["seconds"] for record in records if Path(record["slide"]).stem != first)
    shutil.rmtree(out)
    return {"slides": len(records) - 1, "seconds between two slides": (spent - working) / (len(records) - 1)}


def scheduling() -> dict[str, object]:
    """Slides a second that two workers are given and give back, and the driver's peak memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    slides = [CohortSlide(Path(f"/cohort/data/P{n:06}/P{n:06}_HE.tif"), None) for n in range(NOTHINGS)]
    items = [Numbered(slide, number) for number, slide in enumerate(slides, start=1)]
    with redirect_stdout(StringIO()), executor("cpu", Cluster("local", workers=2)) as where:
        started, ended = 0.0, set()
        for each in where.results(Nothing(), items):
            started = started or time.monotonic()
            ended.add(each.item.number)
        seconds = time.monotonic() - started
    assert len(ended) == NOTHINGS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "slides": NOTHINGS,
        "slides a second": NOTHINGS / seconds,
        "peak resident MB of the driver": peak * 1024 / 1e6,
        "… of which before there was a list": before * 1024 / 1e6,
    }


@dataclass(frozen=True)
class Nothing:
    """Work that takes no time."""

    def start(self, _device: object) -> Callable[[Numbered, int], int]:
        """Nothing is loaded; no slide has any tile."""
        return lambda _numbered, _lacked: 0


@contextmanager
def pieces(number: int) -> Iterator[Path]:
    """A cohort of one patient a piece: mosaics of 3 × 3 copies of the sample slide."""
    import material  # torch with it, which would count as the command's memory

    case = material.mosaic(3, 3)
    slide, mask = (next((case / material.PLACES[name]).iterdir()) for name in ("slide", "mask"))
    with tempfile.TemporaryDirectory() as folder:
        for piece in range(number):
            patient = Path(folder, "data", f"P{piece:02}")
            patient.mkdir(parents=True)
            os.link(slide, patient / f"P{piece:02}_HE.tif")
            os.link(mask, patient / f"P{piece:02}_HE_mask.tif")
        yield Path(folder)


def on_cluster(cohort: Path, workers: int) -> float:
    """Seconds that ``workers`` on this machine take, without what loads the encoder."""
    out = extracted(cohort, ["--cluster", "local", "--workers", str(workers)])
    seconds = span(out)
    shutil.rmtree(out)
    return seconds


def plain(cohort: Path, processes: int) -> float:
    """Seconds that processes of one thread take for equal parts of the pieces, without what loads the encoder."""
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for part in range(processes):
            own = Path(folder, f"part{part}", "data")
            own.mkdir(parents=True)
            for patient in sorted((cohort / "data").iterdir())[part::processes]:
                shutil.copytree(patient, own / patient.name, copy_function=os.link)
            running.append(subprocess.Popen(command(own.parent, Path(folder, "out"), []), **quiet()))
        assert all(process.wait() == 0 for process in running)
        return span(Path(folder, "out"))


def span(out: Path) -> float:
    """Seconds in which all pieces were worked on, from the first one's beginning to the last one's end."""
    found = [json.loads(path.read_text())["slides"] for path in out.glob("extract.json")]
    seconds = {Path(record["slide"]).stem: record["seconds"] for slides in found for record in slides}
    ends = {path.stem: path.stat().st_mtime_ns / 1e9 for path in (out / "features/features").glob("*.h5")}
    typical = median(seconds.values())
    spanned: float = max(ends.values()) - min(end - seconds.get(name, typical) for name, end in ends.items())
    return spanned


def extracted(cohort: Path, options: list[str]) -> Path:
    """A folder with the features of the pieces."""
    out = Path(tempfile.mkdtemp())
    subprocess.run(command(cohort, out, options), check=True, **quiet())
    return out


def command(cohort: Path, out: Path, options: list[str]) -> list[str]:
    """The extraction of a cohort on the CPU."""
    return [sys.executable, "-m", "survfuse", "extract", str(cohort), "--out", str(out), "--device", "cpu", *options]


def quiet() -> dict[str, Any]:
    """One thread, no output."""
    return {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "stdout": subprocess.DEVNULL}


if __name__ == "__main__":
    main(sys.argv[1])
