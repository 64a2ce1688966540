"""A member's risks for a whole cohort, under every combination of modalities it can score."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from survfuse.cohort.bags import Bag
from survfuse.networks.fusion import Network
from survfuse.tasks.modalities import MODALITIES, Combination

_TILES_AT_ONCE = 16_384


@torch.inference_mode()
def network_risks(
    network: Network,
    bags: Sequence[Bag] | None,
    rna: Tensor | None,
    clinical: Tensor | None,
    combinations: Sequence[Combination],
    rows: Sequence[int],
    device: torch.device,
) -> dict[Combination, Tensor]:
    """Risks [len(rows)] float64 of the cohort's patients at ``rows``, every tile of theirs used.

    rna [n, genes] and clinical [n, C] are what ``network`` takes.
    """
    network = network.to(device).eval()
    if "slide" in network.modalities:
        assert bags is not None
        vectors = torch.cat([network.encode(*batch)[0]["slide"] for batch in _batches(bags, rows, device)])
    others = (value[list(rows)].to(device) if value is not None else None for value in (rna, clinical))
    encoded, attention = (
        network.encode(None, *others) if network.modalities != ("slide",) else ({}, vectors.new_zeros(len(vectors), 0))
    )
    if "slide" in network.modalities:
        encoded["slide"] = vectors
    found = {}
    for combination in combinations:
        available = torch.tensor([name in combination for name in MODALITIES], device=device).expand(len(rows), -1)
        complete = None if set(network.modalities) <= set(combination) else available
        found[combination] = network.fuse(encoded, attention, complete).risk.double().cpu()
    return found


def _batches(
    bags: Sequence[Bag], rows: Sequence[int], device: torch.device
) -> Iterator[tuple[Tensor, None, None, Tensor]]:
    """Whole bags padded to one length, as many together as hold _TILES_AT_ONCE tiles."""
    pending: list[int] = []
    for row in rows:
        longest = max([bags[other].tiles for other in pending] + [bags[row].tiles])
        if pending and longest * (len(pending) + 1) > _TILES_AT_ONCE:
            yield _padded(bags, pending, device)
            pending = []
        pending.append(row)
    if pending:
        yield _padded(bags, pending, device)


def _padded(bags: Sequence[Bag], rows: Sequence[int], device: torch.device) -> tuple[Tensor, None, None, Tensor]:
    lengths = torch.tensor([bags[row].tiles for row in rows])
    tiles = torch.nn.utils.rnn.pad_sequence([bags[row].rows(None) for row in rows], batch_first=True)
    return tiles.to(device), None, None, (torch.arange(tiles.shape[1]) < lengths[:, None]).to(device)
