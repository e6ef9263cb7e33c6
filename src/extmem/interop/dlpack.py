"""DLPack capsules: made by NumPy, with what NumPy cannot say written into them; and read.

A consumer calls the deleter of a capsule whenever it likes: from a thread that Python never saw,
while an exception is on its way, after Python has ended. No Python function can be that deleter:
whatever ctypes calls while an exception is on its way loses it, and the interpreter crashes.
NumPy's deleter is C and minds all three. So each capsule is one of a NumPy array, which holds its
view of the memory until the consumer is done.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from operator import index
from typing import Any

import numpy as np

from extmem.errors import TensorError

__all__ = [
    "BFLOAT16",
    "CPU",
    "CUDA",
    "Described",
    "check_reach",
    "checked",
    "compact",
    "describe",
    "export",
    "kind_of",
]

CPU = (1, 0)  # kDLCPU, and there is one
CUDA = 2  # kDLCUDA, with the number of the GPU

BFLOAT16 = "bfloat16"

_BFLOAT = 4  # kDLBfloat
_IS_COPIED = 2  # a flag of a versioned capsule

# Each element type of DLPack that is known here, (code, bits), by NumPy's name.
_TYPES = {
    (0, 8): "int8",
    (0, 16): "int16",
    (0, 32): "int32",
    (0, 64): "int64",
    (1, 8): "uint8",
    (1, 16): "uint16",
    (1, 32): "uint32",
    (1, 64): "uint64",
    (2, 16): "float16",
    (2, 32): "float32",
    (2, 64): "float64",
    (_BFLOAT, 16): BFLOAT16,
    (5, 64): "complex64",
    (5, 128): "complex128",
    (6, 8): "bool",
}

# For messages about tensors that are not in the processor's memory.
_DEVICES = {
    2: "CUDA",
    3: "CUDA's pinned host memory",
    4: "OpenCL",
    7: "Vulkan",
    8: "Metal",
    10: "ROCm",
    11: "ROCm's pinned host memory",
    13: "CUDA's managed memory",
    14: "oneAPI",
}

# Since 2.1 NumPy makes capsules of DLPack 1.0, which have flags.
_NUMPY_HAS_VERSIONS = np.lib.NumpyVersion(np.__version__) >= "2.1.0"


# -- what elements are ----------------------------------------------------------------------------


def kind_of(dtype: Any) -> tuple[str, np.dtype[Any]]:
    """The name of an element type, and what its elements are to NumPy.

    >>> kind_of("float32"), kind_of("bfloat16")
    (('float32', dtype('float32')), ('bfloat16', dtype('uint16')))
    """
    found = _kinds.get(dtype) if type(dtype) is str else None
    if found is None:
        found = _kind_of(dtype)
        if type(dtype) is str and len(_kinds) < _MOST_KINDS:
            _kinds[dtype] = found
    return found


# NumPy takes its time to say what its types are called.
_kinds: dict[str, tuple[str, np.dtype[Any]]] = {}
_MOST_KINDS = 256


def _kind_of(dtype: Any) -> tuple[str, np.dtype[Any]]:
    if str(dtype) == BFLOAT16:
        return BFLOAT16, np.dtype("uint16")  # the same bits
    kind = np.dtype(dtype)
    if kind.kind not in "biufc":
        raise TypeError(
            f"dtype is {kind}; an array has numbers: bool, integers, floats, complex numbers, or "
            f"{BFLOAT16!r} (Memory.numpy takes whatever NumPy can look at)"
        )
    return kind.name if kind.isnative else kind.str, kind


def checked(
    shape: int | Sequence[int], kind: np.dtype[Any], name: str, offset: int
) -> tuple[tuple[int, ...], int]:
    """A shape and an offset that can be, as whole numbers. ValueError if they cannot."""
    wanted = _extents(shape)
    offset = index(offset)
    if offset < 0:
        raise ValueError(f"offset is {offset}; it counts bytes from the memory's beginning")
    if any(extent < 0 for extent in wanted):
        raise ValueError(f"shape is {wanted}; no extent can be negative")
    if offset % kind.alignment:
        raise ValueError(
            f"offset is {offset}; {name} begins at multiples of {kind.alignment} bytes"
        )
    return wanted, offset


def _extents(shape: Any) -> tuple[int, ...]:
    try:
        return (index(shape),)  # also a number of NumPy's
    except TypeError:
        pass
    try:
        return tuple(map(index, shape))
    except TypeError:
        raise TypeError(
            f"shape is {shape!r}; expected a whole number, or a sequence of such"
        ) from None


def check_reach(
    shape: tuple[int, ...],
    strides: tuple[int, ...] | None,
    kind: np.dtype[Any],
    name: str,
    offset: int,
    size: int,
) -> None:
    """ValueError if elements are beyond the end of so many bytes, or before their beginning."""
    needed = prod(shape) * kind.itemsize
    if strides is None or strides == compact(shape, kind.itemsize):
        if offset + needed > size:
            raise ValueError(
                f"{shape} of {name} needs {needed} bytes from offset {offset} on, "
                f"{offset + needed} in all; this memory has {size}"
            )
        return
    if len(strides) != len(shape):
        raise ValueError(f"{len(strides)} strides for {len(shape)} dimensions")
    found = _reaching(offset, shape, strides, name, kind.itemsize)
    if found.low < 0 or found.high > size:
        raise ValueError(
            f"{shape} of {name} with strides {strides} reaches from byte {found.low} to "
            f"{found.high}; this memory has {size}"
        )


# -- the structures of dlpack.h -------------------------------------------------------------------


class DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),  # of the element type, with the next two
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),  # in elements; NULL: in C's order, no gaps
        ("byte_offset", ctypes.c_uint64),
    )


class DLManagedTensor(ctypes.Structure):
    _fields_ = (
        ("dl_tensor", DLTensor),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


class DLManagedTensorVersioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("dl_tensor", DLTensor),
    )


# Function objects of our own: those of `ctypes.pythonapi` are everybody's.
_pointer_in = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_is_capsule = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)

_OLD, _VERSIONED = b"dltensor", b"dltensor_versioned"


def _opened(capsule: Any) -> DLManagedTensor | DLManagedTensorVersioned:
    """What a capsule that nobody has consumed holds. It lives as long as the capsule, so unread."""
    if _is_capsule(capsule, _VERSIONED):
        address = _pointer_in(capsule, _VERSIONED)
        versioned = DLManagedTensorVersioned.from_address(address)
        if versioned.major != 1:
            raise TensorError(
                f"the tensor speaks DLPack {versioned.major}.{versioned.minor}, and 1.0 was asked "
                "for: its library breaks the protocol, or needs an older or newer version"
            )
        return versioned
    if _is_capsule(capsule, _OLD):
        return DLManagedTensor.from_address(_pointer_in(capsule, _OLD))
    raise TypeError(f"__dlpack__ gave {capsule!r}, which is no DLPack capsule that can be consumed")


# -- to others ------------------------------------------------------------------------------------


def export(
    elements: np.ndarray[Any, Any],
    *,
    bfloat16: bool = False,
    stream: Any = None,
    max_version: tuple[int, int] | None = None,
    dl_device: tuple[int, int] | None = None,
    copy: bool | None = None,
    device: tuple[int, int] = CPU,
    address: Callable[[], int] | None = None,
) -> Any:
    """The capsule of an array, as `__dlpack__` of the Python array API gives it.

    bfloat16: whether its uint16 are the bits of bfloat16, which NumPy does not know
    device: where its elements are; if not with the processor, nobody has looked at them here
    address: gives that of the first element, asked for last; None: what the array says
    """
    if stream is not None:
        raise TensorError(
            f"stream is {stream!r}: the processor's memory has none; pass None, or leave it out"
        )
    if dl_device is not None and (int(dl_device[0]), int(dl_device[1])) != device:
        raise TensorError(
            f"dl_device is {tuple(map(int, dl_device))}, but these bytes are in the processor's "
            f"memory, {CPU}: make a tensor there, and have its library move that"
        )
    asked = max_version is not None and max_version[0] >= 1
    if copy:
        elements = elements.copy()
    if not elements.flags.writeable and not (asked and _NUMPY_HAS_VERSIONS):
        why = (
            f"the capsules of NumPy {np.__version__} cannot say so; take NumPy 2.1 or later"
            if asked
            else "the consumer asks for a DLPack before 1.0, which cannot say so; let it ask with "
            "max_version=(1, 0) (PyTorch does since 2.9)"
        )
        raise TensorError(
            f"these elements are to be read alone, as those of frames and of what was imported "
            f"for reading, and {why}, or take a copy: .numpy().copy()"
        )
    if asked and _NUMPY_HAS_VERSIONS:
        capsule: Any = elements.__dlpack__(max_version=(1, 0))  # type: ignore[call-arg, unused-ignore]
    else:
        capsule = elements.__dlpack__()
    if copy or bfloat16 or device != CPU:
        managed = _opened(capsule)
        managed.dl_tensor.device_type, managed.dl_tensor.device_id = device
        if bfloat16:
            managed.dl_tensor.code = _BFLOAT
        if copy and isinstance(managed, DLManagedTensorVersioned):
            managed.flags |= _IS_COPIED
        if address is not None:
            managed.dl_tensor.data = address()
    return capsule


# -- from others ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Described:
    """Where the elements of a tensor are, and what they are."""

    address: int  # of the first one
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # bytes
    dtype: str
    low: int  # the lowest address of any of its bytes
    high: int  # one beyond the highest; `low` if it has no elements
    gpu: int | None = None  # CUDA's number of the GPU that it is on; None: with the processor


def describe(tensor: Any) -> Described:
    """What a tensor in the processor's memory, or CUDA's, says of itself. It is not consumed.

    >>> import numpy
    >>> found = describe(numpy.zeros((2, 3), "float32").T)
    >>> found.shape, found.strides, found.dtype, found.high - found.low
    ((3, 2), (4, 12), 'float32', 24)
    """
    if isinstance(tensor, np.ndarray):  # as it is: before 2.1 its capsules cannot be read-only
        kind = tensor.dtype
        address = int(tensor.__array_interface__["data"][0])
        name = kind.name if kind.isnative else kind.str
        return _reaching(address, tensor.shape, tensor.strides, name, kind.itemsize)
    if not (hasattr(tensor, "__dlpack__") and hasattr(tensor, "__dlpack_device__")):
        raise TypeError(
            f"{type(tensor).__name__} is no tensor: it has no __dlpack__ and __dlpack_device__"
        )
    device, number = map(int, tensor.__dlpack_device__())
    if (device, number) != CPU and device != CUDA:
        called = _DEVICES.get(device, f"DLPack's device type {device}")
        raise TensorError(
            f"the tensor is on {called}, number {number}: only those in the processor's memory, "
            "and in CUDA's, can be found. (A copy to the processor would be nobody's memory.)"
        )
    # Nobody reads the elements, so that no stream has to wait for them.
    stream = {"stream": -1} if device == CUDA else {}
    try:
        capsule = tensor.__dlpack__(max_version=(1, 0), **stream)
    except TypeError:  # it is older than that
        capsule = tensor.__dlpack__(**stream)
    return _described(_opened(capsule).dl_tensor, number if device == CUDA else None)


def _described(tensor: DLTensor, gpu: int | None) -> Described:
    name = _TYPES.get((tensor.code, tensor.bits))
    if name is None or tensor.lanes != 1:
        raise TensorError(
            f"the tensor's elements are of DLPack's type {tensor.code}, {tensor.bits} bits, "
            f"{tensor.lanes} at a time; known are {', '.join(_TYPES.values())}, one at a time"
        )
    size = tensor.bits // 8
    shape = tuple(tensor.shape[each] for each in range(tensor.ndim))
    if tensor.strides:
        strides = tuple(tensor.strides[each] * size for each in range(tensor.ndim))
    else:
        strides = compact(shape, size)
    address = (tensor.data or 0) + tensor.byte_offset
    return _reaching(address, shape, strides, name, size, gpu)


def _reaching(
    address: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: str,
    size: int,
    gpu: int | None = None,
) -> Described:
    low = high = address
    if 0 not in shape:
        reach = [(extent - 1) * stride for extent, stride in zip(shape, strides, strict=True)]
        low += sum(each for each in reach if each < 0)
        high += sum(each for each in reach if each > 0) + size
    return Described(address, shape, strides, dtype, low, high, gpu)


def compact(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    """The strides, in bytes, of elements in C's order without gaps.

    >>> compact((2, 3, 4), 2)
    (24, 8, 2)
    """
    strides = []
    for extent in reversed(shape):
        strides.append(size)
        size *= extent
    return tuple(reversed(strides))
