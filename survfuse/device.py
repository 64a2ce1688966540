"""Where networks run."""

import torch


def best_device() -> torch.device:
    """The GPU where there is one, else the CPU. On a GPU, fp32 is kept fp32 and cuDNN's kernels deterministic."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    return torch.device("cuda")
