"""Modalities, and the combinations of them that a case may have.

A task lists its modalities; everything that is ordered by modality follows that order.
"""

from collections.abc import Iterable, Sequence
from itertools import combinations

from survfuse.runtime.errors import InputError
from survfuse.runtime.suggestions import unknown

Combination = tuple[str, ...]  # of modalities, in the task's order


def check_modalities(names: Sequence[str], modalities: Sequence[str]) -> None:
    """Raise InputError unless each of ``names`` is one of ``modalities``."""
    if isinstance(names, str):
        raise InputError(f"modalities: expected a list of names, such as [{names[:80]!r}], found one string")
    for name in names:
        if name not in modalities:
            raise InputError(unknown("modality", name, modalities))


def ordered(names: Iterable[str], modalities: Sequence[str]) -> Combination:
    """Those of ``modalities`` that are among ``names``, in the order of ``modalities``.

    >>> ordered({"rna", "slide"}, ("slide", "rna", "clinical"))
    ('slide', 'rna')
    """
    given = set(names)
    return tuple(name for name in modalities if name in given)


def all_combinations(modalities: Iterable[str]) -> list[Combination]:
    """Every non-empty combination of ``modalities``, larger ones first and each in the given order.

    >>> all_combinations(("slide", "rna"))
    [('slide', 'rna'), ('slide',), ('rna',)]
    """
    own = tuple(modalities)
    return [chosen for size in range(len(own), 0, -1) for chosen in combinations(own, size)]


def all_pairs(modalities: Iterable[str]) -> list[tuple[str, str]]:
    """Every pair of ``modalities``, in the given order.

    >>> all_pairs(("slide", "rna", "clinical"))
    [('slide', 'rna'), ('slide', 'clinical'), ('rna', 'clinical')]
    """
    return list(combinations(modalities, 2))


def combination_name(combination: Combination) -> str:
    """A combination as manifests write it.

    >>> combination_name(("slide", "clinical"))
    'slide+clinical'
    """
    return "+".join(combination)


def parse_combination(name: str) -> Combination:
    """The modalities in a combination's name; the inverse of ``combination_name``.

    >>> parse_combination("slide+clinical")
    ('slide', 'clinical')
    """
    return tuple(name.split("+"))


def is_combination(name: str, modalities: Sequence[str]) -> bool:
    """Whether ``name`` names a combination of ``modalities``, in their order.

    >>> is_combination("clinical+slide", ("slide", "rna", "clinical"))
    False
    """
    return parse_combination(name) in all_combinations(modalities)
