"""Clinical variables that state the outcome under any name, known by what they say of the patients' outcomes."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
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
# Patients, and patients of the rarer of event and none, for whom such a variable may say the opposite: one of 40 may
# be miscoded, while covariates that agree with the event in nine of ten patients pass.
_MISTOLD, _MISTOLD_RARER = 0.03, 0.125


def check_no_outcomes(
    patients: Sequence[Variables], times: Floats, events: Bools, task: Task, kept: Sequence[str] = ()
) -> None:
    """Raise InputError for variables of ``patients`` [n] that state their ``times`` [n] or ``events`` [n].

    Such a variable orders the patients as their times do, or tells, by its value or by being missing, who had the
    event, with few exceptions. Those ``kept`` may.
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
    labels = np.array([_label(value, codes) for value in values], dtype=object)
    missing = np.array([label is None for label in labels])
    known = ~missing
    return (
        _separates(labels, events)
        or _separates(missing.astype(object), events)
        or _separates(labels[known], events[known])
    )


def _label(value: object, codes: Sequence[str]) -> str | None:
    """A value as a category, numbers in one spelling; None if it is missing."""
    if is_missing(value, codes) or is_missing_word(value):
        return None
    number = number_in(value, codes)
    return str(value).strip().lower() if number is None else f"{number:.15g}"


def _separates(labels: NDArray[np.object_], events: Bools) -> bool:
    """Whether nearly all patients of each of a few ``labels`` [n] have the event, or nearly none."""
    rarer = min(events.sum(), (~events).sum())
    if rarer < _FEWEST_OF_EACH or len(events) < _FEWEST:
        return False
    with_event = Counter(labels[events])
    counts = Counter(labels)
    told = {label: with_event[label] > number / 2 for label, number in counts.items()}
    exceptions = sum(min(with_event[label], number - with_event[label]) for label, number in counts.items())
    few = exceptions <= min(_MISTOLD * len(events), _MISTOLD_RARER * rarer)
    return len(told) <= _MOST_LABELS and len(set(told.values())) == 2 and few
