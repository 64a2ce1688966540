"""Networks' weights: shapes without memory for values, and a check that values are finite."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

State = dict[str, Tensor]  # a network's tensors by name
_FILLING = ("normal_", "uniform_", "fill_", "zero_")  # methods; every function of torch.nn.init fills as well


@contextmanager
def shapes_only() -> Iterator[None]:
    """Modules built within have parameters on the meta device, and their initial values are never drawn.

    torch would otherwise use its compiler's decompositions, whose import alone takes more than a second.
    """
    with torch.device("meta"), _Unfilled():
        yield


def freeze(network: nn.Module) -> None:
    """Turn every parameter of ``network`` into a buffer of the same name, around the same memory.

    torch keeps Python's lock throughout an operation that has a parameter among its arguments (2.9), so that no other
    thread of the process could compute, or read the next tiles, meanwhile.
    """
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach())


def all_finite(tensor: Tensor) -> bool:
    """Whether no value of ``tensor`` is NaN or infinite, found in one pass and without a copy.

    The minimum and maximum are NaN if any value is.

    >>> all_finite(torch.tensor([1.0, 2.0])), all_finite(torch.tensor([1.0, torch.inf]))
    (True, False)
    """
    return not tensor.numel() or all(bool(extreme.isfinite()) for extreme in tensor.aminmax())


class _Unfilled(TorchFunctionMode):
    """Tensors without memory are not filled with values."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        target = args[0] if args else kwargs.get("tensor")  # functions of torch.nn.init have it as a keyword
        fills = getattr(func, "__name__", "") in _FILLING or getattr(func, "__module__", "") == "torch.nn.init"
        if fills and isinstance(target, Tensor) and target.is_meta:
            return target
        return func(*args, **kwargs)
