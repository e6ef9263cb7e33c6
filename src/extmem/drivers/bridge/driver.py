"""The bridge: a driver with VK_KHR_external_memory_win32 on one with VK_KHR_external_memory_fd, and
the same for semaphores and for fences.

It advertises the extensions and strips them for the driver below, answers what Windows types can do
with what descriptors can do there, and turns each call into the driver's own. Names, access rights
and lifetimes of handles are the directory's (`extmem.handles.directory`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from extmem.drivers.bridge import memories, questions, synchronisation
from extmem.drivers.bridge.devices import Bridged
from extmem.drivers.bridge.likeness import Commands
from extmem.drivers.bridge.memories import Memories
from extmem.drivers.bridge.sorts import SORTS, Sort
from extmem.drivers.bridge.synchronisation import Signals
from extmem.drivers.bridge.types import KHR_FD, KHR_WIN32
from extmem.drivers.driver import Command, Driver, HandleOrigin, SyncOrigin
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

_VERSION = int(c.VK_KHR_EXTERNAL_MEMORY_WIN32_SPEC_VERSION)

# What is bridged, each with what it needs of the driver below.
_NEEDED = {
    KHR_WIN32: ("VK_KHR_external_memory", KHR_FD),
    **{sort.win32: (sort.extension, sort.fd) for sort in SORTS},
}


class Bridge:
    """A driver that knows Windows handles, on one that knows descriptors."""

    def __init__(self, below: Driver) -> None:
        self.below = below
        self._devices: dict[int, Bridged] = {}

    @property
    def name(self) -> str:
        return self.below.name

    @property
    def origin(self) -> str:
        return self.below.origin

    def __repr__(self) -> str:
        return repr(self.below)

    # -- what is offered ------------------------------------------------------------------------

    def carries(self, instance: int, physical: int) -> Mapping[str, str]:
        result, own = offered_by(self.below, instance, physical)
        more = self._more(instance, physical, set(own)) if result == 0 else {}
        below = self.below.carries(instance, physical)
        return {**below, **{name: _NEEDED[name][-1] for name in more}}

    def _more(self, instance: int, physical: int, found: set[str]) -> dict[str, int]:
        """Extensions that can be carried on a device that has these, with their versions."""
        more = {KHR_WIN32: _VERSION} if KHR_FD in found else {}
        for sort in SORTS:
            # Some have the extension for SYNC_FD alone, which is no Windows handle's twin.
            if sort.fd in found and any(self._features(instance, physical, sort).values()):
                more[sort.win32] = sort.win32_version
        return {name: version for name, version in more.items() if name not in found}

    def _features(self, instance: int, physical: int, sort: Sort) -> dict[bool, int]:
        """What can be done with OPAQUE_FD, of timelines (True) and of all else (False)."""
        ask = self._question(instance, sort.ask)
        if ask is None:
            return {}
        return {
            timeline: questions.features_of_fd(sort, ask, physical, timeline)
            for timeline in (False, True)
        }

    def _question(self, instance: int, prototype: Prototype) -> Command | None:
        """A question to the driver below, core's or an extension's."""
        # The KHR name first: a loader has the core one also where the instance is of version 1.0.
        for spelling in sorted(prototype.provided, reverse=True):
            ask = self.below.instance_command(instance, prototype, spelling)
            if ask is not None:
                return ask
        return None

    # -- what rules ask: `drivers.driver.Provenance` and `SyncProvenance` -------------------------

    def origin_of(self, handle_type: int, handle: int, name: str | None) -> HandleOrigin | None:
        return memories.origin_of(handle_type, handle, name)

    def fingerprint(self, device: int, kind: str, resource: int) -> bytes | None:
        bridged = self._devices.get(device)
        made = bridged.resources.get(resource) if bridged is not None else None
        return memories.fingerprint(made)

    def sync_origin_of(
        self, object: str, handle_type: int, handle: int, name: str | None
    ) -> SyncOrigin | None:
        return synchronisation.sync_origin_of(object, handle_type, handle, name)

    # -- passports: `drivers.driver.Stamps` -------------------------------------------------------

    def stamp(self, device: int, memory: int, passport: bytes) -> None:
        bridged = self._devices.get(device)
        if bridged is not None and bridged.memories is not None:
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
            return self._longer_list(instance, below)
        if spelling == "vkCreateDevice":
            return self._create_device(instance, below)
        if spelling.startswith("vkGetPhysicalDeviceExternalBufferProperties"):
            return questions.about_buffers(below)
        if spelling.startswith("vkGetPhysicalDeviceImageFormatProperties2"):
            return questions.about_images(below)
        for sort in SORTS:
            if spelling in sort.ask.provided:
                return questions.about_signals(sort, below)
        return below

    def device_command(
        self, instance: int, device: int, prototype: Prototype, spelling: str
    ) -> Command | None:
        bridged = self._devices.get(device)
        own = bridged.own(spelling) if bridged is not None else None
        if own is not None:
            return own
        below = self.below.device_command(instance, device, prototype, spelling)
        if bridged is None or below is None:
            return below
        if spelling == "vkDestroyDevice":
            return self._destroy_device(below)
        return bridged.changed(spelling, below)

    def _longer_list(self, instance: int, below: Command) -> Command:
        def list_extensions(physical: int, *rest: Any) -> int:
            longer = longer_list(below, lambda found: self._more(instance, physical, found))
            return int(longer(physical, *rest))

        return list_extensions

    # -- devices --------------------------------------------------------------------------------

    def _create_device(self, instance: int, below: Command) -> Command:
        def create_device(physical: int, info: Any, allocator: Any, box: Any) -> int:
            wanted = enabled(info)
            if not _NEEDED.keys() & set(wanted):
                return int(below(physical, info, None, box))
            result, own = offered_by(self.below, instance, physical)
            if result:
                return result
            # Those that are the driver's own are left to it, whatever system this is.
            ours = [name for name in wanted if name in _NEEDED and name not in own]
            if not ours:
                return int(below(physical, info, None, box))
            needed = dict.fromkeys(each for name in ours for each in _NEEDED[name])
            wanted = without(wanted, ours)
            wanted += [each for each in needed if each in own and each not in wanted]
            result = int(below(physical, with_extensions(info, wanted), None, box))
            if result == 0:
                bridged = self._bridged(instance, physical, box.value, ours)
                if bridged is None:
                    self._end(instance, box.value)
                    return int(c.VK_ERROR_EXTENSION_NOT_PRESENT)
                self._devices[box.value] = bridged
            return result

        return create_device

    def _bridged(
        self, instance: int, physical: int, device: int, ours: list[str]
    ) -> Bridged | None:
        """What a device with these extensions has; None if the driver below lacks a command."""

        def of_device(prototype: Prototype) -> Command | None:
            return self.below.device_command(instance, device, prototype, prototype.name)

        place = self._place(instance, physical)
        made = Bridged()
        if KHR_WIN32 in ours:
            get_fd = of_device(p.vkGetMemoryFdKHR)
            if get_fd is None:
                return None
            made.memories = Memories(place, get_fd)
        for sort in SORTS:
            if sort.win32 in ours:
                prototypes = sort.create, sort.destroy, sort.get_fd, sort.import_fd
                commands = [found for each in prototypes if (found := of_device(each)) is not None]
                if len(commands) != len(prototypes):
                    return None
                features = self._features(instance, physical, sort)
                made.signals[sort] = Signals(sort, place, features, Commands(*commands))
        return made

    def _place(self, instance: int, physical: int) -> Place:
        """Where this device and its memory are."""
        ids = s.VkPhysicalDeviceIDProperties()
        properties = s.VkPhysicalDeviceProperties2(pNext=ids)
        ask = self._question(instance, p.vkGetPhysicalDeviceProperties2)
        if ask is not None:
            ask(physical, properties)
        return Place.here(
            bytes(ids.deviceUUID),
            bytes(ids.driverUUID),
            bytes(ids.deviceLUID) if ids.deviceLUIDValid else None,
            ids.deviceNodeMask,
            properties.properties.deviceName,
        )

    def _end(self, instance: int, device: int) -> None:
        """Destroy a device that is not handed out."""
        destroy = p.vkDestroyDevice
        below = self.below.device_command(instance, device, destroy, destroy.name)
        if below is not None:
            below(device, None)

    def _destroy_device(self, below: Command) -> Command:
        def destroy(device: int, allocator: Any) -> None:
            bridged = self._devices.pop(device, None)
            if bridged is not None:
                bridged.forget()
            below(device, None)

        return destroy
