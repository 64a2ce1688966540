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


def net_benefits(
    times: ArrayLike,
    events: ArrayLike,
    probabilities: ArrayLike,
    month: float,
    weights: Floats,
    thresholds: Floats = THRESHOLDS,
) -> Floats:
    """Net benefit by threshold [draws, K] in bootstrap samples: ``decision_curve(…).model`` in each.

    ``weights`` [draws, n] says how often each sample holds each patient; the other arguments are those of
    ``decision_curve``.

    >>> net_benefits([10, 20], [1, 0], [0.9, 0.2], 12.0, np.array([[1.0, 1.0], [0.0, 2.0]]), np.array([0.5]))
    array([[0.5],
           [0. ]])
    """
    months, happened = np.asarray(times, dtype=np.float64), np.asarray(events, dtype=bool)
    predicted = np.asarray(probabilities, dtype=np.float64)
    drawn = np.ascontiguousarray(weights.T)  # [n, draws]
    early = np.unique(months[happened & (months <= month)])  # [E]
    reached = np.searchsorted(early, months, side="right")  # [n] how many of these times a patient is followed up to
    at_risk, deaths = np.zeros((2, len(early), len(weights)))  # among those treated, at each of these times
    followed, treated, event = np.zeros((3, len(weights)))
    benefit = np.zeros((len(weights), len(thresholds)))
    before = np.zeros(predicted.size, dtype=bool)
    for column in np.argsort(-thresholds):  # fewer are treated at a higher threshold: patients are only ever added
        added = np.flatnonzero((predicted >= thresholds[column]) & ~before)
        for patient in added:
            at_risk[: reached[patient]] += drawn[patient]
            if happened[patient] and months[patient] <= month:
                deaths[reached[patient] - 1] += drawn[patient]
        if added.size:
            before[added] = True
            followed += drawn[added[months[added] >= month]].sum(axis=0)
            treated += drawn[added].sum(axis=0)
            free = np.prod(1.0 - deaths / np.maximum(at_risk, 1.0), axis=0)
            event = 1.0 - np.where((followed > 0.0) | (free == 0.0), free, np.nan)
        odds = thresholds[column] / (1.0 - thresholds[column])
        benefit[:, column] = np.where(treated > 0.0, treated * (event - (1.0 - event) * odds), 0.0)
    shares: Floats = benefit / weights.sum(axis=1, keepdims=True)
    return shares
