"""``survfuse explain`` and ``model.explain``: the sum, the ways in, the folder, the job."""

import csv
import errno
import json
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import torch
from conftest import CASES, DEMONSTRATION, FEATURES, OUTPUT_FILE, PLACES, ROOT, SLIDE, end_of
from test_predictor import CLINICAL, RNA, add_patient
from test_reference import KINDS, SMALL, VOCABULARY, cases, checkpoint, imported, saved, sides  # noqa: F401

import survfuse
import survfuse.container.job as job
from survfuse.bundle.load import load
from survfuse.cli.main import main
from survfuse.explanation.attribution import Parts
from survfuse.explanation.explanation import Explainer
from survfuse.explanation.out_folder import check_out, new_out_folder
from survfuse.explanation.page import page
from survfuse.explanation.record import record
from survfuse.inputs.sockets import read_case
from survfuse.prediction.predictor import Predictor
from survfuse.runtime.errors import BundleError, InputError
from survfuse.tasks.modalities import all_combinations, combination_name, parse_combination

MAPPED = ["case.html", "case.json", "contributions.csv", "heatmap-rgba.tif", "heatmap.tif", "tiles.geojson"]
UNMAPPED = ["case.html", "case.json", "contributions.csv"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "contributions.csv").open(encoding="utf-8")))


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The explanation of the sample case with a slide."""
    out = tmp_path_factory.mktemp("explained") / "why"
    command = ["explain", str(CASES / "interf0"), "--model", str(DEMONSTRATION), "--out", str(out)]
    assert main([*command, "--device", "cpu"]) == 0
    return out


# The sum


@pytest.mark.parametrize("modalities", all_combinations(("slide", "rna", "clinical")), ids=combination_name)
def test_the_parts_add_up_whatever_a_case_has(model, modalities):
    case = read_case(CASES / "interf1")
    explanation = model.explain(case, modalities=modalities)
    found, risk = explanation.attribution, explanation.prediction.risk
    assert abs(found.total - risk) <= 1e-5 * max(1.0, abs(risk))
    assert risk == model.predict(case, modalities=modalities).risk
    parts = {"slide": found.tiles, "rna": found.genes, "clinical": found.variables}
    assert {name for name, part in parts.items() if part is not None} == set(modalities)
    assert list(explanation.risks) == [combination_name(some) for some in all_combinations(modalities)]


def test_the_parts_of_a_trained_bundle_add_up(bundle, cohort):
    explainer = Explainer(Predictor(load(bundle), "cpu"))
    for patient in sorted((cohort / "data").iterdir())[:5]:
        case = survfuse.Case(
            features=cohort / "features/features" / f"{patient.name}_HE.pt",
            rna=patient / f"{patient.name}_RNA.json",
            clinical=patient / f"{patient.name}_CD.json",
        )
        explanation = explainer.explain(case)
        risk = explanation.prediction.risk
        assert abs(explanation.attribution.total - risk) <= 1e-3 * max(1.0, abs(risk))
        assert explanation.reference == "the average of 60 reference patients"


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_of_an_import_add_up(tmp_path, sides, kind):  # noqa: F811 (a fixture)
    root = imported([saved(tmp_path / f"{seed}.pt", checkpoint(kind, seed)) for seed in (1, 2)], sides, tmp_path / "b")
    explainer = Explainer(Predictor(load(root), "cpu"))
    for tiles, expression, variables, _ in cases(12, [f"G{place}" for place in range(15)]):
        explanation = explainer.explain(survfuse.Case(features=tiles, rna=expression, clinical=variables))
        risk = explanation.prediction.risk
        assert abs(explanation.attribution.total - risk) <= 1e-3 * max(1.0, abs(risk))
        assert explanation.reference.startswith("a neutral patient")


def test_the_table_sums_to_the_risk(explained):
    record = json.loads((explained / "case.json").read_text())
    rows = table(explained)
    assert sum(float(row["value"]) for row in rows) == pytest.approx(record["prediction"]["risk"], abs=1e-5)
    kinds = [row["kind"] for row in rows]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "baseline": 1,
        "tile": 11,
        "gene": 399,
        "variable": 13,
        "pair": 3,
    }


def test_modalities_are_worth_their_mean_effect_over_all_orders(model):
    explanation = model.explain(CASES / "interf1")
    risks = {frozenset(parse_combination(name)): risk for name, risk in explanation.risks.items()}
    risks[frozenset()] = explanation.expected
    orders = list(permutations(("slide", "rna", "clinical")))
    for name, value in explanation.modality_values.items():
        effects = [risks[frozenset(o[: o.index(name) + 1])] - risks[frozenset(o[: o.index(name)])] for o in orders]
        assert value == pytest.approx(np.mean(effects), abs=1e-12)
    for combination, risk in explanation.risks.items():
        assert risk == model.predict(CASES / "interf1", modalities=parse_combination(combination)).risk


# The ways in


def test_command_and_python_write_the_same_bytes(explained, model, tmp_path):
    model.explain(CASES / "interf0", out=tmp_path / "why")
    assert names(tmp_path / "why") == names(explained) == MAPPED
    for name in MAPPED:
        assert (tmp_path / "why" / name).read_bytes() == (explained / name).read_bytes(), name


def test_the_command_prints_the_stages_of_a_job(tmp_path, capsys):
    command = ["explain", str(CASES / "interf1"), "--model", str(DEMONSTRATION), "--out", str(tmp_path / "why")]
    assert main(command) == 0
    printed = capsys.readouterr()
    stages = [line.split("]")[1].split()[0] for line in printed.out.splitlines() if line.startswith("[")]
    for name in ("bundle", "notice", "expression", "clinical", "features", "risk", "months", "parts", "map", "written"):
        assert name in stages
    assert printed.err == "" and names(tmp_path / "why") == MAPPED


def test_a_folder_of_cases_gives_a_folder_each(tmp_path):
    for name in ("one", "two"):
        shutil.copytree(CASES / "interf1", tmp_path / "cases" / name)
    command = ["explain", str(tmp_path / "cases"), "--model", str(DEMONSTRATION), "--out", str(tmp_path / "why")]
    assert main(command) == 0 and main(command) == 0
    assert names(tmp_path / "why") == ["one", "two"]
    assert names(tmp_path / "why" / "one") == MAPPED
    assert names(tmp_path) == ["cases", "why"]  # neither the cache nor what was replaced


def test_cases_that_cannot_be_used_are_named_and_nothing_is_written(tmp_path, capsys):
    for name in ("good", "bad"):
        shutil.copytree(CASES / "interf1", tmp_path / "cases" / name)
    (tmp_path / "cases/bad" / PLACES["clinical"]).write_text('{"age": 400}')
    command = ["explain", str(tmp_path / "cases"), "--model", str(DEMONSTRATION), "--out", str(tmp_path / "why")]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("survfuse: InputError: bad: ") and "age" in line
    assert names(tmp_path) == ["cases"]


@pytest.mark.parametrize("layout", ["torch files with coordinates", "torch files alone", "HDF5"])
def test_a_cohort_has_maps_where_its_tiles_have_places(tmp_path, layout, capsys):
    cohort, tiles = tmp_path / "cohort", np.random.default_rng(2).random((6, 1280), dtype=np.float32)
    add_patient(cohort, "P1", RNA, CLINICAL)
    if layout != "HDF5":
        (cohort / "features/features/P1_HE.h5").unlink()
        torch.save(torch.from_numpy(tiles), cohort / "features/features/P1_HE.pt")
    if layout == "torch files with coordinates":
        (cohort / "features/coordinates").mkdir()
        np.save(cohort / "features/coordinates/P1_HE.npy", [[448 * place, 0] for place in range(6)])
    command = ["explain", str(cohort), "--model", str(DEMONSTRATION), "--out", str(tmp_path / "why")]
    assert main(command) == 0
    assert names(tmp_path / "why/P1") == (UNMAPPED if layout == "torch files alone" else MAPPED)
    assert ("no map of them" in capsys.readouterr().out) == (layout == "torch files alone")


# The folder


def test_a_folder_of_something_else_is_left_alone(tmp_path, model):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    for out, message in (("mine", "holds thesis.tex, which is no explanation"), ("file", "found a file")):
        with pytest.raises(InputError, match=message):
            model.explain(CASES / "interf1", out=tmp_path / out)
    assert (tmp_path / "mine/thesis.tex").read_text() == "x"


def test_a_folder_that_only_looks_like_an_explanation_is_left_alone(tmp_path, explained):
    """A record of one's own, and a file of one's own beside an explanation or among several."""
    (tmp_path / "project").mkdir()
    (tmp_path / "project/case.json").write_text("{}")
    noted = Path(shutil.copytree(explained, tmp_path / "noted"))
    (noted / "notes.txt").write_text("mine")
    shutil.copytree(explained, tmp_path / "several/P1")
    (tmp_path / "several/P1.docx").write_text("mine")
    for name in ("project", "noted", "several"):
        with pytest.raises(InputError, match="which is no explanation"):
            check_out(tmp_path / name, {})
    assert check_out(Path(shutil.copytree(explained, tmp_path / "again/P1")).parent, {}) == tmp_path / "again"


@pytest.mark.parametrize("place", ["cases/one", "cases", "cases/one/why", "."])
def test_an_explanation_lies_apart_from_what_it_explains(tmp_path, place, capsys):
    shutil.copytree(CASES / "interf1", tmp_path / "cases/one")
    before = sorted(tmp_path.rglob("*"))
    command = ["explain", str(tmp_path / "cases/one"), "--model", str(DEMONSTRATION), "--out", str(tmp_path / place)]
    assert main(command) == 2
    assert "expected a folder apart from the cases" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_the_working_folder_is_not_replaced_and_a_missing_one_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="the working folder"):
        check_out(Path(), {})
    with pytest.raises(InputError, match="no such folder"):
        check_out(tmp_path / "new/deep", {})


def test_a_link_is_followed_and_stays(tmp_path, model):
    (tmp_path / "why").symlink_to(tmp_path / "there")
    for _ in range(2):
        model.explain(CASES / "interf1", out=tmp_path / "why")
    assert (tmp_path / "why").is_symlink() and names(tmp_path / "there") == MAPPED
    assert names(tmp_path) == ["there", "why"]


@pytest.mark.parametrize("beside", [True, False], ids=["beside it", "nothing beside it"])
def test_a_mounted_folder_is_filled(tmp_path, explained, monkeypatch, beside):
    """It can neither be moved nor, in an image that is read-only, have anything written beside it."""
    out = Path(shutil.copytree(explained, tmp_path / "mounted"))
    replaced, made = os.replace, Path.mkdir

    def replace(source, target):
        if out in (Path(source), Path(target)):
            raise OSError(errno.EBUSY, "Device or resource busy")
        replaced(source, target)

    def mkdir(self, *arguments, **options):
        if self.parent == out.parent and not beside:
            raise OSError(errno.EROFS, "Read-only file system")
        made(self, *arguments, **options)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(Path, "mkdir", mkdir)
    with new_out_folder(check_out(out, {})) as folder:
        (folder / "case.json").write_text("{}")
    assert names(out) == ["case.json"] and names(tmp_path) == ["mounted"]
    with pytest.raises(RuntimeError), new_out_folder(out) as folder:
        (folder / "case.json").write_text("half")
        raise RuntimeError
    assert (out / "case.json").read_text() == "{}" and names(out) == ["case.json"]


def test_an_explanation_that_fails_leaves_the_former_one(tmp_path, explained):
    out = Path(shutil.copytree(explained, tmp_path / "why"))
    with pytest.raises(RuntimeError), new_out_folder(out) as folder:
        (folder / "case.json").write_text("half")
        raise RuntimeError
    assert names(tmp_path) == ["why"] and names(out) == MAPPED
    with new_out_folder(out) as folder:
        (folder / "case.json").write_text("{}")
    assert names(tmp_path) == ["why"] and names(out) == ["case.json"]


# The job


def test_a_job_explains_if_asked_and_its_number_stays_the_same(tmp_path, output, explained):
    code = end_of(CASES / "interf0", output, DEMONSTRATION, "--explain", str(tmp_path / "why"))
    assert code == 0 and [path.name for path in output.iterdir()] == [OUTPUT_FILE]
    assert end_of(CASES / "interf0", tmp_path / "plain", DEMONSTRATION) == 0
    assert (output / OUTPUT_FILE).read_bytes() == (tmp_path / "plain" / OUTPUT_FILE).read_bytes()
    for name in MAPPED:
        assert (tmp_path / "why" / name).read_bytes() == (explained / name).read_bytes(), name


def test_a_job_writes_one_image_to_the_socket_that_it_is_told(output, explained, monkeypatch):
    monkeypatch.setenv("SURVFUSE_HEATMAP", "risk-heatmap")
    assert end_of(CASES / "interf0", output, DEMONSTRATION) == 0
    assert sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()) == [
        "images/risk-heatmap/heatmap.tif",
        OUTPUT_FILE,
    ]
    image = output / "images/risk-heatmap/heatmap.tif"
    np.testing.assert_array_equal(tifffile.imread(image), tifffile.imread(explained / "heatmap.tif"))


@pytest.mark.parametrize(
    ("slug", "code", "message"),
    [("../elsewhere", 4, "expected an image socket's slug"), ("risk-heatmap", 2, "so there is no heat map")],
)
def test_a_job_without_a_heat_map_to_write_leaves_nothing(case, output, monkeypatch, capsys, slug, code, message):
    """The case has no slide; `end_of` looks at what is left."""
    shutil.rmtree(case / PLACES["slide"])
    entries = [entry for entry in json.loads((case / "inputs.json").read_text()) if entry["image"] is None]
    (case / "inputs.json").write_text(json.dumps(entries))
    monkeypatch.setenv("SURVFUSE_HEATMAP", slug)
    assert end_of(case, output, DEMONSTRATION) == code
    assert message in capsys.readouterr().err


def test_a_job_that_cannot_place_its_explanation_leaves_nothing(tmp_path, output, monkeypatch):
    (tmp_path / "why").write_text("a file")
    monkeypatch.setenv("SURVFUSE_HEATMAP", "risk-heatmap")
    assert end_of(CASES / "interf1", output, DEMONSTRATION, "--explain", str(tmp_path / "why")) == 2
    assert (tmp_path / "why").read_text() == "a file"


@pytest.mark.parametrize("place", ["", "why", "images"])
def test_a_jobs_explanation_lies_apart_from_its_output(output, place, capsys):
    assert end_of(CASES / "interf1", output, DEMONSTRATION) == 0
    capsys.readouterr()
    command = ["--input", str(CASES / "interf1"), "--output", str(output), "--explain", str(output / place)]
    assert job.main(command) == 2
    assert "expected a folder apart from the output" in capsys.readouterr().err
    assert names(output) == [OUTPUT_FILE]  # of the earlier job


def test_a_socket_has_one_image(output, monkeypatch, capsys):
    (output / "images/risk-heatmap").mkdir(parents=True)
    (output / "images/risk-heatmap/old.mha").write_text("mine")
    monkeypatch.setenv("SURVFUSE_HEATMAP", "risk-heatmap")
    assert job.main(["--input", str(CASES / "interf1"), "--output", str(output)]) == 4
    assert "holds old.mha" in capsys.readouterr().err
    assert (output / "images/risk-heatmap/old.mha").read_text() == "mine"


def test_a_plain_job_imports_nothing_of_an_explanation(output):
    script = (
        "import sys; from survfuse.container.job import main; code = main(sys.argv[1:]);"
        "print([name for name in sys.modules if name.startswith(('survfuse.explanation', 'captum', 'matplotlib'))]);"
        "sys.exit(code)"
    )
    command = [sys.executable, "-c", script, "--input", str(CASES / "interf1"), "--output", str(output)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert ended.returncode == 0 and ended.stdout.splitlines()[-1] == "[]"


def test_a_slide_that_is_left_out_has_no_tiles(slide_case, tmp_path):
    (slide_case / PLACES["slide"] / SLIDE.name).write_bytes(b"no slide")
    with redirect_stdout(None):
        command = ["explain", str(slide_case), "--model", str(DEMONSTRATION), "--out", str(tmp_path / "why")]
        assert main(command) == 2
        assert main([*command, "--unusable-slide", "omit"]) == 0
    assert names(tmp_path / "why") == UNMAPPED
    assert "tile" not in {row["kind"] for row in table(tmp_path / "why")}


# Hostile input


def test_half_a_character_costs_no_explanation(model, tmp_path):
    model.explain(survfuse.Case(clinical={"age": 71, "sex": "\ud800", "stage": "T1HG"}), out=tmp_path / "why")
    assert "sex" in (tmp_path / "why/case.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("stated", [{"level0_width": 2**60}, {"patch_size_level0": 2**40}, {"level0_height": 1e300}])
def test_a_slide_of_impossible_size_is_not_believed(tmp_path, model, stated):
    path = Path(shutil.copy(FEATURES, tmp_path))
    with h5py.File(path, "a") as file:
        file["coords"].attrs.update(stated)
        file.attrs["mpp"] = np.array([1e-300, 1e-300])
    explanation = model.explain(survfuse.Case(features=path), out=tmp_path / "why")
    assert explanation.places is None or max(explanation.places.size) < 10_000
    assert explanation.places is None or explanation.places.mpp is None


@pytest.mark.parametrize("value", [3e38, 1e30])
def test_averages_out_of_range_end_in_an_error_or_a_warning(model, monkeypatch, value):
    """Integrals of what is not finite are not refined without end."""
    explainer = Explainer(Predictor(load(DEMONSTRATION), "cpu"))
    reference = explainer.reference
    monkeypatch.setitem(explainer.__dict__, "reference", replace(reference, rna=torch.full_like(reference.rna, value)))
    try:
        explanation = explainer.explain(read_case(CASES / "interf1"))
    except BundleError as error:
        assert "not finite" in str(error)
    else:
        assert any("do not add up" in warning for warning in explanation.warnings)


def test_without_a_spread_nothing_is_said_of_it(model):
    """An ensemble whose families have one member each."""
    explanation = model.explain(read_case(CASES / "interf1"))
    found = explanation.attribution
    single = {name: replace(part, spread=None) for name, part in vars(found).items() if isinstance(part, Parts)}
    joint = {name: replace(part, spread=None) for name, part in found.joint.items()}
    explanation = replace(explanation, attribution=replace(found, **single, joint=joint, risk_spread=None))
    written = record(explanation)
    assert written["tiles"]["told_from_zero"] is None and written["baseline"]["told_from_zero"] is None
    text = page(explanation, written)
    body = text[text.index("What the risk is made of") :].replace("not told from zero: it is no larger", "")
    assert "told from zero" not in body.split("<script")[0]
