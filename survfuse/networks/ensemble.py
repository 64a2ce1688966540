"""All members in one pass over the tiles, and their weighted sum on the scale of the reference risks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from survfuse.networks.build import build_with
from survfuse.networks.families import Family
from survfuse.networks.network import Fused, Network
from survfuse.networks.online_softmax import Pool
from survfuse.networks.sizes import Sizes
from survfuse.networks.terms import Term, in_order
from survfuse.networks.weighting import MemberWeight, RiskScale
from survfuse.runtime.errors import InputError
from survfuse.tasks.modalities import Combination, combination_name, ordered, parse_combination

# Tiles processed at once: their activations stay in the processor's cache, and a larger bag needs no more memory.
TILES_AT_A_TIME = 1024


@dataclass(frozen=True)
class Member:
    """One trained network, and how it counts under each combination of modalities that it scores."""

    family: Family
    sizes: Sizes
    standings: Mapping[str, MemberWeight]  # by combination
    state: dict[str, Tensor]


@dataclass(frozen=True)
class EnsembleRisk:
    """risk = baseline + Σ terms = (Σ_m weight · (member risk − location) / scale − the sum's location) / its scale.

    A term is named after those of its modalities that the case has. What depends on none of them, such as a stand-in's
    constant, belongs to the baseline.
    """

    combination: str  # of the modalities that the case has, for example "slide+rna+clinical"
    risk: float
    baseline: float
    terms: dict[str, float]  # by name: modalities, their pairs in the task's order, others
    member_risks: Tensor  # [M], each on its own scale, of the members that score the combination
    attention: Tensor | None  # [N], weighted mean over the members that look at the slide; sums to 1


@dataclass(frozen=True)
class Tensors:
    """One case: tiles [N, D] of any floating type, rna [G], clinical [C] in float32; None if it lacks that modality."""

    tiles: Tensor | None
    rna: Tensor | None
    clinical: Tensor | None

    @property
    def given(self) -> Combination:
        """The modalities that it has."""
        values = {"slide": self.tiles, "rna": self.rna, "clinical": self.clinical}
        return tuple(name for name, value in values.items() if value is not None)

    @property
    def length(self) -> int:
        """N; 0 without a slide."""
        return len(self.tiles) if self.tiles is not None else 0

    @staticmethod
    def batch(vector: Tensor | None) -> Tensor | None:
        """A batch [1, …] of one vector."""
        return vector.unsqueeze(0) if vector is not None else None


class Ensemble:
    """Members with their weights as they lie in the bundle's files: only the layers over tiles are ever moved.

    Those layers, nearly all of the arithmetic, run on ``device``. Expression's layers hold nearly all of the weights
    and use each of them once; they run on the CPU, since copying them to a GPU takes as long as multiplying.
    """

    def __init__(
        self, members: Sequence[Member], combinations: Mapping[str, RiskScale], device: torch.device | str = "cpu"
    ) -> None:
        self.members = list(members)
        self.combinations = dict(combinations)
        self.device = torch.device(device)
        self.modalities = members[0].family.task_modalities
        self._networks = [build_with(member.family, member.sizes, member.state) for member in members]

    def term_names(self) -> list[str]:
        """Every term that a case of any scored combination can have, in the order of ``EnsembleRisk.terms``."""
        names = [
            term.name(parse_combination(combination))
            for network, member in zip(self._networks, self.members, strict=True)
            for combination in member.standings
            for term in network.terms
        ]
        return in_order((name for name in names if name is not None), self.modalities)

    @torch.inference_mode()
    def __call__(
        self,
        tiles: Tensor | None = None,
        rna: Tensor | None = None,
        clinical: Tensor | None = None,
        half: bool = False,
    ) -> EnsembleRisk:
        """Score one case: tiles [N, D] of any floating type, rna [G], clinical [C] in float32; None if it lacks that
        modality.

        With ``half``, for tiles of half precision on a GPU, the layers over tiles run in fp16 and their sums in
        float32; if fp16 overflows, everything runs in float32.

        Raises InputError for a combination of modalities that the ensemble was not trained to score.
        """
        return self.together([Tensors(tiles, rna, clinical)], half)[0]

    @torch.inference_mode()
    def together(self, cases: "Sequence[Tensors]", half: bool = False) -> list[EnsembleRisk]:
        """Score several cases that have the same modalities, each as it is scored alone, but for rounding in float32.

        For cases of a few tiles: a network's layers over tiles run once for all of them.
        """
        combination = ordered(cases[0].given, self.modalities)
        scale = self._scale(combination)
        scoring = [
            (network, weight)
            for network, member in zip(self._networks, self.members, strict=True)
            if (weight := member.standings.get(combination_name(combination)))
        ]
        networks = [network for network, _ in scoring]
        bags = [case.tiles for case in cases if case.tiles is not None]
        pools = self._pooled(networks, bags, half)
        if half and not all(pool.result()[0].isfinite().all() for own in pools for pool in own):
            pools = self._pooled(networks, bags, False)
        sums = [_Sums(combination, self.modalities, case.length) for case in cases]
        for (network, weight), own in zip(scoring, pools, strict=True):
            for place, case in enumerate(cases):
                pool = own[place] if own else None
                vectors, attention = network.encode(None, case.batch(case.rna), case.batch(case.clinical), pool=pool)
                sums[place].add(network.fuse(vectors, attention), network.terms, weight)
        return [each.scaled(scale) for each in sums]

    def _pooled(self, networks: list[Network], bags: Sequence[Tensor], half: bool) -> list[list[Pool]]:
        """Each network's bags, one for each of ``bags``; none if it does not look at the slide."""
        if not bags:
            return [[] for _ in networks]
        pools = [
            [network.pool(len(tiles), self.device, half) for tiles in bags] if "slide" in network.modalities else []
            for network in networks
        ]
        if len(bags) > 1:
            for own in filter(None, pools):
                own[0].add_each(own[1:], bags)
            return pools
        (tiles,) = bags
        # On a CPU half precision is widened once for all pools, and always into the same memory.
        wide = None
        if self.device.type == "cpu" and tiles.element_size() == 2:
            wide = torch.empty(TILES_AT_A_TIME, tiles.shape[1])
        for part in torch.split(tiles, TILES_AT_A_TIME):
            placed = part.to(self.device) if wide is None else wide[: len(part)].copy_(part)
            for own in filter(None, pools):
                own[0].add(placed)
        return pools

    def _scale(self, combination: Combination) -> RiskScale:
        name = combination_name(combination)
        if name not in self.combinations:
            trained = ", ".join(sorted(self.combinations, key=len, reverse=True))
            raise InputError(f"the case has {name or 'no modality'}; this bundle was trained to score {trained}")
        return self.combinations[name]


class _Sums:
    """The members' weighted sum as it grows, with its terms and the attention of those that look at the slide."""

    def __init__(self, combination: Combination, modalities: Combination, tiles: int) -> None:
        self._combination, self._modalities = combination, modalities
        self._constant = 0.0
        self._terms: dict[Term, float] = {}
        self._risks: list[Tensor] = []
        self._attention, self._looking = torch.zeros(tiles, dtype=torch.float64), 0.0

    def add(self, fused: Fused, terms: Sequence[Term], weight: MemberWeight) -> None:
        """Add one member's risk, by its ``terms``."""
        factor = weight.weight / weight.scale
        self._risks.append(fused.risk.double())
        self._constant += factor * (float(fused.bias) - weight.location)
        for term, value in zip(terms, fused.terms[0].tolist(), strict=True):
            self._terms[term] = self._terms.get(term, 0.0) + factor * value
        if fused.attention.shape[-1]:
            self._attention += weight.weight * fused.attention[0].double()
            self._looking += weight.weight

    def scaled(self, scale: RiskScale) -> EnsembleRisk:
        """The sum on the reference risks' scale."""
        baseline = (self._constant - scale.location) / scale.scale
        values = {term: value / scale.scale for term, value in self._terms.items()}
        risk = baseline + sum(values.values())
        terms: dict[str, float] = {}
        for term, value in values.items():
            name = term.name(self._combination)
            if name is None:
                baseline += value
            else:
                terms[name] = terms.get(name, 0.0) + value
        terms = {name: terms[name] for name in in_order(terms, self._modalities)}
        attention = self._attention / self._looking if self._looking else None
        name = combination_name(self._combination)
        return EnsembleRisk(name, risk, baseline, terms, torch.cat(self._risks), attention)
