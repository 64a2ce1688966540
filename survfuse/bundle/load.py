"""Everything frozen, on disk: schema, checksums, load, save.

    manifest.json            schema version, purpose, provenance, slide settings, members, sha256 of every file and of
                             the manifest itself
    members/*.safetensors    one network each
    calibration.json         risk → months: survival.calibration.Calibration
    genes.json               expression transform, if a member reads expression: inputs.expression.Expression
    clinical.json            clinical vocabulary, if a member reads variables: inputs.clinical.Vocabulary
    survival.json            risk → survival curve of each combination, if known: survival.curves.SurvivalCurve
    model-card.md            for people: cohort, protocol, held-out figures, intended use, limits
    encoder/weights.*        optionally the tile encoder's weights

Nothing is unpickled. Every file is checked against the manifest before any of it is used.
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    Manifest,
    file_names,
    manifest_digest,
    manifest_from_json,
)
from survfuse.inputs.clinical import Vocabulary
from survfuse.inputs.expression import Expression
from survfuse.runtime.errors import BundleError, brief
from survfuse.runtime.files import read_object, sha256
from survfuse.runtime.log import listing
from survfuse.survival.calibration import Calibration
from survfuse.survival.curves import SurvivalCurve, curves_from_json
from survfuse.tasks.modalities import Combination, ordered, parse_combination


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. Member weights stay on disk until ``load_members``."""

    root: Path
    manifest: Manifest
    calibration: Calibration
    expression: Expression | None
    vocabulary: Vocabulary | None
    curves: Mapping[str, SurvivalCurve] | None  # by combination

    @property
    def modalities(self) -> Combination:
        """The modalities that the ensemble can make use of."""
        return ordered(name for combination in self.manifest.combinations for name in parse_combination(combination))

    @property
    def demonstration(self) -> bool:
        return self.manifest.purpose == DEMONSTRATION

    def encoder_weights(self) -> Path | None:
        """The tile encoder's weight file in this bundle, if it carries one."""
        return self.root / self.manifest.slide.weights if self.manifest.slide.weights else None


def load(root: Path) -> Bundle:
    """Read and verify the bundle at ``root``; raises BundleError that names what is wrong."""
    if not (root / MANIFEST).is_file():
        raise BundleError(f"{root}: no {MANIFEST}; this folder holds no bundle")
    value = read_object(root / MANIFEST, BundleError)
    if value.get("schema_version") != SCHEMA_VERSION:
        found = value.get("schema_version")
        older = type(found) is int and found < SCHEMA_VERSION
        hint = "; freeze it again with train, which goes on from the members it has kept" if older else ""
        raise BundleError(f"schema version {brief(found)} is not the one this release reads, {SCHEMA_VERSION}{hint}")
    if value.get(SELF) != manifest_digest(value):
        raise BundleError(f"{MANIFEST}: its sha256 is not the one it states; the file was changed or damaged")
    manifest = manifest_from_json(value)
    digests = value.get("files")
    _check_files(root, manifest, digests)
    # Weights are hashed on other cores while this one reads the tables and imports torch.
    with ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 1) - 1), thread_name_prefix="sha256") as pool:
        weights = [name for name in file_names(manifest) if name not in manifest.tables]
        hashed = {name: pool.submit(sha256, root / name) for name in weights}
        try:
            bundle = _bundle(root, manifest, digests)
            _check_sizes(bundle)
            for name in weights:
                _check_digest(name, hashed[name].result(), digests)
        finally:
            pool.shutdown(cancel_futures=True)
    return bundle


def _bundle(root: Path, manifest: Manifest, digests: Mapping[str, str]) -> Bundle:
    """The bundle with its tables, each verified before it is read."""
    for name in manifest.tables:
        _check_digest(name, sha256(root / name), digests)

    def table(name: str, read: Callable[[Mapping[str, Any]], Any]) -> Any:
        return read(read_object(root / name, BundleError)) if name in manifest.tables else None

    bundle = Bundle(
        root,
        manifest,
        table(CALIBRATION, Calibration.from_json),
        table(GENES, Expression.from_json),
        table(CLINICAL, Vocabulary.from_json),
        table(SURVIVAL, curves_from_json),
    )
    if bundle.curves is not None and bundle.curves.keys() != manifest.combinations.keys():
        raise BundleError(f"{SURVIVAL}: expected a curve for each combination: {', '.join(manifest.combinations)}")
    return bundle


def load_members(bundle: Bundle) -> list["Member"]:  # noqa: F821  (torch is imported only here)
    """The bundle's members with their weights; raises BundleError for wrong names, shapes or values."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from survfuse.networks.ensemble import Member
    from survfuse.networks.families import shapes
    from survfuse.networks.sizes import Sizes
    from survfuse.runtime.tensors import all_finite

    members = []
    for entry in bundle.manifest.members:
        sizes = Sizes.from_json(dict(entry.sizes))
        try:
            state = load_file(bundle.root / entry.file)
        except (SafetensorError, OSError) as cause:
            raise BundleError(f"{entry.file}: not readable as safetensors ({cause})") from cause
        expected = shapes(entry.family, sizes)
        if {name: tensor.shape for name, tensor in state.items()} != expected:
            different = sorted(
                n for n in expected.keys() | state.keys() if n not in state or state[n].shape != expected.get(n)
            )
            raise BundleError(f"{entry.file}: tensors do not fit a {entry.family} network: {listing(different)}")
        broken = [name for name, tensor in state.items() if tensor.dtype != torch.float32 or not all_finite(tensor)]
        if broken:
            raise BundleError(f"{entry.file}: expected finite float32 weights, found otherwise in {listing(broken)}")
        members.append(Member(entry.family, sizes, entry.standings, state))
    return members


def _check_files(root: Path, manifest: Manifest, digests: Any) -> None:
    """Every file present once, inside the folder, with a checksum stated, and no file beside them."""
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
    lying = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_symlink() or not path.is_dir()}
    extra = sorted(lying - set(names) - {MANIFEST, *BESIDE})
    if extra:
        raise BundleError(f"not in the manifest: {listing(extra)}")


def _check_digest(name: str, found: str, digests: Mapping[str, str]) -> None:
    if found != digests[name]:
        raise BundleError(f"{name}: its sha256 is not the manifest's; the file was changed or damaged")


def _check_sizes(bundle: Bundle) -> None:
    """Members, tables and encoder must speak of vectors of the same lengths."""
    from survfuse.networks.families import FAMILIES
    from survfuse.networks.sizes import Sizes
    from survfuse.slide.registry import ENCODERS

    slide = bundle.manifest.slide
    if slide.encoder in ENCODERS and ENCODERS[slide.encoder].dimension != slide.dimension:
        raise BundleError(f"{slide.encoder} gives {ENCODERS[slide.encoder].dimension} features, not {slide.dimension}")
    lengths = {"slide": slide.dimension}
    if bundle.expression is not None:
        lengths["rna"] = len(bundle.expression.genes)
    if bundle.vocabulary is not None:
        lengths["clinical"] = len(bundle.vocabulary.columns)
    for entry in bundle.manifest.members:
        if not isinstance(entry.family, str) or entry.family not in FAMILIES:
            raise BundleError(f"{entry.file}: unknown network family {brief(entry.family)}")
        network = FAMILIES[entry.family]
        try:
            sizes = Sizes.from_json(dict(entry.sizes))
        except (KeyError, TypeError, ValueError) as cause:
            raise BundleError(f"{entry.file}: unusable sizes ({cause})") from cause
        takes = {"slide": sizes.tile, "rna": sizes.genes, "clinical": sizes.clinical}
        for name in network.modalities:
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
            needs_stand_in = not set(network.modalities) <= given and not network.linear
            if not set(network.modalities) & given or (needs_stand_in and not sizes.stand_ins):
                raise BundleError(
                    f"{entry.file}: a {entry.family} network without stand-ins cannot score {combination}"
                )
