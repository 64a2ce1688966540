"""Bulk expression by gene symbol → one vector in the bundle's gene order."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from survfuse.runtime.arrays import Floats
from survfuse.runtime.errors import BundleError, InputError, brief
from survfuse.runtime.files import json_type, spelt_number
from survfuse.runtime.log import Note, count

LOG_STANDARDISE = "log1p-standardise"
IDENTITY = "identity"
ANOTHER_SCALE = "expression is on a different scale from the training cohort's"
TAKES_NEGATIVE = f"--transform {IDENTITY} takes any finite value"
CHECK_UNIT = "check the unit (counts, TPM, logged values)"
# How far a case may lie outside the cohort's extremes before a warning: a factor of two in expression itself, and a
# tenth in the slope against the cohort's profile.
SHIFT_MARGIN = float(np.log(2.0))
SLOPE_MARGIN = 0.1
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class ScaleRange:
    """Where the training patients' log1p expression lay relative to the cohort's mean profile.

    ``profile`` [G]: mean over patients of log1p(x); of a negative x, −log1p(−x).
    ``shift`` (lowest, highest): median over genes of log1p(x) minus the profile, so e^shift is a factor.
    ``slope`` (lowest, highest): least-squares slope of log1p(x) on the profile; logged values have a small one.
    """

    profile: Floats
    shift: tuple[float, float]
    slope: tuple[float, float]


@dataclass(frozen=True)
class RnaVector:
    """One patient's expression as networks take it, with notes and warnings for the log."""

    values: NDArray[np.float32]  # [G], transformed
    raw: Floats  # [G], as given; NaN where absent
    notes: tuple[Note, ...]  # for the log: counts only
    warnings: tuple[Note, ...]


@dataclass(frozen=True)
class Expression:
    """The bundle's expression transform.

    ``log1p-standardise`` maps x to (log1p(x) − mean) / scale, and to 0 where the gene was constant in training
    (scale 0), x being at least 0. ``identity`` keeps x, any finite number; ``mean`` is then the mean of x, used only
    for missing genes.
    """

    genes: tuple[str, ...]
    transform: str
    mean: Floats  # [G], of the transformed values before standardising
    scale: Floats  # [G], standard deviation; 0 marks a constant gene
    cohort_range: ScaleRange | None = None
    most_missing: float = 0.5  # share of genes that may be absent

    @classmethod
    def fit(cls, genes: tuple[str, ...], values: Floats, transform: str = LOG_STANDARDISE) -> "Expression":
        """The transform fitted to a cohort: ``values`` [patients, G] is raw expression, NaN where absent.

        Raises InputError for a gene that no patient has, and for a negative value unless ``transform`` is identity.
        """
        absent = np.isnan(values).all(axis=0)
        if absent.any():
            raise InputError(f"gene {genes[int(absent.argmax())]} has no value in any patient")
        if transform != IDENTITY and (values < 0.0).any():
            raise InputError(f"expression: negative values cannot be logged; {TAKES_NEGATIVE}")
        logged = signed_log(values)
        profile = np.nanmean(logged, axis=0)
        placed = np.array([_placement(row, profile) for row in logged if not np.isnan(row).all()])
        (low, flat), (high, steep) = placed.min(axis=0).tolist(), placed.max(axis=0).tolist()
        cohort_range = ScaleRange(profile, (low, high), (flat, steep))
        kept = values if transform == IDENTITY else logged
        mean, scale = np.nanmean(kept, axis=0), np.nanstd(kept, axis=0)
        scale[scale < 1e-8] = 0.0
        return cls(genes, transform, mean, scale, cohort_range)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Expression":
        """Read ``genes.json``; raises BundleError if it does not have this form."""
        try:
            genes = tuple(value["genes"])
            mean, scale = (np.asarray(value[key], dtype=np.float64) for key in ("mean", "scale"))
            stated = value.get("cohort_range")
            span = stated and ScaleRange(
                np.asarray(stated.get("profile", mean), dtype=np.float64),
                _bounds(stated["shift"]),
                _bounds(stated["slope"]),
            )
            most_missing = float(value["most_missing"])
            transform = value["transform"]
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as cause:
            raise BundleError(f"genes.json: not an expression transform ({brief(cause)})") from cause
        if not all(isinstance(gene, str) for gene in genes) or len(set(genes)) != len(genes) or not genes:
            raise BundleError("genes.json: expected distinct gene symbols")
        if transform not in (LOG_STANDARDISE, IDENTITY):
            raise BundleError(f"genes.json: unknown transform {brief(transform)}")
        for name, numbers in (("mean", mean), ("scale", scale), ("profile", span.profile if span else mean)):
            if numbers.shape != (len(genes),) or not np.isfinite(numbers).all():
                raise BundleError(f"genes.json: expected {len(genes)} finite numbers as {name}")
            if (numbers < 0.0).any() and (transform != IDENTITY or name == "scale"):
                raise BundleError(f"genes.json: expected numbers of at least 0 as {name}")
        for bounds in (span.shift, span.slope) if span else ():
            if not np.isfinite(bounds).all() or bounds[0] > bounds[1]:
                raise BundleError("genes.json: expected a lowest and a highest shift and slope of the cohort")
        if not 0.0 <= most_missing <= 1.0:
            raise BundleError("genes.json: expected a share as most_missing")
        return cls(genes, transform, mean, scale, span, most_missing)

    def to_json(self) -> dict[str, object]:
        """The transform as ``genes.json`` keeps it; the inverse of ``from_json``."""
        span = self.cohort_range
        described: dict[str, object] | None = None
        if span is not None:
            described = {"shift": list(span.shift), "slope": list(span.slope)}
            if self.transform == IDENTITY:  # otherwise the profile is the mean
                described["profile"] = span.profile.tolist()
        return {
            "transform": self.transform,
            "most_missing": self.most_missing,
            "cohort_range": described,
            "genes": list(self.genes),
            "mean": self.mean.tolist(),
            "scale": self.scale.tolist(),
        }

    def transformed(self, values: Floats) -> NDArray[np.float32]:
        """Raw expression [..., G], NaN where absent → transformed [..., G]; absent genes get their training mean."""
        if self.transform == IDENTITY:
            return np.where(np.isnan(values), self.mean, values).astype(np.float32)
        constant = self.scale == 0.0
        standard = (np.log1p(values) - self.mean) / np.where(constant, 1.0, self.scale)
        return np.where(np.isnan(values) | constant, 0.0, standard).astype(np.float32)

    def encode(self, expression: Mapping[str, Any]) -> RnaVector:
        """One patient's raw expression by gene → vector [G]; a gene may have another of its names than the bundle's.

        Raises InputError, naming the gene, for a value that is not a number, NaN or infinite, for a negative one unless
        the transform is ``identity``, and if more than ``most_missing`` of the bundle's genes are absent.
        """
        values = raw_expression(expression, self.genes, negative=self.transform == IDENTITY)
        renamed = self._renamed(expression, values)
        for place, name in renamed.items():
            values[place] = _value(name, expression[name], -LARGEST)
        missing = int(np.isnan(values).sum())
        extra = len(expression) - (len(self.genes) - missing)
        notes = [Note(f"{count(len(self.genes) - missing, 'gene')} of {len(self.genes):,} read")]
        if renamed:
            notes.append(Note(f"{count(len(renamed), 'gene')} read by another name", ("genes read by another name",)))
        if missing > self.most_missing * len(self.genes):
            raise InputError(
                f"expression: {missing:,} of the bundle's {len(self.genes):,} genes are missing, "
                f"expected at most {self.most_missing:.0%}"
            )
        if missing:
            zero = self.transform == IDENTITY and not self.mean.any()
            value = "counted as 0" if zero else "imputed with the training mean"
            notes.append(Note(f"{count(missing, 'missing gene')} {value}", (f"missing genes {value}",)))
        if extra:
            notes.append(Note(f"{count(extra, 'extra gene')} ignored", ("extra genes ignored",)))
        if spelt := sum(isinstance(value, str) for value in expression.values()):
            notes.append(Note(f"{count(spelt, 'number')} given as text", ("numbers given as text",)))
        return RnaVector(self.transformed(values), values, tuple(notes), self._scale_warnings(values))

    def _renamed(self, expression: Mapping[str, Any], values: Floats) -> dict[int, str]:
        """Places of genes that are absent from ``values`` [G] → the name by which ``expression`` has them."""
        places = {self.genes[place]: place for place in np.flatnonzero(np.isnan(values)).tolist()}
        own = set(self.genes)
        unknown = tuple(name for name in expression if name not in own) if places else ()
        if not unknown:
            return {}
        from survfuse.inputs.gene_names import other_names  # a table, which few cases need

        return {places[gene]: name for gene, name in other_names(unknown, tuple(places)).items()}

    def _scale_warnings(self, values: Floats) -> tuple[Note, ...]:
        if self.cohort_range is None:
            return ()
        shift, slope = _placement(signed_log(values), self.cohort_range.profile)
        (low, high), (flat, steep) = self.cohort_range.shift, self.cohort_range.slope
        if low - SHIFT_MARGIN <= shift <= high + SHIFT_MARGIN and flat - SLOPE_MARGIN <= slope <= steep + SLOPE_MARGIN:
            return ()
        text = (
            f"{ANOTHER_SCALE}: typical factor {np.exp(shift):.3g} (cohort {np.exp(low):.3g} to {np.exp(high):.3g}), "
            f"slope against its profile {slope:.2f} (cohort {flat:.2f} to {steep:.2f}); {CHECK_UNIT}"
        )
        return (Note(text, (f"{ANOTHER_SCALE}; {CHECK_UNIT}",)),)


def raw_expression(expression: Mapping[str, Any], genes: tuple[str, ...], negative: bool = False) -> Floats:
    """Values [G] in the order of ``genes``, NaN where a gene is absent; ``negative`` ones are taken on request.

    Every value is checked, including those of genes outside ``genes``; raises InputError naming the gene. Text that
    spells a number in decimal digits counts as that number.
    """
    low = -LARGEST if negative else 0.0
    values = {gene: _value(gene, value, low) for gene, value in expression.items()}
    return np.array([values.get(gene, np.nan) for gene in genes], dtype=np.float64)


def signed_log(values: Floats) -> Floats:
    """log1p(x) of expression, −log1p(−x) where it is negative; NaN stays.

    >>> signed_log(np.array([np.e - 1, 1 - np.e, 0.0])).tolist()
    [1.0, -1.0, 0.0]
    """
    logged: Floats = np.copysign(np.log1p(np.abs(values)), values)
    return logged


def _value(gene: str, value: Any, low: float) -> float:
    number = spelt_number(value) if isinstance(value, str) else value
    if number is None or isinstance(number, bool) or not isinstance(number, (int, float)):
        found = "a string that is not a number" if isinstance(value, str) else json_type(value)
        raise InputError(f"expression of {gene[:80]!r}: expected a number, found {found}")
    if not low <= number <= LARGEST:  # false for NaN as well
        expected = "a finite value" if low < 0.0 else "a finite value of at least 0"
        kind = "negative" if low == 0.0 > number >= -LARGEST else "NaN or too large for a number"
        raise InputError(f"expression of {gene[:80]!r}: expected {expected}, found one that is {kind}")
    return float(number)


def _bounds(numbers: Any) -> tuple[float, float]:
    """Two numbers of a JSON array; raises ValueError or TypeError for anything else."""
    low, high = map(float, numbers)
    return low, high


def _placement(logged: Floats, profile: Floats) -> tuple[float, float]:
    """(median difference, slope) of one patient's log1p expression [G] against the cohort's profile [G]."""
    present = ~np.isnan(logged)
    values, means = logged[present], profile[present]
    centred = means - means.mean()
    spread = float(centred @ centred)
    slope = float(centred @ (values - values.mean()) / spread) if spread > 0.0 else 1.0
    return float(np.median(values - means)), slope
