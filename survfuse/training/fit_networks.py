"""Members of one family fitted together: their weights stacked along a leading axis, one pass for all.

Each keeps its own patients, seed, dropout and best epoch, so the result is that of fitting it alone.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, vmap

from survfuse.cohort.bags import Bag
from survfuse.networks.families import build
from survfuse.networks.fusion import Network
from survfuse.networks.sizes import Sizes
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import progress
from survfuse.survival.partial_likelihood import EfronLoss
from survfuse.tasks.modalities import MODALITIES, Combination, all_combinations
from survfuse.training.member import Fitted, Prepared
from survfuse.training.protocol import Optimisation


class TileSampler:
    """Tiles for a step: ``tiles`` of each bag, drawn anew for each epoch and alike for all members."""

    def __init__(self, bags: Sequence[Bag], tiles: int, seed: int, device: torch.device) -> None:
        self._bags = bags
        self._tiles = min(tiles, max(bag.tiles for bag in bags))
        self._seed = seed
        self._device = device
        self._all: tuple[Tensor, Tensor] | None = None
        if self._tiles >= max(bag.tiles for bag in bags):
            self._all = self._gather([None] * len(bags))

    def __call__(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Tiles [n, T, D] and which of them are present [n, T]; a bag of fewer tiles gives them all."""
        if self._all is not None:
            return self._all
        random = np.random.default_rng([self._seed, epoch])
        return self._gather([self._draw(bag.tiles, random) for bag in self._bags])

    def _draw(self, tiles: int, random: np.random.Generator) -> NDArray[np.int64] | None:
        return None if tiles <= self._tiles else np.sort(random.choice(tiles, self._tiles, replace=False))

    def _gather(self, rows: Sequence[NDArray[np.int64] | None]) -> tuple[Tensor, Tensor]:
        tiles = torch.zeros(len(rows), self._tiles, self._bags[0].dimension)
        present = torch.zeros(len(rows), self._tiles, dtype=torch.bool)
        for place, (bag, chosen) in enumerate(zip(self._bags, rows, strict=True)):
            drawn = bag.rows(chosen)
            tiles[place, : len(drawn)] = drawn
            present[place, : len(drawn)] = True
        return tiles.to(self._device), present.to(self._device)


def fit_stack(
    family: str,
    sizes: Sizes,
    members: Sequence[Prepared],
    bags: Sequence[Bag] | None,
    times: NDArray[np.float64],
    events: NDArray[np.bool_],
    optimisation: Optimisation,
    seed: int,
    device: torch.device,
) -> list[Fitted]:
    """Fit ``members`` networks of ``family``, each to its split's fitted patients, stopped by its inner ones.

    ``sizes`` are those inside the fixed input maps (genes: the number of components). Raises InputError where a
    member's inner loss is never finite.
    """
    stack = _Stack(family, sizes, members, times, events, optimisation, device)
    slide = "slide" in stack.network.modalities
    drawn = TileSampler(bags, optimisation.tiles, seed, device) if slide else None
    fixed = TileSampler(bags, 4 * optimisation.tiles, seed, device)(0) if slide else None
    for epoch in progress(range(1, optimisation.epochs + 1), optimisation.epochs, f"{family}, epoch"):
        stack.step(drawn(epoch) if drawn else None)
        if not stack.judge(epoch, fixed):
            break
    return stack.results()


class _Stack:
    """The members still being fitted, and the best weights of all."""

    def __init__(
        self,
        family: str,
        sizes: Sizes,
        members: Sequence[Prepared],
        times: NDArray[np.float64],
        events: NDArray[np.bool_],
        optimisation: Optimisation,
        device: torch.device,
    ) -> None:
        self.optimisation = optimisation
        self.members = members
        self.device = device
        networks = []
        for member in members:
            torch.manual_seed(member.seed)
            networks.append(build(family, sizes))
        self.network: Network = networks[0].to(device)
        self.parameters = {
            name: torch.stack([dict(network.named_parameters())[name].detach() for network in networks]).to(device)
            for name in dict(networks[0].named_parameters())
        }
        self.optimiser = self._optimiser()
        self.best = {name: value.clone() for name, value in self.parameters.items()}
        # Streams of their own: what a member draws does not hang on who is fitted beside it.
        self.random = [np.random.Generator(np.random.SFC64([member.seed, 1])) for member in members]
        self.active = torch.arange(len(members))
        self.fitted = _Rows([member.split.fitted for member in members])
        self.inner = _Rows([member.split.inner for member in members])
        self.loss, self.inner_loss = (
            EfronLoss([(times[rows], events[rows]) for rows in part.rows]) for part in (self.fitted, self.inner)
        )
        self.best_loss = np.full(len(members), np.inf)
        self.best_epoch = np.zeros(len(members), dtype=np.int64)
        self.curves: list[tuple[list[float], list[float]]] = [([], []) for _ in members]
        self.combinations = all_combinations(self.network.modalities) if sizes.stand_ins else [self.network.modalities]
        self.judged: list[list[Tensor]] = [[] for _ in members]  # [combinations, inner patients] of each epoch

    def step(self, sampled: tuple[Tensor, Tensor] | None) -> None:
        """One step of every active member over all of its fitted patients."""
        tiles = sampled[0].shape[1] if sampled else 0
        keep, available = self._dropout(tiles)
        risks = self._risks(_Scored(self.network), self.fitted, sampled, keep, available)
        losses = self.loss.of(self.active)(risks.cpu())
        self.optimiser.zero_grad()
        # Members share no weight, so the gradient of the sum is each one's own.
        losses.sum().backward()
        self.optimiser.step()
        for place, value in zip(self.active.tolist(), losses.tolist(), strict=True):
            self.curves[place][0].append(value)

    @torch.no_grad()
    def judge(self, epoch: int, sampled: tuple[Tensor, Tensor] | None) -> bool:
        """Keep the weights of members that now predict their inner patients best, and let those go whose patience
        has run out; returns whether any is left."""
        risks = self._risks(_Judged(self.network, self.combinations), self.inner, sampled, None, None).cpu()
        losses = self.inner_loss.of(self.active)(risks[:, 0]).numpy()  # with all modalities, which come first
        places = self.active.numpy()
        for at, place in enumerate(places):
            self.curves[place][1].append(float(losses[at]))
            self.judged[place].append(risks[at, :, : len(self.inner.rows[place])])
        better = np.isfinite(losses) & (losses < self.best_loss[places])
        self.best_loss[places[better]] = losses[better]
        self.best_epoch[places[better]] = epoch
        improved = torch.from_numpy(np.flatnonzero(better))
        for name, value in self.parameters.items():
            self.best[name][self.active[improved]] = value.detach()[improved]
        left = np.flatnonzero(epoch - self.best_epoch[places] < self.optimisation.patience)
        if len(left) < len(places):
            self._keep(torch.from_numpy(left))
        return len(left) > 0

    def results(self) -> list[Fitted]:
        if not np.isfinite(self.best_loss).all():
            raise InputError("training diverged: a member's inner loss was never finite; try a lower learning rate")
        return [
            Fitted(
                {name: value[place].cpu().clone() for name, value in self.best.items()},
                int(self.best_epoch[place]),
                *map(tuple, self.curves[place]),
                dict(zip(self.combinations, torch.stack(self.judged[place], dim=1), strict=True)),
            )
            for place in range(len(self.members))
        ]

    def _optimiser(self) -> torch.optim.AdamW:
        for value in self.parameters.values():
            value.requires_grad_()
        rates = {"lr": self.optimisation.learning_rate, "weight_decay": self.optimisation.weight_decay}
        return torch.optim.AdamW(self.parameters.values(), fused=True, **rates)

    def _keep(self, left: Tensor) -> None:
        """Go on with the members at ``left`` of the active ones, their optimiser's moments with them."""
        before = self.optimiser.state_dict()["state"]
        self.active = self.active[left]
        self.parameters = {name: value.detach()[left].clone() for name, value in self.parameters.items()}
        self.optimiser = self._optimiser()
        after = self.optimiser.state_dict()
        after["state"] = {
            number: {key: value[left] if value.ndim else value for key, value in moments.items()}
            for number, moments in before.items()
        }
        self.optimiser.load_state_dict(after)

    def _risks(
        self,
        scored: "_Scored | _Judged",
        part: "_Rows",
        sampled: tuple[Tensor, Tensor] | None,
        keep: dict[str, Tensor] | None,
        available: Tensor | None,
    ) -> Tensor:
        """What ``scored`` gives of each active member for its own patients [m, …, P], padded with the first of them."""
        active = self.active.tolist()
        rows = part.padded[self.active]
        inputs: dict[str, Tensor | dict[str, Tensor]] = {}
        if "slide" in self.network.modalities and sampled is not None:
            inputs["tiles"], inputs["present"] = (value[rows] for value in sampled)
        for name in ("rna", "clinical"):
            if name in self.network.modalities:
                values = [getattr(self.members[place], name)[rows[at]] for at, place in enumerate(active)]
                inputs[name] = torch.stack(values).to(self.device)
        if keep:
            inputs["keep"] = keep
        if available is not None:
            inputs["available"] = available

        def one(parameters: dict[str, Tensor], inputs: dict[str, Tensor]) -> Tensor:
            absent = {name: None for name in ("tiles", "rna", "clinical") if name not in inputs}
            named = {f"network.{name}": value for name, value in parameters.items()}
            return functional_call(scored, named, kwargs=absent | inputs)

        return vmap(one)(self.parameters, inputs)

    def _dropout(self, tiles: int) -> tuple[dict[str, Tensor], Tensor | None]:
        """Masks of ones and zeros for every active member's patients, and which modalities they show."""
        active = self.active.tolist()
        patients = self.fitted.padded.shape[1]
        sizes = self.network.sizes
        keep = {}
        for name, (shape, rate) in self.network.dropout(tiles).items():
            drop = round(256 * rate)  # a byte of randomness for each unit
            masks = np.empty((len(active), patients, *shape), dtype=bool)
            for at, place in enumerate(active):
                number = len(self.fitted.rows[place])
                drawn = np.frombuffer(self.random[place].bytes(number * int(np.prod(shape))), dtype=np.uint8)
                np.greater_equal(drawn.reshape(number, *shape), drop, out=masks[at, :number])
                masks[at, number:] = True
            keep[name] = torch.from_numpy(masks).to(self.device)
        if not sizes.stand_ins:
            return keep, None
        shown = np.ones((len(active), patients, len(MODALITIES)), dtype=bool)
        for at, place in enumerate(active):
            number = len(self.fitted.rows[place])
            shown[at, :number] = self._shown(self.random[place], number)
        return keep, torch.from_numpy(shown).to(self.device)

    def _shown(self, random: np.random.Generator, patients: int) -> NDArray[np.bool_]:
        """Which modalities [P, 3] a step shows of each patient; one at least of the network's own."""
        own = [MODALITIES.index(modality) for modality in self.network.modalities]
        shown = random.random((patients, len(MODALITIES))) >= self.optimisation.modality_dropout
        blind = ~shown[:, own].any(axis=1)
        shown[blind] = True
        return shown


class _Scored(torch.nn.Module):
    """A network's risks [P] of its cases."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, **case: Tensor) -> Tensor:
        return self.network(**case).risk


class _Judged(torch.nn.Module):
    """A network's risks [combinations, P] of its cases under each combination of modalities, encoded once."""

    def __init__(self, network: Network, combinations: Sequence[Combination]) -> None:
        super().__init__()
        self.network = network
        self.combinations = combinations

    def forward(self, **case: Tensor) -> Tensor:
        vectors, attention = self.network.encode(**case)
        given = [{name: vectors[name] for name in combination} for combination in self.combinations]
        return torch.stack([self.network.fuse(some, attention).risk for some in given])


class _Rows:
    """Rows of the cohort for each member, padded to one length with the first."""

    def __init__(self, rows: Sequence[NDArray[np.int64]]) -> None:
        self.rows = list(rows)
        longest = max(map(len, rows))
        self.padded = torch.stack(
            [torch.from_numpy(np.pad(part, (0, longest - len(part)), constant_values=part[0])) for part in rows]
        )


def inner_sizes(sizes: Sizes, stand_ins: bool) -> Sizes:
    """The sizes of the network that stands behind the fixed input maps of one with ``sizes``."""
    genes = sizes.components or sizes.genes
    return replace(sizes, genes=genes, components=0, standardised=False, stand_ins=stand_ins)
