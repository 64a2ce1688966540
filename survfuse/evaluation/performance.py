"""The figures that the evaluation of a table and the training report share, each in its own module."""

from typing import TypedDict

from survfuse.evaluation.auc_over_time import Band, auc_band
from survfuse.evaluation.judged import Judged
from survfuse.evaluation.risk_groups import RiskGroups, risk_groups
from survfuse.evaluation.survival_figures import SurvivalFigures, survival_figures
from survfuse.survival.bootstrap import Draws
from survfuse.survival.cox_regression import Coefficient, cox_coefficient, hazard_ratio


class Performance(TypedDict):
    """Shared figures, ready for JSON: what is undefined is None."""

    auc_over_time: Band
    risk_groups: RiskGroups
    hazard_ratio_per_sd: Coefficient  # per standard deviation of the risks of these patients
    calibration_slope: Coefficient  # of the risk as a log relative hazard
    survival: SurvivalFigures | None  # None if no survival curves were predicted


def performance(judged: Judged, draws: Draws) -> Performance:
    """The shared figures of ``judged`` patients; intervals by the bootstrap come from ``draws``, others are stated."""
    spread = float(judged.risks.std())
    standardised = judged.risks / spread if spread > 0.0 else judged.risks
    return {
        "auc_over_time": auc_band(judged, draws),
        "risk_groups": risk_groups(judged),
        "hazard_ratio_per_sd": hazard_ratio(standardised, judged.times, judged.events),
        "calibration_slope": cox_coefficient(judged.risks, judged.times, judged.events),
        "survival": survival_figures(judged, judged.curves, draws) if judged.curves is not None else None,
    }
