"""A measure with its bootstrap draws."""

from dataclasses import dataclass

from survfuse.runtime.arrays import Floats
from survfuse.survival.estimates import Estimate, estimate


@dataclass(frozen=True)
class Measure:
    """A measure and its bootstrap draws [draws]; measures that share the samples have paired differences."""

    value: float
    draws: Floats

    def estimate(self) -> Estimate:
        """The value with its interval."""
        return estimate(self.value, self.draws)

    def difference(self, other: "Measure") -> Estimate:
        """This measure minus another one in the same draws."""
        return estimate(self.value - other.value, self.draws - other.draws)

    def times(self, factor: float) -> "Measure":
        """The measure in another unit."""
        return Measure(self.value * factor, self.draws * factor)
