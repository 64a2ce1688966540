"""What the system is told of mapped files: whether rows here and there are about to be read, or all in their order.

Around a page that is not in memory yet, Linux reads megabytes ahead. For a few rows of a large file that is nearly all
of the file; one after the other, it is what makes reading fast.
"""

import ctypes
import mmap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def expect(values: "Tensor", scattered: bool) -> None:
    """Tell the system that rows of mapped ``values`` will be read here and there (``scattered``), or in their order.

    Results do not depend on it, and nothing happens where the system cannot be told.
    """
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    if madvise is None:
        return
    storage = values.untyped_storage()
    start = storage.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
    length = storage.data_ptr() + storage.nbytes() - start
    advice = mmap.MADV_RANDOM if scattered else mmap.MADV_NORMAL
    madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), ctypes.c_int(advice))
