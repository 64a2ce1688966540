"""Memory that ran out, by whatever name a library gives it: smaller batches, or one line and exit code 4."""

import pytest
import torch
from torch import nn

from survfuse.runtime.errors import EnvironmentFailure, as_survfuse_error, memory_ran_out
from survfuse.slide.encoders import Encoder
from survfuse.slide.registry import ENCODERS

CPU = torch.device("cpu")
# As torch, cuDNN and cuBLAS word them: pytorch #112377, #122068, #108645, and torch's own sources.
LACKS = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 15.77 GiB"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other call"),
    RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":1154'),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("Unable to find an engine to execute this computation"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to"),
    MemoryError(),
)
OTHERS = (
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError('x INTERNAL ASSERT FAILED at "../aten/src/ATen/native/Resize.cpp":1, please report a bug'),
    ValueError("CUDA out of memory"),
)


class Small(nn.Module):
    """A network on a device that holds 3 tiles, and raises ``lack`` for more."""

    def __init__(self, lack: Exception, holds: int = 3) -> None:
        super().__init__()
        self.lack, self.holds = lack, holds

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > self.holds:
            raise self.lack
        return pixels.mean(dim=(2, 3))


@pytest.mark.parametrize("lack", LACKS, ids=str)
def test_a_lack_of_memory_shrinks_the_batch_whatever_its_name(lack):
    tiles = torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1).expand(20, 8, 8, 3)
    encoder = Encoder(ENCODERS["efficientnet-lite0"], Small(lack), CPU)
    pixels = tiles.permute(0, 3, 1, 2).float() * encoder._factor + encoder._offset
    assert torch.allclose(encoder(tiles), pixels.mean(dim=(2, 3)))
    assert encoder.batch <= 3
    with pytest.raises(EnvironmentFailure, match="cannot hold one tile"):
        Encoder(ENCODERS["efficientnet-lite0"], Small(lack, 0), CPU)(tiles)


@pytest.mark.parametrize("lack", LACKS, ids=str)
def test_a_lack_of_memory_anywhere_else_is_the_machines_failure(lack):
    failure = as_survfuse_error(lack)
    assert isinstance(failure, EnvironmentFailure) and str(failure).startswith("memory ran out: ")


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_other_failures_are_not_taken_for_a_lack_of_memory(other):
    assert not memory_ran_out(other)
    encoder = Encoder(ENCODERS["efficientnet-lite0"], Small(other), CPU)
    with pytest.raises(type(other)):
        encoder(torch.zeros(8, 8, 8, 3, dtype=torch.uint8))
    assert encoder.batch == 16
