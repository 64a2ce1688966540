"""What each modality is worth to one case: the risks without some of them, and their Shapley values."""

from collections.abc import Mapping
from itertools import combinations
from math import comb

from survfuse.tasks.modalities import Combination


def shapley_values(risks: Mapping[Combination, float], empty: float) -> dict[str, float] | None:
    """The exact Shapley value of each modality of a case: its mean effect on the risk over all orders of adding it.

    ``risks`` are the case's by combination, ``empty`` the risk of somebody of whom nothing is known; the values add up
    to the risk of the largest combination minus ``empty``. None unless every combination has a risk. Source: Shapley
    1953, Contributions to the Theory of Games II.

    >>> risks = {("slide",): 1.0, ("rna",): 2.0, ("slide", "rna"): 4.0}
    >>> shapley_values(risks, 0.0)
    {'slide': 1.5, 'rna': 2.5}
    """
    everything = max(risks, key=len)
    known: dict[frozenset[str], float] = {frozenset(): empty, **{frozenset(name): risk for name, risk in risks.items()}}
    values = dict.fromkeys(everything, 0.0)
    for modality in everything:
        others = [name for name in everything if name != modality]
        for size in range(len(others) + 1):
            share = 1.0 / (len(everything) * comb(len(others), size))
            for chosen in combinations(others, size):
                before, after = frozenset(chosen), frozenset((*chosen, modality))
                if before not in known or after not in known:
                    return None
                values[modality] += share * (known[after] - known[before])
    return values
