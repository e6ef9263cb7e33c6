"""Whose bytes a tensor shows: the memory of ours that they are in."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from extmem.errors import TensorError
from extmem.interop import dlpack
from extmem.interop.array import Array
from extmem.interop.dlpack import Described
from extmem.vk import mappings

if TYPE_CHECKING:
    from extmem.interop.cuda.views import CudaArray

__all__ = ["from_dlpack"]


def from_dlpack(tensor: Any) -> Array | CudaArray:
    """The `Array` that a tensor of another library shows, with its `memory` and `offset`.

    It finds memory of this process by the address of the tensor's bytes, so for tensors that were
    made without a copy, from a `Memory` or an `Array` or by way of NumPy, and for parts of such.
    A tensor of CUDA's in memory that was imported there alone is found as a `CudaArray`.
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
    if told.gpu is not None:
        return _on_gpu(told)
    mapped = mappings.with_owners()
    for mapping, memory in mapped:
        start, end = mapping.address, mapping.address + memory.size
        if start <= told.low and told.high <= end:
            # Host memory that was imported twice is found as the first of the two.
            offset = told.address - start
            return Array(memory, told.shape, told.dtype, offset, told.strides, device="cpu")
        _refuse_partly(told, start, end, memory)
    raise _none(told, len(mapped))


def _on_gpu(told: Described) -> Array | CudaArray:
    # Where nobody has asked for CUDA, nothing of ours is there.
    module = sys.modules.get("extmem.interop.cuda.memory")
    found = [] if module is None else module.mapped()
    for each in found:
        start = each.mapped_at
        end = start + each.size
        if told.gpu != each.gpu.number or not start:
            continue
        if start <= told.low and told.high <= end:
            offset = told.address - start
            memory = each.owner() if each.owner is not None else None
            if memory is not None and not memory.closed:
                return Array(memory, told.shape, told.dtype, offset, told.strides, device="cuda")
            view: CudaArray = each.array(
                told.shape, told.dtype, offset=offset, strides=told.strides
            )
            return view
        _refuse_partly(told, start, end, each)
    raise _none(told, len(found), f" on CUDA's GPU {told.gpu}")


def _refuse_partly(told: Described, start: int, end: int, memory: object) -> None:
    if told.low < end and start < told.high:
        raise TensorError(
            f"the tensor's bytes, from {told.low:#x} to {told.high:#x}, are only partly in "
            f"{memory!r}, from {start:#x} to {end:#x}: it spans more than one allocation"
        )


def _none(told: Described, count: int, where: str = "") -> TensorError:
    return TensorError(
        f"the tensor's bytes{where}, from {told.low:#x} to {told.high:#x}, are in none of the "
        f"{count} memories that are mapped here: it is a copy, or was never in shared "
        "memory. Make it from a Memory (torch.from_dlpack(memory)), and write into it instead of "
        "replacing it"
    )
