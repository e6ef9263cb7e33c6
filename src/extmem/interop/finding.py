"""Whose bytes a tensor shows: the memory of ours that they are in."""

from __future__ import annotations

from typing import Any

from extmem.errors import TensorError
from extmem.interop import dlpack
from extmem.interop.array import Array
from extmem.vk import mappings

__all__ = ["from_dlpack"]


def from_dlpack(tensor: Any) -> Array:
    """The `Array` that a tensor of another library shows, with its `memory` and `offset`.

    It finds memory of this process by the address of the tensor's bytes, so for tensors that were
    made without a copy, from a `Memory` or an `Array` or by way of NumPy, and for parts of such.
    TensorError says why it finds none.

    >>> import extmem, numpy
    >>> with extmem.open_device(driver="embedded") as gpu, gpu.allocate(1024) as memory:
    ...     tensor = memory.numpy("float32", (16, 16))[4:8, ::2]
    ...     found = extmem.from_dlpack(tensor)
    ...     print(found.memory is memory, found.offset, found.shape, found.strides, found.dtype)
    ...     del tensor, found
    True 256 (4, 8) (64, 8) float32
    """
    told = dlpack.describe(tensor)
    mapped = mappings.with_owners()
    for mapping, memory in mapped:
        start, end = mapping.address, mapping.address + memory.size
        if start <= told.low and told.high <= end:
            # Host memory that was imported twice is found as the first of the two.
            return Array(memory, told.shape, told.dtype, told.address - start, told.strides)
        if told.low < end and start < told.high:
            raise TensorError(
                f"the tensor's bytes, from {told.low:#x} to {told.high:#x}, are only partly in "
                f"{memory!r}, from {start:#x} to {end:#x}: it spans more than one allocation"
            )
    raise TensorError(
        f"the tensor's bytes, from {told.low:#x} to {told.high:#x}, are in none of the "
        f"{len(mapped)} memories that are mapped here: it is a copy, or was never in shared "
        "memory. Make it from a Memory (torch.from_dlpack(memory)), and write into it instead of "
        "replacing it"
    )
