"""Members fitted together: each as if alone, with its own best epoch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from survfuse.cohort.bags import Bag
from survfuse.networks.build import build
from survfuse.networks.families import families_of
from survfuse.networks.sizes import Sizes
from survfuse.runtime.errors import InputError
from survfuse.survival.partial_likelihood import EfronLoss
from survfuse.tasks.modalities import all_combinations
from survfuse.training.fit_networks import FittedTogether, fit_networks
from survfuse.training.folds import Split, nested_splits, strata
from survfuse.training.member import Fitted, Prepared
from survfuse.training.member_risks import network_risks
from survfuse.training.protocol import Optimisation
from survfuse.training.tile_sampler import TileSampler

SIZES = Sizes(
    tile=6, bag=8, attention=4, genes=7, rna=(8, 6), clinical=5, rank=4, pairs=(4, 3, 2), hidden=5, embedding=3,
    factors=2, fused=4, stand_ins=True,
)  # fmt: skip
CPU = torch.device("cpu")
MODALITIES = ("slide", "rna", "clinical")
FAMILIES = families_of(MODALITIES)


@pytest.fixture(scope="module")
def cohort():
    """60 patients whose hazard follows their variables: bags of 3 to 9 tiles, outcomes, splits for 6 members."""
    random = np.random.default_rng(0)
    clinical = torch.from_numpy(random.standard_normal((60, 5))).float()
    rna = torch.from_numpy(random.standard_normal((60, 7))).float()
    bags = [
        Bag.of(torch.from_numpy(random.standard_normal((int(random.integers(3, 10)), 6))).float()) for _ in range(60)
    ]
    times = random.exponential(np.exp(-clinical[:, 0].numpy() - rna[:, 0].numpy())) * 50.0
    events = random.random(60) < 0.7
    members = [
        Prepared(split, 10 + place, {"rna": rna, "clinical": clinical})
        for place, split in enumerate(nested_splits(times, events, 3, 2, 1, seed=0))
    ]
    return members, bags, times, events


@pytest.fixture
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def fitted(cohort, members, family="bilinear", **changes) -> list[Fitted]:
    optimisation = replace(Optimisation(epochs=25, patience=4, learning_rate=0.01, tiles=4), **changes)
    _, bags, times, events = cohort
    sizes = replace(SIZES, stand_ins=optimisation.modality_dropout > 0.0)
    return fit_networks(FAMILIES[family], sizes, members, bags, times, events, optimisation, seed=3, device=CPU)


@pytest.mark.parametrize("family", ["bilinear", "concat", "tensor", "low-rank-tensor", "hierarchical", "rna+clinical"])
def test_members_fitted_together_equal_members_fitted_alone(cohort, family, double_precision):
    """Six members with patients, seeds, dropout and hidden modalities of their own, which stop at different epochs.

    In double precision: biases that shift every risk or score alike have no gradient but rounding, which Adam
    would blow up.
    """
    members = [
        replace(member, inputs={name: value.double() for name, value in member.inputs.items()}) for member in cohort[0]
    ]
    cohort = (members, *cohort[1:])
    together = fitted(cohort, cohort[0], family)
    for place, member in enumerate(cohort[0]):
        (alone,) = fitted(cohort, [member], family)
        assert alone.best_epoch == together[place].best_epoch
        assert len(alone.inner) == len(together[place].inner)
        assert alone.inner == pytest.approx(together[place].inner, rel=1e-9)
        for name, value in alone.state.items():
            assert torch.allclose(value, together[place].state[name], rtol=1e-8, atol=1e-8), name
    assert len({member.best_epoch for member in together}) > 1


def test_members_stop_where_their_inner_patients_are_predicted_best(cohort):
    """The epoch kept is the inner minimum, patience counts from it, and its weights are those given back."""
    members, bags, times, events = cohort
    for member, found in zip(members, fitted(cohort, members), strict=True):
        assert found.best_epoch == int(np.argmin(found.inner)) + 1
        assert len(found.inner) == len(found.training) == min(25, found.best_epoch + 4)
        network = build(FAMILIES["bilinear"], SIZES)
        network.load_state_dict(found.state)
        rows = member.split.inner
        tiles, present = TileSampler(bags, 16, 3, CPU)(0)
        with torch.no_grad():
            risk = network.eval()(
                tiles[rows], member.inputs["rna"][rows], member.inputs["clinical"][rows], present[rows]
            ).risk
        kept = EfronLoss([(times[rows], events[rows])])(risk[None])[0]
        assert float(kept) == pytest.approx(min(found.inner), rel=1e-5)


def test_inner_risks_of_each_combination_are_those_that_the_network_gives(cohort):
    """The step that was kept, under every combination of modalities: what the network says of a case that lacks the
    rest, and the same from a whole cohort's scoring."""
    members, bags, *_ = cohort
    found = fitted(cohort, members[:2], modality_dropout=0.3)
    for member, of in zip(members, found, strict=False):
        network = build(FAMILIES["bilinear"], SIZES).eval()
        network.load_state_dict(of.state)
        rows = member.split.inner
        combinations = all_combinations(MODALITIES)
        scored = network_risks(network, bags, member.inputs, combinations, rows.tolist(), CPU)
        assert list(of.risks_by_step) == list(scored) == combinations
        for combination in combinations:
            expected = []
            for row in rows:
                given = {"slide": bags[row].rows(None)} | {name: value[row] for name, value in member.inputs.items()}
                case = [value[None] if name in combination else None for name, value in given.items()]
                with torch.no_grad():
                    expected.append(float(network(*case).risk))
            assert np.std(expected) > 0.0
            assert of.risks_by_step[combination][of.best_epoch - 1].tolist() == pytest.approx(expected, abs=1e-5)
            assert scored[combination].tolist() == pytest.approx(expected, abs=1e-5)


def test_fitting_is_plain_adamw_on_the_cox_loss(cohort):
    """Without dropout or hidden modalities, the same epochs by torch's own loop over one network."""
    members, bags, times, events = cohort
    member = members[2]
    optimisation = Optimisation(epochs=6, patience=6, learning_rate=0.01, tiles=9, modality_dropout=0.0)
    sizes = replace(SIZES, stand_ins=False, dropout=0.0)
    family = FAMILIES["bilinear"]
    (found,) = fit_networks(family, sizes, [member], bags, times, events, optimisation, seed=3, device=CPU)
    torch.manual_seed(member.seed)
    network, rows = build(family, sizes), member.split.fitted
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=optimisation.weight_decay)
    tiles = torch.nn.utils.rnn.pad_sequence([bags[row].rows(None) for row in rows], batch_first=True)
    present = torch.arange(tiles.shape[1]) < torch.tensor([bags[row].tiles for row in rows])[:, None]
    loss, losses = EfronLoss([(times[rows], events[rows])]), []
    for _ in range(6):
        value = loss(network(tiles, member.inputs["rna"][rows], member.inputs["clinical"][rows], present).risk[None])[0]
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        losses.append(float(value.detach()))
    assert found.training == pytest.approx(losses, rel=1e-4)


def test_dropout_masks_and_hidden_modalities_have_their_rates(cohort):
    """Counted over a member's masks; a patient is never left without any modality."""
    members, _, times, events = cohort
    optimisation = Optimisation(modality_dropout=0.3)
    fitting = FittedTogether(FAMILIES["bilinear"], SIZES, members[:2], times, events, optimisation, CPU)
    masks = [fitting.masks(tiles=50) for _ in range(20)]
    for name, rate in (("bag", 0.25), ("gate", 1.0 - 0.75**2), ("rna.0", 0.25)):
        kept = torch.cat([keep[name][0].float().flatten() for keep, _ in masks])
        assert float(kept.mean()) == pytest.approx(1.0 - rate, abs=4.0 * (rate * (1 - rate) / len(kept)) ** 0.5)
    shown = torch.cat([available[0] for _, available in masks])
    assert shown.any(dim=1).all()
    # Hidden by the rate, but shown again where all three would be.
    assert float(shown.float().mean()) == pytest.approx(0.7 + 0.3**3, abs=0.03)
    assert not torch.equal(masks[0][0]["bag"][0], masks[0][0]["bag"][1])  # each member draws its own


def test_tiles_are_drawn_without_repeating_and_alike_for_a_seed():
    bags = [Bag.of(torch.arange(number * 2).reshape(number, 2).float()) for number in (3, 40, 12)]
    sampler = TileSampler(bags, 10, seed=5, device=CPU)
    first, present = sampler(1)
    assert first.shape == (3, 10, 2) and present.sum(dim=1).tolist() == [3, 10, 10]
    for place, bag in enumerate(bags):
        drawn = first[place][present[place]]
        assert len(torch.unique(drawn, dim=0)) == len(drawn)
        assert torch.isin(drawn[:, 0], bag.rows(None)[:, 0]).all()
    assert torch.equal(TileSampler(bags, 10, seed=5, device=CPU)(1)[0], first)
    assert not torch.equal(sampler(2)[0], first)
    seen = torch.cat([sampler(epoch)[0][1, :, 0] for epoch in range(1, 40)]).unique()
    assert len(seen) == 40  # every tile has its turn


def test_a_loss_that_is_never_finite_is_named(cohort):
    broken = replace(cohort[0][0], inputs=cohort[0][0].inputs | {"clinical": torch.full((60, 5), torch.nan)})
    with pytest.raises(InputError, match="training diverged"):
        fitted(cohort, [broken])


@pytest.mark.parametrize("seed", range(3))
def test_splits_part_every_patient_and_balance_event_and_time(seed):
    random = np.random.default_rng(seed)
    times, events = random.integers(1, 120, 176).astype(float), random.random(176) < 0.36
    splits = nested_splits(times, events, 5, 5, 2, seed)
    assert len(splits) == 50 and len({split.name for split in splits}) == 50
    for split in splits:
        together = np.concatenate([split.fitted, split.inner, split.held_out])
        assert sorted(together.tolist()) == list(range(176))
    for repeat in range(2):
        own = [split for split in splits if split.repeat == repeat]
        held = [next(s.held_out for s in own if s.fold == fold) for fold in range(5)]
        assert sorted(np.concatenate(held).tolist()) == list(range(176))
        counts = [int(events[rows].sum()) for rows in held]
        assert max(counts) - min(counts) <= 4
        for fold in range(5):
            inner = np.concatenate([split.inner for split in own if split.fold == fold])
            assert sorted(inner.tolist()) == sorted(np.setdiff1d(np.arange(176), held[fold]).tolist())
        early = times < np.median(times[events])
        shares = [(events & early)[rows].sum() / events[rows].sum() for rows in held]
        assert max(shares) - min(shares) < 0.35
    assert not np.array_equal(splits[0].held_out, splits[25].held_out)  # another repeat, another partition


def test_strata_tell_events_and_times_apart():
    times, events = np.arange(40.0), np.arange(40) % 2 == 0
    labels = strata(times, events, 5)
    assert len(set(labels.tolist())) == 8
    for label in set(labels.tolist()):
        rows = np.flatnonzero(labels == label)
        assert len(rows) == 5 and len(set(events[rows].tolist())) == 1
        assert np.ptp(times[rows]) <= 10.0


def test_a_cohort_too_small_for_its_parts_is_refused():
    times = np.arange(1.0, 61.0)
    few = np.zeros(60, dtype=bool)
    few[:4] = True
    with pytest.raises(InputError, match="4 events among 60 patients: 5 folds need at least 10"):
        nested_splits(times, few, 5, 5, 1, 0)
    with pytest.raises(InputError, match="fold 1 trains on 2 events: too few for 5 inner"):
        nested_splits(times, few, 2, 5, 1, 0)
    assert isinstance(nested_splits(times, few, 2, 2, 1, 0)[0], Split)


@pytest.mark.parametrize("censored", [0, 1, 3])
def test_a_cohort_with_hardly_any_censoring_has_splits(censored):
    """Patients without the event are not needed; every part has events."""
    times, events = np.arange(1.0, 61.0), np.arange(60) >= censored
    splits = nested_splits(times, events, 5, 5, 1, 0)
    held = [split.held_out for split in splits if split.number == 0]
    assert sorted(np.concatenate(held).tolist()) == list(range(60))
    assert min(events[part].sum() for split in splits for part in (split.inner, split.held_out)) >= 7
