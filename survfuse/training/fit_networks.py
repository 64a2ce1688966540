"""Networks of one family fitted together: their weights are stacked along a leading axis, with one pass for all.

Each keeps its own patients, seed, dropout and best epoch, so the result is the same as if it were fitted alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import repeat

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, vmap

from survfuse.cohort.bags import Bag
from survfuse.networks.build import build
from survfuse.networks.families import Family
from survfuse.networks.network import Network
from survfuse.networks.sizes import Sizes
from survfuse.runtime.arrays import Bools, Floats, Rows
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import progress
from survfuse.survival.partial_likelihood import EfronLoss
from survfuse.tasks.modalities import Combination, all_combinations
from survfuse.tasks.task import VECTOR
from survfuse.training.member import Fitted, Prepared
from survfuse.training.protocol import Optimisation
from survfuse.training.tile_sampler import TileSampler

Sampled = tuple[Tensor, Tensor]  # tiles [n, T, D] and which of them are present [n, T]


def fit_networks(
    family: Family,
    sizes: Sizes,
    members: Sequence[Prepared],
    bags: Sequence[Bag] | None,
    times: Floats,
    events: Bools,
    optimisation: Optimisation,
    seed: int,
    device: torch.device,
) -> list[Fitted]:
    """Fit ``members`` of ``family``, each to its split's fitted patients; its inner patients decide when it stops.

    ``sizes`` are those behind the fixed input maps (genes: the number of components), as ``inner_sizes`` gives them.
    ``times`` [n] are in months. AdamW (Loshchilov and Hutter 2019) on Cox's partial likelihood, full batches of
    patients. Raises InputError if a member's inner loss is never finite.
    """
    fitting = FittedTogether(family, sizes, members, times, events, optimisation, device)
    drawn: Iterator[Sampled | None] = repeat(None)
    fixed = None
    if "slide" in family.modalities:
        assert bags is not None
        drawn = TileSampler(bags, optimisation.tiles, seed, device).epochs(optimisation.epochs)
        fixed = TileSampler(bags, 4 * optimisation.tiles, seed, device)(0)
    for epoch in progress(range(1, optimisation.epochs + 1), optimisation.epochs, f"{family.name}, epoch"):
        fitting.step(next(drawn))
        if not fitting.keep_best(epoch, fixed):
            break
    return fitting.results()


def inner_sizes(sizes: Sizes) -> Sizes:
    """The sizes of the network behind the fixed input maps of one with ``sizes``."""
    return replace(
        sizes,
        genes=sizes.components or sizes.genes,
        components=0,
        vector=sizes.vector_components or sizes.vector,
        vector_components=0,
        standardised=False,
    )


class FittedTogether:
    """The members still being fitted, and the best weights of all."""

    def __init__(
        self,
        family: Family,
        sizes: Sizes,
        members: Sequence[Prepared],
        times: Floats,
        events: Bools,
        optimisation: Optimisation,
        device: torch.device,
    ) -> None:
        self._optimisation = optimisation
        self._members = members
        self._device = device
        networks = []
        for member in members:
            torch.manual_seed(member.seed)
            networks.append(build(family, sizes))
        # Stacked before the first network moves: it would take its own weights along, away from the others'.
        self._parameters = {
            name: torch.stack([dict(network.named_parameters())[name].detach() for network in networks]).to(device)
            for name in dict(networks[0].named_parameters())
        }
        self._network: Network = networks[0].to(device)
        self._optimiser = self._new_optimiser()
        self._best = {name: value.clone() for name, value in self._parameters.items()}
        # Each member has its own random stream, so that what it draws does not depend on the members fitted with it.
        self._random = [np.random.Generator(np.random.SFC64([member.seed, 1])) for member in members]
        self._active = torch.arange(len(members))
        self._fitted = _PaddedRows([member.split.fitted for member in members])
        self._inner = _PaddedRows([member.split.inner for member in members])
        self._loss, self._inner_loss = (
            EfronLoss([(times[rows], events[rows]) for rows in part.rows]) for part in (self._fitted, self._inner)
        )
        self._best_loss = np.full(len(members), np.inf)
        self._best_epoch = np.zeros(len(members), dtype=np.int64)
        self._training_losses: list[list[float]] = [[] for _ in members]
        self._inner_losses: list[list[float]] = [[] for _ in members]
        self._combinations = all_combinations(family.modalities) if sizes.stand_ins else [family.modalities]
        self._risks_by_epoch: list[list[Tensor]] = [[] for _ in members]  # each [combinations, inner patients]

    def step(self, sampled: Sampled | None) -> None:
        """One step of every active member over all of its fitted patients."""
        keep, available = self.masks(sampled[0].shape[1] if sampled else 0)
        risks = self._risks(_FullRisk(self._network), self._fitted, sampled, keep, available)
        losses = self._loss.of(self._active)(risks.cpu())
        self._optimiser.zero_grad()
        # Members share no weights, so the gradient of the sum is each member's own.
        losses.sum().backward()
        self._optimiser.step()
        for place, value in zip(self._active.tolist(), losses.tolist(), strict=True):
            self._training_losses[place].append(value)

    @torch.no_grad()
    def keep_best(self, epoch: int, sampled: Sampled | None) -> bool:
        """Keep the weights of members that predict their inner patients better than ever before, and stop those whose
        patience has run out; returns whether any member continues."""
        by_combination = _RisksByCombination(self._network, self._combinations)
        risks = self._risks(by_combination, self._inner, sampled, None, None).cpu()
        losses = self._inner_loss.of(self._active)(risks[:, 0]).numpy()  # with all modalities, which come first
        places = self._active.numpy()
        for at, place in enumerate(places):
            self._inner_losses[place].append(float(losses[at]))
            self._risks_by_epoch[place].append(risks[at, :, : len(self._inner.rows[place])])
        better = np.isfinite(losses) & (losses < self._best_loss[places])
        self._best_loss[places[better]] = losses[better]
        self._best_epoch[places[better]] = epoch
        improved = torch.from_numpy(np.flatnonzero(better))
        for name, value in self._parameters.items():
            self._best[name][self._active[improved]] = value.detach()[improved]
        left = np.flatnonzero(epoch - self._best_epoch[places] < self._optimisation.patience)
        if len(left) < len(places):
            self._go_on_with(torch.from_numpy(left))
        return len(left) > 0

    def results(self) -> list[Fitted]:
        """Each member at its best epoch; raises InputError if an inner loss was never finite."""
        if not np.isfinite(self._best_loss).all():
            raise InputError("training diverged: a member's inner loss was never finite; try a lower learning rate")
        return [
            Fitted(
                {name: value[place].cpu().clone() for name, value in self._best.items()},
                int(self._best_epoch[place]),
                tuple(self._training_losses[place]),
                tuple(self._inner_losses[place]),
                dict(zip(self._combinations, torch.stack(self._risks_by_epoch[place], dim=1), strict=True)),
            )
            for place in range(len(self._members))
        ]

    def masks(self, tiles: int) -> tuple[dict[str, Tensor], Tensor | None]:
        """Dropout masks of ones and zeros for every active member's patients, and which modalities they show.

        Masks [members, patients, …] by name, for bags of ``tiles`` tiles; modalities [members, patients, modalities
        of the task], None for networks without stand-ins.
        """
        active = self._active.tolist()
        patients = self._fitted.padded.shape[1]
        keep = {}
        for name, (shape, rate) in self._network.dropout(tiles).items():
            masks = np.empty((len(active), patients, *shape), dtype=bool)
            for at, place in enumerate(active):
                number = len(self._fitted.rows[place])
                _draw_mask(masks[at, :number], self._random[place], rate)
                masks[at, number:] = True
            keep[name] = torch.from_numpy(masks).to(self._device)
        if not self._network.sizes.stand_ins:
            return keep, None
        shown = np.ones((len(active), patients, len(self._network.family.task_modalities)), dtype=bool)
        for at, place in enumerate(active):
            number = len(self._fitted.rows[place])
            shown[at, :number] = self._shown(self._random[place], number)
        return keep, torch.from_numpy(shown).to(self._device)

    def _shown(self, random: np.random.Generator, patients: int) -> Bools:
        """Which modalities [P, modalities of the task] a step shows of each patient; at least one of the network's."""
        modalities = self._network.family.task_modalities
        own = [modalities.index(modality) for modality in self._network.modalities]
        shown: Bools = random.random((patients, len(modalities))) >= self._optimisation.modality_dropout
        blind = ~shown[:, own].any(axis=1)
        shown[blind] = True
        return shown

    def _new_optimiser(self) -> torch.optim.AdamW:
        for value in self._parameters.values():
            value.requires_grad_()
        rate, decay = self._optimisation.learning_rate, self._optimisation.weight_decay
        return torch.optim.AdamW(self._parameters.values(), lr=rate, weight_decay=decay, fused=True)

    def _go_on_with(self, left: Tensor) -> None:
        """Continue with the members at ``left`` of the active ones, and with their optimiser's moments."""
        before = self._optimiser.state_dict()["state"]
        self._active = self._active[left]
        self._parameters = {name: value.detach()[left].clone() for name, value in self._parameters.items()}
        self._optimiser = self._new_optimiser()
        after = self._optimiser.state_dict()
        after["state"] = {
            number: {key: value[left] if value.ndim else value for key, value in moments.items()}
            for number, moments in before.items()
        }
        self._optimiser.load_state_dict(after)

    def _risks(
        self,
        scoring: "_FullRisk | _RisksByCombination",
        part: "_PaddedRows",
        sampled: Sampled | None,
        keep: Mapping[str, Tensor] | None,
        available: Tensor | None,
    ) -> Tensor:
        """What ``scoring`` gives of each active member for its own patients [m, …, P], padded with the first of
        them."""
        rows = part.padded[self._active]
        case: dict[str, object] = {}
        if sampled is not None:
            case["tiles"], case["present"] = (value[rows] for value in sampled)
        for name in self._network.modalities:
            if name != "slide":
                members = [self._members[place] for place in self._active.tolist()]
                values = [member.inputs[name][rows[at]] for at, member in enumerate(members)]
                case[name] = torch.stack(values).to(self._device)
        if keep:
            case["keep"] = keep
        if available is not None:
            case["available"] = available
        absent = {name: None for name in ("tiles", "rna", "clinical", VECTOR) if name not in case}

        def one(parameters: dict[str, Tensor], case: dict[str, object]) -> Tensor:
            named = {f"network.{name}": value for name, value in parameters.items()}
            risks: Tensor = functional_call(scoring, named, kwargs=absent | case)
            return risks

        risks: Tensor = vmap(one)(self._parameters, case)
        return risks


def _draw_mask(mask: Bools, random: np.random.Generator, rate: float) -> None:
    """Fill ``mask``: False at about ``rate`` of its places. Each takes a byte of randomness."""
    drawn = np.frombuffer(random.bytes(mask.size), dtype=np.uint8)
    np.greater_equal(drawn.reshape(mask.shape), round(256 * rate), out=mask)


class _FullRisk(torch.nn.Module):
    """A network's risks [P] of its cases by all of its modalities, or by those that are available."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        tiles: Tensor | None,
        rna: Tensor | None,
        clinical: Tensor | None,
        present: Tensor | None = None,
        available: Tensor | None = None,
        keep: Mapping[str, Tensor] | None = None,
        vector: Tensor | None = None,
    ) -> Tensor:
        risk: Tensor = self.network(tiles, rna, clinical, present, available, keep, vector).risk
        return risk


class _RisksByCombination(torch.nn.Module):
    """A network's risks [combinations, P] of its cases by each combination of modalities, encoded once."""

    def __init__(self, network: Network, combinations: Sequence[Combination]) -> None:
        super().__init__()
        self.network = network
        self.combinations = combinations

    def forward(
        self,
        tiles: Tensor | None,
        rna: Tensor | None,
        clinical: Tensor | None,
        present: Tensor | None = None,
        vector: Tensor | None = None,
    ) -> Tensor:
        vectors, attention = self.network.encode(tiles, rna, clinical, present, vector=vector)
        given = [{name: vectors[name] for name in combination} for combination in self.combinations]
        return torch.stack([self.network.fuse(some, attention).risk for some in given])


class _PaddedRows:
    """Rows of the cohort for each member, padded to one length with the first of them."""

    def __init__(self, rows: Sequence[Rows]) -> None:
        self.rows = list(rows)
        longest = max(map(len, rows))
        self.padded = torch.stack(
            [torch.from_numpy(np.pad(part, (0, longest - len(part)), constant_values=part[0])) for part in rows]
        )
