"""What a GPU is worth besides encoding, for `gpu.py`: a job's start, members over many tiles, training."""

import subprocess
import sys
from collections.abc import Iterator

import torch
from gpu_checks import FAMILIES, FULL_SIZE, random_case, random_member
from gpu_encoders import peak_bytes
from gpu_results import Clock, Compared, Item, Result, Row, Skipped
from gpu_shared import seconds_of

from survfuse.networks.ensemble import Ensemble
from survfuse.tasks.registry import DEFAULT

TURNS = 3
MEMBERS, BAGS = 5, (20_000, 1_000_000)
TOGETHER = "Five members, one case"
COLD = "Cold start, features given"
TRAINING = "Training at the task's size, --fusion auto"


def items(device: torch.device) -> list[Item]:
    """Figures for ``device``, the longest last."""
    return [
        Item("five members", 40.0, lambda clock: members(device, clock)),
        Item("cold start", 60.0, lambda _: cold_start(device)),
        Item("training", 300.0, lambda clock: auto_training(device, clock)),
    ]


def members(device: torch.device, clock: Clock) -> Iterator[Result]:
    """Seconds and memory of five members at full size over one case's tiles, in float32 and in half precision."""
    pairs = [random_member(FAMILIES["bilinear"], FULL_SIZE, seed) for seed in range(MEMBERS)]
    case = random_case(pairs[0][0], 0)
    ensemble = Ensemble([member for member, _ in pairs], pairs[0][1], device)
    some = torch.randn(10_000, FULL_SIZE.tile)
    for number in BAGS:
        for half in (False, True):
            what = f"{number:,} tiles, {'fp16' if half else 'float32'}"
            if clock.left <= 0.0:
                yield Skipped(f"five members: {what}", "no time was left")
                continue
            bag = (some.half() if half else some).repeat(number // len(some), 1)

            def score(bag: torch.Tensor = bag, half: bool = half) -> None:
                ensemble(bag, case.rna, case.clinical, half=half)

            score()
            taken = min(seconds_of(score) for _ in range(2))
            peak = peak_bytes(device, score) / 1e6
            yield Row(TOGETHER, {"": what, "seconds": taken, "peak GPU memory, MB": peak})


def cold_start(device: torch.device) -> Iterator[Result]:
    """A features job at full size in a process of its own, beside importing torch and starting the GPU alone."""
    import material
    import speed

    bundle, case = material.full_size_bundle(), material.features_case(5000)
    start = [sys.executable, "-c", f"import torch; torch.zeros(1, device='{device}')"]
    outputs: list[tuple[str, bytes]] = []

    def job(where: str) -> speed.Run:
        ended = speed.job(case, bundle, SURVFUSE_DEVICE=where)
        outputs.append((where, (speed.OUTPUT / DEFAULT.output_file).read_bytes()))
        return ended

    ways = {
        "inference.py, GPU": lambda: job(str(device)),
        "torch and CUDA's context": lambda: speed.run(start),
        "inference.py, CPU": lambda: job("cpu"),
    }
    found = speed.in_turn(ways, TURNS)
    for name, runs in found.items():
        megabytes = max(run.megabytes for run in runs) if "inference" in name else None
        yield Row(COLD, {"": name, "seconds": speed.seconds(runs), "peak memory, MB": megabytes})
    job_runs, starts = found["inference.py, GPU"], found["torch and CUDA's context"]
    yield Row(COLD, {"": "inference.py, GPU / torch and CUDA's context", "seconds": speed.ratio(job_runs, starts)})
    different = len({data for where, data in outputs if where == str(device)}) - 1
    yield Compared("jobs, twice", "processes of their own", different, 0.0, "values that differ")


def auto_training(device: torch.device, clock: Clock, least: float = 60.0) -> Iterator[Result]:
    """``survfuse train --fusion auto`` at the task's size; the card's used memory is sampled meanwhile."""
    import material
    import training

    folder = material.FOLDER / "training"
    if clock.left > least:
        training.made(folder)  # about as long again
    if clock.left < least:
        yield Skipped("training", f"{max(clock.left, 0.0):.0f} s were left, too few")
        return
    before = _used_bytes(device)
    used: list[int] = []
    options = ["--fusion", "auto", "--device", str(device)]
    found = training.trained(folder, options, clock.left, lambda: used.append(_used_bytes(device)), subprocess.DEVNULL)
    if found.code is None:
        yield Skipped("training", f"not finished after {found.seconds:.0f} s")
        return
    if found.code:
        raise SystemExit(f"survfuse train ended with exit code {found.code}")
    peak = (max(used) - before) / 1e6
    row = {"seconds": found.seconds, "peak resident memory, GiB": found.resident, "peak GPU memory, MB": peak}
    yield Row(TRAINING, row)


def _used_bytes(device: torch.device) -> int:
    free, whole = torch.cuda.mem_get_info(device)
    return whole - free
