"""Whether an event happened, in the words of the field's tables."""

from survfuse.runtime.errors import unexpected
from survfuse.runtime.files import finite_number

_HAPPENED = {"true", "dead", "deceased", "died", "death", "event", "progression", "progressed", "recurred"} | {
    "recurrence",
    "relapse",
    "relapsed",
    "recurred/progressed",
    "progressed/recurred",
}
_DID_NOT = {"false", "alive", "living", "censored", "no event", "event-free", "eventfree", "disease free"} | {
    "disease-free",
    "diseasefree",
    "progression free",
    "progression-free",
    "progressionfree",
}
_WORDS = {**dict.fromkeys(_HAPPENED, True), **dict.fromkeys(_DID_NOT, False)}


def read_event(value: object, name: str = "event") -> bool:
    """Whether the event happened, by a table's cell or a JSON value.

    Taken are 0 and 1, true and false, words such as Dead, Alive or Censored in any letter case, and cBioPortal's form
    of both, 1:DECEASED. Raises InputError that calls the value ``name`` for anything else, and for a number and a word
    that contradict each other.

    >>> read_event(1), read_event("0.0"), read_event("True"), read_event("Alive"), read_event("1:DECEASED")
    (True, False, True, False, True)
    """
    if isinstance(value, bool):
        return value
    text = value.strip().lower() if isinstance(value, str) else ""
    if text in _WORDS:
        return _WORDS[text]
    digit, colon, word = text.partition(":")
    number = finite_number(digit if colon else value)
    if number in (0, 1) and _WORDS.get(word.strip(), bool(number)) == bool(number):
        return bool(number)
    raise unexpected(f"{name}: expected 0 or 1", value)
