"""Measures of survival predictions in many bootstrap samples at once.

A sample is a row of counts: how often each of the n patients was drawn. Every measure takes all samples as
``weights`` [draws, n] and gives its values [draws], NaN where the sample leaves it undefined. They equal the functions
of ``metrics`` on the repeated patients, one sample after the other, up to rounding. ``times`` [n] are months of
follow-up, ``events`` [n] whether it ended with the event. The censoring distribution is that of each sample itself.

Pairs of patients are counted by matrix products, ``weights`` with [n, n]: draws · n² multiplications, half of them
if half of the patients had an event. The pairs are formed in blocks, so that memory beyond the weights is that of
six arrays [draws, n] and about 60 MB: 150 MB for 1,000 draws of 2,000 patients.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from survfuse.runtime.arrays import Bools, Floats
from survfuse.survival.metrics import ranks

_TIED_MONTHS = 1e-8  # scikit-survival's tolerance, and so the challenge's
_PAIRS = 4_000_000  # of patients, formed at once


@dataclass(frozen=True)
class Draws:
    """Bootstrap samples of n patients: the same for the same seed, so that measures are compared in the same ones.

    >>> Draws(3, 2).weights.sum(axis=1).tolist()
    [3.0, 3.0]
    """

    n: int
    draws: int = 1000
    seed: int = 0

    @cached_property
    def weights(self) -> Floats:
        """How often each sample holds each patient [draws, n]; a row sums to n."""
        random = np.random.default_rng(self.seed)
        counts = np.empty((self.draws, self.n))
        for row in counts:
            row[:] = np.bincount(random.integers(0, self.n, self.n), minlength=self.n)
        return counts


def concordances(times: ArrayLike, events: ArrayLike, risks: ArrayLike, weights: Floats) -> Floats:
    """Harrell's concordance [draws] of ``risks`` [n], larger is worse: ``metrics.concordance`` in each sample.

    >>> concordances([10, 20, 30], [1, 1, 0], [3.0, 1.0, 2.0], np.array([[1.0, 1.0, 1.0], [0.0, 3.0, 0.0]])).round(3)
    array([0.667,   nan])
    """
    return _harrell(_Sampled(times, events, weights), ranks(risks), 0.0)


def challenge_concordances(times: ArrayLike, events: ArrayLike, months: ArrayLike, weights: Floats) -> Floats:
    """Harrell's concordance [draws] of predicted ``months`` [n]: ``metrics.challenge_concordance`` in each sample."""
    return _harrell(_Sampled(times, events, weights), -np.asarray(months, dtype=np.float64), _TIED_MONTHS)


def uno_concordances(times: ArrayLike, events: ArrayLike, risks: ArrayLike, weights: Floats) -> Floats:
    """Uno's concordance [draws] of ``risks`` [n]: ``metrics.uno_concordance`` in each sample.

    A sample's events count up to its last follow-up, weighted by the inverse square of its censoring survival.
    """
    sample = _Sampled(times, events, weights)
    early = sample.times[sample.happened] < sample.end[:, np.newaxis]  # [draws, E]
    counted = sample.event_weights * sample.inverse_censoring**2 * early
    return _share(counted, sample.won(ranks(risks), 0.0), sample.comparable())


def aucs(times: ArrayLike, events: ArrayLike, risks: ArrayLike, weights: Floats, months: Sequence[float]) -> Floats:
    """Area under the cumulative/dynamic ROC curve [draws, T] of ``risks`` [n] at each of ``months`` [T].

    ``metrics.auc_at`` in each sample: pairs of a patient with the event by that month and one still free of it.
    """
    sample, places = _Sampled(times, events, weights), ranks(risks)
    cases_weights = sample.event_weights * sample.inverse_censoring  # [draws, E]
    own_times, own_places = sample.times[sample.happened], places[sample.happened]
    areas = np.full((len(weights), len(months)), np.nan)
    for column, month in enumerate(months):
        cases, controls = own_times <= month, sample.times > month
        if cases.any() and controls.any():
            free = weights[:, controls]
            won = _won(own_places[cases], places[controls], 0.0, free, _all)
            areas[:, column] = _share(cases_weights[:, cases], won, free.sum(axis=1, keepdims=True))
    return areas


def briers(times: ArrayLike, events: ArrayLike, survival: ArrayLike, at: ArrayLike, weights: Floats) -> Floats:
    """Brier score [draws, T] of ``survival`` [n, T] at the increasing months ``at`` [T].

    ``brier_curve`` in each sample: NaN outside the follow-up of the patients drawn, and without events before its end.

    >>> briers([10, 20, 30], [1, 1, 0], [[0.5], [0.5], [0.5]], [15], np.array([[1.0, 1.0, 1.0]]))
    array([[0.25]])
    """
    sample = _Sampled(times, events, weights)
    scores, inside = _brier_scores(sample, survival, at)
    return np.where(inside & (sample.first_event < sample.end)[:, np.newaxis], scores, np.nan)


def integrated_briers(
    times: ArrayLike, events: ArrayLike, survival: ArrayLike, at: ArrayLike, weights: Floats
) -> Floats:
    """Integrated Brier score [draws] of ``survival`` [n, T] at the increasing months ``at`` [T].

    ``metrics.integrated_brier`` in each sample: over the months within the follow-up of the patients drawn.
    """
    sample, at = _Sampled(times, events, weights), np.asarray(at, dtype=np.float64)
    scores, inside = _brier_scores(sample, survival, at)
    both = inside[:, :-1] & inside[:, 1:]  # an integral runs between two months inside
    steps = np.where(both, np.diff(at), 0.0)
    area = np.where(both, (scores[:, :-1] + scores[:, 1:]) / 2.0, 0.0) * steps
    last = np.where(inside, at, -np.inf).max(axis=1, initial=-np.inf)
    defined = both.any(axis=1) & (sample.first_event <= last)
    return _ratio(area.sum(axis=1), np.where(defined, steps.sum(axis=1), 0.0))


class _Sampled:
    """Outcomes of n patients with what all samples share; E patients had the event."""

    def __init__(self, times: ArrayLike, events: ArrayLike, weights: Floats) -> None:
        self.times, self.happened = np.asarray(times, dtype=np.float64), np.asarray(events, dtype=bool)
        self.weights = weights
        self.event_weights = weights[:, self.happened]  # [draws, E]
        drawn = weights > 0.0
        self.start = np.where(drawn, self.times, np.inf).min(axis=1, initial=np.inf)  # [draws] shortest follow-up
        self.end = np.where(drawn, self.times, -np.inf).max(axis=1, initial=-np.inf)  # [draws] longest
        own = np.where(drawn[:, self.happened], self.times[self.happened], np.inf)
        self.first_event = own.min(axis=1, initial=np.inf)  # [draws]; infinite in a sample without events
        self._distinct, self._place = np.unique(self.times, return_inverse=True)

    @cached_property
    def inverse_censoring(self) -> Floats:
        """1 / G at the event times [draws, E], G being the sample's censoring survival; 0 where G is."""
        return _inverse(self._censoring[:, self._place[self.happened]])

    def censoring_at(self, at: Floats) -> Floats:
        """Censoring survival [draws, T] by the months ``at`` [T]."""
        step = np.searchsorted(self._distinct, at, side="right")
        return np.concatenate([np.ones((len(self.weights), 1)), self._censoring], axis=1)[:, step]

    @cached_property
    def _censoring(self) -> Floats:
        """Kaplan–Meier of the censoring [draws, K] at the distinct times: at a tie, events come before censoring."""
        leaving, events = self._by_time(np.ones_like(self.happened)), self._by_time(self.happened)
        at_risk = _from_the_end(leaving) - events
        censored = leaving - events
        hazard = np.divide(censored, at_risk, out=np.zeros_like(censored), where=censored > 0.0)
        return np.cumprod(1.0 - hazard, axis=1, dtype=np.float64)

    def _by_time(self, which: Bools) -> Floats:
        """Patients of ``which`` [n] in each sample at each distinct time [draws, K]."""
        order = np.argsort(self._place, kind="stable")
        starts = np.searchsorted(self._place[order], np.arange(len(self._distinct)))
        return np.add.reduceat((self.weights * which)[:, order], starts, axis=1)

    def comparable(self) -> Floats:
        """How many of its sample each patient with an event can be ordered with [draws, E].

        Those with longer follow-up, and those censored at the same time.
        """
        leaving, censored = self._by_time(np.ones_like(self.happened)), self._by_time(~self.happened)
        later = _from_the_end(leaving) - leaving
        return (later + censored)[:, self._place[self.happened]]

    def won(self, risks: Floats, tolerance: float) -> Floats:
        """How many of those have a lower one of ``risks`` [n], ties counting half [draws, E]."""
        own = self.times[self.happened]

        def comparable(rows: slice) -> Bools:
            mine = own[rows, np.newaxis]
            later: Bools = (self.times > mine) | ((self.times == mine) & ~self.happened)
            return later

        return _won(risks[self.happened], risks, tolerance, self.weights, comparable)


def _brier_scores(sample: _Sampled, survival: ArrayLike, at: ArrayLike) -> tuple[Floats, Bools]:
    """(Brier score [draws, T] at the months ``at`` [T], whether they lie within each sample's follow-up [draws, T])."""
    at, survival = np.asarray(at, dtype=np.float64), np.asarray(survival, dtype=np.float64)
    happened = sample.times[:, np.newaxis] <= at  # [n, T]
    cases = np.square(survival[sample.happened]) * happened[sample.happened]
    controls = np.square(1.0 - survival) * ~happened
    scores = (sample.event_weights * sample.inverse_censoring) @ cases
    scores += sample.weights @ controls * _inverse(sample.censoring_at(at))
    scores /= sample.weights.sum(axis=1, keepdims=True)
    inside = (at >= sample.start[:, np.newaxis]) & (at < sample.end[:, np.newaxis])
    return scores, inside


def _harrell(sample: _Sampled, risks: Floats, tolerance: float) -> Floats:
    return _share(sample.event_weights, sample.won(risks, tolerance), sample.comparable())


def _won(
    own: Floats, others: Floats, tolerance: float, weights: Floats, comparable: Callable[[slice], Bools]
) -> Floats:
    """For each patient with an event, how many of a sample have a lower risk, ties counting half [draws, E].

    ``own`` [E] and ``others`` [m] are risks, ``weights`` [draws, m] says how often the samples hold the others, and
    ``comparable`` which of them some rows of E are compared with. Risks within ``tolerance`` are tied.
    """
    counts = weights.astype(np.float32)  # exact, as are sums of twice as many patients up to 2^24
    won = np.empty((len(weights), len(own)))
    block = max(1, _PAIRS // max(len(others), len(weights), 1))
    for start in range(0, len(own), block):
        rows = slice(start, start + block)
        higher = own[rows, np.newaxis] - others
        doubled = np.where(np.abs(higher) <= tolerance, 1, 2 * (higher > 0.0)) * comparable(rows)
        won[:, rows] = counts @ doubled.astype(np.float32).T
    return won / 2.0


def _all(rows: slice) -> Bools:
    """Every pair is comparable."""
    return np.ones(1, dtype=bool)


def _share(counted: Floats, won: Floats, of: Floats) -> Floats:
    """Pairs won among all [draws]: sums over the patients with an event, each weighted by ``counted`` [draws, E]."""
    return _ratio((counted * won).sum(axis=1), (counted * of).sum(axis=1))


def _from_the_end(values: Floats) -> Floats:
    """Sums [draws, K] of ``values`` from each place to the last."""
    return np.cumsum(values[:, ::-1], axis=1)[:, ::-1]


def _inverse(values: Floats) -> Floats:
    """1 / ``values``, and 0 where they are."""
    return np.divide(1.0, values, out=np.zeros_like(values), where=values > 0.0)


def _ratio(part: Floats, whole: Floats) -> Floats:
    """``part`` / ``whole``, NaN where nothing is left to divide by."""
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0.0)
