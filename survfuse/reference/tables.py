"""The reference's genes, clinical vocabulary and calibration → this project's tables."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from survfuse.inputs.clinical import Categorical, Numeric, Vocabulary
from survfuse.inputs.expression import IDENTITY, Expression
from survfuse.reference.pickles import calibration_arrays, is_pickle, preprocessor, unpickled
from survfuse.runtime.errors import BundleError, InputError
from survfuse.runtime.files import check_file, is_number, read_json, read_object
from survfuse.runtime.log import listing
from survfuse.survival.calibration import Calibration
from survfuse.tasks.chimera3 import OUTCOME_KEYS


def read_genes(path: Path) -> tuple[str, ...]:
    check_file(path, InputError)
    value = read_json(path, InputError)
    if not isinstance(value, list) or not value or not all(isinstance(gene, str) and gene for gene in value):
        raise InputError(f"{path.name}: expected a JSON array of gene symbols")
    if len(set(value)) < len(value):
        twice = next(gene for gene, times in Counter(value).items() if times > 1)
        raise InputError(f"{path.name}: gene {twice[:80]!r} is listed twice")
    return tuple(value)


def untransformed_expression(genes: tuple[str, ...]) -> Expression:
    # The mean stands in for an absent gene, for which the reference has 0; any number of them may be absent.
    return Expression(genes, IDENTITY, np.zeros(len(genes)), np.ones(len(genes)), most_missing=1.0)


def read_vocabulary(path: Path, trust: bool) -> Vocabulary:
    """The reference's clinical columns, and one for missing each that is inactive."""
    value = preprocessor(path, unpickled(path, trust)) if is_pickle(path) else _json_object(path)
    numeric = [Numeric(**entry) for entry in _entries(path, value, "numeric", ("name", "mean", "scale"))]
    categorical = []
    for entry in _entries(path, value, "categorical", ("name", "categories")):
        if not isinstance(entry["categories"], list) or not all(isinstance(c, str) for c in entry["categories"]):
            raise InputError(f"{path.name}: expected an array of strings as categories of {entry['name']}")
        categorical.append(Categorical(entry["name"], tuple(entry["categories"])))
    for number in numeric:
        if not is_number(number.mean) or not is_number(number.scale) or number.scale <= 0.0:
            raise InputError(f"{path.name}: expected a mean and a scale above 0 of {number.name}")
    names = [variable.name for variable in (*numeric, *categorical)]
    if outcomes := sorted(set(names) & set(OUTCOME_KEYS)):
        raise InputError(f"{path.name}: {listing(outcomes)}: an outcome, which no network may be given")
    if len(set(names)) < len(names):
        raise InputError(f"{path.name}: a variable is listed twice")
    vocabulary = Vocabulary(tuple(numeric), tuple(categorical), missing_codes=(), exact=True)
    known = {*(entry.name for entry in numeric)}
    known |= {f"{entry.name}={category}" for entry in categorical for category in entry.categories}
    vocabulary = replace(vocabulary, inactive=frozenset(vocabulary.columns) - known)
    try:
        return Vocabulary.from_json(vocabulary.to_json())
    except BundleError as problem:
        raise _of_file(path, problem) from problem


def _entries(path: Path, value: Mapping[str, Any], key: str, fields: tuple[str, ...]) -> list[dict[str, Any]]:
    """The objects under ``key``, each with exactly ``fields`` and text as its name."""
    entries = value.get(key)
    sound = isinstance(entries, list) and all(
        isinstance(entry, dict) and set(entry) == set(fields) and isinstance(entry["name"], str) for entry in entries
    )
    if not sound:
        raise InputError(f"{path.name}: expected {key!r}, an array of objects with {', '.join(fields)}")
    return entries


def read_calibration(path: Path, mode: str, trust: bool) -> Calibration:
    """The reference's table, its risks sorted: a rank among them does not depend on their order."""
    value = calibration_arrays(path, unpickled(path, trust)) if is_pickle(path) else _json_object(path)
    numbers = {}
    for name, key in (("times", "km_times"), ("survival", "km_probs"), ("reference_risks", "train_risks")):
        entries = value.get(key)
        if not isinstance(entries, list) or not entries or not all(map(is_number, entries)):
            raise InputError(f"{path.name}: expected {key!r}, an array of finite numbers")
        numbers[name] = entries
    numbers["reference_risks"] = sorted(numbers["reference_risks"])
    try:
        return Calibration.from_json({"mode": mode, **numbers})
    except BundleError as problem:
        raise _of_file(path, problem) from problem


def _of_file(path: Path, problem: BundleError) -> InputError:
    """A table's complaint, with the name of the user's file in place of the bundle's."""
    return InputError(f"{path.name}: {str(problem).partition(': ')[2]}")


def _json_object(path: Path) -> dict[str, Any]:
    check_file(path, InputError)
    return read_object(path, InputError)
