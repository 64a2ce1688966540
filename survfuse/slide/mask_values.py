"""Which values of a mask mark tissue."""

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from survfuse.runtime.arrays import Bools

_PART = 2**18  # values looked at at a time
_FULL = (1.0, 100.0, 255.0, 65535.0)  # usual numbers for a probability of 1
_FEW = 16  # distinct values up to which they are labels: of background, and of kinds of tissue


@dataclass
class MaskValues:
    """A mask's rule for tissue, and the values met while it is applied. Safe from several threads at once.

    Without a ``limit`` every value but 0 and NaN is tissue: in a mask of a few labels each names a kind of tissue. With
    one, values from there on are: lossy coding makes grey of the border between two labels and noise of 0, and a
    probability is no label.
    """

    limit: float = 0.0
    _seen: set[float] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def tissue(self, values: NDArray[Any], axis: int = -1) -> Bools:
        """Pixels that any of their samples, along ``axis``, marks as tissue."""
        marked: Bools
        if not self.limit:
            self._look_at(values)
        marked = values >= self.limit if self.limit else values != 0
        if not self.limit and values.dtype.kind in "fc":
            marked = marked & ~np.isnan(values)
        tissue: Bools = np.asarray(marked.any(axis=axis))
        return tissue

    def better_limit(self, lossy: bool) -> float:
        """Half of the largest value met if the mask is coded with loss or its values are more than a few, else 0."""
        largest = max(self._seen, default=0.0)
        return largest / 2.0 if largest > 0.0 and (lossy or len(self._seen) > _FEW) else 0.0

    def may_be_labels(self) -> bool:
        """Whether the values met may be numbers of objects: whole, and not ending as probabilities usually do."""
        return max(self._seen, default=0.0) not in _FULL and all(value.is_integer() for value in self._seen)

    def described(self) -> str:
        """The rule in words, for the log; empty for the usual one."""
        return f", of which values from {self.limit:g} on are tissue" if self.limit else ""

    def _look_at(self, values: NDArray[Any]) -> None:
        """Keep the distinct finite values, as long as they are few, and the largest."""
        if values.dtype.kind not in "buif":
            return
        # A part at a time: what counts values takes many times their memory.
        parts = np.nditer(values, ["external_loop", "buffered", "zerosize_ok"], buffersize=_PART)
        for part in parts:
            found = _distinct(np.asarray(part), len(self._seen) <= _FEW)
            with self._lock:
                many = self._seen | found
                # Of more than a few, only their number and the largest matter.
                self._seen = many if len(many) <= 2 * _FEW else {*sorted(many)[-_FEW - 1 :]}


def _distinct(values: NDArray[Any], every: bool) -> set[float]:
    """The largest finite values, more than a few if there are so many; without ``every`` the largest alone."""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not finite.size:
        return set()
    largest = finite.max()
    if not every or finite.min() == largest:
        return {float(largest)}
    if finite.dtype == np.uint8:
        return set(np.flatnonzero(np.bincount(finite, minlength=256)).astype(float).tolist())
    return set(np.unique(finite)[-_FEW - 1 :].astype(float).tolist())
