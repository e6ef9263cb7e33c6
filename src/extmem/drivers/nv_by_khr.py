"""VK_NV_external_memory_win32 on drivers that have only VK_KHR_external_memory_win32.

Most of today's Windows drivers have the KHR extension alone. Each NV structure and command has a
KHR twin that means the same, and `handle_types` says which bit is which, so NV's calls are carried
by KHR's. What NV has and KHR has not is done here:

- A handle may be fetched again. KHR allows one fetch of an NT handle for each memory and type, so
  the one that the driver gave is kept until the memory is freed, and each fetch duplicates it.
- A missing VkExportMemoryWin32HandleInfoNV means DXGI's read and write access, so it is asked for.
- VK_NV_dedicated_allocation, which NV's dedicated-only types need, is carried as well.

Ownership on import follows KHR: a handle stays the caller's. Where a driver has NV's extensions
itself, nothing happens here.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from ctypes import addressof, memmove, sizeof
from typing import Any

from extmem.drivers.chains import Exchange, asked_before, followers, rebuilt
from extmem.drivers.driver import (
    Command,
    Driver,
    HandleOrigin,
    Provenance,
    Stamps,
    SyncOrigin,
    SyncProvenance,
    Timeline,
    Timelines,
)
from extmem.drivers.extensions import (
    enabled,
    longer_list,
    offered,
    offered_by,
    with_extensions,
    without,
)
from extmem.handle_types import MEMORY_NV, core_of
from extmem.handles.kernel import ACCESS_READ, ACCESS_WRITE
from extmem.handles.system import kernel
from extmem.vk import _constants as c
from extmem.vk import _prototypes as p
from extmem.vk import _structures as s
from extmem.vk._prototype import Prototype

__all__ = ["NvByKhr"]

_INHERIT = 1  # HANDLE_FLAG_INHERIT

_KHR = "VK_KHR_external_memory_win32"
_NV = "VK_NV_external_memory_win32"
_NV_MEMORY = "VK_NV_external_memory"
_NV_CAPABILITIES = "VK_NV_external_memory_capabilities"
_NV_DEDICATED = "VK_NV_dedicated_allocation"

# Device extensions that are carried, each with what carries it (and, before 1.1, what that needs).
_CARRIED: dict[str, tuple[str, ...]] = {
    _NV_MEMORY: ("VK_KHR_external_memory",),
    _NV: ("VK_KHR_external_memory", _KHR),
    _NV_DEDICATED: ("VK_KHR_get_memory_requirements2", "VK_KHR_dedicated_allocation"),
}
_CAPABILITIES = (
    "VK_KHR_get_physical_device_properties2",
    "VK_KHR_external_memory_capabilities",
)
_VERSIONS = {
    _NV_MEMORY: c.VK_NV_EXTERNAL_MEMORY_SPEC_VERSION,
    _NV: c.VK_NV_EXTERNAL_MEMORY_WIN32_SPEC_VERSION,
    _NV_CAPABILITIES: c.VK_NV_EXTERNAL_MEMORY_CAPABILITIES_SPEC_VERSION,
    _NV_DEDICATED: c.VK_NV_DEDICATED_ALLOCATION_SPEC_VERSION,
}

_CORE_BY_NV = {each.bit: core_of(each).bit for each in MEMORY_NV}
_OPAQUE_NT_NV = int(c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT_NV)
_NT_NV = sum(each.bit for each in MEMORY_NV if each.kind == "nt")


def _to_core(mask: int) -> int:
    return sum(core for nv, core in _CORE_BY_NV.items() if mask & nv)


def _to_nv(mask: int) -> int:
    return sum(nv for nv, core in _CORE_BY_NV.items() if mask & core)


# -- structures and their twins -------------------------------------------------------------------


def _export(item: Any) -> Any:
    types = _to_core(item.handleTypes)
    return s.VkExportMemoryAllocateInfo(handleTypes=types) if types else None


def _image_types(item: Any) -> Any:
    types = _to_core(item.handleTypes)
    return s.VkExternalMemoryImageCreateInfo(handleTypes=types) if types else None


def _source(item: Any) -> Any:
    return s.VkImportMemoryWin32HandleInfoKHR(
        handleType=_to_core(item.handleType), handle=item.handle
    )


def _dedicated(item: Any) -> Any:
    if not item.image and not item.buffer:
        return None
    return s.VkMemoryDedicatedAllocateInfo(image=item.image, buffer=item.buffer)


def _nothing(item: Any) -> None:
    return None


_OF_RESOURCES: dict[type, Exchange] = {s.VkExternalMemoryImageCreateInfoNV: _image_types}
_OF_MEMORY: dict[type, Exchange] = {
    s.VkExportMemoryAllocateInfoNV: _export,
    s.VkExportMemoryWin32HandleInfoNV: _nothing,  # its twin is added, see _terms
    s.VkImportMemoryWin32HandleInfoNV: _source,
}
_OF_DEDICATED_RESOURCES: dict[type, Exchange] = {
    s.VkDedicatedAllocationImageCreateInfoNV: _nothing,
    s.VkDedicatedAllocationBufferCreateInfoNV: _nothing,
}
_OF_DEDICATED_MEMORY: dict[type, Exchange] = {
    s.VkDedicatedAllocationMemoryAllocateInfoNV: _dedicated
}


def _terms(info: Any) -> list[Any]:
    """Attributes and access of an NT handle that NV exports; NV's default where none are given."""
    export = given = None
    for item in followers(info):
        if type(item) is s.VkExportMemoryAllocateInfoNV:
            export = item
        elif type(item) is s.VkExportMemoryWin32HandleInfoNV:
            given = item
    if export is None or not export.handleTypes & _OPAQUE_NT_NV:
        return []
    if given is None:
        access = ACCESS_READ | ACCESS_WRITE
        return [s.VkExportMemoryWin32HandleInfoKHR(dwAccess=access)]
    return [
        s.VkExportMemoryWin32HandleInfoKHR(
            pAttributes=given.pAttributes or None, dwAccess=given.dwAccess
        )
    ]


def _exchanges(carried: list[str]) -> tuple[dict[type, Exchange], dict[type, Exchange]]:
    """What is exchanged in the chains of allocations and of resources."""
    memory: dict[type, Exchange] = {}
    resources: dict[type, Exchange] = {}
    if _NV in carried or _NV_MEMORY in carried:
        memory |= _OF_MEMORY
        resources |= _OF_RESOURCES
    if _NV_DEDICATED in carried:
        memory |= _OF_DEDICATED_MEMORY
        resources |= _OF_DEDICATED_RESOURCES
    return memory, resources


# -- extensions -----------------------------------------------------------------------------------


def _more_of_instances(found: set[str]) -> dict[str, int]:
    """Instance extensions that can be carried on one that has these."""
    if _CAPABILITIES[-1] not in found or _NV_CAPABILITIES in found:
        return {}
    return {_NV_CAPABILITIES: _VERSIONS[_NV_CAPABILITIES]}


def _more_of_devices(found: set[str]) -> dict[str, int]:
    """Device extensions that can be carried on one that has these."""
    if _KHR not in found or _NV in found:
        return {}
    return {name: _VERSIONS[name] for name in _CARRIED if name not in found}


# -- the driver -----------------------------------------------------------------------------------


class NvByKhr:
    """A driver with NV's extensions, on one that may have KHR's alone."""

    def __init__(self, below: Driver) -> None:
        self.below = below
        # By device: what is exchanged in the chains of its allocations, and of its resources.
        self._exchanges: dict[int, tuple[dict[type, Exchange], dict[type, Exchange]]] = {}
        # By device, memory and NV type: the NT handle that the driver gave, which is ours.
        self._firsts: dict[tuple[int, int, int], int] = {}
        self._lock = threading.Lock()

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
        more = _more_of_devices(set(own)) if result == 0 else {}
        return {**self.below.carries(instance, physical), **{x: _CARRIED[x][-1] for x in more}}

    # -- what rules and objects ask, of the driver below where that knows it ----------------------

    def origin_of(self, handle_type: int, handle: int, name: str | None) -> HandleOrigin | None:
        if not isinstance(self.below, Provenance):
            return None
        return self.below.origin_of(handle_type, handle, name)

    def fingerprint(self, device: int, kind: str, resource: int) -> bytes | None:
        below = self.below
        return below.fingerprint(device, kind, resource) if isinstance(below, Provenance) else None

    def sync_origin_of(
        self, object: str, handle_type: int, handle: int, name: str | None
    ) -> SyncOrigin | None:
        if not isinstance(self.below, SyncProvenance):
            return None
        return self.below.sync_origin_of(object, handle_type, handle, name)

    def timeline(self, device: int, semaphore: int) -> Timeline | None:
        below = self.below
        return below.timeline(device, semaphore) if isinstance(below, Timelines) else None

    def stamp(self, device: int, memory: int, passport: bytes) -> None:
        if isinstance(self.below, Stamps):
            self.below.stamp(device, memory, passport)

    def stamped(self, handle_type: int, handle: int, name: str | None) -> bytes:
        below = self.below
        return below.stamped(handle_type, handle, name) if isinstance(below, Stamps) else b""

    # -- instances ------------------------------------------------------------------------------

    def global_command(self, prototype: Prototype, spelling: str) -> Command | None:
        below = self.below.global_command(prototype, spelling)
        if below is None:
            return None
        if spelling == "vkEnumerateInstanceExtensionProperties":
            return longer_list(below, _more_of_instances)
        if spelling == "vkCreateInstance":
            return self._create_instance(below)
        return below

    def _create_instance(self, below: Command) -> Command:
        prototype = p.vkEnumerateInstanceExtensionProperties
        listing = self.below.global_command(prototype, prototype.name)

        def create_instance(info: Any, allocator: Any, box: Any) -> int:
            wanted = enabled(info)
            if _NV_CAPABILITIES in wanted and listing is not None:
                result, found = offered(lambda *rest: int(listing(None, *rest)))
                if result:
                    return result
                if _NV_CAPABILITIES not in found:
                    wanted = without(wanted, [_NV_CAPABILITIES])
                    wanted += [each for each in _CAPABILITIES if each in set(found) - set(wanted)]
                    info = with_extensions(info, wanted)
            return int(below(info, None, box))

        return create_instance

    def instance_command(
        self, instance: int, prototype: Prototype, spelling: str
    ) -> Command | None:
        below = self.below.instance_command(instance, prototype, spelling)
        if spelling == "vkGetPhysicalDeviceExternalImageFormatPropertiesNV" and below is None:
            return self._image_query(instance)
        if below is None:
            return None
        if spelling == "vkEnumerateDeviceExtensionProperties":
            return longer_list(below, _more_of_devices)
        if spelling == "vkCreateDevice":
            return self._create_device(instance, below)
        return below

    def _image_query(self, instance: int) -> Command | None:
        query = None
        prototype = p.vkGetPhysicalDeviceImageFormatProperties2
        # The KHR name first: a loader has the core one also where the instance is of version 1.0.
        for spelling in sorted(prototype.provided, reverse=True):
            query = query or self.below.instance_command(instance, prototype, spelling)
        if query is None:
            return None

        def image_properties(physical: int, *asked: Any) -> int:
            *what, handle_type, box = asked
            info = s.VkPhysicalDeviceImageFormatInfo2(
                **dict(zip(("format", "type", "tiling", "usage", "flags"), what, strict=True))
            )
            found = s.VkImageFormatProperties2()
            external = s.VkExternalImageFormatProperties()
            if handle_type:
                info.pNext = s.VkPhysicalDeviceExternalImageFormatInfo(
                    handleType=_to_core(handle_type)
                )
                found.pNext = external
            result = int(query(physical, info, found))
            if result == 0:
                limits, given = box.imageFormatProperties, found.imageFormatProperties
                memmove(addressof(limits), addressof(given), sizeof(given))
                features = external.externalMemoryProperties
                box.externalMemoryFeatures = features.externalMemoryFeatures  # the same bits
                box.exportFromImportedHandleTypes = _to_nv(features.exportFromImportedHandleTypes)
                box.compatibleHandleTypes = _to_nv(features.compatibleHandleTypes)
            return result

        return image_properties

    # -- devices --------------------------------------------------------------------------------

    def _create_device(self, instance: int, below: Command) -> Command:
        def create_device(physical: int, info: Any, allocator: Any, box: Any) -> int:
            wanted = enabled(info)
            if not any(each in _CARRIED for each in wanted):
                return int(below(physical, info, None, box))
            result, found = offered_by(self.below, instance, physical)
            if result:
                return result
            more = _more_of_devices(set(found))
            carried = [each for each in wanted if each in more]
            needed = dict.fromkeys(name for each in carried for name in _CARRIED[each])
            wanted = without(wanted, carried)
            wanted += [each for each in needed if each in found and each not in wanted]
            result = int(below(physical, with_extensions(info, wanted), None, box))
            if result == 0 and carried:
                self._exchanges[box.value] = _exchanges(carried)
            return result

        return create_device

    def device_command(
        self, instance: int, device: int, prototype: Prototype, spelling: str
    ) -> Command | None:
        exchanges = self._exchanges.get(device)
        if exchanges is not None and spelling == "vkGetMemoryWin32HandleNV":
            prototype = p.vkGetMemoryWin32HandleKHR
            below = self.below.device_command(instance, device, prototype, prototype.name)
            return self._get(below) if below is not None else None
        below = self.below.device_command(instance, device, prototype, spelling)
        if exchanges is None or below is None:
            return below
        memory, resources = exchanges
        if spelling == "vkAllocateMemory":
            return _allocate(below, memory)
        if spelling in ("vkCreateImage", "vkCreateBuffer"):
            return _create(below, resources)
        if spelling.startswith("vkGetDevice") and "Requirements" in spelling:
            return asked_before(below, resources)
        if spelling == "vkFreeMemory":
            return self._free(below)
        if spelling == "vkDestroyDevice":
            return self._destroy(below)
        return below

    def _get(self, below: Command) -> Command:
        def get(device: int, memory: int, handle_type: int, box: Any) -> int:
            if handle_type not in _CORE_BY_NV:
                return int(c.VK_ERROR_UNKNOWN)
            info = s.VkMemoryGetWin32HandleInfoKHR(
                memory=memory, handleType=_CORE_BY_NV[handle_type]
            )
            if not handle_type & _NT_NV:
                return int(below(device, info, box))
            key = device, memory, handle_type
            with self._lock:
                if key not in self._firsts:
                    result = int(below(device, info, box))
                    if result:
                        return result
                    self._firsts[key] = box.value
                return _give_duplicate(self._firsts[key], box)

        return get

    def _free(self, below: Command) -> Command:
        def free(device: int, memory: int, allocator: Any) -> None:
            self._forget(device, memory)
            below(device, memory, None)

        return free

    def _destroy(self, below: Command) -> Command:
        def destroy(device: int, allocator: Any) -> None:
            self._forget(device)
            self._exchanges.pop(device, None)
            below(device, None)

        return destroy

    def _forget(self, device: int, memory: int | None = None) -> None:
        with self._lock:
            for key in [k for k in self._firsts if k[0] == device and memory in (None, k[1])]:
                kernel().let_go(self._firsts.pop(key))


# -- commands that need no memory of their own ----------------------------------------------------


def _allocate(below: Command, exchanges: Mapping[type, Exchange]) -> Command:
    def allocate(device: int, info: Any, allocator: Any, box: Any) -> int:
        return int(below(device, rebuilt(info, exchanges, _terms(info)), None, box))

    return allocate


def _create(below: Command, exchanges: Mapping[type, Exchange]) -> Command:
    def create(device: int, info: Any, allocator: Any, box: Any) -> int:
        return int(below(device, rebuilt(info, exchanges), None, box))

    return create


def _give_duplicate(handle: int, box: Any) -> int:
    """Put a duplicate with the same access into the box; inherited by children if this one is."""
    try:
        inherit = bool(kernel().flags(handle) & _INHERIT)
        box.value = kernel().duplicate(handle, inherit=inherit)
    except OSError:
        return int(c.VK_ERROR_TOO_MANY_OBJECTS)
    return 0
