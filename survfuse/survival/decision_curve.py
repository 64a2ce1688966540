"""Decision curves: the net benefit of treating those whose predicted probability of the event exceeds a threshold."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from survfuse.runtime.arrays import Floats
from survfuse.survival.kaplan_meier import survival_at

THRESHOLDS: Floats = np.arange(1, 100) / 100.0  # probabilities of the event


class DecisionCurve(NamedTuple):
    """Net benefit by threshold [K], in true positives per patient; of treating nobody it is 0. NaN if undefined."""

    thresholds: Floats  # [K]
    model: Floats  # [K]
    everybody: Floats  # [K] of treating all


def decision_curve(
    times: ArrayLike, events: ArrayLike, probabilities: ArrayLike, month: float, thresholds: Floats = THRESHOLDS
) -> DecisionCurve:
    """Net benefit at ``month`` of treating patients whose ``probabilities`` [n] of the event by then reach a threshold.

    Outcomes are ``times`` [n] in months and ``events`` [n]; the probability of the event among those treated is
    Kaplan–Meier's (Vickers et al. 2008, BMC Medical Informatics and Decision Making 8:53). At threshold q it is the
    share of true positives minus q / (1 − q) times the share of false positives, and 0 where nobody is treated. NaN
    where nobody treated was followed up to the month.
    """
    predicted = np.asarray(probabilities, dtype=np.float64)
    treated = (predicted >= thresholds[:, np.newaxis]).astype(np.float64)  # [K, n]
    groups = np.concatenate([treated, np.ones((1, predicted.size))])
    event = 1.0 - survival_at(times, events, groups, [month])[:, 0]
    odds, share = thresholds / (1.0 - thresholds), treated.mean(axis=1)
    benefit = share * event[:-1] - share * (1.0 - event[:-1]) * odds
    everybody = event[-1] - (1.0 - event[-1]) * odds
    return DecisionCurve(thresholds, np.where(share > 0.0, benefit, 0.0), everybody)
