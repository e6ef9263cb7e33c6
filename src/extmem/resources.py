"""Buffers: what the device itself reads and writes memory through."""

from __future__ import annotations

import weakref
from types import TracebackType
from typing import TYPE_CHECKING, Self

from extmem import vk
from extmem.errors import ClosedError
from extmem.memory import Memory

if TYPE_CHECKING:
    from extmem.device import Device

__all__ = ["Buffer"]


class Buffer:
    """A range of memory that the device can copy from and to. Made by `Device.buffer`.

    Closing it does not close the memory.
    """

    def __init__(
        self, device: Device, handle: vk.VkBuffer, memory: Memory, offset: int, size: int
    ) -> None:
        self.device = device
        self.memory = memory
        self.offset = offset  # bytes into the memory
        self.size = size  # bytes
        self._vk: vk.VkBuffer | None = handle
        self._end = weakref.finalize(self, _destroy, device, handle)

    @property
    def closed(self) -> bool:
        """Whether the buffer was destroyed."""
        return self._vk is None

    @property
    def handle(self) -> vk.VkBuffer:
        """The VkBuffer, for calls of `extmem.vk`; still owned by this object."""
        if self._vk is None:
            raise ClosedError("this buffer is closed")
        return self._vk

    def __repr__(self) -> str:
        if self._vk is None:
            return "<Buffer, closed>"
        return f"<Buffer {self.size} bytes at {self.offset} of {self.memory!r}>"

    def close(self) -> None:
        """Destroy the buffer. Safe to call again."""
        if self._vk is not None:
            self._vk = None
            self._end()
            self.device._forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _destroy(device: Device, handle: vk.VkBuffer) -> None:
    if not device.closed:
        vk.vkDestroyBuffer(device.handle, handle)
