"""Whole bags of several patients in one batch, by which members score them."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from survfuse.cohort.bags import Bag

_TILES_AT_ONCE = 16_384


def batches(bags: Sequence[Bag], rows: Sequence[int]) -> Iterator[list[int]]:
    """The patients at ``rows`` in their order, as many together as hold 16,384 tiles once they are padded."""
    pending: list[int] = []
    for row in rows:
        longest = max([bags[other].tiles for other in pending] + [bags[row].tiles])
        if pending and longest * (len(pending) + 1) > _TILES_AT_ONCE:
            yield pending
            pending = []
        pending.append(row)
    if pending:
        yield pending


def padded(bags: Sequence[Bag], rows: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """The patients' whole bags padded to one length [P, N, D], and which of the tiles are present [P, N]."""
    lengths = torch.tensor([bags[row].tiles for row in rows])
    tiles = torch.nn.utils.rnn.pad_sequence([bags[row].rows(None) for row in rows], batch_first=True)
    return tiles.to(device), (torch.arange(tiles.shape[1]) < lengths[:, None]).to(device)
