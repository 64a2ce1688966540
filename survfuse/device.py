"""Where networks run."""

import torch

from survfuse.errors import EnvironmentFailure


def best_device() -> torch.device:
    """The GPU where there is one, else the CPU. On a GPU, fp32 is kept fp32 and cuDNN's kernels deterministic."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    return torch.device("cuda")


def chosen_device(name: str) -> torch.device:
    """The device that a command line names: auto, cpu or cuda; raises EnvironmentFailure where there is no GPU."""
    if name == "cpu":
        return torch.device("cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise EnvironmentFailure("no usable GPU was found for --device cuda")
    return best_device()
