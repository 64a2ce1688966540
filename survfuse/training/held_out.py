"""Predictions of every patient by members that have not seen them."""

from collections.abc import Mapping, Sequence

import numpy as np

from survfuse.cohort.read import Cohort
from survfuse.evaluation.summary import HeldOut
from survfuse.networks.families import Family
from survfuse.runtime.arrays import Bools, Floats
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import stage
from survfuse.survival.calibration import Calibration
from survfuse.survival.curves import SurvivalCurve
from survfuse.tasks.modalities import Combination, all_combinations, combination_name, ordered
from survfuse.training.member import TrainedMember
from survfuse.training.protocol import Protocol
from survfuse.training.risk_scale import FoldRisks
from survfuse.training.stacking import Stacked, stack


def ensemble_stacks(
    members: Sequence[TrainedMember], families: Mapping[str, Family], cohort: Cohort
) -> dict[Combination, Stacked]:
    """The ensemble under every combination of modalities that it can score, with all modalities first.

    Raises InputError if nothing was learnt with all of them. A smaller combination that does not separate patients is
    left out, and the log says so.
    """
    scored = [member.member_risks() for member in members]
    modalities = ordered((name for family in families.values() for name in family.modalities), cohort.task.modalities)
    stacks = {}
    for combination in all_combinations(modalities):
        if not any(set(known) <= set(combination) for member in scored for known in member.risks):
            continue
        try:
            stacks[combination] = stack(scored, combination, cohort.times, cohort.events)
        except InputError as problem:
            if combination == modalities:
                raise
            stage("left out", f"{combination_name(combination)}: {problem}")
    return stacks


def held_out(
    cohort: Cohort, protocol: Protocol, stacked: Stacked, stacks: Mapping[Combination, Stacked] | None = None
) -> HeldOut:
    """Nested predictions of every patient: risk, survival curve and months from folds that have not seen them.

    They are those of ``stacked``, the ensemble with all modalities. ``stacks`` are the combinations to compare it with,
    all modalities first.

    A fold's curve and calibration come from its inner out-of-fold risks. Those are of single members. The held-out
    patients' are means over members, which vary less: a factor brings them to the spread of the former. It comes from
    the other patients held out in the fold, and from no outcome.
    """
    times, events = cohort.times, cohort.events
    grid = np.linspace(0.0, float(times.max()), 51)[1:]
    survival, months = np.zeros((len(times), len(grid))), np.zeros(len(times))
    folds = np.zeros(len(times), dtype=np.int64)
    for (repeat, fold), risks in stacked.folds.items():
        rows = np.flatnonzero(~np.isnan(risks.held_out))
        curves, predicted = _fold_predictions(risks, times, events, grid, protocol.calibration)
        survival[rows] += curves / protocol.repeats
        months[rows] += predicted
        if repeat == 0:
            folds[rows] = fold
    months /= protocol.repeats
    return HeldOut(
        times,
        events,
        folds,
        stacked.reference,
        stacked.candidates,
        grid,
        survival,
        months,
        cohort.task.horizons,
        {combination_name(combination): own.reference for combination, own in (stacks or {}).items()},
    )


def held_out_survival(cohort: Cohort, protocol: Protocol, stacked: Stacked, at: Floats) -> Floats:
    """Survival [n, T] at the months ``at`` [T] by the same folds and curves as in ``held_out``."""
    survival = np.zeros((len(cohort.ids), len(at)))
    for risks in stacked.folds.values():
        curves, _ = _fold_predictions(risks, cohort.times, cohort.events, at, protocol.calibration)
        survival[~np.isnan(risks.held_out)] += curves / protocol.repeats
    return survival


def _fold_predictions(
    risks: FoldRisks, times: Floats, events: Bools, grid: Floats, calibration: str
) -> tuple[Floats, Floats]:
    """Survival [r, T] on ``grid`` and months [r] of a fold's held-out patients."""
    training = np.flatnonzero(~np.isnan(risks.inner_at_others_step))
    known = risks.inner_at_others_step[training], times[training], events[training]
    dilution = risks.dilution()
    held = risks.held_out[~np.isnan(risks.held_out)] * dilution
    curve = SurvivalCurve.fit(*known)
    survival = np.stack(
        [curve.steeper(factor, *known).survival([risk], grid)[0] for risk, factor in zip(held, dilution, strict=True)]
    )
    table = Calibration.fit(known[1], known[2], known[0], calibration)
    return survival, table.months(held).months
