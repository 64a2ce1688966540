"""No-regret stacking: families weighted by their inner out-of-fold risks, and the ensemble's scale.

A unit is one outer fold of one repeat. Its members, fitted to all but one inner part of its training patients each,
predict those parts out of fold; on these risks the families' weights are learnt, each taken at a step of training
that the part itself had no say in. The unit's held-out patients are then predicted by all its members together, and
neither member nor weight has seen them (stacking: Wolpert 1992; with non-negative weights, Breiman 1996;
cross-validated as by van der Laan et al. 2007).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from survfuse.networks.families import FAMILIES
from survfuse.networks.weighting import MemberWeight
from survfuse.runtime.arrays import Floats
from survfuse.runtime.errors import InputError
from survfuse.survival.partial_likelihood import EfronLoss
from survfuse.tasks.modalities import Combination
from survfuse.training.folds import Split

# How strongly weights are drawn to each other, as a share of the information in the events: of a few dozen events
# the likelihood alone would put all weight on one family by luck.
EVENNESS = 2.0
LEAST_SHARE = 0.03  # of all weight; a family below it is left out
_CONSTANT = 1e-9


@dataclass(frozen=True)
class MemberRisks:
    """One member's risks by combination: of its inner and held-out patients as it was kept, and of the inner ones at
    each step (epoch or penalty) on the way."""

    family: str
    split: Split
    risks: Mapping[Combination, Floats]  # [n], NaN for the fitted patients
    losses: Floats  # [steps] of the inner patients
    judged: Mapping[Combination, Floats]  # [steps, inner patients]


@dataclass(frozen=True)
class UnitRisks:
    """A unit's risks under one combination, the sum of its members' contributions."""

    inner: Floats  # [n] by the one member that was not fitted to the patient; NaN for held-out patients
    judged: Floats  # [n] the same, at the step that the unit's other members would have chosen
    held_out: Floats  # [n] by all members; NaN for training patients
    singles: Floats  # [J, n] by the members of each inner part, for the held-out patients; their mean is held_out

    def dilution(self) -> Floats:
        """How much further a single member's risks spread than the mean over members, for each held-out patient [r] by
        the others held out with them: a factor that brings the mean to the scale of the inner risks."""
        rows = np.flatnonzero(~np.isnan(self.held_out))
        single = np.mean([_spread_of_others(risks) for risks in self.singles[:, rows]], axis=0)
        mean = _spread_of_others(self.held_out[rows])
        return np.where(mean > _CONSTANT, single / np.where(mean > _CONSTANT, mean, 1.0), 1.0)


@dataclass(frozen=True)
class Stacked:
    """The ensemble under one combination."""

    standings: Mapping[tuple[str, str], MemberWeight]  # by family and split name; weights over all members sum to 1
    shares: Mapping[tuple[int, int], Mapping[str, float]]  # weight of each family, by repeat and fold
    units: Mapping[tuple[int, int], UnitRisks]
    candidates: Mapping[str, Floats]  # [n] held-out risks of each family alone
    reference: Floats  # [n] held-out risks, mean 0 and standard deviation 1
    location: float  # of the ensemble's sum for a new patient …
    scale: float  # … and its spread there, which puts risks of new patients on the reference's scale
    dilution: float  # how much further held-out risks spread than the sum does


def stack(
    members: Sequence[MemberRisks],
    combination: Combination,
    times: Floats,
    events: NDArray[np.bool_],
    evenness: float = EVENNESS,
) -> Stacked:
    """Weigh the families that can score ``combination``; raises InputError where none tells patients apart."""
    families = list(dict.fromkeys(m.family for m in members if _own(m.family, combination) in m.risks))
    units = _units(members)
    found = {(member.family, member.split.name): member for member in members}
    standings: dict[tuple[str, str], MemberWeight] = {}
    shares, unit_risks = {}, {}
    candidates = {family: np.zeros(len(times)) for family in families}
    repeats = len({repeat for repeat, _ in units})
    for unit, splits in units.items():
        scored = {}
        for family in families:
            committee = [found[family, split.name] for split in splits]
            scored[family] = _Committee.of(committee, _own(family, combination), events)
            held_out = splits[0].held_out
            candidates[family][held_out] += scored[family].held_out[held_out] / repeats
        useful = [family for family in families if scored[family].scale > _CONSTANT]
        if not useful:
            raise InputError(
                f"no family tells the patients of fold {unit[1] + 1} apart by {', '.join(combination)}: "
                "nothing was learnt"
            )
        training = np.flatnonzero(~np.isnan(scored[useful[0]].judged))
        judged = np.stack([scored[family].judged[training] for family in useful], axis=1)
        weights = family_weights(judged, times[training], events[training], evenness)
        shares[unit] = {f: float(w) for f, w in zip(useful, weights, strict=True) if w > 0.0}
        for family, weight in shares[unit].items():
            committee = scored[family]
            for split, location in zip(splits, committee.locations, strict=True):
                part = weight / (len(splits) * len(units))
                standings[family, split.name] = MemberWeight(part, location, committee.scale)
        unit_risks[unit] = _combined([(weight, scored[family]) for family, weight in shares[unit].items()])
    location, spread, reference = _ensemble_scale(unit_risks)
    spread_held_out = float(reference.std())
    standard = (reference - reference.mean()) / spread_held_out
    return Stacked(standings, shares, unit_risks, candidates, standard, location, spread, spread_held_out / spread)


def _units(members: Sequence[MemberRisks]) -> dict[tuple[int, int], list[Split]]:
    """Each unit's splits, by repeat and fold."""
    units: dict[tuple[int, int], list[Split]] = {}
    for split in (member.split for member in members if member.family == members[0].family):
        units.setdefault((split.repeat, split.fold), []).append(split)
    return units


def _own(family: str, combination: Combination) -> Combination:
    """What a family's networks see of a combination."""
    return tuple(name for name in combination if name in FAMILIES[family].modalities)


def family_weights(
    risks: Floats, times: Floats, events: NDArray[np.bool_], evenness: float = EVENNESS
) -> NDArray[np.float64]:
    """Non-negative weights [F], summing to 1, of families whose out-of-fold risks [n, F] have unit spread.

    Families that alone do not raise Cox's partial likelihood (Efron ties) have none. The others maximise that of their
    weighted sum, less ``evenness`` · events / 2 times the weights' squared distances from their mean; those below
    LEAST_SHARE are then left out. Where no family is better than nothing, all weigh alike.
    """
    loss = EfronLoss([(times, events)])
    useful = _raises_likelihood(risks, loss)
    weights = np.zeros(risks.shape[1])
    if useful.sum() <= 1:
        return useful.astype(np.float64) if useful.any() else np.full_like(weights, 1.0 / len(weights))
    weights[useful] = _penalised_weights(risks[:, useful], loss, evenness)
    return weights


def _raises_likelihood(risks: Floats, loss: EfronLoss) -> NDArray[np.bool_]:
    """Which families [F] raise the likelihood by a small weight: its slope at no weight at all."""
    nothing = torch.zeros(len(risks), dtype=torch.float64, requires_grad=True)
    loss(nothing[None])[0].backward()
    return nothing.grad.numpy() @ risks < 0.0


def _penalised_weights(risks: Floats, loss: EfronLoss, evenness: float) -> Floats:
    number = risks.shape[1]
    values = torch.from_numpy(risks)

    def objective(weights: Floats) -> tuple[float, Floats]:
        given = torch.from_numpy(weights).requires_grad_()
        total = loss((values @ given)[None])[0] + evenness / 2.0 * ((given - given.mean()) ** 2).sum()
        total.backward()
        return float(total.detach()), given.grad.numpy()

    start = np.full(number, 1.0 / number)
    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * number).x
    share = found / found.sum()  # above 0, as each family alone raises the likelihood
    share[share < LEAST_SHARE] = 0.0
    return share / share.sum()


@dataclass(frozen=True)
class _Committee:
    """One family's members in one unit, their risks centred on their inner part and of unit spread there."""

    inner: Floats  # [n]
    judged: Floats  # [n], of unit spread as well
    held_out: Floats  # [n], mean over members
    singles: Floats  # [J, n] each member's, for the held-out patients
    locations: tuple[float, ...]
    scale: float

    @classmethod
    def of(cls, members: Sequence[MemberRisks], own: Combination, events: NDArray[np.bool_]) -> "_Committee":
        splits, risks = [member.split for member in members], [member.risks[own] for member in members]
        inner = np.full_like(risks[0], np.nan)
        locations = tuple(float(risk[split.inner].mean()) for split, risk in zip(splits, risks, strict=True))
        for split, risk, location in zip(splits, risks, locations, strict=True):
            inner[split.inner] = risk[split.inner] - location
        scale = float(np.nanstd(inner))
        divisor = scale if scale > _CONSTANT else 1.0
        centred = np.stack([(risk - location) / divisor for risk, location in zip(risks, locations, strict=True)])
        held_out = np.full_like(inner, np.nan)
        rows = splits[0].held_out
        held_out[rows] = centred[:, rows].mean(axis=0)
        return cls(inner / divisor, _judged(members, own, events), held_out, centred, locations, scale)


def _judged(members: Sequence[MemberRisks], own: Combination, events: NDArray[np.bool_]) -> Floats:
    """Inner out-of-fold risks [n] of unit spread, each member's at the step that the others' inner patients choose.

    At its own best step a member has seen its inner patients: their risks would flatter a family with many steps to
    choose from, and the weights would trust it for that. Losses are means for an event; one that ended early keeps
    its last.
    """
    steps = max(len(member.losses) for member in members)
    losses = np.stack([np.pad(member.losses, (0, steps - len(member.losses)), mode="edge") for member in members])
    happened = np.array([events[member.split.inner].sum() for member in members], dtype=np.float64)
    risks = np.full(len(events), np.nan)
    for place, member in enumerate(members):
        others = np.arange(len(members)) != place
        step = int(np.argmin(np.nan_to_num(happened[others] @ losses[others], nan=np.inf)))
        found = member.judged[own][min(step, len(member.losses) - 1)]
        risks[member.split.inner] = found - found.mean()
    spread = float(np.nanstd(risks))
    return risks / (spread if spread > _CONSTANT else 1.0)


def _combined(weighted: Sequence[tuple[float, _Committee]]) -> UnitRisks:
    inner = sum(weight * committee.inner for weight, committee in weighted)
    judged = sum(weight * committee.judged for weight, committee in weighted)
    held_out = sum(weight * committee.held_out for weight, committee in weighted)
    singles = sum(weight * committee.singles for weight, committee in weighted)
    return UnitRisks(inner, judged, held_out, singles)


def _spread_of_others(values: Floats) -> Floats:
    """Standard deviation [n] of ``values`` [n] without each of them in turn."""
    number = len(values) - 1
    centred = values - values.mean()
    mean, square = (centred.sum() - centred) / number, ((centred**2).sum() - centred**2) / number
    return np.sqrt(np.maximum(square - mean**2, 0.0))


def _ensemble_scale(units: Mapping[tuple[int, int], UnitRisks]) -> tuple[float, float, Floats]:
    """(location, spread) of the sum over all members for a new patient, and held-out risks [n] averaged over repeats.

    A patient of the cohort is predicted by one unit of each repeat, a new one by all. The mean over all units varies
    less, by how far units agree on patients that neither was fitted to. Between two units of one repeat, those are
    either's held-out patients, whom the other predicts by the one member that left them out.
    """
    repeats, folds = (len({key[place] for key in units}) for place in (0, 1))
    by_repeat = np.stack(
        [np.nansum([u.held_out for (r, _), u in units.items() if r == repeat], axis=0) for repeat in range(repeats)]
    )
    reference = by_repeat.mean(axis=0)
    held = {key: np.flatnonzero(~np.isnan(unit.held_out)) for key, unit in units.items()}
    own = np.mean([np.var(unit.held_out[held[key]]) for key, unit in units.items()])
    between = [
        _covariance(units[first].held_out[held[first]], units[second].inner[held[first]])
        for first in units
        for second in units
        if first[0] == second[0] and first != second
    ]
    across = [_covariance(by_repeat[a], by_repeat[b]) for a in range(repeats) for b in range(repeats) if a != b]
    total = own + (folds - 1) * min(own, max(0.0, float(np.mean(between))))
    if across:
        total += folds * (repeats - 1) * min(own, max(0.0, float(np.mean(across))))
    return float(reference.mean()), float(np.sqrt(total / len(units))), reference


def _covariance(first: Floats, second: Floats) -> float:
    return float(np.mean((first - first.mean()) * (second - second.mean())))
