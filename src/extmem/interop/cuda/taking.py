"""What CUDA is given of a handle: never the caller's own, and on which terms."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

from extmem.errors import Unsupported
from extmem.handle_types import HandleType
from extmem.handles.handle import Handle
from extmem.handles.system import directory
from extmem.interop.cuda.driver import bindings

if os.name != "nt":
    from extmem.handles import posix

__all__ = ["MEMORY", "SEMAPHORES", "TIMELINES", "kind_of", "lent", "named"]

# CUDA's numbers (CUexternalMemoryHandleType, CUexternalSemaphoreHandleType) by our names.
MEMORY = {
    "opaque_fd": 1,
    "opaque_win32": 2,
    "opaque_win32_kmt": 3,
    "d3d12_heap": 4,
    "d3d12_resource": 5,
    "d3d11_texture": 6,
    "d3d11_texture_kmt": 7,
}
SEMAPHORES = {"opaque_fd": 1, "opaque_win32": 2, "opaque_win32_kmt": 3, "d3d12_fence": 4}
TIMELINES = {"opaque_fd": 9, "opaque_win32": 10, "d3d12_fence": 4}

_ON_LINUX = "opaque_fd"  # what stands behind a Windows handle of the directory, where it is bridged


def kind_of(source: HandleType, table: dict[str, int]) -> int:
    """CUDA's number of a handle type. Unsupported if it has none.

    >>> from extmem.handle_types import memory_type
    >>> kind_of(memory_type("dma_buf"), MEMORY)
    Traceback (most recent call last):
    extmem.errors.Unsupported: CUDA imports no dma_buf of a memory; it does opaque_fd, \
opaque_win32, opaque_win32_kmt, d3d12_heap, d3d12_resource, d3d11_texture, d3d11_texture_kmt
    """
    name = source.name
    if sys.platform != "win32" and name == "opaque_win32":
        name = _ON_LINUX
    number = table.get(name)
    if number is None:
        raise Unsupported(
            f"CUDA imports no {source.name} of a {source.object}; it does {', '.join(table)}"
        )
    return number


@functools.cache
def named(kinds: str, number: int) -> Any:
    """A number as the bindings want it: of an enumeration of theirs, which takes its time."""
    return getattr(bindings(), kinds)(number)


class lent:
    """A duplicate of a handle, for CUDA to import in the `with`. The caller's stays as it is.

    fill: puts the number, a descriptor or a Windows handle, into CUDA's structure

    CUDA keeps a descriptor if the import succeeds, and leaves it if not. It never keeps a handle.
    """

    # No generator, as little as can be: imports are timed against the bare call.
    __slots__ = ("_again", "_descriptor", "_fill", "_handle", "_was")

    def __init__(self, handle: Handle, fill: Callable[[Any], None]) -> None:
        self._handle = handle
        self._fill = fill
        self._descriptor = -1
        self._was: Any = None  # which file that is, where the handle cannot tell
        self._again: Handle | None = None

    def __enter__(self) -> None:
        handle = self._handle
        source = handle.handle_type
        if source.kind == "fd" or (sys.platform != "win32" and source.kind == "nt"):
            # The directory gives the driver's descriptor, which it keeps behind the handle.
            if source.kind == "fd":
                copy = self._descriptor = posix.duplicate(handle.value)
            else:
                copy = self._descriptor = directory().descriptor(handle.value)
                self._was = posix.identity(copy)
            try:
                self._fill(copy)
            except BaseException:
                posix.close(copy)
                raise
        elif source.kind == "nt":
            self._again = handle.duplicate()
            self._fill(self._again.value)
        elif source.kind == "kmt" and sys.platform == "win32":
            self._fill(handle.value)
        else:
            raise Unsupported(
                f"a {source.name} handle cannot be given to CUDA here: export 'opaque_fd' on "
                "Linux, 'opaque_win32' on Windows"
            )

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._again is not None:
            self._again.close()
        elif kind is not None and self._descriptor >= 0:
            # It may have been closed all the same, and its number be somebody else's by now.
            was = self._was or posix.identity(self._handle.value)
            posix.close_if_same(self._descriptor, was)
