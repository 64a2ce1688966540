"""Measures of all bootstrap samples at once, against scikit-survival's on the patients repeated, sample by sample."""

import numpy as np
import pytest
from sksurv.metrics import (
    brier_score,
    concordance_index_censored,
    concordance_index_ipcw,
    cumulative_dynamic_auc,
    integrated_brier_score,
)
from sksurv.util import Surv

from survfuse.survival import metrics
from survfuse.survival.bootstrap import (
    Draws,
    aucs,
    briers,
    challenge_concordances,
    concordances,
    integrated_briers,
    uno_concordances,
)

DRAWS = 40
GRID = np.array([2.0, 5.0, 9.0, 12.0, 18.5, 24.0, 31.0, 40.0, 60.0])
MONTHS = (5.0, 12.0, 24.0, 60.0)


def cohort(n, seed, censoring, step):
    """(times, events, risks, survival at GRID) of n patients: times in whole steps of months, risks in halves."""
    random = np.random.default_rng(seed)
    risks = np.round(random.normal(size=n) * 2) / 2
    own, censored = random.exponential(30 * np.exp(-risks)), random.exponential(censoring, n)
    times = np.ceil(np.minimum(own, censored) / step) * step
    return times, own <= censored, risks, np.exp(-np.exp(risks)[:, np.newaxis] * GRID / 30)


def one_by_one(weights, measure):
    return np.array([measure(np.repeat(np.arange(len(row)), row.astype(int))) for row in weights])


def same(found, expected):
    """Whether both are defined in the same samples and agree there."""
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)


# Ties, none, heavy censoring, nobody censored, and cohorts so small that samples without events or pairs are common.
COHORTS = [
    (60, 0, 40.0, 1.0), (60, 1, 40.0, 6.0), (70, 2, 5.0, 1.0), (50, 3, 1e9, 3.0), (40, 4, 20.0, 1e-6),
    (6, 5, 20.0, 4.0), (4, 6, 8.0, 10.0), (2, 7, 20.0, 1.0), (5, 8, 2.0, 1.0),
]  # fmt: skip


@pytest.fixture(params=COHORTS, ids=lambda of: f"{of[0]} patients, seed {of[1]}")
def sampled(request):
    outcomes = cohort(*request.param)
    return *outcomes, Draws(len(outcomes[0]), DRAWS, request.param[1]).weights


def test_draws_are_those_of_row_numbers():
    rows = metrics.resampled(lambda of: of, 30, draws=9, seed=4).astype(int)
    weights = Draws(30, 9, seed=4).weights
    assert (weights == [np.bincount(of, minlength=30) for of in rows]).all()
    assert (weights.sum(axis=1) == 30).all()


def test_harrells_concordance(sampled):
    times, events, risks, _, weights = sampled

    def expected(rows):
        # scikit-survival refuses a sample without comparable pairs by errors of several kinds.
        mine, happened = times[rows], events[rows]
        pairs = (mine[:, None] < mine) | ((mine[:, None] == mine) & ~happened)
        if not (happened[:, None] & pairs).any():
            return np.nan
        return concordance_index_censored(happened, mine, risks[rows])[0]

    same(concordances(times, events, risks, weights), one_by_one(weights, expected))


def test_concordance_is_of_the_order_of_risks_alone(sampled):
    times, events, risks, _, weights = sampled
    same(concordances(times, events, risks * 1e-12, weights), concordances(times, events, risks, weights))


def test_concordance_of_months_with_the_challenges_tolerance(sampled):
    times, events, risks, _, weights = sampled
    months = 60.0 - risks * 4e-9  # neighbours are tied at this distance, and no others: ties are not transitive
    direct = one_by_one(weights, lambda of: metrics.challenge_concordance(times[of], events[of], months[of]))
    same(challenge_concordances(times, events, months, weights), direct)


def test_unos_concordance(sampled):
    times, events, risks, _, weights = sampled

    def expected(rows):
        outcomes, last = Surv.from_arrays(events[rows], times[rows]), times[rows].max()
        if not (events[rows] & (times[rows] < last)).any():
            return np.nan
        return concordance_index_ipcw(outcomes, outcomes, risks[rows], tau=last)[0]

    same(uno_concordances(times, events, risks, weights), one_by_one(weights, expected))


def test_areas_under_the_curve(sampled):
    times, events, risks, _, weights = sampled

    def expected(rows, month):
        mine, cases = times[rows], events[rows] & (times[rows] <= month)
        if not cases.any() or not (mine > month).any():
            return np.nan
        train, test = Surv.from_arrays(events[rows], mine), Surv.from_arrays(cases, mine)
        return cumulative_dynamic_auc(train, test, risks[rows], [month])[0][0]

    found = aucs(times, events, risks, weights, MONTHS)
    assert found.shape == (DRAWS, len(MONTHS))
    for column, month in zip(found.T, MONTHS, strict=True):
        same(column, one_by_one(weights, lambda rows, month=month: expected(rows, month)))


def test_integrated_brier_scores(sampled):
    times, events, _, survival, weights = sampled

    def expected(rows):
        mine, happened = times[rows], events[rows]
        inside = (mine.min() <= GRID) & (mine.max() > GRID)
        if inside.sum() < 2 or not (happened & (mine <= GRID[inside][-1])).any():
            return np.nan
        # An event at the last time of all, where the censoring survival may be 0, lies beyond every month.
        outcomes, test = Surv.from_arrays(happened, mine), Surv.from_arrays(happened & (mine < mine.max()), mine)
        return integrated_brier_score(outcomes, test, survival[rows][:, inside], GRID[inside])

    same(integrated_briers(times, events, survival, GRID, weights), one_by_one(weights, expected))


def test_the_brier_score_by_month(sampled):
    times, events, _, survival, weights = sampled

    def expected(rows):
        mine, early = times[rows], events[rows] & (times[rows] < times[rows].max())
        inside = (mine.min() <= GRID) & (mine.max() > GRID)
        scores = np.full(len(GRID), np.nan)
        if inside.any() and early.any():
            # The last event needs no weight, as no month is later; nor has scikit-survival one for it.
            outcomes, test = Surv.from_arrays(events[rows], mine), Surv.from_arrays(early, mine)
            scores[inside] = brier_score(outcomes, test, survival[rows][:, inside], GRID[inside])[1]
        return scores

    same(briers(times, events, survival, GRID, weights), one_by_one(weights, expected))


def test_some_samples_are_undefined_and_some_are_not():
    """So that the comparisons above are of both."""
    undefined, defined = 0, 0
    for of in COHORTS:
        times, events, risks, survival = cohort(*of)
        weights = Draws(of[0], DRAWS, of[1]).weights
        for values in (
            concordances(times, events, risks, weights), uno_concordances(times, events, risks, weights),
            *aucs(times, events, risks, weights, MONTHS).T, integrated_briers(times, events, survival, GRID, weights),
        ):  # fmt: skip
            undefined, defined = undefined + np.isnan(values).sum(), defined + np.isfinite(values).sum()
    assert undefined > 300 and defined > 1000


def test_pairs_in_blocks_are_the_same_pairs(monkeypatch):
    times, events, risks, _ = cohort(60, 0, 40.0, 1.0)
    weights = Draws(60, DRAWS).weights
    whole = concordances(times, events, risks, weights)
    monkeypatch.setattr("survfuse.survival.bootstrap._PAIRS", 300)
    assert (concordances(times, events, risks, weights) == whole).all()
