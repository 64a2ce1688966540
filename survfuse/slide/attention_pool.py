"""A vision transformer whose tokens are pooled by attention, as CONCH v1.5 does it."""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

_HEADS = 8


class AttentionPooled(nn.Module):
    """A tile's features: what one learnt query attends to among the tokens of ``trunk`` (CoCa, Yu et al. 2022).

    ``trunk`` gives tokens [N, T, width], the class token among them; the features are [N, dimension]. Layers, heads and
    the order of normalisations are those of the authors' code (github.com/mahmoodlab/TRIDENT, conchv1_5.py).
    """

    def __init__(self, trunk: nn.Module, dimension: int) -> None:
        """``trunk`` is a vision transformer of timm without pooling."""
        super().__init__()
        width = trunk.get_parameter("cls_token").shape[-1]
        self.trunk = trunk
        self.query = nn.Parameter(torch.zeros(1, dimension))
        self.norm_query, self.norm_tokens = nn.LayerNorm(dimension), nn.LayerNorm(width)
        self.to_query = nn.Linear(dimension, dimension, bias=False)
        self.to_keys_values = nn.Linear(width, 2 * dimension, bias=False)
        self.to_output = nn.Linear(dimension, dimension, bias=False)
        self.norm_output = nn.LayerNorm(dimension)

    def forward(self, pixels: Tensor) -> Tensor:
        """Features [N, dimension] of normalised tiles [N, 3, side, side]."""
        tokens: Tensor = self.trunk(pixels)
        query = self.to_query(self.norm_query(self.query)).expand(len(tokens), 1, -1)
        keys, values = self.to_keys_values(self.norm_tokens(tokens)).chunk(2, dim=-1)
        heads = [part.unflatten(-1, (_HEADS, -1)).transpose(1, 2) for part in (query, keys, values)]
        attended = scaled_dot_product_attention(*heads)  # [N, heads, 1, dimension / heads]
        features: Tensor = self.norm_output(self.to_output(attended.flatten(1)))
        return features
