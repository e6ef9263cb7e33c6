"""What a physical device is and what it can share: asked once, as plain Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from extmem import vk
from extmem.errors import DriverError
from extmem.handle_types import MEMORY, MEMORY_NV, HandleType, names_of

__all__ = ["MemoryType", "PhysicalDevice", "Sharing", "describe"]


@dataclass(frozen=True, slots=True)
class MemoryType:
    """One memory type of a device."""

    index: int
    flags: tuple[str, ...]  # device_local, host_visible, host_coherent, host_cached, ...
    heap: int
    heap_size: int  # bytes


@dataclass(frozen=True, slots=True)
class Sharing:
    """What one handle type can do on a device, for buffers (an NV type: for images)."""

    handle_type: HandleType
    exportable: bool
    importable: bool
    dedicated_only: bool
    compatible: tuple[str, ...]  # types that one allocation may be exported as together
    # By what extension of the driver it is carried; None: it is the driver's own.
    bridged: str | None = None


@dataclass(frozen=True, slots=True)
class PhysicalDevice:
    """One physical device of one driver."""

    index: int
    name: str
    kind: str  # cpu, integrated_gpu, discrete_gpu, virtual_gpu, other
    api_version: str  # "1.3.204"
    driver: str  # the driver's own name and version
    device_uuid: bytes
    driver_uuid: bytes
    luid: bytes | None  # 8 bytes where the device has one
    node_mask: int
    memory_types: tuple[MemoryType, ...]
    sharing: tuple[Sharing, ...]  # types that can at least be imported or exported
    # The same for NV's handle types, which NV specifies for images alone.
    sharing_nv: tuple[Sharing, ...]
    extensions: frozenset[str]
    # Those that the driver does not have itself, each with the extension that carries it here.
    carried: Mapping[str, str]

    def can_export(self, name: str) -> bool:
        """Whether buffers' memory can be exported as this handle type."""
        return any(each.handle_type.name == name and each.exportable for each in self.sharing)

    def can_import(self, name: str) -> bool:
        """Whether buffers' memory can be imported from this handle type."""
        return any(each.handle_type.name == name and each.importable for each in self.sharing)


_FLAGS = {
    int(vk.VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT): "device_local",
    int(vk.VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT): "host_visible",
    int(vk.VK_MEMORY_PROPERTY_HOST_COHERENT_BIT): "host_coherent",
    int(vk.VK_MEMORY_PROPERTY_HOST_CACHED_BIT): "host_cached",
    int(vk.VK_MEMORY_PROPERTY_LAZILY_ALLOCATED_BIT): "lazily_allocated",
    int(vk.VK_MEMORY_PROPERTY_PROTECTED_BIT): "protected",
}

_KINDS = {0: "other", 1: "integrated_gpu", 2: "discrete_gpu", 3: "virtual_gpu", 4: "cpu"}

# What a buffer that carries shared bytes is used for.
USAGE = int(vk.VK_BUFFER_USAGE_TRANSFER_SRC_BIT | vk.VK_BUFFER_USAGE_TRANSFER_DST_BIT)


def describe(physical: vk.VkPhysicalDevice, index: int) -> PhysicalDevice:
    """Everything about one physical device. Its instance must be of version 1.1 or later."""
    ids = vk.VkPhysicalDeviceIDProperties()
    properties = vk.VkPhysicalDeviceProperties2(pNext=ids)
    extensions = frozenset(
        each.extensionName for each in vk.vkEnumerateDeviceExtensionProperties(physical, None)
    )
    names = vk.VkPhysicalDeviceDriverProperties()
    version = vk.vkGetPhysicalDeviceProperties(physical).apiVersion
    if version >= vk.VK_API_VERSION_1_2 or "VK_KHR_driver_properties" in extensions:
        ids.pNext = names
    vk.vkGetPhysicalDeviceProperties2(physical, properties)
    base = properties.properties
    carried = _carried(physical)
    number = base.driverVersion
    driver = f"{names.driverName} {names.driverInfo}".strip() or f"version {number:#x}"
    return PhysicalDevice(
        index=index,
        name=base.deviceName,
        kind=_KINDS.get(base.deviceType, "other"),
        api_version=".".join(
            str(part)
            for part in (
                base.apiVersion >> 22 & 0x7F,
                base.apiVersion >> 12 & 0x3FF,
                base.apiVersion & 0xFFF,
            )
        ),
        driver=driver,
        device_uuid=bytes(ids.deviceUUID),
        driver_uuid=bytes(ids.driverUUID),
        luid=bytes(ids.deviceLUID) if ids.deviceLUIDValid else None,
        node_mask=ids.deviceNodeMask,
        memory_types=_memory_types(physical),
        sharing=_marked(_sharing(physical, extensions), carried),
        sharing_nv=_marked(_sharing_nv(physical, extensions), carried),
        extensions=extensions,
        carried=carried,
    )


def _marked(sharing: list[Sharing], carried: Mapping[str, str]) -> tuple[Sharing, ...]:
    """With what carries each type, where it is not the driver's own."""
    return tuple(replace(each, bridged=carried.get(each.handle_type.extension)) for each in sharing)


def _carried(physical: vk.VkPhysicalDevice) -> Mapping[str, str]:
    dispatch = physical.dispatch
    assert dispatch is not None
    found: Mapping[str, str] = dispatch.driver.carries(dispatch.instance, int(physical))
    return found


def _memory_types(physical: vk.VkPhysicalDevice) -> tuple[MemoryType, ...]:
    found = vk.vkGetPhysicalDeviceMemoryProperties(physical)
    result = []
    for index in range(found.memoryTypeCount):
        each = found.memoryTypes[index]
        flags = tuple(name for bit, name in _FLAGS.items() if each.propertyFlags & bit)
        heap = found.memoryHeaps[each.heapIndex]
        result.append(MemoryType(index, flags, each.heapIndex, heap.size))
    return tuple(result)


def _sharing(physical: vk.VkPhysicalDevice, extensions: frozenset[str]) -> list[Sharing]:
    result = []
    for handle_type in MEMORY:
        # Some drivers answer "yes" for types whose extension they do not have.
        if handle_type.extension in extensions:
            answer = vk.vkGetPhysicalDeviceExternalBufferProperties(
                physical,
                vk.VkPhysicalDeviceExternalBufferInfo(usage=USAGE, handleType=handle_type.bit),
            ).externalMemoryProperties
            compatible = tuple(names_of(answer.compatibleHandleTypes))
            result += _found(handle_type, answer.externalMemoryFeatures, compatible)
    return result


def _sharing_nv(physical: vk.VkPhysicalDevice, extensions: frozenset[str]) -> list[Sharing]:
    """For a plain image, because NV asks about images only."""
    dispatch: Any = physical.dispatch
    if not dispatch.has("vkGetPhysicalDeviceExternalImageFormatPropertiesNV"):
        return []
    result = []
    for handle_type in MEMORY_NV:
        if handle_type.extension not in extensions:
            continue
        try:
            answer = vk.vkGetPhysicalDeviceExternalImageFormatPropertiesNV(
                physical,
                vk.VK_FORMAT_R8G8B8A8_UNORM,
                vk.VK_IMAGE_TYPE_2D,
                vk.VK_IMAGE_TILING_OPTIMAL,
                vk.VK_IMAGE_USAGE_TRANSFER_SRC_BIT | vk.VK_IMAGE_USAGE_TRANSFER_DST_BIT,
                0,
                handle_type.bit,
            )
        except DriverError as error:
            if error.result != vk.VK_ERROR_FORMAT_NOT_SUPPORTED:
                raise
            continue  # how a driver says that it does not share images as this
        mask = answer.compatibleHandleTypes
        compatible = tuple(each.name for each in MEMORY_NV if each.bit & mask)
        result += _found(handle_type, answer.externalMemoryFeatures, compatible)
    return result


def _found(handle_type: HandleType, features: int, compatible: tuple[str, ...]) -> list[Sharing]:
    """What a device offers for a type, if it offers anything. NV's feature bits are the same."""
    exportable = bool(
        features & vk.VK_EXTERNAL_MEMORY_FEATURE_EXPORTABLE_BIT and handle_type.exportable
    )
    importable = bool(features & vk.VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT)
    if not exportable and not importable:
        return []
    dedicated = bool(features & vk.VK_EXTERNAL_MEMORY_FEATURE_DEDICATED_ONLY_BIT)
    return [Sharing(handle_type, exportable, importable, dedicated, compatible)]
