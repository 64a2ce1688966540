"""Tiles read by threads ahead of their use."""

import os
import sys
import threading
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from survfuse.runtime.arrays import Pixels
from survfuse.slide.damage import DamagedRegionError, DamagedTiles
from survfuse.slide.grid import Grid
from survfuse.slide.pixels import Slide

_AHEAD = 2  # batches that are read, or being read, while one is in use
_CPU = torch.device("cpu")


def read_ahead(
    slide: Slide,
    grid: Grid,
    origins: NDArray[np.int64],
    px: int,
    batch: int,
    device: torch.device = _CPU,
    damaged: DamagedTiles | None = None,
) -> Generator[Tensor, None, None]:
    """Tiles [≤ batch, px, px, 3] uint8 RGB on the CPU, at level-0 ``origins`` [N, 2] and in their order.

    Their memory, pinned if ``device`` is a GPU, is overwritten once the next batch has been requested. A tile that
    cannot be read is added to ``damaged`` and its pixels are meaningless; without ``damaged``, DamagedRegionError is
    raised.
    """
    shape, pinned = (min(batch, len(origins)), px, px, 3), device.type == "cuda"
    buffers = [torch.empty(shape, dtype=torch.uint8, pin_memory=pinned) for _ in range(_AHEAD + 1)]
    parts = [origins[start : start + batch] for start in range(0, len(origins), batch)]

    def read(place: int, tile: Pixels) -> None:
        try:
            origin = (int(origins[place, 0]), int(origins[place, 1]))
            tile[...] = slide.read(origin, grid.side, (px, px), blank=False)
        except DamagedRegionError as problem:
            if damaged is None:
                raise
            damaged.add(place, problem)

    def start(number: int) -> list[Future[None]]:
        buffer, first = buffers[number % len(buffers)].numpy(), number * batch
        return [pool.submit(read, first + place, buffer[place]) for place in range(len(parts[number]))]

    readers = min(8, os.cpu_count() or 1)
    yielding = _yield_to_encoder if device.type == "cpu" else None
    with ThreadPoolExecutor(readers, thread_name_prefix="reader", initializer=yielding) as pool:
        try:
            pending = deque(start(number) for number in range(min(_AHEAD, len(parts))))
            for number, part in enumerate(parts):
                for future in pending.popleft():
                    future.result()
                if number + _AHEAD < len(parts):
                    pending.append(start(number + _AHEAD))
                yield buffers[number % len(buffers)][: len(part)]
        finally:
            # After a reader's error, or when the caller stops early, the rest is not read.
            pool.shutdown(cancel_futures=True)


def _yield_to_encoder() -> None:
    """Give this thread the lowest priority: on a CPU the encoder needs every core.

    An operation is split over all cores and waits for the slowest of them. Priorities by thread are Linux's.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # a sandbox may forbid it; the job is then slightly slower
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
