"""Measures and survival curves against libraries, closed forms and slow loops."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter, KaplanMeierFitter
from scipy import stats
from sksurv.metrics import concordance_index_ipcw, cumulative_dynamic_auc, integrated_brier_score
from sksurv.util import Surv

from survfuse.runtime.errors import BundleError, InputError
from survfuse.survival.curves import SurvivalCurve
from survfuse.survival.metrics import (
    auc_at,
    concordance,
    corrected_difference,
    d_calibration,
    integrated_brier,
    paired_difference,
    percentile_interval,
    resampled,
    uno_concordance,
)

MONTHS = (12.0, 24.0, 60.0)


def simulated(n: int, seed: int = 0, whole_months: bool = True):
    """(risks, times, events) with exponential event times of rate e^risk / 60 and uniform censoring."""
    random = np.random.default_rng(seed)
    risks = random.normal(size=n)
    event_times, censoring = random.exponential(60 * np.exp(-risks)), random.uniform(10, 140, n)
    times = np.minimum(event_times, censoring)
    return risks, np.round(times) if whole_months else times, event_times < censoring


# Survival curves


def test_a_curve_is_lifelines_cox_model():
    risks, times, events = simulated(120)
    fitted = CoxPHFitter().fit(pd.DataFrame({"risk": risks, "time": times, "event": events}), "time", "event")
    curve = SurvivalCurve.fit(risks, times, events)
    assert curve.coefficient == pytest.approx(fitted.params_["risk"], abs=1e-6)
    assert curve.hazard == pytest.approx(fitted.baseline_cumulative_hazard_.iloc[:, 0].to_numpy(), rel=1e-5)
    expected = fitted.predict_survival_function(pd.DataFrame({"risk": risks[:9]})).T
    assert curve.survival(risks[:9], expected.columns) == pytest.approx(expected.to_numpy(), abs=1e-6)


def test_the_baseline_is_breslows_sum():
    risks, times, events = simulated(60, seed=3)
    curve = SurvivalCurve.fit(risks, times, events)
    relative = np.exp(curve.coefficient * (risks - curve.centre))
    for at, hazard in zip(curve.times, curve.hazard, strict=True):
        steps = ((events & (times == t)).sum() / relative[times >= t].sum() for t in np.unique(times) if t <= at)
        assert hazard == pytest.approx(sum(steps), rel=1e-9)


def test_a_curve_is_a_step_function_from_1_that_stays_at_its_last_value():
    curve = SurvivalCurve(1.0, 0.5, np.array([2.0, 4.0]), np.array([0.1, 0.3]))
    found = curve.survival([0.5, 0.5 + math.log(2)], [0.0, 1.99, 2.0, 3.99, 4.0, 1e6])
    hazards = np.array([0.0, 0.0, 0.1, 0.1, 0.3, 0.3])
    assert found == pytest.approx(np.exp(-np.outer([1.0, 2.0], hazards)), abs=1e-12)
    assert np.isfinite(curve.survival([1e300, -1e300], [1.0, 5.0])).all()


@pytest.mark.parametrize("turned", [lambda risks: -risks, lambda risks: np.full_like(risks, 3.3)])
def test_risks_that_do_not_work_give_everyone_the_cohorts_curve(turned):
    risks, times, events = simulated(80, seed=1)
    curve = SurvivalCurve.fit(turned(risks), times, events)
    assert curve.coefficient == 0.0
    at = np.unique(times)
    steps = [(events & (times == t)).sum() / (times >= t).sum() for t in at]
    assert curve.survival([-9.0, 9.0], at) == pytest.approx(np.exp(-np.cumsum([steps, steps], axis=1)), abs=1e-9)


def test_risks_without_fault_keep_a_finite_coefficient():
    times = np.arange(1.0, 31.0)
    curve = SurvivalCurve.fit(-times, times, np.ones(30))
    assert 0.0 < curve.coefficient < 10.0
    assert (np.diff(curve.survival(-times, [15.0])[:, 0]) > 0).all()


@pytest.mark.parametrize(
    ("risks", "times", "events"),
    [
        ([1.0, 2.0], [1.0, 2.0], [0, 0]),
        ([np.nan, 2.0], [1.0, 2.0], [1, 0]),
        ([1.0, 2.0], [-1.0, 2.0], [1, 0]),
        ([1.0], [1.0, 2.0], [1, 0]),
    ],
)
def test_a_cohort_that_gives_no_curve_is_named(risks, times, events):
    with pytest.raises(InputError, match="survival curve"):
        SurvivalCurve.fit(risks, times, events)


def test_a_stored_curve_is_read_back_and_an_unsound_one_refused():
    curve = SurvivalCurve.fit(*simulated(40))
    stored = json.loads(json.dumps(curve.to_json()))
    again = SurvivalCurve.from_json(stored)
    assert again.to_json() == curve.to_json()
    unsound = [
        {"coefficient": -1.0}, {"coefficient": "1"}, {"coefficient": True}, {"centre": float("nan")}, {"centre": None},
        {"times": stored["times"][::-1]}, {"times": []}, {"times": stored["times"][1:]}, {"hazard": "none"},
        {"hazard": stored["hazard"][::-1]}, {"hazard": [-0.1, *stored["hazard"][1:]]},
        {"hazard": [*stored["hazard"][:-1], float("inf")]}, {"times": [[1.0]], "hazard": [[1.0]]},
    ]  # fmt: skip
    for change in unsound:
        with pytest.raises(BundleError, match="survival curve"):
            SurvivalCurve.from_json(stored | change)
    for value in ({}, [], None):
        with pytest.raises(BundleError, match="survival curve"):
            SurvivalCurve.from_json(value)


# Discrimination and Brier score


def test_measures_equal_direct_calls_of_scikit_survival():
    risks, times, events = simulated(150)
    train = simulated(200, seed=9)[1:]
    both = [Surv.from_arrays(happened, at) for at, happened in (train, (times, events))]
    grid = np.arange(6.0, 100.0, 3.0)
    curves = SurvivalCurve.fit(risks, times, events).survival(risks, grid)
    tau = min(train[0].max(), times.max())
    assert uno_concordance(*train, times, events, risks) == concordance_index_ipcw(*both, risks, tau=tau)[0]
    expected = cumulative_dynamic_auc(*both, risks, [12, 24, 60])[0]
    assert list(auc_at(*train, times, events, risks, MONTHS).values()) == pytest.approx(expected, abs=1e-12)
    assert integrated_brier(*train, times, events, curves, grid) == pytest.approx(
        integrated_brier_score(*both, curves, grid), abs=1e-12
    )


def test_unos_concordance_by_pairs():
    """Without ties in time: every pair weighed by 1 / G², with G from Kaplan–Meier of the censoring."""
    risks, times, events = simulated(70, seed=2, whole_months=False)
    censoring = KaplanMeierFitter().fit(times, ~events)
    won = total = 0.0
    for i in np.flatnonzero(events & (times < times.max())):
        weight = 1.0 / float(censoring.predict(times[i])) ** 2
        later = times > times[i]
        total += weight * later.sum()
        won += weight * ((risks[i] > risks[later]).sum() + 0.5 * (risks[i] == risks[later]).sum())
    assert uno_concordance(times, events, times, events, risks) == pytest.approx(won / total, abs=1e-12)


def test_without_censoring_unos_and_harrells_concordance_agree():
    risks, times, _ = simulated(60, seed=4, whole_months=False)
    everyone = np.ones(60, dtype=bool)
    assert uno_concordance(times, everyone, times, everyone, risks) == pytest.approx(
        concordance(times, everyone, risks)
    )


def test_what_outcomes_leave_undefined_is_nan():
    risks, times, events = simulated(50)
    nobody = np.zeros(50, dtype=bool)
    assert math.isnan(concordance(times, nobody, risks))
    assert math.isnan(uno_concordance(times, events, times, nobody, risks))
    assert math.isnan(uno_concordance(times, nobody, times, events, risks))
    late = auc_at(times, events, times, events, risks, (0.5, 24, times.max(), 1e3))
    assert [math.isnan(area) for area in late.values()] == [not (times[events] <= 0.5).any(), False, True, True]
    curves = np.ones((50, 2))
    assert math.isnan(integrated_brier(times, nobody, times, events, curves, [12, 24]))
    assert math.isnan(integrated_brier(times, events, times, events, curves, [500, 600]))
    assert math.isnan(integrated_brier(times, events, times, events, curves[:, :1], [12]))


@pytest.mark.parametrize("last_event", [False, True])
def test_training_follow_up_shorter_than_the_test_limits_every_measure(last_event):
    """Whether its last patients are censored, so that the censoring survival falls to 0, or have the event."""
    risks, times, events = simulated(120, seed=5)
    short, happened = np.minimum(times, 48.0), (events & (times <= 48.0)) | (last_event & (times >= 48.0))
    assert 0.5 < uno_concordance(short, happened, times, events, risks) < 1.0
    areas = auc_at(short, happened, times, events, risks, MONTHS)
    assert not math.isnan(areas[24.0])
    assert math.isnan(areas[60.0])
    grid = np.arange(6.0, 130.0, 6.0)
    curves = SurvivalCurve.fit(risks, times, events).survival(risks, grid)
    shorter = grid < 48
    assert integrated_brier(short, happened, times, events, curves, grid) == pytest.approx(
        integrated_brier(short, happened, times, events, curves[:, shorter], grid[shorter])
    )


# D-calibration


def slow_d_calibration(events, survival, bins):
    """Haider et al. (2020), section 3.5, patient by patient and bin by bin."""
    shares = [0.0] * bins
    for happened, own in zip(events, survival, strict=True):
        for k in range(bins):
            low, high = k / bins, (k + 1) / bins
            inside = low <= own < high or (k == bins - 1 and own == 1.0)
            if happened:
                shares[k] += inside
            elif inside:
                shares[k] += (own - low) / own if own > 0 else 1.0
            elif own >= high:
                shares[k] += (high - low) / own
    n = len(survival)
    return sum((share - n / bins) ** 2 / (n / bins) for share in shares), np.array(shares) / n


@pytest.mark.parametrize("bins", [4, 10])
def test_d_calibration_follows_the_paper(bins):
    random = np.random.default_rng(0)
    survival = np.concatenate([random.uniform(size=60), [0.0, 0.0, 1.0, 1.0, 0.5, 0.5]])
    events = np.concatenate([random.uniform(size=60) < 0.5, [True, False] * 3])
    found = d_calibration(np.ones(66), events, survival, bins)
    statistic, shares = slow_d_calibration(events, survival, bins)
    assert found.statistic == pytest.approx(statistic, abs=1e-9)
    assert found.p == pytest.approx(stats.chi2.sf(statistic, bins - 1), abs=1e-12)
    assert found.shares == pytest.approx(shares, abs=1e-12)
    assert found.shares.sum() == pytest.approx(1.0)


def test_d_calibration_tells_a_true_model_from_a_wrong_one():
    def p_value(seed: int, censored: bool, wrong: float) -> float:
        random = np.random.default_rng(seed)
        event_times, censoring = random.exponential(size=300), random.exponential(2.0, 300)
        times = np.minimum(event_times, censoring) if censored else event_times
        return d_calibration(times, times == event_times, np.exp(-wrong * times)).p

    assert stats.kstest([p_value(seed, False, 1.0) for seed in range(400)], "uniform").pvalue > 0.01
    # Spreading the censored takes variance away: the test keeps its level, and more.
    assert np.mean([p_value(seed, True, 1.0) < 0.05 for seed in range(400)]) <= 0.05
    assert np.mean([p_value(seed, True, 1.5) < 0.05 for seed in range(100)]) > 0.9


def test_d_calibration_refuses_what_is_no_probability():
    for survival in ([0.5, 1.1], [0.5, float("nan")], [0.5]):
        with pytest.raises(ValueError, match="survival probability"):
            d_calibration([1.0, 2.0], [1, 0], survival)


# Intervals


def test_the_bootstrap_interval_is_that_of_scipy():
    values = np.random.default_rng(0).exponential(size=80)
    low, high = percentile_interval(resampled(lambda of: values[of].mean(), 80, draws=4000))
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (low, high) == pytest.approx(tuple(expected), abs=0.02)
    assert (low, high) == percentile_interval(resampled(lambda of: values[of].mean(), 80, draws=4000))


def test_the_bootstrap_interval_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(3)
    covered = 0
    for trial in range(200):
        values = random.normal(size=50)
        draws = resampled(lambda of, values=values: values[of].mean(), 50, draws=200, seed=trial)
        low, high = percentile_interval(draws, level=0.9)
        covered += low <= 0.0 <= high
    assert stats.binomtest(covered, 200, 0.88).pvalue > 0.001  # a percentile interval of 50 is a little short


def test_undefined_draws_are_left_out_and_too_many_leave_no_interval():
    draws = np.array([np.nan, *np.linspace(0, 1, 101)])
    assert percentile_interval(draws) == pytest.approx((0.025, 0.975))
    assert np.isnan(percentile_interval(np.array([np.nan, np.nan, 0.5]))).all()
    times, events = np.array([1.0, 2.0, 3.0]), np.array([True, False, False])
    found = resampled(lambda of: concordance(times[of], events[of], -times[of]), 3, draws=200)
    assert 0 < np.isnan(found).sum() < 200


def test_paired_and_corrected_intervals_are_their_formulas():
    differences = np.array([0.03, -0.01, 0.02, 0.05, 0.00])
    mean, low, high = paired_difference(differences)
    expected = stats.ttest_1samp(differences, 0.0).confidence_interval()
    assert (mean, low, high) == pytest.approx((0.018, expected.low, expected.high))
    mean, low, high = corrected_difference(differences, 0.2, 0.8)
    variance = sum((d - 0.018) ** 2 for d in differences) / 4
    half = 2.7764451051977987 * math.sqrt((1 / 5 + 0.2 / 0.8) * variance)  # t of 4 degrees of freedom at 97.5%
    assert (mean, low, high) == pytest.approx((0.018, 0.018 - half, 0.018 + half))
    assert np.isnan(paired_difference([0.1])[1:]).all()
