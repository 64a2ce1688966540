"""Another model's predictions for the same patients, compared in the same bootstrap draws."""

from typing import TypedDict

import numpy as np

from survfuse.evaluation.inputs import Matched
from survfuse.evaluation.judged import Curves, Judged
from survfuse.evaluation.measure import Measure
from survfuse.evaluation.measured import Measures, measured
from survfuse.evaluation.survival_figures import brier_at, in_the_large, integrated
from survfuse.evaluation.trained_on import TrainedOn
from survfuse.survival.bootstrap import Draws
from survfuse.survival.estimates import Estimate


class Comparison(TypedDict):
    """A figure of another model, and this model's figure minus it in the same bootstrap draws."""

    other: Estimate
    difference: Estimate


class SurvivalComparison(TypedDict):
    """Another model's survival curves."""

    name: str  # of the file
    months: list[float]  # that both tables have: what the integrated Brier score is over
    between: list[str]  # months at which a table has no entry: its curves are linear there
    integrated_brier: Comparison
    brier: dict[str, Comparison]  # by month
    in_the_large: dict[str, Comparison]  # by month: observed / predicted


class Versus(TypedDict):
    """Another model's predictions for the same patients."""

    name: str  # of the file
    training_patients: int | None  # as in the evaluation, of this model
    training_patients_unknown: int
    challenge_concordance: Comparison
    harrell_concordance: Comparison
    uno_concordance: Comparison
    auc: dict[str, Comparison]  # by month
    log_hazard_ratio_per_sd: Comparison  # per standard deviation of each model's risks
    calibration_slope: Comparison  # of the risks
    survival: SurvivalComparison | None  # None without the other model's survival curves


def versus(
    own: Measures, judged: Judged, matched: Matched, curves: Curves | None, sample: Draws, mark: TrainedOn
) -> Versus:
    """This table's figures compared with those of the other one, whose survival curves are ``curves``.

    ``mark`` is what the other table says of training patients.
    """
    assert matched.versus is not None
    other = measured(judged, matched.versus, sample)
    return {
        "name": matched.versus_name,
        "training_patients": mark.number,
        "training_patients_unknown": len(mark.unknown),
        "challenge_concordance": _compared(own.challenge, other.challenge),
        "harrell_concordance": _compared(own.harrell, other.harrell),
        "uno_concordance": _compared(own.uno, other.uno),
        "auc": {month: _compared(own.areas[month], area) for month, area in other.areas.items()},
        "log_hazard_ratio_per_sd": _compared(own.slope.times(own.spread), other.slope.times(other.spread)),
        "calibration_slope": _compared(own.slope, other.slope),
        "survival": _survival(judged, curves, matched, sample) if curves is not None else None,
    }


def _survival(judged: Judged, other: Curves, matched: Matched, sample: Draws) -> SurvivalComparison:
    """The survival curves of ``judged`` compared with the ``other`` ones of the same patients."""
    assert judged.curves is not None and matched.versus_curves is not None
    both = (judged.curves, other)
    grids = [each.grid for each in both]
    months = np.intersect1d(grids[0], grids[1])
    areas = (integrated(judged, each.survival[:, np.isin(each.grid, months)], months, sample) for each in both)
    horizons = [(f"{month:g}", month) for month in judged.horizons]
    return {
        "name": matched.versus_curves.name,
        "months": months.tolist(),
        "between": [
            name for name, month in horizons if month not in months and month <= min(grid[-1] for grid in grids)
        ],
        "integrated_brier": _compared(*areas),
        "brier": {
            name: _compared(*(brier_at(judged, each, month, sample) for each in both)) for name, month in horizons
        },
        "in_the_large": {
            name: _compared(*(in_the_large(judged, each, month, sample).ratio for each in both))
            for name, month in horizons
        },
    }


def _compared(own: Measure, other: Measure) -> Comparison:
    return {"other": other.estimate(), "difference": own.difference(other)}
