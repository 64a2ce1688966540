"""Figures that depend on order alone, whatever the scale of the risks; and silence on degenerate cohorts."""

import numpy as np
import pytest
from conftest import survfuse

from survfuse.survival.metrics import auc_at, challenge_concordance, concordance, uno_concordance

RANDOM = np.random.default_rng(3)
TIMES = RANDOM.exponential(40.0, 80).round() + 1.0
EVENTS = RANDOM.random(80) < 0.5
RISKS = -np.log(TIMES) + RANDOM.normal(0.0, 1.0, 80)


def by_counting(times, events, risks) -> float:
    """Harrell's concordance, pair by pair."""
    agree = pairs = 0.0
    for i in np.flatnonzero(events):
        for j in range(len(times)):
            if times[j] > times[i] or (times[j] == times[i] and not events[j]):
                pairs += 1.0
                agree += float(risks[i] > risks[j]) + 0.5 * float(risks[i] == risks[j])
    return agree / pairs


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e-300, 1e9])
def test_harrell_s_c_is_that_of_the_pairs_at_every_scale(scale):
    assert concordance(TIMES, EVENTS, scale * RISKS) == pytest.approx(by_counting(TIMES, EVENTS, RISKS), abs=1e-12)


@pytest.mark.parametrize("scale", [1e-9, 1e-300, 1e9])
def test_uno_s_c_and_the_auc_do_not_depend_on_scale(scale):
    for measure in (
        lambda risks: uno_concordance(TIMES, EVENTS, TIMES, EVENTS, risks),
        lambda risks: auc_at(TIMES, EVENTS, TIMES, EVENTS, risks, [12.0, 36.0])[36.0],
    ):
        assert measure(scale * RISKS) == measure(RISKS) and 0.6 < measure(RISKS) < 1.0


def test_the_challenge_s_figure_keeps_its_definition_of_ties():
    """scikit-survival's default: months within 1e-8 count half."""
    assert challenge_concordance(TIMES, EVENTS, 1e-12 * TIMES) == pytest.approx(0.5)
    assert challenge_concordance(TIMES, EVENTS, TIMES) == pytest.approx(by_counting(TIMES, EVENTS, -TIMES), abs=1e-12)


@pytest.mark.parametrize(
    "rows",
    [
        ["10,1"] * 4,  # no pair can be ordered
        ["10,0"] * 4,
        ["10,1", "20,0", "20,0", "20,0"],
        ["0,1", "0,1", "5,0", "5,1"],
        ["7,1", "9,1"],
        ["7,0"],
    ],
)
def test_small_and_degenerate_cohorts_leave_stderr_empty(rows, tmp_path, capfd):
    names = "ABCD"[: len(rows)]
    predictions = "".join(f"{name},{place},{9 - place}\n" for place, name in enumerate(names))
    (tmp_path / "p.csv").write_text(f"case_id,risk,months\n{predictions}")
    (tmp_path / "o.csv").write_text(
        "case_id,time,event\n" + "".join(f"{n},{row}\n" for n, row in zip(names, rows, strict=True))
    )
    assert survfuse(["evaluate", str(tmp_path / "p.csv"), str(tmp_path / "o.csv")]) == 0
    assert capfd.readouterr().err == ""
