"""Cohorts and cases larger than memory: how fast they open, what they take of memory, how long a slow disk delays them.

    python benchmarks/large.py open FOLDER [--kind contiguous | chunked | torch]
    python benchmarks/large.py train FOLDER [--tiles 2000] [OPTION ...]
    python benchmarks/large.py case FOLDER --model BUNDLE [--command predict | explain] [--slides 5] [OPTION ...]
    python benchmarks/large.py disk FOLDER [--rate 50]

``open``: 5,000 patients × 10,000 tiles × 1,024 (205 GB); every patient's file is a link to the same one, which has
holes for zeros. ``train``: 5,000 patients whose files are links to fifty of ``--tiles`` tiles, by which hazards differ;
other options go to ``survfuse train``. ``case``: 10^6 tiles × 1,024 in so many slides, with holes for zeros; other
options go to the command. ``disk``: the pass of linear models over forty slides of 10,000 tiles that are not in memory,
with reads limited to ``--rate`` MB/s by a control group, which only root may make.
"""

import argparse
import os
import pickle
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import torch
from peak import memory, peak_of

from survfuse.cohort.bags import open_bags
from survfuse.cohort.feature_file import open_features
from survfuse.cohort.problems import Problems
from survfuse.cohort.read import read_cohort
from survfuse.cohort.table_paths import CohortTables
from survfuse.training import tile_clusters

PATIENTS, TILES, LENGTH, SEED = 5000, 10_000, 1024, 3
KINDS, OUTCOMES = 50, (30.0, 0.6)  # files of a training cohort; mean months, share with the event
CASE_TILES = 10**6
SAMPLED = 32  # tiles of a slide for one step of a network
DISK_SLIDES, FOLDS, CLUSTERS = 40, 5, 10
GROUPS = Path("/sys/fs/cgroup")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["open", "train", "case", "disk", "pass"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=["contiguous", "chunked", "torch"], default="contiguous")
    parser.add_argument("--tiles", type=int, default=2000)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--command", choices=["predict", "explain"], default="predict")
    parser.add_argument("--slides", type=int, default=5)
    parser.add_argument("--rate", type=int, default=50)
    parser.add_argument("--plain", action="store_true", help="of pass: nothing is read ahead")
    options, others = parser.parse_known_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.what == "open":
        opened(options.folder / options.kind, options.kind)
    elif options.what == "train":
        trained(options.folder / "train", options.tiles, others)
    elif options.what == "case":
        scored(options.folder, options.model, options.command, options.slides, others)
    elif options.what == "disk":
        disk(options.folder / "disk", options.rate)
    else:
        one_pass(options.folder / "disk", options.plain)


def opened(root: Path, kind: str) -> None:
    """Open a cohort of 5,000 patients, and print what that takes."""
    if not root.exists():
        path = root / f"one.{'pt' if kind == 'torch' else 'h5'}"
        root.mkdir()
        _with_holes(path, kind)
        linked(root, [path], np.zeros(PATIENTS, dtype=int), np.zeros(PATIENTS))
    before = memory("self")["RssAnon"]
    started, busy = time.monotonic(), time.process_time()
    cohort = read_cohort(tables(root), root / "cache")
    seconds, busy = time.monotonic() - started, time.process_time() - busy
    grown = (memory("self")["RssAnon"] - before) / 2**10
    files = len(list(Path("/proc/self/fd").iterdir()))
    print(f"{kind}: opened in {seconds:.1f} s, {busy:.1f} s of them computing")
    print(f"anonymous memory + {grown:.0f} MiB; {files} files open")
    print(f"sent to a worker: {len(pickle.dumps(cohort)) / 1e6:.1f} MB")


def trained(root: Path, tiles: int, options: list[str]) -> None:
    """Train linear models of slides on 5,000 patients, and print what that takes."""
    if not root.exists():
        root.mkdir()
        random = np.random.default_rng(SEED)
        centres = random.standard_normal((2, LENGTH), dtype=np.float32)
        shares = np.linspace(0.0, 1.0, KINDS)
        paths = []
        for number, share in enumerate(shares):
            which = (random.random(tiles) < share).astype(int)
            paths.append(root / f"{number}.h5")
            _write(paths[-1], random.standard_normal((tiles, LENGTH), dtype=np.float32) + centres[which])
        of = random.integers(KINDS, size=PATIENTS)
        linked(root, paths, of, shares[of])
    for leftover in ("bundle", "bundle.training"):
        shutil.rmtree(root / leftover, ignore_errors=True)
    found = tables(root)
    command = [sys.executable, "-m", "survfuse", "train", "--slides", str(found.slides), "--clinical"]
    command += [str(found.clinical), "--modalities", "slide", "--fusion", "cox-slide", "--out", str(root / "bundle")]
    took = peak_of([*command, *options])
    print(f"exit code {took.code}, {took.seconds:.0f} s; anonymous memory {took.anonymous:.2f} GiB")


def scored(root: Path, model: Path, command: str, slides: int, options: list[str]) -> None:
    """Predict or explain a case of 10^6 tiles, and print what that takes."""
    table = root / f"case-{slides}.csv"
    if not table.exists():
        paths = [root / f"{slides}-{number}.h5" for number in range(slides)]
        for path in paths:
            _with_holes(path, "contiguous", CASE_TILES // slides, places=slides == 1)
        table.write_text("".join(["patient,file\n", *(f"A,{path.name}\n" for path in paths)]))
    out = root / f"{command}-{slides}{'.csv' if command == 'predict' else ''}"
    arguments = ["--slides", str(table), "--modalities", "slide", "--model", str(model), "--out", str(out), *options]
    took = peak_of([sys.executable, "-m", "survfuse", command, *arguments])
    print(
        f"{command}, {slides} slides: exit code {took.code}, {took.seconds:.0f} s; anonymous {took.anonymous:.2f} GiB"
    )


def disk(root: Path, rate: int) -> None:
    """Print how long linear models' pass over slides takes, read ahead and not, at ``rate`` MB/s and unlimited."""
    if not root.exists():
        root.mkdir()
        random = np.random.default_rng(SEED)
        for number in range(DISK_SLIDES):
            _write(root / f"{number}.h5", random.standard_normal((TILES, LENGTH), dtype=np.float32))
    size = sum(path.stat().st_size for path in root.glob("*.h5")) / 1e6
    print(f"{DISK_SLIDES} slides, {size:,.0f} MB: {size / rate:.0f} s at {rate} MB/s")
    sampled(next(root.glob("*.h5")), root / "cache")
    for limit in (None, rate):
        for plain in (True, False):
            with _limited(root, limit) as group:
                command = [sys.executable, __file__, "pass", str(root.parent), *(["--plain"] if plain else [])]
                wrapped = ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh", *command]
                peak_of(wrapped if limit else command)


def sampled(path: Path, cache: Path) -> None:
    """Print how much is read from the disk for a step's tiles of one slide."""
    for way in ("scattered", "in their order"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        features = open_features(path, cache)
        features.checked = True  # otherwise all of them would be read
        rows = torch.from_numpy(np.sort(np.random.default_rng(SEED).choice(TILES, SAMPLED, replace=False)))
        before = _read_bytes()
        if way == "scattered":
            features.select(rows)
        else:  # as a mapping is read if the system is told nothing
            next(features.blocks(TILES)).index_select(0, rows)
        read = (_read_bytes() - before) / 1e6
        print(f"{SAMPLED} of {TILES:,} tiles, {way}: {read:.2f} MB read for {SAMPLED * LENGTH * 4 / 1e6:.2f}")
        del features


def _read_bytes() -> int:
    """Bytes that this process has read from disks."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def one_pass(root: Path, plain: bool) -> None:
    """One pass of linear models of five folds over slides that are not in memory; prints its seconds."""
    if plain:
        vars(tile_clusters)["read_ahead"] = lambda items: (item for item, _ in items)
    paths = sorted(root.glob("*.h5"))
    problems = Problems()
    bags = list(open_bags({path.name: [path] for path in paths}, root / "cache", problems).values())
    del bags
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    bags = list(open_bags({path.name: [path] for path in paths}, root / "cache", problems).values())
    centres = list(torch.randn(FOLDS, CLUSTERS, LENGTH, generator=torch.Generator().manual_seed(SEED)))
    started = time.monotonic()
    tile_clusters.in_one_pass(bags, centres, [[] for _ in centres], torch.device("cpu"))
    print(f"{'plain' if plain else 'read ahead'}: {time.monotonic() - started:.1f} s", flush=True)


def tables(root: Path) -> CohortTables:
    """The tables of a cohort in ``root``."""
    return CohortTables(slides=root / "slides.csv", clinical=root / "clinical.csv")


def linked(root: Path, paths: list[Path], of: np.ndarray, hazard: np.ndarray) -> None:
    """Write the tables of patients whose files are links to some of ``paths``, with outcomes by their ``hazard``."""
    random = np.random.default_rng(SEED)
    months, share = OUTCOMES
    slides, clinical = ["patient,file"], ["patient,time,event"]
    for number, which in enumerate(of.tolist()):
        name = f"P{number:04d}"
        os.link(paths[which], root / f"{name}{paths[which].suffix}")
        slides.append(f"{name},{name}{paths[which].suffix}")
        time_of = 0.1 + random.exponential(months * np.exp(-1.5 * hazard[number]))
        clinical.append(f"{name},{time_of:.3f},{int(random.random() < share)}")
    (root / "slides.csv").write_text("\n".join([*slides, ""]))
    (root / "clinical.csv").write_text("\n".join([*clinical, ""]))


def _with_holes(path: Path, kind: str, tiles: int = TILES, places: bool = False) -> None:
    """Features [tiles, 1,024] of zeros but for the first tile; chunked, as CLAM writes them, they are really there."""
    if kind == "torch":
        with torch.serialization.skip_data():
            torch.save(torch.empty(tiles, LENGTH), path)
        return
    with h5py.File(path, "w") as file:
        if kind == "chunked":
            file.create_dataset("features", data=np.ones((tiles, LENGTH), np.float32), chunks=(1, LENGTH))
            return
        create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        create.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        create.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((tiles, LENGTH))
        h5py.h5d.create(file.id, b"features", h5py.h5t.IEEE_F32LE, space, create)
        file["features"][0] = 1.0
        if places:
            across = round(tiles**0.5)
            file["coords"] = 448 * np.stack([np.arange(tiles) % across, np.arange(tiles) // across], axis=1)
            file["coords"].attrs["patch_size_level0"] = 448


def _write(path: Path, values: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["features"] = values


@contextmanager
def _limited(root: Path, rate: int | None) -> Iterator[Path]:
    """A control group whose processes read at most ``rate`` MB/s from the disk of ``root``."""
    first = GROUPS / "blkio" if (GROUPS / "blkio").is_dir() else GROUPS
    group = first / f"survfuse-{os.getpid()}"
    if rate is None:
        yield group
        return
    device = root.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    group.mkdir()
    try:
        if first == GROUPS:
            (group / "io.max").write_text(f"{number} rbps={rate * 10**6}\n")
        else:
            (group / "blkio.throttle.read_bps_device").write_text(f"{number} {rate * 10**6}\n")
        yield group
    finally:
        group.rmdir()


if __name__ == "__main__":
    main()
