"""Rows of numbers that stay in their files, for what is too large to be held."""

import torch
from torch import Tensor

HELD = 2**30  # bytes; what is larger, and would have to be copied to be in memory, stays in its files


class RowSource:
    """Numbers [N, D] in files.

    As with a tensor, ``[start:stop]`` and ``[index]`` are some of the rows; each time they are read anew.
    """

    nbytes = 0  # in memory

    def __init__(self, rows: int, length: int, dtype: torch.dtype) -> None:
        self.shape = (rows, length)
        self.dtype = dtype

    def __len__(self) -> int:
        return self.shape[0]

    def element_size(self) -> int:
        """Bytes of one number."""
        return self.dtype.itemsize

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                raise IndexError(f"expected rows one after the other, found every {step}")
            return self.between(start, max(start, stop))
        return torch.cat([self.between(row, row + 1) for row in index.tolist()])

    def between(self, start: int, stop: int) -> Tensor:
        """The rows [stop − start, D] from ``start`` to before ``stop``."""
        raise NotImplementedError


Rows2D = Tensor | RowSource
