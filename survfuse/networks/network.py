"""What every network shares: an encoder for each modality, stand-ins for missing ones, and additive terms.

Encoders turn the modalities into vectors: gated-attention multiple-instance learning over the slide's tiles (M), a
multilayer perceptron over expression (r) and one over a slide-level vector, and the clinical vector as it is (c). The
families differ in how they fuse them into a risk, a log relative hazard: larger is worse.
"""

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from survfuse.networks.attention import GatedAttention, Keep, drop, union_rate
from survfuse.networks.families import Family
from survfuse.networks.online_softmax import GatedPool, Pool, Pooling
from survfuse.networks.sizes import Sizes
from survfuse.networks.terms import Term
from survfuse.tasks.task import VECTOR


class Fused(NamedTuple):
    """A network's output for B cases: risk = terms.sum(-1) + bias, an exact sum of parts."""

    risk: Tensor  # [B]
    terms: Tensor  # [B, terms], in the order of the network's ``terms``
    bias: Tensor  # []
    attention: Tensor  # [B, N], each row sums to 1 over its case's tiles; [B, 0] without a slide


class Perceptron(nn.Module):
    """Expression, or a slide-level vector, → the vector that is fused: linear layers, each with ReLU and dropout."""

    def __init__(self, modality: str, inputs: int, widths: Sequence[int], rate: float) -> None:
        super().__init__()
        self.modality = modality  # its dropout masks are named after it
        self.rate = rate
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise((inputs, *widths)))

    def forward(self, values: Tensor, keep: Keep | None) -> Tensor:
        """values [B, inputs] → [B, widths[-1]]."""
        return self.after_first(self.layers[0](values), keep)

    def after_first(self, entered: Tensor, keep: Keep | None) -> Tensor:
        """What the first layer gives [B, widths[0]] → [B, widths[-1]]."""
        hidden = drop(torch.relu(entered), keep, f"{self.modality}.0", self.rate)
        for number, layer in enumerate(self.layers[1:], start=1):
            hidden = drop(torch.relu(layer(hidden)), keep, f"{self.modality}.{number}", self.rate)
        return hidden


class FixedLinear(nn.Module):
    """A linear map that training does not change: it was fitted to the training patients' inputs beforehand."""

    weight: Tensor
    bias: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(outputs, inputs))
        self.register_buffer("bias", torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., inputs] → [..., outputs]."""
        return nn.functional.linear(x, self.weight, self.bias)


class Network(nn.Module):
    """Encoders of a family's modalities, and a fusion of their vectors that a subclass defines.

    A modality that a case lacks is None, or False in ``available``. A network with stand-ins then uses its learned
    stand-in in place of that modality's vector.
    """

    def __init__(self, family: Family, sizes: Sizes) -> None:
        super().__init__()
        self.family = family
        self.sizes = sizes
        self.modalities = family.modalities
        if "rna" in self.modalities and sizes.components:
            self.expression = FixedLinear(sizes.genes, sizes.components)
        if "clinical" in self.modalities and sizes.standardised:
            self.variables = FixedLinear(sizes.clinical, sizes.clinical)
        if VECTOR in self.modalities and sizes.vector_components:
            self.vector_axes = FixedLinear(sizes.vector, sizes.vector_components)
        self._build(sizes)
        self._reset()

    @property
    def terms(self) -> tuple[Term, ...]:
        """The additive parts of the risk, in the order of ``Fused.terms``."""
        raise NotImplementedError

    def _build(self, sizes: Sizes) -> None:
        """Encoders, stand-ins and the fusion's layers."""
        if "slide" in self.modalities:
            self.bag = GatedAttention(sizes)
        if "rna" in self.modalities:
            self.rna = Perceptron("rna", sizes.components or sizes.genes, sizes.rna, sizes.dropout)
        if VECTOR in self.modalities:
            inputs = sizes.vector_components or sizes.vector
            self.vector = Perceptron(VECTOR, inputs, sizes.vector_layers, sizes.dropout)
        if sizes.stand_ins:
            self.stand_ins = nn.ParameterDict(
                {modality: nn.Parameter(torch.zeros(sizes.width(modality))) for modality in self.modalities}
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
        rate = self.sizes.dropout
        masks: dict[str, tuple[tuple[int, ...], float]] = {}
        if "slide" in self.modalities:
            masks |= {"bag": ((tiles, self.sizes.bag), rate), "gate": ((tiles, self.sizes.attention), union_rate(rate))}
        if "rna" in self.modalities:
            masks |= {f"rna.{number}": ((width,), rate) for number, width in enumerate(self.sizes.rna)}
        if VECTOR in self.modalities:
            masks |= {f"{VECTOR}.{number}": ((width,), rate) for number, width in enumerate(self.sizes.vector_layers)}
        return masks if rate else {}

    def forward(
        self,
        tiles: Tensor | None,
        rna: Tensor | None,
        clinical: Tensor | None,
        present: Tensor | None = None,
        available: Tensor | None = None,
        keep: Keep | None = None,
        vector: Tensor | None = None,
    ) -> Fused:
        """Score B cases.

        tiles [B, N, tile], rna [B, genes], clinical [B, clinical], vector [B, vector]; present [B, N] is False for the
        padding of shorter bags; available [B, modalities] says which of the task's modalities a case has; keep holds
        dropout masks.
        """
        return self.fuse(*self.encode(tiles, rna, clinical, present, keep, vector=vector), available)

    def encode(
        self,
        tiles: Tensor | None,
        rna: Tensor | None,
        clinical: Tensor | None,
        present: Tensor | None = None,
        keep: Keep | None = None,
        pool: Pool | None = None,
        vector: Tensor | None = None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Vectors [B, width] of the modalities that are given, and attention [B, N].

        Instead of ``tiles``, the tiles of one case may have been added to ``pool``.
        """
        vectors: dict[str, Tensor] = {}
        attention = None
        for modality in self.modalities:
            if modality == "slide" and pool is not None:
                vectors[modality], attention = pool.result()
            elif modality == "slide" and tiles is not None:
                vectors[modality], attention = self._encode_slide(tiles, present, keep)
            elif modality == "rna" and rna is not None:
                vectors[modality] = self._encode_rna(self.expression(rna) if self.sizes.components else rna, keep)
            elif modality == VECTOR and vector is not None:
                entered = self.vector_axes(vector) if self.sizes.vector_components else vector
                vectors[modality] = self._encode_vector(entered, keep)
            elif modality == "clinical" and clinical is not None:
                vectors[modality] = self.variables(clinical) if self.sizes.standardised else clinical
        if attention is None:
            any_vector = next(iter(vectors.values()))
            attention = any_vector.new_zeros(len(any_vector), 0)
        return vectors, attention

    def fuse(self, vectors: Mapping[str, Tensor], attention: Tensor, available: Tensor | None = None) -> Fused:
        """The risk from the modalities' vectors [B, width]; a stand-in replaces each vector that is absent or not
        ``available`` [B, modalities of the task]."""
        cases = len(attention)
        complete: dict[str, Tensor] = {}
        for modality in self.modalities:
            if modality not in vectors:
                complete[modality] = self._stand_in(modality).expand(cases, -1)
            elif available is None:
                complete[modality] = vectors[modality]
            else:
                has = available[:, self.family.task_modalities.index(modality), None]
                complete[modality] = torch.where(has, vectors[modality], self._stand_in(modality))
        terms, bias = self._fuse(complete)
        return Fused(terms.sum(-1) + bias, terms, bias, attention)

    def pool(self, tiles: int, device: torch.device, half: bool = False) -> Pool:
        """An empty bag for ``tiles`` tiles, pooled on ``device`` as this network pools them.

        With ``half``, matrix products run in fp16 if that is faster.
        """
        return self.pooling(device, half)(tiles)

    def pooling(self, device: torch.device, half: bool = False) -> Pooling:
        """What makes empty bags as ``pool`` does; of this network, it keeps only the layers over tiles."""
        bag = copy.deepcopy(self.bag) if half else self.bag
        if half:
            bag.use_half_precision()
        bag = bag.to(device)
        return lambda tiles: GatedPool(bag, tiles)

    def absent(self, modality: str) -> Tensor:
        """The vector [width] in place of a modality that a case lacks: its stand-in, zeros without one."""
        has_one = self.sizes.stand_ins or self.family.linear
        return self._stand_in(modality) if has_one else torch.zeros(self.sizes.width(modality))

    def rna_entry(self) -> tuple[Tensor, Tensor] | None:
        """Weight [K, genes] and bias [K] of the affine layer by which expression enters; None if none is between."""
        if self.sizes.components:
            return self.expression.weight, self.expression.bias
        first = self.rna.layers[0]
        assert isinstance(first, nn.Linear)
        return first.weight, first.bias

    def rna_vector(self, entered: Tensor) -> Tensor:
        """What ``rna_entry`` gives [B, K] → expression's vector [B, width]."""
        return self._encode_rna(entered, None) if self.sizes.components else self.rna.after_first(entered, None)

    def _encode_slide(self, tiles: Tensor, present: Tensor | None, keep: Keep | None) -> tuple[Tensor, Tensor]:
        vector, attention = self.bag(tiles, present, keep)
        return vector, attention

    def _encode_rna(self, rna: Tensor, keep: Keep | None) -> Tensor:
        vector: Tensor = self.rna(rna, keep)
        return vector

    def _encode_vector(self, vector: Tensor, keep: Keep | None) -> Tensor:
        encoded: Tensor = self.vector(vector, keep)
        return encoded

    def _stand_in(self, modality: str) -> Tensor:
        stand_in: Tensor = self.stand_ins[modality]
        return stand_in

    def _build_fusion(self, sizes: Sizes) -> None:
        raise NotImplementedError

    def _fuse(self, vectors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The modalities' vectors [B, width] → terms [B, terms], bias []."""
        raise NotImplementedError


def read_out(parts: list[Tensor], layer: nn.Linear) -> tuple[Tensor, Tensor]:
    """w · [parts] + b as one term for each part: [B, parts], []."""
    weights = torch.split(layer.weight[0], [part.shape[-1] for part in parts])
    terms = torch.stack([part @ weight for part, weight in zip(parts, weights, strict=True)], dim=-1)
    return terms, layer.bias[0]
