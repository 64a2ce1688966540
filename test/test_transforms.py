"""What a member learns of its inputs, from its fitted patients alone, against scikit-learn and lifelines."""

import numpy as np
import pandas as pd
import pytest
import torch
from lifelines import CoxPHFitter
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from survfuse.inputs.clinical import fit_vocabulary
from survfuse.tasks.chimera3 import TASK
from survfuse.training.input_maps import ClinicalMap, ComponentMap, choose_genes, varying
from survfuse.training.protocol import COX_SCORE, NONE, VARIANCE

CLINICAL = [
    {"age": int(age), "sex": sex, "no_instillations": count, "grade": grade}
    for age, sex, count, grade in zip(
        [60, 71, 55, 80, 64, 77],
        ["M", "F", "M", "M", "F", "M"],
        [5, -1, 20, 30, -1, 12],
        ["G3"] * 4 + ["G2"] * 2,
        strict=True,
    )
]
EVERY = np.ones(10, dtype=bool)


def vectors() -> tuple[np.ndarray, list[str]]:
    vocabulary = fit_vocabulary(CLINICAL, list(CLINICAL[0]), TASK)
    return np.stack([vocabulary.encode(patient).values for patient in CLINICAL]).astype(float), vocabulary


def test_clinical_vectors_are_standardised_by_the_fitted_patients_alone():
    values, vocabulary = vectors()
    fitted = ClinicalMap.fit(values[:4], vocabulary)
    columns = dict(zip(vocabulary.columns, fitted.apply(values).T.numpy(), strict=True))
    ages = np.array([patient["age"] for patient in CLINICAL], dtype=float)
    assert columns["age"] == pytest.approx((ages - ages[:4].mean()) / ages[:4].std(), abs=1e-5)
    counts = np.array([5.0, 20.0, 30.0])  # the fitted patients' known numbers
    assert columns["no_instillations"][1] == pytest.approx(0.0, abs=1e-6)  # missing: their mean
    assert columns["no_instillations"][5] == pytest.approx((12 - counts.mean()) / counts.std(), abs=1e-5)
    assert (columns["grade=G3"] == 0.0).all()  # every fitted patient is G3: no weight
    weight, bias = fitted.layer()
    assert torch.allclose(torch.from_numpy(values).float() @ weight.T + bias, fitted.apply(values), atol=1e-5)


@pytest.mark.parametrize("components", [3, 7, 20])
def test_components_are_the_principal_components_of_the_fitted_patients(components):
    """Up to sign; with all of them no distance between fitted patients is lost."""
    random = np.random.default_rng(0)
    rna = random.standard_normal((30, 400)) @ np.diag(np.geomspace(3.0, 0.1, 400))
    rna[:21, 5] = 2.0  # constant among the fitted patients: no weight
    fitted = ComponentMap.fit(rna[:21], np.ones(400, dtype=bool), components)
    standard = StandardScaler().fit(rna[:21]).transform(rna)
    standard[:, 5] = 0.0
    expected = PCA(components, svd_solver="full").fit(standard[:21]).transform(standard)
    found = fitted.apply(rna).numpy()
    assert found.shape == (30, components)
    assert np.abs(found) == pytest.approx(np.abs(expected), abs=1e-3)
    if components == 20:
        between = np.linalg.norm(standard[:21, None] - standard[None, :21], axis=-1)
        assert np.linalg.norm(found[:21, None] - found[None, :21], axis=-1) == pytest.approx(
            between, rel=1e-4, abs=1e-3
        )
    weight, bias = fitted.layer()
    assert torch.allclose(torch.from_numpy(rna).float() @ weight.T + bias, fitted.apply(rna), atol=1e-3)


def test_more_components_than_dimensions_are_zero():
    random = np.random.default_rng(1)
    fitted = ComponentMap.fit(random.standard_normal((6, 10)), EVERY, 9)
    assert (fitted.apply(random.standard_normal((3, 10)))[:, 5:] == 0.0).all()  # six centred patients span five


def test_missing_genes_are_imputed_by_the_fitted_patients_alone():
    random = np.random.default_rng(2)
    rna = random.standard_normal((6, 10))
    rna[1, 4] = rna[5, 4] = np.nan
    rna[:4, 6] = np.nan  # no fitted patient has it
    fitted = ComponentMap.fit(rna[:4], EVERY, 3)
    known = rna[[0, 2, 3], 4]
    assert fitted.offset[4] == pytest.approx(known.mean()) and fitted.factor[4] == pytest.approx(1.0 / known.std())
    filled = rna.copy()
    filled[[1, 5], 4] = known.mean()
    filled[:, 6] = 99.0  # without weight whatever it is
    assert torch.allclose(fitted.apply(rna), fitted.apply(filled), atol=1e-5)
    assert fitted.factor[6] == 0.0


def test_a_gene_that_few_express_gets_no_weight():
    """One of forty fitted patients expresses it, by a hair: a patient who expresses it well must stay in bounds."""
    rna = np.random.default_rng(3).standard_normal((41, 3))
    rna[:, 1] = np.float32(-0.1)
    rna[0, 1] += 1e-6
    rna[40, 1] = 20.0
    assert varying(rna[:40]).tolist() == [True, False, True]
    fitted = ComponentMap.fit(rna[:40], np.ones(3, dtype=bool), 2)
    assert np.abs(fitted.apply(rna)[40].numpy()).max() < 10.0


@pytest.mark.parametrize("seed", range(3))
def test_which_columns_vary_is_counted_gene_by_gene(seed):
    random = np.random.default_rng(seed)
    values = random.integers(0, 3, (int(random.integers(2, 120)), 50)).astype(float)
    values[:, :20] = np.where(random.random((len(values), 20)) < 0.97, 1.0, values[:, :20])
    values[random.random(values.shape) < 0.1] = np.nan
    for column, found in zip(values.T, varying(values), strict=True):
        known = column[~np.isnan(column)]
        different = (known != np.median(known)).sum() if known.size else 0
        assert found == (different >= max(2, known.size / 50))


def test_genes_are_chosen_by_variance_or_by_cox_score():
    """Variance against numpy's; the score against lifelines' null model: twice the gain in likelihood of one small
    Newton step is the score statistic, so the two agree to first order and choose the same gene."""
    random = np.random.default_rng(4)
    values = random.standard_normal((80, 12))
    times, events = random.exponential(np.exp(-1.2 * values[:, 7])), random.random(80) < 0.7
    spread = np.linspace(0.5, 2.0, 12)
    assert choose_genes(values, spread, NONE, 3, (times, events)).all()
    by_variance = choose_genes(values, spread, VARIANCE, 4, (times, events))
    assert set(np.flatnonzero(by_variance)) == set(np.argsort(-(values * spread).var(axis=0))[:4])
    frame = pd.DataFrame(values).assign(time=times, event=events)
    gains = []
    for gene in range(12):
        fitted = CoxPHFitter().fit(frame[[gene, "time", "event"]], "time", "event")
        gains.append(fitted.log_likelihood_ratio_test().test_statistic)
    by_score = choose_genes(values, spread, COX_SCORE, 1, (times, events))
    assert np.flatnonzero(by_score).tolist() == [7] == [int(np.argmax(gains))]
    best = choose_genes(values, spread, COX_SCORE, 4, (times, events))
    assert len(set(np.flatnonzero(best)) & set(np.argsort(gains)[-4:])) >= 3
