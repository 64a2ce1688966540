"""The number format in which a tile encoder computes; benchmarks/README.md shows why."""

import torch

from survfuse.slide.registry import EncoderSpec


def encoder_precision(spec: EncoderSpec, device: torch.device) -> torch.dtype:
    """bf16 or fp16 if ``spec`` allows half precision on ``device`` and the hardware computes in it, else float32."""
    if device.type == "cuda" and spec.half_cuda:
        # Native since capability 8.0. torch.cuda.is_bf16_supported asks the current GPU, which may be another one.
        native = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu" and spec.half_cpu and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32
