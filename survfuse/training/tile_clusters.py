"""Clusters of a fold's tiles, and every patient's shares of them: what linear Cox models see of a slide."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor

from survfuse.cohort.bags import Bag
from survfuse.cohort.bags_ahead import read_ahead
from survfuse.networks.cox import cluster_shares
from survfuse.runtime.arrays import Rows
from survfuse.runtime.log import progress
from survfuse.training.folds import Split
from survfuse.training.tile_batches import batches, padded

_TILES_CLUSTERED = 64  # of each patient
_CHUNK = 8192  # tiles whose clusters are found at a time


@dataclass(frozen=True)
class TileClusters:
    """Tile clusters of a fold, by its training patients' tiles, and every patient's shares of them."""

    centres: Tensor  # [K, D]
    shares: Tensor  # [n, K]
    scored: Mapping[str, Tensor] = field(default_factory=dict)  # by split: [patients that it scores, K]

    @classmethod
    def fit(cls, bags: Sequence[Bag], training: Rows, number: int, seed: int) -> "TileClusters":
        """``number`` clusters (k-means) of tiles drawn from the bags of the patients at ``training``."""
        centres = fit_centres(bags, training, number, seed)
        return in_one_pass(bags, [centres], [[]], torch.device("cpu"))[0]


def fit_centres(bags: Sequence[Bag], training: Rows, number: int, seed: int) -> Tensor:
    """Centres [number, D] of clusters (k-means) of tiles drawn from the bags of the patients at ``training``."""
    random = np.random.default_rng(seed)
    lengths = [min(_TILES_CLUSTERED, bags[row].tiles) for row in training]
    tiles = np.empty((sum(lengths), bags[0].dimension), dtype=np.float32)
    ends = np.cumsum(lengths)
    for row, end, length in zip(training, ends, lengths, strict=True):
        bag = bags[row]
        tiles[end - length : end] = bag.rows(np.sort(random.choice(bag.tiles, length, replace=False))).numpy()
    # One thread: the sums behind the clusters then have the same order on every machine. In place, the tiles of a large
    # cohort, a gigabyte, are held once.
    with threadpool_limits(1):
        model = KMeans(min(number, len(tiles)), n_init=3, random_state=seed, copy_x=False).fit(tiles)
    centres = torch.from_numpy(model.cluster_centers_).float()
    if len(centres) < number:
        centres = torch.cat([centres, centres[:1].expand(number - len(centres), -1)])
    return centres


def in_one_pass(
    bags: Sequence[Bag], centres: Sequence[Tensor], splits: Sequence[Sequence[Split]], device: torch.device
) -> list[TileClusters]:
    """The clusters of several folds with ``centres`` [K, D] each, and with what they see of the fold's ``splits``.

    Slides are read in the order of the patients, each from its file only once if the system can keep a few in memory.
    What networks of linear models would make of the slides that they score is computed on ``device``, in the batches
    that they would read.
    """
    shares: list[list[Tensor]] = [[] for _ in centres]
    scored = [
        {split.name: torch.zeros(len(split.scored), len(own)) for split in part}
        for own, part in zip(centres, splits, strict=True)
    ]
    placed = [own.to(device) for own in centres]
    beginning = _by_first(bags, splits)
    for row in progress(read_ahead((row, [bag]) for row, bag in enumerate(bags)), len(bags), "slides"):
        bag = bags[row]
        for found, own in zip(shares, bag_shares(bag, centres), strict=True):
            found.append(own)
        for together, wanted in beginning.get(row, {}).items():
            tiles, present = padded(bags, together, device)
            for fold, places in wanted.items():
                vectors = cluster_shares(tiles, present, placed[fold])[0].cpu()
                for split, at in places:
                    scored[fold][split][at : at + len(together)] = vectors
    return [TileClusters(*each) for each in zip(centres, map(torch.stack, shares), scored, strict=True)]


_Batches = dict[tuple[int, ...], dict[int, list[tuple[str, int]]]]  # patients → fold → splits, and where among theirs


def _by_first(bags: Sequence[Bag], splits: Sequence[Sequence[Split]]) -> Mapping[int, _Batches]:
    """The batches of patients that any of ``splits`` scores, by the row of their first patient."""
    found: dict[int, _Batches] = defaultdict(dict)
    for fold, part in enumerate(splits):
        for split in part:
            at = 0
            for batch in batches(bags, split.scored.tolist()):
                wanted = found[batch[0]].setdefault(tuple(batch), {})
                wanted.setdefault(fold, []).append((split.name, at))
                at += len(batch)
    return found


def bag_shares(bag: Bag, centres: Sequence[Tensor]) -> list[Tensor]:
    """Share [K] of a bag's tiles that are nearest to each of some centres [K, D], for several; read once, in chunks."""
    totals = [torch.zeros(len(own)) for own in centres]
    for tiles in bag.chunks(_CHUNK):
        for total, own in zip(totals, centres, strict=True):
            total += cluster_shares(tiles[None], None, own)[0][0] * len(tiles)
    return [total / bag.tiles for total in totals]
