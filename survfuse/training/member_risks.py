"""A member's risks for a whole cohort, under every combination of modalities that it can score."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from survfuse.cohort.bags import Bag
from survfuse.cohort.bags_ahead import read_ahead
from survfuse.networks.network import Network
from survfuse.tasks.modalities import Combination
from survfuse.tasks.task import VECTOR
from survfuse.training.tile_batches import batches, padded


@torch.inference_mode()
def network_risks(
    network: Network,
    bags: Sequence[Bag] | None,
    inputs: Mapping[str, Tensor],
    combinations: Sequence[Combination],
    rows: Sequence[int],
    device: torch.device,
    slides: Tensor | None = None,
) -> dict[Combination, Tensor]:
    """Risks [len(rows)] float64 of the cohort's patients at ``rows``, by combination; all of their tiles are used.

    ``inputs`` [n, width] by modality are what ``network`` takes, ``bags`` n bags if it looks at the slide; ``slides``
    are the ``slide_vectors`` if they are known.
    """
    network = _placed(network, device)
    others = {name: value[list(rows)].to(device) for name, value in inputs.items() if name in network.modalities}
    vectors: dict[str, Tensor] = {}
    attention = torch.zeros(len(rows), 0, device=device)
    if others:
        rna, clinical, vector = (others.get(name) for name in ("rna", "clinical", VECTOR))
        vectors, attention = network.encode(None, rna, clinical, vector=vector)
    if "slide" in network.modalities:
        if slides is None:
            assert bags is not None
            (slides,) = slide_vectors([network], bags, [rows], device)
        vectors["slide"] = slides.to(device)
    risks = {}
    for combination in combinations:
        given = torch.tensor([name in combination for name in network.family.task_modalities], device=device)
        complete = set(network.modalities) <= set(combination)
        fused = network.fuse(vectors, attention, None if complete else given.expand(len(rows), -1))
        risks[combination] = fused.risk.double().cpu()
    return risks


@torch.inference_mode()
def slide_vectors(
    networks: Sequence[Network], bags: Sequence[Bag], rows: Sequence[Sequence[int]], device: torch.device
) -> list[Tensor]:
    """Each network's vectors [len(its rows), width] of the slides of its patients at ``rows``.

    The networks' batches are read in the order of their first patients, so that a slide that several networks look at
    is read from its file once if the system can keep a few in memory.
    """
    wanted = [(batch, number) for number, own in enumerate(rows) for batch in batches(bags, own)]
    found: list[dict[int, Tensor]] = [{} for _ in networks]
    wanted.sort(key=lambda each: min(each[0]))
    for batch, number in read_ahead((each, [bags[row] for row in each[0]]) for each in wanted):
        network = _placed(networks[number], device)
        tiles, present = padded(bags, batch, device)
        encoded, _ = network.encode(tiles, None, None, present)
        found[number].update(zip(batch, encoded["slide"], strict=True))
    return [torch.stack([own[row] for row in order]) for own, order in zip(found, rows, strict=True)]


def _placed(network: Network, device: torch.device) -> Network:
    """The network on ``device``, ready to score."""
    is_there = all(parameter.device == device for parameter in network.parameters())
    return (network if is_there else network.to(device)).eval()
