"""A bundle knows the patients that it was trained on, by nothing that gives them away."""

import csv
import hashlib
import json
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import PLACES, edit_json, end_of, give_slide

import survfuse as package
from survfuse.api import evaluate
from survfuse.bundle.load import load
from survfuse.bundle.manifest import TRAINING_PATIENTS
from survfuse.bundle.training_patients import expression_digest, probed, slide_digest
from survfuse.cli.main import main as survfuse
from survfuse.runtime.errors import BundleError
from survfuse.runtime.files import sha256

SALT = bytes(range(16))
IN_SAMPLE = "among the patients that the bundle was trained on"


def predict(source: Path, model: Path, out: Path, *options: str) -> list[dict[str, str]]:
    assert survfuse(["predict", str(source), "--model", str(model), "--out", str(out), *options]) == 0
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def answers(rows: list[dict[str, str]]) -> list[str]:
    return [row["training_patient"] for row in rows]


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> Path:
    """Patients like those of the training cohort, drawn anew."""
    root = tmp_path_factory.mktemp("others") / "simulated"
    assert survfuse(["simulate", str(root), "--patients", "9", "--seed", "6", "--genes", "24", "--tiles", "6"]) == 0
    return root


def edited(copy: Path, **changes: object) -> Path:
    """A copy of a bundle with other digests, and the checksum that fits."""
    edit_json(copy / TRAINING_PATIENTS, **changes)
    files = json.loads((copy / "manifest.json").read_text())["files"]
    edit_json(copy / "manifest.json", files=files | {TRAINING_PATIENTS: sha256(copy / TRAINING_PATIENTS)})
    return copy


def without_digests(bundle: Path, copy: Path) -> Path:
    """A copy of a bundle as earlier releases wrote it."""
    shutil.copytree(bundle, copy)
    (copy / TRAINING_PATIENTS).unlink()
    manifest = json.loads((copy / "manifest.json").read_text())
    files = {name: digest for name, digest in manifest["files"].items() if name != TRAINING_PATIENTS}
    tables = [name for name in manifest["tables"] if name != TRAINING_PATIENTS]
    edit_json(copy / "manifest.json", files=files, tables=tables)
    return copy


# The warning


def test_the_whole_training_cohort_is_warned_of(cohort, bundle, tmp_path, capsys):
    rows = predict(cohort, bundle, tmp_path / "p.csv")
    assert answers(rows) == ["yes"] * 60
    names = ", ".join(row["case_id"] for row in rows[:3])
    assert capsys.readouterr().err == (
        f"survfuse: warning: 60 of 60 cases ({names} and 57 more): {IN_SAMPLE}: their predictions are in-sample, "
        "better than for new patients\n"
    )


def test_a_patient_with_several_slides_is_known_by_each(cohort, tmp_path):
    root = tmp_path / "cohort"
    shutil.copytree(cohort, root)
    one, other = root / "features/features/3S_03_HE.pt", root / "features/features/3S_03_HE_2.pt"
    torch.save(torch.load(one).flip(0) + 1.0, other)
    out = tmp_path / "bundle"
    few = ["--modalities", "slide", "--fusion=cox-slide", "--clusters=3", "--folds=2", "--inner=2", "--draws=10"]
    assert survfuse(["train", str(root), "--out", str(out), *few]) == 0
    model = package.load(out, device="cpu")
    both = torch.cat([torch.load(one), torch.load(other)])
    for features in (one, other, both):
        assert model.predict(package.Case(features=features)).training_patient
    assert model.predict(package.Case(features=both[:-1])).training_patient is False


def test_new_patients_are_not_warned_of(others, bundle, tmp_path, capsys):
    assert answers(predict(others, bundle, tmp_path / "p.csv")) == ["no"] * 9
    assert capsys.readouterr().err == ""


def test_training_patients_under_other_ids_and_in_other_storage_among_new_ones(
    cohort, others, bundle, tmp_path, capsys
):
    """Half of the files are HDF5 in half precision, half are torch files in double precision; ids are new."""
    mixed = Path(shutil.copytree(others, tmp_path / "mixed"))
    features = next(mixed.glob("features*")) / "features"
    sources = sorted(cohort.glob("features/features/*"))
    for place, folder in enumerate(sorted(cohort.glob("data/*"))[:8]):
        old, new = folder.name, f"new{place}"
        (mixed / "data" / new).mkdir()
        for path in folder.iterdir():
            shutil.copy(path, mixed / "data" / new / path.name.replace(old, new))
        (source,) = (path for path in sources if path.name.startswith(old))
        values = torch.load(source, weights_only=True)
        if place % 2:
            torch.save(values.double(), features / f"{new}_HE.pt")
        else:
            with h5py.File(features / f"{new}_HE.h5", "w") as file:
                file["features"] = values.half().numpy()[np.newaxis]
                file["coords"] = np.zeros((len(values), 2), np.int64)
    rows = predict(mixed, bundle, tmp_path / "p.csv")
    assert len(rows) == 17
    assert all(row["training_patient"] == ("yes" if row["case_id"].startswith("new") else "no") for row in rows)
    assert f"8 of 17 cases (new0, new1, new2 and 5 more): {IN_SAMPLE}" in capsys.readouterr().err


@pytest.mark.parametrize("modalities", [["slide"], ["rna"], ["rna", "clinical"]])
def test_one_input_is_enough(cohort, others, bundle, tmp_path, modalities):
    assert set(answers(predict(cohort, bundle, tmp_path / "p.csv", "--modalities", *modalities))) == {"yes"}
    assert set(answers(predict(others, bundle, tmp_path / "q.csv", "--modalities", *modalities))) == {"no"}


def test_clinical_variables_alone_tell_nothing_where_there_are_other_inputs(cohort, bundle, tmp_path, capsys):
    assert set(answers(predict(cohort, bundle, tmp_path / "p.csv", "--modalities", "clinical"))) == {""}
    assert capsys.readouterr().err == ""


def test_python_and_the_explanation_say_what_the_command_says(cohort, bundle, tmp_path, capsys):
    folder = sorted(cohort.glob("data/*"))[0]
    case = package.Case(
        features=next(cohort.glob(f"features/features/{folder.name}*")),
        rna=folder / f"{folder.name}_RNA.json",
        clinical=folder / f"{folder.name}_CD.json",
        name="someone",
    )
    model = package.load(bundle, device="cpu")
    said = f"someone is {IN_SAMPLE}: its prediction is in-sample, better than for a new patient"
    prediction, explanation = model.predict(case), model.explain(case)
    assert prediction.training_patient is True and said in prediction.warnings
    assert explanation.prediction.training_patient is True and said in explanation.warnings
    assert model.predict(package.Case(clinical={"age": 70})).training_patient is None
    new = model.predict(
        package.Case(features=torch.randn(5, 1024), rna=dict.fromkeys(load(bundle).expression.genes, 2))
    )
    assert new.training_patient is False and not any(IN_SAMPLE in text for text in new.warnings)


def test_a_job_of_a_training_patient_warns_in_one_line(cohort, bundle, case, output, capsys):
    name = sorted(path.name for path in cohort.glob("data/*"))[0]
    (features,) = cohort.glob(f"features/features/{name}*")
    slide = give_slide(case, features.name, features.read_bytes())
    for modality, kind in (("rna", "RNA"), ("clinical", "CD")):
        shutil.copy(cohort / f"data/{name}/{name}_{kind}.json", case / PLACES[modality])
    assert end_of(case, output, bundle) == 0
    assert capsys.readouterr().err == (
        f"survfuse: warning: {slide.stem} is {IN_SAMPLE}: its prediction is in-sample, better than for a new patient\n"
    )


# Leaving training patients out


def test_training_patients_are_left_out_on_request(cohort, others, bundle, tmp_path, capsys):
    mixed = Path(shutil.copytree(others, tmp_path / "mixed"))
    known = [path.name for path in sorted(cohort.glob("data/*"))[:2]]
    for name in known:
        shutil.copytree(cohort / "data" / name, mixed / "data" / f"z{name}")
        for path in (mixed / "data" / f"z{name}").iterdir():
            path.rename(path.with_name(f"z{path.name}"))
        for path in cohort.glob(f"features/features/{name}*"):
            shutil.copy(path, mixed / "features/features" / f"z{path.name}")
    survival = tmp_path / "s.csv"
    rows = predict(mixed, bundle, tmp_path / "p.csv", "--exclude-training", "--survival", str(survival))
    out, err = capsys.readouterr()
    assert f"2 of 11 cases (z{known[0]}, z{known[1]}): patients that the bundle was trained on" in out
    assert err == ""  # the warning is of cases that are in the table
    assert answers(rows) == ["no"] * 9
    with survival.open() as file:
        assert [row["case_id"] for row in csv.DictReader(file)] == [row["case_id"] for row in rows]


def test_nothing_is_written_if_all_are_training_patients(cohort, bundle, tmp_path, capsys):
    command = ["predict", str(cohort), "--model", str(bundle), "--out", str(tmp_path / "p.csv"), "--exclude-training"]
    assert survfuse(command) == 2
    assert "60 cases" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_does_not_know_says_so(cohort, bundle, tmp_path, capsys):
    older = without_digests(bundle, tmp_path / "older")
    assert set(answers(predict(cohort, older, tmp_path / "p.csv"))) == {""}
    out, err = capsys.readouterr()
    assert "does not know its training patients" in out and err == ""
    command = ["predict", str(cohort), "--model", str(older), "--out", str(tmp_path / "q.csv"), "--exclude-training"]
    assert survfuse(command) == 2
    assert "does not know its training patients, which --exclude-training needs" in capsys.readouterr().err
    assert not (tmp_path / "q.csv").exists()
    assert survfuse(["verify", str(older)]) == 0
    assert "does not know its training patients" in capsys.readouterr().out
    assert survfuse(["verify", str(bundle)]) == 0
    assert "knows its training patients: 60 by slide, 60 by rna" in capsys.readouterr().out


def test_groups_are_those_above_and_below_the_median_reference_risk(others, bundle, tmp_path):
    rows = predict(others, bundle, tmp_path / "p.csv")
    assert list(rows[0])[:6] == ["case_id", "risk", "months", "training_patient", "group", "baseline"]
    stored = json.loads((bundle / "calibration.json").read_text())["reference_risks"]
    cut = sorted(stored)[len(stored) // 2 - 1 : len(stored) // 2 + 1]
    assert [row["group"] for row in rows] == ["high" if float(row["risk"]) > sum(cut) / 2 else "low" for row in rows]
    assert {row["group"] for row in rows} == {"high", "low"}


# Clinical variables alone


@pytest.fixture(scope="module")
def clinical_bundle(cohort, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("clinical") / "bundle"
    options = ["--fusion=clinical", "--folds=2", "--inner=2", "--draws=5", "--modalities", "clinical"]
    assert survfuse(["train", str(cohort), "--out", str(root), *options]) == 0
    return root


def test_a_bundle_of_clinical_variables_says_that_others_may_share_them(clinical_bundle, cohort, tmp_path, capsys):
    assert set(answers(predict(cohort, clinical_bundle, tmp_path / "p.csv"))) == {"yes"}
    assert "which others may share" in capsys.readouterr().err
    stored = json.loads((clinical_bundle / TRAINING_PATIENTS).read_text())
    assert set(stored) == {"salt", "clinical"}
    assert all(re.fullmatch("[0-9a-f]{4}", digest) for digest in stored["clinical"])


def test_many_possible_patients_fit_each_digest_of_clinical_variables(clinical_bundle):
    """Of 3,000 ages that nobody has, as many as expected fit by chance."""
    model = package.load(clinical_bundle, device="cpu")
    digests = len(json.loads((clinical_bundle / TRAINING_PATIENTS).read_text())["clinical"])
    known = load(clinical_bundle).training_patients
    from survfuse.bundle.training_patients import clinical_digest

    random = np.random.default_rng(0)
    fits = sum(known.hold({"clinical": clinical_digest(known.salt, random.normal(size=9))}) for _ in range(30_000))
    expected = 30_000 * digests / 65_536
    assert abs(fits - expected) < 5 * np.sqrt(expected)
    assert model.predict(package.Case(clinical={"age": 71.7})).training_patient in (True, False)


# Digests


def test_a_slides_digest_is_that_of_its_probed_tiles_in_half_precision():
    """Written out: N and D, then 64 evenly spaced tiles as little-endian half precision, under BLAKE2b with the key."""
    values = torch.randn(500, 7)
    values[0, :2] = torch.tensor([-1e-9, 1e6])  # below and beyond half precision
    places = [i * 499 // 63 for i in range(64)]
    with np.errstate(over="ignore"):
        halves = values[places].numpy().astype("<f2")
    data = b"500 7 " + np.where(halves == 0, np.float16(0), halves).tobytes()
    expected = hashlib.blake2b(data, digest_size=16, key=SALT, person=b"slide").hexdigest()
    assert probed(500).tolist() == places
    assert slide_digest(SALT, 500, values[probed(500)]) == expected
    for copy in (values.half(), values.double(), values.half().float()):
        assert slide_digest(SALT, 500, copy[probed(500)]) == expected
    assert slide_digest(SALT, 501, values[probed(500)]) != expected
    assert slide_digest(bytes(16), 500, values[probed(500)]) != expected


@pytest.mark.parametrize("tiles", [1, 2, 63, 64, 65, 127, 20_000])
def test_probed_tiles_are_distinct_from_the_first_to_the_last(tiles):
    places = probed(tiles)
    assert len(set(places.tolist())) == min(tiles, 64)
    assert places[0] == 0 and places[-1] == tiles - 1


def test_an_expressions_digest_is_of_values_in_single_precision():
    values = np.array([1.5, np.nan, -0.0, 3.1])
    data = np.array([1.5, np.nan, 0.0, 3.1], "<f4").tobytes()
    expected = hashlib.blake2b(data, digest_size=16, key=SALT, person=b"rna").hexdigest()
    assert expression_digest(SALT, values) == expression_digest(SALT, values.astype(np.float32)) == expected
    assert expression_digest(SALT, [1.5, 0.0, 0.0, 3.1]) != expected  # absent is not 0
    assert expression_digest(SALT, [np.nan, np.nan]) is None


def test_a_bundle_keeps_no_id_and_digests_that_need_the_inputs(cohort, bundle):
    text = (bundle / TRAINING_PATIENTS).read_text()
    stored = json.loads(text)
    ids = [path.name for path in cohort.glob("data/*")]
    assert set(stored) == {"salt", "slide", "rna"}
    for name in ("slide", "rna"):
        assert len(stored[name]) == 60 and stored[name] == sorted(stored[name])
        guesses = {
            hashlib.blake2b(guess.encode(), digest_size=16, key=bytes.fromhex(stored["salt"]), person=name.encode())
            for guess in ids
        }
        assert not {guess.hexdigest() for guess in guesses} & set(stored[name])
    assert not any(name in text for name in ids)


@pytest.mark.parametrize(
    "changes",
    [
        {"salt": None}, {"salt": "00"}, {"salt": 3}, {"salt": "zz" * 16}, {"slide": None, "rna": None}, {"rna": []},
        {"slide": "none"}, {"slide": ["00" * 16, "00" * 16]}, {"slide": ["11" * 16, "00" * 16]}, {"rna": [5]},
        {"rna": ["AA" * 16]}, {"rna": ["00" * 15]}, {"clinical": ["0000"]}, {"ids": ["00" * 16]},
        {"slide": None, "rna": None, "clinical": ["0000"]},
    ],
)  # fmt: skip
def test_unsound_digests_are_refused(bundle, tmp_path, changes):
    copy = edited(Path(shutil.copytree(bundle, tmp_path / "copy")), **changes)
    with pytest.raises(BundleError, match=f"^{TRAINING_PATIENTS}: "):
        load(copy)


def test_digests_that_are_not_json_are_refused(bundle, tmp_path):
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    (copy / TRAINING_PATIENTS).write_text("[]")
    with pytest.raises(BundleError, match=TRAINING_PATIENTS):
        load(copy)  # its checksum
    edited_files = json.loads((copy / "manifest.json").read_text())["files"]
    edit_json(copy / "manifest.json", files=edited_files | {TRAINING_PATIENTS: sha256(copy / TRAINING_PATIENTS)})
    with pytest.raises(BundleError, match=TRAINING_PATIENTS):
        load(copy)


# heldout.csv


def test_the_reports_concordance_is_that_of_the_held_out_table(cohort, bundle, tmp_path):
    table = bundle.with_name(f"{bundle.name}.training") / "heldout.csv"
    outcomes = tmp_path / "outcomes.csv"
    with outcomes.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case_id", "time", "event"])
        for path in sorted(cohort.glob("data/*/*_CD.json")):
            variables = json.loads(path.read_text())
            writer.writerow([path.parent.name, variables["Time_to_prog_or_FUend"], variables["progression"]])
    report = json.loads((table.parent / "report.json").read_text())["heldout"]
    found = evaluate(table, outcomes, draws=5)
    assert found["harrell_concordance"]["value"] == report["harrell_concordance"]["value"]
    assert found["challenge_concordance"]["value"] == report["months_concordance"]["value"]
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:6] == ["case_id", "fold", "risk", "months", "12", "24"]
    assert [row["case_id"] for row in rows] == sorted(path.name for path in cohort.glob("data/*"))
    assert {row["fold"] for row in rows} == {"0", "1"}
    years = [name for name in rows[0] if name.isdigit()]
    curves = np.array([[float(row[year]) for year in years] for row in rows])
    assert (np.diff(curves, axis=1) <= 0).all() and curves.min() >= 0 and curves.max() <= 1
    assert sorted(json.loads((bundle / "calibration.json").read_text())["reference_risks"]) == sorted(
        float(row["risk"]) for row in rows
    )
