"""Cohorts whose expression does not fit together: other genes, other units, values that cannot be logged."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import edit_patients, end_of, months, survfuse

from survfuse.bundle.load import load
from survfuse.cohort.expression_check import check_expression
from survfuse.cohort.read import read_cohort
from survfuse.inputs.expression import IDENTITY, Expression
from survfuse.networks.sizes import Sizes
from survfuse.runtime.errors import InputError
from survfuse.tasks.chimera3 import TASK
from survfuse.training.protocol import Protocol
from survfuse.training.training_data import TrainingData, training_data

QUICK = ["--fusion=cox-rna", "--modalities", "rna", "--folds=2", "--inner=2", "--draws=10"]
Values = dict[str, float]


@pytest.fixture
def root(cohort, tmp_path) -> Path:
    return shutil.copytree(cohort, tmp_path / "cohort")


def change(root: Path, edit: Callable[[int, Values], Values]) -> None:
    """Replace every patient's expression by ``edit`` of the patient's place and expression."""
    edit_patients(root, edit, "RNA", whole=True)


def versioned(values: Values) -> Values:
    return {f"ENSG{place:011d}.3": value for place, value in enumerate(values.values())}


def logged(values: Values) -> Values:
    return {gene: math.log2(value + 1.0) for gene, value in values.items()}


def prepared(root: Path, transform: str = Protocol.transform) -> TrainingData:
    patients = read_cohort(root, root / "cache", modalities=["rna"])
    return training_data(patients, Protocol(fusion="cox-rna", folds=2, inner=2, transform=transform), Sizes())


def test_a_patient_without_the_others_genes_is_named_before_training(root, tmp_path, capsys):
    change(root, lambda place, values: versioned(values) if place == 3 else values)
    assert survfuse(["train", str(root), "--out", str(tmp_path / "bundle"), *QUICK]) == 2
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert "1 of 60 patients (3S_04) has none of the 24 genes that most patients have" in line
    assert "ENSG00000000000.3 in 3S_04" in line and "trained" not in said.out
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(("of", "message"), [(2, "no gene is common to most of 60 patients"), (3, "20 of 60 patients")])
def test_groups_of_patients_under_other_gene_names_are_refused(root, of, message):
    change(root, lambda place, values: values if place % of else versioned(values))
    with pytest.raises(InputError, match=message) as refused:
        prepared(root)
    assert "ENSG0" in str(refused.value) and "3S_0" in str(refused.value)


def test_a_patient_who_lacks_every_gene_that_is_used_does_not_end_the_training(root, tmp_path):
    """The patient's place on the cohort's scale is unknown, not NaN in a table."""
    expression = Expression.fit(("a", "b"), np.array([[1.0, 2.0], [np.nan, np.nan], [3.0, 5.0]]))
    assert expression.cohort_range is not None
    assert np.isfinite([*expression.cohort_range.shift, *expression.cohort_range.slope]).all()


def test_patients_who_lack_half_of_the_genes_are_named(root, capsys):
    change(root, lambda place, values: dict(list(values.items())[:8]) if place == 5 else values)
    prepared(root)
    (line,) = capsys.readouterr().err.splitlines()
    assert "1 of 60 patients (3S_06) has fewer than half of the 24 genes that most patients have" in line


def test_genes_that_only_a_few_have_are_said(root, capsys):
    change(root, lambda place, values: values | {"RARE": 3.0 + place} if place < 20 else values)
    prepared(root)
    (line,) = capsys.readouterr().err.splitlines()
    assert "1 of 25 genes (RARE, …) are missing in at least half of the patients" in line


@pytest.mark.parametrize("every", [2, 5])
def test_patients_with_logged_values_among_raw_ones_are_named(root, capsys, every):
    change(root, lambda place, values: values if place % every else logged(values))
    prepared(root)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{60 // every} of 60 patients (3S_01, " in line and "check the unit" in line


def times(factor: float) -> Callable[[Values], Values]:
    return lambda values: {gene: factor * value for gene, value in values.items()}


def centred(values: Values) -> Values:
    return {gene: value - 3.0 for gene, value in logged(values).items()}


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (logged, "less widely spread over genes than the others', by a factor of [23]"),
        (times(10.0), "higher than the others', by a factor of [89]"),
        (times(0.1), "lower than the others', by a factor of [5-9]"),
        (times(1000.0), r"higher than the others', by a factor of [789]\d\d:"),
    ],
)
def test_a_group_in_another_unit_is_named_with_how_it_differs(root, capsys, edit, said):
    change(root, lambda place, values: edit(values) if place % 3 == 0 else values)
    prepared(root)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(rf"20 of 60 patients \(3S_01, 3S_04, 3S_07 and 17 more\) have values {said}", line)


def test_negative_values_of_some_patients_are_named_and_do_not_hide_another_unit(root, capsys):
    change(root, lambda place, values: centred(values) if place % 2 else values)
    prepared(root, IDENTITY)
    (line,) = capsys.readouterr().err.splitlines()
    assert "30 of 60 patients (3S_02, 3S_04, 3S_06 and 27 more) have negative expression, unlike the others" in line
    with pytest.raises(InputError, match=r"30 of 60 patients .* no logarithm; the others have none: check the unit"):
        prepared(root)
    change(root, lambda place, values: {g: v + 3.0 for g, v in values.items()} if place % 2 and place > 1 else values)
    prepared(root, IDENTITY)
    negative, spread = capsys.readouterr().err.splitlines()
    assert "1 of 60 patients (3S_02) has negative expression" in negative
    assert "29 of 59 patients (3S_04, 3S_06, 3S_08 and 26 more) have values less widely spread" in spread


@pytest.mark.parametrize("deviation", [0.3, 0.5])
def test_libraries_of_other_sizes_are_no_other_unit(capsys, deviation):
    """Counts of samples whose library sizes are log-normal, in cohorts of 12 to 100 patients."""
    random = np.random.default_rng(3)
    for number in (12, 20, 40, 100) * 5:
        sizes = np.exp(random.normal(0.0, deviation, (number, 1)))
        counts = random.poisson(sizes * np.exp(random.normal(3.0, 2.0, 200)) * random.gamma(4.0, 0.25, (number, 200)))
        check_expression([str(n) for n in range(number)], [str(n) for n in range(200)], counts.astype(float), True)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("edit", [lambda values: values, logged, times(1e3)])
def test_one_unit_is_no_reason_for_a_warning_but_for_logged_values_that_are_logged_again(root, capsys, edit):
    change(root, lambda _, values: edit(values))
    prepared(root)
    said = capsys.readouterr().err
    assert "seems to be logged already" in said if edit is logged else said == ""
    prepared(root, IDENTITY)
    assert capsys.readouterr().err == ""


def z_scores(root: Path) -> None:
    """Every gene by its mean and standard deviation over the cohort, as two-colour arrays and portals give it."""
    files = sorted(root.glob("data/*/*_RNA.json"))
    values = np.log1p([list(json.loads(path.read_text()).values()) for path in files])
    values = (values - values.mean(axis=0)) / values.std(axis=0)
    change(root, lambda place, genes: dict(zip(genes, values[place].tolist(), strict=True)))


def test_negative_values_are_one_short_line_that_proposes_a_way(root):
    z_scores(root)
    with pytest.raises(
        InputError, match=r"60 of 60 patients \(3S_01, 3S_02, 3S_03 and 57 more\) have negative"
    ) as refused:
        prepared(root)
    assert "--transform identity takes any finite value" in str(refused.value) and len(str(refused.value)) < 300


def test_negative_values_are_trained_on_and_predicted_as_they_are(root, tmp_path, capsys):
    z_scores(root)
    out = tmp_path / "bundle"
    assert survfuse(["train", str(root), "--out", str(out), *QUICK, "--transform=identity"]) == 0
    table = load(out).expression
    values = np.array([json.loads(path.read_text())[table.genes[0]] for path in sorted(root.glob("data/*/*_RNA.json"))])
    assert table.transform == IDENTITY and table.mean[0] == pytest.approx(values.mean())
    assert survfuse(["predict", str(root), "--model", str(out), "--out", str(tmp_path / "p.csv")]) == 0
    case = tmp_path / "case"
    case.mkdir()
    shutil.copy(root / "data/3S_07/3S_07_RNA.json", case / TASK.sockets["rna"].place)
    assert end_of(case, tmp_path / "output", out) == 0
    rows = {line.split(",")[0]: line.split(",") for line in (tmp_path / "p.csv").read_text().splitlines()}
    assert months(tmp_path / "output") == pytest.approx(float(rows["3S_07"][2]), rel=1e-9)
    # Nothing is warned of but that these are training patients.
    assert all("patients that the bundle was trained on" in line for line in capsys.readouterr().err.splitlines())


def test_values_that_are_no_numbers_in_many_patients_are_one_line(root):
    change(root, lambda place, values: values | {f"G{place}": "high"} if place < 40 else values)
    with pytest.raises(InputError) as refused:
        prepared(root)
    assert (
        "40 patients (3S_01, 3S_02, 3S_03 and 37 more): <id>_RNA.json: genes whose values are not finite numbers "
        "(found 'high' of 'G0' in 3S_01)"
    ) in str(refused.value)
    assert len(str(refused.value)) < 400


def test_predicting_logged_values_says_so_with_counts_and_names(root, cohort, tmp_path, capsys):
    out = tmp_path / "bundle"
    assert survfuse(["train", str(cohort), "--out", str(out), *QUICK]) == 0
    change(root, lambda _, values: logged(values))
    capsys.readouterr()
    assert survfuse(["predict", str(root), "--model", str(out), "--out", str(tmp_path / "p.csv")]) == 0
    err = capsys.readouterr().err
    assert "60 of 60 cases (3S_01, 3S_02, 3S_03 and 57 more): expression is on a different scale" in err


def test_predicting_under_other_names_says_what_is_imputed_and_unknown(root, cohort, tmp_path, capsys):
    out = tmp_path / "bundle"
    both = ["--fusion=cox-rna+clinical", "--modalities", "rna", "clinical", "--folds=2", "--inner=2", "--draws=10"]
    assert survfuse(["train", str(cohort), "--out", str(out), *both]) == 0
    used = load(out).expression.genes
    renamed = set(used[: round(0.45 * len(used))])
    change(root, lambda _, values: {f"{g}_old" if g in renamed else g: v for g, v in values.items()})
    for path in sorted(root.glob("data/*/*_CD.json"))[:7]:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"stage": "pT1"}))
    capsys.readouterr()
    assert survfuse(["predict", str(root), "--model", str(out), "--out", str(tmp_path / "p.csv")]) == 0
    said = capsys.readouterr().out
    assert "60 of 60 cases (3S_01, 3S_02, 3S_03 and 57 more): missing genes imputed with the training mean" in said
    assert "7 of 60 cases (3S_01, 3S_02, 3S_03 and 4 more): unknown category, counted as missing: stage" in said


def test_predicting_risks_far_beyond_says_so(root, cohort, tmp_path, capsys):
    out = tmp_path / "bundle"
    assert survfuse(["train", str(cohort), "--out", str(out), *QUICK]) == 0
    change(root, lambda place, values: {g: 1e6 * v + 1e6 * place for g, v in values.items()} if place < 4 else values)
    capsys.readouterr()
    assert survfuse(["predict", str(root), "--model", str(out), "--out", str(tmp_path / "p.csv")]) == 0
    assert "(3S_01, " in (err := capsys.readouterr().err) and "the risk is far beyond those of the reference" in err
