"""Buffers: what the device itself reads and writes memory through."""

from __future__ import annotations

import sys
import weakref
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from extmem import ownership, vk
from extmem.errors import ClosedError
from extmem.images.infos import LAYOUTS
from extmem.memory import Memory
from extmem.ownership import Ownership
from extmem.submitting import Semaphores

if TYPE_CHECKING:
    from extmem.device import Device

__all__ = ["Buffer"]


class Buffer:
    """A range of memory that the device can copy from and to. Made by `Device.buffer`.

    Closing it does not close the memory.
    """

    def __init__(
        self,
        device: Device,
        handle: vk.VkBuffer | None,  # None: the one that the memory is dedicated to
        memory: Memory,
        offset: int,
        size: int,
        concurrent: bool = False,
    ) -> None:
        self.device = device
        self.memory = memory
        self.offset = offset  # bytes into the memory
        self.size = size  # bytes
        imported = memory.imported
        self.ownership = Ownership(  # who may use it, as far as this process knows
            what=f"the buffer of {size} bytes",
            types=memory.exported + ((imported,) if imported else ()),
            concurrent=concurrent,
            layout=LAYOUTS["general"],
            here=imported is None,
            untouched=imported is not None,
        )
        self._vk: vk.VkBuffer | None = memory.buffer if handle is None else handle
        self._own = handle
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

    def acquire(self, *, source: str = "external", wait: Semaphores = ()) -> None:
        """Take its bytes over from others, and wait until that is done.

        source: "external" for users of the same device and driver, "foreign" for all others
        wait: semaphores to wait for first, each alone or as (semaphore, value)
        """
        ownership.acquire(self.device, self, self.ownership, "general", source, wait)

    def release(self, *, to: str = "external", signal: Semaphores = ()) -> None:
        """Give its bytes to others, and wait until that is done. Not to be used until `acquire`.

        to: "external" for users of the same device and driver, "foreign" for all others
        signal: semaphores to signal then, each alone or as (semaphore, value)
        """
        ownership.release(self.device, self, self.ownership, "general", to, signal)

    def close(self) -> None:
        """Destroy the buffer, now or once all that was submitted has ended. Safe to call again."""
        if self._vk is not None:
            _destroy(self.device, self._own)  # if a rule refuses it now, it may be closed later
            self._vk = None
            self._end.detach()
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


def _destroy(device: Device, handle: vk.VkBuffer | None) -> None:
    if handle is not None and not device.closed and not sys.is_finalizing():
        # What was submitted may use it still.
        device._work.afterwards(partial(_destroy_now, device, handle))


def _destroy_now(device: Device, handle: vk.VkBuffer) -> None:
    if not device.closed:
        vk.vkDestroyBuffer(device.handle, handle)
