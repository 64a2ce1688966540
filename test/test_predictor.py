"""One predictor: job, command and Python say the same of the same case, whatever the case has."""

import csv
import io
import json
import re
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CASES, DEMONSTRATION, FEATURES, MASK, PLACES, SLIDE, end_of, months

import survfuse
from survfuse.bundle.manifest import RESEARCH, Manifest, MemberEntry, member_file
from survfuse.bundle.save import Tables, save
from survfuse.cli.main import main
from survfuse.inputs.clinical import fit_vocabulary
from survfuse.inputs.expression import Expression
from survfuse.networks.build import build
from survfuse.networks.families import families_of
from survfuse.networks.sizes import Sizes
from survfuse.networks.weighting import MemberWeight, RiskScale
from survfuse.slide.settings import SlideSettings
from survfuse.survival.calibration import Calibration
from survfuse.tasks.modalities import all_combinations, combination_name, ordered
from survfuse.tasks.registry import DEFAULT

RNA = json.loads((CASES / "interf1" / PLACES["rna"]).read_text())
CLINICAL = json.loads((CASES / "interf1" / PLACES["clinical"]).read_text())


@pytest.fixture
def patients(tmp_path) -> Path:
    """Six patients in the published layout, all with the inputs of one sample case."""
    root = tmp_path / "patients"
    for number in range(6):
        add_patient(root, f"P{number}", RNA, CLINICAL)
    return root


def add_patient(root: Path, name: str, rna: dict, clinical: dict) -> None:
    folder = root / "data" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}_RNA.json").write_text(json.dumps(rna))
    (folder / f"{name}_CD.json").write_text(json.dumps(clinical))
    features = root / "features/features"
    features.mkdir(parents=True, exist_ok=True)
    shutil.copy(FEATURES, features / f"{name}_HE.h5")


def predict(source: Path, out: Path, *options: str, model: Path = DEMONSTRATION) -> list[dict[str, str]]:
    assert main(["predict", str(source), "--model", str(model), "--out", str(out), *options]) == 0
    return list(csv.DictReader(io.StringIO(out.read_text())))


def test_job_command_and_python_predict_the_same(case, output, tmp_path, model):
    assert end_of(case, output) == 0
    (row,) = predict(case, tmp_path / "p.csv")
    prediction = model.predict(case)
    assert months(output) == float(row["months"]) == prediction.months
    assert row["case_id"] == prediction.name == "3S_002_HE"
    assert prediction.demonstration and prediction.combination == "slide+rna+clinical"


def test_a_slide_in_python_gives_the_job_s_months(tmp_path, output, model):
    assert end_of(CASES / "interf0", output) == 0
    places = {name: CASES / "interf0" / PLACES[name] for name in ("rna", "clinical")}
    prediction = model.predict(survfuse.Case(slide=str(SLIDE), mask=MASK, **places))
    assert prediction.months == months(output)
    assert prediction.coordinates.shape == (11, 2) and len(prediction.attention) == 11
    starts = {round(place * 224 / 0.499) for place in range(7)}
    assert set(prediction.coordinates.ravel().tolist()) <= starts


def test_inputs_in_memory_are_those_of_the_files(model):
    expected = model.predict(CASES / "interf1").months
    with h5py.File(FEATURES, "r") as file:
        array, coords = file["features"][:], file["coords"][:]
    for features in (FEATURES, str(FEATURES), array, array.astype(np.float64), torch.from_numpy(array), array[None]):
        for rna, clinical in ((RNA, CLINICAL), (pd.Series(RNA), pd.Series(CLINICAL))):
            case = survfuse.Case(features=features, rna=rna, clinical=clinical)
            assert model.predict(case).months == pytest.approx(expected, rel=1e-9)
    assert model.predict(CASES / "interf1").coordinates.tolist() == coords.tolist()


def test_a_pandas_row_s_nan_is_a_gene_or_a_variable_that_is_not_there(model):
    rna, clinical = pd.Series(RNA), pd.Series(CLINICAL, dtype=object)
    rna["TP53"], clinical["age"] = np.nan, np.nan
    row = model.predict(survfuse.Case(rna=rna, clinical=clinical))
    without = model.predict(
        survfuse.Case(
            rna={gene: value for gene, value in RNA.items() if gene != "TP53"},
            clinical={name: value for name, value in CLINICAL.items() if name != "age"},
        )
    )
    assert row.months == without.months
    assert any("1 missing gene imputed" in note.text for _, note in row.notes)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "a case needs"),
        ({"mask": "m.tif", "rna": RNA}, "a tissue mask belongs to a slide"),
        ({"slide": "s.tif", "features": "f.h5"}, "either a slide or its tile features"),
        ({"rna": 3.0}, "rna: expected a JSON file, a mapping or a pandas row, found float"),
    ],
)
def test_a_case_that_is_none_is_refused(inputs, message):
    with pytest.raises(survfuse.InputError, match=message):
        survfuse.Case(**inputs)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((3, 1280), dtype=np.float32), "every feature of 3 tiles is 0"),
        (np.full((3, 1280), np.nan, dtype=np.float32), "tile 0 are NaN or infinite"),
        (np.ones((3, 1280), dtype=np.int64), "floating-point"),
        (np.ones((3, 7), dtype=np.float32), "features of length 7"),
        (np.ones(7, dtype=np.float32), "found shape"),
        ([[1.0]], "found list|features of length 1"),
    ],
)
def test_features_in_memory_are_refused_as_those_of_a_file_are(model, features, message):
    with pytest.raises(survfuse.InputError, match=message):
        model.predict(survfuse.Case(features=features, rna=RNA, clinical=CLINICAL))


def test_the_python_package_prints_nothing_but_that_weights_are_a_demonstration(capfd):
    model = survfuse.demonstration(device="cpu")
    prediction = model.predict(survfuse.Case(rna={gene: 50.0 * value for gene, value in RNA.items()}))
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 1 and "DEMONSTRATION WEIGHTS" in out and err == ""
    assert any("a different scale" in warning for warning in prediction.warnings)


def test_survival_is_the_bundle_s_curve_at_the_risk(model):
    prediction = model.predict(CASES / "interf1")
    curve = json.loads((DEMONSTRATION / "survival.json").read_text())[prediction.combination]
    for month, share in zip((12, 60), prediction.survival([12, 60]), strict=True):
        hazard = max(h for h, time in zip(curve["hazard"], curve["times"], strict=True) if time <= month)
        risk = curve["coefficient"] * (prediction.risk - curve["centre"])
        assert share == pytest.approx(np.exp(-hazard * np.exp(risk)), rel=1e-9)


def test_every_combination_has_terms_of_what_it_has_and_they_sum_to_the_risk(model):
    whole = {"features": FEATURES, "rna": RNA, "clinical": CLINICAL}
    for combination in all_combinations(DEFAULT.modalities):
        given = {key: whole["features" if key == "slide" else key] for key in combination}
        inputs = {"features" if key == "slide" else key: value for key, value in given.items()}
        prediction = model.predict(survfuse.Case(**inputs))
        assert prediction.baseline + sum(prediction.terms.values()) == pytest.approx(prediction.risk, abs=1e-9)
        named = {part for name in prediction.terms for part in re.findall(r"slide|rna|clinical", name)}
        assert named <= set(combination)


def test_many_cases_in_order_and_every_one_that_cannot_be_used_is_named(model):
    good = survfuse.Case(clinical=CLINICAL, name="good")
    found = model.predict_many([CASES / "interf1", good], progress=False)
    assert [each.name for each in found] == ["3S_002_HE", "good"]
    bad = [survfuse.Case(clinical=CLINICAL | {"age": 400}, name=name) for name in ("a", "b")]
    with pytest.raises(survfuse.InputError, match=r"2 of 3 cases cannot be predicted: a, b: .*age: out of its"):
        model.predict_many([bad[0], good, bad[1]], progress=False)


def test_cases_whose_values_in_memory_share_a_problem_are_named_once(model):
    bad = [survfuse.Case(features=np.full((3, 1280), np.nan, np.float32), name=name) for name in ("a", "b")]
    with pytest.raises(survfuse.InputError, match=r"^2 of 2 cases .*: a, b: features of tile 0 are NaN"):
        model.predict_many(bad, progress=False)
    with pytest.raises(survfuse.InputError, match=r"^a: features of tile 0 are NaN"):
        model.predict_many(bad[:1], progress=False)


def test_columns_are_ascii_in_one_order_and_sum_to_the_risk(patients, tmp_path):
    rows = predict(patients, tmp_path / "p.csv")
    assert tuple(rows[0])[:6] == ("case_id", "risk", "months", "training_patient", "group", "baseline")
    terms = list(rows[0])[6:]
    assert terms[:3] == ["slide", "rna", "clinical"] and terms[3:6] == [
        "slide_x_rna",
        "slide_x_clinical",
        "rna_x_clinical",
    ]
    assert (tmp_path / "p.csv").read_bytes().isascii()
    for row in rows:
        parts = [float(row[name]) for name in ("baseline", *terms) if row[name]]
        assert sum(parts) == pytest.approx(float(row["risk"]), abs=1e-9)
    assert tuple(predict(patients, tmp_path / "q.csv", "--modalities", "rna")[0]) == tuple(rows[0])


def test_a_patient_without_variables_has_empty_cells_for_them(patients, tmp_path):
    add_patient(patients, "P0", RNA, {"age": -1})
    first, second, *_ = predict(patients, tmp_path / "p.csv")
    assert first["clinical"] == "" and first["rna_x_clinical"] == "" and second["clinical"] != ""


def test_the_first_patient_of_a_cohort_may_have_no_known_variable(tmp_path):
    """A bundle of clinical variables and of expression: columns come from the bundle, not from the first patient."""
    bundle = linear_models(tmp_path / "bundle", "clinical", "cox-rna")
    root = tmp_path / "patients"
    for name, age in (("A", -1), ("B", 70), ("C", 60)):
        add_patient(root, name, {"X": 2.0, "Y": 5.0 + age}, {"age": age})
    rows = predict(root, tmp_path / "p.csv", model=bundle)
    assert list(rows[0]) == [
        "case_id", "risk", "months", "training_patient", "group", "baseline", "rna", "clinical"
    ]  # fmt: skip
    assert [row["clinical"] == "" for row in rows] == [True, False, False]


@pytest.fixture
def clinical_only(tmp_path) -> Path:
    """A bundle that uses clinical variables and nothing else."""
    return linear_models(tmp_path / "clinical-only", "clinical")


def linear_models(root: Path, *names: str) -> Path:
    """A bundle of untrained linear models of the families ``names``, of clinical variables or of expression."""
    ages = [{"age": age} for age in (55, 65, 75, 85)]
    vocabulary = fit_vocabulary(ages, ["age"], DEFAULT)
    expression = Expression.fit(("X", "Y"), np.array([[1.0, 2.0], [3.0, 70.0], [2.0, 40.0], [5.0, 60.0]]))
    sizes = Sizes(genes=2, clinical=len(vocabulary.columns))
    families = [families_of(DEFAULT.modalities)[name] for name in names]
    modalities = ordered((name for family in families for name in family.modalities), DEFAULT.modalities)
    combinations = all_combinations(modalities)
    entries = tuple(
        MemberEntry(
            member_file(number),
            family.name,
            sizes.to_json(),
            {
                combination_name(chosen): MemberWeight(0.5, 0.0, 1.0)
                for chosen in combinations
                if set(family.modalities) <= set(chosen)
            },
        )
        for number, family in enumerate(families)
    )
    scales = {combination_name(chosen): RiskScale(0.0, 1.0) for chosen in combinations}
    calibration = Calibration.fit([10.0, 20.0, 30.0, 40.0], [1, 0, 1, 1], [-1.0, 0.0, 0.5, 1.0])
    tables = Tables(calibration, expression if "rna" in modalities else None, vocabulary, None, None)
    slide = SlideSettings("efficientnet-lite0", 1280)
    manifest = Manifest(RESEARCH, "For a test.", {}, slide, scales, entries, tables.present())
    torch.manual_seed(0)
    save(root, manifest, [build(family, sizes).state_dict() for family in families], tables)
    return root


def test_the_command_warns_where_the_job_warns_with_counts_and_names(patients, tmp_path, capsys):
    for name in ("P1", "P3"):
        add_patient(patients, name, {gene: 50.0 * value for gene, value in RNA.items()}, CLINICAL | {"sex": "X"})
    predict(patients, tmp_path / "p.csv")
    out, err = capsys.readouterr()
    assert "warning: 2 of 6 cases (P1, P3): expression is on a different scale from the training cohort's" in err
    assert "2 of 6 cases (P1, P3): unknown category, counted as missing: sex" in out
    assert "6 of 6 cases (P0, P1, P2 and 3 more): extra genes ignored" in out
    assert "DEMONSTRATION WEIGHTS" in out


@pytest.fixture
def scaled(tmp_path):
    """The sample case with features of another magnitude, in a cohort and as a case of the platform."""

    def make(largest: float) -> tuple[Path, Path]:
        root, case = tmp_path / "cohort", Path(shutil.copytree(CASES / "interf1", tmp_path / "case"))
        add_patient(root, "P0", RNA, CLINICAL)
        for file in (root / "features/features/P0_HE.h5", case / PLACES["slide"] / FEATURES.name):
            with h5py.File(file, "r+") as opened:
                values = opened["features"][:].astype(np.float64)
                opened["features"][...] = (largest / np.abs(values).max() * values).astype(np.float32)
        return root, case

    return make


def test_a_risk_far_beyond_the_reference_is_warned_of_by_both(scaled, tmp_path, capsys):
    cohort, case = scaled(1e5)
    assert end_of(case, tmp_path / "out") == 0
    assert "warning: the risk is far beyond those of the reference patients" in capsys.readouterr().err
    predict(cohort, tmp_path / "p.csv")
    assert "warning: 1 of 1 case (P0): the risk is far beyond those of the reference" in capsys.readouterr().err


def test_a_risk_beyond_all_range_is_refused_by_both(scaled, tmp_path, capsys):
    cohort, case = scaled(3e38)
    assert end_of(case, tmp_path / "out") == 2
    assert "are far out of range" in capsys.readouterr().err
    command = ["predict", str(cohort), "--model", str(DEMONSTRATION), "--out", str(tmp_path / "p.csv")]
    assert main(command) == 2
    err = capsys.readouterr().err
    assert "P0: the risk is" in err and "are far out of range" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "p.csv").exists()


def test_a_folder_of_cases_goes_by_the_folders_names(tmp_path, output):
    rows = predict(CASES, tmp_path / "p.csv")
    assert [row["case_id"] for row in rows] == ["interf0", "interf1"]
    for row in rows:
        assert end_of(CASES / row["case_id"], output / row["case_id"]) == 0
        assert months(output / row["case_id"]) == pytest.approx(float(row["months"]), rel=1e-6)


def test_every_case_of_a_folder_that_cannot_be_read_is_named(tmp_path, capsys):
    for name in ("a", "b", "c"):
        shutil.copytree(CASES / "interf1", tmp_path / "cases" / name)
    for name in ("a", "c"):
        (tmp_path / "cases" / name / PLACES["rna"]).write_text("[]")
    command = ["predict", str(tmp_path / "cases"), "--model", str(DEMONSTRATION), "--out", str(tmp_path / "p.csv")]
    assert main(command) == 2
    err = capsys.readouterr().err
    assert "2 of 3 cases cannot be predicted: a, c: " in err and "expected one JSON object" in err
    assert not (tmp_path / "p.csv").exists()


def test_a_folder_beside_cases_that_is_not_one_is_named_in_a_short_line(tmp_path, capsys):
    shutil.copytree(CASES / "interf1", tmp_path / "cases" / "a")
    (tmp_path / "cases" / "notes" / "deeper").mkdir(parents=True)
    command = ["predict", str(tmp_path / "cases"), "--model", str(DEMONSTRATION), "--out", str(tmp_path / "p.csv")]
    assert main(command) == 2
    refusal = "survfuse: InputError: notes: holds neither inputs.json nor any of a case's inputs\n"
    assert capsys.readouterr().err == refusal


def test_the_command_leaves_its_tables_alone_behind(patients, tmp_path):
    (tmp_path / "out").mkdir()
    for file in (patients / "features/features").iterdir():  # compressed: copies have to be made
        with h5py.File(file, "r") as stored:
            values, coords = stored["features"][:], stored["coords"][:]
        with h5py.File(file, "w") as stored:
            stored.create_dataset("features", data=values, compression="gzip")
            stored["coords"] = coords
    predict(patients, tmp_path / "out" / "p.csv", "--survival", str(tmp_path / "out" / "s.csv"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["p.csv", "s.csv"]


def test_what_is_said_while_a_case_is_read_belongs_to_its_prediction(tmp_path, capsys, model):
    """Three ways in; the warning of a socket without its file is said once for each case, and nowhere else."""
    roots = [Path(shutil.copytree(CASES / "interf0", tmp_path / "cases" / name)) for name in ("a", "b")]
    for root in roots:
        shutil.rmtree(root / "images")
    prediction = model.predict(roots[0])
    assert capsys.readouterr() == ("", "")
    slides = [text for text in prediction.warnings if "listed among the sockets" in text]
    assert len(slides) == len(set(slides)) >= 1
    command = ["predict", str(roots[0]), "--model", str(DEMONSTRATION), "--out", str(tmp_path / "one.csv")]
    assert main(command) == 0
    assert [capsys.readouterr().err.count(text) for text in slides[:1]] == [1]
    command[1] = str(tmp_path / "cases")
    assert main(command) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if slides[0] in line] == [f"survfuse: warning: 2 of 2 cases (a, b): {slides[0]}"]


def test_a_warning_about_the_device_is_part_of_every_prediction(monkeypatch):
    def without_gpu(option):
        survfuse.runtime.log.warn("the GPU cannot be used")
        return torch.device("cpu")

    monkeypatch.setattr("survfuse.runtime.device.chosen_device", without_gpu)
    with redirect_stdout(None):
        fresh = survfuse.demonstration()
    predictions = fresh.predict_many([survfuse.Case(clinical=CLINICAL)] * 2, progress=False)
    assert [each.warnings.count("the GPU cannot be used") for each in predictions] == [1, 1]


def test_paths_that_are_no_case_are_named_with_the_others(tmp_path, model):
    cases = [CASES / "interf1", tmp_path / "one", None, survfuse.Case(features=np.zeros((3, 1280), np.float32))]
    with pytest.raises(survfuse.InputError) as refused:
        model.predict_many(cases, progress=False)
    text = str(refused.value)
    assert text.startswith("3 of 4 cases cannot be predicted: ")
    assert all(f"case {number}" in text for number in (2, 3, 4)) and "case 1" not in text


def test_reasons_of_many_kinds_are_counted(tmp_path, model):
    cases = [tmp_path / f"none{number}" for number in range(30)]
    with pytest.raises(survfuse.InputError, match=r"30 of 30 cases cannot be predicted: .*; and 22 more reasons$"):
        model.predict_many(cases, progress=False)


@pytest.mark.parametrize(
    ("modalities", "message"),
    [
        (["clinical", "rnaa"], "unknown modality 'rnaa'"),
        ("clinical", "modalities: expected a list of names"),
    ],
)
def test_modalities_that_are_unknown_are_refused(model, modalities, message):
    case = survfuse.Case(rna=RNA, clinical=CLINICAL)
    for predict in (model.predict, lambda case, **options: model.predict_many([case], **options)):
        with pytest.raises(survfuse.InputError, match=message):
            predict(case, modalities=modalities)


def test_what_the_user_leaves_out_is_not_said_to_be_missing(model):
    notes = {name: note.text for name, note in model.predict(CASES / "interf1", modalities=["clinical"]).notes}
    assert notes["left out"].startswith("slide, rna; scored with clinical") and "missing" not in notes


@pytest.mark.parametrize("months", [[-1.0], [np.nan], [np.inf], [[12.0, 24.0]], ["a"], [None]])
def test_survival_is_of_months_only(model, months):
    prediction = model.predict(survfuse.Case(clinical=CLINICAL))
    with pytest.raises(survfuse.InputError, match="survival: expected"):
        prediction.survival(months)


def test_a_row_with_a_name_twice_is_refused_as_a_file_is():
    with pytest.raises(survfuse.InputError, match="rna: TP53 is given more than once"):
        survfuse.Case(rna=pd.Series([1.0, 2.0], index=["TP53", "TP53"]))


@pytest.mark.parametrize("value", [np.array([71, 72]), torch.tensor([71, 72])])
def test_a_value_is_a_single_one(value):
    with pytest.raises(survfuse.InputError, match="clinical: expected a single value of age"):
        survfuse.Case(clinical={"age": value})


@pytest.mark.parametrize(
    "convert",
    [
        lambda values: values[::-1, ::-1][::-1, ::-1],
        lambda values: values.astype(">f4"),
        lambda values: values.astype(np.longdouble),
        pd.DataFrame,
    ],
)
def test_features_of_any_floating_array_are_the_same(model, convert):
    values = np.random.default_rng(0).normal(size=(20, 1280)).astype(np.float32)
    predicted = [model.predict(survfuse.Case(features=given)).risk for given in (values, convert(values))]
    assert predicted[0] == predicted[1]


@pytest.mark.parametrize("tensor", [torch.eye(1280).to_sparse(), torch.empty(3, 1280, device="meta")])
def test_tensors_without_values_in_place_are_refused(model, tensor):
    with pytest.raises(survfuse.InputError, match="expected a dense tensor of features"):
        model.predict(survfuse.Case(features=tensor))


def test_a_file_that_is_not_json_is_refused_by_all_whether_or_not_it_is_used(tmp_path, output, capsys, clinical_only):
    root = Path(shutil.copytree(CASES / "interf1", tmp_path / "case"))
    (root / PLACES["rna"]).write_text("{")
    assert end_of(root, output, clinical_only) == 2
    command = ["predict", str(root), "--model", str(clinical_only), "--out", str(tmp_path / "p.csv")]
    assert main(command) == 2
    assert capsys.readouterr().err.count("not valid JSON") == 2
    with pytest.raises(survfuse.InputError, match="not valid JSON"):
        survfuse.load(clinical_only).predict(root)


def test_two_tables_cannot_share_a_file(patients, tmp_path, capsys):
    command = ["predict", str(patients), "--model", str(DEMONSTRATION)]
    assert main([*command, "--out", str(tmp_path / "p.csv"), "--survival", str(tmp_path / "p.csv")]) == 2
    assert "--out and --survival: expected two files" in capsys.readouterr().err
    assert not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize("options", [{"draws": 0}, {"draws": -3}])
def test_draws_are_at_least_one(tmp_path, options):
    for name in ("predictions.csv", "outcomes.csv"):
        (tmp_path / name).write_text("")
    with pytest.raises(survfuse.InputError, match="draws: expected at least 1"):
        survfuse.evaluate(tmp_path / "predictions.csv", tmp_path / "outcomes.csv", **options)
    with pytest.raises(survfuse.InputError, match="draws: expected at least 1"):
        survfuse.train(tmp_path, tmp_path / "bundle", **options)


@pytest.mark.parametrize("field", ["slide", "features", "rna", "clinical"])
def test_a_path_at_which_there_is_no_file_is_said_to_be_absent(model, tmp_path, field):
    path = (tmp_path / "absent").with_suffix({"slide": ".tif", "features": ".h5"}.get(field, ".json"))
    with pytest.raises(survfuse.InputError, match=f"^{re.escape(str(path))}: no such file$"):
        model.predict(survfuse.Case(**{field: path}))


def test_an_absent_mask_is_said_to_be_absent_with_the_nearest_name(model):
    mask = MASK.with_name(MASK.name.replace("mask", "maks"))
    with pytest.raises(survfuse.InputError, match=rf"no such file; did you mean {re.escape(str(MASK))}\?$"):
        model.predict(survfuse.Case(slide=SLIDE, mask=mask))


def test_an_absent_file_is_named_with_its_case_and_matters_only_if_it_is_used(model):
    case = survfuse.Case(slide="absent.tif", clinical=CLINICAL, name="P17")
    with pytest.raises(survfuse.InputError, match=r"^P17: absent\.tif: no such file$"):
        model.predict_many([case], progress=False)
    assert model.predict(case, modalities=["clinical"]).combination == "clinical"


def test_an_unknown_device_is_refused_before_the_bundle_is_read():
    expected = r"^unknown device 'gpu'; expected one of auto, cpu, cuda, cuda:N; did you mean cuda\?$"
    with pytest.raises(survfuse.InputError, match=expected):
        survfuse.load("absent", device="gpu")
