"""The networks, readable top to bottom.

BilinearFusion is the network of "Attention-Based Multimodal Survival Prediction with Cross-Modal Bilinear
Fusion" (arXiv 2605.13897): gated-attention multiple-instance learning over the slide's tiles (Ilse et al. 2018),
a small perceptron over expression, the clinical vector as it is, and one low-rank bilinear term for each pair of
modalities (Liu et al. 2018). The risk is a log relative hazard: larger is worse.
"""

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

MODALITIES = ("slide", "rna", "clinical")


@dataclass(frozen=True)
class Sizes:
    """Widths of the network; the defaults are the paper's."""

    tile: int = 1024  # tile features
    bag: int = 512
    attention: int = 256
    genes: int = 19_359
    rna: tuple[int, ...] = (2048, 512, 128)
    clinical: int = 27
    rank: int = 64
    pairs: tuple[int, int, int] = (64, 32, 32)  # slide × rna, slide × clinical, rna × clinical
    dropout: float = 0.25

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Sizes":
        """Read the ``sizes`` of a manifest's member; raises KeyError, TypeError or ValueError where they are none."""
        return cls(**{**value, "rna": tuple(value["rna"]), "pairs": tuple(value["pairs"])})

    def __post_init__(self) -> None:
        widths = (self.tile, self.bag, self.attention, self.genes, *self.rna, self.clinical, self.rank, *self.pairs)
        if not all(type(width) is int and 0 < width <= 10**6 for width in widths):
            raise ValueError(f"expected whole widths above 0, at most a million, found {widths}")
        if len(self.pairs) != 3 or not self.rna or not 0.0 <= self.dropout < 1.0:
            raise ValueError("expected three pairs, a layer of RNA or more, and a dropout of at least 0 and below 1")

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"rna": list(self.rna), "pairs": list(self.pairs)}


class Fused(NamedTuple):
    """What a network says of B cases: risk = terms.sum(-1) + bias, exactly as additive parts."""

    risk: Tensor  # [B]
    terms: Tensor  # [B, pairs], in the order of the network's ``pairs``
    bias: Tensor  # []
    attention: Tensor  # [B, N], each row sums to 1 over its case's tiles


class GatedAttention(nn.Module):
    """A bag of tile features → one vector (Ilse et al. 2018, gated variant).

    z_n = ReLU(W0 h_n);  a_n = w · (tanh(V z_n) ⊙ sigmoid(U z_n));  M = Σ_n softmax(a)_n z_n
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.project = nn.Linear(sizes.tile, sizes.bag)
        self.tanh_branch = nn.Linear(sizes.bag, sizes.attention)
        self.sigmoid_branch = nn.Linear(sizes.bag, sizes.attention)
        self.score = nn.Linear(sizes.attention, 1)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, tiles: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor]:
        """tiles [B, N, tile], present [B, N] or None for all → slide vector [B, bag], attention [B, N]."""
        z = self.dropout(torch.relu(self.project(tiles)))
        gate = self.dropout(torch.tanh(self.tanh_branch(z))) * self.dropout(torch.sigmoid(self.sigmoid_branch(z)))
        scores = self.score(gate).squeeze(-1)
        if present is not None:
            scores = scores.masked_fill(~present, float("-inf"))
        attention = torch.softmax(scores, dim=-1)
        return (attention.unsqueeze(-2) @ z).squeeze(-2), attention


class RnaEncoder(nn.Module):
    """Expression → r: linear layers, each with ReLU and dropout."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        widths = (sizes.genes, *sizes.rna)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, rna: Tensor) -> Tensor:
        """rna [B, genes] → [B, sizes.rna[-1]]."""
        for layer in self.layers:
            rna = self.dropout(torch.relu(layer(rna)))
        return rna


class LowRankBilinear(nn.Module):
    """B(u, v) = O(P u ⊙ Q v): a bilinear form of low rank (Liu et al. 2018)."""

    def __init__(self, first: int, second: int, rank: int, out: int) -> None:
        super().__init__()
        self.first = nn.Linear(first, rank)
        self.second = nn.Linear(second, rank)
        self.out = nn.Linear(rank, out)

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        """u [B, first], v [B, second] → [B, out]."""
        return self.out(self.first(u) * self.second(v))


class BilinearFusion(nn.Module):
    """The paper's bilinear model: risk = w · [B(M, r), B(M, c), B(r, c)] + b."""

    pairs = ("slide × rna", "slide × clinical", "rna × clinical")
    modalities = MODALITIES

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.bag = GatedAttention(sizes)
        self.rna = RnaEncoder(sizes)
        self.slide_rna = LowRankBilinear(sizes.bag, sizes.rna[-1], sizes.rank, sizes.pairs[0])
        self.slide_clinical = LowRankBilinear(sizes.bag, sizes.clinical, sizes.rank, sizes.pairs[1])
        self.rna_clinical = LowRankBilinear(sizes.rna[-1], sizes.clinical, sizes.rank, sizes.pairs[2])
        self.risk = nn.Linear(sum(sizes.pairs), 1)
        self.reset()

    def reset(self) -> None:
        """Xavier-normal weights and zero biases, as the paper starts from."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, tiles: Tensor, rna: Tensor, clinical: Tensor, present: Tensor | None = None) -> Fused:
        """tiles [B, N, tile], rna [B, genes], clinical [B, clinical]; present [B, N] marks padded bags' tiles."""
        slide, attention = self.bag(tiles, present)
        r = self.rna(rna)
        fused = (self.slide_rna(slide, r), self.slide_clinical(slide, clinical), self.rna_clinical(r, clinical))
        weights = self.risk.weight[0].split(self.sizes.pairs)
        terms = torch.stack([pair @ weight for pair, weight in zip(fused, weights, strict=True)], dim=-1)
        bias = self.risk.bias[0]
        return Fused(terms.sum(-1) + bias, terms, bias, attention)


FAMILIES: dict[str, type[BilinearFusion]] = {"bilinear": BilinearFusion}


def build(family: str, sizes: Sizes) -> BilinearFusion:
    """An untrained network of ``family``; raises KeyError for a family that is not in FAMILIES."""
    return FAMILIES[family](sizes)
