"""The networks, readable top to bottom.

Three encoders turn the modalities into vectors: gated-attention multiple-instance learning over the slide's tiles
(M), a small perceptron over expression (r), and the clinical vector as it is (c). The families differ in how they
fuse them into a risk, a log relative hazard: larger is worse.

    bilinear            w · [B(M, r), B(M, c), B(r, c)] + b, the network of "Attention-Based Multimodal Survival
                        Prediction with Cross-Modal Bilinear Fusion" (arXiv 2605.13897)
    bilinear-residual   … with ReLU(W [M, r, c]) beside the pairs (same paper)
    slide+rna, …        … with that one pair alone (same paper)
    concat              w · [M, r, c] + b (same paper)
    tensor              outer product of [M; 1], [r; 1], [c; 1], then a perceptron (Zadeh et al. 2017)
    low-rank-tensor     that product against a weight of low rank, never formed (Liu et al. 2018)
    hierarchical        pairs first, then the pairs' own bilinear fusion
    slide, rna          one modality: w · M + b, w · r + b
    clinical, cox-rna, cox-slide, cox-rna+clinical, cox
                        Cox's linear model of clinical variables, expression, shares of tile clusters, two, all three
"""

import copy
from collections.abc import Mapping
from itertools import combinations, pairwise
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from survfuse.networks.attention import GatedAttention, GatedPool, Keep, Pool, drop, union_rate
from survfuse.networks.sizes import PAIRS, Sizes
from survfuse.tasks.modalities import MODALITIES


class Fused(NamedTuple):
    """What a network says of B cases: risk = terms.sum(-1) + bias, exactly as additive parts."""

    risk: Tensor  # [B]
    terms: Tensor  # [B, terms], in the order of the network's ``terms``
    bias: Tensor  # []
    attention: Tensor  # [B, N], each row sums to 1 over its case's tiles; [B, 0] without a slide


class RnaEncoder(nn.Module):
    """Expression → r: linear layers, each with ReLU and dropout."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.rate = sizes.dropout
        widths = (sizes.components or sizes.genes, *sizes.rna)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, rna: Tensor, keep: Keep | None) -> Tensor:
        """rna [B, components or genes] → [B, sizes.rna[-1]]."""
        for number, layer in enumerate(self.layers):
            rna = drop(torch.relu(layer(rna)), keep, f"rna.{number}", self.rate)
        return rna


class FixedLinear(nn.Module):
    """A linear map that training does not change: it was fitted before, from the training patients' inputs."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(outputs, inputs))
        self.register_buffer("bias", torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., inputs] → [..., outputs]."""
        return nn.functional.linear(x, self.weight, self.bias)


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


class Network(nn.Module):
    """Encoders of ``modalities``, and a fusion of their vectors that a family defines.

    A modality that a case lacks is None, or False in ``available``; where the network has stand-ins, its learned
    stand-in takes the place of its vector.
    """

    family: ClassVar[str]
    modalities: ClassVar[tuple[str, ...]] = MODALITIES
    terms: ClassVar[tuple[str, ...]]
    linear: ClassVar[bool] = False  # Cox's linear model, fitted as such

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        if "rna" in self.modalities and sizes.components:
            self.expression = FixedLinear(sizes.genes, sizes.components)
        if "clinical" in self.modalities and sizes.standardised:
            self.variables = FixedLinear(sizes.clinical, sizes.clinical)
        self._build(sizes)
        self._reset()

    def _build(self, sizes: Sizes) -> None:
        """Encoders, stand-ins and the fusion's layers."""
        if "slide" in self.modalities:
            self.bag = GatedAttention(sizes)
        if "rna" in self.modalities:
            self.rna = RnaEncoder(sizes)
        if sizes.stand_ins:
            self.stand_ins = nn.ParameterDict(
                {modality: nn.Parameter(torch.zeros(sizes.vector(modality))) for modality in self.modalities}
            )
        self._build_fusion(sizes)

    def _reset(self) -> None:
        """Xavier-normal weights and zero biases, as the paper starts from."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def dropout(self, tiles: int) -> dict[str, tuple[tuple[int, ...], float]]:
        """Shape of each dropout mask of one case with ``tiles`` tiles, and the chance that a unit is dropped."""
        rate, masks = self.sizes.dropout, dict[str, tuple[tuple[int, ...], float]]()
        if "slide" in self.modalities:
            masks |= {"bag": ((tiles, self.sizes.bag), rate), "gate": ((tiles, self.sizes.attention), union_rate(rate))}
        if "rna" in self.modalities:
            masks |= {f"rna.{number}": ((width,), rate) for number, width in enumerate(self.sizes.rna)}
        return masks if rate else {}

    def forward(
        self,
        tiles: Tensor | None,
        rna: Tensor | None,
        clinical: Tensor | None,
        present: Tensor | None = None,
        available: Tensor | None = None,
        keep: Keep | None = None,
    ) -> Fused:
        """Score B cases.

        tiles [B, N, tile], rna [B, genes], clinical [B, clinical]; present [B, N] marks padded bags' tiles,
        available [B, 3] the modalities a case has, in the order of MODALITIES; keep holds dropout masks.
        """
        return self.fuse(*self.encode(tiles, rna, clinical, present, keep), available)

    def encode(
        self,
        tiles: Tensor | None,
        rna: Tensor | None,
        clinical: Tensor | None,
        present: Tensor | None = None,
        keep: Keep | None = None,
        pool: Pool | None = None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Vectors [B, width] of the modalities that are given, and attention [B, N].

        In place of ``tiles``, one case's may have gone into ``pool``.
        """
        vectors, attention = {}, None
        for modality in self.modalities:
            if modality == "slide" and pool is not None:
                vectors[modality], attention = pool.result()
            elif modality == "slide" and tiles is not None:
                vectors[modality], attention = self._encode_slide(tiles, present, keep)
            elif modality == "rna" and rna is not None:
                vectors[modality] = self._encode_rna(self.expression(rna) if self.sizes.components else rna, keep)
            elif modality == "clinical" and clinical is not None:
                vectors[modality] = self.variables(clinical) if self.sizes.standardised else clinical
        if attention is None:
            any_vector = next(iter(vectors.values()))
            attention = any_vector.new_zeros(len(any_vector), 0)
        return vectors, attention

    def fuse(self, vectors: Mapping[str, Tensor], attention: Tensor, available: Tensor | None = None) -> Fused:
        """The risk from the modalities' vectors; those absent, or not ``available`` [B, 3], are stood in for."""
        cases = len(attention)
        complete = {}
        for modality in self.modalities:
            if modality not in vectors:
                complete[modality] = self._stand_in(modality).expand(cases, -1)
            elif available is None:
                complete[modality] = vectors[modality]
            else:
                has = available[:, MODALITIES.index(modality), None]
                complete[modality] = torch.where(has, vectors[modality], self._stand_in(modality))
        terms, bias = self._fuse(complete)
        return Fused(terms.sum(-1) + bias, terms, bias, attention)

    def pool(self, tiles: int, device: torch.device, half: bool = False) -> Pool:
        """An empty bag for ``tiles`` tiles, pooled on ``device`` as this network pools them; with ``half``,
        in fp16 where there are matrix products to gain from it."""
        bag = copy.deepcopy(self.bag) if half else self.bag
        if half:
            bag.halve()
        return GatedPool(bag.to(device), tiles)

    def _encode_slide(self, tiles: Tensor, present: Tensor | None, keep: Keep | None) -> tuple[Tensor, Tensor]:
        return self.bag(tiles, present, keep)

    def _encode_rna(self, rna: Tensor, keep: Keep | None) -> Tensor:
        return self.rna(rna, keep)

    def _stand_in(self, modality: str) -> Tensor:
        return self.stand_ins[modality]

    def _build_fusion(self, sizes: Sizes) -> None:
        raise NotImplementedError

    def _fuse(self, vectors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The modalities' vectors [B, width] → terms [B, terms], bias []."""
        raise NotImplementedError


def read_out(parts: list[Tensor], layer: nn.Linear) -> tuple[Tensor, Tensor]:
    """w · [parts] + b as one term for each part: [B, parts], []."""
    weights = layer.weight[0].split([part.shape[-1] for part in parts])
    terms = torch.stack([part @ weight for part, weight in zip(parts, weights, strict=True)], dim=-1)
    return terms, layer.bias[0]


class Concat(Network):
    """risk = w · [M, r, c] + b."""

    family = "concat"
    terms = MODALITIES

    def _build_fusion(self, sizes: Sizes) -> None:
        self.risk = nn.Linear(sum(sizes.vector(modality) for modality in self.modalities), 1)

    def _fuse(self, vectors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return read_out(list(vectors.values()), self.risk)


class SlideAlone(Concat):
    family = "slide"
    modalities = terms = ("slide",)


class RnaAlone(Concat):
    family = "rna"
    modalities = terms = ("rna",)


class BilinearFusion(Network):
    """The paper's bilinear model: risk = w · [B(M, r), B(M, c), B(r, c)] + b, for the pairs of its modalities."""

    family = "bilinear"
    terms = ("slide × rna", "slide × clinical", "rna × clinical")

    def _build_fusion(self, sizes: Sizes) -> None:
        self.risk = nn.Linear(self._build_pairs(sizes), 1)

    def _build_pairs(self, sizes: Sizes) -> int:
        """The pairs' bilinear forms; returns the width of all of them together."""
        self.pairs = list(combinations(self.modalities, 2))
        widths = [sizes.pairs[PAIRS.index(pair)] for pair in self.pairs]
        for (first, second), width in zip(self.pairs, widths, strict=True):
            form = LowRankBilinear(sizes.vector(first), sizes.vector(second), sizes.rank, width)
            self.add_module(f"{first}_{second}", form)
        return sum(widths)

    def _paired(self, vectors: Mapping[str, Tensor]) -> list[Tensor]:
        return [getattr(self, f"{a}_{b}")(vectors[a], vectors[b]) for a, b in self.pairs]

    def _fuse(self, vectors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return read_out(self._paired(vectors), self.risk)


class SlideRna(BilinearFusion):
    family = "slide+rna"
    modalities = ("slide", "rna")
    terms = ("slide × rna",)


class SlideClinical(BilinearFusion):
    family = "slide+clinical"
    modalities = ("slide", "clinical")
    terms = ("slide × clinical",)


class RnaClinical(BilinearFusion):
    family = "rna+clinical"
    modalities = ("rna", "clinical")
    terms = ("rna × clinical",)


class BilinearResidual(BilinearFusion):
    """The bilinear model with ReLU(W [M, r, c]) beside its pairs."""

    family = "bilinear-residual"
    terms = (*BilinearFusion.terms, "residual")

    def _build_fusion(self, sizes: Sizes) -> None:
        width = self._build_pairs(sizes)
        self.residual = nn.Linear(sum(sizes.vector(modality) for modality in MODALITIES), sizes.hidden)
        self.risk = nn.Linear(width + sizes.hidden, 1)

    def _fuse(self, vectors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        residual = torch.relu(self.residual(torch.cat(list(vectors.values()), dim=-1)))
        return read_out([*self._paired(vectors), residual], self.risk)


class TensorFusion(Network):
    """Full outer product with appended ones, then a perceptron (Zadeh et al. 2017, Tensor Fusion Network).

    [m; 1] ⊗ [s; 1] ⊗ [c; 1] with m = ReLU(W M) and s = ReLU(W r); two hidden layers with ReLU; w · + b. The ones keep
    each vector and each pair beside the product of all three.
    """

    family = "tensor"
    terms = ("slide × rna × clinical",)

    def _build_fusion(self, sizes: Sizes) -> None:
        self.slide_embedding = nn.Linear(sizes.bag, sizes.embedding)
        self.rna_embedding = nn.Linear(sizes.rna[-1], sizes.embedding)
        entries = (sizes.embedding + 1) ** 2 * (sizes.clinical + 1)
        self.hidden = nn.ModuleList([nn.Linear(entries, sizes.hidden), nn.Linear(sizes.hidden, sizes.hidden)])
        self.risk = nn.Linear(sizes.hidden, 1)

    def outer(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """[B, embedding + 1, embedding + 1, clinical + 1]."""
        slide = _with_one(torch.relu(self.slide_embedding(vectors["slide"])))
        rna = _with_one(torch.relu(self.rna_embedding(vectors["rna"])))
        return torch.einsum("bi,bj,bk->bijk", slide, rna, _with_one(vectors["clinical"]))

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

    family = "low-rank-tensor"
    terms = ("slide × rna × clinical",)

    def _build_fusion(self, sizes: Sizes) -> None:
        # A bias in the factor is its weight of the appended one.
        width = sizes.factors * sizes.fused
        self.factors = nn.ModuleDict({name: nn.Linear(sizes.vector(name), width) for name in MODALITIES})
        self.offset = nn.Parameter(torch.zeros(sizes.fused))
        self.risk = nn.Linear(sizes.fused, 1)

    def _reset(self) -> None:
        super()._reset()
        for factor in self.factors.values():
            nn.init.ones_(factor.bias)  # so that a product starts near its single parts, and not near nothing

    def _fuse(self, vectors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        product = torch.ones(())
        for name, vector in vectors.items():
            product = product * self.factors[name](vector)
        fused = product.unflatten(-1, (self.sizes.factors, self.sizes.fused)).sum(-2) + self.offset
        return read_out([fused], self.risk)


class Hierarchical(BilinearFusion):
    """Pairs first, then the pairs' fusion: the three bilinear pairs are themselves fused two by two."""

    family = "hierarchical"
    terms = tuple(f"({a}) × ({b})" for a, b in combinations(BilinearFusion.terms, 2))

    def _build_fusion(self, sizes: Sizes) -> None:
        self._build_pairs(sizes)
        self.upper = nn.ModuleList(
            LowRankBilinear(first, second, sizes.rank, sizes.pairs[2]) for first, second in combinations(sizes.pairs, 2)
        )
        self.risk = nn.Linear(3 * sizes.pairs[2], 1)

    def _fuse(self, vectors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        pairs = combinations(self._paired(vectors), 2)
        return read_out([form(u, v) for form, (u, v) in zip(self.upper, pairs, strict=True)], self.risk)


def _with_one(x: Tensor) -> Tensor:
    """[x; 1], x [B, width]."""
    return nn.functional.pad(x, (0, 1), value=1.0)
