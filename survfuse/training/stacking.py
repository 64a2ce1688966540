"""No-regret stacking: families weighted by their inner out-of-fold risks, and the ensemble's scale.

The members of an outer fold, each fitted to all but one inner part of its training patients, predict those parts out
of fold. The families' weights are learnt on these risks, each taken at a training step that the part itself did not
help to choose. The fold's held-out patients are then predicted by all its members together; neither members nor weights
have seen them (stacking: Wolpert 1992; with non-negative weights, Breiman 1996; cross-validated as by van der Laan
et al. 2007).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from survfuse.networks.families import Family
from survfuse.networks.weighting import MemberWeight
from survfuse.runtime.arrays import Bools, Floats
from survfuse.runtime.errors import InputError
from survfuse.tasks.modalities import Combination
from survfuse.training.family_weights import EVENNESS, family_weights
from survfuse.training.folds import FoldKey, Split
from survfuse.training.risk_scale import CONSTANT, FoldRisks, ensemble_scale


@dataclass(frozen=True)
class MemberRisks:
    """One member's risks by combination: of its inner and held-out patients as it was kept, and of the inner ones at
    each step (epoch or penalty) on the way."""

    family: Family
    split: Split
    risks: Mapping[Combination, Floats]  # [n], NaN for the fitted patients
    losses: Floats  # [steps] of the inner patients
    risks_by_step: Mapping[Combination, Floats]  # [steps, inner patients]


@dataclass(frozen=True)
class Stacked:
    """The ensemble under one combination."""

    standings: Mapping[tuple[str, str], MemberWeight]  # by family and split name; weights over all members sum to 1
    shares: Mapping[FoldKey, Mapping[str, float]]  # weight of each family in each outer fold
    folds: Mapping[FoldKey, FoldRisks]
    candidates: Mapping[str, Floats]  # [n] held-out risks of each family alone
    reference: Floats  # [n] held-out risks, mean 0 and standard deviation 1
    location: float  # of the ensemble's sum for a new patient …
    scale: float  # … and its spread there, which puts risks of new patients on the reference's scale
    dilution: float  # how much further held-out risks spread than the sum does


def stack(
    members: Sequence[MemberRisks],
    combination: Combination,
    times: Floats,
    events: Bools,
    evenness: float = EVENNESS,
) -> Stacked:
    """Weigh the families that can score ``combination``; ``times`` [n] in months.

    Raises InputError if no family separates the patients of a fold.
    """
    committees = _committees(members, combination, events)
    if not committees:
        raise InputError(f"no family scores {', '.join(combination)}")
    standings: dict[tuple[str, str], MemberWeight] = {}
    shares: dict[FoldKey, dict[str, float]] = {}
    folds: dict[FoldKey, FoldRisks] = {}
    for fold, scored in committees.items():
        useful = _useful(scored, fold, combination)
        training = np.flatnonzero(~np.isnan(next(iter(useful.values())).inner_at_others_step))
        risks = np.stack([committee.inner_at_others_step[training] for committee in useful.values()], axis=1)
        weights = family_weights(risks, times[training], events[training], evenness)
        shares[fold] = {family: float(w) for family, w in zip(useful, weights, strict=True) if w > 0.0}
        for family, weight in shares[fold].items():
            standings |= useful[family].standings(family, weight, len(committees))
        folds[fold] = _combined([(weight, useful[family]) for family, weight in shares[fold].items()])
    location, spread, held_out = ensemble_scale(folds)
    held_out_spread = float(held_out.std())
    reference = (held_out - held_out.mean()) / held_out_spread
    candidates = _held_out_alone(committees, len(times))
    return Stacked(standings, shares, folds, candidates, reference, location, spread, held_out_spread / spread)


def _committees(
    members: Sequence[MemberRisks], combination: Combination, events: Bools
) -> "dict[FoldKey, dict[str, _Committee]]":
    """By outer fold and family: the members of families that can score ``combination``."""
    grouped: dict[FoldKey, dict[str, list[MemberRisks]]] = {}
    for member in members:
        if _own(member.family, combination) in member.risks:
            grouped.setdefault(member.split.fold_key, {}).setdefault(member.family.name, []).append(member)
    return {
        fold: {name: _Committee.of(own, _own(own[0].family, combination), events) for name, own in families.items()}
        for fold, families in grouped.items()
    }


def _own(family: Family, combination: Combination) -> Combination:
    """What a family's networks see of a combination."""
    return tuple(name for name in combination if name in family.modalities)


def _useful(scored: "Mapping[str, _Committee]", fold: FoldKey, combination: Combination) -> "dict[str, _Committee]":
    """The families that separate patients; raises InputError if none does."""
    useful = {family: committee for family, committee in scored.items() if committee.scale > CONSTANT}
    if not useful:
        raise InputError(
            f"no family separates the patients of fold {fold[1] + 1} by {', '.join(combination)}; nothing was learnt"
        )
    return useful


def _held_out_alone(committees: "Mapping[FoldKey, Mapping[str, _Committee]]", patients: int) -> dict[str, Floats]:
    """Held-out risks [n] of each family alone, averaged over repeats."""
    repeats = len({repeat for repeat, _ in committees})
    alone: dict[str, Floats] = {}
    for scored in committees.values():
        for family, committee in scored.items():
            rows = np.flatnonzero(~np.isnan(committee.held_out))
            alone.setdefault(family, np.zeros(patients))[rows] += committee.held_out[rows] / repeats
    return alone


@dataclass(frozen=True)
class _Committee:
    """One family's members in one outer fold, their risks centred on their inner part and of unit spread there."""

    splits: tuple[Split, ...]
    inner: Floats  # [n]
    inner_at_others_step: Floats  # [n], of unit spread as well
    held_out: Floats  # [n], mean over members
    singles: Floats  # [J, n] each member's, for the held-out patients
    locations: tuple[float, ...]
    scale: float

    @classmethod
    def of(cls, members: Sequence[MemberRisks], own: Combination, events: Bools) -> "_Committee":
        splits, risks = tuple(member.split for member in members), [member.risks[own] for member in members]
        inner = np.full_like(risks[0], np.nan)
        locations = tuple(float(risk[split.inner].mean()) for split, risk in zip(splits, risks, strict=True))
        for split, risk, location in zip(splits, risks, locations, strict=True):
            inner[split.inner] = risk[split.inner] - location
        scale = float(np.nanstd(inner))
        divisor = scale if scale > CONSTANT else 1.0
        centred = np.stack([(risk - location) / divisor for risk, location in zip(risks, locations, strict=True)])
        held_out = np.full_like(inner, np.nan)
        rows = splits[0].held_out
        held_out[rows] = centred[:, rows].mean(axis=0)
        at_others_step = _inner_at_others_step(members, own, events)
        return cls(splits, inner / divisor, at_others_step, held_out, centred, locations, scale)

    def standings(self, family: str, weight: float, folds: int) -> dict[tuple[str, str], MemberWeight]:
        """How each member counts if the committee has ``weight`` in its fold, one of ``folds``."""
        part = weight / (len(self.splits) * folds)
        return {
            (family, split.name): MemberWeight(part, location, self.scale)
            for split, location in zip(self.splits, self.locations, strict=True)
        }


def _inner_at_others_step(members: Sequence[MemberRisks], own: Combination, events: Bools) -> Floats:
    """Inner out-of-fold risks [n] of unit spread, each member's at the step that the others' inner patients choose.

    At its own best step a member has seen its inner patients. Those risks would favour a family with many steps to
    choose from, and the weights would trust it too much. Losses are means per event; a member that ended early keeps
    its last.
    """
    steps = max(len(member.losses) for member in members)
    losses = np.stack([np.pad(member.losses, (0, steps - len(member.losses)), mode="edge") for member in members])
    happened = np.array([events[member.split.inner].sum() for member in members], dtype=np.float64)
    risks = np.full(len(events), np.nan)
    for place, member in enumerate(members):
        others = np.arange(len(members)) != place
        step = int(np.argmin(np.nan_to_num(happened[others] @ losses[others], nan=np.inf)))
        at_step = member.risks_by_step[own][min(step, len(member.losses) - 1)]
        risks[member.split.inner] = at_step - at_step.mean()
    spread = float(np.nanstd(risks))
    return risks / (spread if spread > CONSTANT else 1.0)


def _combined(weighted: Sequence[tuple[float, _Committee]]) -> FoldRisks:
    """The weighted sum of families' risks."""
    return FoldRisks(
        np.sum([weight * committee.inner for weight, committee in weighted], axis=0),
        np.sum([weight * committee.inner_at_others_step for weight, committee in weighted], axis=0),
        np.sum([weight * committee.held_out for weight, committee in weighted], axis=0),
        np.sum([weight * committee.singles for weight, committee in weighted], axis=0),
    )
