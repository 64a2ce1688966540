"""All members in one pass over the tiles, and their weighted sum on the scale of the reference risks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from survfuse.networks.attention import Pool
from survfuse.networks.families import build_with
from survfuse.networks.fusion import Fused, Network
from survfuse.networks.sizes import Sizes
from survfuse.networks.weighting import MemberWeight, RiskScale
from survfuse.runtime.errors import InputError
from survfuse.tasks.modalities import Combination, combination_name, ordered

# Tiles that are in work at once: their layers' values stay in the processor's cache, and a bag's size costs no memory.
TILES_AT_A_TIME = 1024


@dataclass(frozen=True)
class Member:
    """One trained network, and how it counts under each combination of modalities that it scores."""

    family: str
    sizes: Sizes
    standings: Mapping[str, MemberWeight]
    state: dict[str, Tensor]


@dataclass(frozen=True)
class EnsembleRisk:
    """risk = baseline + Σ terms = (Σ_m weight · (member risk − location) / scale − the sum's location) / its scale."""

    combination: str  # of the modalities that the case has, "slide+rna+clinical" for one
    risk: float
    baseline: float
    terms: dict[str, float]  # the members' additive terms by name
    member_risks: Tensor  # [M], each on its own scale, of the members that score the combination
    attention: Tensor | None  # [N], weighted mean over the members that look at the slide; sums to 1


class Ensemble:
    """Members with their weights as they lie in the bundle's files: none is copied, stacked or moved but for the
    layers over tiles.

    Those, nearly all of the arithmetic, run on ``device``. Expression's layers, which hold nearly all of the weights
    and multiply each once, run on the CPU: bringing them to a GPU takes as long as multiplying.
    """

    def __init__(
        self, members: Sequence[Member], combinations: Mapping[str, RiskScale], device: torch.device | str = "cpu"
    ) -> None:
        self.members = list(members)
        self.combinations = dict(combinations)
        self.device = torch.device(device)
        self._networks = [build_with(member.family, member.sizes, member.state) for member in members]

    @torch.inference_mode()
    def __call__(
        self,
        tiles: Tensor | None = None,
        rna: Tensor | None = None,
        clinical: Tensor | None = None,
        half: bool = False,
    ) -> EnsembleRisk:
        """One case: tiles [N, D] of any floating type, rna [G], clinical [C] in float32; None where it lacks that
        modality. With ``half``, for tiles that are of half precision themselves and a GPU that gains by it, the
        layers over them run in fp16 and their sums in float32; in float32 throughout where fp16 overflows.

        Raises InputError for a combination of modalities that the ensemble was not trained to score.
        """
        given = {"slide": tiles, "rna": rna, "clinical": clinical}
        combination = ordered(name for name, value in given.items() if value is not None)
        scale = self._scale(combination)
        scoring = [
            (network, standing)
            for network, member in zip(self._networks, self.members, strict=True)
            if (standing := member.standings.get(combination_name(combination)))
        ]
        networks = [network for network, _ in scoring]
        pools = self._pooled(networks, tiles, half)
        if half and not all(pool.result()[0].isfinite().all() for pool in pools if pool is not None):
            pools = self._pooled(networks, tiles, False)
        vectors = [value.unsqueeze(0) if value is not None else None for value in (rna, clinical)]
        sums = _Sums(len(tiles) if tiles is not None else 0)
        for (network, standing), pool in zip(scoring, pools, strict=True):
            sums.add(network.fuse(*network.encode(None, *vectors, pool=pool)), network.terms, standing)
        return sums.scaled(combination_name(combination), scale)

    def _pooled(self, networks: list[Network], tiles: Tensor | None, half: bool) -> list[Pool | None]:
        """Each network's bag, or None where it does not look at the slide."""
        looking = [tiles is not None and "slide" in network.modalities for network in networks]
        pools = [
            network.pool(len(tiles), self.device, half) if looks else None
            for network, looks in zip(networks, looking, strict=True)
        ]
        if tiles is not None:
            # On a CPU half precision is widened once for all pools, and always into the same memory.
            wide = None
            if self.device.type == "cpu" and tiles.element_size() == 2:
                wide = torch.empty(TILES_AT_A_TIME, tiles.shape[1])
            for part in tiles.split(TILES_AT_A_TIME):
                part = part.to(self.device) if wide is None else wide[: len(part)].copy_(part)
                for pool in filter(None, pools):
                    pool.add(part)
        return pools

    def _scale(self, combination: Combination) -> RiskScale:
        name = combination_name(combination)
        if name not in self.combinations:
            trained = ", ".join(sorted(self.combinations, key=len, reverse=True))
            raise InputError(f"the case has {name or 'no modality'}; this bundle was trained to score {trained}")
        return self.combinations[name]


class _Sums:
    """The members' weighted sum as it grows, with its terms and the attention of those that look at the slide."""

    def __init__(self, tiles: int) -> None:
        self._constant = 0.0
        self._terms: dict[str, float] = {}
        self._risks: list[Tensor] = []
        self._attention, self._looking = torch.zeros(tiles, dtype=torch.float64), 0.0

    def add(self, fused: Fused, terms: Sequence[str], standing: MemberWeight) -> None:
        factor = standing.weight / standing.scale
        self._risks.append(fused.risk.double())
        self._constant += factor * (float(fused.bias) - standing.location)
        for name, value in zip(terms, fused.terms[0].tolist(), strict=True):
            self._terms[name] = self._terms.get(name, 0.0) + factor * value
        if fused.attention.shape[-1]:
            self._attention += standing.weight * fused.attention[0].double()
            self._looking += standing.weight

    def scaled(self, combination: str, scale: RiskScale) -> EnsembleRisk:
        baseline = (self._constant - scale.location) / scale.scale
        terms = {name: value / scale.scale for name, value in self._terms.items()}
        attention = self._attention / self._looking if self._looking else None
        risk = baseline + sum(terms.values())
        return EnsembleRisk(combination, risk, baseline, terms, torch.cat(self._risks), attention)
