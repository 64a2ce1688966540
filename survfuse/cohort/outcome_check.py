"""Clinical variables that state the outcome under any name, known by what they say of the patients' outcomes."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from survfuse.inputs.clinical import is_missing, is_missing_word, number_in
from survfuse.runtime.arrays import Bools, Floats
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import listing
from survfuse.survival.metrics import concordance
from survfuse.tasks.task import Task

Variables = Mapping[str, object]  # of one patient, by name

_FEWEST = 10  # patients of whom a coincidence with their outcomes is no coincidence
_FEWEST_OF_EACH = 4  # of them with, and without, the event
# Spearman's correlation with the times, and the concordance with the outcomes, from which on a variable is one of them.
_SAME_ORDER, _CONCORDANT = 0.98, 0.97
_MOST_LABELS = 4  # of a variable that tells who had the event; more tell patients apart, and so events as well


def check_no_outcomes(
    patients: Sequence[Variables], times: Floats, events: Bools, task: Task, kept: Sequence[str] = ()
) -> None:
    """Raise InputError for variables of ``patients`` [n] that state their ``times`` [n] or ``events`` [n].

    Such a variable orders the patients as their times do, or has, by its value or by being missing, the event for some
    and not for the others. Those ``kept`` may.
    """
    names = dict.fromkeys(name for patient in patients for name in patient)
    wrong = []
    for name in names:
        values = [patient.get(name) for patient in patients]
        if name in kept:
            continue
        if _orders_as(values, times, events, task.missing_codes):
            wrong.append(f"{name} orders patients as their times do")
        elif _tells(values, events, task.missing_codes):
            wrong.append(f"{name} tells who had the event")
    if wrong:
        raise InputError(
            f"clinical variables that state the outcome: {listing(wrong)}; remove them from the files, or use "
            "--keep-variables for those that are known at the time of prediction"
        )


def _orders_as(values: Sequence[object], times: Floats, events: Bools, codes: Sequence[str]) -> bool:
    numbers = np.array([np.nan if (number := number_in(value, codes)) is None else number for value in values])
    known = ~np.isnan(numbers)
    if known.sum() < _FEWEST or np.ptp(numbers[known]) == 0.0 or np.ptp(times[known]) == 0.0:
        return False
    if abs(stats.spearmanr(numbers[known], times[known]).statistic) >= _SAME_ORDER:
        return True
    agreement = concordance(times[known], events[known], -numbers[known])
    few = events[known].sum() < _FEWEST_OF_EACH or np.unique(numbers[known]).size < _FEWEST
    return not few and max(agreement, 1.0 - agreement) >= _CONCORDANT


def _tells(values: Sequence[object], events: Bools, codes: Sequence[str]) -> bool:
    if min(events.sum(), (~events).sum()) < _FEWEST_OF_EACH or len(values) < _FEWEST:
        return False
    missing = [is_missing(value, codes) or is_missing_word(value) for value in values]
    labels = ["" if none else str(value).strip().lower() for value, none in zip(values, missing, strict=True)]
    return any(_separates(each, events) for each in (labels, [str(none) for none in missing]))


def _separates(labels: Sequence[str], events: Bools) -> bool:
    """Whether every label has the event in all of its patients, or in none."""
    seen: dict[str, set[bool]] = {}
    for label, event in zip(labels, events.tolist(), strict=True):
        seen.setdefault(label, set()).add(event)
    return 2 <= len(seen) <= _MOST_LABELS and all(len(found) == 1 for found in seen.values())
