"""Semaphores and fences that leave the process, and come in: the commands of both systems.

Below them is what rules ask of their handles (`drivers.driver.SyncProvenance`).
"""

from __future__ import annotations

from typing import Any

from extmem.drivers.driver import SyncOrigin
from extmem.drivers.embedded import sections
from extmem.drivers.embedded import shared_signals as shared
from extmem.drivers.embedded.device import Device
from extmem.drivers.embedded.limits import FORMAT_VERSION
from extmem.drivers.embedded.objects import SUCCESS, Failure, find, put
from extmem.drivers.embedded.payload import Source, refused
from extmem.drivers.embedded.shared_signals import Shared
from extmem.drivers.embedded.signals import Local, Signal
from extmem.drivers.embedded.sync import Fence, Semaphore, Synchroniser, exported
from extmem.drivers.embedded.sync_carriers import SyncCarrier, carrier_of
from extmem.drivers.embedded.sync_files import export_copy, import_copy, is_sync_file
from extmem.drivers.embedded.titles import D3D12_FENCE, FENCE, SEMAPHORE, Title
from extmem.handles import winerror
from extmem.handles.system import kernel
from extmem.vk import _constants as c

__all__ = ["sync_origin_of"]


# -- out ----------------------------------------------------------------------------------------


def _carrier(device: Device, target: Synchroniser, handle_type: int, fd: bool) -> SyncCarrier:
    timeline = isinstance(target, Semaphore) and target.timeline
    carrier = exported(device, target.kind, handle_type, timeline)
    if (carrier.type.kind == "fd") != fd or not target.payload.types & handle_type:
        why = f"this {target.kind} is not exported as {handle_type:#x}"
        raise Failure(c.VK_ERROR_UNKNOWN, why)
    return carrier


def _get(device: Device, target: Synchroniser, handle_type: int, fd: bool) -> int:
    carrier = _carrier(device, target, handle_type, fd)
    payload = target.payload
    if carrier.copies:
        return _copy(device, target)
    assert isinstance(payload, Shared)
    assert carrier.get is not None
    return carrier.get(payload)


def _copy(device: Device, target: Synchroniser) -> int:
    """A copy of the payload. For the object it is as a wait, or for a fence as a reset."""
    with device.changed:
        descriptor = export_copy(target.payload)
        if target.temporary is not None:
            target.restore()
        else:
            target.permanent.reset()
    return descriptor


def vkGetSemaphoreFdKHR(handle: int, info: Any, box: Any) -> int:
    device = find(Device, handle)
    put(box, _get(device, find(Semaphore, info.semaphore, device), info.handleType, True))
    return SUCCESS


def vkGetFenceFdKHR(handle: int, info: Any, box: Any) -> int:
    device = find(Device, handle)
    put(box, _get(device, find(Fence, info.fence, device), info.handleType, True))
    return SUCCESS


def vkGetSemaphoreWin32HandleKHR(handle: int, info: Any, box: Any) -> int:
    device = find(Device, handle)
    put(box, _get(device, find(Semaphore, info.semaphore, device), info.handleType, False))
    return SUCCESS


def vkGetFenceWin32HandleKHR(handle: int, info: Any, box: Any) -> int:
    device = find(Device, handle)
    put(box, _get(device, find(Fence, info.fence, device), info.handleType, False))
    return SUCCESS


# -- in -----------------------------------------------------------------------------------------


def _import(
    device: Device,
    target: Synchroniser,
    handle_type: int,
    source: Source,
    temporary: bool,
    fd: bool,
) -> None:
    """Take a payload in; a descriptor is taken with it where that succeeds."""
    timeline = isinstance(target, Semaphore) and target.timeline
    try:
        carrier = exported(device, target.kind, handle_type, timeline)
    except Failure as problem:
        raise refused(str(problem)) from None
    if (carrier.type.kind == "fd") != fd:
        raise refused(f"{handle_type:#x} is not imported by this command")
    if timeline and temporary:
        raise refused("a timeline has no temporary payload")
    if carrier.copies:
        if not temporary:
            raise refused("a copy of a payload is imported for a while only")
        target.replace(_copied(device, source.handle, handle_type), True)
        return
    flags = target.flags if isinstance(target, Semaphore) else 0
    uuid = device.physical.identity.uuid
    asked = Title(carrier.number, handle_type, uuid, timeline, flags)
    assert carrier.open is not None
    payload = carrier.open(source, asked, timeline or carrier.counts_always)
    with device.changed:
        target.replace(payload, temporary)
        device.announce()


def _copied(device: Device, descriptor: int, handle_type: int) -> Signal:
    if descriptor == -1:  # signalled already
        return Local(device, counts=False, value=1, types=handle_type)
    return import_copy(descriptor, handle_type)


def _address(pointer: Any) -> int:
    return getattr(pointer, "value", pointer) or 0


_TEMPORARY = int(c.VK_SEMAPHORE_IMPORT_TEMPORARY_BIT)  # of fences the same


def vkImportSemaphoreFdKHR(handle: int, info: Any) -> int:
    device = find(Device, handle)
    target = find(Semaphore, info.semaphore, device)
    temporary = bool(info.flags & _TEMPORARY)
    _import(device, target, info.handleType, Source(info.fd), temporary, True)
    return SUCCESS


def vkImportFenceFdKHR(handle: int, info: Any) -> int:
    device = find(Device, handle)
    target = find(Fence, info.fence, device)
    temporary = bool(info.flags & _TEMPORARY)
    _import(device, target, info.handleType, Source(info.fd), temporary, True)
    return SUCCESS


def vkImportSemaphoreWin32HandleKHR(handle: int, info: Any) -> int:
    device = find(Device, handle)
    target = find(Semaphore, info.semaphore, device)
    source = Source(_address(info.handle), info.name)
    _import(device, target, info.handleType, source, bool(info.flags & _TEMPORARY), False)
    return SUCCESS


def vkImportFenceWin32HandleKHR(handle: int, info: Any) -> int:
    device = find(Device, handle)
    target = find(Fence, info.fence, device)
    source = Source(_address(info.handle), info.name)
    _import(device, target, info.handleType, source, bool(info.flags & _TEMPORARY), False)
    return SUCCESS


# -- what rules ask -----------------------------------------------------------------------------

_OBJECTS = {SEMAPHORE: "semaphore", FENCE: "fence"}


def sync_origin_of(
    object: str, handle_type: int, handle: int, name: str | None
) -> SyncOrigin | None:
    """What is behind a handle, a number or a descriptor of this process, or behind a name."""
    carrier = carrier_of(object, handle_type)
    if carrier is None:
        return None
    try:
        if carrier.type.kind == "fd":
            return _origin_of_descriptor(carrier, handle)
        return _origin_of_section(carrier.type.kind == "kmt", handle, name)
    except Failure as problem:
        if problem.result != c.VK_ERROR_INVALID_EXTERNAL_HANDLE:
            return None  # whatever there is no more of at the moment says nothing of the handle
        return SyncOrigin(object="", types=0)
    except (OSError, ValueError, OverflowError):
        return None


def _origin_of_descriptor(carrier: SyncCarrier, descriptor: int) -> SyncOrigin | None:
    if carrier.copies:
        if descriptor == -1 or is_sync_file(descriptor):
            return SyncOrigin(object=carrier.type.object, types=carrier.type.bit)
        return SyncOrigin(object="", types=0)
    try:
        page = shared.page_of_descriptor(descriptor)
    except (OSError, ValueError):
        return SyncOrigin(object="", types=0)
    return _origin_of_page(page, 0, False)


def _origin_of_section(kmt: bool, handle: int, name: str | None) -> SyncOrigin | None:
    try:
        found = sections.obtain(Source(handle, name), kmt)
    except OSError as problem:
        raise sections.failure_of(problem, memory=c.VK_ERROR_OUT_OF_HOST_MEMORY) from None
    try:
        page = shared.page_of(found)
    except (OSError, ValueError) as problem:
        if isinstance(problem, OSError) and winerror.code_of(problem) == winerror.ACCESS_DENIED:
            return None  # it may be one, and this handle does not let us look
        return SyncOrigin(object="", types=0)
    finally:
        kernel().let_go(found)
    return _origin_of_page(page, handle if kmt else 0, kmt and shared.is_stale(page))


def _origin_of_page(page: bytes, number: int, stale: bool) -> SyncOrigin:
    title = Title.of(page)
    if title is None or title.kmt != number:
        return SyncOrigin(object="", types=0)
    what = _OBJECTS.get(title.object, "")
    if title.version != FORMAT_VERSION:  # which may mean other things by the rest
        return SyncOrigin(
            object=what,
            types=title.handle_type,
            stale=stale,
            device=title.device,
            driver=title.driver,
        )
    foreign = title.handle_type == D3D12_FENCE and what == "semaphore"
    return SyncOrigin(
        object=what,
        types=title.handle_type,
        stale=stale,
        device=title.device,
        driver=title.driver,
        timeline=None if foreign or what == "fence" else title.timeline,
        flags=None if foreign or what == "fence" else title.flags,
    )
