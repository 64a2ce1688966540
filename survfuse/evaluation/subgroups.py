"""Concordance within subgroups of patients, by a clinical variable."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np

from survfuse.evaluation.judged import Judged
from survfuse.inputs.clinical import is_missing, is_missing_word
from survfuse.runtime.arrays import Bools
from survfuse.runtime.errors import InputError, unexpected
from survfuse.runtime.files import finite_number
from survfuse.survival.bootstrap import Draws, concordances
from survfuse.survival.estimates import Estimate, estimate
from survfuse.survival.metrics import concordance
from survfuse.survival.numbers import null

FEW_EVENTS = 10  # below which a subgroup is marked: its interval says little
FEWEST_EVENTS = 3  # below which there is no interval
MISSING = "missing"
_DIGITS = 15  # of a number in a label: all that differ in a spreadsheet, and no more than are exact
_MOST_CODES = 6  # distinct numbers up to which a variable is a code, not a quantity
_MOST_CATEGORIES = 20


class Subgroup(TypedDict):
    """Patients who share a category."""

    category: str
    patients: int
    events: int
    few_events: bool  # fewer than ten
    concordance: Estimate  # Harrell's, of the risks


class Variable(TypedDict):
    """The subgroups of a clinical variable."""

    variable: str
    median: float | None  # at which a number was cut; None for categories
    subgroups: list[Subgroup]


def by_variable(
    judged: Judged, name: str, values: Sequence[object], codes: Sequence[str], draws: int, seed: int
) -> Variable:
    """Harrell's C within each category of a variable, whose ``values`` [n] are those of ``judged`` patients.

    Numbers of more than six distinct values are cut at their median. ``codes`` are the spellings of a missing value;
    these patients are a category of their own. Intervals are from bootstrap draws within the subgroup; one with fewer
    than three events has none. Raises
    InputError for an array or object among the values, and for text of more than 20 categories.
    """
    labels, median = _labels(name, values, codes)
    order = [label for label in dict.fromkeys(labels) if label != MISSING]
    order = _ordered(order) if median is None else sorted(order, reverse=True)  # "≤" before ">", by code point
    found = [_subgroup(judged, np.array([label == each for label in labels]), each, draws, seed) for each in order]
    if MISSING in labels:
        found.append(_subgroup(judged, np.array([label == MISSING for label in labels]), MISSING, draws, seed))
    return {"variable": name, "median": median, "subgroups": found}


def _labels(name: str, values: Sequence[object], codes: Sequence[str]) -> tuple[list[str], float | None]:
    """The category [n] of each of ``values``, and the median that numbers were cut at."""
    known = [None if is_missing(value, codes) or is_missing_word(value) else value for value in values]
    numbers = [finite_number(value) for value in known if value is not None]
    quantities = [number for number in numbers if number is not None]
    if len(quantities) == len(numbers) and len(set(quantities)) > _MOST_CODES:
        median = float(np.median(quantities))
        at = number_label(median)
        cut = [f"> {at}" if (finite_number(value) or 0.0) > median else f"≤ {at}" for value in known]
        return [MISSING if value is None else label for value, label in zip(known, cut, strict=True)], median
    labels = [_label(name, value) for value in known]
    if len(set(labels)) > _MOST_CATEGORIES:
        raise InputError(f"--by {name}: expected at most {_MOST_CATEGORIES} categories, found {len(set(labels))}")
    return labels, None


def _label(name: str, value: object) -> str:
    if value is None:
        return MISSING
    if not isinstance(value, str | int | float):
        raise unexpected(f"--by {name}: expected categories or numbers", value)
    return number_label(value) if isinstance(value, float) else str(value).strip()


def number_label(value: float) -> str:
    """A number as a label, with all digits that tell it from others.

    >>> number_label(1234567.5), number_label(70.0), number_label(0.1)
    ('1234567.5', '70', '0.1')
    """
    return f"{value:.{_DIGITS}g}"


def _ordered(labels: Sequence[str]) -> list[str]:
    """Numbers by size, then texts."""
    return sorted(labels, key=lambda label: (finite_number(label) is None, finite_number(label) or 0.0, label))


def _subgroup(judged: Judged, inside: Bools, category: str, draws: int, seed: int) -> Subgroup:
    times, events, risks = judged.times[inside], judged.events[inside], judged.risks[inside]
    value = concordance(times, events, risks)
    found: Estimate = {"value": null(value), "low": None, "high": None, "undefined_draws": 0}
    if events.sum() >= FEWEST_EVENTS:
        found = estimate(value, concordances(times, events, risks, Draws(len(times), draws, seed).weights))
    return {
        "category": category,
        "patients": len(times),
        "events": int(events.sum()),
        "few_events": bool(events.sum() < FEW_EVENTS),
        "concordance": found,
    }


def subgroup_values(name: str, clinical: Mapping[str, Mapping[str, object]], cases: Sequence[str]) -> list[object]:
    """The value of the variable ``name`` of each of ``cases`` [n]; None for a patient without it."""
    return [clinical.get(case, {}).get(name) for case in cases]


def few_events_text(group: Subgroup) -> str:
    """What is said beside a subgroup with few events; empty for one with enough."""
    if group["events"] < FEWEST_EVENTS:
        return "too few events"
    return "few events" if group["few_events"] else ""
