"""The digests by which a bundle knows the patients of its cohort."""

from collections.abc import Sequence
from typing import TypeVar

from survfuse.bundle.training_patients import (
    TrainingPatients,
    clinical_digest,
    expression_digest,
    known_by,
    probed,
    salt_of,
    slide_digest,
    vector_digest,
)
from survfuse.runtime.arrays import Rows
from survfuse.tasks.modalities import Combination
from survfuse.tasks.task import VECTOR
from survfuse.training.training_data import TrainingData

T = TypeVar("T")


def training_patients(
    data: TrainingData, modalities: Combination, genes: Rows, fingerprint: str
) -> TrainingPatients | None:
    """Digests of the cohort's patients for a bundle of ``modalities``; None if there is nothing to know them by.

    ``genes`` are the places of the bundle's genes among the cohort's, in its order; ``fingerprint`` is the training's.
    A patient with several slides is known by all of them together, and by each.
    """
    cohort, salt = data.cohort, salt_of(fingerprint)
    digests: dict[str, list[str | None]] = {}
    by = known_by(modalities)
    if "slide" in by and cohort.bags is not None:
        bags = [bag for all_slides in cohort.bags for bag in _with_each(all_slides, all_slides.slides)]
        digests["slide"] = [slide_digest(salt, bag.tiles, bag.rows(probed(bag.tiles))) for bag in bags]
    if VECTOR in by and cohort.slide_vectors is not None:
        vectors = [row for mean in cohort.slide_vectors for row in _with_each(mean.values, mean.of_slides)]
        digests[VECTOR] = [vector_digest(salt, row) for row in vectors]
    if "rna" in by and cohort.expression is not None:
        digests["rna"] = [expression_digest(salt, row) for row in cohort.expression[:, genes]]
    if "clinical" in by and data.clinical is not None:
        digests["clinical"] = [clinical_digest(salt, row) for row in data.clinical]
    known = {name: frozenset(filter(None, entries)) for name, entries in digests.items() if any(entries)}
    return TrainingPatients(salt, known) if known else None


def _with_each(together: T, single: Sequence[T]) -> list[T]:
    """What is of all slides, and what is of each if there are several."""
    return [together, *(single if len(single) > 1 else ())]
