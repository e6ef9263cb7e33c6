"""How memory comes to a device: allocated for a buffer, or imported from what others exported."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from extmem import examining, vk
from extmem.capabilities import USAGE
from extmem.drivers.driver import Stamps
from extmem.errors import DriverError, Unsupported
from extmem.exporting import (
    Types,
    access_mask,
    attributes,
    explained,
    grants_reading_alone,
    kernel_object,
    need_windows,
    types_of,
)
from extmem.handle_types import HandleType, memory_type
from extmem.handles import nt_lookup
from extmem.handles.handle import Handle
from extmem.importing import Told, introduced, told
from extmem.memory import Memory
from extmem.share.passport import BufferInfo, Passport

if os.name != "nt":
    from extmem.handles import posix

if TYPE_CHECKING:
    from extmem.device import Device

__all__ = [
    "allocate",
    "carried_in",
    "check_size",
    "choose_memory_type",
    "families_of",
    "import_memory",
    "introduce",
    "make_buffer",
    "restricts",
    "source_of",
    "terms_of",
]

Made = TypeVar("Made")


def allocate(
    device: Device,
    size: int,
    *,
    export: Types,
    name: str | None,
    access: str | int | None,
    security: Any,
    dedicated: bool | None,
    memory: str | int,
) -> Memory:
    """`Device.allocate`."""
    check_size(size)
    types = types_of(export)
    for each in types:
        _require(device, each, exporting=True)
    need_windows(name, access, security, types)
    restricts(device, access, types)
    terms = terms_of(name, access, security)
    return introduce(
        device, name, lambda: _allocate(device, size, types, None, terms, memory, dedicated, None)
    )


def terms_of(name: str | None, access: str | int | None, security: Any) -> Any:
    """The structure that says on which terms a Windows handle is exported; None for the usual."""
    if (name, access, security) == (None, None, None):
        return None
    return vk.VkExportMemoryWin32HandleInfoKHR(
        name=name, dwAccess=access_mask(access), pAttributes=attributes(security)
    )


def introduce(device: Device, name: str | None, make: Callable[[], Memory]) -> Memory:
    """Make memory, and have its passport and its name where importers look for them."""
    made = None
    try:
        made = make()
        _stamp(made)
        if name is not None:
            # Some drivers give the name with the first handle, and a peer may ask for it now.
            made.export("opaque_win32").close()
    except BaseException as error:
        if made is not None:
            made.close()
        # A result of Vulkan's cannot say that a name is taken.
        if name and isinstance(error, DriverError):
            why = nt_lookup.why_not_given(name, kernel_object(device.driver, "memory"))
            raise DriverError(error.result, error.call, why or error.hint) from None
        raise
    return made


def import_memory(
    device: Device,
    handle: Any,
    *,
    name: str | None,
    handle_type: str | int | None,
    size: int | None,
    memory_type: str | int | None,
    dedicated: bool | None,
    passport: Passport | bytes | None,
    quarantine: bool,
) -> Memory:
    """`Device.import_memory`."""
    source = source_of(handle, name, handle_type)
    _require(device, source, exporting=False)
    if quarantine:
        # Before anything else looks at the handle: drivers are also asked where one comes from.
        _ = device.handle  # which says so if it was closed
        examining.examiner_of(device).examine(
            source,
            handle,
            name=name,
            size=size,
            memory_type=memory_type,
            dedicated=dedicated,
            passport=passport,
        )
    if source.kind == "pointer":
        return _import_host(device, source, handle, size)
    assert device.instance.dispatch is not None
    known = told(
        device.physical,
        device.instance.dispatch.driver,
        source,
        handle,
        name,
        passport,
        size=size,
        memory_type=memory_type,
        dedicated=dedicated,
    )
    if known.size is None and known.refused:
        known = replace(known, size=1)  # the rules know what is wrong there, and say it
    if known.size is None:
        if source.kind in ("nt", "kmt") and (why := nt_lookup.out_of_order()):
            raise Unsupported(f"cannot import {source.name}: {why}")
        what = "descriptor" if source.kind == "fd" else "handle or a name"
        raise ValueError(
            f"pass size= or passport=: a bare {what} of {source.name} does not tell the size"
        )
    check_size(known.size)
    return carried_in(source, handle, name, lambda chain: _import(device, known, source, chain))


def source_of(handle: Any, name: str | None, handle_type: str | int | None) -> HandleType:
    """Which type a handle is, or what a name stands for."""
    if handle is None and name is None:
        raise ValueError("pass a handle to import, or a name")
    if handle is not None and name is not None:
        raise ValueError("pass a handle to import or a name, and not both")
    if isinstance(handle, Handle) and handle.handle_type.object != "memory":
        what = handle.handle_type.object
        raise ValueError(f"{handle!r} is no memory; import it with Device.import_{what}")
    if name is not None:
        return memory_type(handle_type or "opaque_win32")
    if isinstance(handle, Handle) and handle.handle_type.object != "memory":
        kind = handle.handle_type.object
        raise ValueError(f"{handle!r} is of a {kind}: use import_{kind}")
    if handle_type is not None:
        wanted = memory_type(handle_type)
        if isinstance(handle, Handle) and handle.handle_type is not wanted:
            raise ValueError(f"{handle!r} is no {wanted.name}")
        return wanted
    if isinstance(handle, Handle):
        return handle.handle_type
    if isinstance(handle, int):
        if os.name == "nt":
            raise ValueError("pass handle_type=: a bare number does not tell what it is")
        return memory_type("dma_buf" if posix.describe(handle) == "dma-buf" else "opaque_fd")
    return memory_type("host_allocation")


def carried_in(
    source: HandleType, handle: Any, name: str | None, make: Callable[[Any], Made]
) -> Made:
    """Make something with the structure that imports this handle, which stays the caller's."""
    if source.kind != "fd":
        value = None if handle is None else int(handle)
        return make(
            vk.VkImportMemoryWin32HandleInfoKHR(handleType=source.bit, name=name, handle=value)
        )
    copy = posix.duplicate(int(handle))
    try:
        return make(vk.VkImportMemoryFdInfoKHR(handleType=source.bit, fd=copy))
    except BaseException:
        posix.close(copy)
        raise


def _import(device: Device, known: Told, source: HandleType, chain: Any) -> Memory:
    assert known.size is not None
    made = _allocate(
        device,
        known.size,
        (),
        source,
        chain,
        "host_visible" if known.memory_type is None else known.memory_type,
        known.dedicated,
        known.allocation_size,
        known.buffer,
    )
    introduced(made, source, known)
    return made


def _import_host(device: Device, source: HandleType, handle: Any, size: int | None) -> Memory:
    """Import host memory: the device works on the caller's own bytes."""
    if isinstance(handle, int):
        if size is None:
            raise ValueError("pass size=: an address does not tell how many bytes are there")
        address, keep = handle, None
    else:
        try:
            view = memoryview(handle).cast("B")
        except TypeError as error:
            raise TypeError(
                f"handle is {handle!r}; expected a Handle, a number with handle_type=, or a "
                "writable buffer that is contiguous (a bytearray, an mmap, a NumPy array); names "
                "go to name="
            ) from error
        if view.readonly:
            raise ValueError("host memory to import must be writable")
        keep = (ctypes.c_char * view.nbytes).from_buffer(view)
        address, size = ctypes.addressof(keep), size or view.nbytes
        if size > view.nbytes:
            raise ValueError(f"size is {size}, but the buffer has {view.nbytes} bytes")
    answer = vk.vkGetMemoryHostPointerPropertiesEXT(device.handle, source.bit, address)
    usable = [t for t in device.physical.memory_types if answer.memoryTypeBits >> t.index & 1]
    if not usable:
        raise Unsupported(f"{device.physical.name} takes no memory at {address:#x}")
    best = max(usable, key=lambda t: ("host_visible" in t.flags, "host_coherent" in t.flags))
    chain = vk.VkImportMemoryHostPointerInfoEXT(handleType=source.bit, pHostPointer=address)
    info = vk.VkMemoryAllocateInfo(pNext=chain, allocationSize=size, memoryTypeIndex=best.index)
    return device._keep(
        Memory(
            device,
            vk.vkAllocateMemory(device.handle, info),
            size=size,
            allocation_size=size,
            memory_type_index=best.index,
            exported=(),
            imported=source,
            keep=keep,
        )
    )


def _allocate(
    device: Device,
    size: int,
    export: tuple[HandleType, ...],
    source: HandleType | None,
    chain: Any,
    memory: str | int,
    dedicated: bool | None,
    allocation_size: int | None,  # None: what a buffer of `size` needs
    alike: BufferInfo | None = None,  # an import's: the buffer that its exporter dedicated it to
) -> Memory:
    mask = sum(each.bit for each in export) | (source.bit if source is not None else 0)
    if alike is None:
        buffer = make_buffer(device, size, mask)
    else:
        concurrent = alike.sharing == vk.VK_SHARING_MODE_CONCURRENT
        buffer = make_buffer(device, alike.size, mask, concurrent, alike.usage)
    try:
        needs = vk.VkMemoryDedicatedRequirements()
        found = vk.vkGetBufferMemoryRequirements2(
            device.handle,
            vk.VkBufferMemoryRequirementsInfo2(buffer=buffer),
            vk.VkMemoryRequirements2(pNext=needs),
        ).memoryRequirements
        index = choose_memory_type(device, memory, found.memoryTypeBits, "buffer")
        if dedicated is None:
            dedicated = bool(needs.requiresDedicatedAllocation) or any(
                each.dedicated_only
                for each in device.physical.sharing
                if each.handle_type.bit & mask
            )
        info = vk.VkMemoryAllocateInfo(
            pNext=chain,
            allocationSize=allocation_size or max(size, found.size),
            memoryTypeIndex=index,
        )
        if export:
            vk.link(info, vk.VkExportMemoryAllocateInfo(handleTypes=mask))
        if dedicated:
            vk.link(info, vk.VkMemoryDedicatedAllocateInfo(buffer=buffer))
        with explained(export if source is None else (*export, source)):
            made = vk.vkAllocateMemory(device.handle, info)
        if dedicated:
            vk.vkBindBufferMemory(device.handle, buffer, made, 0)
    except BaseException:
        vk.vkDestroyBuffer(device.handle, buffer)
        raise
    if not dedicated:
        vk.vkDestroyBuffer(device.handle, buffer)
    return device._keep(
        Memory(
            device,
            made,
            size=size,
            allocation_size=info.allocationSize,
            memory_type_index=index,
            exported=export,
            imported=source,
            buffer=buffer if dedicated else None,
        )
    )


def make_buffer(
    device: Device, size: int, mask: int, concurrent: bool = False, usage: int = USAGE
) -> vk.VkBuffer:
    """A buffer that is used for copies, in memory of these external types."""
    families = families_of(device) if concurrent else None
    info = vk.VkBufferCreateInfo(
        size=size,
        usage=usage,
        sharingMode=vk.VK_SHARING_MODE_CONCURRENT if families else vk.VK_SHARING_MODE_EXCLUSIVE,
        pQueueFamilyIndices=families,
        pNext=vk.VkExternalMemoryBufferCreateInfo(handleTypes=mask) if mask else None,
    )
    return vk.vkCreateBuffer(device.handle, info)


def families_of(device: Device) -> list[int]:
    """All queue families, for what they use concurrently."""
    count = len(vk.vkGetPhysicalDeviceQueueFamilyProperties(device.vk_physical))
    if count < 2:
        raise Unsupported(
            f"{device.physical.name} has one queue family, so nothing is used concurrently"
        )
    return list(range(count))


def choose_memory_type(device: Device, wanted: str | int, allowed: int, what: str) -> int:
    """The memory type to take, among those that the resource allows."""
    types = device.physical.memory_types
    if isinstance(wanted, int):
        if not 0 <= wanted < len(types):
            raise ValueError(f"memory type {wanted}; the device has 0 to {len(types) - 1}")
        if not allowed >> wanted & 1:
            raise Unsupported(
                f"memory type {wanted} cannot carry such a {what}; these can: "
                + ", ".join(str(t.index) for t in types if allowed >> t.index & 1)
            )
        return wanted
    if wanted not in ("host_visible", "device_local"):
        raise ValueError(
            f"memory is {wanted!r}; expected 'host_visible', 'device_local' or an index"
        )
    usable = [t for t in types if allowed >> t.index & 1 and wanted in t.flags]
    if not usable:
        raise Unsupported(f"{device.physical.name} has no {wanted} memory for such a {what}")
    if wanted == "host_visible":
        # Coherent before cached: a view that needs no flush is what people expect.
        best = max(
            usable,
            key=lambda t: ("host_coherent" in t.flags, "host_cached" in t.flags, -t.index),
        )
    else:
        best = max(usable, key=lambda t: ("host_visible" not in t.flags, -t.index))
    return best.index


def _require(device: Device, handle_type: HandleType, *, exporting: bool) -> None:
    physical = device.physical
    able = physical.can_export if exporting else physical.can_import
    if not able(handle_type.name):
        verb = "export" if exporting else "import"
        offered = (
            each.handle_type.name
            for each in physical.sharing
            if (each.exportable if exporting else each.importable)
        )
        raise Unsupported(
            f"{physical.name} ({device.driver} driver) cannot {verb} {handle_type.name}; "
            f"it can {verb} {', '.join(offered) or 'nothing'}"
        )


def restricts(device: Device, access: str | int | None, types: tuple[HandleType, ...]) -> None:
    """Refuse to grant reading alone where nobody can."""
    if not grants_reading_alone(access):
        return
    for each in device.physical.sharing:
        if each.bridged and each.handle_type in types:
            raise Unsupported(
                f"{each.handle_type.name} of {device.physical.name} is bridged over "
                f"{each.bridged}, and a driver's descriptor cannot be restricted to reading: "
                "leave access= out, or use the embedded driver"
            )


def check_size(size: int) -> None:
    """Refuse what is no number of bytes."""
    if not isinstance(size, int) or isinstance(size, bool):
        raise TypeError(f"size is {size!r}; expected a number of bytes")
    if size <= 0:
        raise ValueError(f"size is {size}; expected at least 1 byte")


def _stamp(memory: Memory) -> None:
    """Leave the passport where importers of its Windows handles find it."""
    dispatch = memory.device.instance.dispatch
    assert dispatch is not None
    windows = any(each.kind in ("nt", "kmt") for each in memory.exported)
    if windows and isinstance(dispatch.driver, Stamps):
        passport = memory.passport.encode()
        dispatch.driver.stamp(int(memory.device.handle), int(memory.handle), passport)
