"""The average reference patient as a bundle keeps it: what an explanation compares a case with.

    averages.safetensors    rna [G], clinical [C], vector [V]: means of the bundle's inputs
                            members/000 …: the mean slide vector [width] of each member that reads slides
                            in its metadata, the number of patients

It is read only to explain: a prediction needs none of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from survfuse.bundle.manifest import AVERAGES
from survfuse.runtime.errors import BundleError, brief
from survfuse.tasks.task import VECTOR

if TYPE_CHECKING:
    from torch import Tensor

    from survfuse.bundle.load import Bundle

_PATIENTS = "patients"  # key of the file's metadata
_SUFFIX = ".safetensors"


@dataclass(frozen=True, eq=False)
class Averages:
    """Means over the patients that a bundle was trained on; None for a modality that it does not read."""

    patients: int
    rna: "Tensor | None"  # [G], transformed
    clinical: "Tensor | None"  # [C]
    slides: "Mapping[str, Tensor]"  # [width], by the member's file
    vector: "Tensor | None" = None  # [V], slide-level

    def save(self, path: Path) -> None:
        """Write the averages to ``path``, as float32."""
        from safetensors.torch import save_file

        given = {"rna": self.rna, "clinical": self.clinical, VECTOR: self.vector}
        tensors = {name: value for name, value in given.items() if value is not None}
        tensors |= {file.removesuffix(_SUFFIX): value for file, value in self.slides.items()}
        save_file(
            {name: value.float().contiguous() for name, value in tensors.items()}, path, {_PATIENTS: str(self.patients)}
        )


def load_averages(bundle: "Bundle") -> Averages | None:
    """The averages that ``bundle`` keeps; None if it keeps none.

    Raises BundleError for a file that is not readable or lacks a modality, and for vectors of other lengths than the
    bundle's members take.
    """
    if AVERAGES not in bundle.manifest.tables:
        return None
    import torch
    from safetensors import SafetensorError, safe_open

    from survfuse.runtime.tensors import all_finite

    try:
        with safe_open(bundle.root / AVERAGES, "pt") as file:
            patients = int((file.metadata() or {})[_PATIENTS])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, KeyError, ValueError) as cause:
        raise BundleError(f"{AVERAGES}: not readable as averages ({brief(cause)})") from cause
    expected = _lengths(bundle)
    if patients < 1 or {name: tuple(tensor.shape) for name, tensor in tensors.items()} != expected:
        raise BundleError(f"{AVERAGES}: expected the means of one patient or more, of the lengths that members take")
    if any(tensor.dtype != torch.float32 or not all_finite(tensor) for tensor in tensors.values()):
        raise BundleError(f"{AVERAGES}: expected finite float32 numbers")
    rna, clinical, vector = (tensors.pop(name, None) for name in ("rna", "clinical", VECTOR))
    slides = {f"{name}{_SUFFIX}": tensor for name, tensor in tensors.items()}
    return Averages(patients, rna, clinical, slides, vector)


def _lengths(bundle: "Bundle") -> dict[str, tuple[int]]:
    """The shape of each of the averages that ``bundle`` must have, by name."""
    from survfuse.networks.families import families_of
    from survfuse.networks.sizes import Sizes

    lengths = {}
    if bundle.expression is not None:
        lengths["rna"] = (len(bundle.expression.genes),)
    if bundle.vocabulary is not None:
        lengths["clinical"] = (len(bundle.vocabulary.columns),)
    if bundle.manifest.vector is not None:
        lengths[VECTOR] = (bundle.manifest.vector.dimension,)
    families = families_of(bundle.task.modalities)
    for entry in bundle.manifest.members:
        family = families[entry.family]
        if "slide" in family.modalities:
            sizes = Sizes.from_json(dict(entry.sizes))
            lengths[entry.file.removesuffix(_SUFFIX)] = (sizes.clusters if family.linear else sizes.bag,)
    return lengths
