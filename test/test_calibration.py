"""Months from risks: the reference to the letter, and what the continuous table promises."""

import csv
import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sksurv.metrics import concordance_index_censored
from sksurv.nonparametric import kaplan_meier_estimator

from survfuse.runtime.errors import BundleError, InputError
from survfuse.survival.calibration import CONTINUOUS, RANK, Calibration

risk_values = st.floats(-1e6, 1e6, allow_nan=False)
outcomes = st.lists(st.tuples(st.integers(0, 120), st.booleans()), min_size=1, max_size=40).filter(
    lambda pairs: any(time > 0 for time, _ in pairs)
)


def table(pairs: list[tuple[float, bool]], risks: list[float], mode: str = CONTINUOUS) -> Calibration:
    times, events = zip(*pairs, strict=True)
    return Calibration.fit(times, events, risks, mode)


def naive_rank_months(risk: float, reference: list[float], times, survival) -> float:
    """The reference's procedure as its paper writes it, one step after another."""
    everyone = [*reference, risk]
    rank = sum(other >= risk for other in everyone)
    p = 1 - (rank - 1) / len(everyone)
    distances = [abs(value - p) for value in survival]
    return max(0.0, times[distances.index(min(distances))])


@pytest.fixture(scope="module")
def published(reference):
    """(calibration as JSON, outcomes and risks of the reference's 148 training patients)."""
    stored = json.loads((reference / "reference-calibration.json").read_text())
    with (reference / "outcomes.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["reference_risk"]]
    times = np.array([float(row["time_months"]) for row in rows])
    events = np.array([row["event"] == "1" for row in rows])
    return stored, times, events, np.array([float(row["reference_risk"]) for row in rows])


def concordance(times, events, prediction) -> float:
    return concordance_index_censored(events, times, -prediction)[0]


def test_rank_mode_shows_the_faults_measured_of_the_reference(published):
    """59% of its training patients at 138 months; C 0.882 of the risks, 0.846 of the months (method.md)."""
    stored, times, events, risks = published
    rank = Calibration(RANK, np.array(stored["km_times"]), np.array(stored["km_probs"]), np.sort(stored["train_risks"]))
    months = rank.months(risks).months
    assert np.mean(months == 138.0) == pytest.approx(0.59, abs=0.005)
    assert concordance(times, events, -risks) == pytest.approx(0.882, abs=0.0005)
    assert concordance(times, events, months) == pytest.approx(0.846, abs=0.0005)


def test_continuous_mode_costs_no_concordance(published):
    _, times, events, risks = published
    months = Calibration.fit(times, events, risks).months(risks).months
    assert concordance(times, events, months) == concordance(times, events, -risks)
    assert len(np.unique(months)) == len(risks)


def test_the_curve_is_that_of_the_reference_and_of_scikit_survival(published):
    stored, times, events, risks = published
    fitted = Calibration.fit(times, events, risks)
    assert fitted.times.tolist() == stored["km_times"]
    assert fitted.survival == pytest.approx(stored["km_probs"], abs=1e-12)
    at, survival = kaplan_meier_estimator(events, times)
    assert fitted.times[1:].tolist() == at.tolist()
    assert fitted.survival[1:] == pytest.approx(survival, abs=1e-12)


@settings(deadline=None)
@given(outcomes, st.lists(st.integers(-5, 5), min_size=1, max_size=30), st.integers(-6, 6))
def test_rank_mode_follows_the_paper_step_by_step(pairs, reference, risk):
    calibration = table(pairs, reference, RANK)
    expected = naive_rank_months(risk, reference, calibration.times.tolist(), calibration.survival.tolist())
    assert float(calibration.months(risk).months) == expected


@settings(max_examples=400, deadline=None)
@given(outcomes, st.lists(risk_values, min_size=1, max_size=30), risk_values)
def test_months_fall_strictly_with_risk(pairs, reference, risk):
    """For gaps of 1e-6 · max(1, |risk|) up to |risk| = 1e6, whatever cohort the table comes from."""
    higher = risk + 1e-6 * max(1.0, abs(risk))
    assume(abs(higher) <= 1e6 and higher > risk)
    later, sooner = table(pairs, reference).months([risk, higher]).months
    assert later > sooner


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.0, 300.0), st.booleans()), min_size=1, max_size=40).filter(
        lambda pairs: any(time > 1e-3 for time, _ in pairs)
    ),
    st.lists(risk_values, min_size=1, max_size=30),
    risk_values,
)
def test_months_fall_strictly_whatever_the_unit_of_time(pairs, reference, risk):
    higher = risk + 1e-6 * max(1.0, abs(risk))
    assume(abs(higher) <= 1e6 and higher > risk)
    later, sooner = table(pairs, reference).months([risk, higher]).months
    assert later > sooner


@pytest.mark.parametrize("gap", [1.1e-5 * 170, 1 / 30.44, 1.0])
@pytest.mark.parametrize("number", [176, 2000])
def test_months_fall_strictly_where_the_curve_is_steepest(gap, number):
    """All but one event at the same time, right after the one before, and reference risks all but equal."""
    times = np.full(number, 170.0)
    times[0] -= gap
    reference = 1e-9 * np.random.default_rng(0).standard_normal(number)
    calibration = Calibration.fit(times, np.ones(number, dtype=bool), reference)
    risks = np.concatenate([-np.geomspace(1e6, 1e-6, 700), [0.0], np.geomspace(1e-6, 1e6, 700)])
    higher = risks + 1e-6 * np.maximum(1.0, np.abs(risks))
    assert (calibration.months(risks).months > calibration.months(higher).months).all()


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.0, 300.0), st.booleans()), min_size=1, max_size=30).filter(
        lambda pairs: any(time > 0.1 for time, _ in pairs)
    ),
    st.lists(st.floats(-3, 3), min_size=1, max_size=30),
    st.floats(-4, 4),
    st.integers(0, 1000),
)
def test_months_never_rise_by_a_single_bit(pairs, reference, risk, steps):
    neighbours = risk + np.arange(steps, steps + 50) * np.spacing(risk)
    months = table(pairs, reference).months(np.sort(neighbours)).months
    assert (np.diff(months) <= 0.0).all()


@settings(deadline=None)
@given(outcomes, st.lists(st.floats(-3, 3), min_size=1, max_size=30), risk_values)
def test_months_lie_where_people_were_followed(pairs, reference, risk):
    calibration = table(pairs, reference)
    found = calibration.months(risk)
    last = max((time for time, event in pairs if event), default=0)
    followed = max(time for time, _ in pairs)
    assert 0.0 <= float(found.months) <= followed
    if found.beyond and last < followed:
        assert float(found.months) > last
    elif not found.beyond:
        # An event at entry is set just after it, at a thousandth of the follow-up.
        assert float(found.months) <= max(last, followed / 1000)


def test_tails_reach_on_without_underflow():
    calibration = table([(time, True) for time in range(10, 60)], list(np.linspace(-1, 1, 50)))
    far = np.array([-1e6, -1e3, -2.0, 2.0, 1e3, 1e6])
    months = calibration.months(far).months
    assert (np.diff(months) < 0.0).all()
    assert 0.0 < months[-1] < months[3] <= 10.0
    # Half a rank out of fifty lies beyond the largest reference risk; the curve puts it below 0.5 / 50 · 10 / 0.02.
    assert months[3] < 0.5 / 50 * 10 / 0.02 + 1e-9


def test_the_quantile_is_inverted_by_hand():
    """Ten events at 10, 20 … 100 months, risks 0 … 9: the risk in the middle has half the cohort below it."""
    calibration = table([(10 * place, True) for place in range(1, 11)], list(range(10)))
    assert float(calibration.months(4.5).months) == pytest.approx(50.0, abs=0.3)
    assert float(calibration.months(8.5).months) == pytest.approx(10.0, abs=0.3)
    assert float(calibration.months(0.5).months) == pytest.approx(90.0, abs=0.3)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 120), st.booleans()), min_size=2, max_size=60), st.integers(0, 2**31))
def test_a_cohort_calibrated_on_itself_keeps_its_curve(pairs, seed):
    """Sup distance of the months' distribution from the curve, up to the last event: 1/n + the largest jump."""
    times, events = (np.array(part) for part in zip(*pairs, strict=True))
    assume(events.any())
    risks = np.random.default_rng(seed).standard_normal(len(pairs))
    calibration = Calibration.fit(times, events, risks)
    months = calibration.months(risks).months
    at, survival = kaplan_meier_estimator(events, times)
    steps = np.concatenate([[1.0], survival])
    last = times[events].max()
    # Where the last event is also the end of follow-up the curve's remainder has no time left to be spread over.
    points = np.unique(np.concatenate([at, months, np.linspace(0.0, last, 200)]))
    points = points[points <= last] if last < times.max() or survival[-1] == 0.0 else points[points < last * 0.99]
    distribution = (months[:, None] <= points).mean(axis=0)
    curve = 1.0 - steps[np.searchsorted(at, points, side="right")]
    assert np.abs(distribution - curve).max() <= 1.0 / len(pairs) + -np.diff(steps).min() + 1e-9


@pytest.mark.parametrize(
    "pairs",
    [
        [(50, True)],
        [(50, False)],
        [(10, False), (20, False), (90, False)],  # no event
        [(10, True), (20, True), (30, True)],  # the curve reaches 0
        [(10, True), (10, True), (10, False), (10, True)],  # one time for all
        [(0, True), (0, True), (40, False)],  # events at entry
        [(40, True), (40, False)],  # nobody followed beyond the last event
    ],
)
def test_odd_curves_are_defined(pairs):
    calibration = table(pairs, [0.3])
    months = calibration.months([-5.0, 0.3, 5.0]).months
    assert np.isfinite(months).all() and (np.diff(months) < 0.0).all()
    assert months.min() >= 0.0 and months.max() <= max(time for time, _ in pairs)


def test_beyond_the_last_event_is_said():
    calibration = table([(10, True), (20, True), (60, False), (80, False)], [0.0, 1.0, 2.0, 3.0])
    found = calibration.months([0.2, 2.8])
    assert found.beyond.tolist() == [True, False]
    assert 20.0 < found.months[0] <= 80.0


def test_unusable_outcomes_and_tables_are_refused():
    for times, events in (([], []), ([0, 0], [1, 0]), ([-1, 5], [1, 1]), ([np.nan, 5], [1, 1])):
        with pytest.raises(InputError, match="follow-up times"):
            Calibration.fit(times, events, [0.0])
    good = table([(10, True), (20, False)], [0.0, 1.0]).to_json()
    assert Calibration.from_json(good).to_json() == good
    damages = [{"mode": "magic"}, {"times": [0, 10]}, {"times": [0, 20, 10]}, {"survival": [1, 0.5, 0.7]}]
    damages += [{"survival": [1, None, 0.5]}, {"reference_risks": []}, {"reference_risks": [1.0, 0.0]}]
    damages += [{"survival": [2.0, 1.0, 0.5]}, {"reference_risks": [[0.0]]}, {"times": "abc"}]
    for damage in damages:
        with pytest.raises(BundleError, match=r"calibration\.json"):
            Calibration.from_json(good | damage)
