"""Simulated patients follow the hazard that is stated for them."""

import json

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge

from survfuse.cli.main import main as survfuse
from survfuse.cohort import simulate as simulation
from survfuse.cohort.read import read_cohort
from survfuse.cohort.simulate import Patients, simulate


def test_simulated_outcomes_follow_the_stated_hazard():
    """A Cox model on the hidden covariates finds each stated effect, interactions included, and its events."""
    patients = Patients.draw(6000, np.random.default_rng(3))
    times, events = simulation._outcomes(patients.log_hazard(1.0), np.random.default_rng(4))
    first, second = patients.programmes[:, 0], patients.programmes[:, 1]
    frame = pd.DataFrame({"aggressive_share": patients.aggressive, "programme_1": first, "programme_2": second})
    stage, invasive = patients.advanced.astype(float), patients.invasive.astype(float)
    frame["age"], frame["stage"], frame["invasion"] = patients.age, stage, invasive
    frame["aggressive_share × programme_1"] = patients.aggressive * first
    frame["programme_2 × stage"] = second * (patients.advanced - 0.7)
    frame["time"], frame["event"] = times, events
    found = CoxPHFitter().fit(frame, "time", "event").params_
    assert found.to_dict() == pytest.approx(simulation.MAIN_EFFECTS | simulation.INTERACTIONS, abs=0.12)
    assert 0.25 < events.mean() < 0.45  # 36% in CHIMERA's training cohort


def test_simulated_expression_and_bags_carry_the_hidden_state():
    """A ridge regression finds the programmes in the genes; aggressive patients have more aggressive tiles."""
    random = np.random.default_rng(5)
    patients = Patients.draw(600, random)
    logged = np.log1p(simulation._expression(patients, 200, random))
    for programme in range(2):
        target = patients.programmes[:, programme]
        fitted = Ridge(10.0).fit(logged[:400], target[:400])
        assert fitted.score(logged[400:], target[400:]) > 0.7
    phenotypes = simulation.drawn_phenotypes()
    centres = np.stack([examples.mean(axis=0) for examples in phenotypes])
    shares = []
    for aggressive in patients.aggressive[:100]:
        bag, coordinates, kinds = simulation._bag(aggressive, 40, phenotypes, random)
        nearest = np.linalg.norm(bag[:, None] - centres, axis=-1).argmin(axis=1)
        assert (nearest == kinds).all()
        shares.append((nearest == 0).mean())
        assert len(np.unique(coordinates, axis=0)) == len(bag)
    assert spearmanr(shares, patients.aggressive[:100]).statistic > 0.8


def test_a_simulated_cohort_has_the_published_layout(cohort, tmp_path):
    truth = json.loads((cohort / "simulation.json").read_text())
    patients = read_cohort(cohort, tmp_path)
    assert patients.simulated and set(truth["log_hazard"]) == set(patients.ids)
    assert len(patients.ids) == 60 and len(patients.genes) == 24
    for name, bag in zip(patients.ids, patients.bags, strict=True):
        coordinates = np.load(cohort / "features/coordinates" / f"{name}_HE.npy")
        assert coordinates.shape == (bag.tiles, 2) and bag.dimension == 1024
        variables = json.loads((cohort / "data" / name / f"{name}_CD.json").read_text())
        assert set(variables) == {
            *("age", "no_instillations", "sex", "smoking", "tumor", "stage", "substage", "grade", "reTUR", "LVI"),
            *("variant", "EORTC", "BRS", "progression", "Time_to_prog_or_FUend"),
        }
        assert (variables["substage"] == "-1") or variables["stage"] == "T1HG"


def test_simulated_symbols_are_real_genes(reference):
    from survfuse.cohort.simulate import _symbols

    known = set(json.loads((reference / "genes.json").read_text()))
    assert len(_symbols(None)) > 400 and set(_symbols(None)) <= known


def test_a_simulated_cohort_repeats_for_its_seed_only(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        simulate(tmp_path / name, 3, seed, genes=10, tiles=3)
    read = [(tmp_path / name / "data/3S_1/3S_1_RNA.json").read_text() for name in "abc"]
    assert read[0] == read[1] != read[2]


def test_impossible_cohorts_are_refused(tmp_path):
    assert survfuse(["simulate", str(tmp_path / "none"), "--patients", "3", "--seed", "-1"]) == 2
    assert survfuse(["simulate", str(tmp_path / "none"), "--patients", "3", "--seed", "1", "--genes", "2"]) == 2
    assert not (tmp_path / "none").exists()
