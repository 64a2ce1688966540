"""What fuzzing found (test/fuzz), each as a case of its own; and that the harness sees what it is meant to see."""

import faulthandler
import io
import os
import random
import signal
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import torch
from conftest import ROOT, SLIDE, end_of, give_slide
from fuzz.processes import Tally, try_all

from survfuse.cohort.read import read_cohort
from survfuse.cohort.table_paths import CohortTables
from survfuse.inputs.features import read_features
from survfuse.inputs.slide_vectors import read_vector
from survfuse.runtime.errors import InputError
from survfuse.runtime.native_stderr import native_stderr
from survfuse.slide.pixels import Slide


def with_byte_count(path: Path, level: int, number: int, value: int) -> bytes:
    """A TIFF of which one tile is said to have this many bytes."""
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        tag = file.pages[level].tags["TileByteCounts"]
        size = {"SHORT": 2, "LONG": 4}[tag.dtype_name]
        place = tag.valueoffset + size * number
    data[place : place + size] = value.to_bytes(size, "little")
    return bytes(data)


def test_a_tile_said_to_be_larger_than_the_file_is_not_made_room_for(slide_case, output, capsys):
    """OpenSlide asks GLib for as much, which ends the process where it cannot have it."""
    give_slide(slide_case, "s.tif", with_byte_count(SLIDE, 0, 50, 2**32 - 2))
    assert end_of(slide_case, output) == 2
    assert "s.tif: states a tile of more bytes than the file has" in capsys.readouterr().err


def test_what_openslide_prints_itself_is_in_the_refusal_and_not_on_stderr(tmp_path, capfd):
    """The second level is narrower than the first, and taller: GLib prints what OpenSlide finds wrong with that."""
    with tifffile.TiffWriter(tmp_path / "s.tif") as file:
        for number, shape in enumerate(((1024, 1024, 3), (1120, 1008, 3))):
            file.write(np.full(shape, 200, np.uint8), tile=(256, 256), photometric="rgb", subfiletype=int(number > 0))
    refused = r"^s\.tif: cannot be opened as a slide \(Downsampled images not correctly ordered: 0\.96\d+ < 1\)$"
    with pytest.raises(InputError, match=refused):
        Slide(tmp_path / "s.tif", assumed_mpp=0.5)
    os.write(2, b"as before\n")
    assert capfd.readouterr().err == "as before\n"


@pytest.mark.parametrize("memory", [True, False])
def test_stderr_is_collected_past_python_and_is_there_again_after_an_error(capfd, monkeypatch, memory):
    if not memory:
        monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(KeyError), native_stderr() as said:
        os.write(2, b"one\n\ntwo, not UTF-8: \xff\n")
        raise KeyError
    assert said == ["one", "two, not UTF-8: \N{REPLACEMENT CHARACTER}"]
    os.write(2, b"shown\n")
    assert capfd.readouterr().err == "shown\n"


def test_threads_that_open_slides_leave_stderr_to_everyone(capfd):
    def opened(number: int) -> None:
        for _ in range(20):
            Slide(SLIDE).__exit__(None, None, None)
            os.write(2, b"%d\n" % number)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(opened, range(3)))
    os.write(2, b"last\n")
    lines = capfd.readouterr().err.splitlines()
    assert lines[-1] == "last" and sorted(line for line in lines[:-1] if line) == sorted("012" * 20)


def test_a_torch_file_that_is_cut_off_is_not_the_machines_failure(tmp_path):
    """torch then seeks to before its beginning: EINVAL, an OSError as a failing disk's is."""
    held = io.BytesIO()
    torch.save(torch.ones(1000, 30), held)
    (tmp_path / "x.pt").write_bytes(held.getvalue()[:60_000])
    with pytest.raises(OSError, match="Invalid argument"):
        torch.load(tmp_path / "x.pt", weights_only=True)
    with pytest.raises(InputError, match=r"x\.pt: cannot be read as a torch file"):
        read_features(tmp_path / "x.pt")


@pytest.mark.parametrize("how", ["shortened within", "a name that is no text"])
def test_an_archive_that_zipfile_fails_at_is_damaged(tmp_path, how):
    """It seeks to before the file's beginning, EINVAL as above, and decodes a member's name: UnicodeDecodeError."""
    held = io.BytesIO()
    torch.save(torch.rand(9, 80, generator=torch.Generator().manual_seed(0)), held)
    data = bytearray(held.getvalue())
    if how == "shortened within":
        del data[1000:1100]
    else:
        last = data.rindex(b"PK\3\4")
        data[last + 7] |= 0x08  # names in UTF-8 (APPNOTE 4.4.4, bit 11)
        data[last + 30 + 8] = 0x81
    (tmp_path / "x.pt").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "x.pt") as archive, pytest.raises((OSError, UnicodeDecodeError)):
        archive.testzip()
    with pytest.raises(InputError, match=r"x\.pt: (damaged|cannot be read as a torch file)"):
        read_features(tmp_path / "x.pt")


def test_what_torch_warns_of_does_not_reach_stderr(case, output, capfd):
    """Of a pickle's protocol that it does not know: lines that the platform would show as this job's own."""
    held = io.BytesIO()
    torch.save(torch.ones(3, 1280), held, _use_new_zipfile_serialization=False)
    data = bytearray(held.getvalue())
    data[1] = 18  # the protocol, after the pickle's first opcode
    give_slide(case, "x.pt", bytes(data))
    end_of(case, output)
    assert all(line.startswith("survfuse: ") for line in capfd.readouterr().err.splitlines())


@pytest.mark.parametrize(("level", "value"), [(0, 0), (0, 3), (1, 1)])
def test_tiles_said_to_be_shorter_are_damaged_not_made_up(tmp_path, level, value):
    (tmp_path / "s.tif").write_bytes(with_byte_count(SLIDE, level, 0, value))
    with Slide(tmp_path / "s.tif") as slide:
        side = 2.0**level
        try:
            read = slide.read((0, 0), (64.0 * side, 64.0 * side), (64, 64))
        except InputError as error:
            assert "cannot be read" in str(error)
        else:  # left out by the file, which is white
            assert value == 0 and (read == 255).all()


def endless_heap() -> bytes:
    """Text of variable length whose heap has an object of no length, which HDF5 steps over without end."""
    held = io.BytesIO()
    with h5py.File(held, "w") as file:
        file["features"] = np.ones((3, 1280), dtype=np.float32)
        file.attrs["encoder"] = "efficientnet-lite0"
    data = bytearray(held.getvalue())
    heap = data.index(b"GCOL") + 16
    data[heap : heap + 24] = bytes(24)
    return bytes(data)


def test_a_heap_that_hdf5_does_not_come_back_from_is_given_up(case, tmp_path):
    """As inference.py runs it, but for less patience."""
    give_slide(case, "x.h5", endless_heap())
    script = (
        "import os, sys; import survfuse.container.supervisor as supervisor; supervisor.PATIENCE = 2.0;"
        "from inference import job; os._exit(supervisor.supervised(job))"
    )
    command = [sys.executable, "-c", script, "--input", str(case), "--output", str(tmp_path / "output")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2 and list((tmp_path / "output").iterdir()) == []
    (line,) = ended.stderr.splitlines()
    refused = line.startswith("survfuse: InputError: x.h5: cannot be read as HDF5")
    assert refused or line == "survfuse: InputError: x.h5: a library did not return from reading it within 2 s"


# --- the harness ---


def sound_or_not(kind: str, chance: random.Random, folder: Path) -> str:
    (folder / "input").write_text(kind)
    what = chance.randrange(30)
    if what == 0 and kind == "crashes":
        faulthandler.disable()  # pytest's, which would show this crash as its own
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == 0 and kind == "hangs":
        signal.pause()
    if what == 0 and kind == "wrong":
        raise AssertionError("wrong")
    if what == 0 and kind == "unforeseen":
        raise KeyError("x")
    return "answered"


@pytest.mark.parametrize("kind", ["crashes", "hangs", "wrong", "unforeseen"])
def test_the_harness_counts_and_keeps_what_goes_wrong(tmp_path, monkeypatch, kind):
    """Every input is tried, those after a crash among them, and the same again with the same seed."""
    monkeypatch.setattr("fuzz.processes.SECONDS", 1)
    monkeypatch.setattr("fuzz.processes._contained", lambda *_: False)
    tally = Tally()
    try_all({kind: 120}, sound_or_not, 3, tally, tmp_path)
    expected = [number for number in range(120) if random.Random(f"3 {kind} {number}").randrange(30) == 0]
    (found,) = tally.findings.values()
    assert expected and sorted(found) == expected
    assert tally.counts[kind].total() == 120
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{kind}-{number}" for number in expected)


def test_a_torch_file_whose_archive_opens_for_torch_alone_is_damaged(tmp_path):
    """torch finds its entries where the central directory's first signature is broken; nothing could be checked."""
    held = io.BytesIO()
    torch.save(torch.rand(3, 4), held)
    data = bytearray(held.getvalue())
    data[data.index(b"PK\x01\x02", data.rindex(b"PK\x03\x04")) + 1] ^= 1
    (tmp_path / "x.pt").write_bytes(data)
    for read in (read_features, read_vector):
        with pytest.raises(InputError, match=r"^x\.pt: (damaged|cannot be read as a torch file)"):
            read(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("gene\nTP53\nMYC\n", "expected columns of numbers beside gene, found none"),
        ("gene,P1,\nTP53,1.0,2.0\nMYC,1.0,2.0\n", "numbers without a heading in column 3"),
        ("gene,P1,\n" + "TP53,1.0,\n" * 60 + "MYC,1.0,2.0\n", "line 62: a value in a column without a heading"),
    ],
)
def test_a_table_of_expression_with_nameless_columns_or_none_of_numbers_is_refused(tmp_path, table, message):
    (tmp_path / "expression.csv").write_text(table)
    with pytest.raises(InputError, match=message):
        read_cohort(CohortTables(expression=tmp_path / "expression.csv"), tmp_path / "c", with_outcomes=False)


def test_empty_columns_of_an_expression_table_are_passed_over(tmp_path):
    (tmp_path / "expression.csv").write_text("gene,P1,P2,,\nTP53,1.0,2.0,,\nMYC,3.0,4.0,,\n")
    tables = CohortTables(expression=tmp_path / "expression.csv")
    found = read_cohort(tables, tmp_path / "c", with_outcomes=False)
    assert found.ids == ("P1", "P2") and found.genes == ("MYC", "TP53")
    assert found.expression.tolist() == [[3.0, 1.0], [4.0, 2.0]]
