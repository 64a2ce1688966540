"""Writing a bundle: members, tables, checksums, and the manifest last."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from survfuse import __version__
from survfuse.bundle.averages import Averages
from survfuse.bundle.manifest import (
    AVERAGES,
    CALIBRATION,
    CARD,
    CLINICAL,
    GENES,
    MANIFEST,
    SCHEMA_VERSION,
    SELF,
    SURVIVAL,
    TABLES,
    TRAINING_PATIENTS,
    Manifest,
    file_names,
    manifest_digest,
)
from survfuse.bundle.training_patients import TrainingPatients
from survfuse.inputs.clinical import Vocabulary
from survfuse.inputs.expression import Expression
from survfuse.runtime.errors import BundleError
from survfuse.runtime.files import sha256, write_json, write_text
from survfuse.survival.calibration import Calibration
from survfuse.survival.curves import SurvivalCurve


@dataclass(frozen=True)
class Tables:
    """What a bundle holds besides its members."""

    calibration: Calibration
    expression: Expression | None
    vocabulary: Vocabulary | None
    curves: Mapping[str, SurvivalCurve] | None  # by combination, as in "slide+rna+clinical"
    card: str | None
    averages: Averages | None = None  # of the reference patients
    training_patients: TrainingPatients | None = None

    def present(self) -> tuple[str, ...]:
        """Names of the tables that are present."""
        every = (
            self.calibration,
            self.expression,
            self.vocabulary,
            self.curves,
            self.card,
            self.averages,
            self.training_patients,
        )
        return tuple(name for name, table in zip(TABLES, every, strict=True) if table is not None)


def save(root: Path, manifest: Manifest, states: Iterable[Mapping[str, Any]], tables: Tables) -> None:
    """Write a bundle to ``root``, which must be absent or empty, except for an encoder's weights placed there before.

    ``states`` yields the weights of each of the manifest's members, tensors by name; one member is held at a time.
    Raises BundleError if ``root`` already holds a bundle.
    """
    from safetensors.torch import save_file

    if (root / MANIFEST).exists():
        raise BundleError(f"{root}: already holds a bundle")
    (root / "members").mkdir(parents=True, exist_ok=True)
    for entry, state in zip(manifest.members, states, strict=True):
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, root / entry.file)
    for name, table in (
        (CALIBRATION, tables.calibration),
        (GENES, tables.expression),
        (CLINICAL, tables.vocabulary),
    ):
        if table is not None:
            write_json(root / name, table.to_json(), indent=None)
    if tables.curves is not None:
        curves = {combination: curve.to_json() for combination, curve in tables.curves.items()}
        write_json(root / SURVIVAL, curves, indent=None)
    if tables.card is not None:
        write_text(root / CARD, tables.card)
    if tables.averages is not None:
        tables.averages.save(root / AVERAGES)
    if tables.training_patients is not None:
        write_json(root / TRAINING_PATIENTS, tables.training_patients.to_json(), indent=None)
    value = {
        "schema_version": SCHEMA_VERSION,
        "written_by": f"survfuse {__version__}",
        **manifest.to_json(),
        "files": {file: sha256(root / file) for file in file_names(manifest)},
    }
    # The manifest comes last: a folder without one is not a bundle, so an interrupted save cannot be taken for one.
    write_json(root / MANIFEST, value | {SELF: manifest_digest(value)})
