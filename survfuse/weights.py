"""Weights that come from a file: networks built without memory for others, and values that can be computed with."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def shapes_only() -> Iterator[None]:
    """Modules built within have parameters on the meta device, and their initial values are never drawn.

    torch would go through its compiler's decompositions, whose import alone costs more than a second.
    """
    with torch.device("meta"), _Unfilled():
        yield


_FILLING = ("normal_", "uniform_", "fill_", "zero_")  # methods; every function of torch.nn.init fills as well


class _Unfilled(TorchFunctionMode):
    """Tensors without memory are not filled with values."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        target = args[0] if args else kwargs.get("tensor")  # torch.nn.init's functions name it
        fills = getattr(func, "__name__", "") in _FILLING or getattr(func, "__module__", "") == "torch.nn.init"
        if fills and isinstance(target, torch.Tensor) and target.is_meta:
            return target
        return func(*args, **kwargs)


def all_finite(tensor: torch.Tensor) -> bool:
    """Whether no value is NaN or infinite: a tensor's extremes are NaN where any is. One pass, and no memory."""
    return not tensor.numel() or all(map(torch.isfinite, tensor.aminmax()))
