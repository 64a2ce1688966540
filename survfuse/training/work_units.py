"""Units of work: a family and the splits whose members are fitted together."""

from collections.abc import Iterator
from dataclasses import dataclass

from survfuse.networks.families import Family
from survfuse.training.training_data import TrainingData

_STACK_BYTES = 1.5e9  # of activations that one pass over stacked networks may hold


@dataclass(frozen=True)
class WorkUnit:
    """One unit, given only by names so that it is small to send; ``TrainingData`` knows what they stand for."""

    family: str
    splits: tuple[str, ...]


def work_units(data: TrainingData) -> list[WorkUnit]:
    """Every unit of a training, family by family."""
    return [unit for family in data.families.values() for unit in _units_of(data, family)]


def _units_of(data: TrainingData, family: Family) -> Iterator[WorkUnit]:
    """A family's splits in their order: a fold's together, and of networks as many folds' as memory allows."""
    inner = at_once = data.protocol.inner
    if not family.linear:
        at_once = max(1, int(_STACK_BYTES / _member_bytes(data, family)))
        if at_once > inner:
            at_once -= at_once % inner
    for start in range(0, len(data.splits), at_once):
        yield WorkUnit(family.name, tuple(split.name for split in data.splits[start : start + at_once]))


def _member_bytes(data: TrainingData, family: Family) -> float:
    """About how many bytes of activations one network's step holds."""
    patients = max(len(split.fitted) for split in data.splits)
    sizes = data.sizes
    numbers = 4.0 * (sum(sizes.rna) + sum(sizes.vector_layers))
    if "slide" in family.modalities:
        assert data.cohort.bags is not None
        tiles = min(data.protocol.optimisation.tiles, max(bag.tiles for bag in data.cohort.bags))
        numbers += tiles * (sizes.tile + 6.0 * (sizes.bag + 2 * sizes.attention))
    return 4.0 * patients * numbers
