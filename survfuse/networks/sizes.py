"""Widths of a network."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from survfuse.tasks.modalities import all_pairs
from survfuse.tasks.registry import DEFAULT

_OF_VECTORS = ("vector", "vector_components", "vector_layers")


def default_pairs(modalities: Sequence[str]) -> tuple[int, ...]:
    """Width of each pair of ``modalities``, in their order: the paper's 64 for the first and 32 for the others.

    >>> default_pairs(("slide", "rna", "clinical"))
    (64, 32, 32)
    """
    return tuple(32 if place else 64 for place in range(len(all_pairs(modalities))))


@dataclass(frozen=True)
class Sizes:
    """Widths of a network; the defaults are the paper's, and the sources' for the families it compares with."""

    tile: int = 1024  # tile features
    bag: int = 512
    attention: int = 256
    genes: int = 19_359
    components: int = 0  # of expression that a fixed linear map passes on to the network; 0: no map
    rna: tuple[int, ...] = (2048, 512, 128)
    clinical: int = 27
    standardised: bool = False  # whether a fixed linear map precedes the clinical vector
    rank: int = 64
    pairs: tuple[int, ...] = default_pairs(DEFAULT.modalities)  # one for each pair, in the task's order
    hidden: int = 128  # residual branch, and the perceptron over the full tensor
    embedding: int = 32  # width to which M and r are brought before the full tensor
    factors: int = 4  # rank of the low-rank tensor's weight
    fused: int = 64  # width of the low-rank tensor's output
    clusters: int = 10  # of tiles, in Cox's linear model
    vector: int = 0  # numbers of a slide-level vector; 0: the task has none
    vector_components: int = 0  # of it, that a fixed linear map passes on to the network; 0: no map
    vector_layers: tuple[int, ...] = (128,)
    dropout: float = 0.25
    stand_ins: bool = False  # whether a learned vector stands in for a missing modality

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Sizes":
        """Read the ``sizes`` of a manifest's member; raises KeyError, TypeError or ValueError if they are not valid."""
        layers = tuple(value.get("vector_layers", cls.vector_layers))
        return cls(**{**value, "rna": tuple(value["rna"]), "pairs": tuple(value["pairs"]), "vector_layers": layers})

    def __post_init__(self) -> None:
        widths = (self.tile, self.bag, self.attention, self.genes, *self.rna, self.clinical, self.rank, *self.pairs)
        widths += (self.hidden, self.embedding, self.factors, self.fused, self.clusters, *self.vector_layers)
        if not all(type(width) is int and 0 < width <= 10**6 for width in widths):
            raise ValueError(f"expected whole widths above 0, at most a million, found {widths}")
        for name, number in (("components", self.components), ("vector_components", self.vector_components)):
            if type(number) is not int or not 0 <= number <= 10**5:
                raise ValueError(f"expected whole {name} of at least 0, found {number}")
        if type(self.vector) is not int or not 0 <= self.vector <= 10**6:
            raise ValueError(f"expected a slide-level vector of at most a million numbers, found {self.vector}")
        if type(self.standardised) is not bool or type(self.stand_ins) is not bool:
            raise ValueError("expected true or false for standardised and stand_ins")
        if not self.rna or not self.vector_layers or not 0.0 <= self.dropout < 1.0:
            raise ValueError("expected a layer of RNA and of the vector or more, and a dropout from 0 to below 1")

    def check_pairs(self, modalities: Sequence[str]) -> None:
        """Raise ValueError unless there is one width for each pair of a task's ``modalities``."""
        number = len(all_pairs(modalities))
        if len(self.pairs) != number:
            raise ValueError(f"expected {number} widths of pairs, found {len(self.pairs)}")

    def for_modalities(self, modalities: Sequence[str]) -> "Sizes":
        """The same for a task with these modalities: default widths of pairs become those of its own pairs.

        >>> len(Sizes().for_modalities(("slide", "vector", "rna", "clinical")).pairs)
        6
        """
        # By identity: the same widths given by hand are of as many pairs as they are.
        return replace(self, pairs=default_pairs(modalities)) if self.pairs is Sizes.pairs else self

    def to_json(self) -> dict[str, object]:
        """The sizes as a manifest keeps them; the inverse of ``from_json``.

        Those of slide-level vectors are left out if there are none.
        """
        kept = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return kept if self.vector else {name: value for name, value in kept.items() if name not in _OF_VECTORS}

    def width(self, modality: str) -> int:
        """Width of a modality's vector as it is fused: M, r or c, or that of a slide-level vector.

        >>> Sizes().width("slide")
        512
        """
        widths = {"slide": self.bag, "rna": self.rna[-1], "clinical": self.clinical, "vector": self.vector_layers[-1]}
        return widths[modality]
