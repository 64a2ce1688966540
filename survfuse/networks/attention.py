"""Gated-attention multiple-instance learning: a bag of tile features to one vector."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from survfuse.networks.sizes import Sizes

Keep = Mapping[str, Tensor]  # what dropout leaves: one mask for each name that a network's ``dropout`` gives


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
        z, scores = self.scored(tiles, keep)
        if present is not None:
            scores = scores.masked_fill(~present, float("-inf"))
        attention = torch.softmax(scores, dim=-1)
        return (attention.unsqueeze(-2) @ z).squeeze(-2), attention

    def scored(self, tiles: Tensor, keep: Keep | None = None) -> tuple[Tensor, Tensor]:
        """tiles [..., N, tile] → z [..., N, bag] and the scores a [..., N] that the softmax makes attention of."""
        z = drop(torch.relu(self.project(tiles)), keep, "bag", self.rate)
        gate = torch.tanh(self.tanh_branch(z)) * torch.sigmoid(self.sigmoid_branch(z))
        # Dropout on both branches is dropout of their product, where either was dropped.
        gate = drop(gate, keep, "gate", union_rate(self.rate))
        return z, self.score(gate.to(self.score.weight.dtype)).squeeze(-1)

    def halve(self) -> None:
        """Let matrix products run in fp16, summed in fp32 where the device does so; scores stay in float32."""
        for layer in (self.project, self.tanh_branch, self.sigmoid_branch):
            layer.half()


class Pool:
    """One bag's vector from its tiles in parts, so that no more of a bag than a part is ever in work."""

    def add(self, tiles: Tensor) -> None:
        """The next tiles [n, tile]."""
        raise NotImplementedError

    def result(self) -> tuple[Tensor, Tensor]:
        """Slide vector [1, width] and attention [1, N] of all tiles so far, in float32 at least, on the CPU."""
        raise NotImplementedError


class GatedPool(Pool):
    """GatedAttention's vector; the softmax's sums are carried along, scaled to the highest score so far (online
    softmax, Milakov and Gimelshein 2018). Sums are of the score's precision, float32, whatever the layers have."""

    def __init__(self, bag: GatedAttention, tiles: int) -> None:
        self._bag = bag
        # Made once. A part's scores kept as they come would each lie between the large activations that are freed
        # around them, and an allocator can give such gaps to nothing large again.
        self._scores = torch.empty(tiles, dtype=bag.score.weight.dtype, device=bag.score.weight.device)
        self._seen = 0
        self._highest: Tensor | float = float("-inf")
        self._weight: Tensor | float = 0.0  # Σ exp(a − highest)
        self._sum: Tensor | float = 0.0  # Σ exp(a − highest) z, [bag]

    def add(self, tiles: Tensor) -> None:
        z, scores = self._bag.scored(tiles.to(self._bag.project.weight.dtype))
        highest = torch.maximum(scores.max(), torch.as_tensor(self._highest, dtype=scores.dtype, device=scores.device))
        shrunk, weights = torch.exp(self._highest - highest), torch.exp(scores - highest)
        self._weight = self._weight * shrunk + weights.sum()
        self._sum = self._sum * shrunk + weights @ z.to(weights.dtype)
        self._highest = highest
        self._scores[self._seen : self._seen + len(scores)] = scores
        self._seen += len(scores)

    def result(self) -> tuple[Tensor, Tensor]:
        attention = torch.exp(self._scores - self._highest) / self._weight
        return (self._sum / self._weight).cpu().unsqueeze(0), attention.cpu().unsqueeze(0)
