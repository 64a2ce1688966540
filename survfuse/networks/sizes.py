"""Widths of a network."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from survfuse.tasks.modalities import all_pairs
from survfuse.tasks.registry import DEFAULT


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
    dropout: float = 0.25
    stand_ins: bool = False  # whether a learned vector stands in for a missing modality

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Sizes":
        """Read the ``sizes`` of a manifest's member; raises KeyError, TypeError or ValueError if they are not valid."""
        return cls(**{**value, "rna": tuple(value["rna"]), "pairs": tuple(value["pairs"])})

    def __post_init__(self) -> None:
        widths = (self.tile, self.bag, self.attention, self.genes, *self.rna, self.clinical, self.rank, *self.pairs)
        widths += (self.hidden, self.embedding, self.factors, self.fused, self.clusters)
        if not all(type(width) is int and 0 < width <= 10**6 for width in widths):
            raise ValueError(f"expected whole widths above 0, at most a million, found {widths}")
        if type(self.components) is not int or not 0 <= self.components <= 10**5:
            raise ValueError(f"expected whole components of at least 0, found {self.components}")
        if type(self.standardised) is not bool or type(self.stand_ins) is not bool:
            raise ValueError("expected true or false for standardised and stand_ins")
        if not self.rna or not 0.0 <= self.dropout < 1.0:
            raise ValueError("expected a layer of RNA or more, and a dropout of at least 0 and below 1")

    def check_pairs(self, modalities: Sequence[str]) -> None:
        """Raise ValueError unless there is one width for each pair of a task's ``modalities``."""
        number = len(all_pairs(modalities))
        if len(self.pairs) != number:
            raise ValueError(f"expected {number} widths of pairs, found {len(self.pairs)}")

    def to_json(self) -> dict[str, object]:
        """The sizes as a manifest keeps them; the inverse of ``from_json``."""
        return asdict(self) | {"rna": list(self.rna), "pairs": list(self.pairs)}

    def vector(self, modality: str) -> int:
        """Width of a modality's vector: M, r or c.

        >>> Sizes().vector("slide")
        512
        """
        return {"slide": self.bag, "rna": self.rna[-1], "clinical": self.clinical}[modality]
