"""Outcomes among the clinical variables, which a model must not see: known by name, or by what they say.

A variable of follow-up predicts the outcome perfectly in the cohort that it was recorded in, and does not exist yet for
a new patient.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy import stats

from survfuse.inputs.clinical import is_missing, is_missing_word, number_in
from survfuse.runtime.arrays import Bools, Floats
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import listing
from survfuse.tasks.task import Task

Variables = Mapping[str, object]  # of one patient, by name

# The names of outcomes in the field's tables (GDC and TCGA-CDR, cBioPortal, SEER), as ``_plain`` spells them: endpoints
# by their abbreviations with what is stated of each, and words.
_ENDPOINTS = "os|dss|css|pfi|pfs|dfi|dfs|rfs|efs|mfs|bcr|ttp|ttr|overallsurvival|survival|followup|event"
_STATED = "|time|times|months|month|days|day|years|year|status|event|events|censor|censored|indicator"
_HAPPENING = "death|event|progression|recurrence|relapse|metastasis|bcr|lastfollowup|lastcontact|lastknownalive"
_NAMES = re.compile(
    rf"({_ENDPOINTS})({_STATED})|time|status|censor|censored|censoring|outcome|vitalstatus|causeofdeath"
    rf"|death|dead|deceased|died|alive|progression|progressed|recurrence|recurred|relapse|relapsed"
    rf"|biochemicalrecurrence|newtumorevent|dateofdeath|ageatdeath|yearofdeath|lastfollowup"
    rf"|(time|days|months|weeks|years)(to|until)({_HAPPENING}|newtumorevent\w*)"
    rf"|(time|followup)(days|months|weeks|years)"
)
_FEWEST = 10  # patients of whom a coincidence with their outcomes is no coincidence
_FEWEST_OF_EACH = 4  # of them with, and without, the event
_SAME_ORDER = 0.98  # Spearman's correlation with the times from which on a variable is one of them
_MOST_LABELS = 4  # of a variable that tells who had the event; more tell patients apart, and so events as well


def outcome_names(names: Iterable[str], task: Task) -> list[str]:
    """Those of ``names`` by which the field, or ``task``, calls an outcome, in any spelling.

    >>> from survfuse.tasks.registry import DEFAULT
    >>> outcome_names(["Time", "age", "vital_status", "OS.time", "days_to_death", "stage"], DEFAULT)
    ['Time', 'vital_status', 'OS.time', 'days_to_death']
    """
    own = {_plain(name) for name in (*task.outcome.keys, *task.outcome.event_columns, *task.outcome.time_columns)}
    return [name for name in names if _plain(name) in own or _NAMES.fullmatch(_plain(name))]


def check_outcomes_unknown(
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
        if _orders_as(values, times, task.missing_codes):
            wrong.append(f"{name} orders patients as their times do")
        elif _tells(values, events, task.missing_codes):
            wrong.append(f"{name} tells who had the event")
    if wrong:
        raise InputError(
            f"clinical variables that state the outcome: {listing(wrong)}; remove them from the files, or use "
            "--keep-variables for those that are known at the time of prediction"
        )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _orders_as(values: Sequence[object], times: Floats, codes: Sequence[str]) -> bool:
    numbers = np.array([np.nan if (number := number_in(value, codes)) is None else number for value in values])
    known = ~np.isnan(numbers)
    if known.sum() < _FEWEST or np.ptp(numbers[known]) == 0.0 or np.ptp(times[known]) == 0.0:
        return False
    return bool(abs(stats.spearmanr(numbers[known], times[known]).statistic) >= _SAME_ORDER)


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
