"""Predictions of every patient by members that have not seen them."""

from collections.abc import Sequence

import numpy as np

from survfuse.evaluation.summary import HeldOut
from survfuse.networks.families import FAMILIES
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import stage
from survfuse.survival.calibration import Calibration
from survfuse.survival.curves import SurvivalCurve
from survfuse.tasks.modalities import Combination, all_combinations, combination_name, ordered
from survfuse.training.member import TrainedMember
from survfuse.training.stacking import Stacked, stack
from survfuse.training.trainer import Trainer


def ensemble_stacks(trainer: Trainer, members: Sequence[TrainedMember]) -> dict[Combination, Stacked]:
    """The ensemble under every combination of modalities it can score, all of them together first.

    Raises InputError where nothing was learnt with all of them; a lesser combination that tells no patients apart is
    left out and said so.
    """
    scored = [member.scored() for member in members]
    modalities = ordered(name for family in trainer.families for name in FAMILIES[family].modalities)
    found = {}
    for combination in all_combinations(modalities):
        if not any(set(known) <= set(combination) for member in scored for known in member.risks):
            continue
        try:
            found[combination] = stack(scored, combination, trainer.cohort.times, trainer.cohort.events)
        except InputError as problem:
            if combination == modalities:
                raise
            stage("left out", f"{combination_name(combination)}: {problem}")
    return found


def held_out(trainer: Trainer, stacked: Stacked) -> HeldOut:
    """Nested predictions of every patient: risk, survival curve and months by units that have not seen them.

    A unit's curve and calibration come from its inner out-of-fold risks. Those are of single members, the held-out
    patients' are means over members, which vary less: they are brought to the former's spread by a factor that comes
    from the others held out with them, and from no outcome.
    """
    cohort, protocol = trainer.cohort, trainer.protocol
    grid = np.linspace(0.0, float(cohort.times.max()), 51)[1:]
    survival, months = np.zeros((len(cohort.times), len(grid))), np.zeros(len(cohort.times))
    folds = np.zeros(len(cohort.times), dtype=np.int64)
    for (repeat, fold), unit in stacked.units.items():
        rows, training = np.flatnonzero(~np.isnan(unit.held_out)), np.flatnonzero(~np.isnan(unit.judged))
        known = unit.judged[training], cohort.times[training], cohort.events[training]
        dilution = unit.dilution()
        risks = unit.held_out[rows] * dilution
        curve = SurvivalCurve.fit(*known)
        for row, risk, factor in zip(rows, risks, dilution, strict=True):
            survival[row] += curve.steeper(factor, *known).survival([risk], grid)[0] / protocol.repeats
        months[rows] += Calibration.fit(known[1], known[2], known[0], protocol.calibration).months(risks).months
        if repeat == 0:
            folds[rows] = fold
    months /= protocol.repeats
    reference, candidates = stacked.reference, stacked.candidates
    return HeldOut(cohort.times, cohort.events, folds, reference, candidates, grid, survival, months)
