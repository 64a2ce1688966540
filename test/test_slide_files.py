"""Slides in several files, wherever a slide may be given: the same features and the same number as in one file."""

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import openslide
import pytest
import pyvips
import tifffile
from conftest import DEMONSTRATION, MASK, PLACES, SLIDE, end_of, months
from slide_writers import MPP, write_dicom, write_mirax, write_vms

import survfuse
from survfuse.cli.main import main
from survfuse.runtime.errors import InputError
from survfuse.slide.dicom import series_of
from survfuse.slide.parts import one_slide, slide_file
from survfuse.slide.pixels import Slide

SERIES = "1.2.826.0.1"
PIXELS = pyvips.Image.new_from_file(str(SLIDE)).crop(0, 0, 2048, 2816).numpy()  # whole tiles


def write_series(folder: Path, series: str = SERIES, name: str = "level") -> None:
    """A slide of two levels, each a file of its own; by name the reduced one comes first."""
    halved = pyvips.Image.new_from_array(PIXELS).shrink(2, 2).numpy()
    write_dicom(folder / f"{name}_a.dcm", halved, series, 2 * MPP, 2)
    write_dicom(folder / f"{name}_b.dcm", PIXELS, series)


WRITERS = {
    "one DICOM file": lambda folder: write_dicom(folder / "s.dcm", PIXELS, SERIES),
    "DICOM series": write_series,
    "MIRAX": lambda folder: write_mirax(folder / "s.mrxs", PIXELS),
    "VMS": lambda folder: write_vms(folder / "s.vms", PIXELS),
}


def opened_in(folder: Path) -> Path:
    found = one_slide(sorted(path for path in folder.iterdir() if path.is_file()))
    assert found is not None
    return found


@pytest.fixture(scope="module", params=WRITERS)
def written(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("slide") / "files"
    folder.mkdir()
    WRITERS[request.param](folder)
    return folder


@pytest.fixture(scope="module")
def mask(tmp_path_factory) -> Path:
    """The sample's tissue mask, cut as the pixels are."""
    path = tmp_path_factory.mktemp("mask") / "mask.tif"
    tifffile.imwrite(path, (tifffile.imread(MASK) > 0)[:704, :512].astype(np.uint8), tile=(256, 256))
    return path


@pytest.fixture(scope="module")
def in_one_file(mask, tmp_path_factory) -> float:
    """The risk of the same slide in one file."""
    path = tmp_path_factory.mktemp("tiff") / "s.tif"
    options = {"tile": (256, 256), "photometric": "rgb", "metadata": None}
    tifffile.imwrite(path, PIXELS, resolution=(1e4 / MPP, 1e4 / MPP), resolutionunit="CENTIMETER", **options)
    return risk_of(path, mask)


def risk_of(slide: Path, mask: Path) -> float:
    model = survfuse.load(DEMONSTRATION, device="cpu")
    return model.predict(survfuse.Case(slide=slide, mask=mask)).risk


@pytest.fixture
def job(slide_case, mask):
    """Runs a job with the slide in ``folder`` and a mask; its exit code."""

    def run(folder: Path, output: Path) -> int:
        place = slide_case / PLACES["slide"]
        shutil.rmtree(place)
        shutil.copytree(folder, place, symlinks=True)
        (given,) = (slide_case / PLACES["mask"]).iterdir()
        shutil.copy(mask, given)
        return end_of(slide_case, output)

    return run


def test_the_pixels_and_the_resolution_are_those_that_were_written(written):
    with Slide(opened_in(written)) as slide:
        assert slide.size == (2048, 2816)
        assert slide.mpp == pytest.approx((MPP, MPP), rel=1e-4)
        read = slide.read((900, 1300), (500.0, 400.0), (500, 400)).astype(int)
    assert np.abs(read - PIXELS[1300:1700, 900:1400]).mean() < 1.0  # what JPEG changes


def test_a_job_reads_it(written, job, tmp_path):
    assert job(written, tmp_path / "output") == 0
    assert months(tmp_path / "output") > 0


def test_its_risk_is_that_of_the_same_slide_in_one_file(written, mask, in_one_file):
    """Given by its folder; up to what JPEG changes."""
    assert risk_of(written, mask) == pytest.approx(in_one_file, abs=0.05)


def test_the_command_and_python_name_it_by_its_folder_or_by_the_file_that_opens_it(written, mask, tmp_path):
    survfuse.extract(opened_in(written), tmp_path / "file.h5", mask=mask, device="cpu")
    assert main(["extract", str(written), "--out", str(tmp_path / "folder.h5"), "--mask", str(mask)]) == 0
    with h5py.File(tmp_path / "file.h5") as file, h5py.File(tmp_path / "folder.h5") as folder:
        assert len(file["coords"]) > 5
        assert np.array_equal(file["coords"], folder["coords"])
        assert np.array_equal(file["features"], folder["features"])


def test_any_file_of_a_series_opens_it(tmp_path):
    write_series(tmp_path)
    sizes = {openslide.OpenSlide(path).level_dimensions for path in tmp_path.iterdir()}
    assert sizes == {((2048, 2816), (1024, 1408))}


@pytest.mark.parametrize("kind", ["DICOM series", "MIRAX"])
def test_a_slides_folder_may_lie_within_the_jobs(job, tmp_path, kind):
    (tmp_path / "given" / "scan").mkdir(parents=True)
    WRITERS[kind](tmp_path / "given" / "scan")
    assert job(tmp_path / "given", tmp_path / "output") == 0


def test_two_slides_are_refused_by_name(job, tmp_path, capsys):
    (tmp_path / "given").mkdir()
    write_series(tmp_path / "given")
    write_dicom(tmp_path / "given" / "other.dcm", PIXELS[:256, :256], "1.2.826.0.2")
    assert job(tmp_path / "given", tmp_path / "output") == 2
    said = capsys.readouterr().err
    assert "expected the DICOM files of one slide, found 2 series" in said
    assert "level_a.dcm, other.dcm" in said
    assert main(["extract", str(tmp_path / "given"), "--out", str(tmp_path / "s.h5")]) == 2
    assert "found 2 series" in capsys.readouterr().err


def second(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"something else")


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: (write_series(folder), second(folder, "readme.txt")),
        lambda folder: (write_mirax(folder / "s.mrxs", PIXELS[:256, :256]), second(folder, "t.tif")),
        lambda folder: (write_mirax(folder / "s.mrxs", PIXELS[:256, :256]), second(folder, "t.mrxs")),
        lambda folder: (write_vms(folder / "s.vms", PIXELS[:256, :256]), second(folder, "t.jpg")),
    ],
    ids=["DICOM and a text", "MIRAX and a TIFF", "two MIRAX", "VMS and a picture it does not name"],
)
def test_what_does_not_belong_to_the_slide_is_named(job, tmp_path, capsys, write):
    (tmp_path / "given").mkdir()
    write(tmp_path / "given")
    assert job(tmp_path / "given", tmp_path / "output") == 2
    assert f"expected one file in {Path(PLACES['slide']).name}/, found " in capsys.readouterr().err


def test_parts_outside_the_slides_folder_are_not_read(tmp_path):
    (tmp_path / "given").mkdir()
    write_vms(tmp_path / "s.vms", PIXELS[:256, :256])
    for number, picture in enumerate((str(tmp_path / "s.jpg"), "../s.jpg", "below/../../s.jpg")):
        path = write_vms(tmp_path / "given" / f"s{number}.vms", PIXELS[:256, :256], picture)
        with pytest.raises(InputError, match=f"s{number}.vms: names the file .*s.jpg; expected its files beside it"):
            Slide(path)
    text = (tmp_path / "s.vms").read_text()
    for number, changed in enumerate(
        (100 * "\n" + text.replace("s.jpg", "../s.jpg"), text + "MacroImage=/etc/hostname\n")
    ):
        (tmp_path / "given" / f"t{number}.vms").write_text(changed)
        with pytest.raises(InputError, match=f"t{number}.vms: names the file "):
            Slide(tmp_path / "given" / f"t{number}.vms")
    path = write_mirax(tmp_path / "given" / "m.mrxs", PIXELS[:256, :256], "../../Data0000.dat")
    with pytest.raises(InputError, match=r"m\.mrxs: names the file \.\./\.\./Data0000\.dat"):
        Slide(path)


def test_missing_parts_are_named(tmp_path):
    write_mirax(tmp_path / "s.mrxs", PIXELS[:256, :256])
    shutil.rmtree(tmp_path / "s")
    with pytest.raises(InputError, match=r"s\.mrxs: expected its folder s/ with Slidedat\.ini beside it"):
        Slide(tmp_path / "s.mrxs")
    write_vms(tmp_path / "s.vms", PIXELS[:256, :256])
    (tmp_path / "s.jpg").unlink()
    with pytest.raises(InputError, match=r"s\.vms: .*s\.jpg"):
        Slide(tmp_path / "s.vms")


def test_a_pipe_beside_a_dicom_file_is_not_waited_for(tmp_path):
    path = write_dicom(tmp_path / "s.dcm", PIXELS[:256, :256], SERIES)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"s\.dcm: pipe beside it"):
        Slide(path)


def test_the_series_is_the_files_own_and_not_one_that_it_refers_to(tmp_path):
    data = write_dicom(tmp_path / "s.dcm", PIXELS[:256, :256], SERIES).read_bytes()
    assert series_of(tmp_path / "s.dcm") == SERIES
    for length in (0, 100, 132, 140, 200, 300, 400):
        (tmp_path / "torn.dcm").write_bytes(data[:length])
        assert series_of(tmp_path / "torn.dcm") is None


def test_nested_without_end_states_no_series(tmp_path):
    endless = b"\x08\0\x15\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\xff\xff\xff\xff"
    (tmp_path / "s.dcm").write_bytes(bytes(128) + b"DICM" + endless * 10_000)
    assert series_of(tmp_path / "s.dcm") is None


def test_a_folder_that_is_no_slide_is_refused(tmp_path):
    with pytest.raises(
        InputError, match="expected a slide's file, or a folder with the files of one slide; found no file"
    ):
        slide_file(tmp_path)


def test_a_cohorts_dicom_slides_are_files_or_folders(tmp_path, capsys):
    for name in ("A", "B"):
        (tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / "data/A/A_HE_2").mkdir()
    write_dicom(tmp_path / "data/A/A_HE_1.dcm", PIXELS, "1.2.1")
    write_series(tmp_path / "data/A/A_HE_2")
    assert main(["extract", str(tmp_path)]) == 0
    assert sorted(path.name for path in (tmp_path / "features/features").iterdir()) == ["A_HE_1.h5", "A_HE_2.h5"]
    write_series(tmp_path / "data/B", name="B_HE")  # one slide, which would be taken for two
    (tmp_path / "data/B/A_HE").mkdir()
    write_series(tmp_path / "data/B/A_HE")
    capsys.readouterr()
    assert main(["extract", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    for name in ("B/B_HE_a.dcm", "B/B_HE_b.dcm"):
        assert f"{name}: is one of several DICOM files of a slide; expected a folder with these" in said
    assert "B/A_HE: is not named after its folder's patient" in said


@pytest.mark.parametrize(
    ("write", "found"),
    [
        (lambda path: path.write_bytes(b""), "an empty file"),
        (lambda path: path.write_text("slide"), "a file of no known kind"),
        (lambda path: tifffile.imwrite(path, PIXELS[:300, :300]), "a TIFF stored in strips, not in tiles"),
        (lambda path: pyvips.Image.new_from_array(PIXELS).pngsave(str(path)), "a PNG picture"),
        (lambda path: pyvips.Image.new_from_array(PIXELS).jpegsave(str(path)), "a JPEG picture"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)), "a ZIP archive"),
        (lambda path: path.write_bytes(SLIDE.read_bytes()[:2000]), "a damaged or truncated TIFF"),
    ],
)
def test_what_is_no_slide_is_called_by_what_it_is(tmp_path, write, found):
    write(tmp_path / "s.tif")
    with pytest.raises(InputError, match=f"s.tif: not a slide that OpenSlide reads .*; found {found}$"):
        Slide(tmp_path / "s.tif")
