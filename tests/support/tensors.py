"""Consumers of DLPack: NumPy, PyTorch where it is installed, and a plain one that is always there.

The plain one does what a library in C does, in the same order, and lets a test decide when and by
whom the deleter is called.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from extmem.interop import dlpack
from extmem.interop.dlpack import DLManagedTensor, DLManagedTensorVersioned, DLTensor

__all__ = ["NUMPY_HAS_VERSIONS", "Asking", "Taken", "Twice", "writable"]

NUMPY_HAS_VERSIONS = np.lib.NumpyVersion(np.__version__) >= "2.1.0"

_pointer_in = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_name_of = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(
    ("PyCapsule_GetName", ctypes.pythonapi)
)
_rename = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_SetName", ctypes.pythonapi)
)
_USED = {b"dltensor": b"used_dltensor", b"dltensor_versioned": b"used_dltensor_versioned"}


class Taken:
    """A tensor that was consumed, as C sees it. It lives until `delete`, whatever Python does."""

    def __init__(self, producer: Any, version: tuple[int, int] | None = (1, 0)) -> None:
        capsule = producer.__dlpack__(max_version=version) if version else producer.__dlpack__()
        name = _name_of(capsule)
        self.versioned = name == b"dltensor_versioned"
        self.address = _pointer_in(capsule, name)  # of the managed tensor
        kind = DLManagedTensorVersioned if self.versioned else DLManagedTensor
        self.managed: Any = kind.from_address(self.address)
        _rename(capsule, _USED[name])

    @property
    def tensor(self) -> DLTensor:
        return self.managed.dl_tensor

    @property
    def read_only(self) -> bool:
        return self.versioned and bool(self.managed.flags & 1)

    @property
    def copied(self) -> bool:
        return self.versioned and bool(self.managed.flags & 2)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape[each] for each in range(self.tensor.ndim))

    @property
    def dtype(self) -> str:
        return dlpack._TYPES[self.tensor.code, self.tensor.bits]

    def __getitem__(self, number: int) -> int:
        """A byte."""
        return self._bytes()[number]

    def __setitem__(self, number: int, value: int) -> None:
        self._bytes()[number] = value

    def _bytes(self) -> Any:
        return ctypes.cast(
            self.tensor.data + self.tensor.byte_offset, ctypes.POINTER(ctypes.c_uint8)
        )

    @property
    def deleter(self) -> int:
        """The address of the function that frees it."""
        return self.managed.deleter

    def delete(self) -> None:
        """As C does: without the interpreter's lock, and once."""
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.deleter)(self.address)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.tensor.device_type, self.tensor.device_id


class Twice:
    """A producer that gives one capsule to everybody."""

    def __init__(self, producer: Any) -> None:
        self._device = producer.__dlpack_device__()
        self._capsule = producer.__dlpack__()

    @property
    def tensor(self) -> DLTensor:
        """What is in the capsule."""
        address = _pointer_in(self._capsule, b"dltensor")
        return DLManagedTensor.from_address(address).dl_tensor

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule


class Asking:
    """A producer that was asked for something: hands its parameters on."""

    def __init__(self, producer: Any, **parameters: Any) -> None:
        self._producer, self._parameters = producer, parameters

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._producer.__dlpack_device__()

    def __dlpack__(self, **_: Any) -> Any:
        return self._producer.__dlpack__(**self._parameters)


def writable(tensor: Any) -> bool:
    """Whether the consumer lets it be written: what NumPy before 2.1 takes, it takes to read."""
    return not isinstance(tensor, np.ndarray) or tensor.flags.writeable
