"""What a cohort's clinical variables were taken for, in the log before training."""

from collections import Counter
from collections.abc import Mapping, Sequence

from survfuse.inputs.clinical import Categorical, Numeric, Vocabulary, is_missing_word, read_label, read_number
from survfuse.runtime.log import count, listing, stage

_SHOWN = 40  # variables that get a line of their own
_LABELS = 6  # categories in a line


def show_variables(patients: Sequence[Mapping[str, object]], vocabulary: Vocabulary) -> None:
    """Log the type of each variable and the values that ``patients`` have."""
    for entry in vocabulary.variables[:_SHOWN]:
        values = [patient.get(entry.name) for patient in patients]
        stage(
            "variable",
            _number(entry, values, vocabulary) if isinstance(entry, Numeric) else _category(entry, values, vocabulary),
        )
    if rest := vocabulary.variables[_SHOWN:]:
        numbers = sum(isinstance(entry, Numeric) for entry in rest)
        names = listing(entry.name for entry in rest)
        stage("variable", f"{count(len(rest), 'more variable')}, {numbers:,} of them numbers: {names}")


def _number(entry: Numeric, values: Sequence[object], vocabulary: Vocabulary) -> str:
    read = [read_number(entry, value, vocabulary.codes(entry)) for value in values]
    known = [number for number in read if number is not None]
    span = f"{min(known):g} to {max(known):g}" if known else "none known"
    return f"{entry.name}: number, {span}{_missing(len(read) - len(known), len(values))}"


def _category(entry: Categorical, values: Sequence[object], vocabulary: Vocabulary) -> str:
    labels = Counter(read_label(entry.name, value, vocabulary.codes(entry)) for value in values)
    missing = labels.pop(None, 0)
    shown = listing((f"{name} ({labels[name]})" for name in entry.categories), _LABELS)
    words = sum(number for name, number in labels.items() if is_missing_word(name) and name not in entry.categories)
    return f"{entry.name}: category, {shown}{_missing(missing + words, len(values))}"


def _missing(number: int, of: int) -> str:
    return f", {number:,} of {of:,} missing" if number else ""
