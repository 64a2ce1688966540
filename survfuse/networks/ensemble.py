"""All members in one pass over the tiles, and their weighted sum on the scale of the reference risks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from survfuse.networks.build import build_with
from survfuse.networks.families import Family
from survfuse.networks.network import Network
from survfuse.networks.online_softmax import Pool
from survfuse.networks.sizes import Sizes
from survfuse.networks.terms import Term, in_order
from survfuse.networks.weighting import MemberWeight, RiskScale
from survfuse.runtime.errors import InputError
from survfuse.runtime.row_source import Rows2D
from survfuse.tasks.modalities import Combination, combination_name, ordered, parse_combination
from survfuse.tasks.task import VECTOR

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


_FIELDS = {"slide": "tiles", "rna": "rna", "clinical": "clinical", VECTOR: "vector"}  # of Tensors, by modality


@dataclass(frozen=True)
class Tensors:
    """One case: tiles [N, D] of any floating type; rna [G], clinical [C] and a slide-level vector [V] in float32.

    None stands for a modality that it lacks.
    """

    tiles: Rows2D | None
    rna: Tensor | None
    clinical: Tensor | None
    vector: Tensor | None = None

    @property
    def given(self) -> Combination:
        """The modalities that it has."""
        return tuple(name for name, field in _FIELDS.items() if getattr(self, field) is not None)

    @property
    def length(self) -> int:
        """N; 0 without a slide."""
        return len(self.tiles) if self.tiles is not None else 0

    def only(self, modalities: Combination) -> "Tensors":
        """The same case without its other modalities."""
        return replace(self, **{field: None for name, field in _FIELDS.items() if name not in modalities})

    @staticmethod
    def batch(vector: Tensor | None) -> Tensor | None:
        """A batch [1, …] of one vector."""
        return vector.unsqueeze(0) if vector is not None else None


class Scoring(NamedTuple):
    """A member that scores a combination of modalities."""

    place: int  # among the ensemble's members
    network: Network
    weight: MemberWeight


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
        tiles: Rows2D | None = None,
        rna: Tensor | None = None,
        clinical: Tensor | None = None,
        half: bool = False,
        vector: Tensor | None = None,
    ) -> EnsembleRisk:
        """Score one case: tiles [N, D] of any floating type, rna [G], clinical [C] and a slide-level vector [V] in
        float32; None if it lacks that modality.

        With ``half``, for tiles of half precision on a GPU, the layers over tiles run in fp16 and their sums in
        float32; if fp16 overflows, everything runs in float32.

        Raises InputError for a combination of modalities that the ensemble was not trained to score.
        """
        return self.together([Tensors(tiles, rna, clinical, vector)], half)[0]

    @torch.inference_mode()
    def together(self, cases: "Sequence[Tensors]", half: bool = False) -> list[EnsembleRisk]:
        """Score several cases that have the same modalities, each as it is scored alone, but for rounding in float32.

        For cases of a few tiles: a network's layers over tiles run once for all of them.
        """
        combination = ordered(cases[0].given, self.modalities)
        scale = self.scale(combination)
        scoring = self.scoring(combination)
        pools = self.pooled([each.network for each in scoring], [c.tiles for c in cases if c.tiles is not None], half)
        sums = [_Sums(combination, self.modalities, case.length) for case in cases]
        for each, own in zip(scoring, pools, strict=True):
            for place, case in enumerate(cases):
                sums[place].add(each, case, own[place] if own else None)
        return [each.scaled(scale) for each in sums]

    @torch.inference_mode()
    def pools(self, tiles: Rows2D | None, half: bool = False) -> list[Pool | None]:
        """The bag of ``tiles`` [N, D] as each member pools it; None for those that do not look at the slide.

        With them ``fused`` scores a case under several combinations, and its tiles pass through the networks once.
        """
        pools = self.pooled(self._networks, [tiles] if tiles is not None else [], half)
        return [own[0] if own else None for own in pools]

    @torch.inference_mode()
    def fused(self, case: Tensors, pools: Sequence[Pool | None]) -> EnsembleRisk:
        """Score a case whose tiles are in ``pools``, one for each member, as ``together`` scores it.

        Raises InputError for a combination of modalities that the ensemble was not trained to score.
        """
        combination = ordered(case.given, self.modalities)
        scale, sums = self.scale(combination), _Sums(combination, self.modalities, case.length)
        for each in self.scoring(combination):
            sums.add(each, case, pools[each.place] if case.tiles is not None else None)
        return sums.scaled(scale)

    def absent_slides(self) -> list[Tensor | None]:
        """The slide vector [width] that each member takes for a case without a slide: its stand-in, or zeros.

        None for members that do not look at slides.
        """
        return [network.absent("slide") if "slide" in network.modalities else None for network in self._networks]

    def scoring(self, combination: Combination) -> list[Scoring]:
        """The members that score cases with the modalities of ``combination``."""
        name = combination_name(combination)
        members = enumerate(zip(self._networks, self.members, strict=True))
        return [
            Scoring(place, network, weight)
            for place, (network, member) in members
            if (weight := member.standings.get(name))
        ]

    def pooled(self, networks: list[Network], bags: Sequence[Rows2D], half: bool = False) -> list[list[Pool]]:
        """Each network's bags, one for each of ``bags`` [N, D]; none if it does not look at the slide.

        Without ``half``, and wherever half precision overflows, in float32.
        """
        pools = self._pooled(networks, bags, half)
        if half and not all(pool.result()[0].isfinite().all() for own in pools for pool in own):
            pools = self._pooled(networks, bags, False)
        return pools

    def parts_of(self, tiles: Rows2D) -> Iterator[Tensor]:
        """Tiles [N, D] in parts that are processed at once, where layers over tiles run.

        A part is valid until the next: on a CPU half precision is widened into the same memory.
        """
        wide = None
        if self.device.type == "cpu" and tiles.element_size() == 2:
            wide = torch.empty(TILES_AT_A_TIME, tiles.shape[1])
        for start in range(0, len(tiles), TILES_AT_A_TIME):
            part = tiles[start : start + TILES_AT_A_TIME]
            yield part.to(self.device) if wide is None else wide[: len(part)].copy_(part)

    def _pooled(self, networks: list[Network], bags: Sequence[Rows2D], half: bool) -> list[list[Pool]]:
        if not bags:
            return [[] for _ in networks]
        pools = [
            [network.pool(len(tiles), self.device, half) for tiles in bags] if "slide" in network.modalities else []
            for network in networks
        ]
        if len(bags) > 1:
            for own in filter(None, pools):
                own[0].add_each(own[1:], [tiles[:] for tiles in bags])
            return pools
        for part in self.parts_of(bags[0]):  # placed, and widened, once for all pools
            for own in filter(None, pools):
                own[0].add(part)
        return pools

    def scale(self, combination: Combination) -> RiskScale:
        """What puts the members' sum on the reference risks' scale; raises InputError for a combination that the
        ensemble was not trained to score."""
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

    def add(self, scoring: Scoring, case: Tensors, pool: Pool | None) -> None:
        """Add one member's risk of ``case``, whose tiles are in ``pool``, by the network's terms."""
        network, weight = scoring.network, scoring.weight
        rna, clinical, vector = (case.batch(values) for values in (case.rna, case.clinical, case.vector))
        fused = network.fuse(*network.encode(None, rna, clinical, pool=pool, vector=vector))
        factor = weight.weight / weight.scale
        self._risks.append(fused.risk.double())
        self._constant += factor * (float(fused.bias) - weight.location)
        for term, value in zip(network.terms, fused.terms[0].tolist(), strict=True):
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
