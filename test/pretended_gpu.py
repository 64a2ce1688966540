"""A GPU that is only pretended: its tensors are torch's fake ones, with a device, a shape and a type but no values.

Tensors on the CPU are real, and an operation on tensors of both devices raises as it does with a GPU. What comes from
the GPU to the CPU is ones. There are no gradients, since autograd asks the driver for its streams: backward() does
nothing, and an optimiser steps along zeros.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda:0")  # with its number: torch would otherwise ask the driver for it
SECOND = torch.device("cuda:1")  # while torch's current one is the first
T4, H100 = (7, 5), (9, 0)  # compute capabilities: without and with native bf16


class _Mode(FakeTensorMode):
    """Fakes what lies on the GPU only."""

    def dispatch(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        fake = any(isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, kwargs)))
        if func is torch.ops.aten._local_scalar_dense.default and fake:
            return torch.ones((), dtype=args[0].dtype).item()
        if fake and func is torch.ops.aten._to_copy.default and torch.device(kwargs.get("device") or GPU).type == "cpu":
            return _ones(args[0].shape, kwargs.get("dtype") or args[0].dtype)
        if not fake and torch.device(kwargs.get("device") or "cpu").type == "cpu":
            return func(*args, **kwargs)
        args, kwargs = tree_map(self._faked, (args, kwargs))
        return tree_map(_real_on_cpu, super().dispatch(func, types, args, kwargs))

    def _faked(self, value):
        if isinstance(value, torch.Tensor) and not isinstance(value, FakeTensor):
            return self.from_tensor(value.detach())
        return value


def _real_on_cpu(value):
    if isinstance(value, FakeTensor) and value.device.type == "cpu":
        return _ones(value.shape, value.dtype)
    return value


def _ones(shape, dtype):
    return torch.from_numpy(np.ones(tuple(shape))).to(dtype)


_STREAM = object()  # the GPU's


class _Event:
    """torch.cuda.Event, of work that is always done."""

    def __init__(self, blocking: bool = False) -> None:
        pass

    def record(self, stream: object = None) -> None:
        assert stream is _STREAM  # else that of the current GPU

    def synchronize(self) -> None:
        pass


def _unpinned(empty):
    return lambda *shape, pin_memory=False, **given: empty(*shape, **given)  # noqa: ARG005


def _zero_gradients(optimiser: torch.optim.Optimizer) -> None:
    for group in optimiser.param_groups:
        for value in group["params"]:
            value.grad = torch.zeros_like(value)


def _on_gpu(own, original):
    """``own`` for tensors on the GPU: brackets would ask the driver for it."""
    return lambda value, *given: (own if value.device.type == "cuda" else original)(value, *given)


def _get(value, index):
    dimension = 0
    for part in index if isinstance(index, tuple) else (index,):
        if part is None:
            value = value.unsqueeze(dimension)
        elif isinstance(part, int):
            value = value.select(dimension, part)
            continue
        elif isinstance(part, slice):
            value = torch.ops.aten.slice.Tensor(value, dimension, part.start, part.stop, part.step or 1)
        else:
            value = torch.ops.aten.index.Tensor(value, [None] * dimension + [part])
        dimension += 1
    return value


def _set(value, index, new):
    if isinstance(index, torch.Tensor):
        value.index_put_((index,), new)
    else:
        assert _get(value, index).shape == new.shape and value.device == new.device


@contextmanager
def pretended_gpu(capability: tuple[int, int] = H100, gpu: torch.device = GPU) -> Iterator[torch.device]:
    """``gpu``, the device of a pretended GPU of ``capability``, which is there within this context.

    What torch.cuda is asked of another GPU than this one, or of the current one, raises.
    """

    def of_this(answer: object) -> Callable[[torch.device], object]:
        def asked(device: torch.device) -> object:
            assert device == gpu
            return answer

        return asked

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "Event", _Event)
        patch.setattr(torch.cuda, "synchronize", of_this(None))
        patch.setattr(torch.cuda, "get_device_name", of_this("a pretended GPU"))
        patch.setattr(torch.cuda, "get_device_capability", of_this(capability))
        patch.setattr(torch.cuda, "current_stream", of_this(_STREAM))
        patch.setattr(torch.cuda, "current_device", lambda: 0)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda: True)  # natively or not: autocast asks the current GPU
        patch.setattr("survfuse.runtime.device.chosen_device", lambda *_: gpu)
        patch.setattr("survfuse.runtime.device.chosen_devices", lambda *_: (gpu,))
        patch.setattr(torch, "empty", _unpinned(torch.empty))  # only a driver pins memory
        patch.setattr(torch.cuda, "empty_cache", lambda: None)
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(FakeTensor, "tolist", lambda value: np.ones(tuple(value.shape)).tolist(), raising=False)
        # A module that moves gets new parameters: in the old ones' places fake data would lose its device.
        patch.setattr("torch.__future__._overwrite_module_params_on_conversion", True)
        # These too would ask the driver.
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda q, k, v, **_: q @ k.mT @ v)
        patch.setattr(torch._C, "_select_conv_backend", lambda **_: torch._C._ConvBackend.Cudnn)
        patch.setattr(torch.Tensor, "__invert__", lambda value: torch.bitwise_not(value))
        patch.setattr(torch.Tensor, "contiguous", lambda value, **layout: torch.clone(value, **layout))
        patch.setattr(torch.Tensor, "masked_fill", lambda value, mask, new: torch.where(mask, new, value))
        patch.setattr(torch.Tensor, "backward", lambda _: None)
        patch.setattr(torch.optim.AdamW, "zero_grad", _zero_gradients)
        patch.setattr(torch.Tensor, "__getitem__", _on_gpu(_get, torch.Tensor.__getitem__))
        patch.setattr(torch.Tensor, "__setitem__", _on_gpu(_set, torch.Tensor.__setitem__))
        with torch.no_grad(), _Mode(allow_non_fake_inputs=True):
            yield gpu
