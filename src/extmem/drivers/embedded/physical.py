"""What can be asked of a physical device."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

from extmem.drivers.embedded.carriers import CARRIERS, Carrier
from extmem.drivers.embedded.instance import Physical, fill_extension
from extmem.drivers.embedded.limits import (
    API_VERSION,
    DRIVER_UUID,
    FEATURES,
    FORMAT_VERSION,
    HEAPS,
    LIMITS,
    MEMORY_TYPES,
    PROPERTIES,
    QUEUE_COUNTS,
    QUEUE_FLAGS,
)
from extmem.drivers.embedded.objects import (
    Failure,
    chained,
    enumerate_into,
    find,
)
from extmem.drivers.embedded.sync_carriers import CARRIERS as SYNC_CARRIERS
from extmem.drivers.embedded.sync_carriers import capabilities as sync_capabilities
from extmem.vk import _constants as c
from extmem.vk import _structures as s
from extmem.vk._base import VkBaseInStructure

__all__ = ["DEVICE_EXTENSIONS", "Physical", "fill_external", "is_feature_structure"]

DEVICE_EXTENSIONS = {
    "VK_EXT_queue_family_foreign": c.VK_EXT_QUEUE_FAMILY_FOREIGN_SPEC_VERSION,
    "VK_KHR_bind_memory2": c.VK_KHR_BIND_MEMORY_2_SPEC_VERSION,
    "VK_KHR_copy_commands2": c.VK_KHR_COPY_COMMANDS_2_SPEC_VERSION,
    "VK_KHR_dedicated_allocation": c.VK_KHR_DEDICATED_ALLOCATION_SPEC_VERSION,
    "VK_KHR_driver_properties": c.VK_KHR_DRIVER_PROPERTIES_SPEC_VERSION,
    "VK_KHR_external_fence": c.VK_KHR_EXTERNAL_FENCE_SPEC_VERSION,
    "VK_KHR_external_memory": c.VK_KHR_EXTERNAL_MEMORY_SPEC_VERSION,
    "VK_KHR_external_semaphore": c.VK_KHR_EXTERNAL_SEMAPHORE_SPEC_VERSION,
    "VK_KHR_get_memory_requirements2": c.VK_KHR_GET_MEMORY_REQUIREMENTS_2_SPEC_VERSION,
    "VK_KHR_image_format_list": c.VK_KHR_IMAGE_FORMAT_LIST_SPEC_VERSION,
    "VK_KHR_maintenance1": c.VK_KHR_MAINTENANCE_1_SPEC_VERSION,
    "VK_KHR_maintenance4": c.VK_KHR_MAINTENANCE_4_SPEC_VERSION,
    "VK_KHR_map_memory2": c.VK_KHR_MAP_MEMORY_2_SPEC_VERSION,
    "VK_KHR_synchronization2": c.VK_KHR_SYNCHRONIZATION_2_SPEC_VERSION,
    "VK_KHR_timeline_semaphore": c.VK_KHR_TIMELINE_SEMAPHORE_SPEC_VERSION,
    "VK_KHR_win32_keyed_mutex": c.VK_KHR_WIN32_KEYED_MUTEX_SPEC_VERSION,
    "VK_NV_dedicated_allocation": c.VK_NV_DEDICATED_ALLOCATION_SPEC_VERSION,
    "VK_NV_external_memory": c.VK_NV_EXTERNAL_MEMORY_SPEC_VERSION,
    "VK_NV_external_memory_win32": c.VK_NV_EXTERNAL_MEMORY_WIN32_SPEC_VERSION,
    "VK_NV_win32_keyed_mutex": c.VK_NV_WIN32_KEYED_MUTEX_SPEC_VERSION,
}
DEVICE_EXTENSIONS |= {carrier.extension: 1 for carrier in CARRIERS.values()}
DEVICE_EXTENSIONS |= {carrier.type.extension: 1 for carrier in SYNC_CARRIERS.values()}

# DRM is Linux' own.
if sys.platform == "linux":
    DEVICE_EXTENSIONS["VK_EXT_image_drm_format_modifier"] = (
        c.VK_EXT_IMAGE_DRM_FORMAT_MODIFIER_SPEC_VERSION
    )


# -- features, properties, queues, memory -----------------------------------------------------


def is_feature_structure(node: Any) -> bool:
    name = type(node).__name__
    return name.startswith("VkPhysicalDevice") and "Features" in name


def _fill_members(structure: Any, values: dict[str, Any]) -> None:
    """Write each member that `values` knows; zero the others."""
    names = [name for name, *_ in structure._fields_]
    head = ctypes.sizeof(VkBaseInStructure) if "pNext" in names else 0
    ctypes.memset(ctypes.addressof(structure) + head, 0, ctypes.sizeof(structure) - head)
    for name in values.keys() & set(names):
        if isinstance(getattr(structure, name), ctypes.Array):
            getattr(structure, name)[:] = values[name]
        else:
            setattr(structure, name, values[name])


def _fill_features(structure: Any) -> None:
    for name, *_ in structure._fields_:
        if name not in ("sType", "pNext"):
            setattr(structure, name, int(name in FEATURES))


def vkGetPhysicalDeviceFeatures(handle: int, features: Any) -> None:
    find(Physical, handle)
    _fill_features(features)


def vkGetPhysicalDeviceFeatures2(handle: int, features: Any) -> None:
    vkGetPhysicalDeviceFeatures(handle, features.features)
    for node in chained(features).values():
        if is_feature_structure(node):
            _fill_features(node)


def vkGetPhysicalDeviceProperties(handle: int, properties: Any) -> None:
    identity = find(Physical, handle).identity
    properties.apiVersion = API_VERSION
    properties.driverVersion = FORMAT_VERSION
    # There is no vendor with an identifier behind this, and 0 is nobody's.
    properties.vendorID = 0
    properties.deviceID = identity.index
    properties.deviceType = int(c.VK_PHYSICAL_DEVICE_TYPE_CPU)
    properties.deviceName = identity.name
    properties.pipelineCacheUUID[:] = DRIVER_UUID
    _fill_members(properties.limits, LIMITS)
    _fill_members(properties.sparseProperties, {})


def vkGetPhysicalDeviceProperties2(handle: int, properties: Any) -> None:
    identity = find(Physical, handle).identity
    vkGetPhysicalDeviceProperties(handle, properties.properties)
    values = PROPERTIES | {
        "deviceUUID": identity.uuid,
        "driverUUID": DRIVER_UUID,
        "deviceLUID": identity.luid,
    }
    for node in chained(properties).values():
        if type(node) in _PROPERTIES:
            _fill_members(node, values)


# The property structures that belong to something that this device has. Others in the chain are
# left as they came, as the specification says of extensions that are not supported.
_PROPERTIES = {
    s.VkPhysicalDeviceIDProperties,
    s.VkPhysicalDeviceDriverProperties,
    s.VkPhysicalDeviceVulkan11Properties,
    s.VkPhysicalDeviceVulkan12Properties,
    s.VkPhysicalDeviceVulkan13Properties,
    s.VkPhysicalDeviceMaintenance3Properties,
    s.VkPhysicalDeviceMaintenance4Properties,
    s.VkPhysicalDeviceTimelineSemaphoreProperties,
    s.VkPhysicalDeviceExternalMemoryHostPropertiesEXT,
}


def _fill_queue_family(element: Any, count: int) -> None:
    element.queueFlags = QUEUE_FLAGS
    element.queueCount = count
    element.timestampValidBits = 0
    element.minImageTransferGranularity = s.VkExtent3D(1, 1, 1)


def vkGetPhysicalDeviceQueueFamilyProperties(handle: int, count: Any, array: Any) -> None:
    find(Physical, handle)
    enumerate_into(count, array, QUEUE_COUNTS, _fill_queue_family)


def vkGetPhysicalDeviceQueueFamilyProperties2(handle: int, count: Any, array: Any) -> None:
    def fill(element: Any, item: int) -> None:
        _fill_queue_family(element.queueFamilyProperties, item)

    find(Physical, handle)
    enumerate_into(count, array, QUEUE_COUNTS, fill)


def vkGetPhysicalDeviceMemoryProperties(handle: int, properties: Any) -> None:
    find(Physical, handle)
    properties.memoryTypeCount = len(MEMORY_TYPES)
    for index, (heap, flags) in enumerate(MEMORY_TYPES):
        properties.memoryTypes[index].propertyFlags = flags
        properties.memoryTypes[index].heapIndex = heap
    properties.memoryHeapCount = len(HEAPS)
    for index, (size, flags) in enumerate(HEAPS):
        properties.memoryHeaps[index].size = size
        properties.memoryHeaps[index].flags = flags


def vkGetPhysicalDeviceMemoryProperties2(handle: int, properties: Any) -> None:
    vkGetPhysicalDeviceMemoryProperties(handle, properties.memoryProperties)


def vkEnumerateDeviceExtensionProperties(
    handle: int, layer: bytes | None, count: Any, array: Any
) -> int:
    find(Physical, handle)
    if layer:
        raise Failure(c.VK_ERROR_LAYER_NOT_PRESENT, "there are no layers here")
    return enumerate_into(count, array, list(DEVICE_EXTENSIONS.items()), fill_extension)


def vkEnumerateDeviceLayerProperties(handle: int, count: Any, array: Any) -> int:
    find(Physical, handle)
    return enumerate_into(count, array, ())


def vkGetPhysicalDeviceToolProperties(handle: int, count: Any, array: Any) -> int:
    find(Physical, handle)
    return enumerate_into(count, array, ())


# -- external handles -------------------------------------------------------------------------


def fill_external(properties: Any, carrier: Carrier | None, usable: bool) -> None:
    """What can be done with a handle type, and with no other beside it: each payload is carried in
    one way alone.
    """
    features = carrier.features(usable) if carrier else 0
    again = carrier is not None and features and carrier.exported_again
    properties.externalMemoryFeatures = features
    properties.exportFromImportedHandleTypes = carrier.handle_type if carrier and again else 0
    properties.compatibleHandleTypes = carrier.handle_type if carrier and features else 0


def vkGetPhysicalDeviceExternalBufferProperties(handle: int, info: Any, properties: Any) -> None:
    find(Physical, handle)
    carrier = CARRIERS.get(info.handleType)
    usable = carrier is not None and carrier.buffers
    fill_external(properties.externalMemoryProperties, carrier, usable)


def vkGetPhysicalDeviceExternalSemaphoreProperties(handle: int, info: Any, found: Any) -> None:
    find(Physical, handle)
    asked: Any = chained(info).get(c.VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO)
    timeline = asked is not None and asked.semaphoreType == c.VK_SEMAPHORE_TYPE_TIMELINE
    features, types = sync_capabilities("semaphore", info.handleType, timeline)
    found.exportFromImportedHandleTypes = types
    found.compatibleHandleTypes = types
    found.externalSemaphoreFeatures = features


def vkGetPhysicalDeviceExternalFenceProperties(handle: int, info: Any, found: Any) -> None:
    find(Physical, handle)
    features, types = sync_capabilities("fence", info.handleType, False)
    found.exportFromImportedHandleTypes = types
    found.compatibleHandleTypes = types
    found.externalFenceFeatures = features
