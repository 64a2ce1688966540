"""Cox's partial likelihood against lifelines and Efron's formula written out."""

import numpy as np
import pandas as pd
import pytest
import torch
from lifelines import CoxPHFitter

from survfuse.runtime.errors import InputError
from survfuse.survival.partial_likelihood import EfronLoss


def one(times: np.ndarray, events: np.ndarray, risk: torch.Tensor) -> torch.Tensor:
    """The loss of a single member."""
    return EfronLoss([(times, events)])(risk[None])[0]


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
    loss = one(frame["time"].to_numpy(), frame["event"].to_numpy(), risk)
    assert loss.item() * frame["event"].sum() == pytest.approx(-fitted.log_likelihood_, rel=1e-6)
    loss.backward()
    # At the maximum the likelihood does not change along either covariate.
    gradient = risk.grad.numpy() @ frame[["a", "b"]].to_numpy()
    assert np.abs(gradient).max() < 1e-4


def test_cox_loss_withstands_any_spread_and_needs_events():
    """Where risks are thousands apart, each event's term is its distance to the highest risk still at risk."""
    times, events = np.arange(1.0, 7.0), np.array([1, 0, 1, 1, 0, 1], dtype=bool)
    risk = torch.tensor([3000.0, -2000.0, 0.0, 2500.0, 10000.0, 2.0])
    expected = np.mean([10000.0 - 3000.0, 10000.0 - 0.0, 10000.0 - 2500.0, 0.0])
    assert one(times, events, risk).item() == pytest.approx(expected, rel=1e-6)
    assert one(times, events, risk + 1000.0).item() == pytest.approx(expected, rel=1e-6)
    two = one(np.array([2.0, 1.0]), np.ones(2, dtype=bool), torch.tensor([0.0, 800.0]))
    assert two.item() == pytest.approx(0.0)
    with pytest.raises(InputError, match="at least one event"):
        EfronLoss([(times, np.zeros(6, dtype=bool))])


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
    assert one(times, events, torch.from_numpy(risk)).item() == pytest.approx(-total / events.sum(), rel=1e-10)


def test_members_of_different_patients_have_their_own_losses_and_gradients():
    """Five members of 8 to 20 patients together, and each alone: padding adds nothing and takes nothing."""
    random = np.random.default_rng(9)
    outcomes, rows = [], []
    for number in (20, 8, 13, 9, 17):
        events = random.random(number) < 0.5
        events[0] = True
        outcomes.append((random.integers(1, 9, number).astype(float), events))
        rows.append(torch.from_numpy(random.normal(0.0, 3.0, number)))
    together = torch.full((5, 20), 77.0, dtype=torch.float64)
    for place, row in enumerate(rows):
        together[place, : len(row)] = row
    together.requires_grad_()
    loss = EfronLoss(outcomes)
    losses = loss(together)
    losses.sum().backward()
    for place, row in enumerate(rows):
        alone = row.clone().requires_grad_()
        expected = one(*outcomes[place], alone)
        expected.backward()
        assert losses[place].item() == pytest.approx(expected.item(), rel=1e-12)
        assert torch.allclose(together.grad[place, : len(row)], alone.grad, atol=1e-12)
        assert (together.grad[place, len(row) :] == 0.0).all()
    some = torch.tensor([3, 1])
    assert torch.equal(loss.of(some)(together.detach()[some]), losses.detach()[some])
