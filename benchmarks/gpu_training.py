"""Training on a GPU beside the CPU."""

from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from encoder_precision import CPU
from gpu_results import Compared, Result
from gpu_shared import differing, strictly_deterministic
from torch import Tensor

from survfuse.cohort.bags import Bag
from survfuse.networks.families import Family
from survfuse.networks.sizes import Sizes
from survfuse.runtime.arrays import Bools, Floats
from survfuse.training.fit_networks import fit_networks
from survfuse.training.folds import nested_splits
from survfuse.training.member import Fitted, Prepared
from survfuse.training.protocol import Optimisation

FIRST_LOSS = 1e-5  # relative: one pass forward through a network and its loss
# Of risks after three epochs, in their standard deviations. On the CPU, inputs that are one unit in the last place
# larger or smaller move them by up to 3e-2.
TRAINED = 1e-1
PATIENTS, EPOCHS = 60, 3
# What follows the input maps is as wide as with the paper's sizes and the 111 components of the task's size.
SIZES = Sizes(genes=111, vector=64, stand_ins=True)


def training_checks(family: Family, device: torch.device, seed_here: int = 0) -> Iterator[Result]:
    """Members of ``family`` fitted for a few epochs on the CPU, on ``device`` and there again.

    Steps of AdamW are of one length whatever the gradient's, so that weights whose gradient is near 0 soon differ
    between devices; risks hardly do. ``seed_here`` is the seed of the initial weights on ``device``.
    """
    exact, found = fitted(family, CPU), fitted(family, device, seed_here)
    with strictly_deterministic():
        again = fitted(family, device, seed_here)
    losses = [abs(a.training[0] / b.training[0] - 1.0) for a, b in zip(found, exact, strict=True)]
    yield Compared("training", family.name, max(losses), FIRST_LOSS, "the first epoch's loss, relative")
    last = [[member.risks_by_step[family.modalities][-1] for member in members] for members in (found, exact)]
    risks = [float((a - b).abs().max() / b.std()) for a, b in zip(*last, strict=True)]
    yield Compared("training", family.name, max(risks), TRAINED, "risks at the end, in standard deviations")
    changed = sum(
        differing(values, b.state[name]) for a, b in zip(found, again, strict=True) for name, values in a.state.items()
    )
    yield Compared("training, twice", family.name, changed, 0.0, "weights that differ")


def fitted(family: Family, device: torch.device, seed: int = 0) -> list[Fitted]:
    """Four members of ``family``, fitted on ``device`` to simulated inputs; ``seed`` is that of their weights."""
    inputs, bags, times, events = cohort()
    splits = nested_splits(times, events, 2, 2, 1, seed=0)
    members = [Prepared(split, seed + number, inputs) for number, split in enumerate(splits)]
    optimisation = Optimisation(epochs=EPOCHS, patience=EPOCHS)
    sizes = SIZES.for_modalities(family.task_modalities)
    return fit_networks(family, sizes, members, bags, times, events, optimisation, 0, device)


@cache
def cohort() -> tuple[dict[str, Tensor], list[Bag], Floats, Bools]:
    """Inputs by modality, bags, times in months and events of random patients; the first columns are prognostic."""
    random = np.random.default_rng(0)
    health = random.standard_normal(PATIENTS)

    def drawn(*shape: int) -> Tensor:
        values = random.standard_normal(shape)
        values[..., 0] += health.reshape(-1, *[1] * (len(shape) - 2))
        return torch.from_numpy(values).float()

    inputs = {"rna": drawn(PATIENTS, SIZES.genes), "clinical": drawn(PATIENTS, SIZES.clinical)}
    inputs["vector"] = drawn(PATIENTS, SIZES.vector)
    bags = [Bag.of(values) for values in drawn(PATIENTS, 48, SIZES.tile)]
    times = random.exponential(50.0 * np.exp(-health))
    return inputs, bags, times, np.arange(PATIENTS) % 3 > 0
