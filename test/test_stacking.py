"""Weights against a plain optimiser, the ensemble's scale against new patients, what held-out patients may touch."""

import numpy as np
import pytest
from scipy.optimize import minimize

from survfuse.networks.families import families_of
from survfuse.runtime.errors import InputError
from survfuse.survival.metrics import concordance
from survfuse.training.family_weights import family_weights
from survfuse.training.folds import nested_splits
from survfuse.training.stacking import MemberRisks, stack

MODALITIES = ("slide", "rna", "clinical")
FAMILIES = families_of(MODALITIES)


def efron(risk: np.ndarray, times: np.ndarray, events: np.ndarray) -> float:
    """Negative log partial likelihood for each event, written out."""
    total = 0.0
    for time in np.unique(times[events]):
        tied = np.flatnonzero((times == time) & events)
        at_risk = np.exp(risk[times >= time]).sum()
        for k in range(len(tied)):
            total += np.log(at_risk - k / len(tied) * np.exp(risk[tied]).sum()) - risk[tied[k]]
    return total / events.sum()


@pytest.mark.parametrize("seed", range(4))
def test_weights_minimise_the_penalised_likelihood(seed):
    """Against Nelder–Mead on the loss written out, for weights squared to be non-negative."""
    random = np.random.default_rng(seed)
    signal = random.standard_normal(150)
    risks = np.stack([signal + noise * random.standard_normal(150) for noise in (0.7, 1.5, 4.0)], axis=1)
    risks /= risks.std(axis=0)
    times, events = np.ceil(30.0 * random.exponential(np.exp(-signal))), random.random(150) < 0.6

    def objective(root: np.ndarray) -> float:
        weights = root**2
        return efron(risks @ weights, times, events) + 0.5 / 2.0 * ((weights - weights.mean()) ** 2).sum()

    best = minimize(
        objective, np.full(3, 0.5), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-10, "maxiter": 4000}
    )
    expected = best.x**2 / (best.x**2).sum()
    expected[expected < 0.03] = 0.0
    assert family_weights(risks, times, events, 0.5) == pytest.approx(expected / expected.sum(), abs=2e-3)


def test_weights_leave_out_what_is_worse_than_nothing_and_share_what_is_alike():
    random = np.random.default_rng(1)
    signal = random.standard_normal(300)
    times, events = random.exponential(np.exp(-signal)), np.ones(300, dtype=bool)
    weights = family_weights(np.stack([signal, -signal], axis=1), times, events)
    assert weights.tolist() == [1.0, 0.0]
    assert family_weights(np.stack([signal, signal, signal], axis=1), times, events) == pytest.approx(np.full(3, 1 / 3))
    assert family_weights(np.stack([-signal, -signal], axis=1), times, events).tolist() == [0.5, 0.5]
    assert family_weights(signal[:, None], times, events).tolist() == [1.0]


class Simulated:
    """Members whose risks are a shared signal with noise of their fold and of their own, for patients seen and new."""

    def __init__(self, seed: int, patients: int = 400, new: int = 20_000, repeats: int = 1) -> None:
        random = np.random.default_rng(seed)
        self.signal = random.standard_normal(patients + new)
        self.times = np.ceil(60.0 * random.exponential(np.exp(-self.signal[:patients])))
        self.events = random.random(patients) < 0.7
        self.splits = nested_splits(self.times, self.events, 5, 5, repeats, seed)
        self.members, self.new = [], {}
        for family, noise in (("clinical", 1.0), ("concat", 0.8)):
            shared = {}
            for split in self.splits:
                of_fold = shared.setdefault(split.fold_key, random.standard_normal(patients + new))
                own = random.standard_normal(patients + new)
                risks = 3.0 + 2.0 * (self.signal + noise * (0.9 * of_fold + own))
                seen = risks[:patients].copy()
                seen[split.fitted] = np.nan
                known = {("clinical",): seen} if family == "clinical" else {MODALITIES: seen}
                # Two steps: the second is the one kept, and the better one for everybody.
                by_step = {own: np.stack([0.0 * risk[split.inner], risk[split.inner]]) for own, risk in known.items()}
                self.members.append(MemberRisks(FAMILIES[family], split, known, np.array([2.0, 1.0]), by_step))
                self.new[family, split.name] = risks[patients:]

    def ensemble(self, stacked) -> np.ndarray:
        total = sum(s.weight * (self.new[key] - s.location) / s.scale for key, s in stacked.standings.items())
        return (total - stacked.location) / stacked.scale


@pytest.mark.parametrize("repeats", [1, 2])
def test_risks_of_new_patients_have_the_spread_of_the_reference_risks(repeats):
    """A new patient is predicted by every member, a patient of the cohort by a fold's: without a scale of their own,
    new risks would lie too close to the middle. Averaged over cohorts, for the estimate varies with each."""
    spreads, raw, centres = [], [], []
    for seed in range(12):
        drawn = Simulated(seed, repeats=repeats)
        stacked = stack(drawn.members, MODALITIES, drawn.times, drawn.events)
        found = drawn.ensemble(stacked)
        spreads.append(found.std())
        held_out = np.concatenate([risks.held_out for risks in stacked.folds.values()])
        raw.append(found.std() * stacked.scale / np.nanstd(held_out))
        centres.append(found.mean())
        assert stacked.reference.mean() == pytest.approx(0.0, abs=1e-9)
        assert stacked.reference.std() == pytest.approx(1.0)
    assert np.mean(raw) < 0.9  # what it would have been
    assert np.mean(spreads) == pytest.approx(1.0, abs=0.03)
    assert np.mean(centres) == pytest.approx(0.0, abs=0.05)


def test_weights_of_a_folds_members_sum_to_its_share():
    drawn = Simulated(0, new=1)
    stacked = stack(drawn.members, MODALITIES, drawn.times, drawn.events)
    assert sum(standing.weight for standing in stacked.standings.values()) == pytest.approx(1.0)
    for fold, shares in stacked.shares.items():
        assert sum(shares.values()) == pytest.approx(1.0)
        for family, share in shares.items():
            own = [stacked.standings[family, s.name].weight for s in drawn.splits if s.fold_key == fold]
            assert own == pytest.approx([share / 25] * 5)
    assert set(stacked.candidates) == {"clinical", "concat"}
    assert concordance(drawn.times, drawn.events, stacked.reference) > concordance(
        drawn.times, drawn.events, stacked.candidates["clinical"]
    )


def test_held_out_outcomes_touch_no_weight_of_their_fold():
    """With other outcomes for the patients of one fold, it keeps its weights, and others change theirs."""
    drawn = Simulated(3, new=1)
    before = stack(drawn.members, MODALITIES, drawn.times, drawn.events)
    rows = next(split.held_out for split in drawn.splits if split.fold == 2)
    times, events = drawn.times.copy(), drawn.events.copy()
    times[rows], events[rows] = times[rows][::-1], events[rows][::-1]
    after = stack(drawn.members, MODALITIES, times, events)
    assert before.shares[0, 2] == after.shares[0, 2]
    assert all(before.shares[0, fold] != after.shares[0, fold] for fold in (0, 1, 3, 4))


def test_a_missing_modality_leaves_the_families_that_can_do_without():
    drawn = Simulated(1, new=1)
    alone = stack(drawn.members, ("clinical",), drawn.times, drawn.events)
    assert {family for family, _ in alone.standings} == {"clinical"}
    assert alone.reference.std() == pytest.approx(1.0)


def test_families_that_tell_nobody_apart_weigh_nothing():
    drawn = Simulated(2, new=1)
    flat = [
        MemberRisks(
            m.family,
            m.split,
            {own: np.where(np.isnan(risk), risk, 1.0) for own, risk in m.risks.items()},
            m.losses,
            {own: np.ones_like(risk) for own, risk in m.risks_by_step.items()},
        )
        if m.family.name == "concat"
        else m
        for m in drawn.members
    ]
    stacked = stack(flat, MODALITIES, drawn.times, drawn.events)
    assert all(shares == {"clinical": 1.0} for shares in stacked.shares.values())
    with pytest.raises(InputError, match="nothing was learnt"):
        stack([m for m in flat if m.family.name == "concat"], MODALITIES, drawn.times, drawn.events)


def test_a_family_is_judged_at_steps_that_its_patients_did_not_choose():
    """A family of pure noise with a hundred steps: at each member's best step its inner patients look well predicted,
    at the steps that the other members choose they do not."""
    judged, flattered = [], []
    for seed in range(6):
        drawn = Simulated(seed, patients=200, new=1)
        random = np.random.default_rng(100 + seed)
        noise = []
        for split in drawn.splits:
            steps = random.standard_normal((100, len(split.inner)))
            own = [efron(step, drawn.times[split.inner], drawn.events[split.inner]) for step in steps]
            best = int(np.argmin(own))
            risks = random.standard_normal(200)
            risks[split.fitted] = np.nan
            risks[split.inner] = steps[best]
            by_step = {MODALITIES: steps}
            noise.append(MemberRisks(FAMILIES["concat"], split, {MODALITIES: risks}, np.array(own), by_step))
            flattered.append(concordance(drawn.times[split.inner], drawn.events[split.inner], steps[best]))
        for risks in stack(noise, MODALITIES, drawn.times, drawn.events).folds.values():
            rows = np.flatnonzero(~np.isnan(risks.inner_at_others_step))
            judged.append(concordance(drawn.times[rows], drawn.events[rows], risks.inner_at_others_step[rows]))
    assert np.mean(flattered) > 0.6
    assert np.mean(judged) == pytest.approx(0.5, abs=0.02)
