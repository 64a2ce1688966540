"""Figures of predicted survival curves: error over time, calibration and net benefit."""

from typing import NamedTuple, TypedDict

import numpy as np
from lifelines import KaplanMeierFitter

from survfuse.evaluation.judged import Curves, Judged
from survfuse.evaluation.measure import Measure
from survfuse.runtime.arrays import Floats
from survfuse.survival.bootstrap import Draws, briers, integrated_briers
from survfuse.survival.brier_curve import brier_curve
from survfuse.survival.cox_regression import Coefficient, cox_coefficient
from survfuse.survival.decision_curve import decision_curve, net_benefits
from survfuse.survival.estimates import Estimate, limits
from survfuse.survival.kaplan_meier import survival_at
from survfuse.survival.metrics import d_calibration, integrated_brier
from survfuse.survival.numbers import null

_MOST_GROUPS = 5  # of patients in a calibration plot
_GROUP = 30  # minimum number of patients in a group
_NEAREST = 1e-9  # to 0 and 1 that a probability is taken for, where its logarithm is needed


class CalibrationTest(TypedDict):
    """D-calibration: χ², its p, and the patients' shares by predicted survival."""

    statistic: float | None
    p: float | None
    shares: list[float | None]


class InTheLarge(TypedDict):
    """Calibration in the large at a month: the share of patients with the event, as observed and as predicted."""

    observed: Estimate  # by Kaplan–Meier
    predicted: float | None  # mean
    ratio: Estimate  # observed / predicted; 1 is right


class LargeMeasures(NamedTuple):
    """Calibration in the large at a month, with its draws."""

    observed: Measure
    predicted: float
    ratio: Measure


class CalibrationGroup(TypedDict):
    """A group of patients of similar predicted survival."""

    patients: int
    predicted: float  # mean survival
    observed: float  # by Kaplan–Meier
    low: float | None  # of Kaplan–Meier's 95% limits
    high: float | None


class BrierOverTime(TypedDict):
    """Brier scores by month, of the predicted curves and of Kaplan–Meier's."""

    months: list[float]
    predicted: list[float | None]
    low: list[float | None]  # of the pointwise 95% bootstrap intervals of ``predicted``
    high: list[float | None]
    kaplan_meier: list[float | None]


class NetBenefit(TypedDict):
    """Net benefit by threshold, in true positives per patient."""

    thresholds: list[float]
    model: list[float | None]
    low: list[float | None]  # of the pointwise 95% bootstrap intervals of ``model``
    high: list[float | None]
    treat_all: list[float | None]


class SurvivalFigures(TypedDict):
    """Figures of predicted survival, ready for JSON."""

    brier_over_time: BrierOverTime
    in_the_large: dict[str, InTheLarge]  # by month
    calibration_groups: dict[str, list[CalibrationGroup]]  # by month, from the lowest predicted survival
    calibration_slope: Coefficient  # of predicted survival; 1 is right
    d_calibration: CalibrationTest
    decision_curves: dict[str, NetBenefit]  # by month


def survival_figures(judged: Judged, curves: Curves, draws: Draws) -> SurvivalFigures:
    """All figures of ``curves`` for ``judged`` patients, with bootstrap intervals from ``draws``."""
    months = [(f"{month:g}", month) for month in judged.horizons]
    return {
        "brier_over_time": _brier_over_time(judged, curves, draws),
        "in_the_large": {name: _estimated(in_the_large(judged, curves, month, draws)) for name, month in months},
        "calibration_groups": {name: calibration_groups(judged, curves, month) for name, month in months},
        "calibration_slope": calibration_slope(judged, curves),
        "d_calibration": calibration_test(judged, curves),
        "decision_curves": {name: _net_benefit(judged, curves, month, draws) for name, month in months},
    }


def in_the_large(judged: Judged, curves: Curves, month: float, draws: Draws) -> LargeMeasures:
    """The share of patients with the event by ``month``: Kaplan–Meier's against the mean prediction."""
    expected = 1.0 - curves.at_month(month)  # [n]
    everybody = np.ones((1, len(expected)))
    observed = 1.0 - float(survival_at(judged.times, judged.events, everybody, [month])[0, 0])
    sampled = 1.0 - survival_at(judged.times, judged.events, draws.weights, [month])[:, 0]
    mean, means = expected.mean(), draws.weights @ expected / len(expected)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = Measure(float(np.divide(observed, mean)), sampled / means)
    return LargeMeasures(Measure(observed, sampled), float(mean), ratio)


def _estimated(found: LargeMeasures) -> InTheLarge:
    return {
        "observed": found.observed.estimate(),
        "predicted": null(found.predicted),
        "ratio": found.ratio.estimate(),
    }


def integrated(judged: Judged, survival: Floats, grid: Floats, draws: Draws) -> Measure:
    """The integrated Brier score of ``survival`` [n, T] over the months of ``grid`` [T]."""
    times, events = judged.times, judged.events
    return Measure(
        integrated_brier(times, events, times, events, survival, grid),
        integrated_briers(times, events, survival, grid, draws.weights),
    )


def brier_at(judged: Judged, curves: Curves, month: float, draws: Draws) -> Measure:
    """The Brier score of ``curves`` at ``month``; undefined after their last month."""
    survival = curves.at_month(month)[:, np.newaxis]
    sampled = briers(judged.times, judged.events, survival, [month], draws.weights)
    return Measure(float(brier_curve(judged.times, judged.events, survival, [month])[0]), sampled[:, 0])


def calibration_groups(judged: Judged, curves: Curves, month: float) -> list[CalibrationGroup]:
    """Predicted and observed survival at ``month`` in groups of equal size, from the lowest predicted survival.

    Groups not followed up to the month are left out, and all of them after the curves' last month. The limits are
    Kaplan–Meier's, None if a group had no event by then.
    """
    predicted = curves.at_month(month)
    if not np.isfinite(predicted).all():
        return []
    number = int(np.clip(len(predicted) // _GROUP, 2, _MOST_GROUPS))
    groups: list[CalibrationGroup] = []
    for members in np.array_split(np.argsort(predicted, kind="stable"), number):
        if members.size == 0 or judged.times[members].max() < month:
            continue
        curve = KaplanMeierFitter().fit(judged.times[members], judged.events[members])
        low, high = map(float, curve.confidence_interval_survival_function_.loc[:month].iloc[-1])
        observed = float(curve.predict(month))
        groups.append(
            {
                "patients": members.size,
                "predicted": float(predicted[members].mean()),
                "observed": observed,
                "low": null(low),
                "high": null(high),
            }
        )
    return groups


def calibration_test(judged: Judged, curves: Curves) -> CalibrationTest:
    """D-calibration of ``curves``."""
    found = d_calibration(judged.times, judged.events, curves.at(judged.times))
    return {
        "statistic": null(found.statistic),
        "p": null(found.p),
        "shares": [null(share) for share in found.shares.tolist()],
    }


def calibration_slope(judged: Judged, curves: Curves) -> Coefficient:
    """Cox's coefficient of the log cumulative hazard, log(−log S), that ``curves`` predict (van Houwelingen 2000).

    S is taken at the last horizon that the curves reach, or else at their last month; between proportional hazards the
    choice changes nothing. Below 1, predicted hazards are too far apart; above 1, too close together.
    """
    reached = [month for month in judged.horizons if month <= curves.grid[-1]]
    survival = curves.at_month(max(reached, default=float(curves.grid[-1])))
    inside = np.clip(survival, _NEAREST, 1.0 - _NEAREST)
    return cox_coefficient(np.log(-np.log(inside)), judged.times, judged.events)


def _brier_over_time(judged: Judged, curves: Curves, draws: Draws) -> BrierOverTime:
    own, marginal = (
        brier_curve(judged.times, judged.events, survival, curves.grid)
        for survival in (curves.survival, curves.marginal)
    )
    low, high = limits(briers(judged.times, judged.events, curves.survival, curves.grid, draws.weights))
    return {
        "months": curves.grid.tolist(),
        "predicted": _nulls(own),
        "low": low,
        "high": high,
        "kaplan_meier": _nulls(marginal),
    }


def _net_benefit(judged: Judged, curves: Curves, month: float, draws: Draws) -> NetBenefit:
    """The decision curve at ``month``; no thresholds after the curves' last month."""
    probabilities = 1.0 - curves.at_month(month)
    if not np.isfinite(probabilities).all():
        return {"thresholds": [], "model": [], "low": [], "high": [], "treat_all": []}
    found = decision_curve(judged.times, judged.events, probabilities, month)
    low, high = limits(net_benefits(judged.times, judged.events, probabilities, month, draws.weights))
    return {
        "thresholds": found.thresholds.tolist(),
        "model": _nulls(found.model),
        "low": low,
        "high": high,
        "treat_all": _nulls(found.everybody),
    }


def _nulls(values: Floats) -> list[float | None]:
    return [null(value) for value in values.tolist()]
