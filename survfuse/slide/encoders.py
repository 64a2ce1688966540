"""Tile encoders, ready to use: uint8 tiles in, features out."""

import copy
import ctypes
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from survfuse.runtime.errors import EnvironmentFailure, InputError, SurvfuseError, memory_ran_out
from survfuse.slide.precision import encoder_precision
from survfuse.slide.registry import EncoderSpec, find_spec
from survfuse.slide.weights import load_network

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


class Encoder:
    """A tile encoder, ready to use: uint8 tiles in, float32 features out."""

    def __init__(self, spec: EncoderSpec, network: nn.Module, device: torch.device) -> None:
        """Prepare ``network``, as ``load_network`` gives it, for ``device``; the network itself is changed."""
        self.spec = spec
        self.device = device
        self.precision = encoder_precision(spec, device)
        # A GPU needs many tiles to be busy. A CPU does not, and small batches let it keep to a time limit.
        self.batch = 128 if device.type != "cpu" else 16 if spec.convolutional else 8
        if device.type == "cpu":
            _keep_freed_memory()
        layout = torch.channels_last if spec.convolutional else torch.contiguous_format
        network.eval()
        if spec.convolutional:
            _fold_normalisation(network)
        self.network: nn.Module = network.to(  # type: ignore[call-overload]  # torch's types lack this form
            device=device, memory_format=layout
        )
        mean, std = (torch.tensor(numbers, device=device).view(1, 3, 1, 1) for numbers in spec.normalisation)
        self._factor, self._offset, self._layout = 1.0 / (255.0 * std), -mean / std, layout

    @property
    def in_flight(self) -> int:
        """How many batches may still be computed when the next one begins, including that one."""
        return 2 if self.device.type == "cuda" else 1

    def autocast(self) -> torch.autocast:
        """A context in which tiles are encoded in the encoder's precision.

        Entered once around many batches, it casts the weights once instead of for each batch.
        """
        return torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision != torch.float32)

    def in_float32(self) -> "Encoder":
        """This encoder, of the same network, computing in float32."""
        other = copy.copy(self)
        other.precision = torch.float32
        return other

    def in_smaller_batches(self, halvings: int) -> "Encoder":
        """This encoder, of the same network, with a batch halved so many times on a GPU.

        On a CPU the batch stays: it takes little of the memory, and its size decides the last bits of features.
        """
        other = copy.copy(self)
        if self.device.type != "cpu":
            other.batch = max(1, self.batch >> halvings)
        return other

    def __call__(self, tiles: Tensor) -> Tensor:
        """Features [B, D], float32 on the device, of ``tiles`` [B, px, px, 3], uint8 RGB on the CPU.

        On return, ``tiles`` may be overwritten although a GPU may still be computing: it then has one batch to work on
        and does not wait for the next one to be read. If a GPU's memory runs out, it takes half as many tiles at a time
        from then on. Raises EnvironmentFailure if it cannot hold a single tile.
        """
        if len(tiles) <= self.batch:
            try:
                return self._encode(tiles)
            except (RuntimeError, MemoryError) as cause:
                if not memory_ran_out(cause):
                    raise
                if len(tiles) == 1:
                    raise EnvironmentFailure(f"{self.spec.name}: device memory cannot hold one tile") from cause
            # Outside the handler, so that the failed attempt's tensors are freed before the next one.
            self.batch = (len(tiles) + 1) // 2
            torch.cuda.empty_cache()
        batch = self.batch  # may shrink further within a part
        return torch.cat([self(tiles[start : start + batch]) for start in range(0, len(tiles), batch)])

    @torch.no_grad()
    def _encode(self, tiles: Tensor) -> Tensor:
        pixels = tiles.to(self.device, non_blocking=True)
        copied = torch.cuda.Event(blocking=True) if self.device.type == "cuda" else None
        if copied is not None:
            copied.record(torch.cuda.current_stream(self.device))
        pixels = (pixels.permute(0, 3, 1, 2).float() * self._factor + self._offset).contiguous(
            memory_format=self._layout
        )
        with self.autocast():
            features: Tensor = self.network(pixels)
        if self.spec.mean_after is not None:
            tokens = features.float()
            features = torch.cat([tokens[:, 0], tokens[:, self.spec.mean_after :].mean(dim=1)], dim=-1)
        if copied is not None:  # recorded after the previous batch, so this waits for the end of that one too
            copied.synchronize()
        return features.float()


def load_encoder(
    name: str, weights: Path | None, device: torch.device, error: type[SurvfuseError] = InputError
) -> Encoder:
    """The encoder ``name`` with the weights in a local file, or its embedded weights if ``weights`` is None.

    Raises ``error`` if the name is unknown, or the weights are absent, unreadable, not finite or of another network.
    """
    return Encoder(find_spec(name, error), load_network(name, weights, error), device)


def _fold_normalisation(network: nn.Module) -> None:
    """Fold each of timm's batch normalisations that follow a convolution into that convolution's weights.

    What else timm's layer does (dropping blocks, activation) takes its place.
    """
    children = list(network.named_children())
    for (name, first), (next_name, second) in pairwise(children):
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
            setattr(network, name, fuse_conv_bn_eval(first, second))
            setattr(network, next_name, nn.Sequential(second.get_submodule("drop"), second.get_submodule("act")))
    for _, child in children:
        _fold_normalisation(child)


def _keep_freed_memory() -> None:
    """Let this process keep the memory that it frees.

    Otherwise the pages of every large activation are mapped and cleared anew, and encoding takes up to twice as long.
    glibc only, mallopt(3); other systems' allocators stay as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
