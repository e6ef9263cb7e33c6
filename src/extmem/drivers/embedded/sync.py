"""Fences, semaphores and events: the objects, and the commands that stay in this process.

What a fence or semaphore is made of is its payload (`signals.py`); how it leaves the process and
comes in is in `sync_external.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from extmem.drivers.embedded.device import Device
from extmem.drivers.embedded.objects import (
    SUCCESS,
    Failure,
    Object,
    chained,
    discard,
    find,
    put,
    register,
)
from extmem.drivers.embedded.payload import Terms
from extmem.drivers.embedded.signals import Local, Signal
from extmem.drivers.embedded.sync_carriers import SyncCarrier, carrier_of
from extmem.drivers.embedded.titles import FENCE, SEMAPHORE, Title
from extmem.drivers.embedded.waiting import wait_for
from extmem.handles.security import security_of
from extmem.handles.words import Word
from extmem.vk import _constants as c

__all__ = ["Event", "Fence", "Semaphore", "Synchroniser"]

_EXPORT_SEMAPHORE = int(c.VK_STRUCTURE_TYPE_EXPORT_SEMAPHORE_CREATE_INFO)
_EXPORT_FENCE = int(c.VK_STRUCTURE_TYPE_EXPORT_FENCE_CREATE_INFO)
_SEMAPHORE_TERMS = int(c.VK_STRUCTURE_TYPE_EXPORT_SEMAPHORE_WIN32_HANDLE_INFO_KHR)
_WAIT_ANY = int(c.VK_SEMAPHORE_WAIT_ANY_BIT)
_FENCE_TERMS = int(c.VK_STRUCTURE_TYPE_EXPORT_FENCE_WIN32_HANDLE_INFO_KHR)


class Synchroniser(Object):
    """A semaphore or a fence: it has a payload, and may have another one for a while."""

    kind = ""  # as in `handle_types`

    def __init__(self, device: Device, permanent: Signal) -> None:
        super().__init__(device)
        self.permanent = permanent
        self.temporary: Signal | None = None

    @property
    def payload(self) -> Signal:
        """What operations work on now."""
        return self.temporary or self.permanent

    def replace(self, payload: Signal, temporary: bool) -> None:
        """Import a payload; the one in its place goes."""
        if self.temporary is not None:
            self.temporary.close()
        if temporary:
            self.temporary = payload
            return
        self.temporary = None
        self.permanent.close()
        self.permanent = payload

    def restore(self) -> None:
        """Back to the permanent payload."""
        temporary, self.temporary = self.temporary, None
        if temporary is not None:
            temporary.close()

    def close(self) -> None:
        self.restore()
        self.permanent.close()


class Fence(Synchroniser):
    """Signalled or not."""

    kind = "fence"


class Semaphore(Synchroniser):
    """A binary semaphore is signalled or not; a timeline counts."""

    kind = "semaphore"

    def __init__(self, device: Device, permanent: Signal, timeline: bool, flags: int) -> None:
        super().__init__(device, permanent)
        self.timeline = timeline
        self.flags = flags

    def awaited(self) -> tuple[Signal, bool]:
        """The payload that a submission will wait for, and whether it is the submission's now:
        a wait is what a temporary payload was for.
        """
        temporary, self.temporary = self.temporary, None
        return (temporary, True) if temporary is not None else (self.permanent, False)


class Event(Object):
    """Set and reset by the host."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.signaled = False


# -- making payloads ----------------------------------------------------------------------------


def _terms(nodes: dict[int, Any], stype: int) -> Terms:
    """How a payload is exported: read deeply, because its pointers may die after the call."""
    node: Any = nodes.get(stype)
    if node is None:
        return Terms()
    try:
        security = security_of(node.pAttributes[0]) if node.pAttributes else None
    except OSError as problem:
        raise Failure(c.VK_ERROR_INVALID_EXTERNAL_HANDLE, str(problem)) from None
    return Terms(node.name, node.dwAccess, security)


def exported(device: Device, object: str, handle_type: int, timeline: bool) -> SyncCarrier:
    """What carries a handle type, refused where it is not offered to this device."""
    carrier = carrier_of(object, handle_type)
    if (
        carrier is None
        or carrier.type.extension not in device.extensions
        or not carrier.carries(timeline)
    ):
        # Also for two types at once: nothing here is compatible with anything else. Better no
        # semaphore than one that two processes wait for in vain.
        raise Failure(c.VK_ERROR_UNKNOWN, f"no {object} is shared as {handle_type:#x} here")
    return carrier


def _payload(
    device: Device,
    object: str,
    types: int,
    terms: Terms,
    *,
    timeline: bool = False,
    value: int = 0,
    flags: int = 0,
) -> Signal:
    """A new payload: of this process, or one that can be exported."""
    if not types:
        return Local(device, counts=timeline, value=value)
    carrier = exported(device, object, types, timeline)
    if carrier.create is None:
        return Local(device, counts=timeline, value=value, types=types)
    number = SEMAPHORE if object == "semaphore" else FENCE
    title = Title(number, types, device.physical.identity.uuid, timeline, flags)
    return carrier.create(title, value, timeline or carrier.counts_always, terms)


# -- fences -----------------------------------------------------------------------------------


def vkCreateFence(handle: int, info: Any, allocator: None, box: Any) -> int:
    device, nodes = find(Device, handle), chained(info)
    export: Any = nodes.get(_EXPORT_FENCE)
    types = export.handleTypes if export is not None else 0
    signaled = bool(info.flags & c.VK_FENCE_CREATE_SIGNALED_BIT)
    terms = _terms(nodes, _FENCE_TERMS) if types else Terms()
    payload = _payload(device, "fence", types, terms, value=int(signaled))
    put(box, register(Fence(device, payload)))
    return SUCCESS


def vkDestroyFence(handle: int, fence: int, allocator: None) -> None:
    if fence:
        gone = find(Fence, fence, find(Device, handle))
        discard(gone)
        gone.close()


def _fences(device: Device, count: int, array: Any) -> list[Fence]:
    return [find(Fence, array[i], device) for i in range(count)]


def vkResetFences(handle: int, count: int, array: Any) -> int:
    for fence in _fences(find(Device, handle), count, array):
        fence.restore()
        fence.payload.reset()
    return SUCCESS


def vkGetFenceStatus(handle: int, fence: int) -> int:
    device = find(Device, handle)
    if find(Fence, fence, device).payload.reached(1):
        return SUCCESS
    return int(c.VK_ERROR_DEVICE_LOST if device.lost else c.VK_NOT_READY)


def vkWaitForFences(handle: int, count: int, array: Any, wait_all: int, timeout: int) -> int:
    device = find(Device, handle)
    waits = [(fence.payload, 1) for fence in _fences(device, count, array)]
    for payload, _ in waits:
        payload.require()
    return wait_for(device, waits, all if wait_all else any, timeout)


# -- semaphores -------------------------------------------------------------------------------


def vkCreateSemaphore(handle: int, info: Any, allocator: None, box: Any) -> int:
    device, nodes = find(Device, handle), chained(info)
    asked: Any = nodes.get(c.VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO)
    timeline = asked is not None and asked.semaphoreType == c.VK_SEMAPHORE_TYPE_TIMELINE
    export: Any = nodes.get(_EXPORT_SEMAPHORE)
    types = export.handleTypes if export is not None else 0
    payload = _payload(
        device,
        "semaphore",
        types,
        _terms(nodes, _SEMAPHORE_TERMS) if types else Terms(),
        timeline=timeline,
        value=asked.initialValue if timeline else 0,
        flags=info.flags,
    )
    put(box, register(Semaphore(device, payload, timeline, info.flags)))
    return SUCCESS


def vkDestroySemaphore(handle: int, semaphore: int, allocator: None) -> None:
    if semaphore:
        gone = find(Semaphore, semaphore, find(Device, handle))
        discard(gone)
        gone.close()


def _timeline(device: Device, handle: int | None) -> Signal:
    found = find(Semaphore, handle, device)
    if not found.timeline:
        raise Failure(c.VK_ERROR_UNKNOWN, "a binary semaphore has no value")
    return found.payload


def vkGetSemaphoreCounterValue(handle: int, semaphore: int, box: Any) -> int:
    put(box, _timeline(find(Device, handle), semaphore).value())
    return SUCCESS


def vkWaitSemaphores(handle: int, info: Any, timeout: int) -> int:
    device = find(Device, handle)
    semaphores, values = info.pSemaphores, info.pValues
    waits = [(_timeline(device, semaphores[i]), values[i]) for i in range(info.semaphoreCount)]
    for payload, _ in waits:
        payload.require()
    enough = any if info.flags & _WAIT_ANY else all
    return wait_for(device, waits, enough, timeout)


def vkSignalSemaphore(handle: int, info: Any) -> int:
    device = find(Device, handle)
    payload = _timeline(device, info.semaphore)
    payload.require()
    payload.signal(info.value)
    return SUCCESS


class Direct:
    """A timeline that other processes have as well, without the commands: `drivers.Timeline`.

    The semaphore is not destroyed while this is used. It can be given another payload, so that is
    looked up each time.
    """

    __slots__ = ("_device", "_semaphore")

    def __init__(self, device: Device, semaphore: Semaphore) -> None:
        self._device = device
        self._semaphore = semaphore

    def _word(self) -> Word:
        payload = self._semaphore.permanent
        if payload.word is None or self._device.lost:
            raise Failure(c.VK_ERROR_UNKNOWN, "for the command to say")
        payload.require()
        return payload.word

    def read(self) -> int:
        return self._semaphore.permanent.value()

    def signal(self, value: int) -> None:
        if not self._word().advance(value):
            raise Failure(c.VK_ERROR_UNKNOWN, "for the command to say")

    def quick(self) -> Callable[[int], bool] | None:
        payload = self._semaphore.permanent
        if payload.word is None or payload.asks:
            return None
        return payload.word.advance

    def sleep(self, value: int, seconds: float) -> bool:
        return self._word().wait(value.__le__, seconds)


def timeline(handle: int, semaphore: int) -> Direct | None:
    """The direct way to a timeline; None of one that never leaves this process."""
    device = find(Device, handle)
    found = find(Semaphore, semaphore, device)
    return Direct(device, found) if found.timeline and found.permanent.word is not None else None


# -- events: the host's side. A queue that only transfers has no commands for them. --------------


def vkCreateEvent(handle: int, info: Any, allocator: None, box: Any) -> int:
    put(box, register(Event(find(Device, handle))))
    return SUCCESS


def vkDestroyEvent(handle: int, event: int, allocator: None) -> None:
    if event:
        discard(find(Event, event, find(Device, handle)))


def vkGetEventStatus(handle: int, event: int) -> int:
    signaled = find(Event, event, find(Device, handle)).signaled
    return int(c.VK_EVENT_SET if signaled else c.VK_EVENT_RESET)


def vkSetEvent(handle: int, event: int) -> int:
    find(Event, event, find(Device, handle)).signaled = True
    return SUCCESS


def vkResetEvent(handle: int, event: int) -> int:
    find(Event, event, find(Device, handle)).signaled = False
    return SUCCESS
