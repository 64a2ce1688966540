"""Parts of a slide that cannot be read: which ones, and how many are allowed."""

import numpy as np

from survfuse.runtime.arrays import Bools
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import count

MOST_DAMAGED = 0.02  # share of the tissue's tiles that may be left out because they cannot be read


class DamagedRegionError(InputError):
    """A part of a slide that cannot be read."""


class BlankRegionError(DamagedRegionError):
    """A part of a slide that its file leaves out: it was not scanned, or it was lost."""


class DamagedTiles:
    """The tiles that could not be read, by their place in the order of reading. Any thread may add one.

    Tiles that the file leaves out do not count as damaged: scanners leave out glass, and a mask may extend over it.
    """

    def __init__(self, slide: str, tiles: int) -> None:
        self._slide = slide  # its name, for messages
        self._present = tiles  # less those known to be left out
        self._problems: dict[int, str] = {}
        self._blank: set[int] = set()

    def add(self, place: int, problem: DamagedRegionError) -> None:
        """Record that the tile at ``place`` could not be read because of ``problem``."""
        if isinstance(problem, BlankRegionError):
            self._blank.add(place)
        else:
            self._problems[place] = str(problem)

    def sound(self, start: int, stop: int) -> Bools:
        """Which of the tiles from ``start`` to ``stop`` were read, [stop − start].

        To be called for one part after the other. Raises InputError if more than MOST_DAMAGED of the tiles are damaged.
        """
        # Threads read ahead by a varying distance, so damage beyond ``stop`` does not count yet.
        met = [place for place in self._problems.copy() if place < stop]
        self._present -= sum(place in self._blank for place in range(start, stop))
        allowed = int(MOST_DAMAGED * self._present)
        if len(met) > allowed:
            first = self._problems[min(met)]
            raise InputError(
                f"{self._slide}: more than {allowed:,} of {count(self._present, 'tissue tile')} "
                f"({MOST_DAMAGED:.0%}) cannot be read; {first}"
            )
        return np.array([place not in self._problems and place not in self._blank for place in range(start, stop)])
