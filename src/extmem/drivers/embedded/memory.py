"""Device memory: allocated, imported, exported, mapped."""

from __future__ import annotations

import threading
from typing import Any

from extmem.drivers.embedded.carriers import CARRIERS, Carrier
from extmem.drivers.embedded.device import Device
from extmem.drivers.embedded.limits import (
    HEAPS,
    HOST_POINTER_ALIGNMENT,
    MAX_ALLOCATIONS,
    MEMORY_TYPES,
)
from extmem.drivers.embedded.objects import SUCCESS, Failure, Object, discard, find, put, register
from extmem.drivers.embedded.payload import Payload, check_host_pointer
from extmem.drivers.embedded.requests import Request
from extmem.vk import _constants as c

__all__ = ["Memory"]

_HOST_VISIBLE = int(c.VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT)
_WHOLE_SIZE = c.VK_WHOLE_SIZE


class Memory(Object):
    """One VkDeviceMemory over a payload. The payload stays mapped for as long as it lives."""

    def __init__(self, device: Device, payload: Payload, request: Request, charged: int) -> None:
        super().__init__(device)
        self.device = device
        self.payload = payload
        self.size = payload.size
        self.asked = request.contents.size  # what the allocation said; of a texture it means little
        self.type_index = request.contents.memory_type
        self.exporter: Carrier | None = request.exporter
        self.exported_nv = request.terms.nv
        self.charged = charged
        self.mapped = False

    def require(self, *, write: bool) -> None:
        """Refuse to begin something with memory that is not what it was, or is for reading alone.

        Both are wrong use that shows only here, which every command may answer as it is.
        """
        if self.payload.stale:
            why = "this memory was imported by a KMT number whose owner has been freed"
            raise Failure(c.VK_ERROR_VALIDATION_FAILED, why)
        if write and not self.payload.writable:
            why = "this memory was imported through a handle that grants reading alone"
            raise Failure(c.VK_ERROR_VALIDATION_FAILED, why)

    def close(self) -> None:
        with self.device.access:
            self.payload.close()
        _refund(self.device, self.type_index, self.charged)


# Bytes that this process has allocated, by physical device and heap. Allocating is the one thing
# here that Vulkan lets several threads do at once without a lock of their own.
_used: dict[tuple[int, int], int] = {}
_books = threading.Lock()


def _charge(device: Device, type_index: int, size: int) -> None:
    heap = MEMORY_TYPES[type_index][0]
    account = (device.physical.identity.index, heap)
    with _books:
        if device.allocations >= MAX_ALLOCATIONS:
            raise Failure(c.VK_ERROR_TOO_MANY_OBJECTS, "maxMemoryAllocationCount is reached")
        if _used.get(account, 0) + size > HEAPS[heap][0]:
            raise Failure(c.VK_ERROR_OUT_OF_DEVICE_MEMORY, f"{size} bytes do not fit in the heap")
        device.allocations += 1
        _used[account] = _used.get(account, 0) + size


def _refund(device: Device, type_index: int, size: int) -> None:
    with _books:
        device.allocations -= 1
        _used[device.physical.identity.index, MEMORY_TYPES[type_index][0]] -= size


def vkAllocateMemory(handle: int, info: Any, allocator: None, box: Any) -> int:
    device = find(Device, handle)
    request = Request.of(device, info)
    index = request.contents.memory_type
    # Imported bytes are somebody else's: the heap that pays is the exporter's.
    charged = 0 if request.importer is not None else request.contents.size
    _charge(device, index, charged)
    try:
        payload = request.payload()
    except BaseException:
        _refund(device, index, charged)
        raise
    put(box, register(Memory(device, payload, request, charged)))
    return SUCCESS


def vkFreeMemory(handle: int, memory: int, allocator: None) -> None:
    if memory:
        gone = find(Memory, memory, find(Device, handle))
        # Resources may still be bound to it. Those who use them next lose the device.
        discard(gone)
        gone.close()


# -- mapping ----------------------------------------------------------------------------------


def _map(device: Device, handle: int | None, offset: int, size: int, box: Any) -> int:
    memory = find(Memory, handle, device)
    if memory.mapped or not MEMORY_TYPES[memory.type_index][1] & _HOST_VISIBLE:
        raise Failure(c.VK_ERROR_MEMORY_MAP_FAILED, "already mapped, or not host-visible")
    if offset >= memory.size or (size != _WHOLE_SIZE and not 0 < size <= memory.size - offset):
        raise Failure(c.VK_ERROR_MEMORY_MAP_FAILED, f"{size} at {offset} of {memory.size} bytes")
    if size == _WHOLE_SIZE and memory.asked > memory.size:
        # The caller would take the size of its allocation for that of the mapping.
        raise Failure(c.VK_ERROR_MEMORY_MAP_FAILED, f"there are {memory.size} bytes to map")
    if memory.payload.stale:
        raise Failure(c.VK_ERROR_MEMORY_MAP_FAILED, "this memory was imported by a stale number")
    memory.mapped = True
    put(box, memory.payload.address + offset)
    return SUCCESS


def read_only(device: int, memory: int) -> bool:
    """Whether the pages of an import fault where they are written; see `drivers.driver`."""
    try:
        return not find(Memory, memory, find(Device, device)).payload.writable
    except Failure:
        return False


def _unmap(device: Device, handle: int | None) -> int:
    # The address dies with the memory, not here: the queues need the pages as well.
    find(Memory, handle, device).mapped = False
    return SUCCESS


def vkMapMemory(handle: int, memory: int, offset: int, size: int, flags: int, box: Any) -> int:
    return _map(find(Device, handle), memory, offset, size, box)


def vkMapMemory2(handle: int, info: Any, box: Any) -> int:
    return _map(find(Device, handle), info.memory, info.offset, info.size, box)


def vkUnmapMemory(handle: int, memory: int) -> None:
    _unmap(find(Device, handle), memory)


def vkUnmapMemory2(handle: int, info: Any) -> int:
    return _unmap(find(Device, handle), info.memory)


def vkFlushMappedMemoryRanges(handle: int, count: int, ranges: Any) -> int:
    device = find(Device, handle)
    for i in range(count):
        if not find(Memory, ranges[i].memory, device).mapped:
            raise Failure(c.VK_ERROR_UNKNOWN, "this memory is not mapped")
    return SUCCESS


def vkInvalidateMappedMemoryRanges(handle: int, count: int, ranges: Any) -> int:
    return vkFlushMappedMemoryRanges(handle, count, ranges)


def vkGetDeviceMemoryCommitment(handle: int, memory: int, box: Any) -> None:
    put(box, find(Memory, memory, find(Device, handle)).size)


# -- external handles -------------------------------------------------------------------------


def vkGetMemoryFdKHR(handle: int, info: Any, box: Any) -> int:
    memory = find(Memory, info.memory, find(Device, handle))
    carrier = CARRIERS.get(info.handleType)
    if (
        carrier is None
        or carrier.get is None
        or carrier.extension != "VK_KHR_external_memory_fd"
        or memory.exporter is not carrier
    ):
        raise Failure(c.VK_ERROR_UNKNOWN, f"this memory is not exported as {info.handleType:#x}")
    put(box, carrier.get(memory.payload))
    return SUCCESS


def vkGetMemoryFdPropertiesKHR(handle: int, type: int, fd: int, properties: Any) -> int:
    # Asked about descriptors that others made, and none of those can be imported here.
    find(Device, handle)
    raise Failure(c.VK_ERROR_INVALID_EXTERNAL_HANDLE, "this descriptor cannot be imported")


def vkGetMemoryHostPointerPropertiesEXT(
    handle: int, type: int, pointer: Any, properties: Any
) -> int:
    find(Device, handle)
    carrier = CARRIERS.get(type)
    if type != c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT or carrier is None:
        raise Failure(c.VK_ERROR_INVALID_EXTERNAL_HANDLE, "only host allocations are imported")
    address = getattr(pointer, "value", pointer) or 0
    check_host_pointer(address, HOST_POINTER_ALIGNMENT)
    properties.memoryTypeBits = carrier.memory_types
    return SUCCESS
