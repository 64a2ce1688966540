"""Checkpoints of the reference → a bundle whose risks and months are the reference's own.

The reference is the code published with arXiv 2605.13897. A checkpoint of it is a ``state_dict``; beside it lie the
order of its genes, its clinical vocabulary and its calibration. Three of its models are read:

    bilinear             w · [B(M, r), B(M, c), B(r, c)] + b
    bilinear-residual    … with ReLU(W [M, r, c]) beside the pairs
    concat               w · [M, c, r] + b, in which our network has r before c

Several checkpoints make an ensemble whose risk is the mean of theirs. The reference risks of the calibration must then
be such means as well: those of one checkpoint lie on another scale.
"""

import argparse
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from survfuse.bundle import (
    BESIDE,
    MANIFEST,
    RESEARCH,
    Manifest,
    MemberEntry,
    Scale,
    Standing,
    Tables,
    holds_files,
    save,
)
from survfuse.calibration import CONTINUOUS, RANK, Calibration
from survfuse.clinical import OUTCOME_KEYS, Categorical, Numeric, Vocabulary
from survfuse.combinations import MODALITIES, name_of
from survfuse.errors import BundleError, EnvironmentFailure, InputError, named
from survfuse.files import is_number, read_json, read_object, sha256
from survfuse.log import count, listing, stage, warn
from survfuse.rna import IDENTITY, Expression
from survfuse.slide.settings import SlideSettings

if TYPE_CHECKING:
    from torch import Tensor

    from survfuse.fusion import Sizes

BILINEAR, RESIDUAL, CONCAT = "bilinear", "bilinear-residual", "concat"
NOTICE = (
    "Imported from checkpoints of the reference of arXiv 2605.13897. Its reference risks are in-sample, so months are "
    "optimistic. For research use. Not a medical device."
)
# What the reference does with inputs, in words; the bundle's tables do the same.
POLICIES = {
    "expression": "raw values, not transformed; a gene that a case lacks counts 0",
    "categories": "told apart to the letter; one that the vocabulary lacks gives zeros in every column of its variable",
    "-1": "a number where the variable is numeric, and a category where the vocabulary has it",
    "numbers": "(x − mean) / scale, with the reference's mean and scale and no plausible range",
    "null or absent": "the mean for a number, zeros for a category",
}
# Layers of its checkpoints, and the names of the same layers here.
_ENCODERS = {
    "attention_net.0": "bag.project",
    "attention_net.3.attention_a.0": "bag.tanh_branch",
    "attention_net.3.attention_b.0": "bag.sigmoid_branch",
    "attention_net.3.attention_c": "bag.score",
    "rna_encoder.encoder.0": "rna.layers.0",
    "rna_encoder.encoder.3": "rna.layers.1",
    "rna_encoder.encoder.6": "rna.layers.2",
}
_PAIRS = {
    f"{theirs}.{layer}": f"{ours}.{name}"
    for theirs, ours in (("fuse_hr", "slide_rna"), ("fuse_hc", "slide_clinical"), ("fuse_rc", "rna_clinical"))
    for layer, name in (("f1", "first"), ("f2", "second"), ("out", "out"))
}
LAYERS = {
    BILINEAR: _ENCODERS | _PAIRS | {"classifier": "risk"},
    RESIDUAL: _ENCODERS | _PAIRS | {"residual_proj": "residual", "classifier": "risk"},
    CONCAT: _ENCODERS | {"classifiers": "risk"},
}
# Under these keys training scripts keep a state_dict beside epoch and optimiser.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PICKLES = (".pkl", ".pickle", ".joblib")

State = dict[str, "Tensor"]


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``import-reference`` to the commands of ``python -m survfuse``."""
    parser = commands.add_parser(
        "import-reference", help="freeze checkpoints of the reference (arXiv 2605.13897) as a bundle"
    )
    parser.add_argument("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT", help="state_dict, torch file")
    parser.add_argument("--genes", type=Path, required=True, metavar="G.json", help="symbols in the network's order")
    parser.add_argument("--clinical", type=Path, required=True, metavar="C.json", help="clinical vocabulary")
    parser.add_argument(
        "--calibration",
        type=Path,
        required=True,
        metavar="K.json",
        help="km_times, km_probs and train_risks; of several checkpoints, risks of their mean",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE")
    parser.add_argument(
        "--trust-pickles",
        action="store_true",
        help="read --clinical and --calibration from pickles, which may run code",
    )
    parser.add_argument(
        "--calibration-mode", choices=(RANK, CONTINUOUS), default=RANK, help="(%(default)s: as the reference)"
    )
    parser.add_argument("--encoder", default="uni", help="tile encoder (%(default)s)")
    parser.add_argument("--weights", type=Path, help="the encoder's weight file, to carry in the bundle")
    parser.add_argument("--mpp", type=float, default=1.0, help="µm per pixel of a tile (%(default)s)")
    parser.add_argument("--assume-mpp", type=float, help="µm per level-0 pixel, for slides that state none")
    parser.set_defaults(command=_command)


def _command(options: argparse.Namespace) -> None:
    from survfuse.slide.encoders import find_spec

    spec = find_spec(options.encoder)
    import_reference(
        options.checkpoints,
        options.genes,
        options.clinical,
        options.calibration,
        options.out,
        SlideSettings(spec.name, spec.dimension, spec.input_px, options.mpp, assumed_mpp=options.assume_mpp),
        options.weights,
        options.calibration_mode,
        options.trust_pickles,
    )
    stage("written", str(options.out))


def import_reference(
    checkpoints: Sequence[Path],
    genes: Path,
    clinical: Path,
    calibration: Path,
    out: Path,
    settings: SlideSettings,
    weights: Path | None,
    mode: str = RANK,
    trust_pickles: bool = False,
) -> None:
    """Freeze checkpoints of the reference as a bundle in ``out``, whole or not at all.

    ``genes`` is a JSON array of G symbols. ``clinical`` is a JSON object: ``numeric``, an array of {name, mean, scale},
    and ``categorical``, an array of {name, categories}; they give K columns, numbers first and then one for each
    category. ``calibration`` is a JSON object: ``km_times`` (months) and ``km_probs`` [T], ``train_risks`` [R]. With
    ``trust_pickles`` these two may be the reference's own pickles. ``weights`` is a tile encoder's weight file to carry
    along. Under ``mode`` "rank" months are those of the reference to the last bit.

    One checkpoint's risk is kept as it is; several count 1/n each, and ``train_risks`` must be of their mean.

    Raises InputError that names the file for checkpoints of another network, tables of another form or that do not fit
    them, pickles that nobody vouched for, and an ``out`` that is not empty. Source: arXiv 2605.13897.
    """
    _check_place(out)
    _check_arguments(checkpoints, settings, mode)
    symbols = _genes(genes)
    vocabulary = _vocabulary(clinical, trust_pickles)
    tables = Tables(_calibration(calibration, mode, trust_pickles), _expression(symbols), vocabulary, None, None)
    widths = _Widths(settings.dimension, len(symbols), vocabulary)
    found = [_recognised(path, widths) for path in checkpoints]
    manifest = _manifest(
        [(path, family, sizes) for path, (family, sizes) in zip(checkpoints, found, strict=True)],
        {"genes": genes, "clinical": clinical, "calibration": calibration},
        settings,
    )
    for name, policy in POLICIES.items():
        stage("policy", f"{name}: {policy}")
    _write(out, manifest, tables, _states(checkpoints, widths), weights)
    families = ", ".join(dict.fromkeys(family for family, _ in found))
    stage("imported", f"{count(len(found), 'member')} of {families}")


# The bundle


def _check_place(out: Path) -> None:
    if out.exists() and (not out.is_dir() or holds_files(out)):
        raise InputError(
            f"{out}: not empty; a bundle is written to a folder of its own (beside it may lie {BESIDE[0]})"
        )


def _check_arguments(checkpoints: Sequence[Path], settings: SlideSettings, mode: str) -> None:
    """Raise InputError for no checkpoint, an unknown mode, and slide settings that a bundle cannot hold."""
    from survfuse.slide.encoders import ENCODERS

    if not checkpoints:
        raise InputError("expected a checkpoint of the reference, found none")
    if mode not in (RANK, CONTINUOUS):
        raise InputError(f"expected {RANK} or {CONTINUOUS} as the calibration's mode, found {mode!r}")
    if problem := settings.problem():
        raise InputError(problem)
    spec = ENCODERS.get(settings.encoder)
    if spec is not None and spec.dimension != settings.dimension:
        raise InputError(f"{spec.name} gives features of length {spec.dimension}, not {settings.dimension}")


def _manifest(
    members: Sequence[tuple[Path, str, "Sizes"]], sides: Mapping[str, Path], settings: SlideSettings
) -> Manifest:
    """The bundle's manifest but for its tables; ``members`` are checkpoint, family and sizes.

    Raises InputError for a checkpoint that is given twice, under whatever name.
    """
    digests = [sha256(path) for path, _, _ in members]
    for place, digest in enumerate(digests):
        if digest in digests[:place]:
            first, second = members[digests.index(digest)][0], members[place][0]
            raise InputError(f"{second}: the same checkpoint as {first}")
    complete = name_of(MODALITIES)
    standing = Standing(1.0 / len(members), 0.0, 1.0)
    provenance = {
        "source": "reference of arXiv 2605.13897",
        "checkpoints": [
            {"file": path.name, "sha256": digest, "model": family}
            for (path, family, _), digest in zip(members, digests, strict=True)
        ],
        **{name: {"file": path.name, "sha256": sha256(path)} for name, path in sides.items()},
        "policies": POLICIES,
        "reference_risks": "in-sample, of the patients that the checkpoints were trained on",
    }
    entries = [
        MemberEntry(_file(number), family, sizes.to_json(), {complete: standing})
        for number, (_, family, sizes) in enumerate(members)
    ]
    return Manifest(RESEARCH, NOTICE, provenance, settings, {complete: Scale(0.0, 1.0)}, tuple(entries), ())


def _file(number: int) -> str:
    return f"members/{number:03}.safetensors"


def _write(
    out: Path, manifest: Manifest, tables: Tables, states: Iterator[tuple[str, State]], weights: Path | None
) -> None:
    """Write the bundle beside ``out`` and then move it there."""
    place = out.resolve()
    partial = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.mkdir(parents=True)
        manifest = replace(manifest, slide=_with_weights(manifest.slide, partial, weights))
        tables = replace(tables, card=_card(manifest, tables.calibration))
        save(partial, replace(manifest, tables=tables.present()), states, tables)
        _move(partial, place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _with_weights(settings: SlideSettings, root: Path, weights: Path | None) -> SlideSettings:
    """Place the encoder's weights in the bundle as safetensors, under timm's names; or name the embedded ones."""
    import torch
    from safetensors.torch import save_file

    from survfuse.slide.encoders import embedded_digest, load_encoder

    if weights is None:
        return replace(settings, embedded_sha256=embedded_digest(settings.encoder))
    state = load_encoder(settings.encoder, weights, torch.device("cpu")).network.state_dict()
    file = "encoder/weights.safetensors"
    (root / file).parent.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, root / file)
    return replace(settings, weights=file)


def _move(partial: Path, place: Path) -> None:
    """Put the finished bundle in its place; what may lie beside a bundle stays."""
    if not place.exists() or not any(place.iterdir()):
        partial.replace(place)
        return
    moved = []
    try:
        # A folder without a manifest is no bundle, so an interrupted move cannot be taken for one.
        for path in sorted(partial.iterdir(), key=lambda path: path.name == MANIFEST):
            moved.append(path.replace(place / path.name))
    except BaseException:
        for path in moved:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise


def _card(manifest: Manifest, calibration: Calibration) -> str:
    """The model card, Markdown."""
    facts, slide = manifest.provenance, manifest.slide
    lines = [
        "# Model card",
        "",
        f"**{manifest.notice}**",
        "",
        "## What it is",
        "",
        f"{count(len(manifest.members), 'network')} trained by the code published with arXiv 2605.13897, not by "
        "survfuse. The ensemble's risk is the mean of their risks.",
        "",
        "| checkpoint | model | sha256 |",
        "|---|---|---|",
        *(f"| {_cell(e['file'])} | {e['model']} | `{e['sha256']}` |" for e in facts["checkpoints"]),
        "",
        "| table | file | sha256 |",
        "|---|---|---|",
        *(
            f"| {name} | {_cell(facts[name]['file'])} | `{facts[name]['sha256']}` |"
            for name in ("genes", "clinical", "calibration")
        ),
        "",
        "## Inputs, as the reference takes them",
        "",
        f"- slide: features by {slide.encoder}, {slide.tile_px} px tiles at {slide.mpp:g} µm per pixel",
        *(f"- {name}: {policy}" for name, policy in facts["policies"].items()),
        "",
        "## Calibration",
        "",
        f"{calibration.mode}, against {count(calibration.reference_risks.size, 'reference risk')}. They are in-sample: "
        "of patients that the networks were trained on, whom they tell apart better than new ones. Months are "
        "therefore optimistic, and no held-out figures are known.",
        "",
        "## Intended use",
        "",
        "Research: comparison with the reference, on the same cases and in the same container. Not for decisions about "
        "a patient's care.",
    ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """A file's name within one cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


# Checkpoints


@dataclass(frozen=True)
class _Widths:
    """What the tables and the encoder say of the networks' inputs."""

    tile: int  # D of a tile's features
    genes: int
    vocabulary: Vocabulary

    @property
    def places(self) -> list[int]:
        """Where the reference's K clinical columns stand among our C, which have one more for missing each."""
        inactive = self.vocabulary.inactive
        return [place for place, column in enumerate(self.vocabulary.columns) if column not in inactive]

    @property
    def columns(self) -> int:
        return len(self.vocabulary.columns)


def _recognised(path: Path, widths: _Widths) -> tuple[str, "Sizes"]:
    """Family and sizes of a checkpoint's network in this project, every tensor of it checked."""
    family, sizes, _ = _checked(path, widths)
    return family, replace(sizes, clinical=widths.columns)


def _states(checkpoints: Sequence[Path], widths: _Widths) -> Iterator[tuple[str, State]]:
    """Each member's file and weights; read anew, so that one network at a time is held."""
    for number, path in enumerate(checkpoints):
        family, sizes, state = _checked(path, widths)
        yield _file(number), _converted(family, sizes, state, widths)


def _checked(path: Path, widths: _Widths) -> tuple[str, "Sizes", State]:
    """Family, sizes (``clinical`` is the reference's K) and tensors; raises InputError that lists what is wrong."""
    from survfuse.fusion import Sizes

    state = _read_checkpoint(path)
    family = _family(path, state)
    _check_names(path, family, state)
    try:
        sizes = Sizes(tile=widths.tile, genes=widths.genes, clinical=len(widths.places), **_own_widths(family, state))
    except ValueError as cause:
        raise InputError(f"{path.name}: {cause}") from cause
    _check_shapes(path, family, sizes, state)
    return family, sizes, state


def _read_checkpoint(path: Path) -> State:
    """Tensors by name, float32 and each with memory of its own, "module" dropped from the names."""
    from survfuse.featurefile import load_torch

    _check_file(path)
    value = load_torch(path, InputError)
    if isinstance(value, Mapping):
        value = next((value[key] for key in _WRAPPERS if isinstance(value.get(key), Mapping)), value)
    state: dict[str, Any] = {}
    for name, tensor in value.items() if isinstance(value, Mapping) else ():
        plain = _plain_name(str(name))
        if plain in state:
            raise InputError(f"{path.name}: two tensors are named {plain} once module is dropped")
        state[plain] = tensor
    if not state:
        raise InputError(f"{path.name}: expected tensors by name, a state_dict, found {type(value).__name__}")
    _check_values(path, state)
    return {name: tensor.detach().float() for name, tensor in state.items()}


def _plain_name(name: str) -> str:
    """The tensor's name without what data parallelism adds to it, nor the place of a lone layer in a sequence."""
    plain = ".".join(part for part in name.split(".") if part != "module")
    return plain.replace("residual_proj.0.", "residual_proj.")


def _check_values(path: Path, state: Mapping[str, Any]) -> None:
    import torch

    strange, broken = [], []
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor):
            strange.append(f"{name} ({type(tensor).__name__})")
        elif not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.is_meta:
            strange.append(f"{name} ({tensor.layout}, {tensor.dtype})")
        elif not tensor.float().isfinite().all():
            broken.append(name)
    _raise_listed(path, {"not dense tensors of floating-point numbers": strange, "NaN or infinite": broken})


def _family(path: Path, state: Mapping[str, Any]) -> str:
    layers = {name.split(".")[0] for name in state}
    if "classifiers" in layers:
        return CONCAT
    if "residual_proj" in layers:
        return RESIDUAL
    if any(layer.startswith("fuse_") for layer in layers):
        return BILINEAR
    raise InputError(
        f"{path.name}: expected one of the reference's bilinear, residual and concatenation models, "
        f"found tensors {listing(sorted(state))}"
    )


def _check_names(path: Path, family: str, state: State) -> None:
    expected = {f"{layer}.{part}" for layer in LAYERS[family] for part in ("weight", "bias")}
    flat = [
        f"{name} {list(tensor.shape)}"
        for name, tensor in state.items()
        if name in expected and tensor.ndim != (2 if name.endswith(".weight") else 1)
    ]
    problems = {"missing": sorted(expected - state.keys()), "surplus": sorted(state.keys() - expected)}
    _raise_listed(path, problems | {"of a wrong shape": flat}, f" as the {family} model")


def _own_widths(family: str, state: State) -> dict[str, Any]:
    """The widths that only the checkpoint knows, from the outputs of its layers."""

    def out(layer: str) -> int:
        return len(state[f"{layer}.weight"])

    widths: dict[str, Any] = {"bag": out("attention_net.0"), "attention": out("attention_net.3.attention_a.0")}
    widths["rna"] = tuple(out(f"rna_encoder.encoder.{place}") for place in (0, 3, 6))
    if family != CONCAT:
        widths["rank"] = out("fuse_hr.f1")
        widths["pairs"] = tuple(out(f"fuse_{pair}.out") for pair in ("hr", "hc", "rc"))
    if family == RESIDUAL:
        widths["hidden"] = out("residual_proj")
    return widths


def _check_shapes(path: Path, family: str, sizes: "Sizes", state: State) -> None:
    import torch

    from survfuse.fusion import build

    with torch.device("meta"):
        ours = {name: list(tensor.shape) for name, tensor in build(family, sizes).state_dict().items()}
    wrong = []
    for layer, name in LAYERS[family].items():
        for part in ("weight", "bias"):
            found, expected = list(state[f"{layer}.{part}"].shape), ours[f"{name}.{part}"]
            if found != expected:
                wrong.append(f"{layer}.{part} {found} in place of {expected}")
    inputs = f"features of length {sizes.tile}, {count(sizes.genes, 'gene')} and {sizes.clinical} clinical columns"
    _raise_listed(path, {"of a wrong shape": wrong}, f" as the {family} model of {inputs}")


def _raise_listed(path: Path, problems: Mapping[str, Sequence[str]], what: str = "") -> None:
    """Raise InputError with the tensors under each problem that there is; nothing where there is none."""
    found = [f"{problem}: {listing(names)}" for problem, names in problems.items() if names]
    if found:
        raise InputError(f"{path.name}: cannot be read{what}; tensors {'; '.join(found)}")


def _converted(family: str, sizes: "Sizes", state: State, widths: _Widths) -> State:
    """The same network under our names, with columns for missing clinical values that have no weight."""
    state = dict(state)
    if family == CONCAT:
        slide, clinical, rna = state["classifiers.weight"].split([sizes.bag, sizes.clinical, sizes.rna[-1]], dim=1)
        state["classifiers.weight"] = _spread(_joined(slide, rna, clinical), widths)
    else:
        for layer in ("fuse_hc.f2", "fuse_rc.f2", *(["residual_proj"] if family == RESIDUAL else [])):
            state[f"{layer}.weight"] = _spread(state[f"{layer}.weight"], widths)
    # Copies: safetensors refuses tensors that are views of one another's memory, as a checkpoint's may be.
    return {
        f"{ours}.{part}": state[f"{layer}.{part}"].clone()
        for layer, ours in LAYERS[family].items()
        for part in ("weight", "bias")
    }


def _joined(*parts: "Tensor") -> "Tensor":
    import torch

    return torch.cat(parts, dim=1)


def _spread(weight: "Tensor", widths: _Widths) -> "Tensor":
    """Weights [out, … K], the last K of the reference's clinical columns → [out, … C], zeros for those it lacks."""
    before = weight.shape[1] - len(widths.places)
    clinical = weight.new_zeros(len(weight), widths.columns)
    clinical[:, widths.places] = weight[:, before:]
    return _joined(weight[:, :before], clinical)


# Tables


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path}: no such file")


def _genes(path: Path) -> tuple[str, ...]:
    _check_file(path)
    value = read_json(path, InputError)
    if not isinstance(value, list) or not value or not all(isinstance(gene, str) and gene for gene in value):
        raise InputError(f"{path.name}: expected a JSON array of gene symbols")
    if len(set(value)) < len(value):
        twice = next(gene for gene, times in Counter(value).items() if times > 1)
        raise InputError(f"{path.name}: gene {twice[:80]!r} is listed twice")
    return tuple(value)


def _expression(genes: tuple[str, ...]) -> Expression:
    # The mean stands in for an absent gene, for which the reference has 0; any number of them may be absent.
    return Expression(genes, IDENTITY, np.zeros(len(genes)), np.ones(len(genes)), most_missing=1.0)


def _vocabulary(path: Path, trust: bool) -> Vocabulary:
    """The reference's clinical columns, and one for missing each that is inactive."""
    value = _described(path, _unpickled(path, trust)) if _is_pickle(path) else _json_object(path)
    numeric = [Numeric(**entry) for entry in _entries(path, value, "numeric", ("name", "mean", "scale"))]
    categorical = []
    for entry in _entries(path, value, "categorical", ("name", "categories")):
        if not isinstance(entry["categories"], list) or not all(isinstance(c, str) for c in entry["categories"]):
            raise InputError(f"{path.name}: expected an array of strings as categories of {entry['name']}")
        categorical.append(Categorical(entry["name"], tuple(entry["categories"])))
    for number in numeric:
        if not is_number(number.mean) or not is_number(number.scale) or number.scale <= 0.0:
            raise InputError(f"{path.name}: expected a mean and a scale above 0 of {number.name}")
    names = [variable.name for variable in (*numeric, *categorical)]
    if outcomes := sorted(set(names) & set(OUTCOME_KEYS)):
        raise InputError(f"{path.name}: {listing(outcomes)}: an outcome, which no network may be given")
    if len(set(names)) < len(names):
        raise InputError(f"{path.name}: a variable is listed twice")
    vocabulary = Vocabulary(tuple(numeric), tuple(categorical), missing_codes=(), exact=True)
    known = {*(entry.name for entry in numeric)}
    known |= {f"{entry.name}={category}" for entry in categorical for category in entry.categories}
    vocabulary = replace(vocabulary, inactive=frozenset(vocabulary.columns) - known)
    try:
        return Vocabulary.from_json(vocabulary.to_json())
    except BundleError as problem:
        raise _of_file(path, problem) from problem


def _entries(path: Path, value: Mapping[str, Any], key: str, fields: tuple[str, ...]) -> list[dict[str, Any]]:
    """The objects under ``key``, each with exactly ``fields`` and text as its name."""
    entries = value.get(key)
    sound = isinstance(entries, list) and all(
        isinstance(entry, dict) and set(entry) == set(fields) and isinstance(entry["name"], str) for entry in entries
    )
    if not sound:
        raise InputError(f"{path.name}: expected {key!r}, an array of objects with {', '.join(fields)}")
    return entries


def _calibration(path: Path, mode: str, trust: bool) -> Calibration:
    """The reference's table, its risks sorted: a rank among them does not depend on their order."""
    value = _arrays(path, _unpickled(path, trust)) if _is_pickle(path) else _json_object(path)
    numbers = {}
    for name, key in (("times", "km_times"), ("survival", "km_probs"), ("reference_risks", "train_risks")):
        entries = value.get(key)
        if not isinstance(entries, list) or not entries or not all(map(is_number, entries)):
            raise InputError(f"{path.name}: expected {key!r}, an array of finite numbers")
        numbers[name] = entries
    numbers["reference_risks"] = sorted(numbers["reference_risks"])
    try:
        return Calibration.from_json({"mode": mode, **numbers})
    except BundleError as problem:
        raise _of_file(path, problem) from problem


def _of_file(path: Path, problem: BundleError) -> InputError:
    """A table's complaint, with the name of the user's file in place of the bundle's."""
    return InputError(f"{path.name}: {str(problem).partition(': ')[2]}")


def _json_object(path: Path) -> dict[str, Any]:
    _check_file(path)
    return read_object(path, InputError)


# Pickles


def _is_pickle(path: Path) -> bool:
    """By its suffix, or by the mark that begins a pickle and cannot begin JSON."""
    _check_file(path)
    with path.open("rb") as file:
        return path.suffix.lower() in _PICKLES or file.read(1) == b"\x80"


def _unpickled(path: Path, trust: bool) -> Any:
    """What joblib finds in a pickle; raises InputError unless the user trusts it."""
    if not trust:
        raise InputError(
            f"{path.name}: a pickle, and reading one can run any code that its author put there; "
            "give the table as JSON, or pass --trust-pickles if you trust where the file comes from"
        )
    warn(f"{path.name}: reading a pickle, which can run any code, because --trust-pickles vouches for it")
    try:
        import joblib
        import sklearn  # noqa: F401  (what the pickles hold; without it joblib fails in many ways)
    except ImportError as cause:
        raise InputError(f"{path.name}: reading it takes scikit-learn, from survfuse's train extra") from cause
    try:
        return joblib.load(path)
    except Exception as cause:
        # Arbitrary bytes make an unpickler fail in any way. A failing machine is another matter.
        if isinstance(named(cause), EnvironmentFailure):
            raise
        raise InputError(
            f"{path.name}: cannot be read as a pickle ({type(cause).__name__}: {str(cause)[:200]})"
        ) from cause


def _described(path: Path, value: Any) -> dict[str, Any]:
    """The reference's preprocessor, (numeric names, categorical names, ColumnTransformer), as its JSON form.

    Raises InputError for anything that computes other columns than standardised numbers followed by one-hot ones.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    if not isinstance(value, tuple | list) or len(value) != 3 or not isinstance(value[2], ColumnTransformer):
        raise InputError(f"{path.name}: expected (numeric names, categorical names, ColumnTransformer)")
    numeric, categorical = (_names(path, names) for names in value[:2])
    steps = [step for step in getattr(value[2], "transformers_", ()) if not _dropped(step[1])]
    expected = [("num", StandardScaler, numeric), ("cat", OneHotEncoder, categorical)]
    fits = len(steps) == 2 and value[2].transformer_weights is None
    for (name, step, columns), (label, kind, names) in zip(steps, expected, strict=False):
        fits = fits and name == label and type(step) is kind and _names(path, columns) == names
    if not fits:
        raise InputError(
            f"{path.name}: expected a fitted StandardScaler 'num' and a OneHotEncoder 'cat', in this order"
        )
    (_, scaler, _), (_, encoder, _) = steps
    return {
        "numeric": [
            {"name": name, "mean": mean, "scale": scale}
            for name, mean, scale in zip(numeric, *_statistics(path, scaler, len(numeric)), strict=True)
        ],
        "categorical": [
            {"name": name, "categories": categories}
            for name, categories in zip(categorical, _categories(path, encoder, len(categorical)), strict=True)
        ],
    }


def _dropped(step: Any) -> bool:
    return isinstance(step, str) and step == "drop"


def _names(path: Path, value: Any) -> list[str]:
    names = list(value) if isinstance(value, list | tuple | np.ndarray) or hasattr(value, "tolist") else [None]
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"{path.name}: expected columns by name")
    return [str(name) for name in names]


def _statistics(path: Path, scaler: Any, length: int) -> tuple[list[float], list[float]]:
    """(means, scales) of a StandardScaler that uses both."""
    found = [getattr(scaler, name, None) for name in ("mean_", "scale_")]
    # A scaler told to use no mean keeps one all the same.
    uses_both = scaler.with_mean and scaler.with_std
    if not uses_both or not all(isinstance(n, np.ndarray) and n.shape == (length,) for n in found):
        raise InputError(f"{path.name}: expected a mean and a scale for each of {count(length, 'number')}")
    means, scales = (numbers.astype(np.float64).tolist() for numbers in found)
    return means, scales


def _categories(path: Path, encoder: Any, length: int) -> list[list[Any]]:
    """The categories of each variable, from a OneHotEncoder with a column for every one and zeros for others."""
    found = getattr(encoder, "categories_", ())
    # Attributes that a release of scikit-learn did not know yet are absent from its pickles.
    plain = all(getattr(encoder, name, None) is None for name in ("drop_idx_", "min_frequency", "max_categories"))
    if encoder.handle_unknown != "ignore" or not plain or len(found) != length:
        raise InputError(f"{path.name}: expected a column for every category, and unknown ones ignored")
    return [np.asarray(categories).tolist() for categories in found]


def _arrays(path: Path, value: Any) -> dict[str, Any]:
    """The arrays of the reference's calibration as lists."""
    if not isinstance(value, Mapping):
        found = type(value).__name__
        raise InputError(f"{path.name}: expected km_times, km_probs and train_risks by name, found {found}")
    try:
        return {str(name): np.asarray(numbers).tolist() for name, numbers in value.items()}
    except ValueError as cause:  # rows of unequal length
        raise InputError(f"{path.name}: expected arrays ({cause})") from cause
