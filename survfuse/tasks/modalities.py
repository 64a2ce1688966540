"""Modalities, and the combinations of them that a case may have."""

from collections.abc import Iterable
from itertools import combinations

MODALITIES = ("slide", "rna", "clinical")
Combination = tuple[str, ...]  # of modalities, in the order of MODALITIES


def ordered(modalities: Iterable[str]) -> Combination:
    """``modalities`` in the order of MODALITIES."""
    given = set(modalities)
    return tuple(name for name in MODALITIES if name in given)


def all_combinations(modalities: Iterable[str]) -> list[Combination]:
    """Every non-empty combination of ``modalities``, all of them together first."""
    own = ordered(modalities)
    return [part for size in range(len(own), 0, -1) for part in combinations(own, size)]


def combination_name(combination: Combination) -> str:
    """As the manifest writes it: "slide+rna+clinical"."""
    return "+".join(combination)


def parse_combination(name: str) -> Combination:
    """The modalities of a combination's name."""
    return tuple(name.split("+"))


def is_combination(name: str) -> bool:
    """Whether ``name`` is one that ``name_of`` writes."""
    return parse_combination(name) in all_combinations(MODALITIES)


MODALITIES = ("slide", "rna", "clinical")
