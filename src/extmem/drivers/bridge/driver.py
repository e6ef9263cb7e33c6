"""The bridge: a driver with VK_KHR_external_memory_win32 on one with VK_KHR_external_memory_fd.

It advertises the extension and strips it for the driver below, answers what Windows types can do
with what descriptors can do there, and turns each call into the driver's own. Names, access rights
and lifetimes of handles are the directory's (`extmem.handles.directory`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from extmem.drivers.bridge import memories, questions, resources
from extmem.drivers.bridge.memories import Memories, Resource
from extmem.drivers.bridge.types import KHR_FD, KHR_WIN32
from extmem.drivers.chains import asked_before, rebuilt
from extmem.drivers.driver import Command, Driver, HandleOrigin
from extmem.drivers.extensions import (
    enabled,
    longer_list,
    offered_by,
    with_extensions,
    without,
)
from extmem.share.passport import Place
from extmem.vk import _constants as c
from extmem.vk import _prototypes as p
from extmem.vk import _structures as s
from extmem.vk._prototype import Prototype

__all__ = ["Bridge"]

_INVALID = int(c.VK_ERROR_INVALID_EXTERNAL_HANDLE)
_VERSION = int(c.VK_KHR_EXTERNAL_MEMORY_WIN32_SPEC_VERSION)


@dataclass(slots=True)
class _Bridged:
    """A device that was made with the extension."""

    memories: Memories
    resources: dict[int, Resource] = field(default_factory=dict)  # how each was created


def _more(found: set[str]) -> dict[str, int]:
    if KHR_FD not in found or KHR_WIN32 in found:
        return {}
    return {KHR_WIN32: _VERSION}


class Bridge:
    """A driver that knows Windows handles, on one that knows descriptors."""

    def __init__(self, below: Driver) -> None:
        self.below = below
        self._devices: dict[int, _Bridged] = {}

    @property
    def name(self) -> str:
        return self.below.name

    @property
    def origin(self) -> str:
        return self.below.origin

    def __repr__(self) -> str:
        return repr(self.below)

    def carries(self, instance: int, physical: int) -> Mapping[str, str]:
        result, own = offered_by(self.below, instance, physical)
        more = _more(set(own)) if result == 0 else {}
        return {**self.below.carries(instance, physical), **{name: KHR_FD for name in more}}

    # -- what rules ask: `drivers.driver.Provenance` ---------------------------------------------

    def origin_of(self, handle_type: int, handle: int, name: str | None) -> HandleOrigin | None:
        return memories.origin_of(handle_type, handle, name)

    def fingerprint(self, device: int, kind: str, resource: int) -> bytes | None:
        bridged = self._devices.get(device)
        made = bridged.resources.get(resource) if bridged is not None else None
        return memories.fingerprint(made)

    # -- passports: `drivers.driver.Stamps` -------------------------------------------------------

    def stamp(self, device: int, memory: int, passport: bytes) -> None:
        bridged = self._devices.get(device)
        if bridged is not None:
            bridged.memories.stamp(memory, passport)

    def stamped(self, handle_type: int, handle: int, name: str | None) -> bytes:
        return memories.stamped(handle_type, handle, name)

    # -- commands -------------------------------------------------------------------------------

    def global_command(self, prototype: Prototype, spelling: str) -> Command | None:
        return self.below.global_command(prototype, spelling)

    def instance_command(
        self, instance: int, prototype: Prototype, spelling: str
    ) -> Command | None:
        below = self.below.instance_command(instance, prototype, spelling)
        if below is None:
            return None
        if spelling == "vkEnumerateDeviceExtensionProperties":
            return longer_list(below, _more)
        if spelling == "vkCreateDevice":
            return self._create_device(instance, below)
        if spelling.startswith("vkGetPhysicalDeviceExternalBufferProperties"):
            return questions.about_buffers(below)
        if spelling.startswith("vkGetPhysicalDeviceImageFormatProperties2"):
            return questions.about_images(below)
        return below

    def device_command(
        self, instance: int, device: int, prototype: Prototype, spelling: str
    ) -> Command | None:
        bridged = self._devices.get(device)
        if bridged is not None:
            if spelling == "vkGetMemoryWin32HandleKHR":
                return bridged.memories.get
            if spelling == "vkGetMemoryWin32HandlePropertiesKHR":
                return _nothing_to_ask
        below = self.below.device_command(instance, device, prototype, spelling)
        if bridged is None or below is None:
            return below
        make = _ON_DEVICES.get(spelling.removesuffix("KHR"))
        if make is not None:
            return make(below, bridged)
        return self._destroy_device(below) if spelling == "vkDestroyDevice" else below

    # -- devices --------------------------------------------------------------------------------

    def _create_device(self, instance: int, below: Command) -> Command:
        def create_device(physical: int, info: Any, allocator: Any, box: Any) -> int:
            wanted = enabled(info)
            if KHR_WIN32 not in wanted:
                return int(below(physical, info, None, box))
            result, own = offered_by(self.below, instance, physical)
            if result:
                return result
            if KHR_WIN32 in own:  # the driver's own, whatever system this is
                return int(below(physical, info, None, box))
            wanted = without(wanted, [KHR_WIN32])
            needed = ("VK_KHR_external_memory", KHR_FD)
            wanted += [each for each in needed if each in own and each not in wanted]
            result = int(below(physical, with_extensions(info, wanted), None, box))
            if result == 0:
                get = p.vkGetMemoryFdKHR
                get_fd = self.below.device_command(instance, box.value, get, get.name)
                if get_fd is None:
                    return int(c.VK_ERROR_EXTENSION_NOT_PRESENT)
                place = self._place(instance, physical)
                self._devices[box.value] = _Bridged(Memories(place, get_fd))
            return result

        return create_device

    def _place(self, instance: int, physical: int) -> Place:
        """Where memory of this device is."""
        ids = s.VkPhysicalDeviceIDProperties()
        properties = s.VkPhysicalDeviceProperties2(pNext=ids)
        prototype = p.vkGetPhysicalDeviceProperties2
        # The KHR name first: a loader has the core one also where the instance is of version 1.0.
        for spelling in sorted(prototype.provided, reverse=True):
            ask = self.below.instance_command(instance, prototype, spelling)
            if ask is not None:
                ask(physical, properties)
                break
        return Place.here(
            bytes(ids.deviceUUID),
            bytes(ids.driverUUID),
            bytes(ids.deviceLUID) if ids.deviceLUIDValid else None,
            ids.deviceNodeMask,
            properties.properties.deviceName,
        )

    def _destroy_device(self, below: Command) -> Command:
        def destroy(device: int, allocator: Any) -> None:
            bridged = self._devices.pop(device, None)
            if bridged is not None:
                bridged.memories.forget()
            below(device, None)

        return destroy


# -- commands of a bridged device -----------------------------------------------------------------


def _nothing_to_ask(device: int, handle_type: int, handle: Any, properties: Any) -> int:
    # Only other APIs' handles can be asked about, and here is none of those APIs.
    return _INVALID


def _create(below: Command, bridged: _Bridged) -> Command:
    def create(device: int, info: Any, allocator: Any, box: Any) -> int:
        result = int(below(device, rebuilt(info, resources.EXCHANGES), None, box))
        if result == 0:
            bridged.resources[box.value] = resources.how_made(info)
        return result

    return create


def _destroy(below: Command, bridged: _Bridged) -> Command:
    def destroy(device: int, resource: int, allocator: Any) -> None:
        bridged.resources.pop(resource, None)
        below(device, resource, None)

    return destroy


def _needs(below: Command, bridged: _Bridged) -> Command:
    return asked_before(below, resources.EXCHANGES)


def _allocate(below: Command, bridged: _Bridged) -> Command:
    def allocate(device: int, info: Any, allocator: Any, box: Any) -> int:
        return bridged.memories.allocate(below, device, info, bridged.resources, box)

    return allocate


def _free(below: Command, bridged: _Bridged) -> Command:
    def free(device: int, memory: int, allocator: Any) -> None:
        bridged.memories.forget(memory)
        below(device, memory, None)

    return free


def _unless_stale(
    memories_of: Callable[[tuple[Any, ...]], list[int]], result: int
) -> Callable[[Command, _Bridged], Command]:
    """A command that fails on memory that was imported by a number whose owner is gone."""

    def make(below: Command, bridged: _Bridged) -> Command:
        def command(*given: Any) -> int:
            if any(bridged.memories.stale(each) for each in memories_of(given)):
                return result
            return int(below(*given))

        return command

    return make


def _bound(given: tuple[Any, ...]) -> list[int]:
    return [given[2][index].memory for index in range(given[1])]


_STALE = int(c.VK_ERROR_VALIDATION_FAILED)
_NOT_MAPPED = int(c.VK_ERROR_MEMORY_MAP_FAILED)

# By the command's name without the suffix of an extension.
_ON_DEVICES: dict[str, Callable[[Command, _Bridged], Command]] = {
    "vkAllocateMemory": _allocate,
    "vkFreeMemory": _free,
    "vkCreateBuffer": _create,
    "vkCreateImage": _create,
    "vkDestroyBuffer": _destroy,
    "vkDestroyImage": _destroy,
    "vkGetDeviceBufferMemoryRequirements": _needs,
    "vkGetDeviceImageMemoryRequirements": _needs,
    "vkGetDeviceImageSparseMemoryRequirements": _needs,
    "vkMapMemory": _unless_stale(lambda given: [given[1]], _NOT_MAPPED),
    "vkMapMemory2": _unless_stale(lambda given: [given[1].memory], _NOT_MAPPED),
    "vkBindBufferMemory": _unless_stale(lambda given: [given[2]], _STALE),
    "vkBindImageMemory": _unless_stale(lambda given: [given[2]], _STALE),
    "vkBindBufferMemory2": _unless_stale(_bound, _STALE),
    "vkBindImageMemory2": _unless_stale(_bound, _STALE),
}
