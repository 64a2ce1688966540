"""Every reader of what comes from outside, given mutated files: it answers soundly, or refuses by name."""

import json
import math
import random
import shutil
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
from fuzz.material import (
    DEMONSTRATION,
    PLACES,
    h5_files,
    masks,
    pt_files,
    read_object,
    slides,
    slides_in_several_files,
    vector_files,
)
from fuzz.mutations import (
    changed_bytes,
    changed_head,
    changed_json,
    changed_lines,
    changed_statements,
    changed_table,
    changed_tags,
    json_bytes,
)

from survfuse.bundle.averages import load_averages
from survfuse.bundle.load import load, load_members
from survfuse.bundle.manifest import AVERAGES, MANIFEST, SELF, TRAINING_PATIENTS, manifest_digest
from survfuse.bundle.training_patients import TrainingPatients
from survfuse.cohort.outcomes import read_outcomes
from survfuse.cohort.problems import Problems
from survfuse.cohort.read import read_cohort
from survfuse.cohort.table_paths import CohortTables
from survfuse.inputs.clinical import Vocabulary
from survfuse.inputs.expression import Expression
from survfuse.inputs.feature_places import file_places
from survfuse.inputs.features import read_features
from survfuse.inputs.slide_vectors import read_vector
from survfuse.inputs.sockets import read_case
from survfuse.runtime.errors import BundleError, InputError, SurvfuseError
from survfuse.runtime.files import read_object as strict_object
from survfuse.runtime.files import sha256
from survfuse.runtime.log import recorded
from survfuse.slide.grid import Grid
from survfuse.slide.masks import mask_coverage
from survfuse.slide.parts import slide_file
from survfuse.slide.pixels import Slide
from survfuse.slide.settings import SlideSettings
from survfuse.slide.stained import stained_tissue
from survfuse.slide.vector_settings import VectorSettings
from survfuse.survival.calibration import Calibration
from survfuse.survival.curves import curves_from_json
from survfuse.tasks.chimera3 import TASK

CASE = DEMONSTRATION.parent.parent / "test/input/interf1"


@dataclass(frozen=True)
class Target:
    """A reader, and how its mutated input is made."""

    prepare: Callable[[random.Random, Path], Path]  # writes an input into an empty folder and names what is read
    read: Callable[[Path], None]  # raises SurvfuseError to refuse; AssertionError where the answer is wrong
    share: float  # of all runs


def _written(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def read_expression(path: Path) -> None:
    vector = Expression.from_json(read_object(DEMONSTRATION / "genes.json")).encode(
        strict_object(path, InputError, True)
    )
    assert vector.values.dtype == np.float32 and np.isfinite(vector.values).all()


def read_clinical(path: Path) -> None:
    vocabulary = Vocabulary.from_json(read_object(DEMONSTRATION / "clinical.json"))
    vector = vocabulary.encode(strict_object(path, InputError, True))
    assert vector.values.shape == (len(vocabulary.columns),) and np.isfinite(vector.values).all()


def _patient(place: str, chance: random.Random, folder: Path) -> Path:
    value = read_object(CASE / place)
    if place == PLACES["rna"]:
        value = dict(list(value.items())[: chance.choice((40, 400))])
    return _written(folder, "x.json", json_bytes(value, chance))


def _inputs(chance: random.Random, folder: Path) -> Path:
    sockets = json.loads((CASE / "inputs.json").read_text())
    for place in (*PLACES.values(), "other.json"):
        if chance.random() < 0.8:
            path = folder / place
            path.parent.mkdir(parents=True, exist_ok=True)
            if "images" in place:
                path.mkdir()
                path = path / chance.choice(("a.tif", "b.h5", ".hidden", "c\x1b[2J.tif"))
            chance.choice((path.touch, path.touch, path.touch, path.mkdir, lambda p=path: p.symlink_to(p)))()
    _written(folder, "inputs.json", json_bytes(sockets, chance))
    return folder


def _case(root: Path) -> None:
    case = read_case(root)
    files = [path for path in (case.slide, case.features, case.rna, case.clinical) if path is not None]
    assert files and all(path.is_file() and path.resolve().is_relative_to(root.resolve()) for path in files)
    assert case.slide is None or case.features is None


def _manifest(chance: random.Random, folder: Path) -> Path:
    root = copied_bundle(folder)
    value = read_object(root / MANIFEST)
    if chance.random() < 0.7:  # one that states a checksum that fits
        value = changed_json(value, chance)
        if isinstance(value, dict):
            value[SELF] = manifest_digest(_sound(value))
        _written(root, MANIFEST, json.dumps(value).encode("utf-8"))
    else:
        _written(root, MANIFEST, changed_bytes((root / MANIFEST).read_bytes(), chance))
    return root


def _table(chance: random.Random, folder: Path) -> Path:
    root = copied_bundle(folder)
    name = chance.choice(("genes.json", "clinical.json", "calibration.json", "survival.json", TRAINING_PATIENTS))
    _written(root, name, json_bytes(read_object(root / name), chance))
    seal(root, name)
    return root


def _member(chance: random.Random, folder: Path) -> Path:
    root = copied_bundle(folder)
    name = AVERAGES if chance.random() < 0.3 else f"members/{chance.randrange(70):03}.safetensors"
    data = (root / name).read_bytes()
    header = 8 + struct.unpack("<Q", data[:8])[0]
    _written(root, name, changed_head(data, chance, header) if chance.random() < 0.6 else changed_bytes(data, chance))
    if chance.random() < 0.9:
        seal(root, name)
    return root


def _sound(value: Any) -> Any:
    """``value`` without the numbers that JSON cannot spell."""
    if isinstance(value, dict):
        return {key: _sound(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_sound(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def copied_bundle(folder: Path) -> Path:
    """A copy of the demonstration bundle, to be changed."""
    root = folder / "bundle"
    shutil.copytree(DEMONSTRATION, root)
    return root


def seal(root: Path, name: str) -> None:
    value = read_object(root / MANIFEST)
    value["files"][name] = sha256(root / name)
    value[SELF] = manifest_digest(value)
    _written(root, MANIFEST, json.dumps(value).encode("ascii"))


def _bundle(root: Path) -> None:
    bundle = load(root)
    months = bundle.calibration.months(np.linspace(-3.0, 3.0, 7)).months
    assert (months >= 0.0).all() and np.isfinite(months).all()
    load_members(bundle)
    load_averages(bundle)


def _tables(root: Path) -> None:
    for name, read in (
        ("genes.json", Expression.from_json),
        ("clinical.json", Vocabulary.from_json),
        ("calibration.json", Calibration.from_json),
        ("survival.json", curves_from_json),
        (TRAINING_PATIENTS, TrainingPatients.from_json),
    ):
        read(strict_object(root / name, BundleError))
    _bundle(root)


def _h5(chance: random.Random, folder: Path) -> Path:
    data = chance.choice(h5_files())
    name = chance.choice(("x.h5", "x.hdf5"))
    if chance.random() < 0.75:
        return _written(folder, name, chance.choice((changed_bytes, changed_head))(data, chance))
    path = _written(folder, name, data)
    with suppress(OSError, ValueError, RuntimeError), h5py.File(path, "a") as file:
        for holder in chance.choices([file, *(file[key] for key in file)], k=3):
            holder.attrs[chance.choice(_ATTRIBUTES)] = chance.choice(_STATED)
    return path


def _vector(chance: random.Random, folder: Path) -> Path:
    suffix = chance.choice((".h5", ".pt"))
    data = chance.choice(vector_files()[suffix])
    return _written(folder, f"x{suffix}", chance.choice((changed_bytes, changed_head))(data, chance))


def _vector_read(path: Path) -> None:
    vector = read_vector(path)
    VectorSettings("titan", 96).check(len(vector.values), vector.encoder, vector.name)
    assert vector.values.dtype == np.float32 and vector.values.shape == (96,) and np.isfinite(vector.values).all()


_ATTRIBUTES = ("encoder", "extractor", "feat_type", "tile_px", "tile_mpp", "patch_size", "target_magnification")
_ATTRIBUTES += ("tile_size_px", "tile_size_um", "patch_size_level0", "level0_width")
_STATED = ("uni", b"tile", "slide", "", 224, 1.0, 0, -1.0, 1e300, float("nan"), np.arange(3), np.array(["a", "b"], "S"))


def _pt(chance: random.Random, folder: Path) -> Path:
    return _written(folder, "x.pt", chance.choice((changed_bytes, changed_head))(chance.choice(pt_files()), chance))


def _features(path: Path) -> None:
    features = read_features(path)
    settings = SlideSettings("efficientnet-lite0", 1280)
    settings.check_features(features.values.shape[1], features.encoder, path.name, features.tile)
    assert features.values.ndim == 2 and features.values.isfinite().all()
    if path.suffix != ".pt" and (found := file_places(path)) is not None:
        assert found[0].origins.shape == (len(features.values), 2) and min(found[0].side) > 0
        assert np.isfinite(found[0].corners()).all()


def read_small_features(path: Path) -> None:
    """As a feature file of length 4 is read."""
    features = read_features(path)
    assert features.values.ndim == 2 and features.values.isfinite().all()


def read_unsealed_bundle(path: Path) -> None:
    """A manifest, given a checksum that fits wherever it is an object."""
    try:
        value = strict_object(path, BundleError)
    except BundleError:
        load(path.parent)
        raise
    value[SELF] = manifest_digest(value)
    path.write_text(json.dumps(value))
    _bundle(path.parent)


def _mask(chance: random.Random, folder: Path) -> Path:
    data = chance.choice(masks())
    return _written(folder, "m.tif", chance.choice(_TIFF_MUTATIONS)(data, chance))


_TIFF_MUTATIONS = (changed_bytes, changed_head, changed_tags, changed_tags, changed_statements, changed_statements)


class _SlideSize:
    """As much of a slide as a mask is compared with."""

    name, size, mpp = "s.tif", (2220, 2967), (0.499, 0.499)


def _covered(path: Path) -> None:
    share, _ = mask_coverage(path, _SlideSize(), Grid.over(_SlideSize.size, _SlideSize.mpp, 224, 1.0))
    assert share.shape == (7, 5) and (share >= 0.0).all() and (share <= 1.0 + 1e-9).all()


def _slide(chance: random.Random, folder: Path) -> Path:
    return _written(folder, "s.tif", chance.choice(_TIFF_MUTATIONS)(chance.choice(slides()), chance))


def _slide_in_files(chance: random.Random, folder: Path) -> Path:
    files = dict(chance.choice(slides_in_several_files()))
    changed = chance.choice(list(files))
    mutation = changed_lines if changed.endswith((".ini", ".vms")) else chance.choice(_BYTES_OR_HEAD)
    files[changed] = mutation(files[changed], chance)
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        _written(folder, name, data)
    return folder


_BYTES_OR_HEAD = (changed_bytes, lambda data, chance: changed_head(data, chance, 1024))


def _opened(path: Path) -> None:
    with Slide(slide_file(path), assumed_mpp=0.5) as slide:
        grid = Grid.over(slide.size, slide.mpp, 224, 1.0)
        tissue = stained_tissue(slide, grid).tissue
        assert tissue.dtype == bool
        middle = (slide.size[0] // 2, slide.size[1] // 2)
        assert slide.read(middle, grid.side, (224, 224)).shape == (224, 224, 3)


def _outcomes(chance: random.Random, folder: Path) -> Path:
    heading = [chance.choice(("case_id", "Case_ID")), chance.choice(("time", "Time")), chance.choice(("event", "x"))]
    patients = [[f"P{n}", f"{chance.random() * 100:.1f}", chance.choice("01")] for n in range(6)]
    return _written(folder, "o.csv", changed_table([heading, *patients], chance))


def _outcomes_read(path: Path) -> None:
    problems = Problems()
    table = read_outcomes(path, TASK.outcome, problems)
    problems.raise_any("table")
    known = [outcome for outcome in table.outcomes.values() if outcome is not None]
    assert known and all(0.0 <= outcome.months < TASK.outcome.most_months for outcome in known)


def _cohort_table(chance: random.Random, folder: Path) -> Path:
    if chance.random() < 0.5:
        rows = [["patient", "age", "stage"], *([f"P{n}", str(50 + n), chance.choice("ab")] for n in range(6))]
        return _written(folder, "clinical.csv", changed_table(rows, chance))
    genes = ["TP53", "ENSG00000141510.12", "A1BG", "9-Sep", "MYC"]
    rows = [["gene", *(f"P{n}" for n in range(6))]]
    rows += [[name, *(f"{100 * chance.random():.2f}" for _ in range(6))] for name in genes]
    if chance.random() < 0.3:
        rows = [list(column) for column in zip(*rows, strict=True)]
    return _written(folder, "expression.csv", changed_table(rows, chance))


def _cohort_read(path: Path) -> None:
    tables = CohortTables(**{path.stem: path})
    with TemporaryDirectory() as cache, recorded(show=False):
        cohort = read_cohort(tables, Path(cache), with_outcomes=False)
    assert cohort.ids and list(cohort.ids) == sorted(set(cohort.ids))
    if cohort.expression is not None:
        assert cohort.expression.shape == (len(cohort.ids), len(cohort.genes))
        assert not np.isinf(cohort.expression).any() and len(set(cohort.genes)) == len(cohort.genes)


TARGETS: Mapping[str, Target] = {
    "expression JSON": Target(lambda *given: _patient(PLACES["rna"], *given), read_expression, 0.16),
    "clinical JSON": Target(lambda *given: _patient(PLACES["clinical"], *given), read_clinical, 0.16),
    "inputs.json": Target(_inputs, _case, 0.1),
    "manifest": Target(_manifest, _bundle, 0.04),
    "tables of a bundle": Target(_table, _tables, 0.04),
    "members of a bundle": Target(_member, _bundle, 0.02),
    "HDF5 features": Target(_h5, _features, 0.08),
    "outcomes tables": Target(_outcomes, _outcomes_read, 0.04),
    "torch features": Target(_pt, _features, 0.06),
    "slide-level vectors": Target(_vector, _vector_read, 0.06),
    "tables of a cohort": Target(_cohort_table, _cohort_read, 0.04),
    "TIFF masks": Target(_mask, _covered, 0.1),
    "TIFF slides": Target(_slide, _opened, 0.06),
    "DICOM, MIRAX, VMS": Target(_slide_in_files, _opened, 0.04),
}


SHARES = {kind: target.share for kind, target in TARGETS.items()}


def outcome(kind: str, chance: random.Random, folder: Path) -> str:
    """Whether the reader answered or refused; anything else that happens is raised."""
    target = TARGETS[kind]
    path = target.prepare(chance, folder)
    try:
        target.read(path)
    except SurvfuseError as error:
        line = error.line()
        assert len(line.splitlines()) == 1 and line.isprintable() and len(line) < 5000, line[:300]
        return "refused"
    return "answered"
