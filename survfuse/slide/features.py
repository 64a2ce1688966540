"""A slide's tiles → features [N, D]: threads read ahead while the encoder computes."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from survfuse.log import progress
from survfuse.slide.encoders import Encoder
from survfuse.slide.pixels import Slide
from survfuse.slide.tiles import Grid


def tile_features(slide: Slide, grid: Grid, origins: NDArray[np.int64], encoder: Encoder) -> Tensor:
    """Features [N, D] float32 of the tiles at level-0 ``origins`` [N, 2], in that order.

    A tile's row is its place in ``origins``, so neither threads nor batches change where it stands.
    """
    features = torch.empty(len(origins), encoder.spec.dimension)
    batches = read_ahead(slide, grid, origins, encoder.spec.input_px, encoder.batch)
    with encoder.autocast():
        done = 0
        for tiles in progress(batches, len(origins), "encoding", len):
            features[done : done + len(tiles)] = encoder(tiles)
            done += len(tiles)
    return features


def read_ahead(
    slide: Slide, grid: Grid, origins: NDArray[np.int64], px: int, batch: int
) -> Iterator[NDArray[np.uint8]]:
    """Tiles [≤ batch, px, px, 3] in the order of ``origins``, up to three batches read before they are asked for."""

    def read(origin: NDArray[np.int64]) -> NDArray[np.uint8]:
        return slide.read((int(origin[0]), int(origin[1])), grid.side, (px, px))

    pending: deque[Future[NDArray[np.uint8]]] = deque()
    waiting = iter(origins)
    with ThreadPoolExecutor(max_workers=min(8, (os.cpu_count() or 1)), thread_name_prefix="reader") as pool:
        try:
            for start in range(0, len(origins), batch):
                while len(pending) < 3 * batch and (origin := next(waiting, None)) is not None:
                    pending.append(pool.submit(read, origin))
                size = min(batch, len(origins) - start)
                yield np.stack([pending.popleft().result() for _ in range(size)])
        finally:
            # A reader's error or an abandoned iteration leaves nothing queued behind it.
            pool.shutdown(cancel_futures=True)
