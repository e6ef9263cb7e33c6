"""Fences, semaphores and events.

All of a device's waiting happens on one condition (`Device.changed`), because a wait may be for any
of several things at once; whatever changes the state of one of them tells all who wait.
"""

from __future__ import annotations

import time
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
from extmem.vk import _constants as c

__all__ = ["Event", "Fence", "Semaphore", "wait_until"]

# From here on a timeout means "for ever": it is 146 years.
_FOREVER = 1 << 62


class Fence(Object):
    """Signalled or not."""

    def __init__(self, device: Device, signaled: bool) -> None:
        super().__init__(device)
        self.signaled = signaled


class Event(Object):
    """Set and reset by the host."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.signaled = False


class Semaphore(Object):
    """A binary semaphore has the values 0 and 1; a timeline counts."""

    def __init__(self, device: Device, timeline: bool, value: int) -> None:
        super().__init__(device)
        self.timeline = timeline
        self.value = value

    def reached(self, value: int) -> bool:
        return self.value >= value if self.timeline else self.value == 1

    def consume(self) -> None:
        """A wait for a binary semaphore ends with it unsignalled again."""
        if not self.timeline:
            self.value = 0

    def signal(self, value: int) -> None:
        if self.timeline:
            if value <= self.value:
                raise Failure(c.VK_ERROR_UNKNOWN, f"signal of {value} at value {self.value}")
            self.value = value
        else:
            self.value = 1


def wait_until(device: Device, ready: Callable[[], bool], timeout: int) -> int:
    """Wait for something that announces itself on the device; a VkResult."""
    deadline = None if timeout >= _FOREVER else time.monotonic() + timeout / 1e9
    with device.changed:
        while not ready():
            if device.lost:
                return int(c.VK_ERROR_DEVICE_LOST)
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return int(c.VK_TIMEOUT)
            device.changed.wait(left)
    return SUCCESS


# -- fences -----------------------------------------------------------------------------------


def vkCreateFence(handle: int, info: Any, allocator: None, box: Any) -> int:
    signaled = bool(info.flags & c.VK_FENCE_CREATE_SIGNALED_BIT)
    put(box, register(Fence(find(Device, handle), signaled)))
    return SUCCESS


def vkDestroyFence(handle: int, fence: int, allocator: None) -> None:
    if fence:
        discard(find(Fence, fence, find(Device, handle)))


def _fences(device: Device, count: int, array: Any) -> list[Fence]:
    return [find(Fence, array[i], device) for i in range(count)]


def vkResetFences(handle: int, count: int, array: Any) -> int:
    for fence in _fences(find(Device, handle), count, array):
        fence.signaled = False
    return SUCCESS


def vkGetFenceStatus(handle: int, fence: int) -> int:
    device = find(Device, handle)
    if find(Fence, fence, device).signaled:
        return SUCCESS
    return int(c.VK_ERROR_DEVICE_LOST if device.lost else c.VK_NOT_READY)


def vkWaitForFences(handle: int, count: int, array: Any, wait_all: int, timeout: int) -> int:
    device = find(Device, handle)
    fences = _fences(device, count, array)
    enough = all if wait_all else any
    return wait_until(device, lambda: enough(fence.signaled for fence in fences), timeout)


# -- semaphores -------------------------------------------------------------------------------


def vkCreateSemaphore(handle: int, info: Any, allocator: None, box: Any) -> int:
    device = find(Device, handle)
    asked: Any = chained(info).get(c.VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO)
    timeline = asked is not None and asked.semaphoreType == c.VK_SEMAPHORE_TYPE_TIMELINE
    exported: Any = chained(info).get(c.VK_STRUCTURE_TYPE_EXPORT_SEMAPHORE_CREATE_INFO)
    if exported is not None and exported.handleTypes:
        # Better no semaphore than one that two processes wait for in vain.
        raise Failure(c.VK_ERROR_UNKNOWN, "no semaphore can be exported")
    put(box, register(Semaphore(device, timeline, asked.initialValue if timeline else 0)))
    return SUCCESS


def vkDestroySemaphore(handle: int, semaphore: int, allocator: None) -> None:
    if semaphore:
        discard(find(Semaphore, semaphore, find(Device, handle)))


def _timeline(device: Device, handle: int | None) -> Semaphore:
    found = find(Semaphore, handle, device)
    if not found.timeline:
        raise Failure(c.VK_ERROR_UNKNOWN, "a binary semaphore has no value")
    return found


def vkGetSemaphoreCounterValue(handle: int, semaphore: int, box: Any) -> int:
    put(box, _timeline(find(Device, handle), semaphore).value)
    return SUCCESS


def vkWaitSemaphores(handle: int, info: Any, timeout: int) -> int:
    device = find(Device, handle)
    waits = [
        (_timeline(device, info.pSemaphores[i]), info.pValues[i])
        for i in range(info.semaphoreCount)
    ]
    enough = any if info.flags & c.VK_SEMAPHORE_WAIT_ANY_BIT else all
    return wait_until(device, lambda: enough(x.reached(value) for x, value in waits), timeout)


def vkSignalSemaphore(handle: int, info: Any) -> int:
    device = find(Device, handle)
    semaphore = _timeline(device, info.semaphore)
    with device.changed:
        semaphore.signal(info.value)
        device.changed.notify_all()
    return SUCCESS


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
