"""The order of an explanation's parts, and which of them are told from zero."""

import numpy as np

from survfuse.explanation.attribution import Parts
from survfuse.runtime.arrays import Bools, Floats, Rows


def told_from_zero(parts: Parts) -> Bools:
    """Which parts [K] exceed their spread; those that are not 0, if there is no spread.

    >>> told_from_zero(Parts(np.array([0.5, -0.5]), np.array([0.1, 0.6]))).tolist()
    [True, False]
    """
    spread = parts.spread if parts.spread is not None else 0.0
    told: Bools = np.abs(parts.values) > spread
    return told


def ranks(values: Floats) -> Rows:
    """The place of each of ``values`` [K] from 1, the largest, to K; the first of equal ones comes first.

    >>> ranks(np.array([0.1, 3.0, -2.0])).tolist()
    [2, 1, 3]
    """
    places = np.empty(len(values), dtype=np.int64)
    places[np.argsort(-values, kind="stable")] = np.arange(1, len(values) + 1)
    return places


def raising(values: Floats, most: int) -> list[int]:
    """The rows of the ``most`` largest of ``values`` [K] that are above 0, the largest first.

    >>> raising(np.array([0.1, 3.0, -2.0]), 10)
    [1, 0]
    """
    order = np.argsort(-values, kind="stable")
    rows: list[int] = order[values[order] > 0.0][:most].tolist()
    return rows


def lowering(values: Floats, most: int) -> list[int]:
    """The rows of the ``most`` smallest of ``values`` [K] that are below 0, the smallest first.

    >>> lowering(np.array([0.1, -1.0, -2.0]), 10)
    [2, 1]
    """
    return raising(-values, most)
