"""The average patient of a cohort, as the members of an ensemble take it."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from survfuse.bundle.averages import Averages
from survfuse.bundle.manifest import member_file
from survfuse.cohort.bags import Bag
from survfuse.inputs.expression import Expression
from survfuse.networks.build import build_with
from survfuse.networks.families import Family
from survfuse.networks.network import Network
from survfuse.networks.sizes import Sizes
from survfuse.runtime.arrays import Rows
from survfuse.runtime.log import progress
from survfuse.training.training_data import TrainingData

_TILES_AT_A_TIME = 1024


@torch.inference_mode()
def average_slide(network: Network, bags: Sequence[Bag], device: torch.device) -> Tensor:
    """The mean [width] over patients of the slide vectors that ``network`` makes of their ``bags``, in float64."""
    total = torch.zeros((), dtype=torch.float64)
    for bag in bags:
        pool = network.pool(bag.tiles, device)
        for tiles in bag.chunks(_TILES_AT_A_TIME):
            pool.add(tiles.to(device))
        total = total + pool.result()[0][0].double()
    return total / len(bags)


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
    numbered = enumerate(zip(families, states, strict=True))
    for number, ((family, sizes), state) in progress(numbered, len(families), "averaging"):
        if "slide" in family.modalities:
            assert cohort.bags is not None
            slides[member_file(number)] = average_slide(build_with(family, sizes, state), cohort.bags, device)
    rna = clinical = None
    if expression is not None:
        table, genes = expression
        assert cohort.expression is not None
        rna = torch.from_numpy(table.transformed(cohort.expression[:, genes]).astype(np.float64).mean(axis=0))
    if data.clinical is not None and any("clinical" in family.modalities for family, _ in families):
        clinical = torch.from_numpy(data.clinical.mean(axis=0))
    vector = torch.from_numpy(cohort.vectors.mean(axis=0)) if cohort.vectors is not None else None
    return Averages(len(cohort.ids), rna, clinical, slides, vector)
