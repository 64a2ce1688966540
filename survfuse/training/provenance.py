"""What a bundle states about its training: for the manifest, the model card and the report."""

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np

from survfuse.bundle.manifest import DEMONSTRATION, RESEARCH
from survfuse.survival.metrics import concordance
from survfuse.tasks.modalities import Combination, combination_name
from survfuse.training.stacking import Stacked
from survfuse.training.training_data import TrainingData

NOTICES = {
    DEMONSTRATION: "Trained on simulated patients: the months it predicts mean nothing clinically.",
    RESEARCH: "For research use. Not a medical device.",
}


def purpose(data: TrainingData) -> str:
    """What a bundle of this training is for: DEMONSTRATION for simulated patients, RESEARCH for others."""
    return DEMONSTRATION if data.cohort.simulated else RESEARCH


def training_facts(data: TrainingData, fingerprint: str) -> dict[str, object]:
    """What is known before training begins."""
    cohort = data.cohort
    return {
        "patients": len(cohort.ids),
        "events": int(cohort.events.sum()),
        "follow_up_months": [float(np.median(cohort.times)), float(cohort.times.max())],
        "simulated": cohort.simulated,
        "fingerprint": fingerprint,
        "protocol": asdict(data.protocol),
        "candidates": list(data.families),
    }


def result_facts(data: TrainingData, fingerprint: str, stacks: Mapping[Combination, Stacked]) -> dict[str, object]:
    """``training_facts``, and what training gave: families' mean weights, and concordance by combination."""
    cohort = data.cohort
    shares = list(next(iter(stacks.values())).shares.values())
    families = sorted({family for fold in shares for family in fold})
    mean = {family: float(np.mean([fold.get(family, 0.0) for fold in shares])) for family in families}
    return training_facts(data, fingerprint) | {
        "family_weights": {family: round(share, 4) for family, share in mean.items()},
        "combinations": {
            combination_name(combination): round(concordance(cohort.times, cohort.events, stacked.reference), 4)
            for combination, stacked in stacks.items()
        },
    }
