"""The number format in which a tile encoder computes; benchmarks/README.md shows why."""

import torch

from survfuse.slide.registry import EncoderSpec


def encoder_precision(spec: EncoderSpec, device: torch.device) -> torch.dtype:
    """bf16 or fp16 if ``spec`` allows half precision on ``device`` and the hardware computes in it, else float32."""
    if device.type == "cuda" and spec.half_cuda:
        # is_bf16_supported counts emulation unless told not to; a T4 has no native bf16.
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu" and spec.half_cpu and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32
