"""The kinds of network by name."""

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from survfuse.networks.cox import ClinicalCox, LinearCox, RnaClinicalCox, RnaCox, SlideCox
from survfuse.networks.fusion import (
    BilinearFusion,
    BilinearResidual,
    Concat,
    Hierarchical,
    LowRankTensor,
    Network,
    RnaAlone,
    RnaClinical,
    SlideAlone,
    SlideClinical,
    SlideRna,
    TensorFusion,
)
from survfuse.networks.sizes import Sizes
from survfuse.runtime.tensors import shapes_only

_NETWORKS: tuple[type[Network], ...] = (
    BilinearFusion,
    BilinearResidual,
    Concat,
    TensorFusion,
    LowRankTensor,
    Hierarchical,
    SlideAlone,
    RnaAlone,
    ClinicalCox,
    SlideRna,
    SlideClinical,
    RnaClinical,
    RnaCox,
    SlideCox,
    RnaClinicalCox,
    LinearCox,
)
FAMILIES: dict[str, type[Network]] = {network.family: network for network in _NETWORKS}


def build(family: str, sizes: Sizes) -> Network:
    """An untrained network of ``family``; raises KeyError for a family that is not in FAMILIES."""
    return FAMILIES[family](sizes)


@cache
def shapes(family: str, sizes: Sizes) -> Mapping[str, torch.Size]:
    """Shape of each tensor of a network's state by name; members of one family and size share them."""
    with shapes_only():
        return {name: tensor.shape for name, tensor in build(family, sizes).state_dict().items()}


def build_with(family: str, sizes: Sizes, state: Mapping[str, Tensor]) -> Network:
    """A network that infers with the weights ``state``, which are not copied: mapped from a file, they stay there.

    Raises RuntimeError where the names or shapes are not the family's.
    """
    with shapes_only():
        network = build(family, sizes)
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval().requires_grad_(False)
