"""Handles of semaphores and fences: the commands in which a driver is not given what the caller
owns.

As for memory: a driver gets duplicates. A successful import consumes a descriptor, an NT handle
stays the caller's, and a failed import changes nothing of what the caller has. -1 is a descriptor
of SYNC_FD alone: of something that is signalled already.
"""

from __future__ import annotations

import os
from ctypes import c_int32
from typing import Any

from extmem.errors import DriverError
from extmem.handle_types import FENCE, SEMAPHORE
from extmem.vk import _constants as c
from extmem.vk import _prototypes as p
from extmem.vk import _structures as s
from extmem.vk import calls
from extmem.vk._dispatch import Dispatch
from extmem.vk._prototype import Prototype
from extmem.vk.borrowed import some_handle, with_fd, with_nt
from extmem.vk.queries import Queries
from extmem.vk.record_sync import fetched_sync, imported_sync
from extmem.world import sync_origins

__all__ = [
    "vkGetFenceFdKHR",
    "vkGetFenceWin32HandleKHR",
    "vkGetSemaphoreFdKHR",
    "vkGetSemaphoreWin32HandleKHR",
    "vkImportFenceFdKHR",
    "vkImportFenceWin32HandleKHR",
    "vkImportSemaphoreFdKHR",
    "vkImportSemaphoreWin32HandleKHR",
]

_TABLES = {"VkSemaphore": SEMAPHORE, "VkFence": FENCE}
_NT = {
    kind: sum(each.bit for each in table if each.kind == "nt") for kind, table in _TABLES.items()
}
_COPIES = {
    kind: sum(each.bit for each in table if each.copy_transference)
    for kind, table in _TABLES.items()
}


# -- import ---------------------------------------------------------------------------------------


def vkImportSemaphoreFdKHR(
    device: s.VkDevice, pImportSemaphoreFdInfo: s.VkImportSemaphoreFdInfoKHR
) -> None:
    """VK_KHR_external_semaphore_fd. The descriptor is the semaphore's once this returns, and
    still the caller's if it raises.
    """
    _import_fd(p.vkImportSemaphoreFdKHR, "VkSemaphore", device, pImportSemaphoreFdInfo)


def vkImportFenceFdKHR(device: s.VkDevice, pImportFenceFdInfo: s.VkImportFenceFdInfoKHR) -> None:
    """VK_KHR_external_fence_fd. The descriptor is the fence's once this returns, and still the
    caller's if it raises.
    """
    _import_fd(p.vkImportFenceFdKHR, "VkFence", device, pImportFenceFdInfo)


def vkImportSemaphoreWin32HandleKHR(
    device: s.VkDevice, pImportSemaphoreWin32HandleInfo: s.VkImportSemaphoreWin32HandleInfoKHR
) -> None:
    """VK_KHR_external_semaphore_win32. The handle stays the caller's."""
    info = pImportSemaphoreWin32HandleInfo
    _import_win32(p.vkImportSemaphoreWin32HandleKHR, "VkSemaphore", device, info)


def vkImportFenceWin32HandleKHR(
    device: s.VkDevice, pImportFenceWin32HandleInfo: s.VkImportFenceWin32HandleInfoKHR
) -> None:
    """VK_KHR_external_fence_win32. The handle stays the caller's."""
    info = pImportFenceWin32HandleInfo
    _import_win32(p.vkImportFenceWin32HandleKHR, "VkFence", device, info)


def _checked(prototype: Prototype, device: Any, info: Any) -> tuple[Dispatch, list[Any]]:
    dispatch = calls.dispatch_of(prototype, device)
    arguments = calls.converted(prototype, (device, info))
    if dispatch.checks != "off":
        calls.check(prototype, dispatch, arguments)
    return dispatch, arguments


def _import_fd(prototype: Prototype, kind: str, device: Any, info: Any) -> None:
    dispatch, arguments = _checked(prototype, device, info)
    command = getattr(dispatch, prototype.name)
    export = _exporters_types(dispatch, info)
    calls.raise_for(prototype, with_fd(info, lambda: int(command(*arguments))))
    _note_import(dispatch, kind, info, export)


def _import_win32(prototype: Prototype, kind: str, device: Any, info: Any) -> None:
    dispatch, arguments = _checked(prototype, device, info)
    command = getattr(dispatch, prototype.name)
    # KMT numbers cannot be duplicated, and a name needs no handle: those go as they are.
    if info.handleType & _NT[kind]:
        result = with_nt(info, lambda: int(command(*arguments)))
    else:
        result = int(command(*arguments))
    calls.raise_for(prototype, result)
    _note_import(dispatch, kind, info, None)


def _exporters_types(dispatch: Dispatch, info: Any) -> int | None:
    """What the exporter's create info allowed, if this process was the exporter.

    Looked at before the import takes the descriptor. What a driver knows of a handle is what it was
    fetched as, not what else it might have been.
    """
    if dispatch.checks == "off":
        return None
    seen = Queries(dispatch).descriptor(info.fd)
    mine = sync_origins.find(seen.identity) if seen is not None and seen.kind != "device" else None
    return mine.types if mine is not None else None


def _note_import(dispatch: Dispatch, kind: str, info: Any, export: int | None) -> None:
    if dispatch.checks != "off":
        value = info.semaphore if kind == "VkSemaphore" else info.fence
        imported_sync(dispatch, kind, value, info, export)


# -- fetch ----------------------------------------------------------------------------------------


def vkGetSemaphoreFdKHR(device: s.VkDevice, pGetFdInfo: s.VkSemaphoreGetFdInfoKHR) -> int:
    """VK_KHR_external_semaphore_fd. A new descriptor, which the caller owns. As SYNC_FD it may be
    -1: the semaphore was signalled, and there is nothing to wait for.
    """
    return _get_fd(p.vkGetSemaphoreFdKHR, "VkSemaphore", device, pGetFdInfo)


def vkGetFenceFdKHR(device: s.VkDevice, pGetFdInfo: s.VkFenceGetFdInfoKHR) -> int:
    """VK_KHR_external_fence_fd. A new descriptor, which the caller owns. As SYNC_FD it may be -1:
    the fence was signalled, and there is nothing to wait for.
    """
    return _get_fd(p.vkGetFenceFdKHR, "VkFence", device, pGetFdInfo)


def _get_fd(prototype: Prototype, kind: str, device: Any, info: Any) -> int:
    dispatch, arguments = _checked(prototype, device, info)
    box = c_int32(-1)
    calls.raise_for(prototype, getattr(dispatch, prototype.name)(*arguments, box))
    fd = box.value
    if fd >= 0:
        os.set_inheritable(fd, False)  # some drivers forget it
    elif not info.handleType & _COPIES[kind]:
        raise DriverError(
            c.VK_ERROR_UNKNOWN,
            prototype.name,
            "the driver said VK_SUCCESS and gave no descriptor; was it created to be exported as "
            f"this type (VkExport{kind.removeprefix('Vk')}CreateInfo)?",
        )
    if dispatch.checks != "off":
        value = info.semaphore if kind == "VkSemaphore" else info.fence
        fetched_sync(dispatch, kind, value, info.handleType, fd)
    return fd


def vkGetSemaphoreWin32HandleKHR(
    device: s.VkDevice, pGetWin32HandleInfo: s.VkSemaphoreGetWin32HandleInfoKHR
) -> int:
    """VK_KHR_external_semaphore_win32. NT handles are the caller's to close, KMT values are never
    closed. An NT handle can be fetched once; duplicate it for more.
    """
    prototype = p.vkGetSemaphoreWin32HandleKHR
    return _get_win32(prototype, "VkSemaphore", device, pGetWin32HandleInfo)


def vkGetFenceWin32HandleKHR(
    device: s.VkDevice, pGetWin32HandleInfo: s.VkFenceGetWin32HandleInfoKHR
) -> int:
    """VK_KHR_external_fence_win32. NT handles are the caller's to close, KMT values are never
    closed. An NT handle can be fetched once; duplicate it for more.
    """
    return _get_win32(p.vkGetFenceWin32HandleKHR, "VkFence", device, pGetWin32HandleInfo)


def _get_win32(prototype: Prototype, kind: str, device: Any, info: Any) -> int:
    handle = some_handle(prototype, calls.fetch(prototype, (device, info), int))
    dispatch = calls.dispatch_of(prototype, device)
    if dispatch.checks != "off":
        value = info.semaphore if kind == "VkSemaphore" else info.fence
        fetched_sync(dispatch, kind, value, info.handleType)
    return handle
