"""Clinical variables that are numbers in nearly all patients, and words in a few."""

from collections.abc import Mapping, Sequence

from survfuse.cohort.problems import Problems
from survfuse.inputs.clinical import is_missing, is_missing_word, spells_number
from survfuse.runtime.log import NAMED, count, counted, listing, stage
from survfuse.tasks.task import Task

_NEARLY_ALL = 0.8  # of the values that are neither missing nor a word for that
_MORE_THAN_CODES = 5  # distinct numbers up to which they may be codes of categories, among others that are words


def check_numbers(ids: Sequence[str], patients: Sequence[Mapping[str, object]], task: Task) -> None:
    """Log which words stand for missing values in variables of numbers, and raise InputError for other text there.

    ``patients`` [n] have variables by name, ``ids`` [n] name them in messages. Without this, one word would make every
    number of its variable a category.
    """
    problems = Problems()
    for name in sorted({name for patient in patients for name in patient}):
        values = {patient: known[name] for patient, known in zip(ids, patients, strict=True) if name in known}
        present = {patient: value for patient, value in values.items() if not is_missing(value, task.missing_codes)}
        numbers = [value for value in present.values() if spells_number(value)]
        words = {patient: str(value).strip() for patient, value in present.items() if is_missing_word(value)}
        other = {
            patient: str(value)
            for patient, value in present.items()
            if patient not in words and not spells_number(value)
        }
        if not numbers:
            continue
        codes = len({float(str(value)) for value in numbers}) <= _MORE_THAN_CODES
        if other and (codes or len(numbers) < _NEARLY_ALL * (len(numbers) + len(other))):
            continue  # categories, some of which are spelt as numbers
        for patient, text in other.items():
            have = f"a number, which {count(len(numbers), 'patient')} have"
            shared = f"clinical variable {name}: expected {have}, found other text"
            problems.add(f"clinical variable {name}: expected {have}, found {text[:20]!r}", patient, shared=shared)
        if words and not other:
            texts = listing([repr(text) for text in sorted(set(words.values()))], NAMED)
            stage("clinical", f"{name}: {texts} of {counted(words, 'patient')} taken as missing")
    problems.raise_any("clinical variables")
