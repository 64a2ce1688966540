"""An explanation as one JSON object, ``case.json``; the page says what it says."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from survfuse import __version__
from survfuse.bundle.load import Bundle
from survfuse.bundle.manifest import MANIFEST, SELF
from survfuse.explanation.attribution import Parts
from survfuse.explanation.explanation import Explanation
from survfuse.explanation.out_folder import SCHEMA
from survfuse.explanation.ranking import lowering, raising, ranks, told_from_zero
from survfuse.explanation.record_types import (
    GIVEN,
    MISSING,
    UNKNOWN,
    Genes,
    Group,
    Model,
    Part,
    Predicted,
    Record,
    TilePart,
    Tiles,
    VariablePart,
    Variables,
)
from survfuse.inputs.case import Case
from survfuse.inputs.clinical import Vocabulary, is_missing, is_missing_word
from survfuse.runtime.errors import BundleError
from survfuse.runtime.files import read_object
from survfuse.survival.numbers import null

TOP = 10  # parts that raise, and that lower the risk, of which each is listed
_LONGEST_VALUE = 60  # characters of a variable's value


def record(explanation: Explanation) -> Record:
    """Everything that the page of an explanation says, but for single tiles beyond the first and all genes."""
    parts = explanation.attribution
    return {
        "schema": SCHEMA,
        "case": explanation.prediction.name,
        "model": _model(explanation.bundle, explanation.prediction.combination),
        "prediction": _predicted(explanation),
        "risks": dict(explanation.risks),
        "modality_values": dict(explanation.modality_values) if explanation.modality_values is not None else None,
        "expected": explanation.expected,
        "reference": explanation.reference,
        "baseline": _part("baseline", parts.baseline, 0),
        "tiles": _tiles(explanation, parts.tiles) if parts.tiles is not None else None,
        "vector": _part("slide-level vector", parts.vector, 0) if parts.vector is not None else None,
        "genes": _genes(explanation.genes, parts.genes) if parts.genes is not None else None,
        "variables": _variables(explanation, parts.variables) if parts.variables is not None else None,
        "joint": [_part(name, part, 0) for name, part in parts.joint.items()],
        "notes": [{"stage": stage, "text": note.text} for stage, note in explanation.notes],
        "warnings": list(explanation.warnings),
    }


def percentile(risk: float, reference: Sequence[float]) -> float:
    """The share of the sorted ``reference`` risks below ``risk``, in percent; equal ones count by half.

    >>> percentile(2.0, [1.0, 2.0, 3.0, 4.0])
    37.5
    """
    below, not_above = (int(np.searchsorted(reference, risk, side)) for side in ("left", "right"))
    return 50.0 * (below + not_above) / len(reference)


def _model(bundle: Bundle, combination: str) -> Model:
    families = Counter(entry.family for entry in bundle.manifest.members if combination in entry.standings)
    return {
        "survfuse": __version__,
        "folder": bundle.root.resolve().name,
        "sha256": str(read_object(bundle.root / MANIFEST, BundleError)[SELF]),
        "purpose": bundle.manifest.purpose,
        "notice": bundle.manifest.notice,
        "members": families.total(),
        "families": dict(families),
    }


def _predicted(explanation: Explanation) -> Predicted:
    prediction, calibration = explanation.prediction, explanation.bundle.calibration
    events = calibration.times[np.diff(calibration.survival, prepend=1.0) < 0.0]
    horizons = explanation.bundle.task.horizons if prediction.curve is not None else ()
    survival = prediction.survival(horizons).tolist() if horizons else []
    spread = explanation.attribution.risk_spread
    return {
        "months": prediction.months,
        "beyond_last_event": prediction.beyond,
        "last_event": float(events[-1]) if len(events) else None,
        "follow_up": float(calibration.times[-1]),
        "risk": prediction.risk,
        "risk_sd": null(spread) if spread is not None else None,
        "combination": prediction.combination,
        "percentile": percentile(prediction.risk, calibration.reference_risks.tolist()),
        "reference_risks": len(calibration.reference_risks),
        "survival": [{"months": at, "event_free": s} for at, s in zip(horizons, survival, strict=True)],
    }


def _part(name: str, parts: Parts, row: int) -> Part:
    return {
        "name": name,
        "value": float(parts.values[row]),
        "sd": float(parts.spread[row]) if parts.spread is not None else None,
        "told_from_zero": bool(told_from_zero(parts)[row]) if parts.spread is not None else None,
    }


def _group(parts: Parts) -> Group:
    return {
        "number": len(parts.values),
        "sum": float(parts.values.sum()),
        "told_from_zero": int(told_from_zero(parts).sum()) if parts.spread is not None else None,
    }


def _genes(names: Sequence[str], parts: Parts) -> Genes:
    return {
        **_group(parts),
        "raising": [_part(names[row], parts, row) for row in raising(parts.values, TOP)],
        "lowering": [_part(names[row], parts, row) for row in lowering(parts.values, TOP)],
    }


def _tiles(explanation: Explanation, parts: Parts) -> Tiles:
    places, attention, rank = explanation.places, explanation.attribution.attention, ranks(parts.values)

    def tile(row: int) -> TilePart:
        x, y = places.origins[row].tolist() if places is not None else (None, None)
        share = float(attention[row]) if attention is not None else None
        return {**_part(str(row + 1), parts, row), "x": x, "y": y, "attention": share, "rank": int(rank[row])}

    return {
        **_group(parts),
        "raising": [tile(row) for row in raising(parts.values, TOP)],
        "lowering": [tile(row) for row in lowering(parts.values, TOP)],
        "side": list(places.side) if places is not None else None,
        "mpp": list(places.mpp) if places is not None and places.mpp is not None else None,
    }


def _variables(explanation: Explanation, parts: Parts) -> Variables:
    vocabulary, stated = explanation.bundle.vocabulary, _stated(explanation.case)
    assert vocabulary is not None  # without one, a case has no parts of variables
    absent = _absent(vocabulary, stated)
    codes = {entry.name: vocabulary.codes(entry) for entry in vocabulary.variables}
    every: list[VariablePart] = []
    for row in np.argsort(-np.abs(parts.values), kind="stable").tolist():
        name = explanation.variables[row]
        value = stated.get(name)
        missing = is_missing(value, codes[name]) or is_missing_word(value)
        state = GIVEN if name not in absent else MISSING if missing else UNKNOWN
        text = str(value)[:_LONGEST_VALUE] if state != MISSING else None
        every.append({**_part(name, parts, row), "stated": text, "state": state})
    return {**_group(parts), "all": every}


def _stated(case: Case) -> Mapping[str, object]:
    values = case.values("clinical")
    return values if values is not None else {}


def _absent(vocabulary: Vocabulary, stated: Mapping[str, object]) -> set[str]:
    """The variables whose value is missing or unknown: those whose own column for that is set."""
    every = replace(vocabulary, inactive=frozenset())
    encoded = dict(zip(every.columns, every.encode(stated).values.tolist(), strict=True))
    return {each.name for each in every.variables if encoded[each.columns()[-1]] > 0.0}
