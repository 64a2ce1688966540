"""The patient that a case is compared with: the average of those whom the bundle was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from survfuse.bundle.averages import load_averages
from survfuse.bundle.load import Bundle
from survfuse.inputs.expression import IDENTITY
from survfuse.networks.ensemble import Ensemble
from survfuse.runtime.log import count

NEUTRAL = (
    "a neutral patient, for this bundle keeps no averages of its reference patients: expression at the training mean, "
    "numbers at theirs, no category, and in the place of slides what a network takes if there is none, or zeros"
)


@dataclass(frozen=True)
class ReferencePatient:
    """The average reference patient, as each member of an ensemble takes it.

    A slide has a vector for each member: the mean of the reference patients' slide vectors. The other modalities have
    one vector for all members: the mean of the bundle's inputs.
    """

    slides: Sequence[Tensor | None]  # of each member [width]; None for one that does not look at slides
    rna: Tensor | None  # [G]
    clinical: Tensor | None  # [C]
    description: str  # what it is, in words
    vector: Tensor | None = None  # [V]


def reference_patient(bundle: Bundle, ensemble: Ensemble) -> ReferencePatient:
    """The averages that ``bundle`` keeps; without them, a neutral patient.

    Raises BundleError for averages that do not fit the bundle.
    """
    averages = load_averages(bundle)
    if averages is not None:
        slides = [averages.slides.get(entry.file) for entry in bundle.manifest.members]
        described = f"the average of {count(averages.patients, 'reference patient')}"
        return ReferencePatient(slides, averages.rna, averages.clinical, described, averages.vector)
    rna = clinical = None
    if bundle.expression is not None:
        raw = bundle.expression.transform == IDENTITY
        rna = torch.from_numpy(bundle.expression.mean).float() if raw else torch.zeros(len(bundle.expression.genes))
    if bundle.vocabulary is not None:
        clinical = torch.zeros(len(bundle.vocabulary.columns))
    vector = torch.zeros(bundle.manifest.vector.dimension) if bundle.manifest.vector is not None else None
    return ReferencePatient(ensemble.absent_slides(), rna, clinical, NEUTRAL, vector)
