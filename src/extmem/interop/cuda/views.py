"""CudaArray: elements of a type and a shape in CUDA's memory, for whoever takes tensors."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from math import prod
from operator import index
from typing import Any

import numpy as np

from extmem.errors import TensorError
from extmem.interop import dlpack
from extmem.interop.cuda.endings import Endings
from extmem.interop.cuda.streams import LEGACY, of_dlpack
from extmem.interop.dlpack import BFLOAT16, CUDA

__all__ = ["AT_ONCE", "CudaArray", "Order"]


class Order:
    """When a consumer may begin, and what follows when it is done. This one says: at once, nothing.

    begin: have a stream wait until the elements are there; None: the consumer orders its work
    end: the last tensor that was made on this stream is gone, but the stream may not have come to
        that yet
    """

    def begin(self, stream: int | None) -> None:
        """Before the consumer has the elements."""

    def end(self, stream: int | None) -> None:
        """After it has let go of them."""


AT_ONCE = Order()

# Where NumPy is told that elements are, which it never looks at, until their address is asked for.
_SOMEWHERE = 1 << 40


class _Holder:
    """What a tensor keeps alive: a use of the memory. NumPy reads where it is from the interface,
    and never looks there.
    """

    def __init__(self, interface: dict[str, Any], endings: Endings) -> None:
        self.__array_interface__ = interface
        endings.take()


_watched: set[weakref.ref[_Holder]] = set()


def _when_gone(holder: _Holder, *acts: Callable[[], object]) -> None:
    """Do these once the holder is gone, but not while the interpreter ends: CUDA frees with the
    process. (That is `weakref.finalize`, of which each use is felt where a frame is waited for.)
    """

    def gone(reference: weakref.ref[_Holder], watched: Any = _watched) -> None:
        watched.discard(reference)
        if not sys.is_finalizing():
            for each in acts:
                each()

    _watched.add(weakref.ref(holder, gone))


class CudaArray:
    """Elements on a GPU, without a copy; made by `CudaMemory.array` and `Memory.array`.

    `torch.from_dlpack(array)`, `cupy.from_dlpack(array)` and `jax.dlpack.from_dlpack(array)` take
    it. Each tensor keeps the memory alive.
    """

    __slots__ = (
        "__weakref__", "_begin", "_endings", "_holder", "_kind", "_order", "device", "dtype",
        "nbytes", "offset", "read_only", "shape", "strides",
    )  # fmt: skip

    def __init__(
        self,
        endings: Endings,
        device: int,
        pointer: Callable[[], int],
        size: int,
        shape: int | Sequence[int],
        dtype: Any,
        offset: int,
        strides: Sequence[int] | None,
        *,
        read_only: bool = False,
        order: Order = AT_ONCE,
    ) -> None:
        """pointer: gives the address of the memory's first byte. Asked for as late as can be: to
        map memory takes milliseconds, and what comes after that finds nothing in the processor's
        caches
        """
        self.dtype, self._kind = dlpack.kind_of(dtype)
        self.shape, self.offset = dlpack.checked(shape, self._kind, self.dtype, offset)
        self.strides = (
            dlpack.compact(self.shape, self._kind.itemsize)
            if strides is None
            else tuple(map(index, strides))
        )
        given = None if strides is None else self.strides
        dlpack.check_reach(self.shape, given, self._kind, self.dtype, self.offset, size)
        self.device = device  # CUDA's number of the GPU
        self.nbytes = prod(self.shape) * self._kind.itemsize
        self.read_only = read_only
        self._endings = endings
        self._order = order
        self._holder = _Holder({}, endings)  # this array is a view itself
        _when_gone(self._holder, endings.leave)
        self._begin = pointer

    def ordered(self, order: Order) -> CudaArray:
        """The same elements in another order. It costs next to nothing."""
        made = CudaArray.__new__(CudaArray)
        made.dtype, made._kind, made.shape = self.dtype, self._kind, self.shape
        made.offset, made.strides, made.nbytes = self.offset, self.strides, self.nbytes
        made.device, made.read_only, made._begin = self.device, self.read_only, self._begin
        made._endings, made._holder, made._order = self._endings, self._holder, order
        return made

    def _interface(self, address: int) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self._kind.str,
            "data": (address, self.read_only),
            "strides": self.strides,
            "version": 3,
        }

    def __repr__(self) -> str:
        parts = [f"{self.shape} of {self.dtype}", f"at offset {self.offset}"]
        if self.read_only:
            parts.append("read-only")
        return f"<CudaArray {', '.join(parts)}, on CUDA's GPU {self.device}>"

    @property
    def pointer(self) -> int:
        """The address of the first element, on the GPU."""
        return self._at()

    def _at(self) -> int:
        return self._begin() + self.offset

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """CUDA's array interface, version 3. Whoever reads it must keep this object.

        Elements of bfloat16 are two bytes of nothing.
        """
        typestr = "|V2" if self.dtype == BFLOAT16 else self._kind.str
        compact = self.strides == dlpack.compact(self.shape, self._kind.itemsize)
        # An empty array has no address, as the protocol wants it.
        return self._interface(self.pointer if self.nbytes else 0) | {
            "typestr": typestr,
            "strides": None if compact else self.strides,
            "stream": LEGACY,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        """Where the elements are, for DLPack: (2, the number of the GPU)."""
        return CUDA, self.device

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A DLPack capsule; the parameters are the Python array API's.

        stream: the consumer's: None or 1 for CUDA's default stream, 2 for that of each thread, the
            address of another one, or -1 if the consumer orders its work by itself
        max_version: the newest DLPack that the consumer knows
        dl_device: None, or where this is
        copy: None or False; TensorError for True, because the consumer's library copies better
        """
        number = of_dlpack(stream)
        if copy:
            raise TensorError("copy=True: take it without, and have your library copy (clone())")
        here = self.__dlpack_device__()
        if dl_device is not None and (int(dl_device[0]), int(dl_device[1])) != here:
            raise TensorError(
                f"dl_device is {tuple(map(int, dl_device))}, but these elements are on CUDA's GPU "
                f"{self.device}, {here}: make a tensor there, and have its library move that"
            )
        # First, because it refuses what was closed meanwhile; what was begun has to have an end.
        holder = _Holder(self._interface(_SOMEWHERE + self.offset), self._endings)
        order, leave = self._order, self._endings.leave
        if order is AT_ONCE:
            _when_gone(holder, leave)
        else:
            try:
                order.begin(number)
            except BaseException:
                leave()
                raise
            _when_gone(holder, lambda: order.end(number), leave)
        return dlpack.export(
            np.asarray(holder),
            bfloat16=self.dtype == BFLOAT16,
            max_version=max_version,
            device=here,
            address=self._at,
        )
