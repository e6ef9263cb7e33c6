"""CUDA's streams as DLPack and other libraries name them."""

from __future__ import annotations

import ctypes
import threading
from operator import index
from typing import Any

from extmem.errors import TensorError

__all__ = ["LEGACY", "PER_THREAD", "Lane", "lane_of", "number_of", "of_dlpack"]

LEGACY, PER_THREAD = 1, 2  # CUDA's own numbers for its two default streams

Lane = tuple[int, object]  # a stream's number, and whose thread's it is: equal for one stream

_of_thread = threading.local()


def lane_of(stream: int) -> Lane:
    """Which stream a number means in the calling thread. The number of each thread's default stream
    is the same in all of them.

    >>> lane_of(0x1000), lane_of(PER_THREAD) == lane_of(PER_THREAD)
    ((4096, None), True)
    """
    if stream != PER_THREAD:
        return stream, None
    # No thread's identity is of use here: the system gives it to another one when it has ended.
    if not hasattr(_of_thread, "lane"):
        _of_thread.lane = (PER_THREAD, object())
    found: Lane = _of_thread.lane
    return found


def of_dlpack(stream: Any) -> int | None:
    """The stream that a consumer works on, of what it gave to `__dlpack__`; None if it orders its
    work itself.

    >>> of_dlpack(None), of_dlpack(1), of_dlpack(2), of_dlpack(0x1000), of_dlpack(-1)
    (1, 1, 2, 4096, None)
    """
    if stream is None:
        return LEGACY  # as the Python array API has it
    try:
        number = index(stream)
    except TypeError:
        raise TensorError(
            f"stream is {stream!r}; expected a number: 1 and 2 for CUDA's default streams, "
            "the address of another one, -1 for none, or None"
        ) from None
    if number == -1:
        return None
    if number <= 0:
        why = "which may mean two streams: pass 1 or 2" if not number else "which is no stream"
        raise TensorError(f"stream is {number}, {why}")
    return number


def number_of(stream: Any) -> int:
    """The stream that somebody has: a number, or an object of PyTorch, CuPy, Numba, cuda-bindings
    or cuda.core.

    >>> class Stream:
    ...     cuda_stream = 0
    >>> number_of(Stream()), number_of(2)
    (1, 2)
    """
    found = stream
    for attribute in ("cuda_stream", "ptr", "handle"):  # PyTorch; CuPy; Numba and cuda.core
        found = getattr(found, attribute, found)
    protocol = getattr(found, "__cuda_stream__", None)
    if protocol is not None:
        found = (protocol() if callable(protocol) else protocol)[1]
    if isinstance(found, ctypes.c_void_p):
        found = found.value or 0  # ctypes says None for 0
    else:
        found = getattr(found, "value", found)  # another number of ctypes
    try:
        if isinstance(found, bool):
            raise TypeError
        number = int(found) if _is_bindings_own(found) else index(found)
    except TypeError:
        raise TypeError(
            f"{stream!r} is no CUDA stream; expected one of PyTorch, CuPy, Numba, cuda-bindings "
            "or cuda.core, or its number: 1 and 2 for CUDA's default streams, the address of "
            "another one"
        ) from None
    if number < 0:
        raise ValueError(f"the stream is {number}; expected 0, 1, 2, or its address")
    return number or LEGACY  # whoever has a stream and calls it 0 means CUDA's default


def _is_bindings_own(found: Any) -> bool:
    """Whether it is a CUstream, or of the runtime's type that is made of it. Not all versions of
    cuda-bindings make an index of them.
    """
    return any(each.__name__ == "CUstream" for each in type(found).__mro__)
