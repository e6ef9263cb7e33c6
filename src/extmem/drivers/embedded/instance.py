"""Instances, and what can be asked before there is one."""

from __future__ import annotations

from typing import Any

from extmem.drivers.embedded.limits import API_VERSION, IDENTITIES, Identity
from extmem.drivers.embedded.objects import (
    SUCCESS,
    Failure,
    Object,
    children,
    discard,
    enumerate_into,
    find,
    put,
    register,
)
from extmem.vk import _constants as c

__all__ = ["INSTANCE_EXTENSIONS", "Instance", "Physical", "fill_extension"]

INSTANCE_EXTENSIONS = {
    "VK_KHR_device_group_creation": c.VK_KHR_DEVICE_GROUP_CREATION_SPEC_VERSION,
    "VK_KHR_external_fence_capabilities": c.VK_KHR_EXTERNAL_FENCE_CAPABILITIES_SPEC_VERSION,
    "VK_KHR_external_memory_capabilities": c.VK_KHR_EXTERNAL_MEMORY_CAPABILITIES_SPEC_VERSION,
    "VK_KHR_external_semaphore_capabilities": (
        c.VK_KHR_EXTERNAL_SEMAPHORE_CAPABILITIES_SPEC_VERSION
    ),
    "VK_KHR_get_physical_device_properties2": (
        c.VK_KHR_GET_PHYSICAL_DEVICE_PROPERTIES_2_SPEC_VERSION
    ),
    "VK_NV_external_memory_capabilities": c.VK_NV_EXTERNAL_MEMORY_CAPABILITIES_SPEC_VERSION,
}


class Instance(Object):
    """An instance: the version that was asked for, and its extensions."""

    def __init__(self, version: int, extensions: set[str]) -> None:
        super().__init__(None)
        self.version = version
        self.extensions = extensions


class Physical(Object):
    """A physical device as one instance sees it."""

    def __init__(self, instance: Instance, identity: Identity) -> None:
        super().__init__(instance)
        self.identity = identity


def fill_extension(element: Any, item: tuple[str, int]) -> None:
    element.extensionName, element.specVersion = item


def vkEnumerateInstanceVersion(box: Any) -> int:
    put(box, API_VERSION)
    return SUCCESS


def vkEnumerateInstanceExtensionProperties(layer: bytes | None, count: Any, array: Any) -> int:
    if layer:
        raise Failure(c.VK_ERROR_LAYER_NOT_PRESENT, "there are no layers here")
    return enumerate_into(count, array, list(INSTANCE_EXTENSIONS.items()), fill_extension)


def vkEnumerateInstanceLayerProperties(count: Any, array: Any) -> int:
    return enumerate_into(count, array, ())


def vkCreateInstance(info: Any, allocator: None, box: Any) -> int:
    if info.enabledLayerCount:
        raise Failure(c.VK_ERROR_LAYER_NOT_PRESENT, "there are no layers here")
    names = [info.ppEnabledExtensionNames[i] for i in range(info.enabledExtensionCount)]
    extensions = {name.decode(errors="replace") for name in names}
    for name in extensions:
        if name not in INSTANCE_EXTENSIONS:
            raise Failure(c.VK_ERROR_EXTENSION_NOT_PRESENT, f"{name} is not supported")
    asked = info.pApplicationInfo[0].apiVersion if info.pApplicationInfo else 0
    if asked >> 29:
        raise Failure(c.VK_ERROR_INCOMPATIBLE_DRIVER, "a variant of Vulkan was asked for")
    # 0 means 1.0. A newer version than ours is no error; the patch number never matters.
    asked = max(asked & ~0xFFF, int(c.VK_API_VERSION_1_0))
    instance = Instance(min(asked, API_VERSION), extensions)
    for identity in IDENTITIES:
        register(Physical(instance, identity))
    put(box, register(instance))
    return SUCCESS


def vkDestroyInstance(handle: int, allocator: None) -> None:
    if handle:
        instance = find(Instance, handle)
        for physical in children(instance):
            discard(physical)
        discard(instance)


def _physical_devices(handle: int) -> list[int]:
    return [physical.handle for physical in children(find(Instance, handle))]


def vkEnumeratePhysicalDevices(handle: int, count: Any, array: Any) -> int:
    return enumerate_into(count, array, _physical_devices(handle))


def vkEnumeratePhysicalDeviceGroups(handle: int, count: Any, array: Any) -> int:
    def fill(element: Any, physical: int) -> None:
        element.physicalDeviceCount = 1
        element.physicalDevices[0] = physical
        element.subsetAllocation = 0

    return enumerate_into(count, array, _physical_devices(handle), fill)
