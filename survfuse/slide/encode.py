"""A slide's tiles → features [N, D]: threads read ahead while the encoder computes."""

import os
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from survfuse.runtime.clock import TimeLimit, elapsed
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import count, progress
from survfuse.slide.encoders import Encoder
from survfuse.slide.grid import Grid
from survfuse.slide.order import curve_order, even_order
from survfuse.slide.pixels import BlankRegionError, DamagedRegionError, Slide
from survfuse.slide.settings import MOST_DAMAGED

_AHEAD = 2  # batches read or being read while one is encoded


def tile_features(
    slide: Slide, grid: Grid, origins: NDArray[np.int64], encoder: Encoder, limit: TimeLimit | None = None
) -> tuple[Tensor, NDArray[np.int64], int]:
    """Features [n, D] float32 on the CPU of tiles at level-0 ``origins`` [N, 2], the rows [n] they are of, rising, and
    the number of tiles that were met and cannot be read or lie where the slide has no pixels.

    Without ``limit`` and such tiles n is N. With a limit, tiles are taken in an order of which every prefix is an even
    sample of the tissue, for as long as another batch ends in time. Neither order nor threads change where a tile's
    features stand. Raises InputError where more than MOST_DAMAGED of the tiles cannot be read, and where the slide has
    no pixels of any.
    """
    order = (curve_order if limit is None else even_order)(*grid.places(origins).T)
    features = torch.empty(len(origins), encoder.spec.dimension, device=encoder.device)
    places = torch.from_numpy(order).to(encoder.device)  # at once: a copy for each batch would wait for the one before
    damaged = Damaged(slide.name, len(origins))
    batches = read_ahead(slide, grid, origins[order], encoder.spec.input_px, encoder.batch, encoder.device, damaged)
    encoded = np.zeros(len(origins), dtype=bool)  # in the order of reading
    done, slowest, started = 0, 0.0, elapsed()
    with encoder.autocast(), closing(batches):
        for tiles in progress(batches, len(origins), "encoding", len):
            if limit is not None and not limit.allows(slowest * encoder.in_flight, done + len(tiles)):
                break
            batch = slice(done, done + len(tiles))
            sound = damaged.sound(batch.start, batch.stop)
            encoded[batch] = sound
            if sound.all():
                features[places[batch]] = encoder(tiles)
            elif sound.any():
                features[torch.from_numpy(order[batch][sound]).to(encoder.device)] = encoder(tiles[sound])
            if limit is not None and not done and encoder.device.type == "cuda":
                torch.cuda.synchronize()  # else the first batch would seem to take no time
            done += len(tiles)
            slowest, started = max(slowest, elapsed() - started), elapsed()
    if done == len(origins) and not encoded.any():
        raise InputError(f"{slide.name}: has no pixels where {count(len(origins), 'tissue tile')} should be")
    rows = np.sort(order[encoded])
    features = features.cpu()
    found = features if encoded.all() else features[torch.from_numpy(rows)]
    return found, rows, done - len(rows)


class Damaged:
    """Tiles of ``tiles`` that could not be read, by their place in the order of reading. Any thread may add one.

    One that the file leaves out is not counted against what may be damaged: scanners leave out glass, and a mask may
    reach over it.
    """

    def __init__(self, name: str, tiles: int) -> None:
        self._name, self._there = name, tiles  # less those known to be left out
        self._why: dict[int, str] = {}
        self._blank: set[int] = set()

    def add(self, place: int, problem: DamagedRegionError) -> None:
        if isinstance(problem, BlankRegionError):
            self._blank.add(place)
        else:
            self._why[place] = str(problem)

    def sound(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Which of the tiles from ``start`` to ``stop`` were read, to be asked of one part after the other; raises
        InputError where too many were not."""
        met = [place for place in self._why.copy() if place < stop]  # and not what threads have met beyond, by chance
        self._there -= sum(place in self._blank for place in range(start, stop))
        allowed = int(MOST_DAMAGED * self._there)
        if len(met) > allowed:
            first = self._why[min(met)]
            raise InputError(
                f"{self._name}: more than {allowed:,} of {count(self._there, 'tissue tile')} "
                f"({MOST_DAMAGED:.0%}) cannot be read; {first}"
            )
        return np.array([place not in self._why and place not in self._blank for place in range(start, stop)])


def read_ahead(
    slide: Slide,
    grid: Grid,
    origins: NDArray[np.int64],
    px: int,
    batch: int,
    device: torch.device = torch.device("cpu"),  # noqa: B008
    damaged: "Damaged | None" = None,
) -> Iterator[Tensor]:
    """Tiles [≤ batch, px, px, 3] uint8 in the order of ``origins``, read before they are asked for.

    Their memory, pinned where a GPU copies from it, is written again once the next batch has been asked for. A tile
    that cannot be read is added to ``damaged``, and its pixels mean nothing; without it, DamagedRegionError is raised.
    """
    shape, pinned = (min(batch, len(origins)), px, px, 3), device.type == "cuda"
    buffers = [torch.empty(shape, dtype=torch.uint8, pin_memory=pinned) for _ in range(_AHEAD + 1)]
    parts = [origins[start : start + batch] for start in range(0, len(origins), batch)]

    def read(place: int, tile: NDArray[np.uint8]) -> None:
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
            # A reader's error or an abandoned iteration leaves nothing queued behind it.
            pool.shutdown(cancel_futures=True)


def _yield_to_encoder() -> None:
    """Give this thread what the encoder leaves: on a CPU both want every core, and a core that is held up holds up all
    that an operation is split over. Linux has priorities by thread."""
    if sys.platform == "linux":
        with suppress(OSError):  # a sandbox may forbid it; the job is a little slower then
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
