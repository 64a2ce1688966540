"""Tile features as they really come: the right answer with a line in the log, or one named refusal."""

import errno
import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import FEATURES, ROOT, end_of, give_slide, months, run_job

from survfuse.inputs.features import read_features
from survfuse.runtime.errors import EnvironmentFailure, InputError
from survfuse.runtime.memory import available_memory, check_memory

LENGTH = 1280
VALUES = np.random.default_rng(0).random((9, LENGTH)).astype(np.float32)


def h5(write) -> bytes:
    """An HDF5 file that ``write`` fills."""
    held = io.BytesIO()
    with h5py.File(held, "w") as file:
        write(file)
    return held.getvalue()


def pt(value: object, **options: object) -> bytes:
    held = io.BytesIO()
    torch.save(value, held, **options)
    return held.getvalue()


def of(values: np.ndarray, **options: object):
    return lambda file: file.create_dataset("features", data=values, **options)


# --- the right answer ---


def test_types_layouts_and_missing_coords_are_the_same_features(case, tmp_path, capsys):
    """Stored exactly: whole multiples of 1/64 below 16 are the same number in every floating type."""
    exact = np.floor(VALUES * 64).astype(np.float32) / 64
    tensor = torch.from_numpy(exact)
    kinds = {
        "f32.h5": h5(of(exact)),
        "f16.h5": h5(of(exact.astype(np.float16))),
        "f64.h5": h5(of(exact.astype(np.float64))),
        "big-endian.h5": h5(of(exact.astype(">f4"))),
        "chunked.h5": h5(of(exact, chunks=(2, 640), compression="gzip")),
        "lzf.h5": h5(of(exact.astype(np.float16), compression="lzf", shuffle=True, fletcher32=True)),
        "three axes.h5": h5(of(exact[None])),
        "UPPER.H5": h5(of(exact)),
        "one chunk.h5": h5(of(exact, chunks=exact.shape)),
        "a link within.h5": h5(soft_link),
        "f32.pt": pt(tensor),
        "legacy.pt": pt(tensor, _use_new_zipfile_serialization=False),
        "f16.pt": pt(tensor.half()),
        "bf16.pt": pt(tensor.bfloat16()),
        "f64.pt": pt(tensor.double()),
        "parameter.pt": pt(torch.nn.Parameter(tensor)),
        "transposed.pt": pt(tensor.T.contiguous().T),
    }
    found = set()
    for name, data in kinds.items():
        give_slide(case, name, data)
        assert end_of(case, tmp_path / name) == 0
        found.add(months(tmp_path / name))
        absent = name.lower().endswith(".h5") and name != "a link within.h5"
        assert ("no coords (not needed)" in capsys.readouterr().out) == absent
    assert len(found) == 1


def test_as_many_copies_of_one_tile_as_there_are_count_as_one(case, tmp_path):
    """A weighted mean of equal vectors is that vector, and so are shares of clusters."""
    found = []
    for rows in (1, 2, 1000, 5000):
        give_slide(case, "x.h5", h5(of(np.repeat(VALUES[:1], rows, axis=0))))
        assert end_of(case, tmp_path / str(rows)) == 0
        found.append(months(tmp_path / str(rows)))
    assert found == pytest.approx([found[0]] * 4, rel=1e-5)


@pytest.mark.long
def test_a_million_tiles(case, tmp_path):
    """2.6 GB of features from a file of some megabytes: answered, and as one tile is."""
    with h5py.File(give_slide(case, "x.h5", b""), "w") as file:
        many = file.create_dataset("features", (10**6, LENGTH), np.float16, chunks=(2000, LENGTH), compression="gzip")
        for start in range(0, 10**6, 20_000):
            many[start : start + 20_000] = np.repeat(VALUES[:1].astype(np.float16), 20_000, axis=0)
    ended = run_job(case, tmp_path / "many")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "1,000,000 tiles × 1280" in ended.stdout
    peak = float(ended.stdout.rsplit("peak memory ", 1)[1].split(" MB")[0].replace(",", ""))
    assert peak < 2 * 1.28e3 + 1500
    give_slide(case, "x.h5", h5(of(VALUES[:1].astype(np.float16))))
    assert end_of(case, tmp_path / "one") == 0
    assert months(tmp_path / "many") == pytest.approx(months(tmp_path / "one"), rel=1e-4)


def test_tiles_of_zeros_are_counted(case, output, capsys):
    values = VALUES.copy()
    values[[2, 5]] = 0.0
    give_slide(case, "x.h5", h5(of(values)))
    assert end_of(case, output) == 0
    assert "2 tiles with all features 0" in capsys.readouterr().out


# --- refusals ---


def elsewhere(file: h5py.File) -> None:
    file["features"] = h5py.ExternalLink(str(FEATURES), "/features")


def outside_storage(file: h5py.File) -> None:
    file.create_dataset("features", (9, LENGTH), np.float32, external=[(str(FEATURES), 0, 9 * LENGTH * 4)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((9, LENGTH), np.float32)
    layout[:] = h5py.VirtualSource(str(FEATURES), "features", (11, LENGTH))[:9]
    file.create_virtual_dataset("features", layout)


def soft_link_elsewhere(file: h5py.File) -> None:
    file["there"] = h5py.ExternalLink(str(FEATURES), "/features")
    file["features"] = h5py.SoftLink("/there")


def circle(file: h5py.File) -> None:
    file["features"] = h5py.SoftLink("/there")
    file["there"] = h5py.SoftLink("/features")


def dangling(file: h5py.File) -> None:
    file["features"] = h5py.SoftLink("/nowhere")


def soft_link(file: h5py.File) -> None:
    file["there"] = np.floor(VALUES * 64).astype(np.float32) / 64
    file["features"] = h5py.SoftLink("/there")
    file["coords"] = h5py.ExternalLink("nowhere.h5", "/coords")  # not needed, and not followed


def one_chunk(file: h5py.File) -> None:
    shape = (2, LENGTH)
    made = file.create_dataset("features", shape, np.float32, chunks=(100_000, LENGTH), maxshape=(None, LENGTH))
    made.id.write_direct_chunk((0, 0), bytes(10))


def tiny_chunks(file: h5py.File) -> None:
    made = file.create_dataset("features", (10**5, LENGTH), np.float32, chunks=(1, 8), fillvalue=1.0)
    made[0] = 1.0


def in_part(file: h5py.File) -> None:
    made = file.create_dataset("features", (9, LENGTH), np.float32, chunks=(1, LENGTH), fillvalue=0.37)
    made[:4] = VALUES[:4]


def far_beyond(file: h5py.File) -> None:
    wide = (1, 2**20)
    made = file.create_dataset("features", (500, LENGTH), np.float32, chunks=wide, maxshape=(500, None), compression=9)
    made[:2] = 1.0


def other_coords(file: h5py.File) -> None:
    file["features"], file["coords"] = VALUES, np.zeros((8, 2))


class Harm:
    """What runs code as it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


class Room:
    """What is made as large as it says as it is unpickled."""

    def __reduce__(self):
        return bytearray, (40 * 2**30,)


def packed(value: object, swollen: int) -> bytes:
    """A torch file whose entries are compressed, its tensor's said to unpack to ``swollen`` bytes."""
    source, held = zipfile.ZipFile(io.BytesIO(pt(value))), io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in source.infolist():
            archive.writestr(entry.filename, source.read(entry))
    data = bytearray(held.getvalue())
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        at = archive.start_dir  # the directory's own account of the sizes, which unpacking goes by
        for entry in archive.infolist():
            if entry.filename.endswith("data/0"):
                data[at + 24 : at + 28] = swollen.to_bytes(4, "little")
            at += 46 + len(entry.filename) + len(entry.extra) + len(entry.comment)
    return bytes(data)


REFUSED = {
    "of another length.h5": (lambda: h5(of(VALUES[:, :1024])), "takes length 1280 (efficientnet-lite0)"),
    "of another length.pt": (lambda: pt(torch.ones(3, 1024)), "takes length 1280 (efficientnet-lite0)"),
    "NaN.h5": (lambda: h5(of(np.where(np.arange(9)[:, None] == 4, np.nan, VALUES))), "tile 4 are NaN or infinite"),
    "infinite.pt": (lambda: pt(torch.full((2, LENGTH), torch.inf)), "tile 0 are NaN or infinite"),
    "beyond float32.pt": (lambda: pt(torch.full((2, LENGTH), 1e300, dtype=torch.float64)), "tile 0 are NaN"),
    "no rows.h5": (lambda: h5(of(VALUES[:0])), "holds no tiles"),
    "no rows.pt": (lambda: pt(torch.ones(0, LENGTH)), "holds no tiles"),
    "zeros.h5": (lambda: h5(of(np.zeros((5, LENGTH), np.float32))), "every feature of 5 tiles is 0"),
    "zeros.pt": (lambda: pt(torch.zeros(5, LENGTH)), "every feature of 5 tiles is 0"),
    "no features.h5": (lambda: h5(lambda file: file.create_group("features")), "expected a dataset 'features'"),
    "whole numbers.h5": (lambda: h5(of(VALUES.astype(int))), "of floating-point numbers"),
    "text.h5": (lambda: h5(lambda file: file.create_dataset("features", data="x")), "of floating-point numbers"),
    "one axis.h5": (lambda: h5(of(VALUES[0])), "expected features [N, D] or [1, N, D]"),
    "a link to another file.h5": (lambda: h5(elsewhere), "'features' is a link to another file"),
    "a link to such a link.h5": (lambda: h5(soft_link_elsewhere), "'features' lies in another file"),
    "a link in a circle.h5": (lambda: h5(circle), "cannot be read as HDF5"),
    "a link to nothing.h5": (lambda: h5(dangling), "expected a dataset 'features'"),
    "outside storage.h5": (lambda: h5(outside_storage), "lie in other files"),
    "virtual.h5": (lambda: h5(virtual), "lie in other files"),
    "one huge chunk.h5": (lambda: h5(one_chunk), "10,240 bytes of features in 1 chunks of 512,000,000 bytes"),
    "tiny chunks.h5": (lambda: h5(tiny_chunks), "bytes of features in 16,000,000 chunks of 32 bytes"),
    "never written.h5": (
        lambda: h5(lambda file: file.create_dataset("features", (10**6, LENGTH), np.float32, chunks=(1000, LENGTH))),
        "its features were never written",
    ),
    "written in part.h5": (lambda: h5(in_part), "4 of 9 chunks of features were written"),
    "chunks far beyond.h5": (lambda: h5(far_beyond), "in 500 chunks of"),
    "too many.h5": (lambda: h5(many), "expected at most [4,194,304, 65,536]"),
    "other coords.h5": (
        lambda: h5(lambda file: (of(VALUES)(file), file.create_dataset("coords", (8, 2), np.int64))),
        "coords of",
    ),
    "a group of coords.h5": (
        lambda: h5(lambda file: (of(VALUES)(file), file.create_group("coords"))),
        "expected a dataset of coordinates as 'coords'",
    ),
    "a flipped bit.pt": (lambda: flipped(pt(torch.from_numpy(VALUES))), "damaged ("),
    "a list.pt": (lambda: pt([torch.ones(3, LENGTH)]), "expected a tensor, found list"),
    "a dictionary.pt": (lambda: pt({"features": torch.ones(3, LENGTH)}), "expected a tensor, found dict"),
    "a number.pt": (lambda: pt(3.0), "expected a tensor, found float"),
    "whole numbers.pt": (lambda: pt(torch.ones(3, LENGTH, dtype=torch.int64)), "expected a tensor of floating-point"),
    "sparse.pt": (lambda: pt(torch.eye(LENGTH).to_sparse()), "expected a dense tensor"),
    "endless rows.pt": (
        lambda: pt(torch.ones(1, LENGTH).expand(10**9, LENGTH)),
        "expected at most [4,194,304, 65,536]",
    ),
    "a bomb.pt": (lambda: pickle.dumps(Room()), "cannot be read as a torch file"),
    "a bomb in an archive.pt": (lambda: pt(Room()), "requests more memory than its content needs"),
    "not torch's.pt": (lambda: b"PK\x03\x04" + bytes(100), "cannot be read as a torch file"),
    "empty.pt": (lambda: b"", "cannot be read as a torch file"),
    "empty.h5": (lambda: b"", "cannot be read as HDF5"),
}


def flipped(data: bytes) -> bytes:
    """One bit of the tensor's own bytes, which torch does not check."""
    place = data.index(VALUES.tobytes()) + 1000
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def many(file: h5py.File) -> None:
    made = file.create_dataset("features", (2**23, LENGTH), np.float16, chunks=(64, LENGTH), fillvalue=1.0)
    made[0] = 1.0


@pytest.mark.parametrize("kind", REFUSED)
def test_features_that_cannot_be_used_are_refused_in_one_line(case, output, capsys, kind):
    make, message = REFUSED[kind]
    give_slide(case, kind, make())
    assert end_of(case, output) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"survfuse: InputError: {kind}: ") and message in line


def test_torch_files_without_checksums_are_read(case, output):
    torch.serialization.set_crc32_options(False)
    try:
        data = pt(torch.from_numpy(VALUES))
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is not None
    give_slide(case, "x.pt", data)
    assert end_of(case, output) == 0


def test_a_risk_beyond_all_that_is_known_is_remarked_upon(case, output, capsys):
    give_slide(case, "x.h5", h5(of(VALUES * 1e9)))
    assert end_of(case, output) == 0
    assert "warning: the risk is far beyond those of the reference patients" in capsys.readouterr().err


def test_code_in_a_pickle_does_not_run(case, output, tmp_path, capsys):
    for name, data in {
        "zip.pt": pt(Harm(tmp_path / "harm")),
        "legacy.pt": pt(Harm(tmp_path / "harm"), _use_new_zipfile_serialization=False),
        "bare.pt": pickle.dumps(Harm(tmp_path / "harm")),
    }.items():
        give_slide(case, name, data)
        assert end_of(case, output) == 2
        assert f"{name}: cannot be read as a torch file" in capsys.readouterr().err
    assert not (tmp_path / "harm").exists()
    pickle.loads(pickle.dumps(Harm(tmp_path / "harm")))
    assert (tmp_path / "harm").exists()  # it would have


def test_compressed_entries_are_weighed_before_they_are_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("survfuse.runtime.memory.available_memory", lambda: 10**9)
    (tmp_path / "x.pt").write_bytes(packed(torch.ones(3, LENGTH), 2**32 - 2))
    with pytest.raises(EnvironmentFailure, match=r"memory: x\.pt's compressed entries need 4\.3 GB, 1\.0 GB are left"):
        read_features(tmp_path / "x.pt")


def test_features_larger_than_memory_are_the_machines_failure(case, output, capsys, monkeypatch):
    give_slide(case, "x.h5", h5(of(VALUES)))
    monkeypatch.setattr("survfuse.runtime.memory.available_memory", lambda: 10_000)
    assert end_of(case, output) == 4
    assert "memory: features of 9 tiles × 1280 need 0.0 GB, 0.0 GB are left" in capsys.readouterr().err


@pytest.mark.parametrize(
    "raised", [OSError(errno.EIO, "Input/output error"), OSError("errno = 24, Too many open files")]
)
def test_a_machine_that_fails_as_hdf5_is_read_is_never_the_files_fault(case, output, monkeypatch, raised):
    """Nor is the slide then left out, where one that cannot be read may be."""

    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(h5py, "File", fail)
    assert end_of(case, output, None, "--unusable-slide", "omit") == 4


# --- memory ---


def test_available_memory_is_the_least_of_the_machines_and_the_groups(tmp_path, monkeypatch):
    """Numbers as the kernel's documentation lays them out: cgroup-v2, memory.stat; proc(5), meminfo."""
    found = available_memory()
    assert found is not None and 0 < found <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for name, text in (
        ("memory.max", "1000"),
        ("memory.current", "900"),
        ("memory.stat", "anon 1\ninactive_file 20\nactive_file 30\n"),
    ):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(
        "survfuse.runtime.memory._GROUPS",
        ((tmp_path, "memory.max", "memory.current", ("inactive_file", "active_file")),),
    )
    assert available_memory() == 150
    check_memory(150, "tiles")
    with pytest.raises(EnvironmentFailure, match="memory: tiles need"):
        check_memory(151, "tiles")
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() > 10**6


def test_growth_is_bounded_and_the_bound_is_taken_back():
    """In a fresh process: one that has freed much keeps it, and need not grow."""
    code = "from survfuse.runtime.memory import at_most\ntry:\n    with at_most(2**28):\n        bytearray(2**30)\n"
    code += "except MemoryError:\n    print(len(bytearray(2**30)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert ended.stdout.strip() == str(2**30), ended.stderr


def test_a_slip_of_memory_is_the_files_only_where_there_is_memory(tmp_path, monkeypatch):
    (tmp_path / "x.pt").write_bytes(pt(Room()))
    with pytest.raises(InputError, match="requests more memory"):
        read_features(tmp_path / "x.pt")
    monkeypatch.setattr("survfuse.runtime.torch_files.available_memory", lambda: 1000)
    with pytest.raises(MemoryError):
        read_features(tmp_path / "x.pt")
