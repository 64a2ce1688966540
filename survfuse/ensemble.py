"""All members in one batched pass, and their weighted sum on the scale of the reference risks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from survfuse.bundle import Scale, Standing
from survfuse.combinations import Combination, name_of, ordered
from survfuse.errors import InputError
from survfuse.fusion import Fused, Sizes, build


@dataclass(frozen=True)
class Member:
    """One trained network, and how it counts under each combination of modalities that it scores."""

    family: str
    sizes: Sizes
    standings: Mapping[str, Standing]
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
    """Members stacked by shape, so that each group of equal networks runs as one batched pass."""

    def __init__(
        self, members: Sequence[Member], combinations: Mapping[str, Scale], device: torch.device | str = "cpu"
    ) -> None:
        self.members = list(members)
        self.combinations = dict(combinations)
        self.device = torch.device(device)
        self._groups = [_Group(self.members, rows, self.device) for rows in _equal_shapes(members)]

    @torch.inference_mode()
    def __call__(
        self, tiles: Tensor | None = None, rna: Tensor | None = None, clinical: Tensor | None = None
    ) -> EnsembleRisk:
        """One case: tiles [N, D], rna [G], clinical [C], all float32; None where it lacks that modality.

        Raises InputError for a combination of modalities that the ensemble was not trained to score.
        """
        given = {"slide": tiles, "rna": rna, "clinical": clinical}
        combination = ordered(name for name, value in given.items() if value is not None)
        scale = self._scale(combination)
        case = [value.to(self.device).unsqueeze(0) if value is not None else None for value in given.values()]
        baseline, terms, risks = -scale.location, dict[str, float](), []
        attention, looking = (torch.zeros(len(tiles), dtype=torch.float64) if tiles is not None else None), 0.0
        for group in self._groups:
            standings = [self.members[row].standings.get(name_of(combination)) for row in group.rows]
            if not any(standings):
                continue
            fused = group(*case)
            weight, location, divisor = _columns(standings)
            factor = weight / divisor
            counts = weight > 0.0
            risks.append(fused.risk[:, 0].double().cpu()[counts])
            baseline += float(factor @ (fused.bias.double().cpu() - location))
            contribution = factor @ fused.terms[:, 0].double().cpu()
            for name, value in zip(group.terms, contribution.tolist(), strict=True):
                terms[name] = terms.get(name, 0.0) + value / scale.scale
            if attention is not None and fused.attention.shape[-1]:
                attention += weight @ fused.attention[:, 0].double().cpu()
                looking += float(weight.sum())
        baseline /= scale.scale
        seen = attention / looking if attention is not None and looking else None
        return EnsembleRisk(
            name_of(combination), baseline + sum(terms.values()), baseline, terms, torch.cat(risks), seen
        )

    def _scale(self, combination: Combination) -> Scale:
        name = name_of(combination)
        if name not in self.combinations:
            trained = ", ".join(sorted(self.combinations, key=len, reverse=True))
            raise InputError(f"the case has {name or 'no modality'}; this bundle was trained to score {trained}")
        return self.combinations[name]


class _Group:
    """Networks of one family and size, their weights stacked along a leading member axis."""

    def __init__(self, members: Sequence[Member], rows: list[int], device: torch.device) -> None:
        self.rows = rows
        with torch.device("meta"):
            self._network = build(members[rows[0]].family, members[rows[0]].sizes).eval()
        self.terms = self._network.terms
        states = [members[row].state for row in rows]
        self._stacked = {name: torch.stack([state[name] for state in states]).to(device) for name in states[0]}

    def __call__(self, *case: Tensor | None) -> Fused:
        def one(state: dict[str, Tensor]) -> Fused:
            return functional_call(self._network, state, case)

        return vmap(one)(self._stacked)


def _columns(standings: Sequence[Standing | None]) -> tuple[Tensor, Tensor, Tensor]:
    """(weight, location, scale), each [m] float64; a member without a standing weighs nothing."""
    numbers = [(s.weight, s.location, s.scale) if s else (0.0, 0.0, 1.0) for s in standings]
    weight, location, scale = torch.tensor(numbers, dtype=torch.float64).unbind(1)
    return weight, location, scale


def _equal_shapes(members: Sequence[Member]) -> list[list[int]]:
    groups: dict[tuple[str, Sizes], list[int]] = {}
    for row, member in enumerate(members):
        groups.setdefault((member.family, member.sizes), []).append(row)
    return list(groups.values())
