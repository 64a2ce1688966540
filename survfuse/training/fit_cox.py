"""Cox's linear models with a ridge penalty, fitted by scikit-survival: the family ``cox`` and its parts."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.util import Surv
from torch import Tensor

from survfuse.networks.families import Family
from survfuse.runtime.arrays import Bools, Floats
from survfuse.runtime.errors import InputError
from survfuse.survival.partial_likelihood import EfronLoss
from survfuse.tasks.modalities import Combination, all_combinations
from survfuse.tasks.task import VECTOR
from survfuse.training.input_maps import varying
from survfuse.training.member import Fitted, Prepared
from survfuse.training.tile_clusters import TileClusters

PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
# How strongly the other modalities may count relative to the clinical variables, as a factor of their scale.
RATIOS = (0.25, 1.0, 4.0)
COMPONENTS = 40  # of expression, and of a slide-level vector, together with other modalities
_LEAST_SPREAD = 0.01  # of a cluster's shares of tiles: what varies less is not brought to the others' scale


def fit_cox(
    family: Family, members: Sequence[Prepared], clusters: TileClusters | None, times: Floats, events: Bools
) -> list[Fitted]:
    """Fit a fold's ``members`` of a linear ``family``, all with the one penalty that suits their inner patients best.

    A model of clinical variables and other modalities has one penalty for the former and one for the rest.
    ``times`` [n] are in months. Raises InputError if no penalty gives a finite solution.
    """
    steps = _tried(family, members, clusters, times, events)
    if not steps:
        raise InputError(f"{family.name}: no penalty up to {PENALTIES[-1]:g} gives a finite solution")
    inner_events = np.array([events[member.split.inner].sum() for member in members])
    best = min(steps, key=lambda step: float(step.losses @ inner_events))
    fitted = []
    for place in range(len(members)):
        by_step = [step.designs[place].inner_risks(step.weights[place]) for step in steps]
        together = {combination: torch.stack([risks[combination] for risks in by_step]) for combination in by_step[0]}
        losses = tuple(float(step.losses[place]) for step in steps)
        state = best.designs[place].state(best.weights[place])
        fitted.append(Fitted(state, 0, (), losses, together, best.penalty))
    return fitted


def _tried(
    family: Family, members: Sequence[Prepared], clusters: TileClusters | None, times: Floats, events: Bools
) -> "list[_Step]":
    """Every pair of penalties for which all members have a finite solution."""
    inner = EfronLoss([(times[member.split.inner], events[member.split.inner]) for member in members])
    steps: list[_Step] = []
    for ratio in RATIOS if len(family.modalities) > 1 and "clinical" in family.modalities else (1.0,):
        designs = [_design(family, member, clusters, ratio) for member in members]
        for penalty in PENALTIES:
            weights = _weights(designs, times, events, penalty)
            if weights is not None:
                losses = inner(_padded_inner_risks(designs, weights)).numpy()
                steps.append(_Step(ratio, penalty, designs, weights, losses))
    return steps


@dataclass(frozen=True)
class _Step:
    """One pair of penalties tried."""

    ratio: float
    penalty: float
    designs: "list[_Design]"  # of each member
    weights: list[Floats]  # of each member
    losses: Floats  # [members] of their inner patients


@dataclass(frozen=True)
class _Design:
    """Covariates of every patient, standardised by a member's fitted patients, and the way back to raw vectors."""

    member: Prepared
    widths: dict[str, int]
    centres: Tensor | None
    mean: Floats  # [F]
    factor: Floats  # [F], one over the scale; 0 for a constant
    standard: Floats  # [n, F]

    def inner_risks(self, weight: Floats) -> dict[Combination, Tensor]:
        """Risks [inner patients] by weights [F]; a missing modality takes its mean, 0."""
        values = self.standard[self.member.split.inner]
        of_block = np.repeat(np.arange(len(self.widths)), list(self.widths.values()))
        risks = {}
        for combination in all_combinations(self.widths):
            given = np.isin(of_block, [list(self.widths).index(name) for name in combination])
            risks[combination] = torch.from_numpy(values[:, given] @ weight[given])
        return risks

    def state(self, weight: Floats) -> dict[str, Tensor]:
        """The network's tensors for weights [F] of the standardised covariates."""
        raw = weight * self.factor
        state = {
            "risk.weight": torch.from_numpy(raw).float()[None],
            "risk.bias": torch.tensor([-float(raw @ self.mean)]),
        }
        at = 0
        for name, width in self.widths.items():
            state[f"means.{name}"] = torch.from_numpy(self.mean[at : at + width]).float()
            at += width
        return state | ({"centres": self.centres} if self.centres is not None else {})


def _design(family: Family, member: Prepared, clusters: TileClusters | None, ratio: float) -> _Design:
    blocks = {modality: _values(modality, member, clusters) for modality in family.modalities}
    rows = member.split.fitted
    scale = np.concatenate([_scale(modality, values[rows], ratio) for modality, values in blocks.items()])
    raw = np.concatenate(list(blocks.values()), axis=1)
    mean, factor = raw[rows].mean(axis=0), np.where(scale > 1e-9, 1.0 / np.where(scale > 1e-9, scale, 1.0), 0.0)
    widths = {name: values.shape[1] for name, values in blocks.items()}
    centres = clusters.centres if clusters is not None and "slide" in family.modalities else None
    return _Design(member, widths, centres, mean, factor, (raw - mean) * factor)


def _values(modality: str, member: Prepared, clusters: TileClusters | None) -> Floats:
    """Covariates [n, width] of a modality."""
    if modality == "slide":
        assert clusters is not None
        return clusters.shares.double().numpy()
    return member.inputs[modality].double().numpy()


def _scale(modality: str, values: Floats, ratio: float) -> Floats:
    """What the covariates of a modality are divided by [width]; ``values`` [n, width] are the fitted patients'."""
    spread: Floats = values.std(axis=0)
    if modality == "slide":
        # Near-empty clusters would give extreme values to new patients who have them.
        return np.where(varying(values), np.maximum(spread, _LEAST_SPREAD), 0.0) / ratio
    if modality in ("rna", VECTOR):
        # All components share the first one's scale: the penalty is then a ridge penalty over what they are of.
        return np.full_like(spread, spread.max() / ratio)
    return np.where(spread > 0.0, 1.0, 0.0)  # standardised already; categories as they are


def _weights(designs: Sequence[_Design], times: Floats, events: Bools, penalty: float) -> list[Floats] | None:
    """Each member's weights [F], or None if a member has no finite solution."""
    weights = []
    for design in designs:
        rows = design.member.split.fitted
        weight = _ridge_cox(design.standard[rows], times[rows], events[rows], penalty)
        if weight is None:
            return None
        weights.append(weight)
    return weights


def _padded_inner_risks(designs: Sequence[_Design], weights: Sequence[Floats]) -> Tensor:
    """Each member's risks of its inner patients [members, longest], padded with 0."""
    longest = max(len(design.member.split.inner) for design in designs)
    risks = torch.zeros(len(designs), longest, dtype=torch.float64)
    for place, (design, weight) in enumerate(zip(designs, weights, strict=True)):
        own = design.standard[design.member.split.inner] @ weight
        risks[place, : len(own)] = torch.from_numpy(own)
    return risks


def _ridge_cox(values: Floats, times: Floats, events: Bools, penalty: float) -> Floats | None:
    """Weights [F] of the ridge Cox model, or None if so weak a penalty has no finite solution."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about convergence: a solution that is not finite is refused below
        try:
            model = CoxPHSurvivalAnalysis(alpha=penalty, ties="efron").fit(values, Surv.from_arrays(events, times))
        except (ValueError, np.linalg.LinAlgError):
            return None
    weights: Floats = model.coef_
    return weights if np.isfinite(weights).all() else None
