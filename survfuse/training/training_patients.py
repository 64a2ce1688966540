"""The digests by which a bundle knows the patients of its cohort."""

from survfuse.bundle.training_patients import (
    TrainingPatients,
    clinical_digest,
    expression_digest,
    known_by,
    probed,
    salt_of,
    slide_digest,
)
from survfuse.runtime.arrays import Rows
from survfuse.tasks.modalities import Combination
from survfuse.training.training_data import TrainingData


def training_patients(
    data: TrainingData, modalities: Combination, genes: Rows, fingerprint: str
) -> TrainingPatients | None:
    """Digests of the cohort's patients for a bundle of ``modalities``; None if there is nothing to know them by.

    ``genes`` are the places of the bundle's genes among the cohort's, in its order; ``fingerprint`` is the training's.
    """
    cohort, salt = data.cohort, salt_of(fingerprint)
    digests: dict[str, list[str | None]] = {}
    by = known_by(modalities)
    if "slide" in by and cohort.bags is not None:
        digests["slide"] = [slide_digest(salt, bag.tiles, bag.rows(probed(bag.tiles))) for bag in cohort.bags]
    if "rna" in by and cohort.expression is not None:
        digests["rna"] = [expression_digest(salt, row) for row in cohort.expression[:, genes]]
    if "clinical" in by and data.clinical is not None:
        digests["clinical"] = [clinical_digest(salt, row) for row in data.clinical]
    known = {name: frozenset(filter(None, entries)) for name, entries in digests.items() if any(entries)}
    return TrainingPatients(salt, known) if known else None
