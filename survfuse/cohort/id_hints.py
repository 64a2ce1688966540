"""How ids of patients that should agree differ, for the messages about tables that have no patient in common."""

import re
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

_SEPARATOR = re.compile(r"[-_. /]")  # between the parts of a barcode


def _without_zeros(name: str) -> str:
    return name.lstrip("0")


_SPELLINGS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("zeros before them", _without_zeros),  # spreadsheets cut them off
    ("letter case", str.casefold),
    ("zeros before them and letter case", lambda name: _without_zeros(name.casefold())),
)


def hint(sides: Sequence[AbstractSet[str]]) -> str:
    """How some ids that not all ``sides`` have would be on all of them; empty if no way is known.

    >>> hint([{"007", "008"}, {"7"}])
    'ids agree but for zeros before them'
    >>> hint([{"TCGA-A1-0001-01A"}, {"TCGA-A1-0001"}])
    'ids of one begin with those of the other, as sample barcodes do'
    >>> hint([{"a"}, {"b"}])
    ''
    """
    if not sides:
        return ""
    common = frozenset.intersection(*map(frozenset, sides))
    rest = [frozenset(side - common) for side in sides]
    for what, spelt in _SPELLINGS:
        if frozenset.intersection(*(frozenset(map(spelt, side)) for side in rest)):
            return f"ids agree but for {what}"
    beginnings = [side.union(*map(_beginnings, side)) for side in rest]
    if frozenset.intersection(*beginnings) & frozenset.union(*rest):
        return "ids of one begin with those of the other, as sample barcodes do"
    return ""


def _beginnings(name: str) -> set[str]:
    """What stands before each separator."""
    return {name[: separator.start()] for separator in _SEPARATOR.finditer(name) if separator.start()}
