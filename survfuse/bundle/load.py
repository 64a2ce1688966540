"""A bundle is one folder with everything that a prediction needs. Reading it verifies all of it.

    manifest.json            schema version, purpose, provenance, slide settings, members, sha256 of every file and of
                             the manifest itself
    members/*.safetensors    one network each
    calibration.json         risk → months: survival.calibration.Calibration
    genes.json               expression transform, if a member reads expression: inputs.expression.Expression
    clinical.json            clinical vocabulary, if a member reads variables: inputs.clinical.Vocabulary
    survival.json            risk → survival curve of each combination, if known: survival.curves.SurvivalCurve
    averages.safetensors     the average reference patient, if known: bundle.averages.Averages
    training-patients.json   digests of the patients it was trained on, if known:
                             bundle.training_patients.TrainingPatients
    model-card.md            for people: cohort, protocol, held-out figures, intended use, limits
    encoder/weights.*        optionally the tile encoder's weights

Nothing is unpickled. Every file is checked against the manifest before it is used.
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from survfuse.bundle.manifest import (
    BESIDE,
    CALIBRATION,
    CLINICAL,
    DEMONSTRATION,
    GENES,
    MANIFEST,
    SCHEMA_VERSION,
    SELF,
    SURVIVAL,
    TRAINING_PATIENTS,
    Manifest,
    file_names,
    manifest_digest,
    manifest_from_json,
)
from survfuse.bundle.training_patients import TrainingPatients
from survfuse.inputs.clinical import Vocabulary
from survfuse.inputs.expression import Expression
from survfuse.networks.families import families_of
from survfuse.networks.sizes import Sizes
from survfuse.runtime.errors import BundleError, brief
from survfuse.runtime.files import read_object, sha256
from survfuse.runtime.log import listing
from survfuse.slide.registry import ENCODERS
from survfuse.survival.calibration import Calibration
from survfuse.survival.curves import SurvivalCurve, curves_from_json
from survfuse.tasks.modalities import Combination, ordered, parse_combination
from survfuse.tasks.registry import DEFAULT
from survfuse.tasks.task import VECTOR, Task

if TYPE_CHECKING:
    from survfuse.networks.ensemble import Member

T = TypeVar("T")


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. Member weights stay on disk until ``load_members``."""

    root: Path
    manifest: Manifest
    calibration: Calibration
    expression: Expression | None
    vocabulary: Vocabulary | None
    curves: Mapping[str, SurvivalCurve] | None  # by combination
    training_patients: TrainingPatients | None  # None: not known
    task: Task

    @property
    def modalities(self) -> Combination:
        """The modalities that the ensemble can use."""
        names = (name for combination in self.manifest.combinations for name in parse_combination(combination))
        return ordered(names, self.task.modalities)

    @property
    def demonstration(self) -> bool:
        """Whether its weights come from simulated patients and mean nothing clinically."""
        return self.manifest.purpose == DEMONSTRATION

    def encoder_weights(self) -> Path | None:
        """The tile encoder's weight file in this bundle, if it carries one."""
        return self.root / self.manifest.slide.weights if self.manifest.slide.weights else None


def load(root: Path, task: Task = DEFAULT) -> Bundle:
    """Read and verify the bundle at ``root``, made for ``task``; raises BundleError that names what is wrong."""
    if not (root / MANIFEST).is_file():
        raise BundleError(f"{root}: no {MANIFEST}; this folder holds no bundle")
    value = read_object(root / MANIFEST, BundleError)
    if value.get("schema_version") != SCHEMA_VERSION:
        version = value.get("schema_version")
        older = type(version) is int and version < SCHEMA_VERSION
        hint = "; train it again with this release" if older else ""
        raise BundleError(f"schema version {brief(version)} is not the one this release reads, {SCHEMA_VERSION}{hint}")
    if value.get(SELF) != manifest_digest(value):
        raise BundleError(f"{MANIFEST}: its sha256 does not match the one it states; the file was changed or damaged")
    manifest = manifest_from_json(value, task)
    digests = _checked_files(root, manifest, value.get("files"))
    # Other cores hash the weights while this one reads the tables and imports torch, which every use of a bundle needs.
    with ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 1) - 1), thread_name_prefix="sha256") as pool:
        weights = [name for name in file_names(manifest) if name not in manifest.tables]
        hashed = {name: pool.submit(sha256, root / name) for name in weights}
        try:
            bundle = _bundle(root, manifest, digests, manifest.task(task))
            _check_sizes(bundle)
            import torch  # noqa: F401

            for name in weights:
                _check_digest(name, hashed[name].result(), digests)
        finally:
            pool.shutdown(cancel_futures=True)
    return bundle


def _bundle(root: Path, manifest: Manifest, digests: Mapping[str, str], task: Task) -> Bundle:
    """The bundle with its tables, each verified before it is read."""
    for name in manifest.tables:
        _check_digest(name, sha256(root / name), digests)

    def table(name: str, read: Callable[[Mapping[str, Any]], T]) -> T | None:
        return read(read_object(root / name, BundleError)) if name in manifest.tables else None

    bundle = Bundle(
        root,
        manifest,
        Calibration.from_json(read_object(root / CALIBRATION, BundleError)),
        table(GENES, Expression.from_json),
        table(CLINICAL, Vocabulary.from_json),
        table(SURVIVAL, curves_from_json),
        table(TRAINING_PATIENTS, TrainingPatients.from_json),
        task,
    )
    if bundle.curves is not None and bundle.curves.keys() != manifest.combinations.keys():
        raise BundleError(f"{SURVIVAL}: expected a curve for each combination: {', '.join(manifest.combinations)}")
    if bundle.training_patients is not None:
        bundle.training_patients.check_fits(bundle.modalities)
    return bundle


def load_members(bundle: Bundle) -> list["Member"]:
    """The bundle's members with their weights; raises BundleError for wrong names, shapes or values.

    Weights are mapped from their files, not copied.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from survfuse.networks.build import shapes
    from survfuse.networks.ensemble import Member
    from survfuse.runtime.tensors import all_finite

    families = families_of(bundle.task.modalities)
    members = []
    for entry in bundle.manifest.members:
        sizes = Sizes.from_json(dict(entry.sizes))
        try:
            state = load_file(bundle.root / entry.file)
        except (SafetensorError, OSError) as cause:
            raise BundleError(f"{entry.file}: not readable as safetensors ({cause})") from cause
        expected = shapes(families[entry.family], sizes)
        if {name: tensor.shape for name, tensor in state.items()} != expected:
            different = sorted(
                n for n in expected.keys() | state.keys() if n not in state or state[n].shape != expected.get(n)
            )
            raise BundleError(f"{entry.file}: tensors do not fit a {entry.family} network: {listing(different)}")
        broken = [name for name, tensor in state.items() if tensor.dtype != torch.float32 or not all_finite(tensor)]
        if broken:
            raise BundleError(f"{entry.file}: expected finite float32 weights, found otherwise in {listing(broken)}")
        members.append(Member(families[entry.family], sizes, entry.standings, state))
    return members


def _checked_files(root: Path, manifest: Manifest, digests: object) -> Mapping[str, str]:
    """The checksums stated, by file. Every file exists, is listed once and lies in the folder; there are no others."""
    names = file_names(manifest)
    if len(set(names)) != len(names):
        raise BundleError(f"{MANIFEST}: a file is listed twice")
    if not isinstance(digests, Mapping) or set(digests) != set(names):
        raise BundleError(f"{MANIFEST}: checksums do not cover exactly the files of the bundle")
    real = root.resolve()
    for name in names:
        path = root / name
        if not path.is_file():
            raise BundleError(f"{name}: missing from the bundle")
        if not path.resolve().is_relative_to(real):
            raise BundleError(f"{name}: leads outside the bundle")
    present = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_symlink() or not path.is_dir()}
    extra = sorted(present - set(names) - {MANIFEST, *BESIDE})
    if extra:
        raise BundleError(f"not in the manifest: {listing(extra)}")
    return digests


def _check_digest(name: str, digest: str, digests: Mapping[str, str]) -> None:
    if digest != digests[name]:
        raise BundleError(f"{name}: its sha256 does not match the manifest; the file was changed or damaged")


def _check_sizes(bundle: Bundle) -> None:
    """Check that members, tables and encoder agree on the lengths of vectors."""
    families = families_of(bundle.task.modalities)
    slide = bundle.manifest.slide
    if slide.encoder in ENCODERS and ENCODERS[slide.encoder].dimension != slide.dimension:
        raise BundleError(f"{slide.encoder} gives {ENCODERS[slide.encoder].dimension} features, not {slide.dimension}")
    lengths = {"slide": slide.dimension}
    if bundle.expression is not None:
        lengths["rna"] = len(bundle.expression.genes)
    if bundle.vocabulary is not None:
        lengths["clinical"] = len(bundle.vocabulary.columns)
    if bundle.manifest.vector is not None:
        lengths[VECTOR] = bundle.manifest.vector.dimension
    for entry in bundle.manifest.members:
        if not isinstance(entry.family, str) or entry.family not in families:
            raise BundleError(f"{entry.file}: unknown network family {brief(entry.family)}")
        family = families[entry.family]
        try:
            sizes = Sizes.from_json(dict(entry.sizes))
            sizes.check_pairs(bundle.task.modalities)
        except (KeyError, TypeError, ValueError) as cause:
            raise BundleError(f"{entry.file}: unusable sizes ({cause})") from cause
        takes = {"slide": sizes.tile, "rna": sizes.genes, "clinical": sizes.clinical, VECTOR: sizes.vector}
        for name in family.modalities:
            if name not in lengths:
                raise BundleError(
                    f"{entry.file}: a {entry.family} network takes {name}, which the bundle has no table for"
                )
            if takes[name] != lengths[name]:
                raise BundleError(
                    f"{entry.file}: takes {name} of length {takes[name]}, the bundle gives {lengths[name]}"
                )
        for combination in entry.standings:
            given = set(parse_combination(combination))
            needs_stand_in = not set(family.modalities) <= given and not family.linear
            if not set(family.modalities) & given or (needs_stand_in and not sizes.stand_ins):
                raise BundleError(
                    f"{entry.file}: a {entry.family} network without stand-ins cannot score {combination}"
                )
