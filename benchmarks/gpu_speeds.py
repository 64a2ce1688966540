"""Tiles a second of each encoder on a GPU, for `gpu.py`, with its checks while it is there.

Slides are simulated ones of real tissue tiles (material.py), so that survfuse's own packages are enough. What only
reading them needs is imported there: a package that is missing takes no more with it.
"""

import gc
import os
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import torch
from encode_alone import encode, plain_seconds, plain_tile
from encoder_precision import network_of
from gpu_encoders import encoder_checks, memory_limited, peak_bytes, shrinking, tiles_of
from gpu_results import Cell, Clock, Item, Result, Row, Skipped, attempted
from gpu_shared import seconds_of
from torch.utils.data import DataLoader, Dataset

from survfuse.runtime.errors import memory_ran_out
from survfuse.slide.encoders import Encoder
from survfuse.slide.registry import EMBEDDED, ENCODERS

BATCHES = (8, 32, 128, 512)
SECONDS = 1.5  # that one way of encoding is timed for, about
MOST_TILES, MOST_OF_SLIDE, PLAIN_TILES = 1024, 2944, 24
SLIDE_SIDE = 50_000
TRIDENT_BATCH, TRIDENT_CORES = 512, 0.75
SHRINKS = ("efficientnet-lite0", "uni")  # with tiles for which memory is made too small
SPEEDS = "Tiles a second"

Way = Callable[[Encoder, int], float]  # of encoding so many tiles: tiles a second


def items(device: torch.device) -> list[Item]:
    """One for every encoder."""
    return [Item(f"encoder {name}", 25.0, lambda clock, name=name: encoder(name, device, clock)) for name in ENCODERS]


def encoder(name: str, device: torch.device, clock: Clock) -> Iterator[Result]:
    """One encoder's checks and speeds; what it held of the GPU is free afterwards."""
    yield from _encoder(name, device, clock)
    gc.collect()  # its network, now that no frame holds it
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _encoder(name: str, device: torch.device, clock: Clock) -> Iterator[Result]:
    made, checks = encoder_checks(name, device)
    yield from checks
    if name in SHRINKS:
        yield from attempted(f"{name}: memory", little_memory(made))
    yield from attempted(f"{name}: speed", speeds(made, clock))


def little_memory(made: Encoder) -> Iterator[Result]:
    """That a whole batch is halved where memory is too small for it, and large enough for an eighth."""
    tiles = tiles_of(made.spec.input_px, 8).repeat(made.batch // 8, 1, 1, 1)
    made(tiles)  # what libraries keep is held from now on
    few, many = (peak_bytes(made.device, lambda number=n: made(tiles[:number])) for n in (len(tiles) // 8, len(tiles)))
    yield from shrinking(made, tiles, lambda: memory_limited(made.device, (few + many) // 2))


def speeds(made: Encoder, clock: Clock) -> Iterator[Result]:
    """Tiles a second: the encoder alone by batch size, survfuse's route from the slide, and two other ways."""
    spec, device, own = made.spec, made.device, made.batch
    tiles = _pinned(tiles_of(spec.input_px, 8).repeat(MOST_TILES // 8, 1, 1, 1), device)
    row: dict[str, Cell] = {"encoder": spec.name, "precision": str(made.precision).removeprefix("torch.")}
    encode(made, tiles[:own], own)
    rate = own / encode(made, tiles[:own], own)
    row["peak MB, batch 128"] = peak_bytes(device, lambda: made(tiles[:own])) / 1e6
    number = _timed_number(rate, MOST_TILES)
    for batch in BATCHES:
        if clock.left <= 0.0:
            yield Skipped(f"{spec.name}: batch {batch}", "no time was left for this encoder")
            continue
        row[f"alone, {batch}"] = _rate_alone(made, tiles[: max(number, batch)], batch)
    made.batch = own
    ways = {"survfuse, from the slide": route, "plain loop": plain_loop, "DataLoader workers": data_loader}
    for way, measured in ways.items():
        if clock.left <= 0.0:
            yield Skipped(f"{spec.name}: {way}", "no time was left for this encoder")
            continue
        # One that fails leaves the row without its figure.
        yield from attempted(f"{spec.name}: {way}", _into(row, way, measured, made, _timed_number(rate, MOST_OF_SLIDE)))
        if measured is route and device.type == "cuda":
            row["peak MB, from the slide"] = torch.cuda.max_memory_allocated(device) / 1e6
    yield Row(SPEEDS, row)


def _into(row: dict[str, Cell], way: str, measured: Way, made: Encoder, number: int) -> Iterator[Result]:
    row[way] = measured(made, number)
    yield from ()


def _rate_alone(made: Encoder, tiles, batch: int) -> float | None:
    """Tiles a second, read and pinned before; None if memory cannot hold such a batch."""
    encode(made, tiles[:batch], batch)
    seconds = encode(made, tiles, batch)
    return len(tiles) / seconds if made.batch == batch else None


def route(made: Encoder, number: int) -> float:
    """Tiles a second of reading and encoding as a job does them."""
    from survfuse.slide.encode import tile_features
    from survfuse.slide.pixels import Slide

    path, grid, origins = slide_tiles(made.spec.input_px)
    with Slide(path) as slide:
        chosen = origins[:number]
        if made.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(made.device)
        tile_features(slide, grid, chosen[: made.batch], made)
        return len(chosen) / seconds_of(lambda: tile_features(slide, grid, chosen, made))


def plain_loop(made: Encoder, number: int) -> float:
    """Tiles a second, one after another in float32, as timm and torch come."""
    from survfuse.slide.pixels import Slide

    path, _, origins = slide_tiles(made.spec.input_px)
    spec, few = made.spec, min(number, PLAIN_TILES)
    network = network_of(spec.name).eval().to(made.device) if spec.name in EMBEDDED else made.network
    mean, std = _normalisation(made)
    with Slide(path) as slide:
        return 1.0 / plain_seconds(network, mean, std, slide, origins[:few], spec.input_px, made.device)


def data_loader(made: Encoder, number: int) -> float:
    """Tiles a second as TRIDENT reads and encodes them: one read_region a tile in worker processes, under autocast.

    A worker reads a whole batch: batches are of TRIDENT's size, but small enough that each worker has two.
    """
    path, _, origins = slide_tiles(made.spec.input_px)
    tiles = _Tiles(str(path), origins[:number], made.spec.input_px, *_normalisation(made))
    workers = max(1, int(TRIDENT_CORES * (os.cpu_count() or 1)))
    batch = max(1, min(TRIDENT_BATCH, len(tiles) // (2 * workers)))
    while True:
        try:
            loader = DataLoader(tiles, batch_size=batch, num_workers=workers, pin_memory=made.device.type == "cuda")
            return len(tiles) / seconds_of(lambda: _all_features(made, loader))  # noqa: B023 (called at once)
        except RuntimeError as error:
            if not memory_ran_out(error) or batch == 1:
                raise
        batch //= 2
        torch.cuda.empty_cache()


class _Tiles(Dataset):
    """Normalised tiles [3, px, px], each read by OpenSlide in whichever process asks for it."""

    def __init__(self, path: str, origins, px: int, mean, std) -> None:
        self._path, self._origins, self._px, self._mean, self._std = path, origins, px, mean, std
        self._opened: object = None  # opened in the worker: a handle does not travel

    def __len__(self) -> int:
        return len(self._origins)

    def __getitem__(self, place: int) -> torch.Tensor:
        if self._opened is None:
            import openslide

            self._opened = openslide.OpenSlide(self._path)
        return plain_tile(self._opened, self._origins[place].tolist(), self._px, self._mean, self._std)


def _all_features(made: Encoder, loader: DataLoader) -> None:
    with torch.inference_mode(), made.autocast():
        for batch in loader:
            features = made.network(batch.to(made.device, non_blocking=True))
            (features if features.ndim == 2 else features[:, 0]).cpu()  # of tokens, the class's


@cache
def slide_tiles(px: int):
    """A simulated slide's path, and the grid and level-0 origins [N, 2] of its tissue tiles of ``px`` pixels."""
    import material

    from survfuse.slide.grid import Grid
    from survfuse.slide.pixels import Slide
    from survfuse.slide.tissue import find_tissue

    case = material.simulated(SLIDE_SIDE)
    path = material.only(case, 0)
    with Slide(path) as slide:
        grid = Grid.over(slide.size, slide.mpp, px, 224.0 / px)
        return path, grid, find_tissue(slide, grid, material.only(case, 1), 0.5).origins


def _normalisation(made: Encoder):
    return [torch.tensor(numbers).view(3, 1, 1) for numbers in made.spec.normalisation]


def _timed_number(rate: float, most: int) -> int:
    """How many tiles take about SECONDS at ``rate`` a second: a multiple of 32, at least that."""
    return int(np.clip(32 * (int(rate * SECONDS) // 32), 32, most))


def _pinned(tiles: torch.Tensor, device: torch.device) -> torch.Tensor:
    return tiles.pin_memory() if device.type == "cuda" else tiles
