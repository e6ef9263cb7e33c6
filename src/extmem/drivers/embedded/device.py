"""Devices: made with what was asked for, or refused with the specification's reason."""

from __future__ import annotations

import threading
from typing import Any

from extmem.drivers.embedded.instance import Instance
from extmem.drivers.embedded.limits import FEATURES, QUEUE_COUNTS
from extmem.drivers.embedded.objects import (
    SUCCESS,
    Failure,
    Object,
    chained,
    children,
    discard,
    find,
    put,
    register,
)
from extmem.drivers.embedded.physical import DEVICE_EXTENSIONS, Physical, is_feature_structure
from extmem.handles.words import Watcher
from extmem.vk import _constants as c
from extmem.vk import _structures as s

__all__ = ["Device"]


class Device(Object):
    """A device: what all of its queues and objects share."""

    def __init__(self, physical: Physical, extensions: set[str]) -> None:
        super().__init__(physical)
        self.physical = physical
        self.extensions = extensions
        self.allocations = 0
        # Everything that can be waited for announces itself here: queues, fences, semaphores.
        self.changed = threading.Condition()
        # Those who sleep on words that other processes change as well, and want to know the same.
        self.watchers: set[Watcher] = set()
        # Held while a queue touches memory, so that memory is never unmapped under a running copy.
        self.access = threading.Lock()
        self.lost = False
        self.closing = False
        self.queues: dict[tuple[int, int], Any] = {}

    @property
    def version(self) -> int:
        """The version that core commands are offered of."""
        instance = self.physical.parent
        assert isinstance(instance, Instance)
        return instance.version

    def announce(self) -> None:
        """Something has changed: tell everybody who waits for this device."""
        with self.changed:
            self.changed.notify_all()
            for each in self.watchers:
                each.ring()

    def lose(self) -> None:
        """Something went wrong that the specification has one answer for."""
        with self.changed:
            self.lost = True
            self.announce()


def _check_features(info: Any) -> None:
    """Refuse a feature that was asked for and is not there."""
    asked = [node for node in chained(info).values() if is_feature_structure(node)]
    if info.pEnabledFeatures:
        asked.append(info.pEnabledFeatures[0])
    for node in asked:
        inner = node.features if isinstance(node, s.VkPhysicalDeviceFeatures2) else node
        for name, *_ in inner._fields_:
            if name not in ("sType", "pNext") and name not in FEATURES and getattr(inner, name):
                raise Failure(c.VK_ERROR_FEATURE_NOT_PRESENT, f"{name} is not supported")


def vkCreateDevice(physicalDevice: int, info: Any, allocator: None, box: Any) -> int:
    from extmem.drivers.embedded.queue import Queue

    physical = find(Physical, physicalDevice)
    # Layers of a device are a thing of the past: the specification has them ignored.
    names = {info.ppEnabledExtensionNames[i] for i in range(info.enabledExtensionCount)}
    extensions = {name.decode(errors="replace") for name in names}
    for name in extensions:
        if name not in DEVICE_EXTENSIONS:
            raise Failure(c.VK_ERROR_EXTENSION_NOT_PRESENT, f"{name} is not supported")
    _check_features(info)
    device = Device(physical, extensions)
    for i in range(info.queueCreateInfoCount):
        asked = info.pQueueCreateInfos[i]
        family = asked.queueFamilyIndex
        if family >= len(QUEUE_COUNTS) or asked.queueCount > QUEUE_COUNTS[family]:
            raise Failure(c.VK_ERROR_INITIALIZATION_FAILED, f"no such queues in family {family}")
        for index in range(asked.queueCount):
            device.queues[family, index] = Queue(device)
    for queue in device.queues.values():
        register(queue)
    put(box, register(device))
    return SUCCESS


def vkDestroyDevice(handle: int, allocator: None) -> None:
    if not handle:
        return
    device = find(Device, handle)
    discard(device)
    with device.changed:
        device.closing = True
        device.announce()
    for queue in device.queues.values():
        queue.stop()
    # A program should have destroyed these; their memory is not lost with it if it has not.
    for child in children(device):
        discard(child)
        close = getattr(child, "close", None)
        if close is not None:
            close()


def vkGetDeviceQueue(handle: int, family: int, index: int, box: Any) -> None:
    put(box, find(Device, handle).queues[family, index].handle)


def vkGetDeviceQueue2(handle: int, info: Any, box: Any) -> None:
    if info.flags:
        raise Failure(c.VK_ERROR_UNKNOWN, "no queue was made with flags")
    vkGetDeviceQueue(handle, info.queueFamilyIndex, info.queueIndex, box)


def vkGetDeviceGroupPeerMemoryFeatures(
    handle: int, heap: int, local: int, remote: int, box: Any
) -> None:
    # Groups have one device each, which has no peers.
    put(box, 0)
