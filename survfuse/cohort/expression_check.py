"""Whether a cohort's expression fits together: the same genes, in the same unit, with values that can be logged."""

from collections.abc import Sequence

import numpy as np

from survfuse.inputs.expression import TAKES_NEGATIVE, signed_log
from survfuse.runtime.arrays import Bools, Floats
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import NAMED, count, counted, listing, warn

_FEW = 0.5  # share of the usual genes below which a patient is named
# Gaps in a sorted list of patients that no difference between samples of one unit makes: between their spreads over
# genes (logged values have a third of the raw ones' spread) and between their levels (a factor of 20).
_SPREAD_GAP, _LEVEL_GAP = 1.6, 20.0


def check_expression(ids: Sequence[str], genes: Sequence[str], values: Floats, logged: bool) -> None:
    """Check ``values`` [n, G], NaN where a patient lacks a gene, of the patients ``ids`` before they are trained on.

    Raises InputError for patients without any of the genes that most patients have and, if values are to be ``logged``,
    for negative ones. Warns of patients who lack more than half of those genes, of genes that most patients lack, and
    of patients in another unit.
    """
    _check_genes(ids, genes, ~np.isnan(values))
    negative: Bools = np.asarray((values < 0.0).any(axis=1))
    if logged and negative.any():
        raise InputError(f"{_who(ids, negative)} negative expression, of which there is no logarithm; {TAKES_NEGATIVE}")
    if not negative.any():
        _check_unit(ids, values)


def _check_genes(ids: Sequence[str], genes: Sequence[str], present: Bools) -> None:
    usual = present.mean(axis=0) > 0.5
    if not usual.any():
        other: Bools = np.asarray(~present[:, present[0]].any(axis=1))
        first, second = genes[int(present[0].argmax())], genes[int(present[int(other.argmax())].argmax())]
        ends = f"; {ids[0]} has {first}, but {_who(ids, other)} genes such as {second}" if other.any() else ""
        raise InputError(f"expression: no gene is common to most of {count(len(ids), 'patient')}{ends}")
    share = present[:, usual].mean(axis=1)
    genes_usual = f"of the {count(int(usual.sum()), 'gene')} that most patients have"
    if (foreign := share == 0.0).any():
        row = int(foreign.argmax())
        example = genes[int(present[row].argmax())]
        raise InputError(
            f"{_who(ids, foreign)} none {genes_usual}, such as {genes[int(usual.argmax())]}; found genes such as "
            f"{example} in {ids[row]}"
        )
    if (few := share < _FEW).any():
        warn(f"{_who(ids, few)} less than {_FEW:.0%} {genes_usual}; the others are imputed")
    if rare := int((~usual).sum()):
        names = listing([genes[place] for place in np.flatnonzero(~usual)[:NAMED]], NAMED)
        where = "are in half of the patients at most, and imputed in the others"
        warn(f"{rare:,} of {count(len(genes), 'gene')} ({names}, …) {where}")


def _check_unit(ids: Sequence[str], values: Floats) -> None:
    """Warn of patients whose expression stands apart from the others', as logged values do from raw ones."""
    logs = signed_log(values)
    for what, numbers, gap in (
        ("spread over genes", np.log(np.maximum(np.nanstd(logs, axis=1), 1e-3)), np.log(_SPREAD_GAP)),
        ("level", np.nanmean(logs, axis=1), np.log(_LEVEL_GAP)),
    ):
        order = np.argsort(numbers, kind="stable")
        steps = np.diff(numbers[order])
        if not len(steps) or steps.max() < gap:
            continue
        cut = int(steps.argmax()) + 1
        low, high = order[:cut], order[cut:]
        apart = np.zeros(len(ids), dtype=bool)
        apart[low if len(low) <= len(high) else high] = True
        warn(
            f"{_who(ids, apart)} expression of another {what} than the others, by a factor of at least "
            f"{np.exp(steps.max()):.2g}: check the unit (counts, TPM, logged values); one cohort needs one unit"
        )
        return


def _who(ids: Sequence[str], which: Bools) -> str:
    """How many of the patients ``ids`` are ``which``, with names, as the subject of a sentence with "have"."""
    names = [name for name, of in zip(ids, which, strict=True) if of]
    verb = "has" if len(names) == 1 else "have"
    return f"{counted(names, 'patient', len(ids))} {verb}"
