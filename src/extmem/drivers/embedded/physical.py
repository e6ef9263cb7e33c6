"""What can be asked of a physical device."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from extmem.drivers.embedded.carriers import CARRIERS, Carrier, carrier_nv
from extmem.drivers.embedded.formats import FORMATS, Format
from extmem.drivers.embedded.instance import Instance, Physical, fill_extension
from extmem.drivers.embedded.limits import (
    API_VERSION,
    DRIVER_UUID,
    FEATURES,
    FORMAT_VERSION,
    HEAP_SIZE,
    HEAPS,
    LIMITS,
    MEMORY_TYPES,
    PROPERTIES,
    QUEUE_COUNTS,
    QUEUE_FLAGS,
)
from extmem.drivers.embedded.objects import (
    SUCCESS,
    Failure,
    chained,
    enumerate_into,
    find,
)
from extmem.vk import _constants as c
from extmem.vk import _structures as s
from extmem.vk._base import VkBaseInStructure

__all__ = ["DEVICE_EXTENSIONS", "Physical", "image_limits", "is_feature_structure"]

DEVICE_EXTENSIONS = {
    "VK_EXT_queue_family_foreign": c.VK_EXT_QUEUE_FAMILY_FOREIGN_SPEC_VERSION,
    "VK_KHR_bind_memory2": c.VK_KHR_BIND_MEMORY_2_SPEC_VERSION,
    "VK_KHR_copy_commands2": c.VK_KHR_COPY_COMMANDS_2_SPEC_VERSION,
    "VK_KHR_dedicated_allocation": c.VK_KHR_DEDICATED_ALLOCATION_SPEC_VERSION,
    "VK_KHR_driver_properties": c.VK_KHR_DRIVER_PROPERTIES_SPEC_VERSION,
    "VK_KHR_external_memory": c.VK_KHR_EXTERNAL_MEMORY_SPEC_VERSION,
    "VK_KHR_get_memory_requirements2": c.VK_KHR_GET_MEMORY_REQUIREMENTS_2_SPEC_VERSION,
    "VK_KHR_image_format_list": c.VK_KHR_IMAGE_FORMAT_LIST_SPEC_VERSION,
    "VK_KHR_maintenance1": c.VK_KHR_MAINTENANCE_1_SPEC_VERSION,
    "VK_KHR_maintenance4": c.VK_KHR_MAINTENANCE_4_SPEC_VERSION,
    "VK_KHR_map_memory2": c.VK_KHR_MAP_MEMORY_2_SPEC_VERSION,
    "VK_KHR_synchronization2": c.VK_KHR_SYNCHRONIZATION_2_SPEC_VERSION,
    "VK_KHR_timeline_semaphore": c.VK_KHR_TIMELINE_SEMAPHORE_SPEC_VERSION,
    "VK_NV_dedicated_allocation": c.VK_NV_DEDICATED_ALLOCATION_SPEC_VERSION,
    "VK_NV_external_memory": c.VK_NV_EXTERNAL_MEMORY_SPEC_VERSION,
    "VK_NV_external_memory_win32": c.VK_NV_EXTERNAL_MEMORY_WIN32_SPEC_VERSION,
} | {carrier.extension: 1 for carrier in CARRIERS.values()}


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


# -- formats ----------------------------------------------------------------------------------


def vkGetPhysicalDeviceFormatProperties(handle: int, format: int, properties: Any) -> None:
    find(Physical, handle)
    known = FORMATS.get(format)
    properties.linearTilingFeatures = known.tiling_features if known else 0
    properties.optimalTilingFeatures = known.tiling_features if known else 0
    properties.bufferFeatures = known.buffer_features if known else 0


def vkGetPhysicalDeviceFormatProperties2(handle: int, format: int, properties: Any) -> None:
    vkGetPhysicalDeviceFormatProperties(handle, format, properties.formatProperties)
    # The features in 64 bits start with those in 32.
    wide = chained(properties).get(c.VK_STRUCTURE_TYPE_FORMAT_PROPERTIES_3)
    if wide is not None:
        vkGetPhysicalDeviceFormatProperties(handle, format, wide)


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """How large an image of one kind may be."""

    format: Format
    extent: tuple[int, int, int]
    levels: int
    layers: int


_CREATE_FLAGS = int(
    c.VK_IMAGE_CREATE_MUTABLE_FORMAT_BIT
    | c.VK_IMAGE_CREATE_CUBE_COMPATIBLE_BIT
    | c.VK_IMAGE_CREATE_2D_ARRAY_COMPATIBLE_BIT
    | c.VK_IMAGE_CREATE_ALIAS_BIT
    | c.VK_IMAGE_CREATE_EXTENDED_USAGE_BIT
)

_USAGE_NEEDS = (
    (c.VK_IMAGE_USAGE_TRANSFER_SRC_BIT, c.VK_FORMAT_FEATURE_TRANSFER_SRC_BIT),
    (c.VK_IMAGE_USAGE_TRANSFER_DST_BIT, c.VK_FORMAT_FEATURE_TRANSFER_DST_BIT),
    (c.VK_IMAGE_USAGE_SAMPLED_BIT, c.VK_FORMAT_FEATURE_SAMPLED_IMAGE_BIT),
    (c.VK_IMAGE_USAGE_COLOR_ATTACHMENT_BIT, c.VK_FORMAT_FEATURE_COLOR_ATTACHMENT_BIT),
    (
        c.VK_IMAGE_USAGE_DEPTH_STENCIL_ATTACHMENT_BIT,
        c.VK_FORMAT_FEATURE_DEPTH_STENCIL_ATTACHMENT_BIT,
    ),
)

_EXTENTS = {
    int(c.VK_IMAGE_TYPE_1D): (LIMITS["maxImageDimension1D"], 1, 1),
    int(c.VK_IMAGE_TYPE_2D): (LIMITS["maxImageDimension2D"], LIMITS["maxImageDimension2D"], 1),
    int(c.VK_IMAGE_TYPE_3D): (LIMITS["maxImageDimension3D"],) * 3,
}


def image_limits(format: int, type: int, tiling: int, usage: int, flags: int) -> ImageLimits | None:
    """The limits for these parameters; None where there is no such image."""
    known = FORMATS.get(format)
    allowed = 0
    for bit, feature in _USAGE_NEEDS:
        if known is not None and known.tiling_features & feature:
            allowed |= bit
    if (
        known is None
        or type not in _EXTENTS
        or tiling not in (c.VK_IMAGE_TILING_OPTIMAL, c.VK_IMAGE_TILING_LINEAR)
        or not usage
        or usage & ~allowed
        or flags & ~_CREATE_FLAGS
        or (known.multi_planar and type != c.VK_IMAGE_TYPE_2D)
        or (flags & c.VK_IMAGE_CREATE_CUBE_COMPATIBLE_BIT and type != c.VK_IMAGE_TYPE_2D)
        or (flags & c.VK_IMAGE_CREATE_2D_ARRAY_COMPATIBLE_BIT and type != c.VK_IMAGE_TYPE_3D)
    ):
        return None
    extent = _EXTENTS[type]
    levels = 1 if known.multi_planar else max(extent).bit_length()
    one_layer = known.multi_planar or type == c.VK_IMAGE_TYPE_3D
    return ImageLimits(known, extent, levels, 1 if one_layer else LIMITS["maxImageArrayLayers"])


def _fill_image_limits(properties: Any, found: ImageLimits | None) -> None:
    if found is None:
        raise Failure(c.VK_ERROR_FORMAT_NOT_SUPPORTED, "no such images")
    properties.maxExtent = s.VkExtent3D(*found.extent)
    properties.maxMipLevels = found.levels
    properties.maxArrayLayers = found.layers
    properties.sampleCounts = int(c.VK_SAMPLE_COUNT_1_BIT)
    properties.maxResourceSize = max(HEAP_SIZE, 1 << 31)


def vkGetPhysicalDeviceImageFormatProperties(
    handle: int, format: int, type: int, tiling: int, usage: int, flags: int, properties: Any
) -> int:
    find(Physical, handle)
    _fill_image_limits(properties, image_limits(format, type, tiling, usage, flags))
    return SUCCESS


def vkGetPhysicalDeviceImageFormatProperties2(handle: int, info: Any, properties: Any) -> int:
    find(Physical, handle)
    found = image_limits(info.format, info.type, info.tiling, info.usage, info.flags)
    _fill_image_limits(properties.imageFormatProperties, found)
    external: Any = chained(info).get(
        c.VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_EXTERNAL_IMAGE_FORMAT_INFO
    )
    if external is not None and external.handleType:
        carrier = CARRIERS.get(external.handleType)
        if carrier is None or not carrier.images:
            raise Failure(c.VK_ERROR_FORMAT_NOT_SUPPORTED, "no images of this handle type")
        answer: Any = chained(properties).get(c.VK_STRUCTURE_TYPE_EXTERNAL_IMAGE_FORMAT_PROPERTIES)
        if answer is not None:
            _fill_external(answer.externalMemoryProperties, carrier, carrier.images)
    return SUCCESS


def vkGetPhysicalDeviceSparseImageFormatProperties(
    handle: int,
    format: int,
    type: int,
    samples: int,
    usage: int,
    tiling: int,
    count: Any,
    array: Any,
) -> None:
    enumerate_into(count, array, ())


def vkGetPhysicalDeviceSparseImageFormatProperties2(
    handle: int, info: Any, count: Any, array: Any
) -> None:
    enumerate_into(count, array, ())


# -- external handles -------------------------------------------------------------------------


def _fill_external(properties: Any, carrier: Carrier | None, usable: bool) -> None:
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
    _fill_external(properties.externalMemoryProperties, carrier, usable)


def vkGetPhysicalDeviceExternalImageFormatPropertiesNV(
    handle: int,
    format: int,
    type: int,
    tiling: int,
    usage: int,
    flags: int,
    handle_type: int,
    properties: Any,
) -> int:
    instance = find(Physical, handle).parent
    assert isinstance(instance, Instance)
    found = image_limits(format, type, tiling, usage, flags)
    # One type or none. Without the extension nobody has asked for any.
    offered = "VK_NV_external_memory_capabilities" in instance.extensions
    carrier = carrier_nv(handle_type) if offered else None
    if handle_type and (carrier is None or not carrier.images):
        raise Failure(c.VK_ERROR_FORMAT_NOT_SUPPORTED, "no images of this handle type")
    _fill_image_limits(properties.imageFormatProperties, found)
    # The features have the same bits in both extensions' words; the handle types have not.
    properties.externalMemoryFeatures = carrier.features(True) if carrier else 0
    again = carrier is not None and carrier.exported_again
    properties.exportFromImportedHandleTypes = handle_type if again else 0
    properties.compatibleHandleTypes = handle_type if carrier else 0
    return SUCCESS


def vkGetPhysicalDeviceExternalSemaphoreProperties(handle: int, info: Any, found: Any) -> None:
    # Semaphores and fences stay inside their process: no handle type carries them.
    find(Physical, handle)
    found.exportFromImportedHandleTypes = 0
    found.compatibleHandleTypes = 0
    found.externalSemaphoreFeatures = 0


def vkGetPhysicalDeviceExternalFenceProperties(handle: int, info: Any, found: Any) -> None:
    find(Physical, handle)
    found.exportFromImportedHandleTypes = 0
    found.compatibleHandleTypes = 0
    found.externalFenceFeatures = 0
