"""Tiles for a step of fitting: a sample of each bag, drawn anew for each epoch."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import numpy as np
import torch
from torch import Tensor

from survfuse.cohort.bags import Bag
from survfuse.runtime.arrays import Rows


class TileSampler:
    """``tiles`` of each bag, drawn without repeating and the same for all members."""

    def __init__(self, bags: Sequence[Bag], tiles: int, seed: int, device: torch.device) -> None:
        self._bags = bags
        self._tiles = min(tiles, max(bag.tiles for bag in bags))
        self._seed = seed
        self._device = device
        self._all: tuple[Tensor, Tensor] | None = None
        if self._tiles >= max(bag.tiles for bag in bags):
            self._all = self._placed(self._gather([None] * len(bags)))

    def __call__(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Tiles [n, T, D] and which of them are present [n, T]; a bag of fewer tiles gives them all."""
        return self._placed(self._sample(epoch)) if self._all is None else self._all

    def epochs(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The tiles of epochs 1 to ``number``; those of the next are read by a thread while one's are in use."""
        if self._all is not None:
            yield from repeat(self._all, number)
            return
        with ThreadPoolExecutor(1, thread_name_prefix="reader") as reader:
            coming = reader.submit(self._sample, 1)
            for epoch in range(1, number + 1):
                sample = coming.result()
                if epoch < number:
                    coming = reader.submit(self._sample, epoch + 1)
                yield self._placed(sample)

    def _sample(self, epoch: int) -> tuple[Tensor, Tensor]:
        """The tiles of an epoch, on the CPU."""
        random = np.random.default_rng([self._seed, epoch])
        return self._gather([self._draw(bag.tiles, random) for bag in self._bags])

    def _placed(self, sample: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        tiles, present = sample
        return tiles.to(self._device), present.to(self._device)

    def _draw(self, tiles: int, random: np.random.Generator) -> Rows | None:
        return None if tiles <= self._tiles else np.sort(random.choice(tiles, self._tiles, replace=False))

    def _gather(self, rows: Sequence[Rows | None]) -> tuple[Tensor, Tensor]:
        tiles = torch.zeros(len(rows), self._tiles, self._bags[0].dimension)
        present = torch.zeros(len(rows), self._tiles, dtype=torch.bool)
        for place, (bag, chosen) in enumerate(zip(self._bags, rows, strict=True)):
            drawn = bag.rows(chosen)
            tiles[place, : len(drawn)] = drawn
            present[place, : len(drawn)] = True
        return tiles, present
