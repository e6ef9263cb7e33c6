"""Handle: one operating-system handle, owned by one Python object, closed once."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from extmem.errors import ClosedError
from extmem.handle_types import HandleType, memory_type
from extmem.handles.system import kernel
from extmem.share.passport import Passport, SyncPassport

if os.name != "nt":
    from extmem.handles import posix

__all__ = ["Handle"]

_INHERIT = 1  # HANDLE_FLAG_INHERIT
SIGNALED = -1  # in place of a sync_fd: it was signalled when it was exported
_PACKAGE = str(Path(__file__).resolve().parent.parent)


def caller() -> str:
    """The file and line outside of this package that led here, for warnings."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "unknown"


class Handle:
    """An OS handle of shared memory, of a semaphore or a fence. It owns the handle: closing it, or
    the `with`, closes that.

    Made by `Memory.export`, `Semaphore.export` and `Fence.export`. What cannot travel in the handle
    itself (size, memory type, device) is in its passport; another process has to be given that
    beside the handle.

    >>> import extmem
    >>> with extmem.open_device(driver="embedded") as gpu, \\
    ...         gpu.allocate(4096, export="opaque_fd") as memory, memory.export() as handle:
    ...     handle.handle_type.name, handle.size
    ('opaque_fd', 4096)
    """

    def __init__(
        self,
        value: int,
        handle_type: HandleType | str | int,  # a name or a number is of memory's types
        *,
        size: int | None = None,  # bytes; what `Device.import_memory` calls `size`
        memory_type_index: int | None = None,
        device_uuid: bytes | None = None,
        dedicated: bool = False,  # the exporting allocation is dedicated to a resource
        passport: Passport | SyncPassport | None = None,  # all of that and more, where it is known
    ) -> None:
        self._value: int | None = value
        self.handle_type = (
            handle_type if isinstance(handle_type, HandleType) else memory_type(handle_type)
        )
        self.size = size
        self.memory_type_index = memory_type_index
        self.device_uuid = device_uuid
        self.dedicated = dedicated
        self.passport = passport
        self._made = caller()

    @property
    def closed(self) -> bool:
        """Whether the handle is closed, or was detached."""
        return self._value is None

    @property
    def value(self) -> int:
        """The number of the handle: still owned by this object. ClosedError if closed."""
        if self._value is None:
            raise ClosedError(f"this {self.handle_type.name} handle is closed")
        return self._value

    def __index__(self) -> int:
        return self.value

    def __int__(self) -> int:
        return self.value

    def fileno(self) -> int:
        """The descriptor, for `socket.send_fds` and the like."""
        if self.handle_type.kind != "fd":
            raise TypeError(f"a {self.handle_type.name} handle is not a file descriptor")
        return self.value

    def duplicate(self) -> Handle:
        """Another handle of the same payload, owned by the new object."""
        return Handle(
            _duplicate(self.value, self.handle_type),
            self.handle_type,
            size=self.size,
            memory_type_index=self.memory_type_index,
            device_uuid=self.device_uuid,
            dedicated=self.dedicated,
            passport=self.passport,
        )

    def detach(self) -> int:
        """Give up ownership: the number, which the caller must close from now on."""
        value = self.value
        self._value = None
        return value

    def close(self) -> None:
        """Close the OS handle. Safe to call again."""
        if self._value is not None:
            value, self._value = self._value, None
            if self.handle_type.kind == "fd":
                if value != SIGNALED:
                    posix.close(value)
            elif self.handle_type.kind == "nt":
                kernel().let_go(value)
            # KMT values and addresses are nobody's to close.

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_value", None) is not None and self.handle_type.holds_reference:
            warnings.warn(
                f"a {self.handle_type.name} handle was never closed; made at {self._made}",
                ResourceWarning,
                stacklevel=2,
            )
            self.close()

    def __repr__(self) -> str:
        what = self.handle_type.name
        if self.handle_type.object != "memory":
            what += f" of a {self.handle_type.object}"
        if self._value is None:
            return f"<Handle {what}, closed>"
        size = f", {self.size} bytes" if self.size is not None else ""
        return f"<Handle {what} {self._value}{size}>"


def _duplicate(value: int, handle_type: HandleType) -> int:
    """Another handle of the same object; a KMT value is its own duplicate."""
    if handle_type.kind == "fd":
        return value if value == SIGNALED else posix.duplicate(value)
    if handle_type.kind == "nt":
        # What was exported to be inherited is inherited, whichever of its handles one gets.
        return kernel().duplicate(value, inherit=bool(kernel().flags(value) & _INHERIT))
    return value
