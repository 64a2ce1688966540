"""How long a job takes, how much memory, and what of either is its own: figures of README.md.

    python benchmarks/speed.py cold | slide | memory | growth | deadline | share | explain | settings
    python benchmarks/speed.py slide --encoder uni --tiles 96     (some minutes)
    python benchmarks/speed.py memory --all                       (some minutes)
    python benchmarks/speed.py field --lazyslide PYTHON           (a Python that has lazyslide and this project's torch)

Each is a table of figures taken in turn, so that a machine that slows down slows all alike; ratios are medians of those
of each turn. Inputs are made once, under build/bench.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import material
import numpy as np
import torch
from encode_alone import ENCODE_ALONE

ROOT = material.ROOT
OUTPUT = material.FOLDER / "output"
WHY = material.FOLDER / "why"
OTHERS = ("settings", "field")  # that `make bench` leaves out
IMPORT_TORCH = [sys.executable, "-c", "import torch"]


@dataclass(frozen=True)
class Run:
    seconds: float  # from the process's start to its end
    log: str

    @property
    def megabytes(self) -> float:
        """A job's own account of its peak: resident, 10^6 bytes, mapped files among it."""
        return self.number(r"peak memory ([\d,]+) MB")

    def number(self, pattern: str) -> float:
        return float(re.search(pattern, self.log)[1].replace(",", ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cold", "slide", "memory", "growth", "deadline", "share", "explain", *OTHERS))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--encoder", choices=("efficientnet-lite0", "uni"), default="efficientnet-lite0")
    parser.add_argument("--tiles", type=int, help="of the mosaic's 1,005 (default: all)")
    parser.add_argument("--all", action="store_true", help="every size of slide, and a mask of one level")
    parser.add_argument("--lazyslide", help="Python with lazyslide")
    options = parser.parse_args()
    print(
        f"\n## {options.what}: {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    {
        "cold": lambda: cold(options.turns),
        "slide": lambda: slide(options.encoder, options.tiles, options.turns),
        "memory": lambda: memory(options.all),
        "growth": growth,
        "deadline": deadline,
        "share": lambda: share(options.turns),
        "explain": lambda: explain(options.turns),
        "settings": lambda: settings(options.encoder),
        "field": lambda: field(options.lazyslide, options.turns),
    }[options.what]()


def cold(turns: int) -> None:
    """A features job at full size, from entry to exit, beside importing torch alone."""
    bundle, case = material.full_size_bundle(), material.features_case(5000)
    found = in_turn({"job": lambda: job(case, bundle), "import torch": lambda: run(IMPORT_TORCH)}, turns)
    table(("", "seconds"), [(name, seconds(runs)) for name, runs in found.items()])
    print(f"\njob / import torch: {ratio(found['job'], found['import torch'])} (target 1.3)")
    print(f"peak memory {max(run.megabytes for run in found['job']):,.0f} MB (target 2,000)\n")
    print(found["job"][-1].log)
    imports = run([sys.executable, "-X", "importtime", *command(case, bundle)[1:]], merged=True).log
    table(("import", "ms, with what it imports"), _imports(imports))


def slide(encoder: str, tiles: int | None, turns: int) -> None:
    """A slide job, less the same job on one tile, beside its encoder alone on the same tiles held in memory."""
    whole = material.mosaic()
    light = encoder == "efficientnet-lite0"
    bundle = material.DEMONSTRATION if light else material.full_size_bundle(5, encoder=True)
    many = whole if light and not tiles else material.some_tiles(whole, tiles or 1005, not light)
    single = material.some_tiles(whole, 1, not light)
    found = in_turn(
        {
            "job": lambda: job(many, bundle),
            "job on one tile": lambda: job(single, bundle),
            "encoder alone": lambda: alone(encoder, many, bundle),
        },
        turns,
    )
    number = found["job"][0].number(r"([\d,]+) tiles? kept")
    alone_seconds = [run.number(r"best ([\d.]+) s") for run in found["encoder alone"]]
    net = [a.seconds - b.seconds for a, b in zip(found["job"], found["job on one tile"], strict=True)]
    shares = [n / (a * (number - 1) / number) for n, a in zip(net, alone_seconds, strict=True)]
    table(
        (f"{encoder}, {number:,.0f} tiles", "seconds"),
        [
            ("job", seconds(found["job"])),
            ("job on one tile", seconds(found["job on one tile"])),
            ("encoder alone, best setting", middle(alone_seconds)),
        ],
    )
    print(f"\n(job − job on one tile) / encoder alone: {middle(shares)} (target {'1.12' if light else '1.05'})")
    print(found["encoder alone"][-1].log)
    plain = run([sys.executable, "-c", ENCODE_ALONE, "plain", encoder, str(many), str(bundle), "64" if light else "12"])
    rate = plain.number(r"plain ([\d.]+) s")
    print(f"plain loop {rate:.4f} s per tile; / job's {rate / (statistics.median(net) / (number - 1)):.2f}")


def memory(every: bool) -> None:
    """A job's peak memory and the seconds of its tiling against the size of the slide."""
    cases = [(side, "pyramid") for side in ((10_000, 25_000, 50_000, 100_000) if every else (10_000, 100_000))]
    cases += [(100_000, "flat")] if every else []
    rows = []
    for side, mask in cases:
        found = job(material.simulated(side, mask=mask), material.DEMONSTRATION)
        stamps = dict(re.findall(r"\[ *([\d.]+) s\] (\w+)", found.log)[::-1])
        at = {name: float(stamp) for stamp, name in stamps.items()}
        tiling, tiles = at["tissue"] - at["slide"], found.number(r"([\d,]+) tiles? kept")
        rows.append((f"{side:,}²", mask, f"{tiles:,.0f}", f"{tiling:.2f}", f"{found.megabytes:,.0f}"))
    table(("slide, px", "mask", "tiles", "tiling, s", "peak MB"), rows)


def growth() -> None:
    """The ensemble's time against tiles and members, and the share of the processor's matrix peak it reaches."""
    from survfuse.bundle.load import load, load_members
    from survfuse.networks.ensemble import Ensemble

    bundle = load(material.full_size_bundle())
    five = load_members(bundle)
    rna, clinical = torch.randn(material.GENES), torch.randn(len(bundle.vocabulary.columns))
    peak, rows = matrix_peak(), []
    for members, tiles in [(5, 10**n) for n in (2, 3, 4, 5)] + [(1, 10**4), (25, 10**4)]:
        ensemble = Ensemble([five[n % 5] for n in range(members)], bundle.manifest.combinations)
        bag = torch.randn(tiles, 1024)
        repeats = 1 if members * tiles > 10**5 else 3
        taken = min(_timed(lambda: ensemble(bag, rna, clinical)) for _ in range(repeats))  # noqa: B023
        flops = 2.0 * members * tiles * (1024 * 512 + 2 * 512 * 256 + 256 + 512)
        row = (str(members), f"{tiles:,}", f"{taken:.3f}", f"{1e6 * taken / tiles / members:.1f}")
        rows.append((*row, f"{flops / taken / 1e9:.0f}", f"{flops / taken / peak:.0%}"))
    table(("members", "tiles", "seconds", "µs per tile and member", "GFLOP/s", "of the peak"), rows)
    print(f"\nmatrix peak, float32: {peak / 1e9:.0f} GFLOP/s (4,096² × 4,096²)")
    found = job(material.features_case(10**5), material.full_size_bundle())
    print(f"a job of 100,000 tiles, five members: {found.seconds:.1f} s, {found.megabytes:,.0f} MB (target 2,500)")


def deadline() -> None:
    """Risk and months against the share of tiles used, in the order that a time limit takes them; and a limit kept."""
    import json

    from survfuse.bundle.load import load, load_members
    from survfuse.networks.ensemble import Ensemble
    from survfuse.slide.encode import tile_features
    from survfuse.slide.encoders import load_encoder
    from survfuse.slide.grid import Grid
    from survfuse.slide.order import even_order
    from survfuse.slide.pixels import Slide
    from survfuse.slide.tissue import find_tissue

    bundle = load(material.DEMONSTRATION)
    ensemble = Ensemble(load_members(bundle), bundle.manifest.combinations)
    expression = json.loads((material.SAMPLE / material.PLACES["rna"]).read_text())
    rna = torch.from_numpy(bundle.expression.encode(expression).values)
    encoder = load_encoder("efficientnet-lite0", None, torch.device("cpu"))
    rows = []
    for name, path, mask, starts in (
        ("the real slide, tiles at every sixth of a side", material.SAMPLE_SLIDE, material.SAMPLE_MASK, 6),
        ("mosaic", material.only(material.mosaic(), 0), material.only(material.mosaic(), 1), 1),
    ):
        with Slide(path) as opened:
            grid = Grid.over(opened.size, opened.mpp, 224, 1.0, starts)
            origins = find_tissue(opened, grid, mask, 0.5).origins
            features, *_ = tile_features(opened, grid, origins, encoder)
        order = even_order(*grid.places(origins).T)
        random = [np.random.default_rng(seed).permutation(len(origins)) for seed in range(20)]
        for share in (0.02, 0.05, 0.1, 0.25, 0.5, 1.0):
            used = max(1, round(share * len(origins)))
            risks = [ensemble(features[np.sort(o[:used])], rna).risk for o in (order, *random)]
            months = float(bundle.calibration.months(risks[0]).months)
            row = (f"{share:.0%}", f"{used:,}", f"{risks[0]:+.4f}", f"{months:.2f}")
            rows.append((name, *row, f"{np.mean(risks[1:]):+.4f} ± {np.std(risks[1:]):.4f}"))
    table(("slide", "share", "tiles", "risk", "months", "risk in random order (20 draws)"), rows)
    rows = []
    for limit in (10, 15, 20):
        found = job(material.mosaic(), material.DEMONSTRATION, SURVFUSE_TIME_LIMIT=str(limit))
        rows.append((str(limit), f"{found.seconds:.2f}", f"{found.number(r'features +([0-9,]+) tiles'):,.0f} of 1,005"))
    print()
    table(("limit, s", "job ended after, s", "tiles"), rows)


def share(turns: int) -> None:
    """A cohort and two jobs alone, beside two processes that never rest, and alone with threads that spin as they wait.

    On two cores a fair share beside two such processes is half of the machine: twice the time.
    """
    cohort, bundle = material.cohort(), material.every_family_bundle()
    table_of = material.FOLDER / "share.csv"
    predict = [sys.executable, "-m", "survfuse", "predict", str(cohort), "--model", str(bundle), "--out", str(table_of)]
    features, slide_case = material.features_case(5000), material.some_tiles(material.mosaic(), 192)
    work: dict[str, tuple[Callable[..., Run], float]] = {
        "predict, 100 patients, 170 members": (lambda **other: run(predict, **other), 2.2),
        "job, features": (lambda **other: job(features, material.full_size_bundle(), **other), 2.5),
        "job, slide": (lambda **other: job(slide_case, material.DEMONSTRATION, **other), 2.5),
    }
    rows = []
    for name, (go, target) in work.items():
        ways = {
            "alone": go,
            "spinning": lambda go=go: go(OMP_WAIT_POLICY="active"),
            "beside": lambda go=go: _beside_two(go),
        }
        found = in_turn(ways, turns)
        beside, spinning = (ratio(found[way], found["alone"]) for way in ("beside", "spinning"))
        rows.append((name, seconds(found["alone"]), seconds(found["beside"]), beside, f"{target:g}", spinning))
    table(("", "alone, s", "beside two, s", "ratio", "target", "threads that spin / alone"), rows)


def _beside_two(go: Callable[[], Run]) -> Run:
    """``go`` beside two processes that compute without end."""
    neighbours = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        return go()
    finally:
        for process in neighbours:
            process.kill()
            process.wait()


def explain(turns: int) -> None:
    """What an explanation adds to a job: on a slide, and on many tiles' features at full size."""
    rows = []
    for name, case, bundle in (
        ("slide, 1,005 tiles", material.mosaic(), material.DEMONSTRATION),
        ("features of 20,000 tiles, full size", material.features_case(20_000), material.full_size_bundle()),
    ):
        found = in_turn({"job": lambda: job(case, bundle), "explained": lambda: explained(case, bundle)}, turns)  # noqa: B023
        plain, why = found["job"], found["explained"]
        added = [(b.seconds - a.seconds) / a.seconds for a, b in zip(plain, why, strict=True)]
        peaks = [max(run.megabytes for run in runs) for runs in (plain, why)]
        page = (WHY / "case.html").stat().st_size / 1e6
        memory = f"{peaks[0]:,.0f} → {peaks[1]:,.0f}"
        rows.append((name, seconds(plain), seconds(why), middle(added), memory, f"{page:.1f}"))
    table(("", "job, s", "explained, s", "added / job", "peak, MB", "page, MB"), rows)
    print("\ntargets: added / job 0.3, 300 MB more on the slide, 4,000 MB in all for 20,000 tiles, page 12 MB")


def explained(case: Path, bundle: Path) -> Run:
    return run([*command(case, bundle), "--explain", str(WHY)])


def settings(encoder: str) -> None:
    """The encoder alone in every setting that could be its best."""
    case = material.some_tiles(material.mosaic(), 32 if encoder == "efficientnet-lite0" else 8)
    bundle = material.full_size_bundle(5, encoder=True)
    print(run([sys.executable, "-c", ENCODE_ALONE, "settings", encoder, str(case), str(bundle)]).log)


def field(lazyslide: str | None, turns: int) -> None:
    """Tiles a second beside LazySlide's, on the same tiles of the mosaic, same weights, float32."""
    case, bundle = material.some_tiles(material.mosaic(), 192), material.DEMONSTRATION
    script = [lazyslide, str(ROOT / "benchmarks/lazyslide_extract.py"), str(case)]
    kept = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "8589934592"}
    ways = {
        f"LazySlide, batch {batch}{', memory kept as in survfuse' if extra else ''}": (batch, extra)
        for extra in ({}, kept)
        for batch in (8, 16)
    }
    found = in_turn(
        {
            "survfuse": lambda: run([sys.executable, "-c", ENCODE_ALONE, "route", "-", str(case), str(bundle)]),
            **{name: (lambda b=b, e=e: run([*script, str(b)], **e)) for name, (b, e) in ways.items()},
        },
        turns,
        uncounted=0,  # each process encodes once before it is timed
    )
    rates = {name: [r.number(r"([\d.]+) tiles a second") for r in runs] for name, runs in found.items()}
    rows = []
    for name, values in rates.items():
        times = [ours / theirs for ours, theirs in zip(rates["survfuse"], values, strict=True)]
        rows.append((name, middle(values), middle(times)))
    table(("reading and encoding 192 tiles", "tiles per second", "survfuse / LazySlide"), rows)


def job(case: Path, bundle: Path, **environment: str) -> Run:
    return run(command(case, bundle), **environment)


def command(case: Path, bundle: Path) -> list[str]:
    return [
        sys.executable,
        str(ROOT / "inference.py"),
        *("--input", str(case), "--output", str(OUTPUT), "--model", str(bundle)),
    ]


def alone(encoder: str, case: Path, bundle: Path) -> Run:
    return run([sys.executable, "-c", ENCODE_ALONE, "alone", encoder, str(case), str(bundle)])


def run(arguments: Sequence[str], merged: bool = False, **environment: str) -> Run:
    """One process, from its start to its end."""
    inherited = [path for path in (os.environ.get("PYTHONPATH"),) if path]
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks"), *inherited])}
    started = time.perf_counter()
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merged else None,
        text=True,
        env=os.environ | paths | environment,
    )
    log = process.stdout.read()
    if code := process.wait():
        raise SystemExit(f"{' '.join(arguments)[:200]}: ended with {code}\n{log}")
    return Run(time.perf_counter() - started, log)


def in_turn(ways: Mapping[str, Callable[[], Run]], turns: int, uncounted: int = 1) -> dict[str, list[Run]]:
    """Every way once in each turn, after ``uncounted`` ones."""
    found: dict[str, list[Run]] = {name: [] for name in ways}
    for turn in range(1 - uncounted, turns + 1):
        for name, way in ways.items():
            if sys.stderr.isatty():
                print(f"\r{turn} of {turns}: {name:<40}", end="", file=sys.stderr, flush=True)
            result = way()
            if turn > 0:
                found[name].append(result)
    if sys.stderr.isatty():
        print(f"\r{'':<60}\r", end="", file=sys.stderr, flush=True)
    return found


def matrix_peak() -> float:
    """Floating-point operations a second in a product of large float32 matrices, the best of many."""
    a, b = torch.randn(2, 4096, 4096)
    return 2.0 * 4096**3 / min(_timed(lambda: a @ b) for _ in range(8))


def seconds(runs: Sequence[Run]) -> str:
    return middle([run.seconds for run in runs])


def ratio(first: Sequence[Run], second: Sequence[Run]) -> str:
    return middle([a.seconds / b.seconds for a, b in zip(first, second, strict=True)])


def middle(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def _imports(log: str) -> list[tuple[str, str]]:
    """Packages by what their import took, of those that the job's own modules asked for."""
    lines = re.findall(r"import time: +\d+ \| +(\d+) \| +(\S+)", log)
    top = [(int(micro), name) for micro, name in lines if name in _PACKAGES]
    return [(name, f"{micro / 1000:.0f}") for micro, name in sorted(top, reverse=True)]


_PACKAGES = ("torch", "numpy", "h5py", "safetensors.torch", "safetensors", "json", "argparse", "survfuse.container.job")


def _timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
