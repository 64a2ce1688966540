"""Measures of one table's predictions, over the same bootstrap draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from survfuse.evaluation.judged import Judged
from survfuse.evaluation.measure import Measure
from survfuse.evaluation.predictions import Predicted
from survfuse.survival.bootstrap import Draws, aucs, challenge_concordances, concordances, uno_concordances
from survfuse.survival.cox_regression import cox_coefficient
from survfuse.survival.cox_samples import cox_coefficients
from survfuse.survival.estimates import discrimination
from survfuse.survival.metrics import challenge_concordance


@dataclass(frozen=True)
class Measures:
    """What is measured of risks and months."""

    challenge: Measure
    harrell: Measure
    uno: Measure
    areas: Mapping[str, Measure]  # by month
    slope: Measure  # Cox's coefficient of the risk
    spread: float  # standard deviation of the risks


def measured(judged: Judged, predicted: Sequence[Predicted], sample: Draws) -> Measures:
    """The measures of what is ``predicted`` [n] for the patients of ``judged``."""
    times, events, weights = judged.times, judged.events, sample.weights
    risks = np.array([each.risk for each in predicted])
    months = np.array([each.months for each in predicted])
    harrell, uno, *areas = discrimination(times, events, risks, judged.horizons)
    sampled = aucs(times, events, risks, weights, judged.horizons).T
    challenge = challenge_concordances(times, events, months, weights)
    slope = cox_coefficient(risks, times, events)["value"]
    return Measures(
        Measure(challenge_concordance(times, events, months), challenge),
        Measure(harrell, concordances(times, events, risks, weights)),
        Measure(uno, uno_concordances(times, events, risks, weights)),
        {
            f"{month:g}": Measure(area, column)
            for month, area, column in zip(judged.horizons, areas, sampled, strict=True)
        },
        Measure(float("nan") if slope is None else slope, cox_coefficients(risks, times, events, weights)),
        float(risks.std()),
    )
