"""Measures for external cohorts, compared with lifelines, scikit-survival and formulas written out."""

import warnings

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter, KaplanMeierFitter
from sksurv.metrics import brier_score
from sksurv.util import Surv

from survfuse.survival.brier_curve import brier_curve
from survfuse.survival.cox_regression import UNDEFINED, cox_coefficient, hazard_ratio
from survfuse.survival.cox_samples import cox_coefficients
from survfuse.survival.decision_curve import decision_curve, net_benefits
from survfuse.survival.kaplan_meier import survival_at

N = 60


@pytest.fixture(scope="module")
def outcomes():
    """(risks, times, events) with ties among times."""
    random = np.random.default_rng(3)
    risks = random.normal(size=N)
    own, censoring = random.exponential(40 * np.exp(-risks)), random.uniform(5, 90, N)
    return risks, np.ceil(np.minimum(own, censoring)), own < censoring


def test_kaplan_meier_of_weighted_samples_is_that_of_the_patients_repeated(outcomes):
    _, times, events = outcomes
    random = np.random.default_rng(1)
    weights = np.array([np.bincount(random.integers(0, N, N), minlength=N) for _ in range(5)])
    months = [0.0, 7.0, 12.5, 30.0]
    for weight, values in zip(weights, survival_at(times, events, weights, months), strict=True):
        rows = np.repeat(np.arange(N), weight)
        fitted = KaplanMeierFitter().fit(times[rows], events[rows])
        assert values == pytest.approx(fitted.predict(months).to_numpy(), abs=1e-12)


def test_kaplan_meier_is_unknown_beyond_the_follow_up_unless_it_is_zero():
    assert np.isnan(survival_at([5, 9], [1, 0], [[1, 1]], [10.0])).all()
    assert survival_at([5, 9], [1, 1], [[1, 1], [1, 0]], [10.0]).tolist() == [[0.0], [0.0]]
    assert np.isnan(survival_at([5, 9], [1, 1], [[0, 0]], [1.0])).all()


def test_coefficients_are_those_of_lifelines_on_any_scale(outcomes):
    risks, times, events = outcomes
    table = pd.DataFrame({"risk": risks, "time": times, "event": events})
    expected = CoxPHFitter().fit(table, "time", "event").summary.loc["risk"]
    for scale in (1.0, 1e-4, 1e4):
        found = cox_coefficient(risks * scale + 3.0, times, events)
        assert found["value"] * scale == pytest.approx(expected["coef"], rel=1e-5)
        assert found["low"] * scale == pytest.approx(expected["coef lower 95%"], rel=1e-5)
        assert found["high"] * scale == pytest.approx(expected["coef upper 95%"], rel=1e-5)
        assert found["p"] == pytest.approx(expected["p"], rel=1e-4)
    ratio = hazard_ratio(risks, times, events)
    assert ratio["value"] == pytest.approx(expected["exp(coef)"], rel=1e-5)
    assert ratio["high"] == pytest.approx(expected["exp(coef) upper 95%"], rel=1e-5)


@pytest.mark.parametrize(
    ("covariate", "times", "events"),
    [
        ([1.0, 2.0, 3.0], [1, 2, 3], [0, 0, 0]),
        ([2.0, 2.0, 2.0], [1, 2, 3], [1, 1, 1]),
        ([1, 1, 1, 0, 0, 0], [1, 2, 3, 7, 8, 9], [1, 1, 1, 0, 0, 0]),
        ([1.0], [1], [1]),
    ],
    ids=["no event", "no spread", "separated", "one patient"],
)
def test_an_undefined_coefficient_is_said_without_a_warning(covariate, times, events):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cox_coefficient(covariate, times, events) == UNDEFINED
        assert hazard_ratio(covariate, times, events) == UNDEFINED


def test_coefficients_of_samples_are_lifelines_of_the_patients_repeated(outcomes):
    risks, times, events = outcomes
    random = np.random.default_rng(2)
    weights = np.array([np.bincount(random.integers(0, N, N), minlength=N) for _ in range(6)], dtype=float)
    found = cox_coefficients(risks * 3.0, times, events, weights)
    for weight, value in zip(weights, found, strict=True):
        rows = np.repeat(np.arange(N), weight.astype(int))
        table = pd.DataFrame({"risk": risks[rows] * 3.0, "time": times[rows], "event": events[rows]})
        fitted = CoxPHFitter().fit(table, "time", "event", fit_options={"precision": 1e-12})
        assert value == pytest.approx(fitted.params_["risk"], rel=1e-6)


def test_coefficients_of_samples_are_undefined_where_there_is_no_maximum():
    times, events, covariate = [1, 2, 3, 7, 8, 9], [1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0]
    weights = np.array([[1, 1, 1, 1, 1, 1], [0, 0, 0, 2, 2, 2], [2, 2, 2, 0, 0, 0]], dtype=float)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(cox_coefficients(covariate, times, events, weights)).all()
        assert np.isnan(cox_coefficients(np.ones(6), times, events, weights)).all()


def test_net_benefit_is_the_formula_with_kaplan_meier_among_those_treated(outcomes):
    risks, times, events = outcomes
    predicted = 1 / (1 + np.exp(-risks))
    found = decision_curve(times, events, predicted, 24.0, np.array([0.2, 0.5, 0.99]))
    everybody = 1 - KaplanMeierFitter().fit(times, events).predict(24.0)
    for at, model, treating_all in zip(found.thresholds, found.model, found.everybody, strict=True):
        treated = predicted >= at
        odds = at / (1 - at)
        assert treating_all == pytest.approx(everybody - (1 - everybody) * odds, abs=1e-12)
        if not treated.any():
            assert model == 0.0
            continue
        event = 1 - KaplanMeierFitter().fit(times[treated], events[treated]).predict(24.0)
        assert model == pytest.approx(treated.mean() * (event - (1 - event) * odds), abs=1e-12)


def test_net_benefit_of_samples_is_that_of_the_patients_repeated(outcomes):
    risks, times, events = outcomes
    predicted = 1 / (1 + np.exp(-risks))
    random = np.random.default_rng(5)
    weights = np.array([np.bincount(random.integers(0, N, N), minlength=N) for _ in range(4)], dtype=float)
    alone = [predicted.argmax(), predicted.argmin(), np.where(events, 0.0, predicted).argmax()]
    weights = np.vstack([weights, N * np.eye(N)[alone]])  # one patient; the last is censored
    thresholds, defined = np.array([0.2, 0.9, 0.5, 0.99]), 0
    for month in (0.5, 24.0, 80.0):  # before the first event, and after most of the follow-up
        found = net_benefits(times, events, predicted, month, weights, thresholds)
        for weight, row in zip(weights, found, strict=True):
            of = np.repeat(np.arange(N), weight.astype(int))
            for threshold, value in zip(thresholds, row, strict=True):
                treated = of[predicted[of] >= threshold]
                expected, odds = 0.0, threshold / (1 - threshold)
                if treated.size:
                    fitted = KaplanMeierFitter().fit(times[treated], events[treated])
                    free = fitted.predict(month) if month <= times[treated].max() else np.nan
                    free = 0.0 if (fitted.survival_function_.iloc[-1, 0] == 0.0 and np.isnan(free)) else free
                    expected = treated.size / N * (1 - free - free * odds)
                assert value == pytest.approx(expected, abs=1e-12, nan_ok=True)
                defined += np.isfinite(expected)
    assert 0 < defined < found.size * 3


def test_without_censoring_net_benefit_counts_true_and_false_positives():
    times, predicted = np.arange(1.0, 11.0), np.linspace(0.95, 0.05, 10)
    found = decision_curve(times, np.ones(10), predicted, 4.5, np.array([0.3]))
    treated = predicted >= 0.3
    true, false = (treated & (times <= 4.5)).sum(), (treated & (times > 4.5)).sum()
    assert found.model[0] == pytest.approx(true / 10 - false / 10 * 0.3 / 0.7)
    assert found.everybody[0] == pytest.approx(0.4 - 0.6 * 0.3 / 0.7)


def test_the_brier_score_over_time_is_scikit_survivals(outcomes):
    risks, times, events = outcomes
    at = np.array([0.5, 12.0, 24.0, 36.0, 500.0])
    survival = np.exp(-np.exp(risks)[:, np.newaxis] * at / 40)
    surv = Surv.from_arrays(events, times)
    found = brier_curve(times, events, survival, at)
    assert found[1:4] == pytest.approx(brier_score(surv, surv, survival[:, 1:4], at[1:4])[1], abs=1e-12)
    assert np.isnan(found[[0, 4]]).all()
    assert np.isnan(brier_curve(times, np.zeros(N), survival, at)).all()
    assert np.isnan(brier_curve(times, times == times.max(), survival, at)).all()
