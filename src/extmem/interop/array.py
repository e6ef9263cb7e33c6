"""Array: elements of a type and a shape in memory, for whoever takes tensors."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from extmem.interop import dlpack
from extmem.interop.dlpack import BFLOAT16

if TYPE_CHECKING:
    from extmem.memory import Memory

__all__ = ["Array"]


def _kind(dtype: Any) -> tuple[str, np.dtype[Any]]:
    """The name of an element type, and what its elements are to NumPy."""
    if str(dtype) == BFLOAT16:
        return BFLOAT16, np.dtype("uint16")  # the same bits
    kind = np.dtype(dtype)
    if kind.kind not in "biufc":
        raise TypeError(
            f"dtype is {kind}; an array has numbers: bool, integers, floats, complex numbers, or "
            f"{BFLOAT16!r} (Memory.numpy takes whatever NumPy can look at)"
        )
    return kind.name if kind.isnative else kind.str, kind


class Array:
    """Elements in a `Memory`, without a copy; made by `Memory.array` or `from_dlpack`.

    Any library that speaks DLPack or NumPy's array interface takes it: `torch.from_dlpack(array)`,
    `numpy.asarray(array)`. It is a view, and so is each tensor that was made from it: memory with
    living ones cannot be closed.

    Memory that was imported to be read alone gives arrays to be read alone. PyTorch does not mind
    what DLPack says of that: what it writes there ends the process.

    >>> import extmem, numpy
    >>> with extmem.open_device(driver="embedded") as gpu, gpu.allocate(1024) as memory:
    ...     array = memory.array((2, 3), "float32", offset=64)
    ...     tensor = numpy.from_dlpack(array)
    ...     array.numpy()[1, 2] = 0.5
    ...     print(float(tensor[1, 2]), array.offset, array.nbytes)
    ...     del array, tensor
    0.5 64 24
    """

    __slots__ = ("__weakref__", "_elements", "dtype", "memory", "offset")

    def __init__(
        self,
        memory: Memory,
        shape: int | Sequence[int],
        dtype: Any = "uint8",
        offset: int = 0,
        strides: Sequence[int] | None = None,
    ) -> None:
        name, kind = _kind(dtype)
        wanted = (shape,) if isinstance(shape, int) else tuple(map(index, shape))
        offset = index(offset)
        if offset < 0:
            raise ValueError(f"offset is {offset}; it counts bytes from the memory's beginning")
        if any(extent < 0 for extent in wanted):
            raise ValueError(f"shape is {wanted}; no extent can be negative")
        needed = prod(wanted) * kind.itemsize
        if strides is None and offset + needed > memory.size:
            raise ValueError(
                f"{wanted} of {name} needs {needed} bytes from offset {offset} on, "
                f"{offset + needed} in all; this memory has {memory.size}"
            )
        if offset % kind.alignment:
            raise ValueError(
                f"offset is {offset}; {name} begins at multiples of {kind.alignment} bytes"
            )
        self.memory = memory
        self.dtype = name  # NumPy's name, or "bfloat16"
        self.offset = offset  # bytes from the memory's beginning to the first element
        self._elements: np.ndarray[Any, Any] = np.ndarray(
            wanted, kind, buffer=memory.view(), offset=offset, strides=strides
        )

    def __reduce__(self) -> Any:
        # In multiprocessing the memory arrives as an import. Elsewhere it refuses to be pickled:
        # what arrived would be a copy.
        return Array, (self.memory, self.shape, self.dtype, self.offset, self.strides)

    def __repr__(self) -> str:
        parts = [f"{self.shape} of {self.dtype}", f"at offset {self.offset}"]
        if not self._elements.flags.c_contiguous:
            parts.append(f"strides {self.strides}")
        if self.read_only:
            parts.append("read-only")
        return f"<Array {', '.join(parts)}, in {self.memory!r}>"

    # -- what it is -----------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """How many elements along each dimension; () is one element."""
        found: tuple[int, ...] = self._elements.shape
        return found

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes from one element to the next along each dimension."""
        return self._elements.strides

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self._elements.nbytes

    @property
    def read_only(self) -> bool:
        """Whether the memory was imported by a handle that grants reading alone."""
        return not self._elements.flags.writeable

    # -- for others -----------------------------------------------------------------------------

    def numpy(self) -> np.ndarray[Any, Any]:
        """The elements as a NumPy array, without a copy.

        NumPy has no bfloat16, unless the package ml_dtypes is imported.
        """
        if self.dtype != BFLOAT16:
            return self._elements[...]
        try:
            return self._elements.view(np.dtype(BFLOAT16))
        except TypeError:
            raise TypeError(
                f"NumPy has no {BFLOAT16}: import ml_dtypes, which teaches it; or look at the bits "
                "with Memory.array(shape, 'uint16'); or take a library that has it, "
                "as torch.from_dlpack(array)"
            ) from None

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """NumPy's array interface, version 3. Elements of bfloat16 are two bytes of nothing."""
        described: dict[str, Any] = dict(self._elements.__array_interface__)
        if self.dtype == BFLOAT16:
            described |= {"typestr": "|V2", "descr": [("", "|V2")]}
        return described

    def __dlpack_device__(self) -> tuple[int, int]:
        """Where the elements are, for DLPack: the processor's memory."""
        return dlpack.CPU

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A DLPack capsule; the parameters are the Python array API's.

        stream: None, because the processor has none
        max_version: the newest DLPack that the consumer knows; None for one before 1.0, which has
            no memory to be read alone, so that such memory is refused with TensorError
        dl_device: None, or (1, 0)
        copy: True for a copy, which is private and nobody else sees
        """
        return dlpack.export(
            self._elements,
            bfloat16=self.dtype == BFLOAT16,
            stream=stream,
            max_version=max_version,
            dl_device=dl_device,
            copy=copy,
        )
