"""A member's risks for a whole cohort, under every combination of modalities that it can score."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from survfuse.cohort.bags import Bag
from survfuse.networks.network import Network
from survfuse.tasks.modalities import Combination
from survfuse.tasks.task import VECTOR

_TILES_AT_ONCE = 16_384


@torch.inference_mode()
def network_risks(
    network: Network,
    bags: Sequence[Bag] | None,
    inputs: Mapping[str, Tensor],
    combinations: Sequence[Combination],
    rows: Sequence[int],
    device: torch.device,
) -> dict[Combination, Tensor]:
    """Risks [len(rows)] float64 of the cohort's patients at ``rows``, by combination; all of their tiles are used.

    ``inputs`` [n, width] by modality are what ``network`` takes, ``bags`` n bags if it looks at the slide.
    """
    network = network.to(device).eval()
    others = {name: value[list(rows)].to(device) for name, value in inputs.items() if name in network.modalities}
    vectors: dict[str, Tensor] = {}
    attention = torch.zeros(len(rows), 0, device=device)
    if others:
        rna, clinical, vector = (others.get(name) for name in ("rna", "clinical", VECTOR))
        vectors, attention = network.encode(None, rna, clinical, vector=vector)
    if "slide" in network.modalities:
        assert bags is not None
        slides = (network.encode(tiles, None, None, present) for tiles, present in _batches(bags, rows, device))
        vectors["slide"] = torch.cat([encoded["slide"] for encoded, _ in slides])
    risks = {}
    for combination in combinations:
        given = torch.tensor([name in combination for name in network.family.task_modalities], device=device)
        complete = set(network.modalities) <= set(combination)
        fused = network.fuse(vectors, attention, None if complete else given.expand(len(rows), -1))
        risks[combination] = fused.risk.double().cpu()
    return risks


def _batches(bags: Sequence[Bag], rows: Sequence[int], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Whole bags padded to one length, as many together as hold _TILES_AT_ONCE tiles: tiles and which are present."""
    pending: list[int] = []
    for row in rows:
        longest = max([bags[other].tiles for other in pending] + [bags[row].tiles])
        if pending and longest * (len(pending) + 1) > _TILES_AT_ONCE:
            yield _padded(bags, pending, device)
            pending = []
        pending.append(row)
    if pending:
        yield _padded(bags, pending, device)


def _padded(bags: Sequence[Bag], rows: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([bags[row].tiles for row in rows])
    tiles = torch.nn.utils.rnn.pad_sequence([bags[row].rows(None) for row in rows], batch_first=True)
    return tiles.to(device), (torch.arange(tiles.shape[1]) < lengths[:, None]).to(device)
