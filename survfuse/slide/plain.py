"""Plain colours: those of a slide's background and fills, which tissue never has, since it is uneven everywhere."""

import numpy as np
from numpy.typing import NDArray

from survfuse.runtime.arrays import Bools, Pixels
from survfuse.slide.colour import extremes

_WIDTH = 4  # values of a channel that are counted as one: a colour is compared with those up to 4 to 7 values away
_BINS = 256 // _WIDTH
# How much neighbours of a flat pixel may differ, of 255: a share of the distance from white, since pale tissue varies
# little; within limits, since even a plain area has noise.
_EVEN, _LEAST, _MOST = 0.1, 2, 4
_FLAT = 0.5  # share of the pixels of a plain colour that are flat; of tissue's colours it is about a tenth
_PIXELS = 1024  # least number of pixels of a plain colour: as many as one tile has


class PlainColours:
    """The plain colours of an image, counted band by band."""

    def __init__(self) -> None:
        self._all = np.zeros(_BINS**3, dtype=np.int64)
        self._flat = np.zeros(_BINS**3, dtype=np.int64)

    def count(self, rgb: Pixels) -> None:
        """Count the colours of smoothed RGB [h, w, 3], of which the outermost pixels only serve as neighbours."""
        bins, flat = _bins(rgb[1:-1, 1:-1]), _is_flat(rgb)
        self._all += np.bincount(bins.ravel(), minlength=_BINS**3)
        self._flat += np.bincount(bins[flat], minlength=_BINS**3)

    def table(self) -> Bools:
        """Whether each colour [colours] is plain, to be looked up by ``is_plain``."""
        near_all, near_flat = _near(self._all), _near(self._flat)
        plain: Bools = (near_all >= _PIXELS) & (near_flat >= _FLAT * near_all)
        return plain


def is_plain(table: Bools, rgb: Pixels) -> Bools:
    """Which pixels [h, w] of RGB [h, w, 3] have a plain colour, by ``PlainColours.table``."""
    plain: Bools = table[_bins(rgb)]
    return plain


def is_even(tiles: Pixels) -> Bools:
    """Which of the RGB tiles [n, px, px, 3] show one colour only, as no tissue does."""
    spread = tiles.astype(np.float32).std(axis=(1, 2)).max(axis=-1)
    darkest = np.median(tiles, axis=(1, 2)).min(axis=-1)
    even: Bools = spread < np.clip(_EVEN / 2 * (256 - darkest), _LEAST / 2, _MOST)
    return even


def _bins(rgb: Pixels) -> NDArray[np.int32]:
    red, green, blue = ((rgb[..., channel] // _WIDTH).astype(np.int32) for channel in range(3))
    bins: NDArray[np.int32] = (red * _BINS + green) * _BINS + blue
    return bins


def _is_flat(rgb: Pixels) -> Bools:
    """Which of all but the outermost pixels [h − 2, w − 2] of RGB [h, w, 3] hardly differ from their neighbours."""
    across = [rgb[:, start : start + rgb.shape[1] - 2] for start in range(3)]
    most, least = (pick(pick(across[0], across[1]), across[2]) for pick in (np.maximum, np.minimum))
    rows = [slice(start, start + rgb.shape[0] - 2) for start in range(3)]
    most = np.maximum(np.maximum(most[rows[0]], most[rows[1]]), most[rows[2]])
    least = np.minimum(np.minimum(least[rows[0]], least[rows[1]]), least[rows[2]])
    limits = np.clip(_EVEN * (256 - np.arange(256)), _LEAST, _MOST).astype(np.uint8)
    flat: Bools = extremes(most - least)[0] <= limits[extremes(rgb[1:-1, 1:-1])[1]]
    return flat


def _near(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts of each colour and of those next to it: sums over 3 × 3 × 3 bins."""
    near = np.pad(counts.reshape(_BINS, _BINS, _BINS), 1)
    near = near[:-2] + near[1:-1] + near[2:]
    near = near[:, :-2] + near[:, 1:-1] + near[:, 2:]
    return (near[..., :-2] + near[..., 1:-1] + near[..., 2:]).ravel()
