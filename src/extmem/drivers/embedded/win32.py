"""The commands of both Win32 extensions: handles out of memory, and questions about handles.

Below them is what rules ask of handles (`drivers.driver.Provenance`).
"""

from __future__ import annotations

from typing import Any

from extmem.drivers.driver import HandleOrigin
from extmem.drivers.embedded import sections
from extmem.drivers.embedded.carriers import CARRIERS, Carrier, carrier_nv
from extmem.drivers.embedded.device import Device
from extmem.drivers.embedded.memory import Memory
from extmem.drivers.embedded.objects import SUCCESS, Failure, find, put
from extmem.drivers.embedded.payload import Source, refused
from extmem.drivers.embedded.resources import Buffer, Image
from extmem.handle_types import MEMORY
from extmem.vk import _constants as c

__all__ = ["fingerprint", "origin_of", "stamp", "stamped"]

_KHR = "VK_KHR_external_memory_win32"
_KINDS = {each.bit: each.kind for each in MEMORY}


def _get(memory: Memory, carrier: Carrier | None, nv: bool, box: Any) -> int:
    if (
        carrier is None
        or carrier.get is None
        or carrier.extension != _KHR
        or memory.exporter is not carrier
        or memory.exported_nv != nv
    ):
        raise Failure(c.VK_ERROR_UNKNOWN, "this memory is not exported as this handle type")
    put(box, carrier.get(memory.payload))
    return SUCCESS


def vkGetMemoryWin32HandleKHR(handle: int, info: Any, box: Any) -> int:
    memory = find(Memory, info.memory, find(Device, handle))
    return _get(memory, CARRIERS.get(info.handleType), False, box)


def vkGetMemoryWin32HandleNV(handle: int, memory: int, type: int, box: Any) -> int:
    return _get(find(Memory, memory, find(Device, handle)), carrier_nv(type), True, box)


def vkGetMemoryWin32HandlePropertiesKHR(
    handle: int, type: int, foreign: Any, properties: Any
) -> int:
    """For what others make. Of an opaque handle the exporter knows all, and must say it himself."""
    device = find(Device, handle)
    carrier = CARRIERS.get(type)
    if carrier is None or carrier.inspect is None:
        raise refused("only handles of other APIs have something to ask for")
    value = getattr(foreign, "value", foreign) or 0
    properties.memoryTypeBits = carrier.inspect(Source(value), device.physical.identity.uuid)
    return SUCCESS


# -- what rules ask -------------------------------------------------------------------------------


def origin_of(handle_type: int, handle: int, name: str | None) -> HandleOrigin | None:
    """What the first page behind a handle, number or name says: in every process the same."""
    kind = _KINDS.get(handle_type)
    if kind not in ("nt", "kmt"):
        return None
    return sections.origin_of(Source(handle, name), kind == "kmt")


def fingerprint(device: int, kind: str, resource: int) -> bytes | None:
    """The digest that the first page carries of a resource that its memory is dedicated to."""
    try:
        owner = find(Device, device)
        found = find(Image if kind == "VkImage" else Buffer, resource, owner)
    except Failure:
        return None
    return found.fingerprint[1]


# -- passports: `drivers.driver.Stamps` -----------------------------------------------------------


def stamp(device: int, memory: int, passport: bytes) -> None:
    """Lay a passport beside exported memory."""
    sections.stamp(find(Memory, memory, find(Device, device)).payload, passport)


def stamped(handle_type: int, handle: int, name: str | None) -> bytes:
    """The passport that lies behind a handle, a number or a name."""
    kind = _KINDS.get(handle_type)
    return sections.stamped(Source(handle, name), kind == "kmt") if kind in ("nt", "kmt") else b""
