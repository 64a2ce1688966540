"""Checkpoints of the reference → weights under this project's names."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from survfuse.inputs.clinical import Vocabulary
from survfuse.networks.families import shapes
from survfuse.networks.sizes import Sizes
from survfuse.runtime.errors import InputError
from survfuse.runtime.files import check_file
from survfuse.runtime.log import count, listing
from survfuse.runtime.tensors import load_torch

BILINEAR, RESIDUAL, CONCAT = "bilinear", "bilinear-residual", "concat"
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

State = dict[str, Tensor]


@dataclass(frozen=True)
class Widths:
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


def recognised(path: Path, widths: Widths) -> tuple[str, Sizes]:
    """Family and sizes of a checkpoint's network in this project, every tensor of it checked."""
    family, sizes, _ = _checked(path, widths)
    return family, replace(sizes, clinical=widths.columns)


def states(checkpoints: Sequence[Path], widths: Widths) -> Iterator[State]:
    """Each member's weights; read anew, so that one network at a time is held."""
    for path in checkpoints:
        family, sizes, state = _checked(path, widths)
        yield _converted(family, sizes, state, widths)


def _checked(path: Path, widths: Widths) -> tuple[str, Sizes, State]:
    """Family, sizes (``clinical`` is the reference's K) and tensors; raises InputError that lists what is wrong."""
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
    check_file(path, InputError)
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


def _check_shapes(path: Path, family: str, sizes: Sizes, state: State) -> None:
    ours = shapes(family, sizes)
    wrong = []
    for layer, name in LAYERS[family].items():
        for part in ("weight", "bias"):
            found, expected = list(state[f"{layer}.{part}"].shape), list(ours[f"{name}.{part}"])
            if found != expected:
                wrong.append(f"{layer}.{part} {found} in place of {expected}")
    inputs = f"features of length {sizes.tile}, {count(sizes.genes, 'gene')} and {sizes.clinical} clinical columns"
    _raise_listed(path, {"of a wrong shape": wrong}, f" as the {family} model of {inputs}")


def _raise_listed(path: Path, problems: Mapping[str, Sequence[str]], what: str = "") -> None:
    """Raise InputError with the tensors under each problem that there is; nothing where there is none."""
    found = [f"{problem}: {listing(names)}" for problem, names in problems.items() if names]
    if found:
        raise InputError(f"{path.name}: cannot be read{what}; tensors {'; '.join(found)}")


def _converted(family: str, sizes: Sizes, state: State, widths: Widths) -> State:
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


def _joined(*parts: Tensor) -> Tensor:
    return torch.cat(parts, dim=1)


def _spread(weight: Tensor, widths: Widths) -> Tensor:
    """Weights [out, … K], the last K of the reference's clinical columns → [out, … C], zeros for those it lacks."""
    before = weight.shape[1] - len(widths.places)
    clinical = weight.new_zeros(len(weight), widths.columns)
    clinical[:, widths.places] = weight[:, before:]
    return _joined(weight[:, :before], clinical)
