"""The report of held-out performance: its figures are the libraries', its page is one file that says what it shows."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from lifelines import KaplanMeierFitter
from lifelines.statistics import logrank_test
from sksurv.metrics import (
    concordance_index_censored,
    concordance_index_ipcw,
    cumulative_dynamic_auc,
    integrated_brier_score,
)
from sksurv.util import Surv

from survfuse.evaluation.calibration_drawing import calibration_drawing
from survfuse.evaluation.group_drawing import group_drawing
from survfuse.evaluation.report import write_report
from survfuse.evaluation.summary import HeldOut, MemberCurve, held_out_figures, summary
from survfuse.evaluation.training_drawings import fold_drawing
from survfuse.evaluation.training_page import training_finding
from survfuse.survival.curves import SurvivalCurve
from survfuse.survival.metrics import (
    concordance,
    corrected_difference,
    d_calibration,
    percentile_interval,
    resampled,
)

N, FOLDS = 90, 3
VOID = {"meta", "br", "link", "img", "hr", "input"}


@pytest.fixture(scope="module")
def held() -> HeldOut:
    """Outcomes that half follow the risks, whole months, with curves that each fold's patients had no part in."""
    random = np.random.default_rng(7)
    truth = random.normal(size=N)
    event_times, censoring = random.exponential(60 * np.exp(-truth)), random.uniform(20, 140, N)
    times, events = np.round(np.minimum(event_times, censoring)), event_times < censoring
    risks, folds, grid = truth + random.normal(size=N), np.arange(N) % FOLDS, np.unique(times)
    survival = np.empty((N, grid.size))
    for fold in range(FOLDS):
        inside = folds == fold
        curve = SurvivalCurve.fit(risks[~inside], times[~inside], events[~inside])
        survival[inside] = curve.survival(risks[inside], grid)
    candidates = {"cox <net> & co": truth + 2 * random.normal(size=N), "gated $a_b$": truth}
    horizons = (12.0, 24.0, 60.0)
    parts = {"rna+clinical": risks, "rna": truth + random.normal(size=N), "clinical": random.normal(size=N)}
    return HeldOut(times, events, folds, risks, candidates, grid, survival, np.exp(4 - risks), horizons, parts)


@pytest.fixture(scope="module")
def found(held):
    return summary(held, draws=25)


CURVES = [
    MemberCurve(family, 0, fold, 0, 2 + fold, (3.0, 2.0, 1.5, 1.2, 1.1), (3.1, 2.4, 2.2, 2.3, float("nan")))
    for family in ("gated $a_b$", "tensor <script>alert(1)</script>")
    for fold in range(FOLDS)
]
FACTS = {
    "notice": "Simulated <b>patients</b> only.",
    "cohort": {"patients": N, "learning rate": np.float64(1e-3), "seen": None},
    "stack weights": [{"fold": 1, "cox & co": 0.25}, {"fold": 2, "cox & co": 1.0, "note": "a <i>tie</i>"}],
    "genes": ["TP53", "FGFR3"],
    "undefined": float("nan"),
}


@pytest.fixture(scope="module")
def written(held, tmp_path_factory):
    """The folder of a written report."""
    folder = tmp_path_factory.mktemp("report") / "new" / "run"
    write_report(folder, held, CURVES, FACTS, draws=3)
    return folder


def test_every_value_is_that_of_a_direct_call(held, found):
    outcomes = Surv.from_arrays(held.events, held.times)
    plain = concordance_index_censored(held.events, held.times, held.risks)[0]
    assert found["harrell_concordance"]["value"] == plain
    weighed = concordance_index_ipcw(outcomes, outcomes, held.risks, tau=held.times.max())[0]
    assert found["uno_concordance"]["value"] == pytest.approx(weighed, abs=1e-12)
    areas = cumulative_dynamic_auc(outcomes, outcomes, held.risks, [12, 24, 60])[0]
    assert [found["auc"][month]["value"] for month in ("12", "24", "60")] == pytest.approx(areas, abs=1e-12)
    months = concordance_index_censored(held.events, held.times, -held.months)[0]
    assert found["months_concordance"]["value"] == months
    inside = (held.grid >= held.times.min()) & (held.grid < held.times.max())
    brier = integrated_brier_score(outcomes, outcomes, held.survival[:, inside], held.grid[inside])
    assert found["integrated_brier"]["value"] == pytest.approx(brier, abs=1e-12)
    high = held.risks > np.median(held.risks)
    test = logrank_test(held.times[high], held.times[~high], held.events[high], held.events[~high])
    assert found["log_rank_p"] == pytest.approx(test.p_value, rel=1e-9)
    # The grid holds every time, so survival at a patient's own time is a value of its row.
    own = held.survival[np.arange(N), np.searchsorted(held.grid, held.times)]
    calibration = d_calibration(held.times, held.events, own)
    assert found["d_calibration"]["statistic"] == pytest.approx(calibration.statistic, abs=1e-9)
    assert found["d_calibration"]["p"] == pytest.approx(calibration.p, abs=1e-9)


def test_kaplan_meiers_own_brier_score_is_of_the_other_folds(held, found):
    outcomes, at = Surv.from_arrays(held.events, held.times), held.grid[held.grid < held.times.max()]
    curves = np.empty((N, at.size))
    for patient in range(N):
        others = held.folds != held.folds[patient]
        fitted = KaplanMeierFitter().fit(held.times[others], held.events[others])
        curves[patient] = fitted.predict(at).to_numpy()
    expected = integrated_brier_score(outcomes, outcomes, curves, at)
    assert found["integrated_brier_kaplan_meier"]["value"] == pytest.approx(expected, abs=1e-12)
    difference = found["integrated_brier"]["value"] - expected
    assert found["integrated_brier_difference"]["value"] == pytest.approx(difference, abs=1e-12)


def test_folds_and_candidates_are_compared_pair_by_pair(held, found):
    def within(risks):
        folds = [held.folds == fold for fold in range(FOLDS)]
        return np.array([concordance(held.times[of], held.events[of], risks[of]) for of in folds])

    assert found["folds"]["values"] == within(held.risks).tolist()
    assert found["folds"]["sd"] == pytest.approx(np.std(within(held.risks), ddof=1))
    for family, risks in held.candidates.items():
        entry = found["candidates"][family]

        def gain(of, risks=risks):
            outcomes = held.times[of], held.events[of]
            return concordance(*outcomes, held.risks[of]) - concordance(*outcomes, risks[of])

        assert entry["difference"]["value"] == pytest.approx(gain(np.arange(N)), abs=1e-12)
        limits = entry["difference"]["low"], entry["difference"]["high"]
        assert limits == pytest.approx(percentile_interval(resampled(gain, N, draws=25)), abs=1e-12)
        by_fold = corrected_difference(within(held.risks) - within(risks), 1 / FOLDS, 1 - 1 / FOLDS)
        assert tuple(entry["difference_by_fold"].values()) == pytest.approx(by_fold, abs=1e-12)


def test_what_is_undefined_is_null_and_the_page_is_still_written(held, tmp_path):
    nobody = replace(held, events=np.zeros(N, dtype=bool), folds=np.zeros(N, dtype=int))
    found = write_report(tmp_path, nobody, [], {}, draws=5)
    assert found["harrell_concordance"] == {"value": None, "low": None, "high": None, "undefined_draws": 5}
    assert found["log_rank_p"] is None
    assert found["folds"] == {"values": [None], "mean": None, "sd": None}
    page = (tmp_path / "report.html").read_text()
    assert "undefined" in page
    assert "Loss curves" not in page


def test_drawings_show_the_figures(held, found):
    marks = fold_drawing(held, found).axes[0].texts
    assert {f"{value:.2f}" for value in found["folds"]["values"]} <= {mark.get_text() for mark in marks}
    groups = held_out_figures(held, draws=2).performance["risk_groups"]
    curves, table = group_drawing(held.judged(), groups).axes
    assert f"{found['log_rank_p']:.2g}" in curves.get_title(loc="right")
    high = held.risks > np.median(held.risks)
    at_risk = [int((held.times[mask] >= at).sum()) for mask in (high, ~high) for at in curves.get_xticks()]
    assert [int(text.get_text()) for text in table.texts] == at_risk
    survival = held_out_figures(held, draws=2).performance["survival"]
    panels = calibration_drawing(survival["calibration_groups"]).axes
    assert [axes.get_title() for axes in panels] == ["12 months", "24 months", "60 months"]


def test_figures_and_drawings_are_at_the_horizons_given(held, found):
    one = replace(held, horizons=(24.0,))
    figures = summary(one, draws=25)
    assert figures == found | {"auc": {"24": found["auc"]["24"]}}
    survival = held_out_figures(one, draws=2).performance["survival"]
    assert [axes.get_title() for axes in calibration_drawing(survival["calibration_groups"]).axes] == ["24 months"]


class Page(HTMLParser):
    """Tags opened and closed in order, ids, and every attribute that would load or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.ids += [value for name, value in attributes if name == "id"]
        self.references += [value for name, value in attributes if name in ("src", "href", "xlink:href", "data")]
        assert not any(name.startswith("on") for name, _ in attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_one_sound_file_that_loads_and_runs_nothing(written):
    text = (written / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    assert page.seen.count("svg") == page.seen.count("figure") == 10
    assert not {"script", "link", "img", "iframe", "object"} & set(page.seen)
    assert len(page.ids) == len(set(page.ids))
    assert all(reference.startswith("#") and reference[1:] in page.ids for reference in page.references)
    assert "http" not in text
    assert "url(" not in text.replace("url(#", "")


def test_text_is_escaped_and_what_is_held_out_is_said(written):
    text = (written / "report.html").read_text(encoding="utf-8")
    assert "Simulated &lt;b&gt;patients&lt;/b&gt; only." in text
    assert "cox &lt;net&gt; &amp; co" in text
    assert "a &lt;i&gt;tie&lt;/i&gt;" in text
    assert "<script" not in text
    assert text.index('<p class="finding">') < text.index('<div class="notice">Simulated') < text.index("<h1>")
    assert text.count('<span class="tag held">nested held-out</span>') == 6
    assert text.index("used in fitting") > text.index("Loss curves")


def test_the_report_of_simulated_patients_begins_with_what_was_found_and_their_notice(bundle):
    """What training wrote beside a bundle of simulated patients: it says so first, and then has the bundle's notice."""
    notice = json.loads((bundle / "manifest.json").read_text())["notice"]
    assert "simulated patients" in notice
    folder = bundle.with_name(f"{bundle.name}.training")
    page = (folder / "report.html").read_text(encoding="utf-8")
    stored = json.loads((folder / "report.json").read_text())
    first = page.partition("<body>\n")[2].splitlines()[0]
    assert first == f'<p class="finding">{stored["finding"][0]}</p>'
    assert "The patients are simulated" in first and "ranking is" in first
    assert page.count(f'<div class="notice">{notice}</div>') == 1
    assert "<h1>Held-out performance: simulated, bilinear, 4 members</h1>" in page
    assert stored["facts"]["notice"] == notice


def test_the_same_input_gives_the_same_bytes(held, written, tmp_path):
    write_report(tmp_path, held, CURVES, FACTS, draws=3)
    for file in ("report.json", "report.html"):
        assert (tmp_path / file).read_bytes() == (written / file).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_the_json_holds_the_summary_the_facts_and_the_curves(held, written):
    stored = json.loads((written / "report.json").read_text())
    found = held_out_figures(held, draws=3)
    assert stored["heldout"] == summary(held, draws=3) == found.summary
    assert (stored["performance"], stored["combinations"]) == (found.performance, found.combinations)
    assert stored["finding"] == training_finding(found, simulated=False)
    assert stored["facts"]["cohort"] == {"patients": N, "learning rate": 1e-3, "seen": None}
    assert stored["facts"]["undefined"] is None
    assert stored["loss_curves"][1]["inner"] == [3.1, 2.4, 2.2, 2.3, None]


def test_results_of_unequal_length_are_refused(held):
    with pytest.raises(ValueError, match="one value for each"):
        replace(held, risks=held.risks[1:])
    with pytest.raises(ValueError, match="held-out survival"):
        replace(held, survival=held.survival[:, 1:])


def test_combinations_of_modalities_are_compared_with_all_in_the_same_draws(held):
    found = held_out_figures(held, draws=25).combinations
    assert list(found) == ["rna+clinical", "rna", "clinical"]
    for name, risks in held.combinations.items():

        def gain(of, risks=risks):
            outcomes = held.times[of], held.events[of]
            return concordance(*outcomes, held.risks[of]) - concordance(*outcomes, risks[of])

        assert found[name]["concordance"]["value"] == concordance(held.times, held.events, risks)
        difference = found[name]["difference"]
        assert difference["value"] == pytest.approx(gain(np.arange(N)), abs=1e-12)
        limits = percentile_interval(resampled(gain, N, draws=25))
        assert (difference["low"], difference["high"]) == pytest.approx(limits, abs=1e-9)


def test_what_was_found_is_said_in_words(held):
    """Ranking against chance and against clinical variables, better parts, and families without evidence of a gain."""
    against = replace(held, combinations=held.combinations | {"clinical": -held.risks})
    found = held_out_figures(against, draws=50)
    first, *others = training_finding(found, simulated=True)
    assert first.startswith("The ranking is told from chance: nested held-out C is ")
    assert "The model with all modalities ranks better than clinical variables alone: difference of C +" in first
    assert first.endswith("The patients are simulated: these figures mean nothing clinically.")
    # The second family is the truth itself: alone it ranks better than the reported risks.
    assert others[0].startswith(
        "No evidence that 2 families together rank better than the best of them alone (gated $a"
    )
    useless = replace(held, combinations=held.combinations | {"rna": held.candidates["gated $a_b$"]})
    assert (
        "has a higher C than all of them (difference all − part: rna -"
        in training_finding(held_out_figures(useless, draws=50), simulated=False)[-1]
    )
    reversed_risks = replace(held, risks=-held.risks, combinations={}, candidates={})
    first, second = training_finding(held_out_figures(reversed_risks, draws=50), simulated=False)
    assert first.startswith("The ranking is worse than chance: ") and "clinical" not in first
    assert second.startswith("The high-risk group does better than the low-risk group: hazard ratio")


def test_a_date_is_in_the_title_where_one_is_stated(held, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    write_report(tmp_path, held, [], {}, draws=2, subject="cohort & co, 2 families")
    assert "<h1>Held-out performance: cohort &amp; co, 2 families, 2023-11-14</h1>" in (
        tmp_path / "report.html"
    ).read_text(encoding="utf-8")


def test_items_of_the_reporting_guideline_point_to_sections(written):
    text = (written / "report.html").read_text(encoding="utf-8")
    listed = text[text.index('<h2 id="tripod">') :]
    assert [item in listed for item in ("12a", "12e", "20a", "21", "22", "23a")] == [True] * 6
