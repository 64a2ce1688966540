"""Several cases scored at once, on one thread each.

A case that is split over all cores waits, at the end of every operation, for the slowest of them; on a machine that
others use as well, one of them is always late. Cases on one thread each wait for nobody.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from survfuse.prediction.prediction import Prediction
from survfuse.prediction.predictor import Inputs, Predictor
from survfuse.prediction.sources import UnusableCase
from survfuse.runtime.errors import InputError

_MOST_HELD = 2**30  # bytes of tile features beyond which no further case is read ahead


def scored(
    predictor: Predictor, inputs: Iterable[Inputs | UnusableCase], number: int
) -> Iterator[Prediction | UnusableCase]:
    """What becomes of each of ``number`` cases, in their order; those that cannot be read pass through.

    ``inputs`` are taken in the calling thread, a few ahead of what is yielded. With fewer cases than torch has threads,
    they share the threads out. On a GPU, which one case keeps busy, they are scored one after the other.
    """
    import torch

    def outcome(case: Inputs | UnusableCase) -> Prediction | UnusableCase:
        if isinstance(case, UnusableCase):
            return case
        try:
            return predictor.score(case)
        except InputError as error:
            return UnusableCase(case.name, error)

    workers = min(torch.get_num_threads(), number) if predictor.device.type == "cpu" else 1
    if workers <= 1:
        yield from map(outcome, inputs)
        return
    waiting: deque[tuple[Callable[[], Prediction | UnusableCase], int]] = deque()
    with _pool(workers) as pool:
        for case in inputs:
            waiting.append((pool.submit(outcome, case).result, _size(case)))
            while len(waiting) > 2 * workers or sum(size for _, size in waiting) > _MOST_HELD:
                yield waiting.popleft()[0]()
        while waiting:
            yield waiting.popleft()[0]()


def _size(case: Inputs | UnusableCase) -> int:
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
