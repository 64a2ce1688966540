"""Networks that fuse the modalities' vectors: by concatenation, in pairs, as one tensor, or level by level.

Each class is one way of fusing; which modalities it fuses is the family's choice (``families``).
"""

from collections.abc import Mapping
from itertools import combinations
from math import prod
from string import ascii_lowercase

import torch
from torch import Tensor, nn

from survfuse.networks.network import Network, read_out
from survfuse.networks.sizes import Sizes
from survfuse.networks.terms import Term
from survfuse.tasks.modalities import all_pairs


class LowRankBilinear(nn.Module):
    """B(u, v) = O(P u ⊙ Q v): a bilinear form of low rank (Liu et al. 2018)."""

    def __init__(self, first: int, second: int, rank: int, out: int) -> None:
        super().__init__()
        self.first = nn.Linear(first, rank)
        self.second = nn.Linear(second, rank)
        self.out = nn.Linear(rank, out)

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        """u [B, first], v [B, second] → [B, out]."""
        form: Tensor = self.out(self.first(u) * self.second(v))
        return form


class Concat(Network):
    """risk = w · [M, r, c] + b."""

    @property
    def terms(self) -> tuple[Term, ...]:
        """One for each modality."""
        return tuple(Term((modality,)) for modality in self.modalities)

    def _build_fusion(self, sizes: Sizes) -> None:
        self.risk = nn.Linear(sum(sizes.width(modality) for modality in self.modalities), 1)

    def _fuse(self, vectors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return read_out(list(vectors.values()), self.risk)


class BilinearFusion(Network):
    """The paper's bilinear model: risk = w · [B(M, r), B(M, c), B(r, c)] + b, for the pairs of its modalities."""

    @property
    def terms(self) -> tuple[Term, ...]:
        """One for each pair."""
        return tuple(Term(pair) for pair in all_pairs(self.modalities))

    def _build_fusion(self, sizes: Sizes) -> None:
        self.risk = nn.Linear(sum(self._build_pairs(sizes)), 1)

    def _build_pairs(self, sizes: Sizes) -> list[int]:
        """Make the pairs' bilinear forms; returns their widths."""
        self.pairs = all_pairs(self.modalities)
        task_pairs = all_pairs(self.family.task_modalities)
        widths = [sizes.pairs[task_pairs.index(pair)] for pair in self.pairs]
        for (first, second), width in zip(self.pairs, widths, strict=True):
            form = LowRankBilinear(sizes.width(first), sizes.width(second), sizes.rank, width)
            self.add_module(f"{first}_{second}", form)
        return widths

    def _paired(self, vectors: Mapping[str, Tensor]) -> list[Tensor]:
        return [self.get_submodule(f"{a}_{b}")(vectors[a], vectors[b]) for a, b in self.pairs]

    def _fuse(self, vectors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return read_out(self._paired(vectors), self.risk)


class BilinearResidual(BilinearFusion):
    """The bilinear model with ReLU(W [M, r, c]) in addition to its pairs."""

    @property
    def terms(self) -> tuple[Term, ...]:
        """One for each pair, and the residual branch."""
        return (*super().terms, Term(self.modalities, "residual"))

    def _build_fusion(self, sizes: Sizes) -> None:
        width = sum(self._build_pairs(sizes))
        self.residual = nn.Linear(sum(sizes.width(modality) for modality in self.modalities), sizes.hidden)
        self.risk = nn.Linear(width + sizes.hidden, 1)

    def _fuse(self, vectors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        residual = torch.relu(self.residual(torch.cat(list(vectors.values()), dim=-1)))
        return read_out([*self._paired(vectors), residual], self.risk)


class TensorFusion(Network):
    """Full outer product with appended ones, then a perceptron (Zadeh et al. 2017, Tensor Fusion Network).

    [m; 1] ⊗ [s; 1] ⊗ [c; 1] with m = ReLU(W M) and s = ReLU(W r); two hidden layers with ReLU; w · + b. The ones keep
    each vector and each pair in addition to the product of all three. The few clinical variables enter as they are.
    """

    @property
    def terms(self) -> tuple[Term, ...]:
        """One, of all modalities."""
        return (Term(self.modalities),)

    def _build_fusion(self, sizes: Sizes) -> None:
        embedded = [modality for modality in self.modalities if modality != "clinical"]
        for modality in embedded:
            self.add_module(f"{modality}_embedding", nn.Linear(sizes.width(modality), sizes.embedding))
        widths = [sizes.embedding if modality in embedded else sizes.clinical for modality in self.modalities]
        entries = prod(width + 1 for width in widths)
        self.hidden = nn.ModuleList([nn.Linear(entries, sizes.hidden), nn.Linear(sizes.hidden, sizes.hidden)])
        self.risk = nn.Linear(sizes.hidden, 1)

    def outer(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """The outer product [B, width + 1, …], one dimension for each modality."""
        factors = [_with_one(self._embedded(modality, vectors[modality])) for modality in self.modalities]
        axes = ascii_lowercase[: len(factors)]
        return torch.einsum(f"{','.join(f'z{axis}' for axis in axes)}->z{axes}", *factors)

    def _embedded(self, modality: str, vector: Tensor) -> Tensor:
        if modality == "clinical":
            return vector
        return torch.relu(self.get_submodule(f"{modality}_embedding")(vector))

    def _fuse(self, vectors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        fused = self.outer(vectors).flatten(1)
        for layer in self.hidden:
            fused = torch.relu(layer(fused))
        return read_out([fused], self.risk)


class LowRankTensor(Network):
    """The outer product of [M; 1], [r; 1], [c; 1] against a weight of low rank (Liu et al. 2018).

    h = Σ_i (U_i [M; 1]) ⊙ (V_i [r; 1]) ⊙ (W_i [c; 1]) + b over ``factors`` i, which equals the full product times
    Σ_i U_i ⊗ V_i ⊗ W_i; risk = w · h + b.
    """

    @property
    def terms(self) -> tuple[Term, ...]:
        """One, of all modalities."""
        return (Term(self.modalities),)

    def _build_fusion(self, sizes: Sizes) -> None:
        # A bias in the factor is its weight of the appended one.
        width = sizes.factors * sizes.fused
        self.factors = nn.ModuleDict({name: nn.Linear(sizes.width(name), width) for name in self.modalities})
        self.offset = nn.Parameter(torch.zeros(sizes.fused))
        self.risk = nn.Linear(sizes.fused, 1)

    def _reset(self) -> None:
        super()._reset()
        for factor in self.factors.values():
            assert isinstance(factor, nn.Linear)
            nn.init.ones_(factor.bias)  # so that a product starts near its single parts, not near nothing

    def _fuse(self, vectors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        product = torch.ones(())
        for name, vector in vectors.items():
            product = product * self.factors[name](vector)
        fused = torch.unflatten(product, -1, (self.sizes.factors, self.sizes.fused)).sum(-2) + self.offset
        return read_out([fused], self.risk)


class Hierarchical(BilinearFusion):
    """Pairs first, then the pairs' fusion: the bilinear pairs are themselves fused two by two."""

    @property
    def terms(self) -> tuple[Term, ...]:
        """One for each pair of pairs."""
        return tuple(Term(two) for two in combinations(super().terms, 2))

    def _build_fusion(self, sizes: Sizes) -> None:
        widths = self._build_pairs(sizes)
        out = widths[-1]
        self.upper = nn.ModuleList(
            LowRankBilinear(first, second, sizes.rank, out) for first, second in combinations(widths, 2)
        )
        self.risk = nn.Linear(len(self.upper) * out, 1)

    def _fuse(self, vectors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        pairs = combinations(self._paired(vectors), 2)
        return read_out([form(u, v) for form, (u, v) in zip(self.upper, pairs, strict=True)], self.risk)


def _with_one(x: Tensor) -> Tensor:
    """[x; 1], x [B, width]."""
    return nn.functional.pad(x, (0, 1), value=1.0)
