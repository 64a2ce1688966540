"""Inputs tried in forked processes: what crashes, hangs or takes too much memory ends a child, not the run."""

import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import survfuse.container.supervisor
from survfuse.container.supervisor import supervised

SECONDS = 10  # that one input may take
CONTAINED = ("a library crashed (", "a library did not return from reading it")  # what the parent says
MEMORY = 3 * 2**30  # bytes that one process may grow by
_AT_ONCE = max(1, os.cpu_count() or 1)
_BATCH = 100  # inputs of one child
SCRATCH = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None


# A native library that crashes or hangs is contained where the job's own parent process answers for it.
EXPECTED = ("answered", "refused", "contained")


@dataclass
class Tally:
    """What became of the inputs, by kind; and everything that should not have."""

    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    findings: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))  # numbers of those alike

    def add(self, kind: str, number: int, what: str, detail: str = "") -> None:
        self.counts[kind][what] += 1
        if what not in EXPECTED:
            self.findings[f"{kind}: {what}: {detail}"].append(number)

    def report(self, started: float) -> int:
        """Print the table and the findings; 1 where there are any."""
        columns = (*EXPECTED, "crashed", "hung", "unforeseen", "wrong")
        print(f"| {'kind of input':<22} | {'tried':>6} | {' | '.join(f'{column:>10}' for column in columns)} |")
        print(f"|{'---|' * (len(columns) + 2)}")
        total: Counter[str] = Counter()
        for kind, counts in self.counts.items():
            total += counts
            self._row(kind, counts, columns)
        self._row("all", total, columns)
        print(f"{time.monotonic() - started:.0f} s")
        for finding, numbers in self.findings.items():
            print(f"\nFINDING {finding}\n  {len(numbers)} times, number {numbers[:8]}", file=sys.stderr)
        return int(bool(self.findings))

    @staticmethod
    def _row(kind: str, counts: Counter[str], columns: tuple[str, ...]) -> None:
        values = " | ".join(f"{counts[column]:>10,}" for column in columns)
        print(f"| {kind:<22} | {sum(counts.values()):>6,} | {values} |", flush=True)


def try_all(
    runs: Mapping[str, int], one: Callable[[str, random.Random, Path], str], seed: int, tally: Tally, keep: Path
) -> None:
    """Try ``runs[kind]`` inputs of every kind, each with a random.Random of its own.

    ``one`` makes and reads an input in an empty folder and says what became of it. Findings are kept under ``keep``.
    """
    waiting = [
        (kind, start, min(start + _BATCH, total)) for kind, total in runs.items() for start in range(0, total, _BATCH)
    ]
    running: dict[int, tuple[str, int, int, Path]] = {}
    while waiting or running:
        while waiting and len(running) < _AT_ONCE:
            kind, start, stop = waiting.pop(0)
            place = Path(tempfile.mkdtemp(dir=SCRATCH))
            child = os.fork()
            if not child:
                _try_some(kind, range(start, stop), one, seed, place)
            running[child] = (kind, start, stop, place)
        child, status = os.wait()
        kind, start, stop, place = running.pop(child)
        done = _collect(kind, place, tally, keep)
        code = os.waitstatus_to_exitcode(status)
        if code:
            number = start + done
            what = "hung" if code == -signal.SIGALRM else "crashed"
            if _contained(kind, number, one, seed):
                what = "contained"
            _kept(place / "input", keep, f"{kind}-{number}")
            tally.add(kind, number, what, f"ended by {code}: {_last(place / 'stderr')}")
            if number + 1 < stop:
                waiting.insert(0, (kind, number + 1, stop))
        shutil.rmtree(place, ignore_errors=True)


def _try_some(kind: str, numbers: range, one: Callable[..., str], seed: int, place: Path) -> None:
    """In a child: try these inputs, write what became of each, and end."""
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(os.open(place / "stderr", os.O_WRONLY | os.O_CREAT), 2)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))
        with (place / "outcomes").open("w", buffering=1) as outcomes:
            for number in numbers:
                folder = place / "input"
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                signal.alarm(SECONDS)
                try:
                    found = (one(kind, random.Random(f"{seed} {kind} {number}"), folder), "")
                except BaseException as error:
                    found = ("wrong" if isinstance(error, AssertionError) else "unforeseen", _told(error))
                    shutil.copytree(folder, place / f"kept-{number}", symlinks=True)
                outcomes.write(json.dumps([number, *found]) + "\n")
                signal.alarm(0)
        os._exit(0)
    finally:
        os._exit(99)


def _contained(kind: str, number: int, one: Callable[..., str], seed: int) -> bool:
    """Whether the same input under the job's own parent process ends in exit code 2 and one line."""
    with tempfile.TemporaryDirectory(dir=SCRATCH) as scratch:
        place = Path(scratch)
        (place / "input").mkdir()
        child = os.fork()
        if not child:
            os.dup2(os.open(place / "stderr", os.O_WRONLY | os.O_CREAT), 2)

            def read() -> int:
                one(kind, random.Random(f"{seed} {kind} {number}"), place / "input")
                return 0

            survfuse.container.supervisor.PATIENCE = SECONDS / 2
            os._exit(supervised(read))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return code == 2 and any(words in _last(place / "stderr") for words in CONTAINED)


def _collect(kind: str, place: Path, tally: Tally, keep: Path) -> int:
    """Count a child's outcomes; returns how many inputs it came through."""
    path = place / "outcomes"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for number, what, detail in lines:
        tally.add(kind, number, what, detail)
        if detail:
            _kept(place / f"kept-{number}", keep, f"{kind}-{number}")
    return len(lines)


def _told(error: BaseException) -> str:
    """What was raised, and the last places of our own that it went through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-4:]))
    return f"{type(error).__name__}: {str(error)[:300]} at {places}"


def _last(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return lines[-1][:200] if lines else ""


def _kept(folder: Path, keep: Path, name: str) -> None:
    if folder.exists():
        keep.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(keep / name, ignore_errors=True)
        shutil.copytree(folder, keep / name, symlinks=True)
