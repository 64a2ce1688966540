"""Clusters of a fold's tiles, and every patient's shares of them: what linear Cox models see of a slide."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor

from survfuse.cohort.bags import Bag
from survfuse.networks.cox import cluster_shares
from survfuse.runtime.arrays import Rows

_TILES_CLUSTERED = 64  # of each patient


@dataclass(frozen=True)
class TileClusters:
    """Tile clusters of a fold, by its training patients' tiles, and every patient's shares of them."""

    centres: Tensor  # [K, D]
    shares: Tensor  # [n, K]

    @classmethod
    def fit(cls, bags: Sequence[Bag], training: Rows, number: int, seed: int) -> "TileClusters":
        """``number`` clusters (k-means) of tiles drawn from the bags of the patients at ``training``."""
        random = np.random.default_rng(seed)
        drawn = []
        for row in training:
            bag = bags[row]
            most = min(_TILES_CLUSTERED, bag.tiles)
            drawn.append(bag.rows(np.sort(random.choice(bag.tiles, most, replace=False))).numpy())
        tiles = np.concatenate(drawn)
        # One thread: the sums behind the clusters then have the same order on every machine.
        with threadpool_limits(1):
            model = KMeans(min(number, len(tiles)), n_init=3, random_state=seed).fit(tiles)
        centres = torch.from_numpy(model.cluster_centers_).float()
        if len(centres) < number:
            centres = torch.cat([centres, centres[:1].expand(number - len(centres), -1)])
        return cls(centres, torch.stack([bag_shares(bag, centres) for bag in bags]))


def bag_shares(bag: Bag, centres: Tensor) -> Tensor:
    """Share [K] of a bag's tiles that are nearest to each of ``centres`` [K, D], read in chunks."""
    total = torch.zeros(len(centres))
    for tiles in bag.chunks(8192):
        total += cluster_shares(tiles[None], None, centres)[0][0] * len(tiles)
    return total / bag.tiles
