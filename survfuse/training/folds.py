"""Who trains, stops and judges each member: nested folds, stratified by event and time."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from survfuse.runtime.errors import InputError
from survfuse.runtime.log import count

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """One member's patients, as rows of the cohort: every patient is in exactly one of the three.

    ``fitted`` the weights and transforms are fitted to; ``inner`` decide when to stop, how strongly to penalise and
    what a family weighs; ``held_out`` nothing of the whole fold has seen.
    """

    repeat: int
    fold: int
    number: int  # of the inner part
    fitted: Rows
    inner: Rows
    held_out: Rows

    @property
    def name(self) -> str:
        return f"{self.repeat}-{self.fold}-{self.number}"


def nested_splits(
    times: NDArray[np.float64], events: NDArray[np.bool_], folds: int, inner: int, repeats: int, seed: int
) -> list[Split]:
    """One split for each member: ``repeats`` partitions into ``folds``, and of each fold's training patients one
    into ``inner`` parts, so that a fold's members predict all of its training patients out of fold.

    Raises InputError where a part would have no event.
    """
    if events.sum() < 2 * folds:
        raise InputError(
            f"{count(int(events.sum()), 'event')} among {count(len(events), 'patient')}: "
            f"{folds} folds need at least {2 * folds}"
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


def _parts(
    rows: Rows, times: NDArray[np.float64], events: NDArray[np.bool_], number: int, seed: list[int]
) -> Iterator[Rows]:
    """``rows`` dealt into ``number`` parts of like outcomes."""
    state = int(np.random.SeedSequence(seed).generate_state(1)[0])
    splitter = StratifiedKFold(number, shuffle=True, random_state=state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # fewer patients without an event than parts: some have none
        parts = [part for _, part in splitter.split(rows, strata(times[rows], events[rows], number))]
    for part in parts:
        yield rows[part]


def strata(times: NDArray[np.float64], events: NDArray[np.bool_], parts: int) -> NDArray[np.int64]:
    """A label [n] for each patient: with or without an event, and early or late among those.

    Among patients alike in event, as many equal ranges of time (four at most) as leave every part a patient of each,
    where there are so many.
    """
    labels = np.zeros(len(times), dtype=np.int64)
    for happened in (False, True):
        rows = np.flatnonzero(events == happened)
        ranges = max(1, min(4, len(rows) // parts))
        rank = np.argsort(np.argsort(times[rows], kind="stable"), kind="stable")
        labels[rows] = 4 * happened + rank * ranges // max(1, len(rows))
    return labels
