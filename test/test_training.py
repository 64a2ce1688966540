"""The loss against lifelines, what held-out patients may not touch, and the whole way to a bundle."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY, edit_json
from lifelines import CoxPHFitter
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.preprocessing import StandardScaler
from sksurv.metrics import concordance_index_censored

from survfuse import simulate as simulation
from survfuse import training
from survfuse.bundle import load, load_members
from survfuse.cli import main as survfuse
from survfuse.clinical import fit_vocabulary
from survfuse.cohort import read_cohort
from survfuse.ensemble import Ensemble
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


def test_cox_loss_withstands_any_spread_and_needs_events():
    """Where risks are thousands apart, each event's term is its distance to the highest risk still at risk."""
    times, events = np.arange(1.0, 7.0), np.array([1, 0, 1, 1, 0, 1], dtype=bool)
    loss = EfronLoss(times, events)
    risk = torch.tensor([3000.0, -2000.0, 0.0, 2500.0, 10000.0, 2.0])
    expected = np.mean([10000.0 - 3000.0, 10000.0 - 0.0, 10000.0 - 2500.0, 0.0])
    assert loss(risk).item() == pytest.approx(expected, rel=1e-6)
    assert loss(risk + 1000.0).item() == pytest.approx(expected, rel=1e-6)
    two = EfronLoss(np.array([2.0, 1.0]), np.ones(2, dtype=bool))
    assert two(torch.tensor([0.0, 800.0])).item() == pytest.approx(0.0)
    with pytest.raises(InputError, match="at least one event"):
        EfronLoss(times, np.zeros(6, dtype=bool))


@pytest.mark.parametrize("seed", range(3))
def test_cox_loss_is_efrons_formula_written_out(seed):
    random = np.random.default_rng(seed)
    times, events = random.integers(1, 5, 15).astype(float), random.random(15) < 0.7
    risk = random.normal(0.0, 2.0, 15)
    total = 0.0
    for time in np.unique(times[events]):
        tied = np.flatnonzero((times == time) & events)
        at_risk = np.exp(risk[times >= time]).sum()
        for k in range(len(tied)):
            total += risk[tied[k]] - np.log(at_risk - k / len(tied) * np.exp(risk[tied]).sum())
    assert EfronLoss(times, events)(torch.from_numpy(risk)).item() == pytest.approx(-total / events.sum(), rel=1e-10)


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


def test_a_gene_that_few_express_gets_no_weight():
    """One of forty training patients expresses it, by a hair: a patient who expresses it well must stay in bounds."""
    rna = np.random.default_rng(3).standard_normal((41, 3))
    rna[:, 1] = np.float32(-0.1)
    rna[0, 1] += 1e-6
    rna[40, 1] = 20.0
    vectors = np.zeros((41, 7))
    vocabulary = fit_vocabulary([{"sex": "M"}, {"sex": "F"}], ["sex"])
    found, _ = FoldTransform.fit(rna[:40], vectors[:40, :3], vocabulary).apply(rna, vectors[:, :3])
    assert (found[:, 1] == 0.0).all()
    assert found[:40, 0].std(unbiased=False).item() == pytest.approx(1.0, abs=1e-5)


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


def test_missing_genes_are_imputed_by_the_training_patients_alone():
    random = np.random.default_rng(2)
    rna = random.standard_normal((6, 10))
    rna[1, 4] = rna[5, 4] = np.nan
    rna[:4, 6] = np.nan  # no training patient has it
    vocabulary = fit_vocabulary(CLINICAL, list(CLINICAL[0]))
    vectors = np.stack([vocabulary.encode(patient).values for patient in CLINICAL]).astype(float)
    found, _ = FoldTransform.fit(rna[:4], vectors[:4], vocabulary).apply(rna, vectors)
    known = rna[[0, 2, 3], 4]
    assert found[[0, 2, 3], 4].numpy() == pytest.approx((known - known.mean()) / known.std(), abs=1e-5)
    assert found[[1, 5], 4].tolist() == [0.0, 0.0]  # the training patients' mean
    assert (found[:, 6] == 0.0).all()


def test_the_written_bundle_is_what_training_measured(cohort, bundle):
    """From the files alone: folds made again, each member's risks for its inner and its held-out patients."""
    patients, frozen = read_cohort(cohort), load(bundle)
    members = load_members(frozen)
    rna = torch.from_numpy(frozen.expression.transformed(patients.expression))
    clinical = torch.from_numpy(np.stack([frozen.vocabulary.encode(values).values for values in patients.clinical]))
    everyone = np.arange(len(patients.ids))
    reference = np.zeros(len(everyone))
    for number, member in enumerate(members):
        held_out = _held_out(patients.events)[number // 2]
        training = np.setdiff1d(everyone, held_out)
        seed = int(np.random.SeedSequence([0, number]).generate_state(1)[0])
        _, inner = train_test_split(training, test_size=0.2, random_state=seed, stratify=patients.events[training])
        alone = Ensemble([member])
        risks = np.array([alone(patients.bags[row], rna[row], clinical[row]).member_risks[0] for row in everyone])
        assert member.location == pytest.approx(risks[inner].mean(), abs=1e-5)
        assert member.scale == pytest.approx(risks[inner].std(), abs=1e-5)
        reference[held_out] += (risks[held_out] - member.location) / member.scale / 2
    assert frozen.calibration.reference_risks == pytest.approx(np.sort(reference), abs=1e-3)
    found = concordance_index_censored(patients.events, patients.times, reference)[0]
    assert frozen.manifest.provenance["concordance_out_of_fold"] == pytest.approx(found, abs=2e-4)


def test_members_stop_where_their_inner_patients_are_predicted_best(cohort, monkeypatch):
    """Losses are recorded as they are taken; the epoch kept is the inner minimum, and its weights are restored."""
    patients = read_cohort(cohort)
    taken: list[tuple[int, float]] = []

    class Recorded(EfronLoss):
        def __call__(self, risk):
            value = super().__call__(risk)
            taken.append((len(risk), float(value.detach())))
            return value

    monkeypatch.setattr(training, "EfronLoss", Recorded)
    rna = Expression.fit(patients.genes, patients.expression).transformed(patients.expression).astype(float)
    vocabulary = fit_vocabulary(patients.clinical, list(patients.clinical[0]))
    vectors = np.stack([vocabulary.encode(values).values for values in patients.clinical]).astype(float)
    transform = FoldTransform.fit(rna, vectors, vocabulary)
    inputs = training._Inputs(training.Bags.of(patients.bags), *transform.apply(rna, vectors))
    sizes = Sizes(
        tile=1024, bag=8, attention=4, genes=24, rna=(8, 6), clinical=vectors.shape[1], rank=4, pairs=(4, 3, 2)
    )
    protocol = training.Protocol(epochs=40, patience=40, learning_rate=0.01)
    rows = np.arange(40)
    network, epoch, inner = training._fit_member(patients, inputs, rows, sizes, protocol, 0)
    found = [value for number, value in taken if number == len(inner)]
    assert len(inner) == 8 and len(found) == 40 and set(inner) < set(rows)
    assert epoch == int(np.argmin(found)) + 1 < 40
    with torch.no_grad():
        kept = EfronLoss(patients.times[inner], patients.events[inner])(inputs.risks(network, inner).risk)
    assert float(kept) == pytest.approx(min(found), rel=1e-5)


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
    members = []
    for root in (cohort, changed):
        out = tmp_path / f"bundle-{root.name}"
        assert survfuse(["train", str(root), "--out", str(out), *TINY]) == 0
        members.append(load_members(load(out)))
    states = [[member.state for member in trained] for trained in members]
    place = patients.ids.index(victim)
    splits = _held_out(patients.events)
    same = [all(torch.equal(b[name], a[name]) for name in b) for b, a in zip(*states, strict=True)]
    held_out = [place in splits[number // 2] for number in range(4)]
    assert [kept for kept, out in zip(same, held_out, strict=True) if out] == [True, True]
    # Of the others, one that was fitted to the patient differs; an inner patient may leave the best epoch as it is.
    assert not all(kept for kept, out in zip(same, held_out, strict=True) if not out)
    scales = [[(m.location, m.scale) for m, out in zip(r, held_out, strict=True) if out] for r in members]
    assert scales[0] == scales[1]


def test_held_out_patients_do_not_touch_the_standardisation_of_others(cohort):
    """With other expression and age for held-out patients, what the training patients' network is given stays."""
    patients = read_cohort(cohort)
    others, held_out = np.arange(40), np.arange(40, 60)
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
        transform = FoldTransform.fit(rna[others], vectors[others], vocabulary)
        given.append([part[others] for part in transform.apply(rna, vectors)])
    for before, after in zip(*given, strict=True):
        assert torch.allclose(before, after, atol=1e-4)


def _held_out(events: np.ndarray) -> list[np.ndarray]:
    return [held for _, held in StratifiedKFold(2, shuffle=True, random_state=0).split(np.zeros(len(events)), events)]


def test_simulated_outcomes_follow_the_stated_hazard():
    """A Cox model on the hidden covariates finds each stated effect, interactions included, and its events."""
    patients = Patients.draw(6000, np.random.default_rng(3))
    times, events = simulation._outcomes(patients.log_hazard(1.0), np.random.default_rng(4))
    first, second = patients.programmes[:, 0], patients.programmes[:, 1]
    frame = pd.DataFrame({"aggressive_share": patients.aggressive, "programme_1": first, "programme_2": second})
    frame["age"], frame["T1"], frame["LVI"] = patients.age, patients.t1.astype(float), patients.lvi.astype(float)
    frame["aggressive_share × programme_1"] = patients.aggressive * first
    frame["programme_2 × T1"] = second * (patients.t1 - 0.7)
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
        bag, coordinates = simulation._bag(aggressive, 40, phenotypes, random)
        nearest = np.linalg.norm(bag[:, None] - centres, axis=-1).argmin(axis=1)
        shares.append((nearest == 0).mean())
        assert len(np.unique(coordinates, axis=0)) == len(bag)
    assert spearmanr(shares, patients.aggressive[:100]).statistic > 0.8


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


def test_options_that_cannot_be_met_are_refused_before_training(cohort, tmp_path, capsys):
    (tmp_path / "bad.bin").write_text("no weights")
    for options in (
        ["--assume-mpp=0"],
        ["--assume-mpp=nan"],
        ["--folds=1"],
        ["--learning-rate=0"],
        ["--mpp=100"],
        ["--bag=0", "--rank=2"],
        ["--rank=-1"],
        ["--seed=-1"],
        [f"--weights={tmp_path / 'bad.bin'}"],
    ):
        assert survfuse(["train", str(cohort), "--out", str(tmp_path / "none"), *TINY, *options]) == 2
        captured = capsys.readouterr()
        assert len(captured.err.splitlines()) == 1 and "member" not in captured.out
    assert not (tmp_path / "none").exists()
    assert survfuse(["simulate", str(tmp_path / "none"), "--patients", "3", "--seed", "-1"]) == 2


def test_a_model_folder_with_its_readme_takes_a_bundle(cohort, tmp_path):
    (tmp_path / "README.md").write_text("your bundle goes here")
    assert survfuse(["train", str(cohort), "--out", str(tmp_path), *TINY]) == 0
    load(tmp_path)
    assert survfuse(["train", str(cohort), "--out", str(tmp_path), *TINY]) == 2


def test_raw_expression_and_rank_calibration_can_be_chosen(cohort, tmp_path):
    out = tmp_path / "raw"
    options = ["--transform", "identity", "--calibration", "rank"]
    assert survfuse(["train", str(cohort), "--out", str(out), *TINY, *options]) == 0
    frozen, patients = load(out), read_cohort(cohort)
    assert (frozen.expression.transform, frozen.calibration.mode) == ("identity", "rank")
    case = dict(zip(patients.genes, patients.expression[0].tolist(), strict=True))
    assert frozen.expression.encode(case).values == pytest.approx(patients.expression[0], rel=1e-6)
    assert not frozen.expression.encode(case).warnings
    assert frozen.expression.encode({gene: 1000 * value for gene, value in case.items()}).warnings


def test_each_member_is_standardised_by_its_folds_training_patients(cohort, tmp_path, monkeypatch):
    fitted = []
    fit = FoldTransform.fit

    def recorded(rna, clinical, vocabulary):
        fitted.append((rna, clinical))
        return fit(rna, clinical, vocabulary)

    monkeypatch.setattr(training.FoldTransform, "fit", recorded)
    assert survfuse(["train", str(cohort), "--out", str(tmp_path / "out"), *TINY]) == 0
    patients = read_cohort(cohort)
    rna = Expression.fit(patients.genes, patients.expression).transformed(patients.expression)
    for number, (given, variables) in enumerate(fitted):
        others = np.setdiff1d(np.arange(60), _held_out(patients.events)[number // 2])
        assert np.array_equal(given, rna[others]) and len(variables) == len(others)
    assert len(fitted) == 4


def test_a_cohort_too_small_for_its_inner_parts_is_refused(cohort, tmp_path, capsys):
    """With every outcome but four censored, no fold has an event to spare for deciding when to stop."""
    few = tmp_path / "few"
    shutil.copytree(cohort, few)
    patients = read_cohort(cohort)
    happened = [name for name, event in zip(patients.ids, patients.events, strict=True) if event]
    for name in happened[4:]:
        edit_json(few / "data" / name / f"{name}_CD.json", progression=0)
    assert survfuse(["train", str(few), "--out", str(tmp_path / "none"), *TINY]) == 2
    assert "fold 1 trains on 2 events and 28 patients without" in capsys.readouterr().err
