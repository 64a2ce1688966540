"""Nested predictions of held-out patients, and the curves a bundle stores, against loops and lifelines."""

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from test_stacking import MODALITIES, Simulated

from survfuse.cohort.read import Cohort
from survfuse.evaluation.summary import HeldOut
from survfuse.survival.calibration import Calibration
from survfuse.training.held_out import held_out
from survfuse.training.protocol import Protocol
from survfuse.training.stacking import Stacked, stack


def nested(drawn: Simulated, times: np.ndarray, events: np.ndarray, repeats: int = 1) -> tuple[Stacked, HeldOut]:
    stacked = stack(drawn.members, MODALITIES, times, events)
    ids = tuple(map(str, range(len(times))))
    cohort = Cohort(ids, times, events, None, (), None, tuple({} for _ in ids), simulated=True, encoder=None)
    return stacked, held_out(cohort, Protocol(repeats=repeats), stacked)


def test_held_out_outcomes_touch_no_curve_and_no_months_of_their_fold():
    """With other outcomes for the patients of one fold, their own curves and months stay as they were to the last
    bit, and those of all others change."""
    drawn = Simulated(3, patients=150, new=1)
    rows = next(split.held_out for split in drawn.splits if split.fold == 2)
    times, events = drawn.times.copy(), drawn.events.copy()
    times[rows], events[rows] = times[rows][::-1], events[rows][::-1]
    (_, before), (_, after) = nested(drawn, drawn.times, drawn.events), nested(drawn, times, events)
    assert np.array_equal(before.grid, after.grid)
    assert np.array_equal(before.survival[rows], after.survival[rows])
    assert np.array_equal(before.months[rows], after.months[rows])
    others = np.setdiff1d(np.arange(150), rows)
    assert (before.survival[others] != after.survival[others]).any(axis=1).all()
    assert (before.months[others] != after.months[others]).mean() > 0.9


def test_curves_and_months_of_a_patient_written_out():
    """Two repeats: for some patients, each fold's Cox model of its inner risks, made as much steeper as single members
    spread further than their mean over the others held out, with Breslow's sum; averaged over the repeats."""
    drawn = Simulated(5, patients=150, new=1, repeats=2)
    stacked, found = nested(drawn, drawn.times, drawn.events, repeats=2)
    for patient in (0, 40, 149):
        survival, months = np.zeros(len(found.grid)), 0.0
        for fold in stacked.folds.values():
            if np.isnan(fold.held_out[patient]):
                continue
            others = [row for row in np.flatnonzero(~np.isnan(fold.held_out)) if row != patient]
            single = np.mean([np.std(risks[others]) for risks in fold.singles])
            ratio = single / np.std(fold.held_out[others])
            assert ratio > 1.05  # members differ, so their mean spreads less
            assert fold.held_out[patient] == pytest.approx(fold.singles[:, patient].mean())
            rows = np.flatnonzero(~np.isnan(fold.inner_at_others_step))
            inner, times, events = fold.inner_at_others_step[rows], drawn.times[rows], drawn.events[rows]
            table = pd.DataFrame({"risk": inner, "time": times, "event": events})
            slope = CoxPHFitter().fit(table, "time", "event").params_["risk"] * ratio
            hazard = [
                sum(
                    (events & (times == t)).sum() / np.exp(slope * inner[times >= t]).sum()
                    for t in np.unique(times)
                    if t <= at
                )
                for at in found.grid
            ]
            risk = fold.held_out[patient] * ratio
            survival += np.exp(-np.array(hazard) * np.exp(slope * risk)) / 2
            months += float(Calibration.fit(times, events, inner).months(risk).months) / 2
        assert found.survival[patient] == pytest.approx(survival, abs=1e-5)
        assert found.months[patient] == pytest.approx(months, rel=1e-9)
    assert np.corrcoef(found.risks, found.months)[0, 1] < -0.8
    first = {row: split.fold for split in drawn.splits if split.repeat == 0 for row in split.held_out}
    assert found.folds.tolist() == [first[row] for row in range(150)]
