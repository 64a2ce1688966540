"""Several cases scored at once, on one thread each.

A case that is split over all cores waits, at the end of every operation, for the slowest of them; on a machine that
others use as well, one of them is always late. Cases on one thread each wait for nobody. A thread takes several small
cases together, whose layers over tiles then run once.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from survfuse.prediction.prediction import Prediction
from survfuse.prediction.predictor import Inputs, Predictor
from survfuse.prediction.sources import UnusableCase
from survfuse.runtime.errors import InputError

_MOST_HELD = 2**30  # bytes of tile features beyond which no further case is read ahead
_SMALL, _TOGETHER = 256, 1024  # tiles of one small case, and of those that are scored together
_MOST_CASES = 16  # that are scored together
_FEWEST_BLOCKS = 8  # that few cases are divided into, to keep threads and workers busy

_Read = Inputs | UnusableCase
_Outcome = Prediction | UnusableCase


def cases_together(number: int, on_gpu: bool) -> int:
    """How many of ``number`` cases make a block: cases that are scored together are of one block."""
    return 1 if on_gpu else max(1, min(_MOST_CASES, -(-number // _FEWEST_BLOCKS)))


def scored(predictor: Predictor, inputs: Iterable[_Read], number: int) -> Iterator[_Outcome]:
    """What becomes of each of ``inputs``, in their order; those that cannot be read pass through.

    They are all of ``number`` cases, or some whole blocks of these. They are taken in the calling thread, a few ahead
    of what is yielded. With fewer cases than torch has threads, they share the threads out. On a GPU, which one case
    keeps busy, they are scored one after the other.
    """
    import torch

    on_gpu = predictor.device.type != "cpu"
    workers = 1 if on_gpu else max(1, min(torch.get_num_threads(), number))
    most = cases_together(number, on_gpu)
    outcomes = partial(_outcomes, predictor)
    if workers == 1:
        for group in _groups(inputs, most):
            yield from outcomes(group)
        return
    waiting: deque[tuple[Future[list[_Outcome]], int]] = deque()
    with _pool(workers) as pool:
        for group in _groups(inputs, most):
            waiting.append((pool.submit(outcomes, group), sum(map(_size, group))))
            while len(waiting) > 2 * workers or sum(size for _, size in waiting) > _MOST_HELD:
                yield from waiting.popleft()[0].result()
        while waiting:
            yield from waiting.popleft()[0].result()


def _outcomes(predictor: Predictor, group: Sequence[_Read]) -> list[_Outcome]:
    """What becomes of the cases of a group: one that cannot be read, or cases that are scored together."""
    cases = [case for case in group if isinstance(case, Inputs)]
    outcomes: list[_Outcome] = [case for case in group if isinstance(case, UnusableCase)]
    for case, risk in zip(cases, predictor.risks(cases) if cases else (), strict=True):
        try:
            outcomes.append(predictor.concluded(case, risk))
        except InputError as error:
            outcomes.append(UnusableCase(case.name, error))
    return outcomes


def _groups(inputs: Iterable[_Read], most: int) -> Iterator[list[_Read]]:
    """Consecutive small cases of a block of ``most``, with the same modalities; every other case by itself."""
    group: list[_Read] = []
    tiles = 0
    for place, case in enumerate(inputs):
        length = case.tensors.length if isinstance(case, Inputs) else 0
        full = place % most == 0 or tiles + length > _TOGETHER
        if group and (full or not _goes_with(group[-1], case)):
            yield group
            group, tiles = [], 0
        group.append(case)
        tiles += length
    if group:
        yield group


def _goes_with(before: _Read, case: _Read) -> bool:
    """Whether two cases are scored together: both small, with the same modalities."""
    if isinstance(before, UnusableCase) or isinstance(case, UnusableCase):
        return False
    first, second = before.tensors, case.tensors
    small = max(first.length, second.length) <= _SMALL
    return small and first.given == second.given


def _size(case: _Read) -> int:
    """Bytes of a case's tile features."""
    return case.tiles.features.nbytes if isinstance(case, Inputs) and case.tiles is not None else 0


@contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that share torch's out among them; cases that are still waiting when the block ends are dropped."""
    import torch

    threads = torch.get_num_threads()
    # torch's number of threads is that of the thread which sets it, and of those that are started afterwards.
    begin = partial(torch.set_num_threads, threads // workers)
    with ThreadPoolExecutor(workers, thread_name_prefix="scorer", initializer=begin) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)
