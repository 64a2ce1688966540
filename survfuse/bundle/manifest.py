"""What a bundle states about itself (schema version, members, tables, provenance), and the checks of it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from survfuse.networks.weighting import MemberWeight, RiskScale
from survfuse.runtime.errors import BundleError, brief
from survfuse.runtime.files import is_number
from survfuse.slide.settings import SlideSettings
from survfuse.slide.vector_settings import VectorSettings
from survfuse.tasks.modalities import is_combination
from survfuse.tasks.task import Task

SCHEMA_VERSION = 3
MANIFEST = "manifest.json"
SELF = "sha256"  # the manifest's key for its own checksum
CALIBRATION, GENES, CLINICAL, SURVIVAL, CARD = (
    "calibration.json",
    "genes.json",
    "clinical.json",
    "survival.json",
    "model-card.md",
)
AVERAGES = "averages.safetensors"
TRAINING_PATIENTS = "training-patients.json"
TABLES = (CALIBRATION, GENES, CLINICAL, SURVIVAL, CARD, AVERAGES, TRAINING_PATIENTS)  # the first is always there
DEMONSTRATION = "demonstration"
RESEARCH = "research"
# Files that may lie beside a bundle without being part of it.
BESIDE = ("README.md", ".gitkeep", ".gitignore")


@dataclass(frozen=True)
class MemberEntry:
    """A member as the manifest states it; ``standings`` are its weights by combination, as in "slide+rna+clinical"."""

    file: str
    family: str
    sizes: Mapping[str, Any]
    standings: Mapping[str, MemberWeight]


@dataclass(frozen=True)
class Manifest:
    """The contents of ``manifest.json`` except its checksums."""

    purpose: str  # DEMONSTRATION or RESEARCH
    notice: str  # what a user should know about these weights
    provenance: Mapping[str, Any]
    slide: SlideSettings
    combinations: Mapping[str, RiskScale]  # of modalities, which the ensemble was trained to score
    members: tuple[MemberEntry, ...]
    tables: tuple[str, ...]
    vector: VectorSettings | None = None  # None: the ensemble knows no slide-level vectors

    def task(self, task: Task) -> Task:
        """``task`` as the bundle takes it: with slide-level vectors if it knows them."""
        return task.with_vectors(self.vector.with_slides) if self.vector is not None else task

    def to_json(self) -> dict[str, object]:
        """The contents as ``manifest.json`` keeps them; ``vector`` is left out if there is none."""
        return {name: value for name, value in asdict(self).items() if name != "vector" or value is not None}


def holds_files(root: Path) -> bool:
    """Whether a model folder holds anything but what may lie beside a bundle, or is a file, not a folder."""
    return root.exists() and (not root.is_dir() or any(path.name not in BESIDE for path in root.iterdir()))


def member_file(number: int) -> str:
    """The file of the member with this number.

    >>> member_file(7)
    'members/007.safetensors'
    """
    return f"members/{number:03}.safetensors"


def manifest_digest(value: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest without its own checksum: of compact ASCII JSON, keys sorted, numbers as Python writes
    them."""
    others = {key: entry for key, entry in value.items() if key != SELF}
    text = json.dumps(others, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def manifest_from_json(value: Mapping[str, Any], task: Task) -> Manifest:
    """Read ``manifest.json`` of a bundle for ``task``; raises BundleError if it does not follow the schema."""
    try:
        members = tuple(
            MemberEntry(
                **{
                    **entry,
                    "standings": {name: MemberWeight(**numbers) for name, numbers in entry["standings"].items()},
                }
            )
            for entry in value["members"]
        )
        manifest = Manifest(
            value["purpose"],
            value["notice"],
            value["provenance"],
            SlideSettings(**value["slide"]),
            {name: RiskScale(**numbers) for name, numbers in value["combinations"].items()},
            members,
            tuple(value["tables"]),
            VectorSettings(**value["vector"]) if "vector" in value else None,
        )
    except (KeyError, TypeError, AttributeError) as cause:
        raise BundleError(f"{MANIFEST}: does not follow schema version {SCHEMA_VERSION} ({brief(cause)})") from cause
    if manifest.purpose not in (DEMONSTRATION, RESEARCH):
        raise BundleError(f"{MANIFEST}: unknown purpose {brief(manifest.purpose)}")
    if not members or not isinstance(manifest.provenance, Mapping) or not isinstance(manifest.notice, str):
        raise BundleError(f"{MANIFEST}: expected members, a provenance object and a notice")
    if CALIBRATION not in manifest.tables or any(name not in TABLES for name in manifest.tables):
        raise BundleError(f"{MANIFEST}: expected {CALIBRATION} among tables, and none but {', '.join(TABLES)}")
    _check_weights(manifest, manifest.task(task))
    if problem := manifest.slide.problem():
        raise BundleError(f"{MANIFEST}: slide settings: {problem}")
    if manifest.vector is not None and (problem := manifest.vector.problem()):
        raise BundleError(f"{MANIFEST}: slide-level vector: {problem}")
    for name in file_names(manifest):
        if not isinstance(name, str) or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise BundleError(f"{MANIFEST}: the path {brief(name)} leads outside the bundle")
    return manifest


def _check_weights(manifest: Manifest, task: Task) -> None:
    """Check that combinations are the task's, that each is scored by a member, and that scales can be divided by."""
    for name, scale in manifest.combinations.items():
        if not is_combination(name, task.modalities):
            raise BundleError(f"{MANIFEST}: {name[:80]!r} is not a combination of modalities")
        _check_numbers(f"{MANIFEST}: {name}", scale.location, scale.scale)
        if not any(name in entry.standings for entry in manifest.members):
            raise BundleError(f"{MANIFEST}: no member scores {name}")
    if not manifest.combinations:
        raise BundleError(f"{MANIFEST}: expected a combination of modalities that the ensemble scores")
    for entry in manifest.members:
        if not entry.standings or not entry.standings.keys() <= manifest.combinations.keys():
            raise BundleError(f"{entry.file}: expected standings, only for the ensemble's combinations")
        for weight in entry.standings.values():
            _check_numbers(str(entry.file), weight.location, weight.weight, weight.scale)


def _check_numbers(where: str, location: Any, *positive: Any) -> None:
    if not all(is_number(number) and abs(number) <= 1e12 for number in (location, *positive)):
        raise BundleError(f"{where}: expected weight, location and scale within 1e12")
    if min(positive) < 1e-12:
        raise BundleError(f"{where}: expected a weight and a scale of at least 1e-12")


def file_names(manifest: Manifest) -> list[str]:
    """Every file of the bundle except the manifest."""
    files = [*manifest.tables, *(entry.file for entry in manifest.members)]
    return files + ([manifest.slide.weights] if manifest.slide.weights else [])
