"""Whether a case is one of the patients that the bundle was trained on, whose prediction is better than a new one's."""

from typing import TYPE_CHECKING

from survfuse.bundle.training_patients import (
    TrainingPatients,
    clinical_digest,
    expression_digest,
    probed,
    slide_digest,
    vector_digest,
)
from survfuse.prediction.vectors import SlideTiles
from survfuse.runtime.log import Note, warn
from survfuse.tasks.task import VECTOR

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from survfuse.inputs.expression import RnaVector

TRAINED_ON = "patients that the bundle was trained on"
IN_SAMPLE = "in-sample, better than for"


def digests_of(
    patients: TrainingPatients,
    tiles: SlideTiles | None,
    rna: "RnaVector | None",
    clinical: "NDArray[np.float32] | None",
    vector: "NDArray[np.float32] | None" = None,
) -> dict[str, str]:
    """A case's digests by modality, of those inputs that it has and that the bundle knows ``patients`` by."""
    import torch

    digests: dict[str, str | None] = {}
    if tiles is not None and "slide" in patients.digests:
        number = len(tiles.features)
        digests["slide"] = slide_digest(patients.salt, number, tiles.features[torch.from_numpy(probed(number))])
    if vector is not None and VECTOR in patients.digests:
        digests[VECTOR] = vector_digest(patients.salt, vector)
    if rna is not None and "rna" in patients.digests:
        digests["rna"] = expression_digest(patients.salt, rna.raw)
    if clinical is not None and "clinical" in patients.digests:
        digests["clinical"] = clinical_digest(patients.salt, clinical)
    return {name: digest for name, digest in digests.items() if digest is not None}


def say_in_sample(name: str, patients: TrainingPatients) -> None:
    """Warn that the case ``name`` is a training patient; of many cases it is said once, with counts and names."""
    if patients.shared:
        said = f"the clinical variables of one of the {TRAINED_ON}, which others may share"
        one = f"{name} has {said}; of that patient, the prediction is {IN_SAMPLE} a new one"
        many = f"{said}; of those patients, predictions are {IN_SAMPLE} new ones"
    else:
        one = f"{name} is among the {TRAINED_ON}: its prediction is {IN_SAMPLE} a new patient"
        many = f"among the {TRAINED_ON}: their predictions are {IN_SAMPLE} new patients"
    warn(Note(one, (many,)))
