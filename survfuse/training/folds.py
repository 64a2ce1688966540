"""Which patients fit, stop and evaluate each member: nested folds, stratified by event and time."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from survfuse.runtime.arrays import Bools, Floats, Rows
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import count

FoldKey = tuple[int, int]  # an outer fold: repeat, fold


@dataclass(frozen=True)
class Split:
    """One member's patients, as rows of the cohort. Every patient is in exactly one of the three parts.

    Weights and transforms are fitted to ``fitted``. ``inner`` decides when to stop, how strongly to penalise, and
    a family's weight. Nothing in the whole fold has seen ``held_out``.
    """

    repeat: int
    fold: int
    number: int  # of the inner part
    fitted: Rows
    inner: Rows
    held_out: Rows

    @property
    def name(self) -> str:
        """Repeat, fold and inner part, each from 0, as in ``0-3-1``."""
        return f"{self.repeat}-{self.fold}-{self.number}"

    @property
    def scored(self) -> Rows:
        """The patients whom its members score: all but those that they are fitted to."""
        rows: Rows = np.union1d(self.inner, self.held_out)
        return rows

    @property
    def fold_key(self) -> FoldKey:
        """The outer fold that the split belongs to."""
        return self.repeat, self.fold


def nested_splits(times: Floats, events: Bools, folds: int, inner: int, repeats: int, seed: int) -> list[Split]:
    """One split for each member.

    There are ``repeats`` partitions of the patients into ``folds``. The training patients of each fold are divided
    into ``inner`` parts, so that a fold's members together predict all of its training patients out of fold.
    ``times`` [n] are in months.

    Raises InputError if a part would have no event.
    """
    if events.sum() < 2 * folds:
        raise InputError(
            f"{count(int(events.sum()), 'event')} among {count(len(events), 'patient')}: "
            f"{folds} folds need at least {2 * folds} events"
        )
    splits = []
    for repeat in range(repeats):
        everyone = np.arange(len(times))
        for fold, held_out in enumerate(_parts(everyone, times, events, folds, [seed, repeat])):
            training = np.setdiff1d(everyone, held_out)
            happened = int(events[training].sum())
            if happened < inner:
                raise InputError(
                    f"fold {fold + 1} trains on {count(happened, 'event')}: too few for {inner} inner parts"
                )
            for number, part in enumerate(_parts(training, times, events, inner, [seed, repeat, fold])):
                splits.append(Split(repeat, fold, number, np.setdiff1d(training, part), part, held_out))
    return splits


def _parts(rows: Rows, times: Floats, events: Bools, number: int, seed: list[int]) -> Iterator[Rows]:
    """``rows`` divided into ``number`` parts with similar outcomes."""
    state = int(np.random.SeedSequence(seed).generate_state(1)[0])
    splitter = StratifiedKFold(number, shuffle=True, random_state=state)
    with warnings.catch_warnings():
        # If fewer patients have no event than there are parts, some parts have none of them.
        warnings.simplefilter("ignore", UserWarning)
        parts = [part for _, part in splitter.split(rows, strata(times[rows], events[rows], number))]
    for part in parts:
        yield rows[part]


def strata(times: Floats, events: Bools, parts: int) -> NDArray[np.int64]:
    """A label [n] for each patient: with or without an event, and early or late among those.

    Patients with an event are divided by time into as many equally large groups, four at most, as leave a patient of
    each group to every one of the ``parts``; patients without an event likewise.

    >>> strata(np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, True, False, False]), 1).tolist()
    [4, 5, 0, 1]
    """
    labels = np.zeros(len(times), dtype=np.int64)
    for happened in (False, True):
        rows = np.flatnonzero(events == happened)
        ranges = max(1, min(4, len(rows) // parts))
        rank = np.argsort(np.argsort(times[rows], kind="stable"), kind="stable")
        labels[rows] = 4 * happened + rank * ranges // max(1, len(rows))
    return labels
