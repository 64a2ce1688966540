"""The scale of an ensemble's risks: a fold's risks, and how far the mean over all folds spreads for a new patient."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from survfuse.runtime.arrays import Floats
from survfuse.training.folds import FoldKey

CONSTANT = 1e-9  # risks with no more spread than this do not separate patients


@dataclass(frozen=True)
class FoldRisks:
    """An outer fold's risks under one combination, the sum of its members' contributions."""

    inner: Floats  # [n] by the one member that was not fitted to the patient; NaN for held-out patients
    inner_at_others_step: Floats  # [n] the same, at the step that the fold's other members would have chosen
    held_out: Floats  # [n] by all members; NaN for training patients
    singles: Floats  # [J, n] by the members of each inner part, for the held-out patients; their mean is held_out

    def dilution(self) -> Floats:
        """How much further a single member's risks spread than the mean over members, for each held-out patient [r].

        A factor that brings the mean to the scale of the inner risks, which are of single members. It comes from the
        other patients that were held out with this one, and from no outcome.
        """
        rows = np.flatnonzero(~np.isnan(self.held_out))
        single = np.mean([_spread_of_others(risks) for risks in self.singles[:, rows]], axis=0)
        mean = _spread_of_others(self.held_out[rows])
        return np.where(mean > CONSTANT, single / np.where(mean > CONSTANT, mean, 1.0), 1.0)


def ensemble_scale(folds: Mapping[FoldKey, FoldRisks]) -> tuple[float, float, Floats]:
    """(location, spread) of the sum over all members for a new patient, and held-out risks [n] averaged over repeats.

    A patient of the cohort is predicted by one fold of each repeat, a new one by all. The mean over all folds varies
    less, by how far folds agree on patients that neither was fitted to. For two folds of one repeat, those are the
    held-out patients of either, whom the other predicts by the one member that left them out.
    """
    repeats, number = (len({key[place] for key in folds}) for place in (0, 1))
    held_out = [[risks.held_out for (of, _), risks in folds.items() if of == repeat] for repeat in range(repeats)]
    by_repeat = np.stack([np.nansum(parts, axis=0) for parts in held_out])
    reference = by_repeat.mean(axis=0)
    held = {key: np.flatnonzero(~np.isnan(risks.held_out)) for key, risks in folds.items()}
    own = np.mean([np.var(risks.held_out[held[key]]) for key, risks in folds.items()])
    between = [
        _covariance(folds[first].held_out[held[first]], folds[second].inner[held[first]])
        for first in folds
        for second in folds
        if first[0] == second[0] and first != second
    ]
    across = [_covariance(by_repeat[a], by_repeat[b]) for a in range(repeats) for b in range(repeats) if a != b]
    total = own + (number - 1) * min(own, max(0.0, float(np.mean(between))))
    if across:
        total += number * (repeats - 1) * min(own, max(0.0, float(np.mean(across))))
    return float(reference.mean()), float(np.sqrt(total / len(folds))), reference


def _spread_of_others(values: Floats) -> Floats:
    """Standard deviation [n] of ``values`` [n] without each of them in turn."""
    number = len(values) - 1
    centred = values - values.mean()
    mean, square = (centred.sum() - centred) / number, ((centred**2).sum() - centred**2) / number
    spread: Floats = np.sqrt(np.maximum(square - mean**2, 0.0))
    return spread


def _covariance(first: Floats, second: Floats) -> float:
    return float(np.mean((first - first.mean()) * (second - second.mean())))
