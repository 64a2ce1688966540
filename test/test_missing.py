"""A case that lacks a modality: scored by what it has where the bundle was trained for that, else refused by name."""

import csv
import io
import json
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from conftest import CASES, DEMONSTRATION, FEATURES, PLACES, SLUGS, edit_json, end_of, give_slide, months

from survfuse.cli.main import main as survfuse
from survfuse.runtime.files import sha256

FULL = "slide+rna+clinical"
FILES = {"slide": f"{PLACES['slide']}/{FEATURES.name}", "rna": PLACES["rna"], "clinical": PLACES["clinical"]}
LESSER = [set(chosen) for size in (1, 2) for chosen in combinations(FILES, size)]


@pytest.fixture
def complete_only(tmp_path) -> Path:
    """The demonstration bundle as one trained without modality dropout would be: it scores complete cases alone."""
    root = Path(shutil.copytree(DEMONSTRATION, tmp_path / "complete-only"))
    curves = json.loads((root / "survival.json").read_text())
    (root / "survival.json").write_text(json.dumps({FULL: curves[FULL]}))
    manifest = json.loads((root / "manifest.json").read_text())
    members = [member for member in manifest["members"] if FULL in member["standings"]]
    for member in members:
        member["standings"] = {FULL: member["standings"][FULL]}
    for member in manifest["members"]:
        if member not in members:
            (root / member["file"]).unlink()
            del manifest["files"][member["file"]]
    files = manifest["files"] | {"survival.json": sha256(root / "survival.json")}
    scales = {FULL: manifest["combinations"][FULL]}
    edit_json(root / "manifest.json", combinations=scales, members=members, files=files)
    return root


def as_cohort(root: Path) -> None:
    """The sample case in CHIMERA's published layout."""
    for source, place in (
        (CASES / "interf1" / PLACES["clinical"], "data/P/P_CD.json"),
        (CASES / "interf1" / PLACES["rna"], "data/P/P_RNA.json"),
        (FEATURES, "features/features/P_HE.h5"),
    ):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, root / place)


@pytest.mark.parametrize("has", LESSER, ids=lambda names: "+".join(sorted(names)))
def test_what_a_case_has_is_scored_as_in_a_cohort_read_with_that_alone(case, output, tmp_path, capsys, has):
    as_cohort(tmp_path / "cohort")
    command = ["predict", str(tmp_path / "cohort"), "--model", str(DEMONSTRATION), "--out", str(tmp_path / "p.csv")]
    assert survfuse([*command, "--modalities", *has]) == 0
    for name in FILES.keys() - has:
        (case / FILES[name]).unlink()
    assert end_of(case, output) == 0
    (row,) = csv.DictReader((tmp_path / "p.csv").open())
    assert months(output) == pytest.approx(float(row["months"]), rel=1e-6)
    said = capsys.readouterr()
    lacking = ", ".join(name for name in FILES if name not in has)
    used = "+".join(name for name in FILES if name in has)
    assert f"{lacking}; scored with {used}, as the bundle was trained to do" in said.out
    assert said.err.count("listed among the sockets") == len(FILES) - len(has)


@pytest.mark.parametrize("lacking", LESSER, ids=lambda names: "+".join(sorted(names)))
def test_a_bundle_for_complete_cases_refuses_and_names_what_is_missing(case, output, capsys, complete_only, lacking):
    assert end_of(case, output, complete_only) == 0
    for name in lacking:
        (case / FILES[name]).unlink()
    assert end_of(case, output, complete_only) == 2
    names = ", ".join(name for name in FILES if name in lacking)
    assert f"InputError: the case lacks {names}; this bundle scores {FULL}" in capsys.readouterr().err


@pytest.mark.parametrize("declared", [True, False])
def test_sockets_that_a_job_does_not_have_are_modalities_it_lacks(case, tmp_path, capsys, declared):
    whole = json.loads((case / "inputs.json").read_text())
    (case / PLACES["rna"]).unlink()
    assert end_of(case, tmp_path / "file") == 0
    kept = [entry for entry in whole if entry["interface"]["slug"] != SLUGS["rna"]]
    (case / "inputs.json").write_text(json.dumps(kept)) if declared else (case / "inputs.json").unlink()
    capsys.readouterr()
    assert end_of(case, tmp_path / "socket") == 0
    assert months(tmp_path / "file") == months(tmp_path / "socket")
    said = capsys.readouterr()
    assert said.err == "" and "no rna" in said.out


@pytest.mark.parametrize(
    ("place", "content", "note"),
    [
        ("rna", {}, "expression   none given: the object is empty"),
        ("clinical", {}, "clinical     no variable is known"),
        ("clinical", {"age": -1, "sex": "NA", "stage": None, "EORTC": "", "BRS": "-1"}, "no variable is known"),
    ],
)
def test_objects_that_hold_nothing_are_no_modality(case, tmp_path, capsys, complete_only, place, content, note):
    (case / PLACES[place]).unlink()
    assert end_of(case, tmp_path / "absent") == 0
    (case / PLACES[place]).write_text(json.dumps(content))
    assert end_of(case, tmp_path / "empty") == 0
    assert months(tmp_path / "absent") == months(tmp_path / "empty")
    assert note in capsys.readouterr().out
    assert end_of(case, tmp_path / "refused", complete_only) == 2


def test_a_known_variable_is_enough_to_be_looked_at(case, output, capsys):
    (case / PLACES["clinical"]).write_text('{"age": 70}')
    assert end_of(case, output) == 0
    assert "scored with" not in capsys.readouterr().out


def blank(width: int = 1200, height: int = 900) -> bytes:
    held = io.BytesIO()
    options = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER", "tile": (256, 256), "metadata": None}
    tifffile.imwrite(held, np.full((height, width, 3), 243, dtype=np.uint8), photometric="rgb", **options)
    return held.getvalue()


def test_a_slide_without_tissue_is_left_out_and_said(slide_case, tmp_path, capsys, complete_only):
    shutil.rmtree(slide_case / PLACES["mask"])
    give_slide(slide_case, "s.tif", blank())
    assert end_of(slide_case, tmp_path / "blank") == 0
    err = capsys.readouterr().err
    assert "warning: the slide is left out: s.tif: none of 9 tiles is at least 50% tissue" in err
    assert end_of(slide_case, tmp_path / "refused", complete_only) == 2
    assert "NoTissueError: s.tif: none of 9 tiles" in capsys.readouterr().err
    shutil.rmtree(slide_case / PLACES["slide"])
    assert end_of(slide_case, tmp_path / "none") == 0
    assert months(tmp_path / "blank") == months(tmp_path / "none")


def test_a_slide_that_cannot_be_read_is_refused_unless_it_may_be_left_out(
    slide_case, tmp_path, capsys, monkeypatch, complete_only
):
    give_slide(slide_case, "s.tif", b"II*\0 torn")
    assert end_of(slide_case, tmp_path / "a") == 2
    assert "InputError: s.tif: not a slide" in capsys.readouterr().err
    assert end_of(slide_case, tmp_path / "b", None, "--unusable-slide", "omit") == 0
    said = capsys.readouterr()
    assert "warning: the slide is left out: s.tif: not a slide" in said.err
    assert "slide; scored with rna+clinical" in said.out
    monkeypatch.setenv("SURVFUSE_UNUSABLE_SLIDE", "omit")
    assert end_of(slide_case, tmp_path / "c") == 0
    assert end_of(slide_case, tmp_path / "d", None, "--unusable-slide", "refuse") == 2
    assert end_of(slide_case, tmp_path / "e", complete_only) == 2
    monkeypatch.setenv("SURVFUSE_UNUSABLE_SLIDE", "maybe")
    assert end_of(slide_case, tmp_path / "f") == 4
    assert "SURVFUSE_UNUSABLE_SLIDE=maybe: expected refuse or omit" in capsys.readouterr().err
    (slide_case / PLACES["slide"] / "s.tif").unlink()
    monkeypatch.delenv("SURVFUSE_UNUSABLE_SLIDE")
    assert end_of(slide_case, tmp_path / "none") == 0
    assert months(tmp_path / "b") == months(tmp_path / "c") == months(tmp_path / "none")


def test_features_that_cannot_be_read_may_be_left_out_as_well(case, output, capsys):
    give_slide(case, "x.h5", b"torn")
    assert end_of(case, output) == 2
    assert end_of(case, output, None, "--unusable-slide", "omit") == 0
    assert "warning: the slide is left out: x.h5: cannot be read as HDF5" in capsys.readouterr().err


def test_features_of_another_encoder_are_refused_even_so(case, output, capsys):
    """They can be read: it is the bundle that does not fit, and would not fit the next case either."""
    torch.save(torch.rand(4, 1024), give_slide(case, "x.pt", b""))
    assert end_of(case, output, None, "--unusable-slide", "omit") == 2
    assert "features of length 1024" in capsys.readouterr().err


def test_a_mask_without_its_slide_is_no_case(slide_case, output, capsys):
    shutil.rmtree(slide_case / PLACES["slide"])
    for place in ("rna", "clinical"):
        (slide_case / PLACES[place]).unlink()
    assert end_of(slide_case, output) == 2
    assert "hold no file" in capsys.readouterr().err
