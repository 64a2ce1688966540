"""What a bundle takes as a slide-level vector."""

from dataclasses import dataclass

from survfuse.runtime.errors import InputError
from survfuse.runtime.log import count

MOST_NUMBERS = 2**16  # of a vector


@dataclass(frozen=True)
class VectorSettings:
    """Of which slide encoder, and of what length, the slide-level vectors are that a bundle was trained on."""

    encoder: str | None  # in lower case, as the training cohort's files name it; None if none did
    dimension: int
    with_slides: bool = True  # whether it is of a task with slides as well, and not in their place

    def __str__(self) -> str:
        """The length and the encoder, as logs state them."""
        return f"{count(self.dimension, 'number')} from {self.encoder or 'an encoder that is not named'}"

    def problem(self) -> str | None:
        """What is wrong with settings read from a manifest; None if nothing is."""
        named: object = self.encoder
        if (named is not None and not isinstance(named, str)) or type(self.with_slides) is not bool:
            return "expected a slide encoder's name or null, and whether there are slides as well"
        if type(self.dimension) is not int or not 0 < self.dimension <= MOST_NUMBERS:
            return f"expected a dimension from 1 to {MOST_NUMBERS:,}"
        return None

    def check(self, length: int, encoder: str | None, name: str = "") -> None:
        """Raise InputError for a vector of another length or encoder; one that is not named is taken to be right.

        >>> VectorSettings("titan", 768).check(512, None)
        Traceback (most recent call last):
        survfuse.runtime.errors.InputError: slide-level vector of length 512, but the bundle takes length 768 (titan)
        """
        start = f"{name}: " if name else ""
        if length != self.dimension:
            whose = self.encoder or "its encoder is not known"
            raise InputError(
                f"{start}slide-level vector of length {length}, but the bundle takes length {self.dimension} ({whose})"
            )
        if encoder is not None and self.encoder is not None and encoder != self.encoder:
            raise InputError(
                f"{start}slide-level vector of {encoder!r}, but the bundle takes those of {self.encoder!r}"
            )
