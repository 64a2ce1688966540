"""Clinical variables that are numbers in nearly all patients, and words or other spellings of numbers in some."""

import re
import unicodedata
from collections import Counter
from collections.abc import Container, Mapping, Sequence

from survfuse.cohort.problems import Problems
from survfuse.inputs.clinical import is_missing, is_missing_word, spells_number
from survfuse.runtime.errors import unexpected
from survfuse.runtime.files import finite_number
from survfuse.runtime.log import NAMED, counted, listing, stage
from survfuse.tasks.task import Task

_NEARLY_ALL = 0.8  # of the values that are neither missing nor a word for that
_LONGEST = 60  # characters that are looked at
_MORE_THAN_CODES = 5  # distinct numbers up to which they may be codes of categories, among others that are words

# How people spell a number: with a decimal comma or separated thousands, a unit or %; and what only bounds one.
_NUMBER = r"[-+]?([0-9]{1,3}([ .,'’][0-9]{3})+([.,][0-9]+)?|[0-9]*[.,]?[0-9]+[.,]?(e[-+]?[0-9]+)?)"
_UNIT = r"%|[cdkmµμu]m[23²³]?|m[23²³]|[mkµμun]g|[mdµμu]l|cc|m?iu|years?|yrs?|y|months?|mo|weeks?|wks?|days?|hours?|min"
_LETTER = "[dhmgl]"  # a unit after a blank, or below a stroke; stages end in such letters as well
_MEASURE = rf"{_NUMBER}(( ?({_UNIT})| {_LETTER})(/({_UNIT}|{_LETTER}))?)?"
_BOUND = r"[<>≤≥=~≈]{1,2}|about|approx\.?|ca\.?|circa|under|over|below|above|(more|less) than|at (least|most)|up to"
_SPELT = re.compile(_MEASURE)
_BOUNDED = re.compile(rf"({_BOUND}) ?{_MEASURE}|{_MEASURE} ?\+|{_MEASURE} ?(-|–|—|to) ?{_MEASURE}")


def check_numbers(
    ids: Sequence[str], patients: Sequence[Mapping[str, object]], task: Task, stated: Container[str] = ()
) -> None:
    """Log which words stand for missing values in variables of numbers, and raise InputError for other text there.

    ``patients`` [n] have variables by name, ``ids`` [n] name them in messages. Without this, one word would make every
    number of its variable a category, and a decimal comma each number a category of its own. Variables whose type is
    ``stated`` are not looked at.
    """
    problems = Problems()
    for name in sorted({name for patient in patients for name in patient if name not in stated}):
        values = {patient: known[name] for patient, known in zip(ids, patients, strict=True) if name in known}
        present = {patient: value for patient, value in values.items() if not is_missing(value, task.missing_codes)}
        words = {patient: str(value).strip() for patient, value in present.items() if is_missing_word(value)}
        others = {patient: value for patient, value in present.items() if patient not in words}
        _check_variable(name, others, words, problems)
    problems.raise_any("clinical variables")


def _check_variable(name: str, stated: Mapping[str, object], words: Mapping[str, str], problems: Problems) -> None:
    """Check what patients have ``stated``; the ``words`` of the others say that it is missing."""
    other = {patient: value for patient, value in stated.items() if not spells_number(value)}
    numbers = len(stated) - len(other)
    if not other and numbers and words:
        texts = listing([repr(text) for text in sorted(set(words.values()))], NAMED)
        stage("clinical", f"{name}: {texts} of {counted(words, 'patient')} taken as missing")
    if not other:
        return
    if not _are_numbers(list(stated.values())):
        alike = sorted({str(value).strip() for value in other.values() if _SPELT.fullmatch(_simplified(value))})
        if alike:
            stage("clinical", f"{name}: {listing(map(repr, alike), NAMED)} taken as categories")
        return
    has = f", which {numbers:,} {'patient has' if numbers == 1 else 'patients have'}" if numbers else ""
    for patient, value in other.items():
        with problems.collect(patient):
            raise unexpected(f"clinical variable {name}: expected a plain number such as 12.5{has}", value)


def _are_numbers(values: Sequence[object]) -> bool:
    """Whether nearly all of ``values`` are numbers in any spelling, and more than codes or bounds of groups."""
    texts = [_simplified(value) for value in values]
    spelt = [text for text in texts if _SPELT.fullmatch(text)]
    bounded = sum(_BOUNDED.fullmatch(text) is not None for text in texts)
    if not spelt or len(spelt) + bounded < _NEARLY_ALL * len(values):
        return False
    seen = Counter(spelt)
    single = any(number == 1 and finite_number(text) is None for text, number in seen.items())
    return single or len(seen) > _MORE_THAN_CODES


def _simplified(value: object) -> str:
    """A value's text in lower case, with plain digits and blanks; a number's without the zeros that it does not need.

    >>> _simplified(2), _simplified("2.0"), _simplified("５ MM")
    ('2', '2', '5 mm')
    """
    number = finite_number(value)
    text = str(value).strip()[:_LONGEST]
    return f"{number:.15g}" if number is not None else unicodedata.normalize("NFKC", text).lower()
