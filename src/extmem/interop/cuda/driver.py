"""CUDA's driver: the one place that calls it, and turns what it answers into our errors."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from extmem.errors import DriverError, DriverNotFound, Unsupported

__all__ = ["answered", "bindings", "call", "current", "ready"]

# What a result means to the person who reads it, where its name does not say enough.
_MEANINGS = {
    "CUDA_ERROR_NO_DEVICE": "CUDA sees no GPU; CUDA_VISIBLE_DEVICES may hide it",
    "CUDA_ERROR_NOT_INITIALIZED": (
        "CUDA cannot be used in a process that was forked from one that used it: start it with "
        'multiprocessing.get_context("spawn")'
    ),
    "CUDA_ERROR_DEINITIALIZED": "the process is ending, and CUDA has ended before",
    "CUDA_ERROR_OUT_OF_MEMORY": "the GPU has no memory left for it",
    "CUDA_ERROR_INVALID_HANDLE": (
        "CUDA does not accept this handle; it must be of the stated type, still open, and of "
        "the GPU that it is imported on"
    ),
    "CUDA_ERROR_OPERATING_SYSTEM": "the system refused it; is the handle still open?",
    "CUDA_ERROR_NOT_SUPPORTED": "this GPU, or its driver, cannot do that",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": (
        "the kernel's driver and libcuda are of different versions; reboot, or install one of them"
    ),
    "CUDA_ERROR_UNKNOWN": "see `dmesg` for what the driver says",
}


@functools.cache
def bindings() -> Any:
    """The module `cuda.bindings.driver`; Unsupported if it is not installed."""
    try:
        return importlib.import_module("cuda.bindings.driver")
    except ImportError as error:
        raise Unsupported(
            f"CUDA is reached through cuda-bindings, which is not there ({error}): "
            "pip install 'extmem[cuda]'"
        ) from None


def call(name: str, *arguments: Any) -> Any:
    """Call a function of the driver by its name, and return what it returns besides its result:
    nothing, one value, or a tuple.

    DriverError if it failed, DriverNotFound if there is no libcuda.
    """
    function = getattr(bindings(), name)
    try:
        answer = function(*arguments)
    except RuntimeError as error:  # how the bindings say that libcuda, or a function of it, is not
        raise DriverNotFound(
            f"{name} cannot be called: CUDA's driver (libcuda on Linux, nvcuda.dll on Windows) is "
            f"not there, or too old for cuda-bindings. Install NVIDIA's driver ({error})"
        ) from None
    return answered(name, answer)


def answered(name: str, answer: tuple[Any, ...]) -> Any:
    """What a function of the bindings returned, without its result. DriverError if that is one.

    >>> from enum import IntEnum
    >>> class CUresult(IntEnum):
    ...     CUDA_SUCCESS = 0
    ...     CUDA_ERROR_OUT_OF_MEMORY = 2
    >>> answered("cuDeviceGetCount", (CUresult(0), 1)), answered("cuInit", (CUresult(0),))
    (1, None)
    >>> answered("cuMemAlloc", (CUresult(2), None))
    Traceback (most recent call last):
    extmem.errors.DriverError: cuMemAlloc returned CUDA_ERROR_OUT_OF_MEMORY: the GPU has no memory \
left for it
    """
    result, *values = answer
    if int(result):
        raise DriverError(result, name, _MEANINGS.get(getattr(result, "name", ""), ""))
    return values[0] if len(values) == 1 else tuple(values) or None


@functools.cache
def ready() -> None:
    """Begin to use CUDA; once in a process."""
    call("cuInit", 0)


class current:
    """Have a context be the calling thread's; what it had before is its own again afterwards."""

    # No generator: this is around each call, also where somebody waits for what it does.
    __slots__ = ("_context",)

    def __init__(self, context: Any) -> None:
        self._context = context

    def __enter__(self) -> None:
        call("cuCtxPushCurrent", self._context)

    def __exit__(self, *_: object) -> None:
        call("cuCtxPopCurrent")
