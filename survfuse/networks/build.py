"""Networks of a family: made, described by their tensors' shapes, or made around given weights."""

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from survfuse.networks import families
from survfuse.networks.cox import LinearCox
from survfuse.networks.families import Family
from survfuse.networks.fusion import (
    BilinearFusion,
    BilinearResidual,
    Concat,
    Hierarchical,
    LowRankTensor,
    TensorFusion,
)
from survfuse.networks.network import Network
from survfuse.networks.sizes import Sizes
from survfuse.runtime.tensors import freeze, shapes_only

_CLASSES: Mapping[str, type[Network]] = {
    families.BILINEAR: BilinearFusion,
    families.RESIDUAL: BilinearResidual,
    families.CONCAT: Concat,
    families.TENSOR: TensorFusion,
    families.LOW_RANK_TENSOR: LowRankTensor,
    families.HIERARCHICAL: Hierarchical,
    families.COX: LinearCox,
}


def build(family: Family, sizes: Sizes) -> Network:
    """An untrained network of ``family``."""
    return _CLASSES[family.fusion](family, sizes)


@cache
def shapes(family: Family, sizes: Sizes) -> Mapping[str, torch.Size]:
    """Shape of each tensor of a network's state by name; members of one family and size share them."""
    with shapes_only():
        return {name: tensor.shape for name, tensor in build(family, sizes).state_dict().items()}


def build_with(family: Family, sizes: Sizes, state: Mapping[str, Tensor]) -> Network:
    """A network for inference with the weights ``state``, which are not copied: mapped from a file, they stay there.

    Raises RuntimeError if their names or shapes are not the family's.
    """
    with shapes_only():
        network = build(family, sizes)
    network.load_state_dict(state, strict=True, assign=True)
    freeze(network)
    return network.eval()
