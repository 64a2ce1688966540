"""Whole jobs on mutated cases and bundles, held to the contract: exit code, what is said, what is left, time, memory.

A job is forked from a process that has imported what jobs import, and then is what inference.py starts, its parent
process included; every tenth is started as a program of its own.
"""

import json
import math
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import openslide  # noqa: F401  (imported once, for all jobs)
import SimpleITK  # noqa: F401
import timm  # noqa: F401
from fuzz.material import (
    CASES,
    DEMONSTRATION,
    OUTPUT_FILE,
    PLACES,
    ROOT,
    h5_files,
    masks,
    pt_files,
    read_object,
    slides,
)
from fuzz.mutations import (
    changed_bytes,
    changed_head,
    changed_json,
    changed_statements,
    changed_tags,
    json_bytes,
)
from fuzz.processes import CONTAINED
from fuzz.readers import seal

import survfuse.container.job as job
import survfuse.container.supervisor
from survfuse.container.supervisor import supervised

SECONDS = 25.0  # that a job on the smallest of cases may take
MEMORY = 2.5e9  # bytes resident
SHARES = {
    "job: slide": 0.25,
    "job: mask": 0.2,
    "job: HDF5 features": 0.15,
    "job: torch features": 0.1,
    "job: expression": 0.08,
    "job: clinical": 0.08,
    "job: inputs.json": 0.06,
    "job: bundle": 0.08,
}
_BYTES = (changed_bytes, changed_head)
_TIFF = (changed_bytes, changed_head, changed_tags, changed_tags, changed_statements)


def outcome(kind: str, chance: random.Random, folder: Path) -> str:
    """Whether the job answered, refused, or was contained; raises AssertionError where it breaks the contract."""
    case, model = folder / "case", DEMONSTRATION
    shutil.copytree(CASES / ("interf0" if kind in ("job: slide", "job: mask") else "interf1"), case)
    if kind == "job: bundle":
        model = Path(shutil.copytree(DEMONSTRATION, folder / "bundle"))
        _change_bundle(model, chance)
    else:
        _CHANGES[kind](case, chance)
    (folder / "output").mkdir()
    command = ["inference.py", "--input", str(case), "--output", str(folder / "output"), "--model", str(model)]
    started = time.monotonic()
    code, taken = _program(command, folder) if chance.random() < 0.1 else _forked(command, folder)
    return _judged(code, folder, time.monotonic() - started, taken)


def _replace_slide(case: Path, name: str, data: bytes) -> None:
    for path in (case / PLACES["slide"]).iterdir():
        path.unlink()
    (case / PLACES["slide"] / name).write_bytes(data)


def _change_mask(case: Path, chance: random.Random) -> None:
    (path,) = (case / PLACES["mask"]).iterdir()
    path.write_bytes(chance.choice(_TIFF)(chance.choice(masks()), chance))


def _change_json(place: str) -> Callable[[Path, random.Random], None]:
    def change(case: Path, chance: random.Random) -> None:
        value = json.loads((case / place).read_text())
        (case / place).write_bytes(json_bytes(value, chance))

    return change


_CHANGES: dict[str, Callable[[Path, random.Random], None]] = {
    "job: slide": lambda case, chance: _replace_slide(
        case, "s.tif", chance.choice(_TIFF)(chance.choice((slides()[0], chance.choice(slides()))), chance)
    ),
    "job: mask": _change_mask,
    "job: HDF5 features": lambda case, chance: _replace_slide(
        case, "x.h5", chance.choice(_BYTES)(chance.choice(h5_files()), chance)
    ),
    "job: torch features": lambda case, chance: _replace_slide(
        case, "x.pt", chance.choice(_BYTES)(chance.choice(pt_files()), chance)
    ),
    "job: expression": _change_json(PLACES["rna"]),
    "job: clinical": _change_json(PLACES["clinical"]),
    "job: inputs.json": _change_json("inputs.json"),
}


def _change_bundle(root: Path, chance: random.Random) -> None:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    path = chance.choice(files)
    if path.suffix == ".json" and chance.random() < 0.7:
        path.write_text(json.dumps(changed_json(read_object(path), chance)))
    else:
        path.write_bytes(chance.choice(_BYTES)(path.read_bytes(), chance))
    if path.name != "manifest.json" and chance.random() < 0.5:
        seal(root, path.relative_to(root).as_posix())


def _program(command: list[str], folder: Path) -> tuple[int, int]:
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        started = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=out, stderr=err)
        return _ended(started.pid)


def _forked(command: list[str], folder: Path) -> tuple[int, int]:
    child = os.fork()
    if not child:
        os.dup2(os.open(folder / "stdout", os.O_WRONLY | os.O_CREAT), 1)
        os.dup2(os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT), 2)
        # The child that tries inputs is bounded in address space; a container bounds what is resident.
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        survfuse.container.supervisor.PATIENCE = SECONDS / 4
        os._exit(supervised(lambda: job.main(command[1:])))
    return _ended(child)


def _ended(child: int) -> tuple[int, int]:
    """Exit code of a process, negative for a signal, and the most bytes that it or what it waited for held."""
    _, status, usage = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024


def _judged(code: int, folder: Path, seconds: float, memory: int) -> str:
    said = (folder / "stderr").read_text(encoding="utf-8", errors="replace").splitlines()
    lying = sorted(path.name for path in (folder / "output").iterdir())
    told = f"code {code}, {seconds:.1f} s, {memory / 1e6:.0f} MB, {said[-3:]}, output {lying}"
    assert code in (0, 2, 3, 4), told
    assert seconds <= SECONDS and memory <= MEMORY, told
    contained = code == 2 and any(words in line for line in said for words in CONTAINED)
    assert contained or all(line.startswith("survfuse: ") for line in said), told
    failures = [line for line in said if not line.startswith("survfuse: warning: ")]
    if code:
        assert lying == [] and (contained or len(failures) == 1), told
        return "contained" if contained else "refused"
    assert lying == [OUTPUT_FILE] and not failures, told
    months = json.loads((folder / "output" / OUTPUT_FILE).read_text())
    assert isinstance(months, float) and math.isfinite(months) and months >= 0.0, told
    return "answered"
