"""The reference's genes, clinical vocabulary and calibration → this project's tables."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from survfuse.inputs.clinical import Categorical, Numeric, Vocabulary
from survfuse.inputs.expression import IDENTITY, Expression
from survfuse.reference.pickles import calibration_json, is_pickle, preprocessor_json, unpickled
from survfuse.runtime.errors import BundleError, InputError
from survfuse.runtime.files import is_number, read_json, read_object
from survfuse.runtime.log import listing
from survfuse.runtime.suggestions import check_is_file
from survfuse.survival.calibration import Calibration
from survfuse.tasks.task import Task


def read_genes(path: Path) -> tuple[str, ...]:
    """The gene symbols in a JSON array; raises InputError for anything else, and for a gene listed twice."""
    check_is_file(path)
    genes = read_json(path, InputError)
    if not isinstance(genes, list) or not genes or not all(isinstance(gene, str) and gene for gene in genes):
        raise InputError(f"{path.name}: expected a JSON array of gene symbols")
    if len(set(genes)) < len(genes):
        twice = next(gene for gene, times in Counter(genes).items() if times > 1)
        raise InputError(f"{path.name}: gene {twice[:80]!r} is listed twice")
    return tuple(genes)


def untransformed_expression(genes: tuple[str, ...]) -> Expression:
    """The transform that leaves expression as it is."""
    # The mean replaces an absent gene, for which the reference has 0; any number of genes may be absent.
    return Expression(genes, IDENTITY, np.zeros(len(genes)), np.ones(len(genes)), most_missing=1.0)


def read_vocabulary(path: Path, trust: bool, task: Task) -> Vocabulary:
    """The reference's clinical columns, and for each variable an inactive one for missing values.

    ``path`` is a JSON object or, with ``trust``, the reference's own pickle. Raises InputError for anything else, a
    variable that is listed twice, and one that is an outcome of ``task``.
    """
    value = preprocessor_json(path, unpickled(path, trust)) if is_pickle(path) else _json_object(path)
    numeric, categorical = [], []
    for name, mean, scale in _entries(path, value, "numeric", "mean", "scale"):
        if not is_number(mean) or not is_number(scale) or scale <= 0.0:
            raise InputError(f"{path.name}: expected a mean and a scale above 0 of {name}")
        numeric.append(Numeric(str(name), mean, scale))
    for name, categories in _entries(path, value, "categorical", "categories"):
        if not isinstance(categories, list) or not all(isinstance(category, str) for category in categories):
            raise InputError(f"{path.name}: expected an array of strings as categories of {name}")
        categorical.append(Categorical(str(name), tuple(categories)))
    names = [variable.name for variable in numeric] + [variable.name for variable in categorical]
    if outcomes := sorted(set(names) & set(task.outcome.keys)):
        raise InputError(f"{path.name}: {listing(outcomes)}: an outcome, which must not be a network's input")
    if len(set(names)) < len(names):
        raise InputError(f"{path.name}: a variable is listed twice")
    vocabulary = Vocabulary(
        tuple(numeric), tuple(categorical), missing_codes=(), outcomes=task.outcome.keys, exact=True
    )
    known = {variable.name for variable in numeric}
    known |= {f"{variable.name}={category}" for variable in categorical for category in variable.categories}
    vocabulary = replace(vocabulary, inactive=frozenset(vocabulary.columns) - known)
    try:
        return Vocabulary.from_json(vocabulary.to_json())
    except BundleError as problem:
        raise _of_file(path, problem) from problem


def read_calibration(path: Path, mode: str, trust: bool) -> Calibration:
    """The reference's calibration, its risks sorted: a rank among them does not depend on their order.

    ``path`` is a JSON object or, with ``trust``, the reference's own pickle. Raises InputError for anything else.
    """
    value = calibration_json(path, unpickled(path, trust)) if is_pickle(path) else _json_object(path)
    tables: dict[str, object] = {
        "mode": mode,
        "times": _numbers(path, value, "km_times"),
        "survival": _numbers(path, value, "km_probs"),
        "reference_risks": sorted(_numbers(path, value, "train_risks")),
    }
    try:
        return Calibration.from_json(tables)
    except BundleError as problem:
        raise _of_file(path, problem) from problem


def _entries(path: Path, value: Mapping[str, object], key: str, *fields: str) -> list[list[object]]:
    """The name and ``fields`` of each object under ``key``; raises InputError for an object with others."""
    entries = value.get(key)
    sound = isinstance(entries, list) and all(
        isinstance(entry, dict) and set(entry) == {"name", *fields} and isinstance(entry["name"], str)
        for entry in entries
    )
    if not isinstance(entries, list) or not sound:
        raise InputError(f"{path.name}: expected {key!r}, an array of objects with name, {', '.join(fields)}")
    return [[entry["name"], *(entry[field] for field in fields)] for entry in entries]


def _numbers(path: Path, value: Mapping[str, object], key: str) -> list[float]:
    numbers = value.get(key)
    if not isinstance(numbers, list) or not numbers or not all(map(is_number, numbers)):
        raise InputError(f"{path.name}: expected {key!r}, an array of finite numbers")
    return numbers


def _of_file(path: Path, problem: BundleError) -> InputError:
    """``problem`` with a table, under the name of the user's file instead of the bundle's."""
    return InputError(f"{path.name}: {str(problem).partition(': ')[2]}")


def _json_object(path: Path) -> dict[str, object]:
    check_is_file(path)
    return read_object(path, InputError)
