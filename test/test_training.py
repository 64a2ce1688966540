"""The loss against lifelines, what held-out patients may not touch, and the whole way to a bundle."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY, edit_json
from lifelines import CoxPHFitter
from sklearn.preprocessing import StandardScaler

from survfuse.bundle import load, load_members
from survfuse.cli import main as survfuse
from survfuse.clinical import fit_vocabulary
from survfuse.cohort import read_cohort
from survfuse.errors import InputError
from survfuse.fusion import Sizes, build
from survfuse.rna import Expression
from survfuse.simulate import Patients, simulate
from survfuse.training import EfronLoss, FoldTransform


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("latest", [6, 60])
def test_cox_loss_is_lifelines_efron_likelihood(seed, latest):
    """At lifelines' own estimate, and heavily tied where follow-up ends after six months."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(random.standard_normal((40, 2)), columns=["a", "b"])
    frame["time"] = random.integers(1, latest, 40).astype(float)
    frame["event"] = random.random(40) < 0.6
    fitted = CoxPHFitter().fit(frame, "time", "event")
    risk = torch.tensor(frame[["a", "b"]].to_numpy() @ fitted.params_.to_numpy(), requires_grad=True)
    loss = EfronLoss(frame["time"].to_numpy(), frame["event"].to_numpy())(risk)
    assert loss.item() * frame["event"].sum() == pytest.approx(-fitted.log_likelihood_, rel=1e-6)
    loss.backward()
    # At the maximum the likelihood does not change along either covariate.
    gradient = risk.grad.numpy() @ frame[["a", "b"]].to_numpy()
    assert np.abs(gradient).max() < 1e-4


def test_cox_loss_withstands_large_risks_and_needs_events():
    times, events = np.arange(1.0, 7.0), np.array([1, 0, 1, 1, 0, 1], dtype=bool)
    loss = EfronLoss(times, events)
    risk = torch.tensor([300.0, -200.0, 0.0, 250.0, 1.0, 2.0])
    assert loss(risk).isfinite()
    assert loss(risk + 1000.0).item() == pytest.approx(loss(risk).item(), rel=1e-9)
    with pytest.raises(InputError, match="at least one event"):
        EfronLoss(times, np.zeros(6, dtype=bool))


CLINICAL = [
    {"age": int(age), "sex": sex, "no_instillations": count, "grade": grade}
    for age, sex, count, grade in zip(
        [60, 71, 55, 80, 64, 77],
        ["M", "F", "M", "M", "F", "M"],
        [5, -1, 20, 30, -1, 12],
        ["G3"] * 4 + ["G2"] * 2,
        strict=True,
    )
]


def test_fold_transform_standardises_by_the_training_patients_alone():
    random = np.random.default_rng(0)
    rna = random.standard_normal((6, 10))
    rna[:4, 3] = 2.0  # constant among the training patients
    vocabulary = fit_vocabulary(CLINICAL, list(CLINICAL[0]))
    vectors = np.stack([vocabulary.encode(patient).values for patient in CLINICAL]).astype(float)
    found_rna, found_clinical = FoldTransform.fit(rna[:4], vectors[:4], vocabulary).apply(rna, vectors)
    scaler = StandardScaler().fit(rna[:4])
    expected = scaler.transform(rna)
    expected[:, 3] = 0.0
    assert found_rna.numpy() == pytest.approx(expected, abs=1e-5)
    columns = dict(zip(vocabulary.columns, found_clinical.T.numpy(), strict=True))
    ages = np.array([patient["age"] for patient in CLINICAL], dtype=float)
    assert columns["age"] == pytest.approx((ages - ages[:4].mean()) / ages[:4].std(), abs=1e-5)
    counts = np.array([5.0, 20.0, 30.0])  # the training patients' known numbers
    assert columns["no_instillations"][1] == pytest.approx(0.0, abs=1e-6)  # missing: their mean
    assert columns["no_instillations"][5] == pytest.approx((12 - counts.mean()) / counts.std(), abs=1e-5)
    assert (columns["grade=G3"] == 0.0).all()  # every training patient is G3: no weight


def test_absorbed_members_take_the_bundles_inputs():
    random = np.random.default_rng(1)
    rna = random.standard_normal((6, 10))
    vocabulary = fit_vocabulary(CLINICAL, list(CLINICAL[0]))
    vectors = np.stack([vocabulary.encode(patient).values for patient in CLINICAL]).astype(float)
    sizes = Sizes(tile=5, bag=4, attention=3, genes=10, rna=(6, 4), clinical=vectors.shape[1], rank=3, pairs=(3, 2, 2))
    torch.manual_seed(0)
    network = build("bilinear", sizes).eval()
    transform = FoldTransform.fit(rna[:4], vectors[:4], vocabulary)
    tiles = torch.randn(6, 8, 5)
    with torch.no_grad():
        expected = network(tiles, *transform.apply(rna, vectors)).risk
        transform.absorb(network)
        found = network(tiles, torch.from_numpy(rna).float(), torch.from_numpy(vectors).float()).risk
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_trained_bundle_is_the_same_for_the_same_seed(cohort, bundle, tmp_path):
    assert survfuse(["train", str(cohort), "--out", str(tmp_path / "again"), *TINY]) == 0
    for path in sorted(bundle.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "again" / path.relative_to(bundle)).read_bytes()


def test_held_out_patients_do_not_touch_their_member(cohort, tmp_path):
    """With another outcome and bag for one patient, the members that held them out keep every bit of their weights."""
    changed = tmp_path / "changed"
    shutil.copytree(cohort, changed)
    patients = read_cohort(cohort)
    victim = next(name for name, event in zip(patients.ids, patients.events, strict=True) if event)
    edit_json(changed / "data" / victim / f"{victim}_CD.json", Time_to_prog_or_FUend=1)
    bag = changed / "features/features" / f"{victim}_HE.pt"
    torch.save(torch.load(bag, weights_only=True) + 5.0, bag)
    states = []
    for root in (cohort, changed):
        out = tmp_path / f"bundle-{root.name}"
        assert survfuse(["train", str(root), "--out", str(out), *TINY]) == 0
        states.append([member.state for member in load_members(load(out))])
    place = patients.ids.index(victim)
    splits = _held_out(patients.events)
    for number, (before, after) in enumerate(zip(*states, strict=True)):
        same = all(torch.equal(before[name], after[name]) for name in before)
        assert same == (place in splits[number // 2])


def test_held_out_patients_do_not_touch_the_standardisation_of_others(cohort):
    """With other expression and age for held-out patients, what the training patients' network is given stays."""
    patients = read_cohort(cohort)
    training, held_out = np.arange(40), np.arange(40, 60)
    changed = patients.expression.copy()
    changed[held_out] *= 7.0
    older = [
        patient | {"age": patient["age"] + 10} if row in held_out else patient
        for row, patient in enumerate(patients.clinical)
    ]
    given = []
    for expression, variables in ((patients.expression, patients.clinical), (changed, older)):
        vocabulary = fit_vocabulary(variables, list(variables[0]))
        vectors = np.stack([vocabulary.encode(patient).values for patient in variables]).astype(float)
        rna = Expression.fit(patients.genes, expression).transformed(expression).astype(float)
        transform = FoldTransform.fit(rna[training], vectors[training], vocabulary)
        given.append([part[training] for part in transform.apply(rna, vectors)])
    for before, after in zip(*given, strict=True):
        assert torch.allclose(before, after, atol=1e-4)


def _held_out(events: np.ndarray) -> list[np.ndarray]:
    from sklearn.model_selection import StratifiedKFold

    return [held for _, held in StratifiedKFold(2, shuffle=True, random_state=0).split(np.zeros(len(events)), events)]


def test_simulated_hazard_shows_in_the_outcomes():
    """A Cox model on the true log hazard finds its coefficient, 1, and the stated share of events."""
    from survfuse.simulate import _outcomes

    random = np.random.default_rng(3)
    hazard = Patients.draw(4000, random).log_hazard(1.0)
    times, events = _outcomes(hazard, random)
    frame = pd.DataFrame({"hazard": hazard, "time": times, "event": events})
    fitted = CoxPHFitter().fit(frame, "time", "event")
    assert fitted.params_["hazard"] == pytest.approx(1.0, abs=0.05)
    assert 0.25 < events.mean() < 0.45  # 36% in CHIMERA's training cohort


def test_a_simulated_cohort_has_the_published_layout(cohort):
    truth = json.loads((cohort / "simulation.json").read_text())
    patients = read_cohort(cohort)
    assert patients.simulated and set(truth["log_hazard"]) == set(patients.ids)
    assert len(patients.ids) == 60 and len(patients.genes) == 24
    for name, bag in zip(patients.ids, patients.bags, strict=True):
        coordinates = np.load(cohort / "features/coordinates" / f"{name}_HE.npy")
        assert coordinates.shape == (len(bag), 2) and bag.shape[1] == 1024
        variables = json.loads((cohort / "data" / name / f"{name}_CD.json").read_text())
        assert set(variables) == {
            *("age", "no_instillations", "sex", "smoking", "tumor", "stage", "substage", "grade", "reTUR", "LVI"),
            *("variant", "EORTC", "BRS", "progression", "Time_to_prog_or_FUend"),
        }
        assert (variables["substage"] == "-1") or variables["stage"] == "T1HG"


def test_simulated_symbols_are_real_genes(reference):
    from survfuse.simulate import _symbols

    known = set(json.loads((reference / "genes.json").read_text()))
    assert len(_symbols(None)) > 400 and set(_symbols(None)) <= known


def test_a_simulated_cohort_repeats_for_its_seed_only(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        simulate(tmp_path / name, 3, seed, genes=10, tiles=3)
    read = [(tmp_path / name / "data/3S_1/3S_1_RNA.json").read_text() for name in "abc"]
    assert read[0] == read[1] != read[2]


def test_every_broken_patient_is_reported_at_once(cohort, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(cohort, broken)
    (broken / "data/3S_01/3S_01_RNA.json").unlink()
    (broken / "features/features/3S_02_HE.pt").write_bytes(b"torn")
    path = broken / "data/3S_03/3S_03_CD.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"progression": 2}))
    assert survfuse(["train", str(broken), "--out", str(tmp_path / "none"), *TINY]) == 2
    message = capsys.readouterr().err
    assert "3 patients cannot be used" in message
    assert all(f"3S_0{number}:" in message for number in (1, 2, 3))
    assert not (tmp_path / "none").exists()
