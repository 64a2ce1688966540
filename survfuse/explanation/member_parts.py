"""One network's risk as a sum of parts: of tile vectors, genes, clinical columns, a slide-level vector, and joint ones.

The risk F is a function of the modalities' vectors v. With the other modalities as the reference patient has them,

    F(v_s, reference) − F(reference)

is modality s's own part. It is divided among the entries of what the network reads by its average gradient between
the reference patient and the case (integrated gradients: Sundararajan et al. 2017, arXiv 1703.01365): exactly, and from
a single gradient, where F is affine in them; numerically otherwise. The numbers of a slide-level vector have no
meaning one by one, so its part is not divided. What several modalities change beyond the sum of their own parts is
their joint part (Harsanyi 1963, International Economic Review 4:194).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from survfuse.explanation.average_gradient import average_gradient
from survfuse.networks.network import Network
from survfuse.tasks.modalities import Combination
from survfuse.tasks.task import VECTOR


@dataclass(frozen=True)
class MemberParts:
    """A member's risk = baseline + slope · (slide vector − reference's) + Σ genes + Σ columns + vector + Σ joint."""

    total: float  # the risk
    baseline: float  # the reference patient's risk, without what the case lacks
    slope: Tensor | None  # [width], float64, by the slide's vector; None if the slide does not enter
    genes: Tensor | None  # [G], float64
    columns: Tensor | None  # [C], float64, of the clinical vector
    vector: float | None  # of the slide-level vector as a whole
    joint: Mapping[Combination, float]  # of two or more modalities


@dataclass(frozen=True)
class Point:
    """What a network reads of a patient: slide vector [width], expression [G], clinical [C], slide-level vector [V]."""

    slide: Tensor | None
    rna: Tensor | None
    clinical: Tensor | None
    vector: Tensor | None = None

    def of(self, modality: str) -> Tensor | None:
        """The input of a modality."""
        values = {"slide": self.slide, "rna": self.rna, "clinical": self.clinical, VECTOR: self.vector}
        return values[modality]


def member_parts(network: Network, case: Point, reference: Point, tolerance: float) -> MemberParts:
    """Divide ``network``'s risk of ``case``, relative to ``reference``.

    ``tolerance`` is the error, in the network's own units, up to which integrals are refined.
    """
    given = tuple(name for name in network.modalities if case.of(name) is not None)
    entries = {name: _entry(network, name, case, reference) for name in given}
    starts = {name: entry.rest(entry.start.unsqueeze(0)) for name, entry in entries.items()}
    ends = {name: entry.rest(entry.end.unsqueeze(0)) for name, entry in entries.items()}
    total, dividends = _dividends(network, given, starts, ends)
    together = [term.modalities for term in network.terms]
    joint = {
        chosen: value
        for chosen, value in dividends.items()
        if len(chosen) > 1 and any(set(chosen) <= modalities for modalities in together)
    }
    slopes: dict[str, Tensor] = {}
    for name in (name for name in given if name != VECTOR):
        entry = entries[name]
        affine = network.family.multilinear and (name != "rna" or network.family.linear)
        risk = _by_one_input(network, name, entry.rest, starts)
        slopes[name] = average_gradient(risk, entry.start, entry.end, affine, tolerance)
        if entry.weight is not None:
            slopes[name] = (slopes[name].to(entry.weight.dtype) @ entry.weight).double()
    own = {
        name: slope * _difference(case.of(name), reference.of(name))
        for name, slope in slopes.items()
        if name != "slide"
    }
    return MemberParts(
        total,
        dividends[()],
        slopes.get("slide"),
        own.get("rna"),
        own.get("clinical"),
        dividends.get((VECTOR,)),
        joint,
    )


class _Entry(NamedTuple):
    """Where a modality enters a network behind at most one affine layer, and the way from there to its vector."""

    weight: Tensor | None  # [K, inputs] of that layer; None if there is none
    start: Tensor  # [K], of the reference patient
    end: Tensor  # [K], of the case
    rest: Callable[[Tensor], Tensor]  # [B, K] → vector [B, width]


def _entry(network: Network, modality: str, case: Point, reference: Point) -> _Entry:
    start, end = reference.of(modality), case.of(modality)
    assert start is not None and end is not None
    if modality == "slide":
        return _Entry(None, start, end, lambda vectors: vectors)
    if modality == "clinical":
        return _Entry(None, start, end, lambda values: network.encode(None, None, values)[0]["clinical"])
    if modality == VECTOR:
        return _Entry(None, start, end, lambda values: network.encode(None, None, None, vector=values)[0][VECTOR])
    layer = network.rna_entry()
    if layer is None:
        return _Entry(None, start, end, network.rna_vector)
    weight, bias = (tensor.detach() for tensor in layer)
    return _Entry(weight, linear(start, weight, bias), linear(end, weight, bias), network.rna_vector)


def _difference(end: Tensor | None, start: Tensor | None) -> Tensor:
    assert start is not None and end is not None
    return end.double() - start.double()


def _by_one_input(
    network: Network, modality: str, rest: Callable[[Tensor], Tensor], starts: Mapping[str, Tensor]
) -> Callable[[Tensor], Tensor]:
    """The risk [B] by what enters of one modality [B, K], with the others as the reference patient has them."""

    def risk(entered: Tensor) -> Tensor:
        vectors = {name: vector.expand(len(entered), -1) for name, vector in starts.items()}
        return network.fuse(vectors | {modality: rest(entered)}, entered.new_zeros(len(entered), 0)).risk

    return risk


def _dividends(
    network: Network, given: Combination, starts: Mapping[str, Tensor], ends: Mapping[str, Tensor]
) -> tuple[float, dict[Combination, float]]:
    """The case's risk, and what each subset of its modalities adds to it beyond its own subsets; that of none is the
    reference patient's risk."""
    subsets = [chosen for size in range(len(given) + 1) for chosen in combinations(given, size)]
    vectors = {
        name: torch.cat([ends[name] if name in chosen else starts[name] for chosen in subsets]) for name in given
    }
    with torch.no_grad():
        risks = network.fuse(vectors, torch.zeros(len(subsets), 0)).risk.double().tolist()
    dividends: dict[Combination, float] = {}
    for chosen, risk in zip(subsets, risks, strict=True):
        within = (value for part, value in dividends.items() if set(part) < set(chosen))
        dividends[chosen] = risk - sum(within)
    return risks[-1], dividends
