"""Bags as references to files: opened by headers, small to send, the same in another process, or refused."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import ROOT

from survfuse.cohort import bags as bags_module
from survfuse.cohort import feature_file
from survfuse.cohort.bags import Bag, open_bag, open_bags
from survfuse.cohort.problems import Problems
from survfuse.cohort.read import read_cohort
from survfuse.cohort.simulate import simulate
from survfuse.runtime.errors import EnvironmentFailure, InputError

TILES, LENGTH = 300, 6
VALUES = np.random.default_rng(0).standard_normal((TILES, LENGTH)).astype(np.float32)


def stored(folder: Path, kind: str, values: np.ndarray = VALUES, name: str = "a") -> Path:
    """``values`` in a file of a ``kind``: mapped (``h5``, ``pt``) or copied (``chunked``, ``legacy``)."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.{'h5' if kind in ('h5', 'chunked') else 'pt'}"
    if path.suffix == ".pt":
        torch.save(torch.from_numpy(values), path, _use_new_zipfile_serialization=kind == "pt")
        return path
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=values, chunks=(7, LENGTH) if kind == "chunked" else None)
    return path


def lazily(paths: list[Path], cache: Path, monkeypatch) -> Bag:
    """The bag of a cohort that is too large to be checked at once."""
    monkeypatch.setattr(bags_module, "CHECKED_AT_ONCE", 0)
    problems = Problems()
    bag = open_bags({"one": paths}, cache, problems)["one"]
    problems.raise_any("the cohort")
    return bag


KINDS = pytest.mark.parametrize("kind", ["h5", "chunked", "pt", "legacy"])


@KINDS
def test_a_large_cohort_is_opened_without_reading_a_feature(tmp_path, monkeypatch, kind, capsys):
    path = stored(tmp_path, kind)
    bag = lazily([path, path], tmp_path / "cache", monkeypatch)
    assert "2 slides, 1 MB, checked for NaN and infinity when they are read" in capsys.readouterr().out
    assert not list((tmp_path / "cache").iterdir()) and (bag.tiles, bag.dimension) == (2 * TILES, LENGTH)
    index = np.array([3, 299, 300, 0])
    assert np.array_equal(bag.rows(index), np.concatenate([VALUES, VALUES])[index])
    assert np.array_equal(torch.cat(list(bag.chunks(70))), np.concatenate([VALUES, VALUES]))
    assert len(list((tmp_path / "cache").iterdir())) == 1  # the copy, or the record that all was read and is finite
    assert not lazily([path], tmp_path / "cache", monkeypatch)._parts[0].unchecked_bytes
    assert not capsys.readouterr().out


@KINDS
def test_what_is_not_finite_ends_the_read_that_meets_it(tmp_path, monkeypatch, kind):
    values = VALUES.copy()
    values[[120, 250], 4] = np.nan, np.inf
    path = stored(tmp_path, kind, values)
    bag = lazily([path], tmp_path / "cache", monkeypatch)
    if kind in ("h5", "pt"):
        assert np.array_equal(bag.rows(np.arange(100)), VALUES[:100])
        with pytest.raises(InputError, match=r"^a\.(h5|pt): features of tile 250 are NaN or infinite$"):
            bag.rows(np.array([7, 250, 3]))
    for read in (bag.rows, bag.whole, lambda: list(bag.chunks(50)), lambda: open_bag([path], tmp_path / "cache")):
        with pytest.raises(InputError, match=r"^a\.(h5|pt): features of tile 120 are NaN or infinite$"):
            read()
    assert not list((tmp_path / "cache").iterdir())


@KINDS
def test_rows_here_and_there_are_read_without_their_neighbours(tmp_path, kind):
    bag = open_bag([stored(tmp_path, kind)], tmp_path / "cache")

    def expected_at_random() -> bool:
        """Whether the kernel reads nothing ahead of the pages in which the features are mapped."""
        place = bag._parts[0]._mapped.data_ptr()
        inside = False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            first = line.split()[0]
            if "-" in first:
                begin, _, end = first.partition("-")
                inside = int(begin, 16) <= place < int(end, 16)
            elif inside and first == "VmFlags:":
                return "rr" in line.split()
        pytest.skip("the kernel does not say how memory is mapped")

    assert np.array_equal(bag.rows(np.array([7, 250])), VALUES[[7, 250]]) and expected_at_random()
    assert np.array_equal(bag.rows(), VALUES) and not expected_at_random()
    assert np.array_equal(bag.rows(np.array([1])), VALUES[1:2]) and expected_at_random()
    assert np.array_equal(torch.cat(list(bag.chunks(50))), VALUES) and not expected_at_random()


def test_a_small_cohort_reports_every_header_and_value_together(tmp_path, capsys):
    bad = VALUES.copy()
    bad[5] = np.inf
    slides = {
        "p1": [stored(tmp_path / "p1", "h5", bad), tmp_path / "p1" / "gone.pt"],
        "p2": [stored(tmp_path / "p2", "legacy", bad, "b")],
        "p3": [stored(tmp_path / "p3", "pt")],
    }
    problems = Problems()
    bags = open_bags(slides, tmp_path / "cache", problems)
    assert list(bags) == ["p3"] and "3 slides, 1 MB, checked for NaN and infinity now" in capsys.readouterr().out
    assert [str(problem) for problem in problems.listed] == [
        "p1: a.h5: features of tile 5 are NaN or infinite; gone.pt: no such file",
        "p2: b.pt: features of tile 5 are NaN or infinite",
    ]


@pytest.mark.parametrize("short", [1, 8, 9, 400, 7000])
def test_a_torn_legacy_file_is_found_by_its_header(tmp_path, short):
    path = stored(tmp_path, "legacy")
    os.truncate(path, path.stat().st_size - short)
    with pytest.raises(InputError, match=r"^a\.pt: cannot be read as a torch file"):
        feature_file.open_features(path, tmp_path)


@KINDS
def test_a_bag_is_sent_as_a_reference(tmp_path, monkeypatch, kind):
    path = stored(tmp_path, kind)
    bag = open_bag([path], tmp_path / "cache")
    assert np.array_equal(bag.rows(), VALUES)
    sent = pickle.dumps(bag)
    assert len(sent) < 1500 < VALUES.nbytes
    received = pickle.loads(sent)
    assert received._parts[0]._mapped is None and (received.tiles, received.dimension) == (TILES, LENGTH)
    assert np.array_equal(received.rows(), VALUES)
    if kind in ("chunked", "legacy"):  # the copy may be removed; it is made again
        next((tmp_path / "cache").iterdir()).unlink()
        assert np.array_equal(pickle.loads(sent).rows(), VALUES)
        next((tmp_path / "cache").iterdir()).unlink()
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(EnvironmentFailure, match=rf"^{path}: cannot be read \(No such file or directory\)"):
        pickle.loads(sent).rows(np.array([0]))
    in_memory = pickle.loads(pickle.dumps(Bag.of(torch.from_numpy(VALUES), "uni")))
    assert np.array_equal(in_memory.rows(), VALUES) and in_memory.encoder == "uni"


@KINDS
@pytest.mark.parametrize("mapped", [False, True])
def test_a_file_that_changed_is_not_read_as_the_one_that_was_opened(tmp_path, monkeypatch, kind, mapped):
    path = stored(tmp_path, kind)
    bag = lazily([path], tmp_path / "cache", monkeypatch)
    if mapped:
        assert np.array_equal(bag.rows(np.array([1])), VALUES[1:2])
    stored(tmp_path, kind, VALUES + 1)
    os.utime(path, ns=(1, 1))  # of the same size
    if mapped and kind in ("chunked", "legacy"):
        assert np.array_equal(bag.rows(), VALUES)  # the copy is of the file that was opened
        return
    for read in (bag.rows, bag.whole, lambda: next(bag.chunks(5)), lambda: bag.rows(np.array([2]))):
        with pytest.raises(InputError, match=rf"^{path}: has changed since it was opened$"):
            read()


def test_a_file_that_changes_while_it_is_copied_leaves_no_copy(tmp_path, monkeypatch):
    path = stored(tmp_path, "chunked")
    whole = feature_file._h5_blocks

    def changing(path):
        yield from whole(path)
        os.utime(path, ns=(1, 1))

    bag = lazily([path], tmp_path / "cache", monkeypatch)
    monkeypatch.setattr(feature_file, "_h5_blocks", changing)
    with pytest.raises(InputError, match="has changed since it was opened"):
        bag.rows()
    assert not list((tmp_path / "cache").iterdir())


_WORKER = """
import pickle, sys, time
from pathlib import Path
import numpy as np

bags = pickle.loads(Path(sys.argv[1]).read_bytes())
Path(sys.argv[2]).touch()
while len(list(Path(sys.argv[2]).parent.glob("ready-*"))) < 2:
    time.sleep(0.01)
for bag in bags:
    print(float(bag.rows(None).double().sum()), float(bag.rows(np.array([0, 299])).double().sum()))
"""


def test_two_processes_use_one_cache_at_the_same_time(tmp_path, monkeypatch):
    paths = [stored(tmp_path / str(n), kind, VALUES + n) for n, kind in enumerate(["chunked", "legacy", "h5"] * 5)]
    bags = [lazily([path], tmp_path / "cache", monkeypatch) for path in paths]
    (tmp_path / "sent").write_bytes(pickle.dumps(bags))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(tmp_path / "sent"), str(tmp_path / f"ready-{name}")],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for name in ("one", "other")
    ]
    printed = [process.communicate(timeout=120)[0] for process in started]
    expected = [
        f"{torch.from_numpy(VALUES + n).double().sum()} {torch.from_numpy((VALUES + n)[[0, 299]]).double().sum()}"
        for n in range(15)
    ]
    assert printed[0] == printed[1] and printed[0].split("\n")[:-1] == expected
    suffixes = [path.suffix for path in (tmp_path / "cache").iterdir()]
    assert sorted(suffixes) == [".checked"] * 5 + [".npy"] * 10


def test_a_cohort_is_small_to_send(tmp_path):
    simulate(tmp_path / "cohort", 6, 11, genes=10, tiles=50)
    cohort = read_cohort(tmp_path / "cohort", tmp_path / "cache")
    sent = pickle.dumps(cohort)
    assert len(sent) < 20_000 < sum(bag.rows().nbytes for bag in cohort.bags)
    received = pickle.loads(sent)
    assert all(torch.equal(a.rows(), b.rows()) for a, b in zip(cohort.bags, received.bags, strict=True))
