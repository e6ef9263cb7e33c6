"""Device memory: the commands in which a driver is not given what the caller owns.

Four things happen here that C does not do:

- A driver that imports a descriptor gets a duplicate. The caller's is closed when the import
  succeeded, as the specification has it, and is untouched when it failed, whatever the driver
  did to the duplicate (invariant 2).
- "Success" without a descriptor is an error.
- A mapping is a memoryview, and memory with living views cannot be unmapped or freed
  (invariant 6). It is read-only where the import is.
- A handle knows its size, so that VK_WHOLE_SIZE has an end.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import c_int32, c_uint64
from os import set_inheritable
from struct import Struct
from typing import Any

from extmem.drivers.driver import ReadOnlyImports
from extmem.errors import DriverError
from extmem.handle_types import MEMORY, MEMORY_NV
from extmem.handles.system import kernel
from extmem.rules import glances
from extmem.vk import _constants as c
from extmem.vk import _prototypes as p
from extmem.vk import _structures as s
from extmem.vk import calls, record
from extmem.vk._dispatch import Dispatch
from extmem.vk._prototype import Prototype
from extmem.vk._structures import (
    VkDevice,
    VkDeviceMemory,
    VkImportMemoryFdInfoKHR,
    VkMemoryAllocateInfo,
    VkMemoryGetFdInfoKHR,
)
from extmem.vk.borrowed import nt_duplicate, some_handle
from extmem.vk.chain import walk
from extmem.vk.mappings import Mapping

if os.name != "nt":
    from extmem.handles import posix

__all__ = [
    "vkAllocateMemory",
    "vkFreeMemory",
    "vkGetMemoryFdKHR",
    "vkGetMemoryFdPropertiesKHR",
    "vkGetMemoryWin32HandleKHR",
    "vkGetMemoryWin32HandleNV",
    "vkGetMemoryWin32HandlePropertiesKHR",
    "vkMapMemory",
    "vkMapMemory2",
    "vkUnmapMemory",
    "vkUnmapMemory2",
]

# ctypes' own descriptor: this member is read and set in every import.
_import_fd_member = s.VkImportMemoryFdInfoKHR.__dict__["fd"]
_read_size = Struct("Q").unpack_from
_SIZE_OFFSET = s.VkMemoryAllocateInfo.__dict__["allocationSize"].offset
_WHOLE = c.VK_WHOLE_SIZE

_allocate = p.vkAllocateMemory
_free = p.vkFreeMemory
_get_fd = p.vkGetMemoryFdKHR


def _source(info: Any) -> tuple[Any, bool]:
    """The structure that a chain imports a handle from, or None; and whether it holds structures
    that are turned off by a type of 0. Runs in every allocation.
    """
    source, off = None, False
    item = info
    while True:
        try:
            item = item._next
        except AttributeError:  # an element of an array, or made from an address
            item = item.pNext
        if item is None:
            return source, off
        type_of = _TYPES_OF.get(type(item))
        if type_of is not None:
            if not type_of(item):
                off = True
            elif type(item) in _IMPORTS:
                source = item


# Structures that mean nothing when their type is 0 (drivers forget that), and how to read it:
# through ctypes' own descriptors, because every allocation asks.
_TYPES_OF: dict[Any, Callable[[Any], int]] = {
    cls: cls.__dict__[member].get
    for cls, member in (
        (s.VkExportMemoryAllocateInfo, "handleTypes"),
        (s.VkExportMemoryAllocateInfoNV, "handleTypes"),
        (s.VkImportMemoryWin32HandleInfoKHR, "handleType"),
        (s.VkImportMemoryWin32HandleInfoNV, "handleType"),
        (s.VkImportMemoryFdInfoKHR, "handleType"),
    )
}
_IMPORTS = frozenset(
    (
        VkImportMemoryFdInfoKHR,
        s.VkImportMemoryWin32HandleInfoKHR,
        s.VkImportMemoryWin32HandleInfoNV,
    )
)


@contextmanager
def _without_those_turned_off(info: Any) -> Iterator[None]:
    """Take structures whose type is 0 out of a chain while the driver looks at it."""
    chain = list(walk(info))
    kept = [item for item in chain if type(item) not in _TYPES_OF or _TYPES_OF[type(item)](item)]
    followers = [*kept[1:], None]
    before = [item.pNext for item in kept]
    for item, follower in zip(kept, followers, strict=True):
        item.pNext = follower
    try:
        yield
    finally:
        for item, follower in zip(kept, before, strict=True):
            item.pNext = follower


# -- allocate and free ----------------------------------------------------------------------------
#
# Each of the three that a hand-over is made of has a short way: for devices without checks, and
# where a glance tells that no rule is broken. It does what invariants 2 and 6 demand, and nothing
# else.


def vkAllocateMemory(device: s.VkDevice, pAllocateInfo: s.VkMemoryAllocateInfo) -> s.VkDeviceMemory:
    """VK_VERSION_1_0. Allocates, exports or imports, as the chain says.

    A descriptor in a VkImportMemoryFdInfoKHR belongs to the new memory once this returns, and
    still to the caller if it raises.
    """
    dispatch: Any = device.dispatch if type(device) is VkDevice else None
    unchecked = dispatch is not None and dispatch.unchecked
    plain = None
    if not unchecked or type(pAllocateInfo) is not VkMemoryAllocateInfo:
        if dispatch is not None and dispatch.alive:
            plain = glances.allocation(dispatch, pAllocateInfo)
        if plain is None:
            dispatch = calls.dispatch_of(_allocate, device)
            arguments = calls.converted(_allocate, (device, pAllocateInfo, None))
            if not unchecked:
                calls.check(_allocate, dispatch, arguments)
    box = c_uint64()
    source, off = _source(pAllocateInfo)
    if off:
        with _without_those_turned_off(pAllocateInfo):
            result = _drive(dispatch, device, pAllocateInfo, source, box)
    elif source is not None:
        result = _drive(dispatch, device, pAllocateInfo, source, box)
    else:
        result = dispatch.vkAllocateMemory(device, pAllocateInfo, None, box)
    if result:
        calls.raise_for(_allocate, result)
    memory = VkDeviceMemory(box.value)
    memory.dispatch = dispatch
    (memory.size,) = _read_size(pAllocateInfo, _SIZE_OFFSET)  # type: ignore[attr-defined]
    if plain is not None:
        glances.made(dispatch.world, box.value, plain)
    elif not unchecked:
        chain = record.chain_of(pAllocateInfo)
        facts = record.memory_facts(pAllocateInfo, chain, [])
        glances.learn(dispatch, pAllocateInfo, facts)
        dispatch.world.add("VkDeviceMemory", box.value, None, **facts)
    return memory


def _drive(dispatch: Dispatch, device: Any, info: Any, source: Any, box: Any) -> int:
    if type(source) is VkImportMemoryFdInfoKHR:
        return _import_fd(dispatch, device, info, source, box)
    if source is not None:
        return _import_nt(dispatch, device, info, source, box)
    return int(dispatch.vkAllocateMemory(device, info, None, box))


def _import_fd(dispatch: Dispatch, device: Any, info: Any, source: Any, box: Any) -> int:
    """Import with a duplicate in the caller's place, and settle who owns what afterwards."""
    given = _import_fd_member.get(source)
    if given < 0:
        return int(dispatch.vkAllocateMemory(device, info, None, box))
    try:
        copy = os.dup(given)  # closed on exec, as all that Python makes
    except OSError:
        copy = posix.duplicate(given)  # which fails as well, and says why
    _import_fd_member.set(source, copy)
    result = -1
    try:
        result = int(dispatch.vkAllocateMemory(device, info, None, box))
    finally:
        _import_fd_member.set(source, given)
        if result:
            # Some drivers close the descriptor of an import that they refuse, some do not.
            posix.close_if_same(copy, posix.identity(given))
        else:
            os.close(given)
    return result


# The kinds of Windows handles that can be duplicated, as the two import structures number them.
_NT_TYPES = {
    s.VkImportMemoryWin32HandleInfoKHR: sum(t.bit for t in MEMORY if t.kind == "nt"),
    s.VkImportMemoryWin32HandleInfoNV: sum(t.bit for t in MEMORY_NV if t.kind == "nt"),
}


def _import_nt(dispatch: Dispatch, device: Any, info: Any, source: Any, box: Any) -> int:
    """Import with a duplicate of an NT handle in the caller's place; the caller's stays its own.

    KMT values cannot be duplicated, and a name needs no handle; those go as they are.
    """
    given = source.handle
    if not given or not source.handleType & _NT_TYPES[type(source)]:
        return int(dispatch.vkAllocateMemory(device, info, None, box))
    copy = nt_duplicate(given)
    if copy is None:
        return int(dispatch.vkAllocateMemory(device, info, None, box))
    source.handle = copy
    try:
        return int(dispatch.vkAllocateMemory(device, info, None, box))
    finally:
        source.handle = given
        kernel().let_go(copy)


def vkFreeMemory(device: s.VkDevice, memory: int | None) -> None:
    """VK_VERSION_1_0. Raises ViewsAlive while anything looks at mapped memory of it."""
    dispatch: Any = device.dispatch if type(device) is VkDevice else None
    value = memory or 0
    unchecked = dispatch is not None and dispatch.unchecked
    if not unchecked and not (
        dispatch is not None and dispatch.alive and glances.free(dispatch, memory)
    ):
        dispatch = calls.dispatch_of(_free, device)
        calls.check(_free, dispatch, calls.converted(_free, (device, memory, None)))
    if value in dispatch.views:
        dispatch.views[value].require_unused(f"free {memory!r}")
        del dispatch.views[value]
    dispatch.vkFreeMemory(device, value, None)
    if not unchecked:
        dispatch.world.remove("VkDeviceMemory", int(value))


def vkGetMemoryFdKHR(device: s.VkDevice, pGetFdInfo: s.VkMemoryGetFdInfoKHR) -> int:
    """VK_KHR_external_memory_fd. A new descriptor of the payload, which the caller owns."""
    dispatch: Any = device.dispatch if type(device) is VkDevice else None
    unchecked = dispatch is not None and dispatch.unchecked
    plain = None
    if not unchecked or type(pGetFdInfo) is not VkMemoryGetFdInfoKHR:
        if dispatch is not None and dispatch.alive:
            plain = glances.fetch(dispatch, pGetFdInfo)
        if plain is None:
            dispatch = calls.dispatch_of(_get_fd, device)
            arguments = calls.converted(_get_fd, (device, pGetFdInfo))
            if not unchecked:
                calls.check(_get_fd, dispatch, arguments)
    box = c_int32(-1)
    result = dispatch.vkGetMemoryFdKHR(device, pGetFdInfo, box)
    if result:
        calls.raise_for(_get_fd, result)
    fd = box.value
    if fd < 0:
        raise DriverError(
            c.VK_ERROR_UNKNOWN,
            _get_fd.name,
            "the driver said VK_SUCCESS and gave no descriptor; is the memory exportable as this "
            "type (VkExportMemoryAllocateInfo), and not itself imported?",
        )
    set_inheritable(fd, False)  # some drivers forget it
    if plain is not None:
        glances.fetched(dispatch, plain, fd)
    elif not unchecked:
        record.fetched(dispatch, pGetFdInfo.memory, pGetFdInfo.handleType, fd)
    return fd


def vkGetMemoryWin32HandleKHR(
    device: s.VkDevice, pGetWin32HandleInfo: s.VkMemoryGetWin32HandleInfoKHR
) -> int:
    """VK_KHR_external_memory_win32. A handle of the payload: NT handles are the caller's to close,
    KMT values are never closed. An NT handle can be fetched once; duplicate it for more.
    """
    prototype = p.vkGetMemoryWin32HandleKHR
    handle = some_handle(prototype, calls.fetch(prototype, (device, pGetWin32HandleInfo), int))
    _note_fetch(device, pGetWin32HandleInfo.memory, pGetWin32HandleInfo.handleType)
    return handle


def vkGetMemoryWin32HandleNV(device: s.VkDevice, memory: int, handleType: int) -> int:
    """VK_NV_external_memory_win32. A handle of the payload; NV lets it be fetched again."""
    prototype = p.vkGetMemoryWin32HandleNV
    handle = some_handle(prototype, calls.fetch(prototype, (device, memory, handleType), int))
    _note_fetch(device, memory, handleType, nv=True)
    return handle


def vkGetMemoryWin32HandlePropertiesKHR(
    device: s.VkDevice,
    handleType: int,
    handle: int,
    pMemoryWin32HandleProperties: s.VkMemoryWin32HandlePropertiesKHR | None = None,
) -> s.VkMemoryWin32HandlePropertiesKHR:
    """VK_KHR_external_memory_win32. The memory types that another API's handle can be imported
    as. The handle stays the caller's.
    """
    prototype = p.vkGetMemoryWin32HandlePropertiesKHR
    dispatch = calls.dispatch_of(prototype, device)
    given = pMemoryWin32HandleProperties
    box = s.VkMemoryWin32HandlePropertiesKHR() if given is None else given
    arguments = calls.converted(prototype, (device, handleType, handle))
    calls.converted_output(prototype, box)
    if dispatch.checks != "off":
        calls.check(prototype, dispatch, arguments, (box,))
    is_nt = handleType & _NT_TYPES[s.VkImportMemoryWin32HandleInfoKHR]
    copy = nt_duplicate(handle) if is_nt else None
    try:
        result = dispatch.vkGetMemoryWin32HandlePropertiesKHR(
            device, handleType, handle if copy is None else copy, box
        )
    finally:
        if copy is not None:
            kernel().let_go(copy)
    calls.raise_for(prototype, result)
    return box


def _note_fetch(device: Any, memory: int, handle_type: int, *, nv: bool = False) -> None:
    dispatch = calls.dispatch_of(p.vkGetMemoryWin32HandleKHR, device)
    if dispatch.checks != "off":
        record.fetched(dispatch, memory, handle_type, nv=nv)


def vkGetMemoryFdPropertiesKHR(
    device: s.VkDevice,
    handleType: int,
    fd: int,
    pMemoryFdProperties: s.VkMemoryFdPropertiesKHR | None = None,
) -> s.VkMemoryFdPropertiesKHR:
    """VK_KHR_external_memory_fd. The memory types that a descriptor can be imported as."""
    prototype = p.vkGetMemoryFdPropertiesKHR
    dispatch = calls.dispatch_of(prototype, device)
    box = s.VkMemoryFdPropertiesKHR() if pMemoryFdProperties is None else pMemoryFdProperties
    arguments = calls.converted(prototype, (device, handleType, fd))
    calls.converted_output(prototype, box)
    if dispatch.checks != "off":
        calls.check(prototype, dispatch, arguments, (box,))
    copy = posix.duplicate(fd)
    try:
        result = dispatch.vkGetMemoryFdPropertiesKHR(device, handleType, copy, box)
    finally:
        posix.close_if_same(copy, posix.identity(fd))
    calls.raise_for(prototype, result)
    return box


# -- map and unmap --------------------------------------------------------------------------------


def mapping_of(device: s.VkDevice, memory: int) -> Mapping | None:
    """The mapping of a memory object, or None if it is not mapped."""
    dispatch = calls.dispatch_of(p.vkMapMemory, device)
    found: Mapping | None = dispatch.views.get(memory)
    return found


def vkMapMemory(
    device: s.VkDevice, memory: int, offset: int, size: int, flags: int = 0
) -> memoryview:
    """VK_VERSION_1_0. A view of bytes; VK_WHOLE_SIZE maps to the end. It is writable, except for
    an import whose handle grants reading alone.
    """
    prototype = p.vkMapMemory
    dispatch = calls.dispatch_of(prototype, device)
    arguments = calls.converted(prototype, (device, memory, offset, size, flags))
    if dispatch.checks != "off":
        calls.check(prototype, dispatch, arguments)
    box = ctypes.c_void_p()
    calls.raise_for(prototype, dispatch.vkMapMemory(*arguments, box))
    return _mapped(dispatch, device, memory, offset, size, box)


def vkMapMemory2(device: s.VkDevice, pMemoryMapInfo: s.VkMemoryMapInfo) -> memoryview:
    """VK_VERSION_1_4, VK_KHR_map_memory2. As vkMapMemory, from a structure."""
    prototype = p.vkMapMemory2
    dispatch = calls.dispatch_of(prototype, device)
    arguments = calls.converted(prototype, (device, pMemoryMapInfo))
    if dispatch.checks != "off":
        calls.check(prototype, dispatch, arguments)
    box = ctypes.c_void_p()
    placed = record.chain_of(pMemoryMapInfo).get("VkMemoryMapPlacedInfoEXT")
    if placed is not None and placed.pPlacedAddress:
        box.value = placed.pPlacedAddress
    calls.raise_for(prototype, dispatch.vkMapMemory2(*arguments, box))
    info = pMemoryMapInfo
    return _mapped(dispatch, device, info.memory, info.offset, info.size, box)


def _mapped(
    dispatch: Dispatch, device: Any, memory: Any, offset: int, size: int, box: Any
) -> memoryview:
    if size == _WHOLE:
        size = _size_of(dispatch, memory) - offset
    handle = (
        memory if isinstance(memory, s.VkDeviceMemory) else s.VkDeviceMemory.of(memory, dispatch)
    )
    protected = is_read_only(device, memory)
    mapping = Mapping(handle, box.value or 0, offset, size, read_only=protected)
    dispatch.views[int(memory)] = mapping
    if dispatch.checks != "off":
        found = dispatch.world.find("VkDeviceMemory", int(memory))
        if found is not None:
            found.facts["mapped"] = (offset, size)
    return mapping.view()


def is_read_only(device: s.VkDevice, memory: int) -> bool:
    """Whether memory was imported by a handle that grants reading alone."""
    driver = calls.dispatch_of(p.vkMapMemory, device).driver
    return isinstance(driver, ReadOnlyImports) and driver.read_only(int(device), int(memory))


def _size_of(dispatch: Dispatch, memory: Any) -> int:
    size = getattr(memory, "size", None)
    if size is None and dispatch.world is not None:
        found = dispatch.world.find("VkDeviceMemory", int(memory))
        size = found.facts["size"] or None if found is not None else None
    if size is None:
        raise ValueError(
            "VK_WHOLE_SIZE needs the VkDeviceMemory that vkAllocateMemory returned, because a bare "
            "integer does not know its size when checks are off"
        )
    return int(size)


def vkUnmapMemory(device: s.VkDevice, memory: int) -> None:
    """VK_VERSION_1_0. Raises ViewsAlive while anything looks at the memory."""
    _unmap(p.vkUnmapMemory, device, memory, (device, memory))


def vkUnmapMemory2(device: s.VkDevice, pMemoryUnmapInfo: s.VkMemoryUnmapInfo) -> None:
    """VK_VERSION_1_4, VK_KHR_map_memory2. As vkUnmapMemory, from a structure."""
    info = pMemoryUnmapInfo
    memory = info.memory if isinstance(info, s.VkMemoryUnmapInfo) else None
    _unmap(p.vkUnmapMemory2, device, memory, (device, info))


def _unmap(prototype: Prototype, device: Any, memory: Any, given: tuple[Any, ...]) -> None:
    dispatch = calls.dispatch_of(prototype, device)
    arguments = calls.converted(prototype, given)
    if dispatch.checks != "off":
        calls.check(prototype, dispatch, arguments)
    mapping = dispatch.views.get(int(memory))
    if mapping is not None:
        mapping.require_unused("unmap")
    result = getattr(dispatch, prototype.name)(*arguments)
    if prototype.result == "VkResult":
        calls.raise_for(prototype, result)
    dispatch.views.pop(int(memory), None)
    if dispatch.checks != "off":
        found = dispatch.world.find("VkDeviceMemory", int(memory))
        if found is not None:
            found.facts["mapped"] = None
