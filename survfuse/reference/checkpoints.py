"""Checkpoints of the reference → weights under this project's names."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from survfuse.inputs.clinical import Vocabulary
from survfuse.networks.build import shapes
from survfuse.networks.families import BILINEAR, CONCAT, RESIDUAL, families_of
from survfuse.networks.sizes import Sizes
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import count, listing
from survfuse.runtime.suggestions import check_is_file
from survfuse.runtime.tensors import State
from survfuse.runtime.torch_files import load_torch

MODALITIES = ("slide", "rna", "clinical")  # of the reference's networks
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
_LAYERS = {
    BILINEAR: _ENCODERS | _PAIRS | {"classifier": "risk"},
    RESIDUAL: _ENCODERS | _PAIRS | {"residual_proj": "residual", "classifier": "risk"},
    CONCAT: _ENCODERS | {"classifiers": "risk"},
}
# The keys under which training scripts keep a state_dict, together with epoch and optimiser.
_WRAPPERS = ("state_dict", "model_state_dict", "model")


@dataclass(frozen=True)
class Inputs:
    """The widths of the networks' inputs, as the tables and the encoder state them."""

    tile: int  # D of a tile's features
    genes: int
    vocabulary: Vocabulary

    @property
    def places(self) -> list[int]:
        """Where the reference's K clinical columns are among our C, which have one more for each missing variable."""
        inactive = self.vocabulary.inactive
        return [place for place, column in enumerate(self.vocabulary.columns) if column not in inactive]

    @property
    def columns(self) -> int:
        """C, the number of our clinical columns."""
        return len(self.vocabulary.columns)


def family_and_sizes(path: Path, inputs: Inputs) -> tuple[str, Sizes]:
    """The family and sizes, in this project, of a checkpoint's network.

    Raises InputError, listing what is wrong, unless every tensor is there, finite and of the right shape.
    """
    family, sizes, _ = _checked(path, inputs)
    return family, replace(sizes, clinical=inputs.columns)


def converted_states(checkpoints: Sequence[Path], inputs: Inputs) -> Iterator[State]:
    """The weights of each checkpoint under our names, read one after the other so that only one is held."""
    for path in checkpoints:
        family, sizes, state = _checked(path, inputs)
        yield _converted(family, sizes, state, inputs)


def _checked(path: Path, inputs: Inputs) -> tuple[str, Sizes, State]:
    """Family, sizes (``clinical`` is the reference's K) and tensors; raises InputError that lists what is wrong."""
    state = _read_checkpoint(path)
    family = _family(path, state)
    _check_names(path, family, state)
    try:
        sizes = _sizes(family, state, inputs)
    except ValueError as cause:
        raise InputError(f"{path.name}: {cause}") from cause
    _check_shapes(path, family, sizes, state)
    return family, sizes, state


def _read_checkpoint(path: Path) -> State:
    """Tensors by name, in float32; "module" is dropped from the names."""
    check_is_file(path)
    content = load_torch(path, InputError)
    if isinstance(content, Mapping):
        content = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), content)
    state: State = {}
    strange, broken = [], []
    for name, value in _plainly_named(path, content).items():
        if not isinstance(value, Tensor):
            strange.append(f"{name} ({type(value).__name__})")
        elif not value.is_floating_point() or value.layout != torch.strided or value.is_meta:
            strange.append(f"{name} ({value.layout}, {value.dtype})")
        elif not value.float().isfinite().all():
            broken.append(name)
        else:
            state[name] = value.detach().float()
    _raise_listed(path, {"not dense tensors of floating-point numbers": strange, "NaN or infinite": broken})
    return state


def _plainly_named(path: Path, content: object) -> dict[str, object]:
    """The entries of a state_dict by their plain names; raises InputError if there is none, or two share a name."""
    named: dict[str, object] = {}
    for name, value in content.items() if isinstance(content, Mapping) else ():
        plain = _plain_name(str(name))
        if plain in named:
            raise InputError(f"{path.name}: two tensors are named {plain} after module is dropped")
        named[plain] = value
    if not named:
        raise InputError(f"{path.name}: expected tensors by name, a state_dict, found {type(content).__name__}")
    return named


def _plain_name(name: str) -> str:
    """A tensor's name without what data parallelism adds to it, or the number of a lone layer in a sequence."""
    plain = ".".join(part for part in name.split(".") if part != "module")
    return plain.replace("residual_proj.0.", "residual_proj.")


def _family(path: Path, state: State) -> str:
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
    expected = {f"{layer}.{part}" for layer in _LAYERS[family] for part in ("weight", "bias")}
    flat = [
        f"{name} {list(tensor.shape)}"
        for name, tensor in state.items()
        if name in expected and tensor.ndim != (2 if name.endswith(".weight") else 1)
    ]
    problems = {"missing": sorted(expected - state.keys()), "surplus": sorted(state.keys() - expected)}
    _raise_listed(path, problems | {"of a wrong shape": flat}, f" as the {family} model")


def _sizes(family: str, state: State, inputs: Inputs) -> Sizes:
    """Sizes with the inputs' widths, and those that only the checkpoint knows: the outputs of its layers."""

    def out(layer: str) -> int:
        return len(state[f"{layer}.weight"])

    sizes = Sizes(
        tile=inputs.tile,
        genes=inputs.genes,
        clinical=len(inputs.places),
        bag=out("attention_net.0"),
        attention=out("attention_net.3.attention_a.0"),
        rna=tuple(out(f"rna_encoder.encoder.{place}") for place in (0, 3, 6)),
    )
    if family != CONCAT:
        pairs = tuple(out(f"fuse_{pair}.out") for pair in ("hr", "hc", "rc"))
        sizes = replace(sizes, rank=out("fuse_hr.f1"), pairs=pairs)
    if family == RESIDUAL:
        sizes = replace(sizes, hidden=out("residual_proj"))
    return sizes


def _check_shapes(path: Path, family: str, sizes: Sizes, state: State) -> None:
    ours = shapes(families_of(MODALITIES)[family], sizes)
    wrong = []
    for layer, name in _LAYERS[family].items():
        for part in ("weight", "bias"):
            shape, expected = list(state[f"{layer}.{part}"].shape), list(ours[f"{name}.{part}"])
            if shape != expected:
                wrong.append(f"{layer}.{part} {shape} in place of {expected}")
    inputs = f"features of length {sizes.tile}, {count(sizes.genes, 'gene')} and {sizes.clinical} clinical columns"
    _raise_listed(path, {"of a wrong shape": wrong}, f" as the {family} model of {inputs}")


def _raise_listed(path: Path, problems: Mapping[str, Sequence[str]], what: str = "") -> None:
    """Raise InputError with the tensors that have each of the ``problems``; nothing if no tensor has any."""
    listed = [f"{problem}: {listing(names)}" for problem, names in problems.items() if names]
    if listed:
        raise InputError(f"{path.name}: cannot be read{what}; tensors {'; '.join(listed)}")


def _converted(family: str, sizes: Sizes, state: State, inputs: Inputs) -> State:
    """The same network under our names; its columns for missing clinical values have no weight."""
    state = dict(state)
    if family == CONCAT:
        # Theirs is [M, c, r], ours [M, r, c].
        slide, clinical, rna = state["classifiers.weight"].split([sizes.bag, sizes.clinical, sizes.rna[-1]], dim=1)
        state["classifiers.weight"] = _with_missing_columns(torch.cat([slide, rna, clinical], dim=1), inputs)
    else:
        for layer in ("fuse_hc.f2", "fuse_rc.f2", *(["residual_proj"] if family == RESIDUAL else [])):
            state[f"{layer}.weight"] = _with_missing_columns(state[f"{layer}.weight"], inputs)
    # Copies: safetensors refuses tensors that share memory, as a checkpoint's may.
    return {
        f"{ours}.{part}": state[f"{layer}.{part}"].clone()
        for layer, ours in _LAYERS[family].items()
        for part in ("weight", "bias")
    }


def _with_missing_columns(weight: Tensor, inputs: Inputs) -> Tensor:
    """Weights [out, … K], the last K for the reference's clinical columns → [out, … C], 0 for those that it lacks."""
    before = weight.shape[1] - len(inputs.places)
    clinical = weight.new_zeros(len(weight), inputs.columns)
    clinical[:, inputs.places] = weight[:, before:]
    return torch.cat([weight[:, :before], clinical], dim=1)
