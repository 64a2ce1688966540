"""What the checks of a GPU share."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def strictly_deterministic() -> Iterator[None]:
    """An operation without a deterministic kernel raises, and does not only warn."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def seconds_of(action: Callable[[], object]) -> float:
    """Seconds that ``action`` takes, which must end with its results on the CPU."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def differing(first: Tensor, second: Tensor) -> int:
    """How many values of two tensors differ; NaN differs from everything."""
    return int((first != second).sum())
