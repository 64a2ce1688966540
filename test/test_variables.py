"""Expression and clinical variables → vectors, with everything missing or unknown accounted for."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from survfuse.inputs.clinical import Categorical, Numeric, Vocabulary, fit_vocabulary
from survfuse.inputs.expression import IDENTITY, Expression
from survfuse.runtime.errors import BundleError, InputError
from survfuse.tasks.registry import DEFAULT

GENES = tuple(f"G{place}" for place in range(40))


@pytest.fixture(scope="module")
def values():
    """Expression [30, 40] of thirty patients; G7 is constant."""
    random = np.random.default_rng(0)
    values = np.exp(random.normal(2.0, 1.0, 40) + random.normal(0.0, 0.3, (30, 40)))
    values[:, 7] = 5.0
    return values


@pytest.fixture(scope="module")
def expression(values):
    return Expression.fit(GENES, values)


def texts(encoded) -> list[str]:
    return [note.text for note in encoded.notes]


def as_case(row: np.ndarray) -> dict[str, float]:
    return dict(zip(GENES, row.tolist(), strict=True))


def test_expression_is_standardised_as_scikit_learn_does(expression, values):
    expected = StandardScaler().fit_transform(np.log1p(values))
    expected[:, 7] = 0.0
    found = np.stack([expression.encode(as_case(row)).values for row in values])
    assert found == pytest.approx(expected, abs=1e-5)


def test_order_follows_the_bundle_not_the_file(expression, values):
    shuffled = dict(sorted(as_case(values[0]).items(), reverse=True))
    assert expression.encode(shuffled).values.tolist() == expression.encode(as_case(values[0])).values.tolist()


def test_missing_genes_take_the_training_mean_and_are_counted(expression, values):
    case = as_case(values[0])
    del case["G3"], case["G4"]
    found = expression.encode(case | {"EXTRA": 1.0})
    assert found.values[3] == found.values[4] == 0.0  # the standardised mean
    assert "38 genes of 40 read" in found.notes[0].text
    assert "2 missing genes imputed with the training mean" in texts(found)
    assert "1 extra gene ignored" in texts(found)


def test_identity_keeps_raw_values_and_imputes_the_raw_mean():
    raw = Expression(("A", "B"), IDENTITY, np.array([3.5, 8.0]), np.zeros(2), most_missing=0.5)
    assert raw.encode({"A": 12.25}).values.tolist() == [12.25, 8.0]


def test_more_than_half_missing_is_refused(expression, values):
    case = as_case(values[0])
    half = {gene: case[gene] for gene in GENES[:20]}
    expression.encode(half)
    del half["G0"]
    with pytest.raises(InputError, match="21 of the bundle's 40 genes are missing"):
        expression.encode(half)


@pytest.mark.parametrize("value", [-0.1, -1, math.nan, math.inf, "3,1", None, True, [1.0], {}, 10**400])
@pytest.mark.parametrize("gene", ["G5", "NOT_IN_BUNDLE"])
def test_an_unusable_value_names_its_gene(expression, values, gene, value):
    with pytest.raises(InputError, match=f"'{gene}'"):
        expression.encode(as_case(values[0]) | {gene: value})


@pytest.mark.parametrize(
    ("change", "warned"),
    [
        (lambda row: row, False),
        (lambda row: 1.3 * row, False),
        (lambda row: 30.0 * row, True),  # counts against TPM
        (lambda row: row / 30.0, True),
        (lambda row: np.log2(1.0 + row), True),  # logged already
        (lambda row: row**2, True),
    ],
)
def test_another_scale_is_warned_of(expression, values, change, warned):
    for row in values:
        assert bool(expression.encode(as_case(change(row))).warnings) == warned


def test_expression_table_survives_json(expression, values):
    again = Expression.from_json(json.loads(json.dumps(expression.to_json())))
    assert again.encode(as_case(values[1])).values.tolist() == expression.encode(as_case(values[1])).values.tolist()
    for damage in (
        {"mean": [1.0]},
        {"genes": ["A", "A"]},
        {"transform": "cube"},
        {"scale": [None] * 40},
        {"scale": [-1.0] * 40},
        {"most_missing": 2},
    ):
        with pytest.raises(BundleError, match=r"genes\.json"):
            Expression.from_json(expression.to_json() | damage)


PATIENTS = [
    {"age": 60, "no_instillations": 12, "sex": "Male", "stage": "T1HG", "substage": "T1e", "tumor": "Primary"},
    {"age": 75, "no_instillations": -1, "sex": "Female", "stage": "TaHG", "substage": "-1", "tumor": "Primary"},
    {"age": 82, "no_instillations": 27, "sex": "Male", "stage": "T1HG", "substage": "T1m", "tumor": "Primary"},
]


@pytest.fixture(scope="module")
def vocabulary():
    return fit_vocabulary(PATIENTS, list(PATIENTS[0]), DEFAULT)


def named(vocabulary: Vocabulary, variables: dict) -> dict[str, float]:
    return dict(zip(vocabulary.columns, vocabulary.encode(variables).values.tolist(), strict=True))


def test_complete_variables_encode_as_scikit_learn_does(vocabulary):
    names = ["sex", "stage"]
    labels = [[patient[name] for name in names] for patient in PATIENTS]
    encoder = OneHotEncoder(sparse_output=False).fit(labels)
    ages = StandardScaler().fit_transform([[patient["age"]] for patient in PATIENTS])
    for patient, row, age in zip(PATIENTS, encoder.transform(labels), ages, strict=True):
        found = named(vocabulary, patient)
        columns = ["sex=Female", "sex=Male", "stage=T1HG", "stage=TaHG"]
        assert [found[column] for column in columns] == row.tolist()
        assert found["age"] == pytest.approx(age[0], abs=1e-6)


@pytest.mark.parametrize(
    "code", [-1, -1.0, "-1", "-1.0", None, "", "  ", "NA", "na", "nan", "NaN", math.nan, "absent key", "-1.", "-nan"]
)
def test_every_missing_code_is_understood(vocabulary, code):
    variables = PATIENTS[0] | {"no_instillations": code, "substage": code}
    if code == "absent key":
        del variables["no_instillations"], variables["substage"]
    found = named(vocabulary, variables)
    assert found["no_instillations"] == 0.0  # the training mean
    assert found["no_instillations missing"] == 1.0
    assert [found[name] for name in ("substage=T1e", "substage=T1m", "substage missing")] == [0.0, 0.0, 1.0]


def test_a_number_beside_a_missing_code_is_none(vocabulary):
    with pytest.raises(InputError, match="out of its plausible range"):
        vocabulary.encode(PATIENTS[0] | {"no_instillations": -1.0000004})


def test_an_unknown_category_is_missing_never_another_and_is_said(vocabulary):
    encoded = vocabulary.encode(PATIENTS[0] | {"substage": "T1x"})
    found = dict(zip(vocabulary.columns, encoded.values.tolist(), strict=True))
    assert [found[name] for name in ("substage=T1e", "substage=T1m", "substage missing")] == [0.0, 0.0, 1.0]
    assert "unknown category, counted as missing: substage" in texts(encoded)
    assert not any("T1x" in note for note in texts(encoded))  # names of fields, never patients' values


def test_a_column_constant_in_training_has_no_weight(vocabulary):
    """tumor was always Primary and sex never missing: neither can say anything."""
    assert vocabulary.inactive == {"tumor=Primary", "tumor missing", "sex missing", "stage missing", "age missing"}
    odd = vocabulary.encode(PATIENTS[0] | {"tumor": "Recurrence", "sex": None})
    found = dict(zip(vocabulary.columns, odd.values.tolist(), strict=True))
    assert found["tumor=Primary"] == found["tumor missing"] == found["sex missing"] == 0.0
    assert any(note.endswith("no weight: sex, tumor") for note in texts(odd))
    assert "unknown category, counted as missing: tumor" in texts(odd)


def test_outcomes_are_dropped_and_extras_said(vocabulary):
    encoded = vocabulary.encode(PATIENTS[0] | {"progression": 1, "Time_to_prog_or_FUend": 9, "hospital": "X"})
    assert encoded.values.tolist() == vocabulary.encode(PATIENTS[0]).values.tolist()
    assert "outcome keys dropped: progression, Time_to_prog_or_FUend" in texts(encoded)
    assert "not in the bundle's vocabulary, ignored: hospital" in texts(encoded)


IMPLAUSIBLE = {
    "age": [121, -5, math.inf, "old", True, [70], 10**400],
    "no_instillations": [101, -2],
    "sex": [["Male"], {}],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in IMPLAUSIBLE.items() for value in values])
def test_implausible_or_unreadable_values_are_refused(vocabulary, name, value):
    with pytest.raises(InputError, match=name):
        vocabulary.encode(PATIENTS[0] | {name: value})


def test_spelling_that_is_unambiguous_is_accepted(vocabulary):
    assert named(vocabulary, PATIENTS[0] | {"sex": " male ", "age": "60"}) == named(vocabulary, PATIENTS[0])
    twins = Vocabulary((), (Categorical("x", ("A", "a")),), (), ())
    assert named(twins, {"x": "a"})["x=a"] == 1.0


def test_the_published_vocabulary_gives_its_published_columns(reference):
    """The reference's 27 numbers for a complete patient, from its own means and scales."""
    published = json.loads((reference / "reference-clinical.json").read_text())
    vocabulary = Vocabulary(
        tuple(Numeric(entry["name"], entry["mean"], entry["scale"], 0.0, 120.0) for entry in published["numeric"]),
        tuple(
            Categorical(entry["name"], tuple(name for name in entry["categories"] if name != "-1"))
            for entry in published["categorical"]
        ),
        DEFAULT.missing_codes,
        DEFAULT.outcome.keys,
    )
    patient = {"age": 71, "no_instillations": 15, "sex": "Male", "smoking": "Yes", "tumor": "Primary", "stage": "T1HG"}
    patient |= {"substage": "T1m", "grade": "G3", "reTUR": "Yes", "LVI": "No", "variant": "UCC"}
    patient |= {"EORTC": "High risk", "BRS": "BRS2"}
    found = named(vocabulary, patient)
    expected = {
        entry["name"]: (patient[entry["name"]] - entry["mean"]) / entry["scale"] for entry in published["numeric"]
    }
    for entry in published["categorical"]:
        for name in entry["categories"]:
            column = f"{entry['name']} missing" if name == "-1" else f"{entry['name']}={name}"
            expected[column] = float(patient[entry["name"]] == name)
    assert len(expected) == 27
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert all(value == 0.0 for name, value in found.items() if name not in expected)


@given(st.dictionaries(st.sampled_from(["age", "sex", "stage", "no_instillations", "other"]), st.text(max_size=6)))
def test_any_text_is_encoded_or_named(variables):
    vocabulary = fit_vocabulary(PATIENTS, list(PATIENTS[0]), DEFAULT)
    try:
        found = vocabulary.encode(variables)
    except InputError as error:
        assert any(name in str(error) for name in ("age", "no_instillations"))
    else:
        assert np.isfinite(found.values).all()


def test_vocabulary_survives_json(vocabulary):
    again = Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json())))
    assert again == vocabulary
    for damage in ({"inactive": ["what"]}, {"numeric": [{"name": "age"}]}, {"numeric": [], "categorical": []}):
        with pytest.raises(BundleError, match=r"clinical\.json"):
            Vocabulary.from_json(vocabulary.to_json() | damage)


def test_numbers_spelt_as_text_keep_a_variable_numeric():
    patients = [
        patient | {"age": str(patient["age"]), "nodes": text} for patient, text in zip(PATIENTS, "123", strict=True)
    ]
    vocabulary = fit_vocabulary([PATIENTS[0] | {"nodes": 4}, *patients[1:]], [*PATIENTS[0], "nodes"], DEFAULT)
    assert [entry.name for entry in vocabulary.numeric] == ["age", "no_instillations", "nodes"]
    with pytest.raises(InputError, match="age"):
        fit_vocabulary([*PATIENTS, PATIENTS[0] | {"age": "old"}], ["age"], DEFAULT)


@pytest.mark.parametrize(
    "damage",
    [
        {"numeric": [{"name": "age", "mean": 1.0, "scale": 1.0, "low": "a"}]},
        {"numeric": [{"name": "age", "mean": None, "scale": 1.0}]},
        {"numeric": [{"name": "age", "mean": 1.0, "scale": -1.0}]},
        {"missing_codes": ["NA"]},
        {"missing_codes": [-1]},
        {"categorical": [{"name": "sex", "categories": [1]}]},
    ],
)
def test_a_vocabulary_of_wrong_types_is_refused(vocabulary, damage):
    with pytest.raises(BundleError, match=r"clinical\.json"):
        Vocabulary.from_json(vocabulary.to_json() | {"inactive": []} | damage)
