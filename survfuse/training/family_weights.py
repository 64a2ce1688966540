"""Weights of families, learnt on their out-of-fold risks."""

import numpy as np
import torch
from scipy.optimize import minimize

from survfuse.runtime.arrays import Bools, Floats
from survfuse.survival.partial_likelihood import EfronLoss

# How strongly weights are pulled towards each other, as a share of the information in the events. With a few dozen
# events, the likelihood alone would put all weight on one family by chance.
EVENNESS = 2.0
LEAST_SHARE = 0.03  # of all weight; a family below it is left out


def family_weights(risks: Floats, times: Floats, events: Bools, evenness: float = EVENNESS) -> Floats:
    """Non-negative weights [F], summing to 1, of families whose out-of-fold ``risks`` [n, F] have unit spread.

    Families that do not raise Cox's partial likelihood (Efron ties) by themselves have none. The weights of the others
    maximise the likelihood of their weighted sum, less ``evenness`` · events / 2 times the weights' squared distances
    from their mean; those below LEAST_SHARE are then left out. If none raises it, all have equal weight.
    ``times`` [n] are in months.
    """
    loss = EfronLoss([(times, events)])
    useful = _raises_likelihood(risks, loss)
    weights = np.zeros(risks.shape[1])
    if useful.sum() <= 1:
        return useful.astype(np.float64) if useful.any() else np.full_like(weights, 1.0 / len(weights))
    weights[useful] = _penalised_weights(risks[:, useful], loss, evenness)
    return weights


def _raises_likelihood(risks: Floats, loss: EfronLoss) -> Bools:
    """Which families [F] raise the likelihood by a small weight: by its slope at no weight at all."""
    nothing = torch.zeros(len(risks), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(nothing[None])[0], nothing)
    raises: Bools = slope.numpy() @ risks < 0.0
    return raises


def _penalised_weights(risks: Floats, loss: EfronLoss, evenness: float) -> Floats:
    number = risks.shape[1]
    values = torch.from_numpy(risks)

    def objective(weights: Floats) -> tuple[float, Floats]:
        given = torch.from_numpy(weights).requires_grad_()
        total = loss((values @ given)[None])[0] + evenness / 2.0 * ((given - given.mean()) ** 2).sum()
        (slope,) = torch.autograd.grad(total, given)
        return float(total.detach()), slope.numpy()

    start = np.full(number, 1.0 / number)
    weights = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * number).x
    share: Floats = weights / weights.sum()  # above 0, as each family alone raises the likelihood
    share[share < LEAST_SHARE] = 0.0
    share /= share.sum()
    return share
