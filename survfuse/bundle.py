"""Everything frozen, on disk: schema, checksums, load, save.

    manifest.json            schema version, purpose, provenance, slide settings, members, sha256 of every file and of
                             the manifest itself
    members/*.safetensors    one network each
    calibration.json         risk → months                 (survfuse.calibration.Calibration)
    genes.json               expression transform          (survfuse.rna.Expression), where a member reads expression
    clinical.json            clinical vocabulary           (survfuse.clinical.Vocabulary), where one reads variables
    survival.json            risk → survival curve         (survfuse.curves.SurvivalCurve) of each combination, where
                             it is known
    model-card.md            for people: cohort, protocol, held-out figures, intended use, limits
    encoder/weights.*        optionally the tile encoder's weights

Nothing is unpickled. Every file is checked against the manifest before any of it is used.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import survfuse
from survfuse.calibration import Calibration
from survfuse.clinical import Vocabulary
from survfuse.combinations import Combination, is_combination, ordered, parts
from survfuse.curves import SurvivalCurve, curves_from_json
from survfuse.errors import BundleError, brief
from survfuse.files import is_number, read_object, sha256, write_json, write_text
from survfuse.log import listing
from survfuse.rna import Expression
from survfuse.slide.settings import SlideSettings

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
TABLES = (CALIBRATION, GENES, CLINICAL, SURVIVAL, CARD)  # the first is always there
DEMONSTRATION = "demonstration"
RESEARCH = "research"
# Files that may lie beside a bundle without being part of it.
BESIDE = ("README.md", ".gitkeep", ".gitignore")


@dataclass(frozen=True)
class Standing:
    """How a member counts under one combination: it adds weight · (risk − location) / scale to the ensemble's sum."""

    weight: float
    location: float
    scale: float


@dataclass(frozen=True)
class Scale:
    """What puts the members' sum, under one combination, on the reference risks' scale: (sum − location) / scale."""

    location: float
    scale: float


@dataclass(frozen=True)
class MemberEntry:
    """A member as the manifest states it; ``standings`` by combination, "slide+rna+clinical" for one."""

    file: str
    family: str
    sizes: Mapping[str, Any]
    standings: Mapping[str, Standing]


@dataclass(frozen=True)
class Manifest:
    purpose: str  # DEMONSTRATION or RESEARCH
    notice: str  # what a user should know of these weights
    provenance: Mapping[str, Any]
    slide: SlideSettings
    combinations: Mapping[str, Scale]  # of modalities, which the ensemble was trained to score
    members: tuple[MemberEntry, ...]
    tables: tuple[str, ...]


@dataclass(frozen=True)
class Tables:
    """What a bundle holds beside its members."""

    calibration: Calibration
    expression: Expression | None
    vocabulary: Vocabulary | None
    curves: Mapping[str, SurvivalCurve] | None  # by combination, "slide+rna+clinical" for one
    card: str | None

    def present(self) -> tuple[str, ...]:
        """The files of those that are there."""
        every = (self.calibration, self.expression, self.vocabulary, self.curves, self.card)
        return tuple(name for name, table in zip(TABLES, every, strict=True) if table is not None)


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
        return ordered(name for combination in self.manifest.combinations for name in parts(combination))

    @property
    def demonstration(self) -> bool:
        return self.manifest.purpose == DEMONSTRATION

    def encoder_weights(self) -> Path | None:
        """The tile encoder's weight file in this bundle, if it carries one."""
        return self.root / self.manifest.slide.weights if self.manifest.slide.weights else None


def holds_files(root: Path) -> bool:
    """Whether a model folder holds anything but what may lie beside a bundle; a file in its place does as well."""
    return root.exists() and (not root.is_dir() or any(path.name not in BESIDE for path in root.iterdir()))


def model_required() -> bool:
    """Whether SURVFUSE_REQUIRE_MODEL forbids demonstration weights, as it does in an exported image."""
    return os.environ.get("SURVFUSE_REQUIRE_MODEL", "") not in ("", "0")


def check_purpose(bundle: Bundle) -> None:
    """Raise BundleError for a demonstration bundle where one is forbidden."""
    if bundle.demonstration and model_required():
        raise BundleError(f"{bundle.root}: a demonstration bundle, which SURVFUSE_REQUIRE_MODEL forbids")


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
    manifest = _manifest(value)
    digests = value.get("files")
    _check_files(root, manifest, digests)
    # Weights are hashed on other cores while this one reads the tables and imports torch.
    with ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 1) - 1), thread_name_prefix="sha256") as pool:
        weights = [name for name in _file_names(manifest) if name not in manifest.tables]
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

    from survfuse.ensemble import Member
    from survfuse.fusion import Sizes, shapes
    from survfuse.weights import all_finite

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


def member_file(number: int) -> str:
    """The file of the member with this number."""
    return f"members/{number:03}.safetensors"


def save(root: Path, manifest: Manifest, states: Iterable[Mapping[str, Any]], tables: Tables) -> None:
    """Write a bundle to ``root``, which must be empty or absent but for an encoder placed there already.

    ``states`` gives the weights, name → tensor, of each of the manifest's members; one is held at a time.
    """
    from safetensors.torch import save_file

    if (root / MANIFEST).exists():
        raise BundleError(f"{root}: holds a bundle already")
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
    value = {
        "schema_version": SCHEMA_VERSION,
        "written_by": f"survfuse {survfuse.__version__}",
        **asdict(manifest),
        "files": {file: sha256(root / file) for file in _file_names(manifest)},
    }
    # The manifest comes last: a folder without one is no bundle, so an interrupted save cannot be taken for one.
    write_json(root / MANIFEST, value | {SELF: manifest_digest(value)})


def manifest_digest(value: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's values but for this one: of compact JSON in ASCII, keys in order, numbers
    as Python spells them."""
    others = {key: entry for key, entry in value.items() if key != SELF}
    text = json.dumps(others, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _manifest(value: Mapping[str, Any]) -> Manifest:
    try:
        members = tuple(
            MemberEntry(
                **{**entry, "standings": {name: Standing(**numbers) for name, numbers in entry["standings"].items()}}
            )
            for entry in value["members"]
        )
        manifest = Manifest(
            value["purpose"],
            value["notice"],
            value["provenance"],
            SlideSettings(**value["slide"]),
            {name: Scale(**numbers) for name, numbers in value["combinations"].items()},
            members,
            tuple(value["tables"]),
        )
    except (KeyError, TypeError, AttributeError) as cause:
        raise BundleError(f"{MANIFEST}: does not follow schema version {SCHEMA_VERSION} ({brief(cause)})") from cause
    if manifest.purpose not in (DEMONSTRATION, RESEARCH):
        raise BundleError(f"{MANIFEST}: unknown purpose {brief(manifest.purpose)}")
    if not members or not isinstance(manifest.provenance, Mapping) or not isinstance(manifest.notice, str):
        raise BundleError(f"{MANIFEST}: expected members, a provenance object and a notice")
    if CALIBRATION not in manifest.tables or any(name not in TABLES for name in manifest.tables):
        raise BundleError(f"{MANIFEST}: expected {CALIBRATION} among tables, and none but {', '.join(TABLES)}")
    _check_standings(manifest)
    if problem := manifest.slide.problem():
        raise BundleError(f"{MANIFEST}: slide settings: {problem}")
    for name in _file_names(manifest):
        if not isinstance(name, str) or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise BundleError(f"{MANIFEST}: the path {brief(name)} leads outside the bundle")
    return manifest


def _check_standings(manifest: Manifest) -> None:
    """Combinations that are ones, each scored by a member, and numbers that can be divided by."""
    for name, scale in manifest.combinations.items():
        if not is_combination(name):
            raise BundleError(f"{MANIFEST}: {name[:80]!r} is no combination of modalities")
        _check_numbers(f"{MANIFEST}: {name}", scale.location, scale.scale)
        if not any(name in entry.standings for entry in manifest.members):
            raise BundleError(f"{MANIFEST}: no member scores {name}")
    if not manifest.combinations:
        raise BundleError(f"{MANIFEST}: expected a combination of modalities that the ensemble scores")
    for entry in manifest.members:
        if not entry.standings or not entry.standings.keys() <= manifest.combinations.keys():
            raise BundleError(f"{entry.file}: expected standings, for combinations of the ensemble alone")
        for standing in entry.standings.values():
            _check_numbers(str(entry.file), standing.location, standing.weight, standing.scale)


def _check_numbers(where: str, location: Any, *positive: Any) -> None:
    if not all(is_number(number) and abs(number) <= 1e12 for number in (location, *positive)):
        raise BundleError(f"{where}: expected weight, location and scale within 1e12")
    if min(positive) < 1e-12:
        raise BundleError(f"{where}: expected a weight and a scale of at least 1e-12")


def _file_names(manifest: Manifest) -> list[str]:
    files = [*manifest.tables, *(entry.file for entry in manifest.members)]
    return files + ([manifest.slide.weights] if manifest.slide.weights else [])


def _check_files(root: Path, manifest: Manifest, digests: Any) -> None:
    """Every file present once, inside the folder, with a checksum stated, and no file beside them."""
    names = _file_names(manifest)
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
    from survfuse.fusion import FAMILIES, Sizes
    from survfuse.slide.encoders import ENCODERS

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
            given = set(parts(combination))
            needs_stand_in = not set(network.modalities) <= given and not network.linear
            if not set(network.modalities) & given or (needs_stand_in and not sizes.stand_ins):
                raise BundleError(
                    f"{entry.file}: a {entry.family} network without stand-ins cannot score {combination}"
                )
