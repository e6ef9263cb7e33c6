"""Array: elements of a type and a shape in memory, for whoever takes tensors."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from extmem.interop import dlpack, placing
from extmem.interop.dlpack import BFLOAT16
from extmem.vk import mappings

if TYPE_CHECKING:
    from extmem.interop.cuda.views import CudaArray
    from extmem.memory import Memory

__all__ = ["Array"]


class Array:
    """Elements in a `Memory`, without a copy; made by `Memory.array` or `from_dlpack`.

    Any library that speaks DLPack or NumPy's array interface takes it: `torch.from_dlpack(array)`,
    `numpy.asarray(array)`. It is a view, and so is each tensor that was made from it: memory with
    living ones cannot be closed.

    Memory that was imported to be read alone gives arrays to be read alone. PyTorch does not mind
    what DLPack says of that: what it writes there ends the process.

    It is where `device` says: with the processor, or with CUDA. There the memory's allocation may
    be closed first: **a tensor of CUDA's keeps the bytes, and not the `Memory`.**

    >>> import extmem, numpy
    >>> with extmem.open_device(driver="embedded") as gpu, gpu.allocate(1024) as memory:
    ...     array = memory.array((2, 3), "float32", offset=64)
    ...     tensor = numpy.from_dlpack(array)
    ...     array.numpy()[1, 2] = 0.5
    ...     print(float(tensor[1, 2]), array.offset, array.nbytes)
    ...     del array, tensor
    0.5 64 24
    """

    __slots__ = (
        "__weakref__", "_cuda", "_elements", "_kind", "device", "dtype", "memory", "offset",
        "shape", "strides",
    )  # fmt: skip

    def __init__(
        self,
        memory: Memory,
        shape: int | Sequence[int],
        dtype: Any = "uint8",
        offset: int = 0,
        strides: Sequence[int] | None = None,
        *,
        device: str | None = None,
    ) -> None:
        name, kind = dlpack.kind_of(dtype)
        wanted, offset = dlpack.checked(shape, kind, name, offset)
        if strides is None:
            dlpack.check_reach(wanted, None, kind, name, offset, memory.size)
        self.memory = memory
        self.dtype = name  # NumPy's name, or "bfloat16"
        self.offset = offset  # bytes from the memory's beginning to the first element
        self.shape = wanted  # how many elements along each dimension; () is one element
        # Bytes from one element to the next along each dimension.
        self.strides = (
            dlpack.compact(wanted, kind.itemsize) if strides is None else tuple(map(index, strides))
        )
        self._kind = kind
        self._elements: np.ndarray[Any, Any] | None = None
        self._cuda: CudaArray | None = None
        self.device = placing.place(memory, device)  # "cpu" or "cuda": whose tensors it makes
        if self.device == "cuda":
            self._cuda = memory.cuda().array(
                wanted, dtype, offset=offset, strides=strides, read_only=memory.read_only
            )
        else:
            self._host()

    def _host(self) -> np.ndarray[Any, Any]:
        """The elements as the processor sees them; Unsupported if it does not."""
        if self._elements is None:
            self._elements = np.ndarray(
                self.shape,
                self._kind,
                buffer=mappings.buffer_of(self.memory.view()),
                offset=self.offset,
                strides=self.strides,
            )
        return self._elements

    def __reduce__(self) -> Any:
        # In multiprocessing the memory arrives as an import. Elsewhere it refuses to be pickled:
        # what arrived would be a copy.
        about = (self.memory, self.shape, self.dtype, self.offset, self.strides, self.device)
        return _rebuilt, about

    def __repr__(self) -> str:
        parts = [f"{self.shape} of {self.dtype}", f"at offset {self.offset}"]
        if self.strides != dlpack.compact(self.shape, self._kind.itemsize):
            parts.append(f"strides {self.strides}")
        if self.read_only:
            parts.append("read-only")
        if self._cuda is not None:
            parts.append(f"on CUDA's GPU {self._cuda.device}")
        return f"<Array {', '.join(parts)}, in {self.memory!r}>"

    # -- what it is -----------------------------------------------------------------------------

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return prod(self.shape) * self._kind.itemsize

    @property
    def read_only(self) -> bool:
        """Whether the memory was imported by a handle that grants reading alone."""
        if self._cuda is not None:
            return self._cuda.read_only
        return not self._host().flags.writeable

    # -- for others -----------------------------------------------------------------------------

    def numpy(self) -> np.ndarray[Any, Any]:
        """The elements as a NumPy array, without a copy.

        NumPy has no bfloat16, unless the package ml_dtypes is imported.
        """
        if self.dtype != BFLOAT16:
            return self._host()[...]
        try:
            return self._host().view(np.dtype(BFLOAT16))
        except TypeError:
            raise TypeError(
                f"NumPy has no {BFLOAT16}: import ml_dtypes, which teaches it; or look at the bits "
                "with Memory.array(shape, 'uint16'); or take a library that has it, "
                "as torch.from_dlpack(array)"
            ) from None

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """NumPy's array interface, version 3. Elements of bfloat16 are two bytes of nothing."""
        described: dict[str, Any] = dict(self._host().__array_interface__)
        if self.dtype == BFLOAT16:
            described |= {"typestr": "|V2", "descr": [("", "|V2")]}
        return described

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """CUDA's array interface, version 3, of an array that is there."""
        if self._cuda is None:  # to those who look for it, it has none then
            raise AttributeError(
                "this array is with the processor, so that it has no __cuda_array_interface__; "
                "make it with Memory.array(..., device='cuda')"
            )
        return self._cuda.__cuda_array_interface__

    def __dlpack_device__(self) -> tuple[int, int]:
        """Where the elements are, for DLPack: (1, 0), the processor's memory; (2, n) on CUDA's GPU
        of that number.
        """
        return dlpack.CPU if self._cuda is None else self._cuda.__dlpack_device__()

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A DLPack capsule; the parameters are the Python array API's.

        stream: with the processor None, because it has none; with CUDA the consumer's stream
        max_version: the newest DLPack that the consumer knows; None for one before 1.0, which has
            no memory to be read alone, so that such memory is refused with TensorError
        dl_device: None, or where this is; (1, 0) also for one of CUDA's that the processor sees
        copy: True for a copy, which is private and nobody else sees; not with CUDA
        """
        to_host = dl_device is not None and (int(dl_device[0]), int(dl_device[1])) == dlpack.CPU
        if self._cuda is not None and not to_host:
            return self._cuda.__dlpack__(
                stream=stream, max_version=max_version, dl_device=dl_device, copy=copy
            )
        return dlpack.export(
            self._host(),
            bfloat16=self.dtype == BFLOAT16,
            stream=stream if self._cuda is None else None,
            max_version=max_version,
            dl_device=dl_device,
            copy=copy,
        )


def _rebuilt(
    memory: Memory,
    shape: tuple[int, ...],
    dtype: str,
    offset: int,
    strides: tuple[int, ...],
    device: str,
) -> Array:
    """An array that was pickled: for the same consumers, whatever is usual where it arrives."""
    return Array(memory, shape, dtype, offset, strides, device=device)
