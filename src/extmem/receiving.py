"""How semaphores and fences are imported from what others exported."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from extmem import vk
from extmem.drivers.driver import SyncOrigin, SyncProvenance
from extmem.errors import PassportError, plain
from extmem.exporting import explained
from extmem.handle_types import HandleType, sync_type
from extmem.handles.handle import SIGNALED, Handle
from extmem.hosting import host_device, of_the_host
from extmem.importing import place_of
from extmem.share.passport import SyncPassport
from extmem.signalling import IMPORTABLE, kind_of, require
from extmem.sync import Fence, Semaphore, Synchronizer

if os.name != "nt":
    from extmem.handles import posix

if TYPE_CHECKING:
    from extmem.device import Device

__all__ = ["import_fence", "import_semaphore"]

Made = TypeVar("Made", bound=Synchronizer)


def import_semaphore(
    device: Device,
    handle: Any,
    *,
    name: str | None,
    handle_type: str | int | None,
    timeline: bool | None,
    temporary: bool,
    passport: SyncPassport | bytes | None,
    host: bool | None,
) -> Semaphore:
    """`Device.import_semaphore`."""
    _ = device.handle  # says why, where it is closed
    source, known = _told("semaphore", handle, name, handle_type, passport)
    if host or (host is None and known is not None and of_the_host(device, known)):
        host, device = True, host_device()
    if known is not None:
        _fits(known, device, source)
        if timeline is not None and timeline is not known.timeline:
            raise PassportError(
                f"timeline= is {timeline}, but the passport of this semaphore says "
                f"{known.timeline}; leave timeline= out, or pass the passport of this handle"
            )
        timeline = known.timeline
    if timeline is None:
        origin = _origin(device, source, handle, name)
        if origin is not None:
            # The rules know what is wrong with what is no semaphore, and say it.
            timeline = origin.timeline if origin.types else True
    if timeline is None and not source.opaque:  # a copy is binary, and D3D12's fences count
        timeline = not source.copy_transference
    if timeline is None:
        raise ValueError(
            f"pass timeline= or passport=: {source.name} does not tell whether it is of a timeline "
            "or of a binary semaphore"
        )
    require(device, source, timeline, IMPORTABLE)
    temporary = temporary or not source.permanent
    made = device._keep(
        Semaphore(
            device,
            vk.vkCreateSemaphore(
                device.handle, vk.VkSemaphoreCreateInfo(pNext=kind_of(timeline, 0))
            ),
            timeline=timeline,
            host=bool(host),
            exported=(),
            imported=source,
            temporary=temporary,
            passport=known,
        )
    )
    flags = vk.VK_SEMAPHORE_IMPORT_TEMPORARY_BIT if temporary else 0

    def by_fd(fd: int) -> None:
        info = vk.VkImportSemaphoreFdInfoKHR(
            semaphore=made.handle, flags=flags, handleType=source.bit, fd=fd
        )
        vk.vkImportSemaphoreFdKHR(device.handle, info)

    def by_handle(value: int | None) -> None:
        info = vk.VkImportSemaphoreWin32HandleInfoKHR(
            semaphore=made.handle, flags=flags, handleType=source.bit, handle=value, name=name
        )
        with explained((source,)):
            vk.vkImportSemaphoreWin32HandleKHR(device.handle, info)

    return _carried_in(made, source, handle, by_fd, by_handle)


def import_fence(
    device: Device,
    handle: Any,
    *,
    name: str | None,
    handle_type: str | int | None,
    temporary: bool,
    passport: SyncPassport | bytes | None,
) -> Fence:
    """`Device.import_fence`."""
    _ = device.handle
    source, known = _told("fence", handle, name, handle_type, passport)
    if known is not None:
        _fits(known, device, source)
    require(device, source, False, IMPORTABLE)
    temporary = temporary or not source.permanent
    made = device._keep(
        Fence(
            device,
            vk.vkCreateFence(device.handle, vk.VkFenceCreateInfo()),
            exported=(),
            imported=source,
            temporary=temporary,
            passport=known,
        )
    )
    flags = vk.VK_FENCE_IMPORT_TEMPORARY_BIT if temporary else 0

    def by_fd(fd: int) -> None:
        info = vk.VkImportFenceFdInfoKHR(
            fence=made.handle, flags=flags, handleType=source.bit, fd=fd
        )
        vk.vkImportFenceFdKHR(device.handle, info)

    def by_handle(value: int | None) -> None:
        info = vk.VkImportFenceWin32HandleInfoKHR(
            fence=made.handle, flags=flags, handleType=source.bit, handle=value, name=name
        )
        with explained((source,)):
            vk.vkImportFenceWin32HandleKHR(device.handle, info)

    return _carried_in(made, source, handle, by_fd, by_handle)


def _carried_in(
    made: Made,
    source: HandleType,
    handle: Any,
    by_fd: Callable[[int], None],
    by_handle: Callable[[int | None], None],
) -> Made:
    """Have it stand for what a handle is of, which stays the caller's."""
    try:
        if source.kind != "fd":
            by_handle(None if handle is None else int(handle))
        elif int(handle) == SIGNALED:
            by_fd(SIGNALED)
        else:
            copy = posix.duplicate(int(handle))
            try:
                by_fd(copy)  # takes it, if it succeeds
            except BaseException:
                posix.close(copy)
                raise
    except BaseException:
        made.close()
        raise
    return made


def _told(
    object: str,
    handle: Any,
    name: str | None,
    handle_type: str | int | None,
    passport: SyncPassport | bytes | None,
) -> tuple[HandleType, SyncPassport | None]:
    """Which type a handle is, or what a name stands for; and its passport, if there is one."""
    if handle is None and name is None:
        raise ValueError("pass a handle to import, or a name")
    if handle is not None and name is not None:
        raise ValueError("pass a handle to import or a name, and not both")
    if isinstance(passport, (bytes, bytearray, memoryview)):
        passport = SyncPassport.decode(passport)
    if isinstance(handle, Handle):
        if handle.handle_type.object != object:
            what = handle.handle_type.object
            raise ValueError(f"{handle!r} is no {object}; import it with Device.import_{what}")
        if handle_type is not None and handle.handle_type is not sync_type(object, handle_type):
            raise ValueError(f"{handle!r} is no {sync_type(object, handle_type).name}")
        own = handle.passport if isinstance(handle.passport, SyncPassport) else None
        return handle.handle_type, passport or own
    if handle_type is None and passport is not None:
        handle_type = passport.handle_type
    if handle_type is None and name is not None:
        handle_type = "opaque_win32"
    if handle_type is None:
        raise ValueError("pass handle_type=: a bare number does not tell what it is")
    return sync_type(object, handle_type), passport


def _origin(device: Device, source: HandleType, handle: Any, name: str | None) -> SyncOrigin | None:
    dispatch = device.instance.dispatch
    assert dispatch is not None
    if not isinstance(dispatch.driver, SyncProvenance):
        return None
    value = 0 if handle is None else int(handle)
    return dispatch.driver.sync_origin_of(source.object, source.bit, value, name)


def _fits(passport: SyncPassport, device: Device, source: HandleType) -> None:
    """Refuse what is of another device, driver or machine, of another kind or handle type."""
    problems = list(passport.problems(place_of(device.physical)))
    if passport.object != source.object:
        problems.append(f"it is a {passport.object}, and this is an import of a {source.object}")
    if passport.handle_type != source.name:
        problems.append(
            f"it was exported as {plain(passport.handle_type)}, and this is an import of "
            f"{source.name}"
        )
    if problems:
        raise PassportError(f"this {source.object} cannot be imported here: " + "; ".join(problems))
