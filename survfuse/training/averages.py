"""The average patient of a cohort, as the members of an ensemble take it."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from survfuse.bundle.averages import Averages
from survfuse.bundle.manifest import member_file
from survfuse.cohort.bags import Bag
from survfuse.cohort.bags_ahead import read_ahead
from survfuse.inputs.expression import Expression
from survfuse.networks.build import build_with
from survfuse.networks.families import Family
from survfuse.networks.online_softmax import Pooling
from survfuse.networks.sizes import Sizes
from survfuse.runtime.arrays import Rows
from survfuse.runtime.log import progress
from survfuse.training.training_data import TrainingData

_TILES_AT_A_TIME = 1024


@torch.inference_mode()
def average_slides(pooling: Sequence[Pooling], bags: Sequence[Bag], device: torch.device) -> list[Tensor]:
    """For each way of ``pooling``, the mean [width] over patients of their slides' vectors, in float64; every bag is
    read once."""
    totals = [torch.zeros((), dtype=torch.float64) for _ in pooling]
    for bag in progress(read_ahead((bag, [bag]) for bag in bags), len(bags), "averaging"):
        pools = [empty(bag.tiles) for empty in pooling]
        for tiles in bag.chunks(_TILES_AT_A_TIME):
            placed = tiles.to(device)
            for pool in pools:
                pool.add(placed)
        totals = [total + pool.result()[0][0].double() for total, pool in zip(totals, pools, strict=True)]
    return [total / len(bags) for total in totals]


def averages(
    data: TrainingData,
    families: Sequence[tuple[Family, Sizes]],
    states: Iterable[Mapping[str, Tensor]],
    expression: tuple[Expression, Rows] | None,
    device: torch.device,
) -> Averages:
    """The averages of the cohort's patients for an ensemble.

    ``families`` and ``states`` are those of its frozen members, in their order; ``expression`` is the bundle's table
    and the places of its genes among the cohort's; layers over tiles run on ``device``.
    """
    cohort, slides = data.cohort, {}
    if cohort.bags is not None:
        ways = _ways_of_pooling(families, states, device)
        means = average_slides([empty for empty, _ in ways], cohort.bags, device)
        slides = {file: mean for (_, files), mean in zip(ways, means, strict=True) for file in files}
    rna = clinical = None
    if expression is not None:
        table, genes = expression
        assert cohort.expression is not None
        rna = torch.from_numpy(table.transformed(cohort.expression[:, genes]).astype(np.float64).mean(axis=0))
    if data.clinical is not None and any("clinical" in family.modalities for family, _ in families):
        clinical = torch.from_numpy(data.clinical.mean(axis=0))
    vector = torch.from_numpy(cohort.vectors.mean(axis=0)) if cohort.vectors is not None else None
    return Averages(len(cohort.ids), rna, clinical, slides, vector)


def _ways_of_pooling(
    families: Sequence[tuple[Family, Sizes]], states: Iterable[Mapping[str, Tensor]], device: torch.device
) -> list[tuple[Pooling, list[str]]]:
    """How members pool a slide's tiles, and the files of those that do so alike: linear models of the same clusters."""
    found: dict[object, tuple[Pooling, list[str]]] = {}
    for number, ((family, sizes), state) in enumerate(zip(families, states, strict=True)):
        if "slide" in family.modalities:
            alike = state["centres"].numpy().tobytes() if family.linear else number
            if alike not in found:
                found[alike] = build_with(family, sizes, state).pooling(device), []
            found[alike][1].append(member_file(number))
    return list(found.values())
