"""``survfuse evaluate``: tables are read strictly, every figure is a library's, and what was found is said in words."""

import csv
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.statistics import logrank_test
from sksurv.metrics import brier_score, concordance_index_censored, integrated_brier_score
from sksurv.util import Surv

from survfuse import api
from survfuse.cli.main import main as survfuse
from survfuse.cohort.outcomes import Outcome, read_outcomes
from survfuse.cohort.problems import Problems
from survfuse.cohort.table_paths import CohortTables
from survfuse.evaluation.evaluate import Evaluation, evaluate
from survfuse.evaluation.finding import ranking_sentence
from survfuse.evaluation.inputs import Files
from survfuse.evaluation.printed import print_evaluation
from survfuse.prediction.table import predict
from survfuse.runtime.errors import InputError
from survfuse.survival.metrics import auc_at, concordance, d_calibration, percentile_interval, resampled
from survfuse.tasks.registry import DEFAULT

N = 40


def simulated(n: int, seed: int = 0):
    """(risks, times, events) with exponential event times of rate e^risk / 60 and uniform censoring, in months."""
    random = np.random.default_rng(seed)
    risks = random.normal(size=n)
    event_times, censoring = random.exponential(60.0 * np.exp(-risks)), random.uniform(12.0, 150.0, n)
    return risks, np.ceil(np.minimum(event_times, censoring)), event_times < censoring


def figures(tables, draws: int = 10, task=DEFAULT, **options) -> Evaluation:
    """The figures of (predictions, outcomes)."""
    exclude = options.pop("exclude_training", False)
    return evaluate(Files(*tables, **options), draws, task=task, exclude_training=exclude).figures


@pytest.fixture
def files(tmp_path):
    """(predictions, outcomes) of 40 cases, the outcomes in another order, with columns nobody asked for."""
    risks, times, events = simulated(40, seed=8)
    ids = [f"3A_{number:03}" for number in range(40)]
    with (tmp_path / "predictions.csv").open("w", newline="") as file:
        rows = zip(ids, risks.tolist(), (100 - 9 * risks).round(1).tolist(), times, strict=True)
        csv.writer(file).writerows([("case_id", "risk", "months", "time"), *rows])
    with (tmp_path / "outcomes.csv").open("w", newline="") as file:
        rows = [
            (f" {case} ", f"{case}_HE", time, int(event)) for case, time, event in zip(ids, times, events, strict=True)
        ]
        csv.writer(file).writerows([("case_id", "slide_id", "Time", "Progression"), *rows[::-1]])
    return tmp_path / "predictions.csv", tmp_path / "outcomes.csv"


def test_an_evaluation_gives_the_challenges_figure_first(files, capsys):
    risks, times, events = simulated(40, seed=8)
    found = figures(files, draws=20)
    assert next(iter(found)) == "challenge_concordance"
    months = (100 - 9 * risks).round(1)
    assert found["challenge_concordance"]["value"] == concordance(times, events, -months)
    assert found["harrell_concordance"]["value"] == concordance(times, events, risks)
    assert list(found["auc"]) == ["12", "24", "60"]
    assert found["auc"]["24"]["value"] == auc_at(times, events, times, events, risks, [24.0])[24.0]
    draws = resampled(lambda of: concordance(times[of], events[of], risks[of]), 40, draws=20)
    low, high = percentile_interval(draws)
    assert (found["harrell_concordance"]["low"], found["harrell_concordance"]["high"]) == (low, high)
    assert (found["patients"], found["events"]) == (40, int(events.sum()))
    json.dumps(found, allow_nan=False)
    print_evaluation(found)
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == found["finding"][0] and first.startswith(
        "The ranking is told from chance: Harrell's C of the risks is "
    )
    assert second.startswith("challenge's concordance (months)")


def test_an_evaluation_is_at_the_tasks_horizons_and_by_its_columns(files):
    """Of a task with other horizons and another name of the event: the columns of the first are not the second's."""
    relapse = replace(DEFAULT.outcome, event_columns=("relapse",))
    task = replace(DEFAULT, horizons=(36.0,), outcome=relapse)
    with pytest.raises(InputError, match="the column relapse is missing"):
        figures(files, draws=2, task=task)
    files[1].write_text(files[1].read_text().replace("Progression", "Relapse"))
    risks, times, events = simulated(40, seed=8)
    area = auc_at(times, events, times, events, risks, [36.0])[36.0]
    assert {month: figure["value"] for month, figure in figures(files, draws=2, task=task)["auc"].items()} == {
        "36": area
    }


@pytest.mark.parametrize(
    "heading", ["case_id,TIME_MONTHS,Event", "Case_ID,Time_to_prog_or_FUend,progression", "case_id,time,event"]
)
def test_outcomes_go_by_every_spelling_of_the_challenge(tmp_path, heading):
    path = tmp_path / "outcomes.csv"
    path.write_text(f"\ufeff{heading}\n001,12,1\n002,7.5,0\n", encoding="utf-8")
    problems = Problems()
    found = read_outcomes(path, DEFAULT.outcome, problems).outcomes
    assert found == {"001": Outcome(True, 12.0), "002": Outcome(False, 7.5)} and not problems.listed


def test_every_problem_of_both_files_is_named_at_once(tmp_path):
    predictions, outcomes = tmp_path / "predictions.csv", tmp_path / "outcomes.csv"
    predictions.write_text("case_id,risk,months\na,1,10\na,1,10\nb,1,-3\nc,1,inf\nd,,5\nonly_predicted,0,1\n")
    outcomes.write_text("case_id,time,event\na,1,2\nb,-1,0\nc,3,1\nd,4,\nonly_observed,5,1\n,6,1\n")
    with pytest.raises(InputError) as caught:
        figures((predictions, outcomes))
    for part in (
        "a: predictions.csv, line 3: a second row for this case",
        "b: predictions.csv, line 4: months: expected a finite number of at least 0",
        "c: predictions.csv, line 5: months: expected a finite number of at least 0",
        "d: predictions.csv, line 6: risk: expected a finite number",
        "only_observed: predictions.csv: no prediction",
        "a: outcomes.csv, line 2: event: expected 0 or 1",
        "b: outcomes.csv, line 3: time: expected months of at least 0",
        "d: outcomes.csv, line 5: event: expected 0 or 1",
        "outcomes.csv, line 7: no case_id",
        "only_predicted: outcomes.csv: no outcome",
        "evaluation: 10 problems, 6 patients cannot be used",
    ):
        assert part in str(caught.value)
    assert "\n" not in caught.value.line()


def test_a_problem_of_many_cases_is_said_once(files):
    """The cases that lack a prediction come as one entry, with their number and three names."""
    predictions, outcomes = files
    predictions.write_text("case_id,risk,months\n3A_000,1,10\n")
    with pytest.raises(InputError) as caught:
        figures((predictions, outcomes))
    assert str(caught.value) == (
        "evaluation: 39 problems, 39 patients cannot be used: "
        "39 patients (3A_001, 3A_002, 3A_003 and 36 more): predictions.csv: no prediction"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "case_id is missing; the column risk is missing; the column months is missing .found no columns"),
        ("case_id,risk,months\n\n", "expected a row for each case, found none"),
        ("case_id,risk\na,1\n", "the column months is missing .found case_id, risk"),
        ("case_id,risk,months\na,1\n", "predictions.csv, line 2: expected 3 cells, found 2"),
        ("case_id,risk,risk,months\na,1,1,1\n", "more than once"),
        ('case_id,risk,months\n"a,1,2\n', "predictions.csv: cannot be read as CSV"),
        (None, "predictions.csv: cannot be read .No such file"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(files, text, said):
    predictions, outcomes = files
    predictions.unlink() if text is None else predictions.write_text(text)
    with pytest.raises(InputError, match=said):
        figures((predictions, outcomes))


def test_a_table_that_cannot_be_read_makes_no_case_unmatched(files):
    """Both tables are named; that neither matches the other is not said."""
    for path in files:
        path.write_text("what,is,this\n1,2,3\n")
    with pytest.raises(InputError, match="2 problems: ") as caught:
        figures(files)
    assert "predictions.csv: the column case_id" in str(caught.value)
    assert "outcomes.csv: the column case_id" in str(caught.value)


# Figures


IDS = [f"3A_{number:03}" for number in range(N)]
YEARS = (12, 24, 36, 48, 60)


def write(path: Path, heading, rows) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([heading, *rows])
    return path


def survival_of(risks):
    """Survival [n, T] of patients with these log relative hazards, as the simulation has it."""
    return np.exp(-np.exp(risks)[:, np.newaxis] * np.array(YEARS) / 60.0)


@pytest.fixture
def curves(tmp_path):
    risks, _, _ = simulated(N, seed=8)
    rows = [(name, "slide", *row) for name, row in zip(IDS, survival_of(risks).tolist(), strict=True)]
    return write(tmp_path / "survival.csv", ("case_id", "note", *YEARS), rows)


def rewritten(path: Path, **columns) -> None:
    """Add columns to the predictions."""
    table = pd.read_csv(path, dtype=str)
    for name, values in columns.items():
        table[name] = values
    table.to_csv(path, index=False)


def test_hazard_ratios_slope_and_log_rank_are_lifelines(files):
    risks, times, events = simulated(N, seed=8)
    found = figures(files)["performance"]
    for key, covariate in (
        ("calibration_slope", risks),
        ("hazard_ratio_per_sd", risks / risks.std()),
        ("groups", (risks > np.median(risks)).astype(float)),
    ):
        table = pd.DataFrame({"x": covariate, "time": times, "event": events})
        expected = CoxPHFitter().fit(table, "time", "event").summary.loc["x"]
        own = found["risk_groups"]["hazard_ratio"] if key == "groups" else found[key]
        form = "coef{}" if key == "calibration_slope" else "exp(coef){}"
        wanted = [expected[form.format(end)] for end in ("", " lower 95%", " upper 95%")]
        assert [own["value"], own["low"], own["high"]] == pytest.approx(wanted, rel=1e-4)
    high = risks > np.median(risks)
    test = logrank_test(times[high], times[~high], events[high], events[~high])
    assert found["risk_groups"]["log_rank_p"] == pytest.approx(test.p_value, rel=1e-9)
    assert found["risk_groups"]["high"] == {"patients": int(high.sum()), "events": int(events[high].sum())}
    assert not found["risk_groups"]["reversed"] and found["survival"] is None


def test_the_area_over_time_is_that_of_each_month_with_intervals_of_the_same_draws(files):
    risks, times, events = simulated(N, seed=8)
    band = figures(files, draws=20)["performance"]["auc_over_time"]
    assert 10 < len(band["months"]) <= 24 and band["months"] == sorted(band["months"])
    for at in (0, 11, len(band["months"]) - 1):
        month = band["months"][at]
        assert band["value"][at] == auc_at(times, events, times, events, risks, [month])[month]

        def area(of, month=month):
            return auc_at(times[of], events[of], times[of], events[of], risks[of], [month])[month]

        limits = percentile_interval(resampled(area, N, draws=20))
        assert (band["low"][at], band["high"][at]) == pytest.approx(limits, abs=1e-9)


def test_figures_of_survival_curves_are_the_libraries(files, curves):
    risks, times, events = simulated(N, seed=8)
    survival, grid = survival_of(risks), np.array(YEARS, dtype=float)
    found = figures(files, survival=curves)
    surv, fitted = Surv.from_arrays(events, times), KaplanMeierFitter().fit(times, events)
    brier = found["integrated_brier"]
    own = integrated_brier_score(surv, surv, survival, grid)
    marginal = integrated_brier_score(surv, surv, np.tile(fitted.predict(grid).to_numpy(), (N, 1)), grid)
    assert brier["predicted"]["value"] == pytest.approx(own, abs=1e-12)
    assert brier["kaplan_meier"]["value"] == pytest.approx(marginal, abs=1e-12)
    assert brier["difference"]["value"] == pytest.approx(own - marginal, abs=1e-12)
    shared = found["performance"]["survival"]
    for column, month in ((0, "12"), (1, "24"), (4, "60")):
        large = shared["in_the_large"][month]
        observed, expected = 1 - fitted.predict(float(month)), (1 - survival[:, column]).mean()
        assert large["observed"]["value"] == pytest.approx(observed, abs=1e-12)
        assert large["predicted"] == pytest.approx(expected, abs=1e-12)
        assert large["ratio"]["value"] == pytest.approx(observed / expected, abs=1e-12)

        def ratio(of, column=column, month=month):
            curve = KaplanMeierFitter().fit(times[of], events[of])
            return (1 - curve.predict(float(month))) / (1 - survival[of, column]).mean()

        limits = percentile_interval(resampled(ratio, N, draws=10))
        assert (large["ratio"]["low"], large["ratio"]["high"]) == pytest.approx(limits, abs=1e-9)
    # The curves are those of a proportional hazards model in the risk, so both slopes are one.
    slope = found["performance"]["calibration_slope"]["value"]
    assert shared["calibration_slope"]["value"] == pytest.approx(slope, rel=1e-5)
    own_time = np.array([np.interp(t, [0, *YEARS], [1, *row]) for t, row in zip(times, survival, strict=True)])
    assert shared["d_calibration"]["p"] == pytest.approx(d_calibration(times, events, own_time).p, rel=1e-9)


def test_calibration_groups_are_kaplan_meiers_of_a_third_of_the_patients_each(tmp_path):
    risks, times, events = simulated(90, seed=2)
    ids = [f"P{number}" for number in range(90)]
    predictions = write(tmp_path / "p.csv", ("case_id", "risk", "months"), zip(ids, risks, 50 - 5 * risks, strict=True))
    outcomes = write(tmp_path / "o.csv", ("case_id", "time", "event"), zip(ids, times, events.astype(int), strict=True))
    survival = survival_of(risks)
    table = write(
        tmp_path / "s.csv",
        ("case_id", *YEARS),
        [(name, *row) for name, row in zip(ids, survival.tolist(), strict=True)],
    )
    groups = figures((predictions, outcomes), survival=table)["performance"]["survival"]["calibration_groups"]["24"]
    order = np.argsort(survival[:, 1])
    assert len(groups) == 3
    for group, members in zip(groups, np.split(order, 3), strict=True):
        fitted = KaplanMeierFitter().fit(times[members], events[members])
        assert group["patients"] == 30
        assert group["predicted"] == pytest.approx(survival[members, 1].mean())
        assert group["observed"] == pytest.approx(fitted.predict(24.0))
        low, high = fitted.confidence_interval_survival_function_.loc[:24.0].iloc[-1]
        assert (group["low"], group["high"]) == pytest.approx((low, high))


def test_bands_of_curves_are_percentiles_of_the_same_draws(files, curves):
    risks, times, events = simulated(N, seed=8)
    survival, grid = survival_of(risks), np.array(YEARS, dtype=float)
    shared = figures(files, survival=curves, draws=7)["performance"]["survival"]

    def brier(of, column):
        surv = Surv.from_arrays(events[of], times[of])
        test = Surv.from_arrays(events[of] & (times[of] < times[of].max()), times[of])
        return brier_score(surv, test, survival[of][:, [column]], grid[[column]])[1][0]

    def benefit(of, threshold, month, column):
        treated = of[1 - survival[of, column] >= threshold]
        free = KaplanMeierFitter().fit(times[treated], events[treated]).predict(month)
        return treated.size / N * (1 - free - free * threshold / (1 - threshold))

    score, net = shared["brier_over_time"], shared["decision_curves"]["24"]
    for column in (0, 3):
        expected = percentile_interval(resampled(partial(brier, column=column), N, draws=7))
        assert (score["low"][column], score["high"][column]) == pytest.approx(expected, abs=1e-9)
        assert score["low"][column] < score["predicted"][column] < score["high"][column]
    for at in (9, 29):
        measure = partial(benefit, threshold=net["thresholds"][at], month=24.0, column=1)
        assert (net["low"][at], net["high"][at]) == pytest.approx(
            percentile_interval(resampled(measure, N, draws=7)), abs=1e-9
        )


def test_curves_that_end_before_a_horizon_leave_it_undefined(files, curves):
    table = pd.read_csv(curves)
    table[["case_id", "12", "24"]].to_csv(curves, index=False)
    shared = figures(files, survival=curves)["performance"]["survival"]
    assert shared["in_the_large"]["60"]["predicted"] is None and shared["in_the_large"]["60"]["ratio"]["value"] is None
    assert shared["in_the_large"]["60"]["observed"]["value"] is not None
    assert shared["calibration_groups"]["60"] == [] and shared["decision_curves"]["60"]["thresholds"] == []


def test_another_model_is_compared_in_the_same_draws(files, tmp_path):
    risks, times, events = simulated(N, seed=8)
    other = np.random.default_rng(4).normal(size=N)
    versus = write(tmp_path / "other.csv", ("case_id", "risk", "months"), zip(IDS, other, 50 - other, strict=True))
    found = figures(files, draws=20, versus=versus)["versus"]
    assert found["name"] == "other.csv"
    assert found["harrell_concordance"]["other"]["value"] == concordance(times, events, other)

    def gain(of):
        return concordance(times[of], events[of], risks[of]) - concordance(times[of], events[of], other[of])

    difference = found["harrell_concordance"]["difference"]
    assert difference["value"] == pytest.approx(gain(np.arange(N)), abs=1e-12)
    limits = percentile_interval(resampled(gain, N, draws=20))
    assert (difference["low"], difference["high"]) == pytest.approx(limits, abs=1e-9)
    for key, scale in (("log_hazard_ratio_per_sd", other.std()), ("calibration_slope", 1.0)):
        table = pd.DataFrame({"x": other / scale, "time": times, "event": events})
        expected = CoxPHFitter().fit(table, "time", "event").params_["x"]
        assert found[key]["other"]["value"] == pytest.approx(expected, rel=1e-3, abs=1e-5)
        assert found[key]["difference"]["low"] < found[key]["difference"]["value"] < found[key]["difference"]["high"]
    itself = figures(files, versus=files[0])["versus"]
    assert itself["uno_concordance"]["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0, "undefined_draws": 0}
    write(versus, ("case_id", "risk", "months"), zip(IDS[1:], other[1:], 50 - other[1:], strict=True))
    with pytest.raises(InputError, match=r"3A_000: other\.csv: no row for this case"):
        figures(files, versus=versus)


def flatter_curves(risks):
    """The curves of another model, which goes by half the risk and ends a year later."""
    months = np.array([*YEARS, 72.0])
    return months, np.exp(-np.exp(risks / 2)[:, np.newaxis] * months / 70.0)


@pytest.fixture
def other_curves(tmp_path):
    months, survival = flatter_curves(simulated(N, seed=8)[0])
    rows = [(name, *row) for name, row in zip(IDS, survival.tolist(), strict=True)]
    return write(tmp_path / "other_survival.csv", ("case_id", *months), rows)


def test_survival_curves_of_another_model_are_compared_in_the_same_draws(files, curves, other_curves, tmp_path):
    risks, times, events = simulated(N, seed=8)
    months, flatter = flatter_curves(risks)
    own, other, grid = survival_of(risks), flatter[:, :-1], months[:-1]
    options = {"draws": 10, "survival": curves, "versus": files[0], "versus_survival": other_curves}
    found = figures(files, **options)["versus"]["survival"]
    assert (found["name"], found["months"]) == ("other_survival.csv", list(YEARS))
    surv = Surv.from_arrays(events, times)

    def integrated(survival, of):
        mine = Surv.from_arrays(events[of], times[of])
        # An event at the end of the follow-up has no weight there, and needs none.
        test = Surv.from_arrays(events[of] & (times[of] < times[of].max()), times[of])
        inside = (grid >= times[of].min()) & (grid < times[of].max())
        return integrated_brier_score(mine, test, survival[of][:, inside], grid[inside])

    def observed_to_expected(survival, of, column):
        curve = KaplanMeierFitter().fit(times[of], events[of])
        return (1 - curve.predict(grid[column])) / (1 - survival[of, column]).mean()

    value = integrated_brier_score(surv, surv, other, grid)
    assert found["integrated_brier"]["other"]["value"] == pytest.approx(value, abs=1e-12)
    compared = [(found["integrated_brier"], integrated)]
    for column, month in ((0, "12"), (1, "24"), (4, "60")):
        value = brier_score(surv, surv, other[:, [column]], grid[[column]])[1][0]
        assert found["brier"][month]["other"]["value"] == pytest.approx(value, abs=1e-12)

        def at_month(survival, of, column=column):
            mine = Surv.from_arrays(events[of], times[of])
            test = Surv.from_arrays(events[of] & (times[of] < times[of].max()), times[of])
            return brier_score(mine, test, survival[of][:, [column]], grid[[column]])[1][0]

        compared.append((found["brier"][month], at_month))
        large = partial(observed_to_expected, column=column)
        compared.append((found["in_the_large"][month], large))
    for entry, measure in compared:

        def gain(of, measure=measure):
            return measure(own, of) - measure(other, of)

        difference = entry["difference"]
        assert difference["value"] == pytest.approx(gain(np.arange(N)), abs=1e-12)
        limits = percentile_interval(resampled(gain, N, draws=10))
        assert (difference["low"], difference["high"]) == pytest.approx(limits, abs=1e-9)
        assert difference["low"] < difference["high"]


def test_survival_curves_of_another_model_are_shown_everywhere(files, curves, other_curves, tmp_path, capsys):
    page, sheet = tmp_path / "page.html", tmp_path / "figures.json"
    command = ["evaluate", *map(str, files), "--versus", str(files[0]), "--versus-survival", str(other_curves)]
    assert survfuse([*command, "--survival", str(curves), "--report", str(page), "--json", str(sheet)]) == 0
    shown, found = capsys.readouterr().out, json.loads(sheet.read_text())["versus"]["survival"]
    difference = found["brier"]["24"]["difference"]
    text = f"{difference['value']:+.3f}", f"{difference['low']:+.3f} to {difference['high']:+.3f}"
    assert f"  {'Brier score at 24 months':<32}{text[0]} ({text[1]}); below 0 is better" in shown
    assert '<th scope="row">Brier score at 24 months</th>' in page.read_text() and text[1] in page.read_text()
    for name in ("integrated Brier score", "observed / predicted at 60 months"):
        assert page.read_text().count(name) and name.replace("predicted at", "expected,") in shown


def test_survival_curves_of_another_model_that_cannot_be_compared_are_named(files, curves, other_curves):
    for options, said in (
        ({}, "--versus-survival needs --versus and --survival as well"),
        ({"versus": files[0]}, "--versus-survival needs --survival as well"),
        ({"survival": curves}, "--versus-survival needs --versus as well"),
    ):
        with pytest.raises(InputError, match=f"^{said}$"):
            figures(files, versus_survival=other_curves, **options)
    lines = other_curves.read_text().splitlines()
    other_curves.write_text("\n".join([lines[0], *lines[2:]]))
    with pytest.raises(InputError, match=r": 3A_000: other_survival\.csv: no row for this case$"):
        figures(files, survival=curves, versus=files[0], versus_survival=other_curves)


def test_survival_curves_without_two_months_in_common_leave_their_integral_undefined(
    files, curves, other_curves, tmp_path, capsys
):
    table = pd.read_csv(other_curves)
    table.rename(columns={f"{float(month)}": f"{month + 6}" for month in YEARS[:-1]}).to_csv(other_curves, index=False)
    options = {"survival": curves, "versus": files[0], "versus_survival": other_curves}
    found = figures(files, **options)["versus"]["survival"]
    assert found["between"] == ["12", "24"]
    command = ["evaluate", *files, "--survival", curves, "--versus", files[0], "--versus-survival", other_curves]
    assert survfuse([str(word) for word in (*command, "--report", tmp_path / "page.html")]) == 0
    assert "curves at 12, 24 months, of which a table has no entry" in capsys.readouterr().out
    assert "12, 24 months a table has no entry: its curves are taken as linear." in (tmp_path / "page.html").read_text()
    assert found["months"] == [60.0] and found["integrated_brier"]["difference"]["value"] is None
    assert found["brier"]["24"]["difference"]["value"] is not None


# Subgroups


def test_subgroups_are_those_of_the_variable_with_the_concordance_within(files, tmp_path):
    risks, times, events = simulated(N, seed=8)
    random = np.random.default_rng(0)
    ages, sexes = random.integers(40, 90, N), random.choice(["F", "M"], N)
    rows = [
        (name, "" if at == 3 else age, "NA" if at < 4 else sex)
        for at, (name, age, sex) in enumerate(zip(IDS, ages, sexes, strict=True))
    ]
    clinical = write(tmp_path / "clinical.csv", ("case_id", "age", "sex"), rows)
    age, sex = figures(files, clinical=clinical, by=("age", "sex"))["subgroups"]
    known = np.arange(N) != 3
    median = float(np.median(ages[known]))
    assert age["median"] == median and sex["median"] is None
    groups = {f"≤ {median:g}": known & (ages <= median), f"> {median:g}": known & (ages > median), "missing": ~known}
    assert [group["category"] for group in age["subgroups"]] == list(groups)
    for group, inside in zip(age["subgroups"], groups.values(), strict=True):
        assert (group["patients"], group["events"]) == (inside.sum(), events[inside].sum())
        assert group["few_events"] == (events[inside].sum() < 10)
        if inside.sum() > 1:
            expected = concordance_index_censored(events[inside], times[inside], risks[inside])[0]
            assert group["concordance"]["value"] == pytest.approx(expected)
    assert [(group["category"], group["patients"]) for group in sex["subgroups"]] == [
        ("F", int((sexes[4:] == "F").sum())),
        ("M", int((sexes[4:] == "M").sum())),
        ("missing", 4),
    ]


def test_few_numbers_are_categories_in_their_order(files, tmp_path):
    grades = [2 + number % 3 * 4 for number in range(N)]  # 2, 6, 10
    clinical = write(tmp_path / "clinical.csv", ("case_id", "grade"), zip(IDS, grades, strict=True))
    (found,) = figures(files, clinical=clinical, by=("grade",))["subgroups"]
    assert [group["category"] for group in found["subgroups"]] == ["2", "6", "10"]


def test_an_unknown_variable_is_named_with_a_suggestion(files, tmp_path):
    clinical = write(tmp_path / "clinical.csv", ("case_id", "stage"), [(name, "T1") for name in IDS])
    with pytest.raises(InputError, match=r"unknown clinical variable 'stge'; .* did you mean stage\?"):
        figures(files, clinical=clinical, by=("stge",))
    with pytest.raises(InputError, match="--by needs clinical variables"):
        figures(files, by=("stage",))


def test_a_table_without_the_patients_is_refused_and_one_without_some_warned_of(files, tmp_path, capsys):
    clinical = write(tmp_path / "clinical.csv", ("case_id", "sex"), [(f"{name}_HE", "F") for name in IDS])
    said = r"no patient of predictions\.csv is in clinical\.csv: predictions\.csv has 40 patients \(3A_000, .*; "
    with pytest.raises(
        InputError, match=said + r"clinical\.csv has 40 patients \(3A_000_HE, .*; ids of one begin with"
    ):
        figures(files, clinical=clinical, by=("sex",))
    write(clinical, ("case_id", "sex"), [(name, "FM"[at % 2]) for at, name in enumerate(IDS[5:])])
    found = figures(files, clinical=clinical, by=("sex",))["subgroups"][0]["subgroups"]
    assert {group["category"]: group["patients"] for group in found} == {"F": 18, "M": 17, "missing": 5}
    assert "5 of 40 patients (3A_000, 3A_001, 3A_002 and 2 more) not in clinical.csv" in capsys.readouterr().err


def test_numbers_that_differ_are_different_categories(files, tmp_path):
    numbers = [(1234567.5, 1234568.5, 0.1)[at % 3] for at in range(N)]
    clinical = write(tmp_path / "clinical.csv", ("case_id", "code"), zip(IDS, numbers, strict=True))
    (found,) = figures(files, clinical=clinical, by=("code",))["subgroups"]
    assert [group["category"] for group in found["subgroups"]] == ["0.1", "1234567.5", "1234568.5"]
    numbers = [1234560.5 + at for at in range(N)]
    write(clinical, ("case_id", "code"), zip(IDS, numbers, strict=True))
    (found,) = figures(files, clinical=clinical, by=("code",))["subgroups"]
    assert [group["category"] for group in found["subgroups"]] == ["≤ 1234580", "> 1234580"]


# Few events


def few_events(tmp_path, events, times, risks):
    """(predictions, outcomes) of patients in the order of their ids."""
    names = [f"P{at:02}" for at in range(len(events))]
    rows = zip(names, risks, [10.0] * len(names), strict=True)
    predictions = write(tmp_path / "few_p.csv", ("case_id", "risk", "months"), rows)
    rows = zip(names, times, events, strict=True)
    return predictions, write(tmp_path / "few_o.csv", ("case_id", "time", "event"), rows)


@pytest.mark.parametrize(
    ("events", "same", "said"),
    [
        (1, False, "With so few events (1), the figures do not tell whether the ranking is better than chance: "),
        (9, False, "With so few events (9), the figures do not tell "),
        (10, False, "The ranking is told from chance: "),
        (10, True, "As the times of all patients are equal, the figures do not tell "),
    ],
)
def test_a_perfect_ranking_of_few_events_is_not_told_from_chance(tmp_path, events, same, said):
    """The patients with the event come first, and have the highest risks."""
    risks = range(60, 0, -1)
    times = [12] * 60 if same else range(1, 61)
    tables = few_events(tmp_path, [int(at < events) for at in range(60)], times, risks)
    found = figures(tables, draws=40)
    assert found["harrell_concordance"]["value"] == found["harrell_concordance"]["low"] == 1.0
    assert found["finding"][0].startswith(said)
    assert "Harrell's C of the risks is 1.000 (95% interval 1.000 to 1.000" in found["finding"][0]


def test_an_interval_of_a_part_of_the_draws_tells_nothing():
    estimate = {"value": 0.8, "low": 0.7, "high": 0.9, "undefined_draws": 50}
    assert ranking_sentence(estimate, 10, 1000).startswith("The ranking is told from chance: ")
    said = "With 51 of 1,000 bootstrap draws undefined, the figures do not tell "
    assert ranking_sentence(estimate | {"undefined_draws": 51}, 10, 1000).startswith(said)


def test_a_subgroup_with_two_events_has_no_interval(tmp_path, capsys):
    """Four groups of 15 patients with 0 to 3 events each: the last alone has an interval."""
    events = [int(at // 4 < at % 4) for at in range(60)]
    tables = few_events(tmp_path, events, range(1, 61), range(60, 0, -1))
    rows = [(f"P{at:02}", f"with {at % 4}") for at in range(60)]
    clinical = write(tmp_path / "clinical.csv", ("case_id", "group"), rows)
    found = figures(tables, draws=40, clinical=clinical, by=("group",))
    groups = found["subgroups"][0]["subgroups"]
    assert [group["events"] for group in groups] == [0, 1, 2, 3] and all(group["few_events"] for group in groups)
    assert [group["concordance"]["value"] for group in groups] == [None, 1.0, 1.0, 1.0]
    assert [group["concordance"]["low"] for group in groups] == [None, None, None, 1.0]
    print_evaluation(found)
    out = capsys.readouterr().out
    assert "1.000 (no interval); 15 patients, 2 events, too few events\n" in out
    assert "15 patients, 3 events, few events\n" in out


# Groups, training patients, cohorts


def test_groups_are_cut_where_the_table_says(files, capsys):
    risks, _, _ = simulated(N, seed=8)
    high = risks > 1.0
    rewritten(files[0], group=np.where(high, "high", "low"))
    groups = figures(files)["performance"]["risk_groups"]
    assert groups["high"]["patients"] == high.sum() and groups["cut"] == "the training cohort's median risk"
    rewritten(files[0], group=["", *np.where(high, "high", "low")[1:]])
    assert figures(files)["performance"]["risk_groups"]["cut"] == "the median of these patients' risks"
    rewritten(files[0], group="middle", training_patient="perhaps")
    with pytest.raises(InputError, match="group: expected high, low or nothing, found 'middle'; training_patient: exp"):
        figures(files)


def test_a_high_risk_group_that_does_better_is_said(files, capsys):
    risks, _, _ = simulated(N, seed=8)
    rewritten(files[0], risk=-risks)
    found = figures(files, draws=50)
    assert found["finding"][0].startswith("The ranking is worse than chance: ")
    assert found["finding"][1].startswith("The high-risk group does better than the low-risk group: hazard ratio of")
    print_evaluation(found)
    assert "The high-risk group does better" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("group", "event", "said"),
    [
        ("high", None, "no patient is in the low-risk group, so the groups cannot be compared"),
        ("low", None, "no patient is in the high-risk group, so the groups cannot be compared"),
        (None, 0, "no patient had the event, so the groups cannot be compared"),
    ],
)
def test_what_is_undefined_is_said_without_a_warning(files, curves, tmp_path, capfd, group, event, said):
    if group is not None:
        rewritten(files[0], group=group)
    if event is not None:
        rewritten(files[1], Progression=event)
    command = ["evaluate", *map(str, files), "--survival", str(curves), "--report", str(tmp_path / "page.html")]
    assert survfuse(command) == 0
    out, err = capfd.readouterr()
    assert said in out and err == ""
    assert said in (tmp_path / "page.html").read_text().replace("No patient", "no patient")


def test_training_patients_are_marked_and_can_be_left_out(files, capsys, tmp_path):
    inside = np.arange(N) < 15
    rewritten(files[0], training_patient=np.where(inside, "yes", "no"))
    page, sheet = tmp_path / "page.html", tmp_path / "figures.json"
    mark = "IN-SAMPLE: 15 of 40 patients are among the bundle's training patients."
    command = ["evaluate", *map(str, files), "--report", str(page), "--json", str(sheet)]
    assert survfuse(command) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{mark} The ranking is ")
    assert err.count("survfuse: warning: ") == 1 and "15 of 40 patients (3A_000, 3A_001, 3A_002 and 12 more)" in err
    assert mark.replace("'", "&#39;") in page.read_text()
    assert json.loads(sheet.read_text())["training_patients"] == 15
    # Without them, and without the outcomes of others who have no prediction.
    table = pd.read_csv(files[0], dtype=str)
    table[table["case_id"] != "3A_039"].to_csv(files[0], index=False)
    with pytest.raises(InputError, match=r"3A_039: predictions\.csv: no prediction"):
        figures(files)
    assert survfuse([*command, "--exclude-training"]) == 0
    out, err = capsys.readouterr()
    assert "Left out: 15 training patients (3A_000, 3A_001, 3A_002 and 12 more)." in out and err == ""
    assert "Left out: 1 patient without a prediction (3A_039)." in out
    risks, times, events = simulated(N, seed=8)
    kept = (np.arange(N) >= 15) & (np.arange(N) < 39)
    found = json.loads(sheet.read_text())
    assert (found["patients"], found["training_patients"]) == (24, 0)
    assert found["left_out"] == {"training_patients": 15, "without_prediction": 1}
    assert found["harrell_concordance"]["value"] == concordance(times[kept], events[kept], risks[kept])
    rewritten(files[0], training_patient="yes")
    with pytest.raises(InputError, match="nobody is left to evaluate"):
        figures(files, exclude_training=True)


def test_what_is_not_known_of_training_patients_is_said_on_the_page_alone(files, capsys, tmp_path):
    page = tmp_path / "page.html"
    assert survfuse(["evaluate", *map(str, files), "--report", str(page)]) == 0
    out, err = capsys.readouterr()
    assert "training patient" not in out and err == ""
    assert "not known whether any of these patients is one" in page.read_text()
    assert figures(files)["training_patients"] is None


def test_excluding_training_patients_says_of_whom_it_is_not_known(files, tmp_path, capsys):
    page, sheet = tmp_path / "page.html", tmp_path / "figures.json"
    command = ["evaluate", *map(str, files), "--exclude-training", "--report", str(page), "--json", str(sheet)]
    for answers, unknown, number in ((None, 40, None), ("", 40, None), (["yes", *["no"] * 9, *[""] * 30], 30, 0)):
        if answers is not None:
            rewritten(files[0], training_patient=answers)
        assert survfuse(command) == 0
        out, err = capsys.readouterr()
        said = f"Of {unknown} patients (3A_0"
        assert f"survfuse: warning: {said}" in err and "training_patient of predictions.csv is missing or empty" in err
        assert f"\n{said}" in out and said in page.read_text()
        found = json.loads(sheet.read_text())
        assert (found["training_patients"], found["training_patients_unknown"]) == (number, unknown)
    assert "0; not known of 30" in page.read_text()


def test_training_patients_of_the_other_model_are_said_and_left_out(files, tmp_path, capsys):
    other = tmp_path / "other.csv"
    other.write_bytes(files[0].read_bytes())
    rewritten(files[0], training_patient="no")
    rewritten(other, training_patient=["yes"] * 15 + ["no"] * 25)
    page = tmp_path / "page.html"
    assert survfuse(["evaluate", *map(str, files), "--versus", str(other), "--report", str(page)]) == 0
    out, err = capsys.readouterr()
    mark = "15 of 40 patients are among the training patients of the other model (other.csv)"
    assert out.startswith(f"IN-SAMPLE: {mark}. The ranking is ") and mark in page.read_text()
    assert "15 of 40 patients (3A_000, 3A_001, 3A_002 and 12 more) are among the training patients of the other" in err
    found = figures(files, versus=other)
    assert (found["training_patients"], found["versus"]["training_patients"]) == (0, 15)
    assert figures(files, versus=other, exclude_training=True)["patients"] == 25
    rewritten(other, training_patient="yes")
    with pytest.raises(InputError, match=r"^other\.csv: all patients are training patients"):
        figures(files, versus=other, exclude_training=True)
    rewritten(files[0], training_patient=["no"] * 15 + ["yes"] * 25)
    rewritten(other, training_patient=["yes"] * 15 + ["no"] * 25)
    with pytest.raises(InputError, match=r"^predictions\.csv and other\.csv: all patients are training patients"):
        figures(files, versus=other, exclude_training=True)


def test_tables_of_one_name_are_both_looked_at(files, tmp_path):
    """Predictions of two models in two folders often have the same name."""
    (tmp_path / "b").mkdir()
    other = tmp_path / "b" / "predictions.csv"
    other.write_bytes(files[0].read_bytes())
    rewritten(files[0], training_patient=["yes"] * 10 + ["no"] * 30)
    rewritten(other, training_patient=["no"] * 30 + ["yes"] * 10)
    assert figures(files, versus=other, exclude_training=True)["patients"] == 20


def test_ids_of_patients_left_out_need_not_agree(files):
    """A training patient without an outcome, spelt otherwise by the outcomes, is left out by both spellings."""
    rewritten(files[0], training_patient=["yes"] + ["no"] * 39)
    files[1].write_text(files[1].read_text().replace("3A_000 ", "3a_000 "))
    found = figures(files, exclude_training=True)
    assert found["patients"] == 39 and found["left_out"] == {"training_patients": 1, "without_prediction": 1}


@pytest.mark.parametrize(
    ("spelt", "said"),
    [
        (lambda number: f"{number:03}", "ids agree but for zeros before them"),
        (lambda number: f"P{number}", "ids agree but for letter case"),
        (lambda number: f"p{number}-01A", "ids of one begin with those of the other, as sample barcodes do"),
        (lambda number: f"q{number}", None),
    ],
)
def test_ids_that_almost_agree_are_said_to(tmp_path, spelt, said):
    own = str if spelt(0) == "000" else "p{}".format
    rows = [(spelt(number), 0, 10) for number in range(1, 20)]
    predictions = write(tmp_path / "p.csv", ("case_id", "risk", "months"), rows)
    rows = [(own(number), number, 1) for number in range(1, 20)]
    outcomes = write(tmp_path / "o.csv", ("case_id", "time", "event"), rows)
    with pytest.raises(InputError, match="no prediction") as caught:
        figures((predictions, outcomes))
    assert ("p.csv and o.csv: ids" in str(caught.value)) == (said is not None)
    assert said is None or f"p.csv and o.csv: {said}; " in str(caught.value)


def test_a_cohorts_folder_states_outcomes_and_variables(cohort, tmp_path):
    names = sorted(path.name for path in (cohort / "data").iterdir())
    risks = np.random.default_rng(6).normal(size=len(names))
    predictions = write(tmp_path / "p.csv", ("case_id", "risk", "months"), zip(names, risks, 90 + risks, strict=True))
    read = [json.loads((cohort / "data" / name / f"{name}_CD.json").read_text()) for name in names]
    times = np.array([float(each["Time_to_prog_or_FUend"]) for each in read])
    events = np.array([bool(each["progression"]) for each in read])
    found = api.evaluate(predictions, cohort, by=["sex"], draws=5)
    assert found["simulated"] and "simulated" in found["finding"][0]
    expected = concordance_index_censored(events, times, risks)[0]
    assert found["harrell_concordance"]["value"] == expected
    sexes = [each["sex"] for each in read]
    groups = {group["category"]: group["patients"] for group in found["subgroups"][0]["subgroups"]}
    assert groups == {sex: sexes.count(sex) for sex in sorted(set(sexes))}


@pytest.mark.parametrize(
    ("heading", "row", "said"),
    [
        ("case_id,risk", "a,1", "expected a column for each of several months"),
        ("case_id,12,12.0", "a,1,1", "expected a column for each of several months"),
        ("case_id,12,24", "3A_000,0.5,0.6", "3A_000: survival.csv, line 2: expected probabilities that do not rise"),
        ("case_id,12,24", "3A_000,1.5,0.6", "3A_000: survival.csv, line 2: expected probabilities from 0 to 1"),
        ("case_id,12,24", "3A_000,0.5,", "3A_000: survival.csv, line 2: expected probabilities from 0 to 1"),
        ("case_id,12,24", "3B,0.5,0.4", "3B: predictions.csv: no prediction"),
    ],
)
def test_a_table_of_survival_that_cannot_be_used_is_named(files, curves, heading, row, said):
    curves.write_text(f"{heading}\n{row}\n")
    with pytest.raises(InputError) as caught:
        figures(files, survival=curves)
    assert said in str(caught.value)


def test_nothing_is_written_where_an_input_is_refused(files, tmp_path, capsys):
    page, sheet = tmp_path / "page.html", tmp_path / "figures.json"
    files[0].write_text("case_id,risk,months\n3A_000,1,10\n")
    assert survfuse(["evaluate", *map(str, files), "--report", str(page), "--json", str(sheet)]) == 2
    assert survfuse(["evaluate", *map(str, files), "--report", str(page), "--json", str(page)]) == 2
    assert "expected two files" in capsys.readouterr().err
    assert not page.exists() and not sheet.exists()


@pytest.mark.parametrize("option", ["--report", "--json"])
def test_no_input_is_overwritten(files, curves, tmp_path, monkeypatch, capsys, option):
    """Neither by its own path, nor by another one that leads to it."""
    predictions, outcomes = files
    (tmp_path / "link.csv").symlink_to(outcomes)
    before = [path.read_bytes() for path in (*files, curves)]
    monkeypatch.chdir(tmp_path)
    for path in (str(predictions), curves.name, "link.csv", f"../{tmp_path.name}/outcomes.csv"):
        assert survfuse(["evaluate", *map(str, files), "--survival", str(curves), option, path]) == 2
        assert f"{path}: {option} would overwrite an input" in capsys.readouterr().err
    with pytest.raises(InputError, match="would overwrite an input"):
        api.evaluate(*files, report="outcomes.csv")
    assert [path.read_bytes() for path in (*files, curves)] == before


@pytest.mark.parametrize("option", ["--out", "--survival"])
def test_predict_overwrites_no_table(files, tmp_path, capsys, option):
    other = [] if option == "--out" else ["--out", str(tmp_path / "out.csv")]
    before = files[0].read_bytes()
    command = ["predict", "--clinical", str(files[0]), "--model", str(tmp_path), option, str(files[0]), *other]
    assert survfuse(command) == 2
    assert f"{option} would overwrite an input" in capsys.readouterr().err
    with pytest.raises(InputError, match="would overwrite an input"):
        predict(CohortTables(clinical=files[0]), tmp_path, files[0])
    assert files[0].read_bytes() == before and not (tmp_path / "out.csv").exists()


def test_simulated_patients_are_known_by_the_file_beside_their_outcomes(files):
    assert not figures(files)["simulated"]
    (files[1].parent / "simulation.json").write_text("{}")
    found = figures(files)
    assert found["simulated"] and found["finding"][0].endswith(
        "The patients are simulated: these figures mean nothing clinically."
    )
