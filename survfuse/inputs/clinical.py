"""Clinical variables by name → one vector, typed by the bundle's vocabulary.

Missing codes such as -1, plausible ranges and the keys of outcomes, which never reach a model, are the task's.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from survfuse.runtime.errors import BundleError, InputError, brief, unexpected
from survfuse.runtime.files import finite_number, is_number, json_type, spelt_number
from survfuse.runtime.log import Note, listing
from survfuse.tasks.task import Task

# Words that the field's tables have in place of a number, in lower case; brackets around them do not count (GDC,
# TCGA's clinical tables, spreadsheets). A category may be called so, and is then kept as one.
MISSING_WORDS = frozenset(
    {"not available", "not reported", "not applicable", "not evaluated", "not recorded", "not known", "unknown"}
    | {"unavailable", "unspecified", "missing", "discrepancy", "null", "nan", "na", "n/a", "n.a.", "#n/a", "nd", "n.d."}
    | {"'--", "--", "-", ".", "..", "?"}
)


@dataclass(frozen=True)
class Numeric:
    """A numeric variable: standardised by the training mean and scale, with a column that marks it missing."""

    name: str
    mean: float
    scale: float  # standard deviation; 0 where constant in training
    low: float | None = None  # plausible range, inclusive
    high: float | None = None
    missing: tuple[str, ...] = ()  # codes of missing values besides the vocabulary's, in lower case

    def columns(self) -> list[str]:
        """Names of its entries of the vector."""
        return [self.name, f"{self.name} missing"]


@dataclass(frozen=True)
class Categorical:
    """A categorical variable: a column for each category, and one for missing or unknown."""

    name: str
    categories: tuple[str, ...]
    missing: tuple[str, ...] = ()  # codes of missing values besides the vocabulary's, in lower case

    def columns(self) -> list[str]:
        """Names of its entries of the vector."""
        return [*(f"{self.name}={category}" for category in self.categories), f"{self.name} missing"]


@dataclass(frozen=True)
class ClinicalVector:
    """One patient's variables as networks take them, and notes on them for the log."""

    values: NDArray[np.float32]  # [C]
    notes: tuple[Note, ...]  # for the log: names of variables, never values
    known: int  # variables with a value that is neither missing nor unknown


@dataclass(frozen=True)
class Vocabulary:
    """The bundle's clinical variables; ``inactive`` columns were constant in training and get no weight."""

    numeric: tuple[Numeric, ...]
    categorical: tuple[Categorical, ...]
    missing_codes: tuple[str, ...]  # in lower case
    outcomes: tuple[str, ...]  # keys that are dropped
    inactive: frozenset[str] = frozenset()
    exact: bool = False  # whether a category must be spelt exactly

    @property
    def variables(self) -> "tuple[Numeric | Categorical, ...]":
        """Every variable, numeric ones first."""
        return (*self.numeric, *self.categorical)

    @property
    def columns(self) -> list[str]:
        """Names of the vector's entries, in order."""
        return [column for variable in self.variables for column in variable.columns()]

    def codes(self, entry: "Numeric | Categorical") -> tuple[str, ...]:
        """The codes of missing values of one of the variables."""
        return (*self.missing_codes, *entry.missing)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Vocabulary":
        """Read ``clinical.json``; raises BundleError if it does not have this form."""
        try:
            vocabulary = cls(
                numeric=tuple(
                    Numeric(**{**entry, "missing": tuple(entry.get("missing", ()))}) for entry in value["numeric"]
                ),
                categorical=tuple(
                    Categorical(entry["name"], tuple(entry["categories"]), tuple(entry.get("missing", ())))
                    for entry in value["categorical"]
                ),
                inactive=frozenset(value["inactive"]),
                missing_codes=tuple(value["missing_codes"]),
                outcomes=tuple(value["outcomes"]),
                exact=value.get("exact", False),
            )
            columns = vocabulary.columns
            unsound = vocabulary.inactive - set(columns)
        except (KeyError, TypeError, ValueError, OverflowError) as cause:
            raise BundleError(f"clinical.json: not a clinical vocabulary ({brief(cause)})") from cause
        words = [*vocabulary.missing_codes, *vocabulary.outcomes, *(entry.name for entry in vocabulary.numeric)]
        words += [word for entry in vocabulary.categorical for word in (entry.name, *entry.categories)]
        if unsound or not columns or len(set(columns)) != len(columns) or not all(isinstance(w, str) for w in words):
            raise BundleError("clinical.json: expected distinct variables spelt as text, and known inactive columns")
        if type(vocabulary.exact) is not bool:
            raise BundleError("clinical.json: expected true or false as exact")
        codes = [*vocabulary.missing_codes, *(code for entry in vocabulary.variables for code in entry.missing)]
        if not all(isinstance(code, str) and code == code.strip().lower() for code in codes):
            raise BundleError("clinical.json: expected missing codes in lower case")
        for entry in vocabulary.numeric:
            bounds = [bound for bound in (entry.low, entry.high) if bound is not None]
            numbers = [entry.mean, entry.scale, *bounds]
            if not all(map(is_number, numbers)) or bounds != sorted(bounds) or 0.0 != entry.scale < 1e-8:
                raise BundleError(f"clinical.json: expected finite, ordered statistics of {entry.name}")
        return vocabulary

    def to_json(self) -> dict[str, object]:
        """The vocabulary as ``clinical.json`` keeps it; the inverse of ``from_json``."""
        return {
            "numeric": [_without_no_codes(vars(entry)) for entry in self.numeric],
            "categorical": [
                _without_no_codes({"name": entry.name, "categories": list(entry.categories), "missing": entry.missing})
                for entry in self.categorical
            ],
            "inactive": [column for column in self.columns if column in self.inactive],
            "missing_codes": list(self.missing_codes),
            "outcomes": list(self.outcomes),
            "exact": self.exact,
        }

    def encode(self, variables: Mapping[str, Any]) -> ClinicalVector:
        """One patient's variables by name → vector [C].

        Raises InputError for a value that is neither a number, a string nor null, and for a number outside its
        plausible range.
        """
        values: list[float] = []
        missing: list[str] = []
        unknown: list[str] = []
        for entry in self.numeric:
            number = read_number(entry, variables.get(entry.name), self.codes(entry))
            if number is None:
                missing.append(entry.name)
            values += [_standardised(entry, number), float(number is None)]
        for kind in self.categorical:
            label = read_label(kind.name, variables.get(kind.name), self.codes(kind), self.exact)
            category = _match(label, kind.categories, self.exact) if label is not None else None
            if category is None:
                (missing if label is None else unknown).append(kind.name)
            values += [float(category == name) for name in kind.categories] + [float(category is None)]
        active = [column not in self.inactive for column in self.columns]
        vector = np.where(active, values, 0.0).astype(np.float32)
        known = len(self.numeric) + len(self.categorical) - len(missing) - len(unknown)
        return ClinicalVector(vector, self._notes(variables, missing, unknown, known), known)

    def _notes(
        self, variables: Mapping[str, Any], missing: list[str], unknown: list[str], known: int
    ) -> tuple[Note, ...]:
        names = [entry.name for entry in self.variables]
        notes = [Note(f"{known} of {len(names)} variables known")]
        means = [entry.name for entry in self.numeric if entry.name in missing]
        own_column = [name for name in missing if name not in means]
        if means:
            notes.append(_named("missing, set to the training mean", means))
        if own_column:
            notes.append(_named("missing, encoded in their own column", own_column))
        if unknown:
            notes.append(_named("unknown category, counted as missing", unknown))
        unweighted = [name for name in (*missing, *unknown) if f"{name} missing" in self.inactive]
        if unweighted:
            notes.append(_named("never missing in training, so their missing column has no weight", unweighted))
        spelt = [entry.name for entry in self.numeric if isinstance(variables.get(entry.name), str)]
        if spelt := [name for name in spelt if name not in missing]:
            notes.append(_named("numbers given as text", spelt))
        dropped = [key for key in self.outcomes if key in variables]
        if dropped:
            notes.append(_named("outcome keys dropped", dropped))
        extra = sorted(set(variables) - set(names) - set(self.outcomes))
        if extra:
            notes.append(_named("not in the bundle's vocabulary, ignored", [name[:40] for name in extra]))
        return tuple(notes)


def _named(what: str, names: Sequence[str]) -> Note:
    """A note on some variables, counted for each of them."""
    return Note(f"{what}: {listing(names)}", tuple(f"{what}: {name}" for name in names))


def _without_no_codes(entry: Mapping[str, object]) -> dict[str, object]:
    """A variable as JSON keeps it: with codes of its own only if there are any."""
    return {key: value for key, value in entry.items() if key != "missing" or value}


def fit_vocabulary(
    patients: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    task: Task,
    outcomes: Sequence[str] = (),
    stated: Mapping[str, Numeric | Categorical] = MappingProxyType({}),
) -> Vocabulary:
    """The vocabulary of a cohort: which of ``names`` are numbers, their statistics, the categories seen.

    ``outcomes`` are keys that are dropped besides the task's. ``stated`` are variables whose type is known: numbers
    without statistics, categories that are fixed or, if empty, those seen.

    Any other variable is numeric if it has a plausible range, or if every value that is neither missing nor one of
    MISSING_WORDS is a number or spells one.
    A column that has the same value in all patients is inactive. Raises InputError for a value of a variable with a
    plausible range that is not a number or lies outside it.
    """
    codes = task.missing_codes
    numeric, categorical = [], []
    for name in names:
        values = [patient.get(name) for patient in patients]
        own = stated.get(name)
        if isinstance(own, Numeric) or (own is None and is_numeric(name, values, task)):
            variable = own or Numeric(name, 0.0, 0.0, *task.plausible.get(name, (None, None)))
            known = [number for value in values if (number := read_number(variable, value, codes)) is not None]
            mean, scale = (float(np.mean(known)), float(np.std(known))) if known else (0.0, 0.0)
            numeric.append(replace(variable, mean=mean, scale=scale))
        else:
            labels = (read_label(name, value, codes) for value in values)
            seen = tuple(sorted({label for label in labels if label is not None}))
            kind = own or Categorical(name, ())
            categorical.append(replace(kind, categories=kind.categories or seen))
    vocabulary = Vocabulary(
        tuple(numeric), tuple(categorical), codes, tuple(dict.fromkeys((*task.outcome.keys, *outcomes)))
    )
    vectors = np.stack([vocabulary.encode(patient).values for patient in patients])
    constant = frozenset(np.array(vocabulary.columns)[np.ptp(vectors, axis=0) == 0.0].tolist())
    return replace(vocabulary, inactive=constant)


def is_numeric(name: str, values: Sequence[Any], task: Task) -> bool:
    """Whether a variable is one of numbers by the ``values`` that patients have, or by the task's plausible range.

    >>> from survfuse.tasks.registry import DEFAULT
    >>> is_numeric("size", [5, "7.5", -1, None, "unknown"], DEFAULT), is_numeric("stage", ["1", "2a"], DEFAULT)
    (True, False)
    """
    stated = [value for value in values if not is_missing(value, task.missing_codes) and not is_missing_word(value)]
    return name in task.plausible or (bool(stated) and all(map(spells_number, stated)))


def spells_number(value: Any) -> bool:
    """Whether a clinical value is a finite number or text that spells one.

    >>> spells_number("12.5"), spells_number("T1HG")
    (True, False)
    """
    return finite_number(value) is not None


def is_missing(value: Any, codes: Sequence[str]) -> bool:
    """Whether a clinical value is null, NaN or one of the missing ``codes``, numbers in any spelling.

    >>> is_missing(-1.0, ("-1", "na")), is_missing(" NA ", ("-1", "na")), is_missing(0, ("-1", "na"))
    (True, True, False)
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return False
    text = str(value).strip().lower()
    if text in codes:
        return True
    try:
        number = float(text)
    except ValueError:
        return False
    return "nan" in codes if math.isnan(number) else number in map(spelt_number, codes)


def is_missing_word(value: Any) -> bool:
    """Whether a clinical value is one of MISSING_WORDS, in any letter case and with or without brackets.

    >>> is_missing_word("[Not Available]"), is_missing_word("'--"), is_missing_word("none")
    (True, True, False)
    """
    return isinstance(value, str) and value.strip().strip("[]()").strip().lower() in MISSING_WORDS


def number_in(value: Any, codes: Sequence[str]) -> float | None:
    """The finite number that a clinical value is or spells; None for a missing one and for anything else.

    >>> number_in("12.5", ("-1",)), number_in(-1, ("-1",)), number_in("high", ("-1",))
    (12.5, None, None)
    """
    return None if is_missing(value, codes) else finite_number(value)


def read_number(variable: Numeric, value: Any, codes: Sequence[str], quote: bool = False) -> float | None:
    """A plausible number, or None if it is missing or one of MISSING_WORDS; text may spell the number.

    Raises InputError for anything else, and for a number outside the variable's plausible range. It shows the value
    only with ``quote``: a job's log may be read by others than those who have the patient's file.
    """
    if is_missing(value, codes) or is_missing_word(value):
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise InputError(f"clinical variable {variable.name}: expected a number, found {json_type(value)}")
    number = spelt_number(value) if isinstance(value, str) else value
    if number is None:
        expected = f"clinical variable {variable.name}: expected a number"
        raise unexpected(expected, value) if quote else InputError(f"{expected}, found other text")
    low = -math.inf if variable.low is None else variable.low
    high = math.inf if variable.high is None else variable.high
    if not is_number(number) or not low <= number <= high:
        raise InputError(f"clinical variable {variable.name}: out of its plausible range, {low:g} to {high:g}")
    return float(number)


def read_label(name: str, value: Any, codes: Sequence[str], exact: bool = False) -> str | None:
    """A category's text, without surrounding blanks unless ``exact``, or None if it is missing.

    Numbers and booleans are spelt out. Raises InputError for an array or an object.
    """
    if is_missing(value, codes):
        return None
    if not isinstance(value, (int, float, str)):
        raise InputError(f"clinical variable {name}: expected a category, found {json_type(value)}")
    return value.strip() if isinstance(value, str) and not exact else str(value)


def _match(label: str, categories: Sequence[str], exact: bool) -> str | None:
    """The category spelt like ``label``; unless ``exact``, in any letter case if only one is."""
    if label in categories:
        return label
    if exact:
        return None
    alike = [category for category in categories if category.casefold() == label.casefold()]
    return alike[0] if len(alike) == 1 else None


def _standardised(variable: Numeric, number: float | None) -> float:
    if number is None or variable.scale == 0.0:
        return 0.0
    return (number - variable.mean) / variable.scale
