"""What a user states of clinical variables, in place of what their values let one infer.

A JSON object by variable:

    {"age": {"type": "number", "range": [0, 120], "missing": [999]},
     "stage": {"type": "category", "categories": ["1", "2", "3"], "missing": ["9"]},
     "comment": {"type": "ignore"}}
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from survfuse.inputs.clinical import (
    Categorical,
    Numeric,
    Vocabulary,
    is_missing,
    is_missing_word,
    read_label,
    read_number,
)
from survfuse.runtime.errors import InputError, unexpected
from survfuse.runtime.files import is_number, read_object
from survfuse.runtime.log import listing, stage
from survfuse.runtime.suggestions import unknown
from survfuse.tasks.task import Task

NUMBER, CATEGORY, IGNORE = "number", "category", "ignore"
_KEYS = {NUMBER: {"type", "range", "missing"}, CATEGORY: {"type", "categories", "missing"}, IGNORE: {"type"}}


@dataclass(frozen=True)
class StatedVariable:
    """One variable as stated."""

    kind: str  # NUMBER, CATEGORY or IGNORE
    low: float | None = None  # of a number, inclusive
    high: float | None = None
    categories: tuple[str, ...] = ()  # of a category; empty: those that occur
    missing: tuple[str, ...] = ()  # codes of missing values besides the task's, in lower case


@dataclass(frozen=True)
class StatedVariables:
    """What is stated of variables, by name."""

    by_name: Mapping[str, StatedVariable] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "StatedVariables":
        """The statements in a JSON file; raises InputError that names the variable and what is wrong with it."""
        entries = read_object(path, InputError)
        return cls({name: _statement(path, name, entry) for name, entry in entries.items()})

    @classmethod
    def of(cls, vocabulary: Vocabulary | None, task: Task) -> "StatedVariables":
        """What a bundle's vocabulary has otherwise than ``task``: ranges of numbers."""
        numeric = vocabulary.numeric if vocabulary is not None else ()
        return cls(
            {
                entry.name: StatedVariable(
                    NUMBER,
                    -math.inf if entry.low is None else entry.low,
                    math.inf if entry.high is None else entry.high,
                    missing=entry.missing,
                )
                for entry in numeric
                if entry.name in task.plausible and (entry.low, entry.high) != task.plausible[entry.name]
            }
        )

    def check_names(self, patients: Sequence[Mapping[str, object]]) -> None:
        """Raise InputError for a stated variable that none of ``patients`` has."""
        names = list(dict.fromkeys(name for patient in patients for name in patient))
        for name in self.by_name:
            if name not in names:
                raise InputError(f"--variables: {unknown('clinical variable', name, names)}")

    def check(self, name: str, value: object, task: Task) -> None:
        """Raise InputError for a value of the variable ``name`` that is not as stated, or not as ``task`` has it."""
        stated = self.by_name.get(name)
        codes = (*task.missing_codes, *(stated.missing if stated else ()))
        template = self.template(name, task)
        if isinstance(template, Numeric):
            read_number(template, value, codes, quote=True)
        elif stated is None or stated.kind == CATEGORY:
            label = read_label(name, value, codes)
            fixed = template.categories if template is not None else ()
            if fixed and label is not None and label not in fixed and not is_missing_word(value):
                raise unexpected(f"clinical variable {name}: expected one of {', '.join(fixed)}", value)

    def template(self, name: str, task: Task) -> Numeric | Categorical | None:
        """The variable ``name`` before it is fitted, if its type is stated or ``task`` has a range for it."""
        stated = self.by_name.get(name)
        low, high = task.plausible.get(name, (None, None))
        if stated is None:
            return Numeric(name, 0.0, 0.0, low, high) if name in task.plausible else None
        if stated.kind == CATEGORY:
            return Categorical(name, stated.categories, stated.missing)
        if stated.kind == IGNORE:
            return None
        if stated.low is not None:
            low, high = stated.low, stated.high
        return Numeric(name, 0.0, 0.0, low, high, stated.missing)

    def templates(self, names: Sequence[str], task: Task) -> dict[str, Numeric | Categorical]:
        """Those of ``names`` that ``template`` gives one for."""
        return {name: template for name in names if (template := self.template(name, task)) is not None}

    def applied(self, patients: Sequence[Mapping[str, object]]) -> list[Mapping[str, object]]:
        """``patients``' variables without those to ignore, with null for what is stated to be missing."""
        if not self.by_name:
            return list(patients)
        ignored = [name for name, stated in self.by_name.items() if stated.kind == IGNORE]
        if ignored:
            stage("clinical", f"ignored, as stated: {listing(ignored)}")
        missing = {name: stated.missing for name, stated in self.by_name.items() if stated.missing}
        return [
            {
                name: None if name in missing and is_missing(value, missing[name]) else value
                for name, value in patient.items()
                if name not in ignored
            }
            for patient in patients
        ]


NONE_STATED = StatedVariables()


def _statement(path: Path, name: str, entry: object) -> StatedVariable:
    where = f"{path.name}: {name}"
    kind = entry.get("type") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(kind, str) or kind not in _KEYS:
        raise InputError(f'{where}: expected {{"type": "{NUMBER}", "{CATEGORY}" or "{IGNORE}"}}')
    if extra := sorted(set(entry) - _KEYS[kind]):
        raise InputError(f"{where}: {unknown('key', extra[0], sorted(_KEYS[kind]))}")
    span, categories, missing = entry.get("range"), entry.get("categories", []), entry.get("missing", [])
    if span is not None and not (
        isinstance(span, list) and len(span) == 2 and all(map(is_number, span)) and span[0] <= span[1]
    ):
        raise InputError(f"{where}: expected a range as [lowest, highest]")
    for key, values in (("categories", categories), ("missing", missing)):
        if not isinstance(values, list) or not all(isinstance(v, str) or is_number(v) for v in values):
            raise InputError(f"{where}: expected {key} as a list of texts and numbers")
    labels, codes = (tuple(_spelt(value) for value in values) for values in (categories, missing))
    codes = tuple(code.lower() for code in codes)
    if len(set(labels)) < len(labels):
        raise InputError(f"{where}: a category occurs twice")
    if both := [label for label in labels if label.lower() in codes]:
        raise InputError(f"{where}: {both[0]} is both a category and missing")
    low, high = (float(span[0]), float(span[1])) if span is not None else (None, None)
    return StatedVariable(str(kind), low, high, labels, codes)


def _spelt(value: object) -> str:
    """A category or code as cells spell it: a whole number without a point."""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if isinstance(value, float) and whole else str(value).strip()
