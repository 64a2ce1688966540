"""How threads wait for each other."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec


def wait_asleep() -> None:
    """Let OpenMP's threads sleep while they wait, for processes of their own: to be called before torch is imported.

    By default they spin. On a machine that others use as well, they then burn the time slices that the thread they wait
    for needs. An OMP_WAIT_POLICY or GOMP_SPINCOUNT (libgomp) of the environment stays.
    """
    if "GOMP_SPINCOUNT" not in os.environ:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@contextmanager
def one_thread() -> Iterator[None]:
    """torch computes on one thread: for small operations, whose threads would mostly wait for each other."""
    with _torch_on(1):
        yield


@contextmanager
def threads(number: int) -> Iterator[None]:
    """torch, and the linear algebra of numpy and scipy, compute on ``number`` threads within the block."""
    with _torch_on(number), _linear_algebra_on(number):
        yield


@contextmanager
def _torch_on(number: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _linear_algebra_on(number: int) -> AbstractContextManager[object]:
    """A context in which BLAS uses ``number`` threads; threadpoolctl comes with the extra for training."""
    if find_spec("threadpoolctl") is None:
        return nullcontext()
    import threadpoolctl

    limits: AbstractContextManager[object] = threadpoolctl.threadpool_limits(number)
    return limits
