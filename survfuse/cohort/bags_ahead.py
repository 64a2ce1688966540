"""Bags read ahead: while one is worked on, a thread reads the files of the next, so that a slow disk delays less.

It only brings them into the system's memory: what is computed is the same, and in the same order.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from survfuse.cohort.bags import Bag

T = TypeVar("T")


def read_ahead(items: Iterable[tuple[T, Sequence[Bag]]]) -> Iterator[T]:
    """The items, each once the files of its bags have been read; meanwhile the next one's are."""
    before: tuple[T, Future[None]] | None = None
    last: Sequence[Bag] = ()
    with ThreadPoolExecutor(1, thread_name_prefix="reader") as reader:
        for item, bags in items:
            read = reader.submit(_warm, [bag for bag in bags if not any(bag is other for other in last)])
            if before is not None:
                before[1].result()
                yield before[0]
            before, last = (item, read), bags
        if before is not None:
            before[1].result()
            yield before[0]


def _warm(bags: Iterable[Bag]) -> None:
    for bag in bags:
        bag.warm()
