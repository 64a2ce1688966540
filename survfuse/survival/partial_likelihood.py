"""Cox's partial likelihood as a loss, for many members at once."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from survfuse.runtime.arrays import Bools, Floats
from survfuse.runtime.errors import InputError

Outcomes = tuple[Floats, Bools]  # times [n] in months, events [n]


class EfronLoss:
    """Negative log partial likelihood of Cox's model divided by the number of events.

    Cox 1975, Biometrika 62:269; ties by Efron 1977, JASA 72:557. Each of M members has its own patients and outcomes;
    members with fewer patients are padded.
    """

    def __init__(self, outcomes: Sequence[Outcomes]) -> None:
        """Prepare the loss for the ``outcomes`` of each member's patients; raises InputError for one without events."""
        tables = [_table(times, events) for times, events in outcomes]
        patients = max(len(table[0]) for table in tables)
        deaths = max(len(table[1]) for table in tables)
        self._order = _padded([table[0] for table in tables], patients, fill=0)
        self._present = _padded([np.ones(len(table[0]), dtype=bool) for table in tables], patients, fill=False)
        self._events = _padded([table[1] for table in tables], deaths, fill=0)
        self._happened = _padded([np.ones(len(table[1]), dtype=bool) for table in tables], deaths, fill=False)
        self._tie = _padded([table[2] for table in tables], deaths, fill=0)
        self._risk_set = _padded([table[3] for table in tables], deaths, fill=0)
        self._share = _padded([table[4] for table in tables], deaths, fill=0.0)
        self._ties = int(self._tie.max()) + 1

    def of(self, members: Tensor) -> "EfronLoss":
        """The loss of the members whose numbers are ``members`` [m]."""
        some = object.__new__(EfronLoss)
        for name, value in vars(self).items():
            setattr(some, name, value[members] if isinstance(value, Tensor) else value)
        return some

    def __call__(self, risk: Tensor) -> Tensor:
        """Loss [M] of each member for its patients' ``risk`` [M, n], log relative hazards padded at the end.

        Sums are kept as logarithms, so that risks far apart do not underflow.
        """
        never = torch.tensor(-torch.inf, dtype=torch.float64)
        # Latest first, padding last: the running sum up to a time's last patient is the sum over its risk set.
        risk = torch.where(self._present, risk.double().gather(1, self._order), never)
        events = torch.where(self._happened, risk.gather(1, self._events), 0.0)
        risk_set = torch.logcumsumexp(risk, dim=1).gather(1, self._risk_set)
        empty = torch.full((len(risk), self._ties), -torch.inf, dtype=risk.dtype)
        at_tie = torch.where(self._happened, events.detach(), never)
        highest = empty.scatter_reduce(1, self._tie, at_tie, "amax").gather(1, self._tie)
        each = torch.where(self._happened, torch.exp(events - highest), 0.0)
        tied = torch.zeros(len(risk), self._ties, dtype=risk.dtype).scatter_add(1, self._tie, each)
        tied = torch.log(tied.gather(1, self._tie)) + highest
        # Efron: for the k-th of d tied events, k/d of the tied patients' hazards have left the risk set.
        remaining = risk_set + torch.log1p(-self._share * torch.exp(tied - risk_set))
        terms = torch.where(self._happened, remaining - events, 0.0)
        return terms.sum(1) / self._happened.sum(1)


def _table(times: Floats, events: Bools) -> tuple[NDArray[np.generic], ...]:
    """(order of the patients, then for each event: its place in that order, its tie, its risk set's last place, k/d).

    Ties are numbered; k/d is the share that Efron's method takes from the risk set.
    """
    if not events.any():
        raise InputError("the Cox loss needs at least one event among its patients")
    order = np.argsort(-times, kind="stable")
    ordered, happened = times[order], events[order]
    tie_times, tie = np.unique(-ordered, return_inverse=True)
    at_event = np.flatnonzero(happened)
    tie_of_event = tie[at_event]
    deaths = np.bincount(tie_of_event, minlength=len(tie_times))
    first = np.searchsorted(tie_of_event, tie_of_event, side="left")
    risk_set = np.searchsorted(tie, tie_of_event, side="right") - 1
    share = (np.arange(len(at_event)) - first) / deaths[tie_of_event]
    return order, at_event, tie_of_event, risk_set, share


def _padded(rows: Sequence[NDArray[np.generic]], length: int, fill: object) -> Tensor:
    """``rows`` as one tensor [M, length], filled at the end."""
    padded = np.full((len(rows), length), fill, dtype=rows[0].dtype)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = row
    return torch.from_numpy(padded)
