"""Whether a cohort's expression fits together: the same genes, in the same unit, with values that can be logged."""

import math
from collections.abc import Sequence

import numpy as np

from survfuse.inputs.expression import IDENTITY, TAKES_NEGATIVE, signed_log
from survfuse.runtime.arrays import Bools, Floats
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import NAMED, count, counted, listing, warn

_FEW = 0.5  # share of the usual genes below which a patient is named
# Gaps in a sorted list of patients that no difference between samples of one unit makes: between their spreads over
# genes (logged values have a third of the raw ones' spread) and between their levels (a factor of 20).
_SPREAD_GAP, _LEVEL_GAP = 1.6, 20.0
# Two groups may differ less in level: by a gap and, between their medians, a factor that libraries of one protocol do
# not keep between them. Groups of log-normal or t-distributed library sizes whose logarithms have a standard deviation
# of 0.5 do so in 0.1% of cohorts at most, of 0.7 in 0.7%; values ten times as large in half of 40 patients are found in
# 87% of cohorts where that is 0.3.
_GROUPS_GAP, _GROUPS_FACTOR = 2.5, 5.0
_SMALLEST_GROUP, _SMALLEST_SHARE = 3, 0.1
# Shares of a patient's values that are negative: of z-scores and log ratios half are, of other units next to none.
_SOME_NEGATIVE, _HARDLY_NEGATIVE = 0.1, 0.02
# Counts and TPM reach thousands in every sample; their base-2 logarithms stay below 2^5.
_LARGEST_LOGGED = 32.0
_STANDARDISED = 0.25, 0.5  # of z-scores: how far most genes' means and standard deviations may be from 0 and 1
_ONE_UNIT = "check the unit (counts, TPM, logged values, z-scores); one cohort needs one unit"


def check_expression(ids: Sequence[str], genes: Sequence[str], values: Floats, logged: bool) -> None:
    """Check ``values`` [n, G], NaN where a patient lacks a gene, of the patients ``ids`` before they are trained on.

    Raises InputError for patients without any of the genes that most patients have and, if values are to be ``logged``,
    for negative ones. Warns of patients who lack more than half of those genes, of genes that most patients lack, and
    of patients in another unit.
    """
    _check_genes(ids, genes, ~np.isnan(values))
    signed = _signed_among_others(values)
    negative: Bools = np.asarray((values < 0.0).any(axis=1))
    if logged and negative.any():
        advice = f"the others have none: {_ONE_UNIT}" if signed.any() else f"{_kind(values)}{TAKES_NEGATIVE}"
        raise InputError(f"{_who(ids, negative)} negative expression, which has no logarithm; {advice}")
    if signed.any():
        warn(f"{_who(ids, signed)} negative expression, unlike the others: {_ONE_UNIT}")
    elif logged and (largest := float(np.nanmax(values))) < _LARGEST_LOGGED and not _are_whole(values):
        warn(
            f"expression of at most {largest:.3g} seems to be logged already; --transform {IDENTITY} takes it as it is"
        )
    _check_unit([name for name, apart in zip(ids, signed, strict=True) if not apart], values[~signed])


def _kind(values: Floats) -> str:
    """What negative ``values`` [n, G] seem to be, as the beginning of advice."""
    means, spreads = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
    near_0, near_1 = _STANDARDISED
    centred = np.median(np.abs(means)) < near_0 and np.median(np.abs(spreads - 1.0)) < near_1
    if centred:
        return "these seem to be z-scores; "
    return "these seem to be logarithms; " if np.nanmax(np.abs(values)) < _LARGEST_LOGGED else ""


def _are_whole(values: Floats) -> bool:
    """Whether all values are whole numbers, as few counts are."""
    return bool((values[~np.isnan(values)] % 1.0 == 0.0).all())


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
        warn(f"{_who(ids, few)} fewer than half {genes_usual}; the others are imputed")
    if rare := int((~usual).sum()):
        names = listing([genes[place] for place in np.flatnonzero(~usual)[:NAMED]], NAMED)
        where = "are missing in at least half of the patients, where they are imputed"
        warn(f"{rare:,} of {count(len(genes), 'gene')} ({names}, …) {where}")


def _signed_among_others(values: Floats) -> Bools:
    """Patients [n] with many negative values, if the others have hardly any; none if there are no others."""
    shares = (values < 0.0).sum(axis=1) / (~np.isnan(values)).sum(axis=1)
    many: Bools = np.asarray(shares >= _SOME_NEGATIVE)
    one_unit = many.all() or (shares[~many] > _HARDLY_NEGATIVE).any()
    return np.zeros_like(many) if one_unit else many


def _check_unit(ids: Sequence[str], values: Floats) -> None:
    """Warn of patients whose expression stands apart from the others', as logged values do from raw ones."""
    logs = signed_log(values)
    spreads, levels = np.log(np.maximum(np.nanstd(logs, axis=1), 1e-3)), np.nanmean(logs, axis=1)
    for apart, numbers, less, more in (
        (_apart(spreads, _SPREAD_GAP), spreads, "less widely spread over genes", "more widely spread over genes"),
        (_apart(levels, _LEVEL_GAP), levels, "lower", "higher"),
        (_group_apart(levels), levels, "lower", "higher"),
    ):
        if apart.any():
            difference = float(np.median(numbers[apart]) - np.median(numbers[~apart]))
            how = f"{more if difference > 0.0 else less} than the others', by a factor of {_factor(difference)}"
            warn(f"{_who(ids, apart)} values {how}: {_ONE_UNIT}")
            return


def _apart(numbers: Floats, factor: float, smallest: int = 1) -> Bools:
    """The smaller of the two groups [n] that the widest gap between the logarithms ``numbers`` [n] makes.

    Nobody unless that gap is of a ``factor``, with at least ``smallest`` patients on either side.
    """
    order = np.argsort(numbers, kind="stable")
    steps = np.diff(numbers[order])[smallest - 1 : len(numbers) - smallest]
    apart = np.zeros(len(numbers), dtype=bool)
    if len(steps) and steps.max() >= np.log(factor):
        cut = int(steps.argmax()) + smallest
        low, high = order[:cut], order[cut:]
        apart[low if len(low) <= len(high) else high] = True
    return apart


def _group_apart(levels: Floats) -> Bools:
    """The smaller of two groups [n] of patients whose ``levels`` [n] are apart, by a gap and medians; else nobody."""
    apart = _apart(levels, _GROUPS_GAP, max(_SMALLEST_GROUP, math.ceil(_SMALLEST_SHARE * len(levels))))
    if apart.any() and abs(np.median(levels[apart]) - np.median(levels[~apart])) < np.log(_GROUPS_FACTOR):
        return np.zeros_like(apart)
    return apart


def _factor(difference: float) -> str:
    """The factor that a difference of logarithms is, in words: its inverse if that is larger."""
    factor = math.exp(abs(difference))
    return f"{factor:.1f}" if factor < 10.0 else f"{factor:,.0f}"


def _who(ids: Sequence[str], which: Bools) -> str:
    """How many of the patients ``ids`` are ``which``, with names, as the subject of a sentence with "have"."""
    names = [name for name, of in zip(ids, which, strict=True) if of]
    verb = "has" if len(names) == 1 else "have"
    return f"{counted(names, 'patient', len(ids))} {verb}"
