"""All members in one batched pass, and their standardised mean."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from survfuse.fusion import Fused, Sizes, build


@dataclass(frozen=True)
class Member:
    """One trained network with what puts its risk on the ensemble's scale."""

    family: str
    sizes: Sizes
    weight: float
    location: float
    scale: float
    state: dict[str, Tensor]


@dataclass(frozen=True)
class EnsembleRisk:
    """risk = baseline + Σ terms: the weighted mean over members of (member risk − location) / scale."""

    risk: float
    baseline: float
    terms: dict[str, float]  # one per pair of modalities
    member_risks: Tensor  # [M], each on its own scale
    attention: Tensor  # [N], weighted mean over members; sums to 1


class Ensemble:
    """Members stacked by shape, so that each group of equal networks runs as one batched pass."""

    def __init__(self, members: Sequence[Member], device: torch.device | str = "cpu") -> None:
        self.members = list(members)
        self.device = torch.device(device)
        total = sum(member.weight for member in members)
        self._share = torch.tensor([member.weight / total for member in members], dtype=torch.float64)
        self._location = torch.tensor([member.location for member in members], dtype=torch.float64)
        self._scale = torch.tensor([member.scale for member in members], dtype=torch.float64)
        self._groups = [_Group(self.members, rows, self.device) for rows in _equal_shapes(members)]

    @torch.inference_mode()
    def __call__(self, tiles: Tensor, rna: Tensor, clinical: Tensor) -> EnsembleRisk:
        """One case: tiles [N, D], rna [G], clinical [C], all float32."""
        case = tuple(part.to(self.device).unsqueeze(0) for part in (tiles, rna, clinical))
        risks = torch.empty(len(self.members), dtype=torch.float64)
        attention = torch.zeros(len(tiles), dtype=torch.float64)
        # Terms are weighted by share / scale; what the members' biases and locations add is the baseline.
        factor = self._share / self._scale
        baseline = -(factor * self._location).sum()
        terms: dict[str, float] = {}
        for group in self._groups:
            fused = group(*case)
            risks[group.rows] = fused.risk[:, 0].double().cpu()
            attention += self._share[group.rows] @ fused.attention[:, 0].double().cpu()
            baseline += factor[group.rows] @ fused.bias.double().cpu()
            contribution = factor[group.rows] @ fused.terms[:, 0].double().cpu()
            for name, value in zip(group.pairs, contribution.tolist(), strict=True):
                terms[name] = terms.get(name, 0.0) + value
        risk = self._share @ ((risks - self._location) / self._scale)
        return EnsembleRisk(float(risk), float(baseline), terms, risks, attention)


class _Group:
    """Networks of one family and size, their weights stacked along a leading member axis."""

    def __init__(self, members: Sequence[Member], rows: list[int], device: torch.device) -> None:
        self.rows = rows
        with torch.device("meta"):
            self._network = build(members[rows[0]].family, members[rows[0]].sizes).eval()
        self.pairs = self._network.pairs
        states = [members[row].state for row in rows]
        self._stacked = {name: torch.stack([state[name] for state in states]).to(device) for name in states[0]}

    def __call__(self, *case: Tensor) -> Fused:
        def one(state: dict[str, Tensor]) -> Fused:
            return functional_call(self._network, state, case)

        return vmap(one)(self._stacked)


def _equal_shapes(members: Sequence[Member]) -> list[list[int]]:
    groups: dict[tuple[str, Sizes], list[int]] = {}
    for row, member in enumerate(members):
        groups.setdefault((member.family, member.sizes), []).append(row)
    return list(groups.values())
