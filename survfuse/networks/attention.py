"""Gated-attention multiple-instance learning: a bag of tile features to one vector."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from survfuse.networks.sizes import Sizes

Keep = Mapping[str, Tensor]  # what dropout keeps: one mask for each name that a network's ``dropout`` gives


def drop(x: Tensor, keep: Keep | None, name: str, rate: float) -> Tensor:
    """Dropout by a given mask, or none at all."""
    return x if keep is None else x * (keep[name] * (1.0 / (1.0 - rate)))


def union_rate(rate: float) -> float:
    """The chance that one of two independent masks drops."""
    return 1.0 - (1.0 - rate) ** 2


class GatedAttention(nn.Module):
    """A bag of tile features → one vector (Ilse et al. 2018, gated variant).

    z_n = ReLU(W0 h_n);  a_n = w · (tanh(V z_n) ⊙ sigmoid(U z_n));  M = Σ_n softmax(a)_n z_n
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.rate = sizes.dropout
        self.project = nn.Linear(sizes.tile, sizes.bag)
        self.tanh_branch = nn.Linear(sizes.bag, sizes.attention)
        self.sigmoid_branch = nn.Linear(sizes.bag, sizes.attention)
        self.score = nn.Linear(sizes.attention, 1)

    def forward(self, tiles: Tensor, present: Tensor | None, keep: Keep | None) -> tuple[Tensor, Tensor]:
        """tiles [B, N, tile], present [B, N] or None for all → slide vector [B, bag], attention [B, N]."""
        z, gate = self.gated(tiles, keep)
        scores = self.scores(gate)
        if present is not None:
            scores = scores.masked_fill(~present, float("-inf"))
        attention = torch.softmax(scores, dim=-1)
        return (attention.unsqueeze(-2) @ z).squeeze(-2), attention

    def gated(self, tiles: Tensor, keep: Keep | None = None) -> tuple[Tensor, Tensor]:
        """tiles [..., N, tile] → z [..., N, bag] and the gates [..., N, attention] that the scores are made of."""
        z = drop(self.vectors(tiles), keep, "bag", self.rate)
        gate = torch.tanh(self.tanh_branch(z)) * torch.sigmoid(self.sigmoid_branch(z))
        # Dropout on both branches equals dropout of their product at every place that either drops.
        return z, drop(gate, keep, "gate", union_rate(self.rate))

    def vectors(self, tiles: Tensor) -> Tensor:
        """tiles [..., tile] → z [..., bag]."""
        return torch.relu(self.project(tiles))

    def scores(self, gate: Tensor) -> Tensor:
        """Gates [..., N, attention] → scores [..., N], in the precision of the last layer."""
        scores: Tensor = self.score(gate.to(self.score.weight.dtype)).squeeze(-1)
        return scores

    def use_half_precision(self) -> None:
        """Let matrix products run in fp16, summed in fp32 if the device does so; scores stay in float32."""
        for layer in (self.project, self.tanh_branch, self.sigmoid_branch):
            layer.half()
