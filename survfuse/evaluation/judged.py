"""Patients with outcomes and what was predicted for them: what every shared figure is computed from."""

from dataclasses import dataclass

import numpy as np

from survfuse.runtime.arrays import Bools, Floats


@dataclass(frozen=True)
class Curves:
    """Predicted survival of n patients, and what it is compared with."""

    grid: Floats  # [T] increasing months
    survival: Floats  # [n, T] predicted probability of no event by each month
    marginal: Floats  # [n, T] the same by Kaplan–Meier, without any prediction

    def at(self, months: Floats) -> Floats:
        """Predicted survival [n] of each patient at its own one of ``months`` [n].

        Linear between the months of the grid, from 1 at time 0, and constant after the grid.
        """
        grid = np.concatenate([[0.0], self.grid]) if self.grid[0] > 0 else self.grid
        start = np.ones(len(grid) - len(self.grid))
        return np.array(
            [np.interp(at, grid, np.concatenate([start, row])) for at, row in zip(months, self.survival, strict=True)]
        )

    def at_month(self, month: float) -> Floats:
        """Predicted survival [n] of all patients at ``month``, as ``at``; NaN after the grid."""
        if month > self.grid[-1]:
            return np.full(len(self.survival), np.nan)
        return self.at(np.full(len(self.survival), month))


@dataclass(frozen=True)
class Judged:
    """n patients' outcomes and predictions."""

    times: Floats  # [n] months of follow-up
    events: Bools  # [n]
    risks: Floats  # [n] log relative hazard, larger is worse
    horizons: tuple[float, ...]  # months at which survival is judged
    high: Bools  # [n] whether the patient belongs to the high-risk group
    cut: str  # in words, what separates the two groups
    curves: Curves | None = None  # None if no survival curves were predicted
