"""A bag pooled in parts: the online softmax.

The softmax's sums are carried along, scaled to the highest score so far (Milakov and Gimelshein 2018), so that a larger
bag needs no more memory than one score per tile.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from survfuse.networks.attention import GatedAttention


class Pool:
    """One bag's vector from its tiles in parts; no more than one part is held at a time."""

    def add(self, tiles: Tensor) -> None:
        """Take the next tiles [n, tile]."""
        raise NotImplementedError

    def result(self) -> tuple[Tensor, Tensor]:
        """Slide vector [1, width] and attention [1, N] of all tiles so far, in float32 at least, on the CPU."""
        raise NotImplementedError

    def along(self, tiles: Tensor, direction: Tensor) -> Tensor:
        """direction · z_n of tiles [n, tile], for ``direction`` [width] in float64: [n] in float64, on the CPU.

        z_n are the vectors of which the slide's vector is the mean, weighted by attention.
        """
        raise NotImplementedError

    def add_each(self, others: "Sequence[Pool]", bags: Sequence[Tensor]) -> None:
        """Take the next tiles of this network's bags of several cases, of which this one is the first."""
        for pool, tiles in zip((self, *others), bags, strict=True):
            pool.add(tiles)


Pooling = Callable[[int], Pool]  # makes an empty bag for so many tiles


class GatedPool(Pool):
    """GatedAttention's vector. Sums have the score's precision, float32, whatever that of the layers."""

    def __init__(self, bag: GatedAttention, tiles: int) -> None:
        self._bag = bag
        dtype, device = bag.score.weight.dtype, bag.score.weight.device
        # Allocated once. If each part's scores were kept as they come, they would lie between the large activations
        # that are freed around them, and the allocator could not reuse those gaps for anything large.
        self._scores = torch.empty(tiles, dtype=dtype, device=device)
        self._seen = 0
        self._highest = torch.full((), float("-inf"), dtype=dtype, device=device)
        self._weight = torch.zeros((), dtype=dtype, device=device)  # Σ exp(a − highest)
        self._sum = torch.zeros(bag.project.out_features, dtype=dtype, device=device)  # Σ exp(a − highest) z

    def add(self, tiles: Tensor) -> None:
        """Take the next tiles [n, tile]."""
        self._add(*self._bag.gated(tiles.to(self._bag.project.weight.dtype)))

    def add_each(self, others: Sequence[Pool], bags: Sequence[Tensor]) -> None:
        """As ``Pool.add_each``, the layers over tiles once for all: each reads its weights once, not for every case."""
        lengths = [len(tiles) for tiles in bags]
        z, gate = self._bag.gated(torch.cat([tiles.to(self._bag.project.weight.dtype) for tiles in bags]))
        parts = zip((self, *others), z.split(lengths), gate.split(lengths), strict=True)
        for pool, own_z, own_gate in parts:
            assert isinstance(pool, GatedPool)
            pool._add(own_z, own_gate)

    def _add(self, z: Tensor, gate: Tensor) -> None:
        scores = self._bag.scores(gate)
        highest = torch.maximum(scores.max(), self._highest)
        shrunk, weights = torch.exp(self._highest - highest), torch.exp(scores - highest)
        self._weight = self._weight * shrunk + weights.sum()
        self._sum = self._sum * shrunk + weights @ z.to(weights.dtype)
        self._highest = highest
        self._scores[self._seen : self._seen + len(scores)] = scores
        self._seen += len(scores)

    def result(self) -> tuple[Tensor, Tensor]:
        """Slide vector [1, bag] and attention [1, N]."""
        attention = torch.exp(self._scores - self._highest) / self._weight
        return (self._sum / self._weight).cpu().unsqueeze(0), attention.cpu().unsqueeze(0)

    def along(self, tiles: Tensor, direction: Tensor) -> Tensor:
        """direction · z_n of tiles [n, tile]: [n]."""
        z = self._bag.vectors(tiles.to(self._bag.project.weight.dtype))
        return (z.double() @ direction.to(z.device)).cpu()
