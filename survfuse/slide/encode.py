"""A slide's tiles → features [N, D]: threads read ahead while the encoder computes."""

from contextlib import closing

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from survfuse.runtime.clock import TimeLimit, elapsed
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import count, progress
from survfuse.slide.damage import DamagedTiles
from survfuse.slide.encoders import Encoder
from survfuse.slide.grid import Grid
from survfuse.slide.order import curve_order, even_order
from survfuse.slide.pixels import Slide
from survfuse.slide.read_ahead import read_ahead


def tile_features(
    slide: Slide, grid: Grid, origins: NDArray[np.int64], encoder: Encoder, limit: TimeLimit | None = None
) -> tuple[Tensor, NDArray[np.int64], int]:
    """Features of the tiles at level-0 ``origins`` [N, 2], as far as they can be read within ``limit``.

    Returns the features [n, D], float32 on the CPU; the rows [n] of ``origins`` that they belong to, ascending; and the
    number of tiles that were reached and cannot be read or lie where the slide has no pixels. Without ``limit``, n is N
    less that number. With a limit, tiles are taken in an order such that any prefix samples the tissue evenly, as long
    as another batch ends in time. Neither the order nor the threads change which row a tile's features are in.

    Raises InputError if more than MOST_DAMAGED of the tiles cannot be read, and if the slide has no pixels in any.
    """
    order = (curve_order if limit is None else even_order)(*grid.places(origins).T)
    features = torch.empty(len(origins), encoder.spec.dimension, device=encoder.device)
    # Copied at once: a copy for each batch would wait for the batch before.
    places = torch.from_numpy(order).to(encoder.device)
    damaged = DamagedTiles(slide.name, len(origins))
    batches = read_ahead(slide, grid, origins[order], encoder.spec.input_px, encoder.batch, encoder.device, damaged)
    encoded = np.zeros(len(origins), dtype=bool)  # in the order of reading
    number, done, slowest, started = 0, 0, 0.0, elapsed()
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
            if limit is not None and number < 2 and encoder.device.type == "cuda":
                # Otherwise a batch that follows no other would seem to take no time.
                torch.cuda.synchronize(encoder.device)
            took, started = elapsed() - started, elapsed()
            # The first batch also starts the device: it stands for the second one, and for none after that.
            slowest = max(slowest, took) if number > 1 else took
            number, done = number + 1, done + len(tiles)
    if done == len(origins) and not encoded.any():
        raise InputError(f"{slide.name}: has no pixels where {count(len(origins), 'tissue tile')} should be")
    rows = np.sort(order[encoded])
    on_cpu = features.cpu()
    return on_cpu if encoded.all() else on_cpu[torch.from_numpy(rows)], rows, done - len(rows)
