"""What the page of a shared semaphore or fence says of itself, and no handle can tell."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Self

from extmem.drivers.embedded.limits import DRIVER_UUID, FORMAT_VERSION
from extmem.vk import _constants as c

__all__ = ["D3D12_FENCE", "FENCE", "SEMAPHORE", "TITLE_SIZE", "Title"]

SEMAPHORE, FENCE = 1, 2
D3D12_FENCE = int(c.VK_EXTERNAL_SEMAPHORE_HANDLE_TYPE_D3D12_FENCE_BIT)
_MAGIC = b"EXTMEMSG"
# magic, version, what it is, device, driver, handle type, counts, flags, number, everywhere, which
_TITLE = struct.Struct("<8sII16s16sIIIII16s")
TITLE_SIZE = _TITLE.size


@dataclass(frozen=True, slots=True)
class Title:
    """What the page says of its payload."""

    object: int  # SEMAPHORE or FENCE
    handle_type: int  # the one type that it is exported as, a bit of that object
    device: bytes
    timeline: bool = False
    flags: int = 0  # that its object was created with
    kmt: int = 0  # its number, 0 if it goes by something else
    everywhere: bool = False  # its name is in Global\\, and so is what its word needs
    identity: bytes = bytes(16)
    driver: bytes = DRIVER_UUID
    version: int = FORMAT_VERSION

    def pack(self) -> bytes:
        return _TITLE.pack(
            *(_MAGIC, self.version, self.object, self.device, self.driver, self.handle_type),
            *(self.timeline, self.flags, self.kmt, self.everywhere, self.identity),
        )

    @classmethod
    def of(cls, page: bytes) -> Self | None:
        """What a page says; None if it is no such page."""
        magic, version, what, device, driver, handle_type, *rest = _TITLE.unpack_from(page)
        timeline, flags, kmt, everywhere, identity = rest
        if magic != _MAGIC:
            return None
        return cls(
            *(what, handle_type, device, bool(timeline), flags, kmt, bool(everywhere), identity),
            *(driver, version),
        )
