"""A GPU's encoders beside the CPU's: their features in each number format, determinism, and batches that shrink."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from encoder_precision import CPU, network_of, sample_tiles
from gpu_results import Compared, Result, Row, Skipped, attempted
from gpu_shared import differing, strictly_deterministic
from torch import Tensor, nn

from survfuse.slide.encoders import Encoder
from survfuse.slide.registry import ENCODERS, EncoderSpec

FULL, BRAIN, HALF = torch.float32, torch.bfloat16, torch.float16
FEATURES = {FULL: 1e-5, BRAIN: 1e-1, HALF: 1e-1}  # survfuse/runtime/device.py; relative to a tile's features
TILES = 8
COSTS = "What half precision costs"

Network = Callable[[str, torch.device], nn.Module]


def encoder_checks(
    name: str, device: torch.device, network: Network = network_of, tiles: int = TILES
) -> tuple[Encoder, Iterator[Result]]:
    """The encoder on ``device``, ready to be timed, and its comparisons; these leave it as it was.

    ``network`` makes what runs on a device. The CPU computes first, on the same weights, which then move.
    """
    spec = ENCODERS[name]
    given = network(name, device)
    pixels = tiles_of(spec.input_px, tiles)
    reference = Encoder(spec, given, CPU)
    reference.precision = FULL
    exact = reference(pixels)
    encoder = Encoder(spec, given, device)
    return encoder, encoder_results(encoder, pixels, exact)


def encoder_results(encoder: Encoder, tiles: Tensor, exact: Tensor) -> Iterator[Result]:
    """Comparisons of ``encoder`` on ``tiles`` [N, px, px, 3] with ``exact`` features [N, D] in float32 on the CPU."""
    name = encoder.spec.name
    yield from attempted(f"{name}: agreement", agreement(encoder, tiles, exact))
    yield from attempted(f"{name}: determinism", same_features(encoder, tiles))


def agreement(encoder: Encoder, tiles: Tensor, exact: Tensor) -> Iterator[Result]:
    """Features in each precision that the device computes in, beside ``exact``.

    Half precision has a limit for encoders that are allowed it; for the others its cost is a figure.
    """
    spec = encoder.spec
    for precision in forced_precisions(encoder.device):
        features = forced(encoder, precision)(tiles).cpu()
        short = str(precision).removeprefix("torch.")
        sound = features.isfinite().all(dim=1)  # what overflows in fp16 is encoded again, slide/overflow.py
        if precision != FULL and not sound.any():
            yield Skipped(f"{spec.name} in {short}", "overflows on every tile")
            continue
        kept = sound if precision == HALF else torch.ones_like(sound)
        apart = feature_difference(features[kept], exact[kept])
        if precision == FULL or allows_half(spec, encoder.device):
            yield Compared(f"encoders, {short}", spec.name, apart, FEATURES[precision], "a tile's features, relative")
        if precision != FULL:
            cosine = nn.functional.cosine_similarity(features[kept], exact[kept]).double()
            yield Row(
                COSTS,
                {
                    "encoder": spec.name,
                    "precision": short,
                    "tiles": str(len(tiles)),
                    "overflowing": str(int((~sound).sum())),
                    "lowest cosine": f"{float(cosine.min()):.5f}",
                    "mean cosine": f"{float(cosine.mean()):.5f}",
                    "largest relative difference": apart,
                },
            )


def forced_precisions(device: torch.device) -> Sequence[torch.dtype]:
    """The number formats that ``device`` computes in."""
    if device.type == "cpu":
        return (FULL, BRAIN)
    return (FULL, BRAIN, HALF) if torch.cuda.get_device_capability(device) >= (8, 0) else (FULL, HALF)


def forced(encoder: Encoder, precision: torch.dtype) -> Encoder:
    """``encoder``, of the same network, computing in ``precision``."""
    other = encoder.in_float32()
    other.precision = precision
    return other


def allows_half(spec: EncoderSpec, device: torch.device) -> bool:
    """Whether ``spec`` may run in half precision on ``device``."""
    return spec.half_cuda if device.type == "cuda" else spec.half_cpu


def feature_difference(features: Tensor, exact: Tensor) -> float:
    """Largest distance of a tile's ``features`` [N, D] from the ``exact`` ones, relative to their norm."""
    exact = exact.double()
    return float(((features.double() - exact).norm(dim=1) / exact.norm(dim=1)).max())


def same_features(encoder: Encoder, tiles: Tensor) -> Iterator[Result]:
    """That an encoder gives the same bytes twice, by deterministic kernels only."""
    with strictly_deterministic():
        first, second = (encoder(tiles).cpu() for _ in range(2))
    yield Compared("encoders, twice", encoder.spec.name, differing(first, second), 0.0, "values that differ")


def shrinking(encoder: Encoder, tiles: Tensor, limited: Callable[[], AbstractContextManager[None]]) -> Iterator[Result]:
    """That a batch shrinks in the context ``limited``, where memory is too small for all ``tiles`` at once.

    The features must stay those of whole batches, but for rounding: kernels may differ with the size of a batch.
    """
    before, encoder.batch = encoder.batch, len(tiles)
    try:
        whole = encoder(tiles).cpu()
        with limited():
            features = encoder(tiles).cpu()
        shrunk = encoder.batch
    finally:
        encoder.batch = before
    kind, name = f"encoders, memory for less than {len(tiles)} tiles", encoder.spec.name
    yield Compared(kind, name, shrunk, len(tiles) - 1, "tiles at a time")
    limit = FEATURES[encoder.precision]
    yield Compared(kind, name, feature_difference(features, whole), limit, "a tile's features, relative")


@contextmanager
def memory_limited(device: torch.device, bytes_more: int) -> Iterator[None]:
    """Let torch take only so many bytes more than it holds of the GPU ``device``."""
    gc.collect()
    torch.cuda.empty_cache()
    # Unlike the others, set_per_process_memory_fraction takes no "cuda" without a number.
    number = torch.cuda.current_device() if device.index is None else device.index
    whole = torch.cuda.get_device_properties(number).total_memory
    held = torch.cuda.memory_reserved(number)
    torch.cuda.set_per_process_memory_fraction(min(1.0, (held + bytes_more) / whole), number)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, number)
        torch.cuda.empty_cache()


def peak_bytes(device: torch.device, action: Callable[[], object]) -> int:
    """The most bytes that ``action`` holds on the GPU ``device`` beside those held before; 0 on the CPU."""
    if device.type == "cpu":
        action()
        return 0
    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    action()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def tiles_of(side: int, number: int) -> Tensor:
    """Tiles [number, side, side, 3] of the sample slide or, where OpenSlide is not installed, of smooth noise."""
    try:
        return sample_tiles(side, number)
    except ModuleNotFoundError:
        coarse = torch.rand(number, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        smooth = nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0.0, 1.0)
        return (255.0 * smooth).byte().permute(0, 2, 3, 1).contiguous()
