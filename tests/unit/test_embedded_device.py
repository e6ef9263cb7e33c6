"""The embedded device, driven through the interface that every driver has."""

from __future__ import annotations

import ctypes
import errno
import gc
import mmap
import os
import socket
import subprocess
import sys
import threading
import time
from ctypes import c_int32, c_uint8, c_uint32, c_uint64, c_void_p
from pathlib import Path

import numpy as np
import pytest

from extmem.drivers.embedded import EmbeddedDriver, images
from extmem.drivers.embedded.objects import Failure
from extmem.vk import _constants as c
from extmem.vk import _prototypes
from extmem.vk import _structures as s
from extmem.vk._prototype import Prototype

linux = pytest.mark.skipif(sys.platform != "linux", reason="hardware: descriptors are POSIX")

SPELLINGS = {
    spelling: prototype
    for prototype in vars(_prototypes).values()
    if isinstance(prototype, Prototype)
    for spelling in prototype.provided
}
OPAQUE_FD = c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT
HOST = c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT
FOREVER = (1 << 64) - 1


class Api:
    """An instance, a device and its queues, with every command as an attribute."""

    def __init__(self, index: int = 0, version: int = c.VK_API_VERSION_1_3, extensions=()) -> None:
        self.driver = EmbeddedDriver()
        self.instance = self.device = 0
        box = c_void_p()
        application = s.VkApplicationInfo(apiVersion=version)
        info = s.VkInstanceCreateInfo(pApplicationInfo=application)
        assert self.vkCreateInstance(info, None, box) == 0
        self.instance = box.value
        physicals = (c_void_p * 2)()
        assert self.vkEnumeratePhysicalDevices(self.instance, c_uint32(2), physicals) == 0
        self.physical = physicals[index]
        queues = [
            s.VkDeviceQueueCreateInfo(queueFamilyIndex=family, pQueuePriorities=[1.0] * count)
            for family, count in ((0, 2), (1, 1))
        ]
        for queue, count in zip(queues, (2, 1), strict=True):
            queue.queueCount = count
        info = s.VkDeviceCreateInfo(
            pQueueCreateInfos=queues, ppEnabledExtensionNames=list(extensions) or None
        )
        assert self.vkCreateDevice(self.physical, info, None, box) == 0
        self.device = box.value
        self.queues = []
        for family, number in ((0, 0), (0, 1), (1, 0)):
            self.vkGetDeviceQueue(self.device, family, number, box)
            self.queues.append(box.value)

    def __getattr__(self, spelling: str):
        prototype = SPELLINGS[spelling]
        if prototype.level == "global":
            return self.driver.global_command(prototype, spelling)
        if prototype.level == "instance":
            return self.driver.instance_command(self.instance, prototype, spelling)
        return self.driver.device_command(self.instance, self.device, prototype, spelling)

    def close(self) -> None:
        self.vkDestroyDevice(self.device, None)
        self.vkDestroyInstance(self.instance, None)

    # Short forms of what most tests need.

    def allocate(self, size: int, index: int = 1, chain=None, expect: int = 0) -> int:
        box = c_uint64()
        info = s.VkMemoryAllocateInfo(allocationSize=size, memoryTypeIndex=index, pNext=chain)
        assert self.vkAllocateMemory(self.device, info, None, box) == expect
        return box.value

    def free(self, memory: int) -> None:
        self.vkFreeMemory(self.device, memory, None)

    def map(self, memory: int, size: int) -> ctypes.Array:
        box = c_void_p()
        assert self.vkMapMemory(self.device, memory, 0, size, 0, box) == 0
        return (c_uint8 * size).from_address(box.value)

    def export(self, memory: int) -> int:
        box = c_int32()
        info = s.VkMemoryGetFdInfoKHR(memory=memory, handleType=OPAQUE_FD)
        assert self.vkGetMemoryFdKHR(self.device, info, box) == 0
        return box.value

    def buffer(self, memory: int, size: int, offset: int = 0) -> int:
        box = c_uint64()
        usage = c.VK_BUFFER_USAGE_TRANSFER_SRC_BIT | c.VK_BUFFER_USAGE_TRANSFER_DST_BIT
        info = s.VkBufferCreateInfo(size=size, usage=usage)
        assert self.vkCreateBuffer(self.device, info, None, box) == 0
        assert self.vkBindBufferMemory(self.device, box.value, memory, offset) == 0
        return box.value

    def image(self, memory: int = 0, **members) -> int:
        box = c_uint64()
        assert self.vkCreateImage(self.device, image_info(**members), None, box) == 0
        if memory:
            assert self.vkBindImageMemory(self.device, box.value, memory, 0) == 0
        return box.value

    def create(self, command: str, info) -> int:
        box = c_uint64()
        assert getattr(self, command)(self.device, info, None, box) == 0
        return box.value

    def timeline(self, value: int = 0) -> int:
        kind = s.VkSemaphoreTypeCreateInfo(
            semaphoreType=c.VK_SEMAPHORE_TYPE_TIMELINE, initialValue=value
        )
        return self.create("vkCreateSemaphore", s.VkSemaphoreCreateInfo(pNext=kind))

    def record(self, *steps) -> int:
        """A command buffer of (command, arguments...)."""
        pool = self.create("vkCreateCommandPool", s.VkCommandPoolCreateInfo())
        buffers = (c_void_p * 1)()
        info = s.VkCommandBufferAllocateInfo(commandPool=pool, commandBufferCount=1)
        assert self.vkAllocateCommandBuffers(self.device, info, buffers) == 0
        assert self.vkBeginCommandBuffer(buffers[0], s.VkCommandBufferBeginInfo()) == 0
        for command, *arguments in steps:
            assert getattr(self, command)(buffers[0], *arguments) is None
        assert self.vkEndCommandBuffer(buffers[0]) == 0
        return buffers[0]

    def submit(self, buffer: int = 0, queue: int = 0, fence: int = 0, **members) -> int:
        commands = [buffer] if buffer else None
        info = (s.VkSubmitInfo * 1)(s.VkSubmitInfo(pCommandBuffers=commands, **members))
        return self.vkQueueSubmit(self.queues[queue], 1, info, fence)

    def run(self, *steps, expect: int = 0) -> None:
        assert self.submit(self.record(*steps)) == 0
        assert self.vkQueueWaitIdle(self.queues[0]) == expect


def image_info(format=c.VK_FORMAT_R8G8B8A8_UNORM, extent=(64, 32, 1), **members):
    members = {
        "imageType": c.VK_IMAGE_TYPE_2D,
        "mipLevels": 1,
        "arrayLayers": 1,
        "samples": c.VK_SAMPLE_COUNT_1_BIT,
        "usage": c.VK_IMAGE_USAGE_TRANSFER_SRC_BIT | c.VK_IMAGE_USAGE_TRANSFER_DST_BIT,
        **members,
    }
    return s.VkImageCreateInfo(format=format, extent=s.VkExtent3D(*extent), **members)


def layers(aspect=c.VK_IMAGE_ASPECT_COLOR_BIT, level=0, first=0, count=1):
    return s.VkImageSubresourceLayers(aspect, level, first, count)


def buffer_image(extent, offset=0, at=(0, 0, 0), row=0, height=0, place=None):
    copy = s.VkBufferImageCopy(offset, row, height, place or layers())
    copy.imageOffset, copy.imageExtent = s.VkOffset3D(*at), s.VkExtent3D(*extent)
    return (s.VkBufferImageCopy * 1)(copy)


def one(structure):
    return (type(structure) * 1)(structure)


def held() -> dict[str, int]:
    """What this process holds of the system that a test could leave behind."""
    gc.collect()
    found = {"threads": threading.active_count()}
    if sys.platform == "linux":
        found["descriptors"] = len(os.listdir("/proc/self/fd"))
        maps = Path("/proc/self/maps").read_text()
        found["mappings"] = maps.count("memfd:extmem")
    return found


@pytest.fixture(autouse=True)
def nothing_left_behind_and_nothing_stumbled(caplog):
    before = held()
    yield
    assert held() == before
    # A VK_ERROR_UNKNOWN that hides a mistake of ours is logged as one.
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.fixture
def api():
    extensions = ["VK_EXT_external_memory_host", "VK_KHR_map_memory2"]
    if sys.platform == "linux":
        extensions.append("VK_KHR_external_memory_fd")
    found = Api(extensions=extensions)
    yield found
    found.close()


# -- what the devices say ---------------------------------------------------------------------


def properties(api: Api, *chain):
    head = s.VkPhysicalDeviceProperties2()
    for node, following in zip((head, *chain), chain, strict=False):
        node.pNext = following
    api.vkGetPhysicalDeviceProperties2(api.physical, head)
    return head.properties


def test_two_devices_with_lasting_identities(api):
    other = Api(index=1)
    mine, theirs = s.VkPhysicalDeviceIDProperties(), s.VkPhysicalDeviceVulkan11Properties()
    first, second = properties(api, mine), properties(other, theirs)
    assert (first.deviceName, second.deviceName) == ("extmem embedded 0", "extmem embedded 1")
    assert first.apiVersion >= c.VK_API_VERSION_1_3
    assert bytes(mine.deviceUUID) != bytes(theirs.deviceUUID)
    assert bytes(mine.driverUUID) == bytes(theirs.driverUUID)
    assert bytes(mine.deviceLUID) != bytes(theirs.deviceLUID)
    assert mine.deviceLUIDValid == theirs.deviceNodeMask == 1
    # The same in every process, on every machine.
    assert bytes(mine.deviceUUID).hex() == "9e7627dd8f74992698dc95a75e259991"
    other.close()


def test_chained_properties_are_filled_and_garbage_is_overwritten(api):
    timeline = s.VkPhysicalDeviceTimelineSemaphoreProperties()
    host = s.VkPhysicalDeviceExternalMemoryHostPropertiesEXT()
    driver = s.VkPhysicalDeviceDriverProperties(driverID=7)
    twelve = s.VkPhysicalDeviceVulkan12Properties(shaderDenormPreserveFloat16=1)
    thirteen = s.VkPhysicalDeviceVulkan13Properties(minSubgroupSize=3)
    found = properties(api, timeline, host, driver, twelve, thirteen)
    assert timeline.maxTimelineSemaphoreValueDifference > 1 << 31
    assert host.minImportedHostPointerAlignment == 4096
    assert (driver.driverID, driver.driverName) == (0, "extmem embedded")
    assert (twelve.shaderDenormPreserveFloat16, twelve.driverName) == (0, "extmem embedded")
    assert (thirteen.minSubgroupSize, thirteen.maxBufferSize >= 1 << 30) == (0, True)
    assert found.limits.nonCoherentAtomSize == 64


def test_features_are_true_only_where_they_exist(api):
    twelve = s.VkPhysicalDeviceVulkan12Features(shaderInt8=1)
    sync2 = s.VkPhysicalDeviceSynchronization2Features()
    twelve.pNext = sync2
    features = s.VkPhysicalDeviceFeatures2(pNext=twelve)
    api.vkGetPhysicalDeviceFeatures2(api.physical, features)
    assert (twelve.timelineSemaphore, twelve.shaderInt8, sync2.synchronization2) == (1, 0, 1)
    assert features.features.geometryShader == 0


def test_memory_types_and_queues(api):
    memory = s.VkPhysicalDeviceMemoryProperties2()
    api.vkGetPhysicalDeviceMemoryProperties2(api.physical, memory)
    flags = [memory.memoryProperties.memoryTypes[i].propertyFlags for i in range(3)]
    assert flags == [
        c.VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT,
        c.VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | c.VK_MEMORY_PROPERTY_HOST_COHERENT_BIT,
        c.VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | c.VK_MEMORY_PROPERTY_HOST_CACHED_BIT,
    ]
    assert memory.memoryProperties.memoryHeapCount == 2
    count = c_uint32()
    api.vkGetPhysicalDeviceQueueFamilyProperties(api.physical, count, None)
    families = (s.VkQueueFamilyProperties * count.value)()
    api.vkGetPhysicalDeviceQueueFamilyProperties(api.physical, count, families)
    assert [family.queueCount for family in families] == [2, 1]


def test_enumerations_say_when_there_is_more(api):
    count = c_uint32()
    assert api.vkEnumerateDeviceExtensionProperties(api.physical, None, count, None) == 0
    assert count.value > 5
    found = (s.VkExtensionProperties * 1)()
    few = c_uint32(1)
    result = api.vkEnumerateDeviceExtensionProperties(api.physical, None, few, found)
    assert (result, few.value) == (c.VK_INCOMPLETE, 1)
    assert found[0].extensionName.startswith("VK_")
    groups = (s.VkPhysicalDeviceGroupProperties * 2)()
    assert api.vkEnumeratePhysicalDeviceGroups(api.instance, c_uint32(2), groups) == 0
    assert groups[0].physicalDevices[0] == api.physical


def test_external_capabilities(api):
    def buffers(handle_type):
        answer = s.VkExternalBufferProperties()
        info = s.VkPhysicalDeviceExternalBufferInfo(
            usage=c.VK_BUFFER_USAGE_TRANSFER_SRC_BIT, handleType=handle_type
        )
        api.vkGetPhysicalDeviceExternalBufferProperties(api.physical, info, answer)
        found = answer.externalMemoryProperties
        return found.externalMemoryFeatures, found.compatibleHandleTypes

    both = int(
        c.VK_EXTERNAL_MEMORY_FEATURE_EXPORTABLE_BIT | c.VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT
    )
    assert buffers(OPAQUE_FD) == ((both, OPAQUE_FD) if sys.platform == "linux" else (0, 0))
    assert buffers(HOST) == (c.VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT, HOST)
    assert buffers(c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT) == (0, 0)
    assert buffers(c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_MAPPED_FOREIGN_MEMORY_BIT_EXT) == (0, 0)

    def images(handle_type, format=c.VK_FORMAT_R8G8B8A8_UNORM):
        info = s.VkPhysicalDeviceImageFormatInfo2(
            format=format,
            type=c.VK_IMAGE_TYPE_2D,
            usage=c.VK_IMAGE_USAGE_TRANSFER_SRC_BIT,
            pNext=s.VkPhysicalDeviceExternalImageFormatInfo(handleType=handle_type),
        )
        external = s.VkExternalImageFormatProperties()
        answer = s.VkImageFormatProperties2(pNext=external)
        result = api.vkGetPhysicalDeviceImageFormatProperties2(api.physical, info, answer)
        return result, external.externalMemoryProperties.externalMemoryFeatures

    assert images(HOST) == (0, c.VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT)
    assert images(0) == (0, 0)
    win32 = c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D12_HEAP_BIT
    assert images(win32)[0] == c.VK_ERROR_FORMAT_NOT_SUPPORTED
    assert images(HOST, c.VK_FORMAT_BC1_RGB_UNORM_BLOCK)[0] == c.VK_ERROR_FORMAT_NOT_SUPPORTED


def test_images_and_what_they_may_be(api):
    def limits(modifier=None, **members):
        chain = s.VkPhysicalDeviceImageDrmFormatModifierInfoEXT(drmFormatModifier=modifier or 0)
        members = {
            "format": c.VK_FORMAT_R8G8B8A8_UNORM,
            "type": c.VK_IMAGE_TYPE_2D,
            "usage": c.VK_IMAGE_USAGE_TRANSFER_SRC_BIT,
            **members,
        }
        info = s.VkPhysicalDeviceImageFormatInfo2(
            **members, pNext=None if modifier is None else chain
        )
        answer = s.VkImageFormatProperties2()
        result = api.vkGetPhysicalDeviceImageFormatProperties2(api.physical, info, answer)
        found = answer.imageFormatProperties
        return (found.maxMipLevels, found.maxArrayLayers, found.sampleCounts) if not result else 0

    assert limits() == (15, 2048, 5)
    assert limits(type=c.VK_IMAGE_TYPE_1D) == (15, 2048, 1)
    assert limits(type=c.VK_IMAGE_TYPE_3D) == (12, 1, 1)
    assert limits(tiling=c.VK_IMAGE_TILING_LINEAR) == (15, 2048, 1)
    assert limits(usage=c.VK_IMAGE_USAGE_STORAGE_BIT) == (15, 2048, 1)
    assert limits(usage=c.VK_IMAGE_USAGE_STORAGE_BIT, format=c.VK_FORMAT_R8_SRGB) == 0
    assert limits(format=c.VK_FORMAT_G8_B8R8_2PLANE_420_UNORM) == (1, 1, 1)
    drm = {"tiling": c.VK_IMAGE_TILING_DRM_FORMAT_MODIFIER_EXT}
    assert limits(**drm) == 0
    assert limits(modifier=7, **drm) == 0
    assert limits(modifier=0, **drm) == ((1, 1, 1) if sys.platform == "linux" else 0)
    assert limits(modifier=0, type=c.VK_IMAGE_TYPE_3D, **drm) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="hardware: DRM is Linux' own")
def test_the_one_drm_format_modifier(api):
    several = s.VkDrmFormatModifierPropertiesListEXT()
    box = s.VkFormatProperties2(pNext=several)
    api.vkGetPhysicalDeviceFormatProperties2(
        api.physical, c.VK_FORMAT_G8_B8R8_2PLANE_420_UNORM, box
    )
    assert several.drmFormatModifierCount == 1
    several.pDrmFormatModifierProperties = [s.VkDrmFormatModifierPropertiesEXT()]
    api.vkGetPhysicalDeviceFormatProperties2(
        api.physical, c.VK_FORMAT_G8_B8R8_2PLANE_420_UNORM, box
    )
    first = several.pDrmFormatModifierProperties[0]
    assert (first.drmFormatModifier, first.drmFormatModifierPlaneCount) == (0, 2)
    info = image_info(
        tiling=c.VK_IMAGE_TILING_DRM_FORMAT_MODIFIER_EXT,
        pNext=s.VkImageDrmFormatModifierListCreateInfoEXT(pDrmFormatModifiers=[3, 5]),
    )
    assert api.vkCreateImage(api.device, info, None, c_uint64()) == c.VK_ERROR_UNKNOWN


def test_the_query_of_nv_knows_no_type_yet(api):
    # Its extension is offered once a carrier has one of NV's types.
    query = images.vkGetPhysicalDeviceExternalImageFormatPropertiesNV
    image = (c.VK_FORMAT_R8_UNORM, c.VK_IMAGE_TYPE_2D, c.VK_IMAGE_TILING_OPTIMAL)
    found = s.VkExternalImageFormatPropertiesNV()
    assert query(api.physical, *image, c.VK_IMAGE_USAGE_SAMPLED_BIT, 0, 0, found) == 0
    assert found.imageFormatProperties.maxExtent.width >= 4096
    assert found.externalMemoryFeatures == found.compatibleHandleTypes == 0
    with pytest.raises(Failure) as refused:
        query(api.physical, *image, c.VK_IMAGE_USAGE_SAMPLED_BIT, 0, 1, found)
    assert refused.value.result == c.VK_ERROR_FORMAT_NOT_SUPPORTED
    assert api.vkGetPhysicalDeviceExternalImageFormatPropertiesNV is None


# -- creation, and what exists ----------------------------------------------------------------


def test_refusals_of_instances(api):
    box = c_void_p()

    def create(**members):
        return api.vkCreateInstance(s.VkInstanceCreateInfo(**members), None, box)

    unknown = create(ppEnabledExtensionNames=["VK_KHR_surface"])
    assert unknown == c.VK_ERROR_EXTENSION_NOT_PRESENT
    assert create(ppEnabledLayerNames=["VK_LAYER_none"]) == c.VK_ERROR_LAYER_NOT_PRESENT
    variant = s.VkApplicationInfo(apiVersion=c.VK_API_VERSION_1_3 | 1 << 29)
    assert create(pApplicationInfo=variant) == c.VK_ERROR_INCOMPATIBLE_DRIVER
    assert box.value is None


def test_refusals_of_devices(api):
    def create(**members):
        return api.vkCreateDevice(api.physical, s.VkDeviceCreateInfo(**members), None, c_void_p())

    unknown = create(ppEnabledExtensionNames=["VK_KHR_swapchain"])
    assert unknown == c.VK_ERROR_EXTENSION_NOT_PRESENT
    features = s.VkPhysicalDeviceFeatures(geometryShader=1)
    assert create(pEnabledFeatures=features) == c.VK_ERROR_FEATURE_NOT_PRESENT
    twelve = s.VkPhysicalDeviceVulkan12Features(timelineSemaphore=1, bufferDeviceAddress=1)
    assert create(pNext=twelve) == c.VK_ERROR_FEATURE_NOT_PRESENT
    two = s.VkPhysicalDeviceFeatures2(features=features)
    assert create(pNext=two) == c.VK_ERROR_FEATURE_NOT_PRESENT


def test_commands_exist_where_they_were_asked_for():
    new, old = Api(), Api(version=c.VK_API_VERSION_1_0, extensions=["VK_KHR_bind_memory2"])
    assert new.vkBindBufferMemory2 is not None
    assert new.vkBindBufferMemory2KHR is None
    assert new.vkMapMemory2KHR is None
    assert new.vkCmdBlitImage is None
    assert old.vkBindBufferMemory2 is None
    assert old.vkBindBufferMemory2KHR is not None
    assert old.vkQueueSubmit2 is None
    assert old.vkGetPhysicalDeviceProperties2 is None
    new.close()
    old.close()


def test_unknown_handles_are_answered_and_never_raise(api):
    nonsense = 0xDEAD
    memory = api.allocate(4096)
    api.free(memory)
    assert api.vkMapMemory(api.device, memory, 0, 1, 0, c_void_p()) == c.VK_ERROR_UNKNOWN
    assert api.vkMapMemory(nonsense, memory, 0, 1, 0, c_void_p()) == c.VK_ERROR_UNKNOWN
    assert api.vkQueueWaitIdle(nonsense) == c.VK_ERROR_UNKNOWN
    assert api.vkEndCommandBuffer(nonsense) == c.VK_ERROR_UNKNOWN
    assert api.free(memory) is None
    assert api.vkCmdFillBuffer(nonsense, 0, 0, 4, 0) is None
    assert api.vkDestroyBuffer(api.device, nonsense, None) is None
    info = s.VkMemoryGetFdInfoKHR(memory=0, handleType=OPAQUE_FD)
    if sys.platform == "linux":
        assert api.vkGetMemoryFdKHR(api.device, info, c_int32()) == c.VK_ERROR_UNKNOWN
    other = Api()
    theirs = other.allocate(64)
    assert api.vkMapMemory(api.device, theirs, 0, 1, 0, c_void_p()) == c.VK_ERROR_UNKNOWN
    other.close()


# -- memory -----------------------------------------------------------------------------------


def test_mapping(api):
    memory = api.allocate(10_000, index=2)
    view = api.map(memory, 10_000)
    view[9_999] = 7
    box = c_void_p()
    again = api.vkMapMemory(api.device, memory, 0, 1, 0, box)
    assert again == c.VK_ERROR_MEMORY_MAP_FAILED
    flushed = one(s.VkMappedMemoryRange(memory=memory, size=c.VK_WHOLE_SIZE))
    assert api.vkFlushMappedMemoryRanges(api.device, 1, flushed) == 0
    assert api.vkInvalidateMappedMemoryRanges(api.device, 1, flushed) == 0
    api.vkUnmapMemory(api.device, memory)
    two = s.VkMemoryMapInfo(memory=memory, offset=4096, size=c.VK_WHOLE_SIZE)
    assert api.vkMapMemory2KHR(api.device, two, box) == 0
    assert c_uint8.from_address(box.value + 9_999 - 4096).value == 7
    assert api.vkUnmapMemory2KHR(api.device, s.VkMemoryUnmapInfo(memory=memory)) == 0
    hidden = api.allocate(64, index=0)
    assert api.vkMapMemory(api.device, hidden, 0, 64, 0, box) == c.VK_ERROR_MEMORY_MAP_FAILED
    beyond = api.vkMapMemory(api.device, memory, 10_000, 1, 0, box)
    assert beyond == c.VK_ERROR_MEMORY_MAP_FAILED


def test_refusals_of_allocations(api):
    api.allocate(1 << 60, expect=c.VK_ERROR_OUT_OF_DEVICE_MEMORY)
    api.allocate(64, index=3, expect=c.VK_ERROR_UNKNOWN)
    api.allocate(64, index=0xFFFFFFFF, expect=c.VK_ERROR_UNKNOWN)
    api.allocate(0, expect=c.VK_ERROR_UNKNOWN)
    kmt = c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_KMT_BIT
    for types in (kmt, OPAQUE_FD | kmt, c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT, HOST):
        chain = s.VkExportMemoryAllocateInfo(handleTypes=types)
        api.allocate(64, chain=chain, expect=c.VK_ERROR_INVALID_EXTERNAL_HANDLE)
    # Never private memory that pretends to be shared.
    nv = c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT_NV
    for chain in (
        s.VkExportMemoryAllocateInfoNV(handleTypes=nv),
        s.VkImportMemoryWin32HandleInfoNV(handleType=nv, handle=4),
        s.VkImportMemoryWin32HandleInfoKHR(handleType=kmt, handle=4),
        s.VkImportMemoryWin32HandleInfoKHR(handleType=OPAQUE_FD, handle=4),
    ):
        api.allocate(64, chain=chain, expect=c.VK_ERROR_INVALID_EXTERNAL_HANDLE)


def test_a_full_heap_and_too_many_objects(api, monkeypatch):
    memory = s.VkPhysicalDeviceMemoryProperties()
    api.vkGetPhysicalDeviceMemoryProperties(api.physical, memory)
    half = memory.memoryHeaps[1].size // 2 + 1
    first = api.allocate(half)
    api.allocate(half, expect=c.VK_ERROR_OUT_OF_DEVICE_MEMORY)
    api.free(first)
    api.free(api.allocate(half))
    monkeypatch.setattr("extmem.drivers.embedded.memory.MAX_ALLOCATIONS", 1)
    api.allocate(64)
    api.allocate(64, expect=c.VK_ERROR_TOO_MANY_OBJECTS)


# -- sharing ----------------------------------------------------------------------------------

EXPORT = s.VkExportMemoryAllocateInfo(handleTypes=OPAQUE_FD)


def import_info(fd: int, handle_type: int = OPAQUE_FD):
    return s.VkImportMemoryFdInfoKHR(handleType=handle_type, fd=fd)


@linux
def test_a_payload_outlives_its_exporter_and_imports_are_distinct(api):
    memory = api.allocate(5000, chain=EXPORT)
    view = api.map(memory, 5000)
    first, second = api.export(memory), api.export(memory)
    assert first != second
    assert not os.get_inheritable(first)
    one_, two = (api.allocate(5000, chain=import_info(fd)) for fd in (first, second))
    assert len({memory, one_, two}) == 3
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(first)
    api.map(one_, 5000)[4999] = 9
    assert view[4999] == 9
    api.free(memory)
    api.free(one_)
    assert api.map(two, 5000)[4999] == 9


@linux
def test_imported_memory_is_exported_again_where_it_was_asked_for(api):
    memory = api.allocate(64, chain=EXPORT)
    chain = import_info(api.export(memory))
    chain.pNext = s.VkExportMemoryAllocateInfo(handleTypes=OPAQUE_FD)
    middle = api.allocate(64, chain=chain)
    last = api.allocate(64, chain=import_info(api.export(middle)))
    api.map(memory, 64)[0] = 3
    assert api.map(last, 64)[0] == 3
    plain = s.VkMemoryGetFdInfoKHR(memory=last, handleType=OPAQUE_FD)
    assert api.vkGetMemoryFdKHR(api.device, plain, c_int32()) == c.VK_ERROR_UNKNOWN
    other = s.VkMemoryGetFdInfoKHR(
        memory=memory, handleType=c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT
    )
    assert api.vkGetMemoryFdKHR(api.device, other, c_int32()) == c.VK_ERROR_UNKNOWN


def wrong_descriptors():
    size = 4096 + 64
    yield "closed", 1 << 20
    yield "negative", -1
    reader, writer = os.pipe()
    os.close(writer)
    yield "pipe", reader
    yield "directory", os.open("/", os.O_RDONLY)
    yield "socket", socket.socket().detach()
    unsealed = os.memfd_create("x")
    os.ftruncate(unsealed, size)
    yield "unsealed memfd", unsealed
    import fcntl

    zeros = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.ftruncate(zeros, size)
    fcntl.fcntl(zeros, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    yield "sealed, no header", zeros
    short = os.memfd_create("x")
    yield "empty", short


@linux
def test_descriptors_that_are_no_payloads_are_refused_and_left_open(api):
    for _, fd in wrong_descriptors():
        api.allocate(64, chain=import_info(fd), expect=c.VK_ERROR_INVALID_EXTERNAL_HANDLE)
        if 0 <= fd < 1 << 20:
            os.close(fd)  # raises if the refused import had closed it
    assert api.vkGetMemoryFdPropertiesKHR(
        api.device, OPAQUE_FD, 0, s.VkMemoryFdPropertiesKHR()
    ) == (c.VK_ERROR_INVALID_EXTERNAL_HANDLE)


@linux
def test_an_import_must_repeat_what_was_exported(api):
    memory = api.allocate(8192, chain=EXPORT)
    fd = api.export(memory)
    refused = c.VK_ERROR_INVALID_EXTERNAL_HANDLE
    api.allocate(8191, chain=import_info(fd), expect=refused)
    api.allocate(8193, chain=import_info(fd), expect=refused)
    api.allocate(8192, index=2, chain=import_info(fd), expect=refused)
    wrong = import_info(fd, c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT)
    api.allocate(8192, chain=wrong, expect=refused)
    api.allocate(8192, chain=import_info(fd, HOST), expect=refused)
    other = Api(index=1)
    other.allocate(8192, chain=import_info(fd), expect=refused)
    other.close()
    read_only = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    api.allocate(8192, chain=import_info(read_only), expect=refused)
    os.close(read_only)
    api.allocate(8192, chain=import_info(fd))
    # A handle type of 0 is no import at all.
    plain = api.allocate(64, chain=import_info(-1, 0))
    assert api.map(plain, 64)[0] == 0


@linux
def test_dedicated_payloads_go_to_the_same_resource_only(api):
    def made(width, dedicated_info=None):
        external = s.VkExternalMemoryImageCreateInfo(handleTypes=OPAQUE_FD)
        return api.image(extent=(width, 8, 1), pNext=external)

    image, same, other = made(32), made(32), made(64)
    requirements = s.VkMemoryRequirements()
    api.vkGetImageMemoryRequirements(api.device, image, requirements)
    size = requirements.size
    dedicated = s.VkMemoryDedicatedAllocateInfo(image=image)
    dedicated.pNext = s.VkExportMemoryAllocateInfo(handleTypes=OPAQUE_FD)
    fd = api.export(api.allocate(size, chain=dedicated))
    refused = c.VK_ERROR_INVALID_EXTERNAL_HANDLE

    def imported(target, expect=0):
        chain = import_info(fd)
        chain.pNext = s.VkMemoryDedicatedAllocateInfo(image=target) if target else None
        return api.allocate(size, chain=chain, expect=expect)

    imported(0, refused)
    imported(other, refused)
    memory = imported(same)
    assert api.vkBindImageMemory(api.device, same, memory, 0) == 0


@linux
def test_running_out_of_descriptors(api, monkeypatch):
    memory = api.allocate(64, chain=EXPORT)
    fd = api.export(memory)

    def exhausted(*_):
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(os, "memfd_create", exhausted)
    api.allocate(64, chain=EXPORT, expect=c.VK_ERROR_TOO_MANY_OBJECTS)
    monkeypatch.setattr("fcntl.fcntl", exhausted)
    info = s.VkMemoryGetFdInfoKHR(memory=memory, handleType=OPAQUE_FD)
    result = api.vkGetMemoryFdKHR(api.device, info, c_int32())
    assert result == c.VK_ERROR_TOO_MANY_OBJECTS
    os.close(fd)


def host_info(pointer: int, handle_type: int = HOST):
    return s.VkImportMemoryHostPointerInfoEXT(handleType=handle_type, pHostPointer=pointer)


def test_host_allocations_are_used_where_they_are(api):
    mine = mmap.mmap(-1, 8192)
    view = (c_uint8 * 8192).from_buffer(mine)
    address = ctypes.addressof(view)
    found = s.VkMemoryHostPointerPropertiesEXT()
    pointer = c_void_p(address)
    assert api.vkGetMemoryHostPointerPropertiesEXT(api.device, HOST, pointer, found) == 0
    assert found.memoryTypeBits == 0b110
    memory = api.allocate(8192, chain=host_info(address))
    buffer = api.buffer(memory, 8192)
    api.run(("vkCmdFillBuffer", buffer, 4096, c.VK_WHOLE_SIZE, 0x04030201))
    assert bytes(mine[4094:4102]) == b"\0\0\1\2\3\4\1\2"
    api.free(memory)
    assert view[4096] == 1
    refused = c.VK_ERROR_INVALID_EXTERNAL_HANDLE
    api.allocate(8192, chain=host_info(0), expect=refused)
    api.allocate(4096, chain=host_info(address + 64), expect=refused)
    api.allocate(4095, chain=host_info(address), expect=refused)
    api.allocate(4096, index=0, chain=host_info(address), expect=refused)
    foreign = c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_MAPPED_FOREIGN_MEMORY_BIT_EXT
    api.allocate(4096, chain=host_info(address, foreign), expect=refused)
    if sys.platform == "linux":
        api.allocate(4096, chain=host_info(1 << 44), expect=refused)
    unmapped = c_void_p(1 << 44 if sys.platform == "linux" else 0)
    asked = api.vkGetMemoryHostPointerPropertiesEXT(api.device, HOST, unmapped, found)
    assert asked == refused
    del view
    mine.close()


CHILD = r"""
import socket, sys
sys.path.insert(0, sys.argv[2])
from test_embedded_device import Api, import_info
channel = socket.socket(fileno=int(sys.argv[1]))
_, (fd,), _, _ = socket.recv_fds(channel, 1, 1)
api = Api(extensions=["VK_KHR_external_memory_fd"])
memory = api.allocate(65536, chain=import_info(fd))
view = api.map(memory, 65536)
assert bytes(view[:4]) == b"ping", bytes(view[:4])
buffer = api.buffer(memory, 65536)
api.run(("vkCmdFillBuffer", buffer, 32768, 32768, 0x706F6E67))
channel.sendall(b"!")
channel.recv(1)
assert view[0] == 77  # written by the parent's queue after it was told
api.close()
"""


@linux
def test_two_processes_share_one_payload(api):
    memory = api.allocate(65536, chain=EXPORT)
    view = api.map(memory, 65536)
    view[:4] = b"ping"
    mine, theirs = socket.socketpair()
    here = str(Path(__file__).parent)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(theirs.fileno()), here], pass_fds=[theirs.fileno()]
    )
    theirs.close()
    fd = api.export(memory)
    socket.send_fds(mine, [b"x"], [fd])
    os.close(fd)
    mine.settimeout(30)
    assert mine.recv(1) == b"!"
    assert bytes(view[32768:32772]) == b"gnop"
    assert bytes(view[32764:32768]) == b"\0\0\0\0"
    buffer = api.buffer(memory, 65536)
    api.run(("vkCmdFillBuffer", buffer, 0, 4, 77))
    mine.sendall(b"!")
    assert child.wait(30) == 0
    mine.close()


# -- copies -----------------------------------------------------------------------------------


def test_buffer_copies_updates_and_fills(api):
    memory = api.allocate(4096)
    view = api.map(memory, 4096)
    source, target = api.buffer(memory, 1024), api.buffer(memory, 1024, 2048)
    copies = (s.VkBufferCopy * 2)(s.VkBufferCopy(0, 512, 16), s.VkBufferCopy(16, 0, 4))
    region = s.VkBufferCopy2(srcOffset=1, dstOffset=1000, size=3)
    again = s.VkCopyBufferInfo2(srcBuffer=source, dstBuffer=target, pRegions=[region])
    data = (c_uint8 * 20)(*range(20))
    api.run(
        ("vkCmdUpdateBuffer", source, 0, 20, ctypes.cast(data, c_void_p)),
        ("vkCmdPipelineBarrier", 1, 1, 0, 0, None, 0, None, 0, None),
        ("vkCmdPipelineBarrier2", s.VkDependencyInfo()),
        ("vkCmdCopyBuffer", source, target, 2, copies),
        ("vkCmdCopyBuffer2", again),
        ("vkCmdFillBuffer", target, 20, 12, 0xAABBCCDD),
    )
    assert bytes(view[2048 + 512 : 2048 + 528]) == bytes(range(16))
    assert bytes(view[2048 : 2048 + 4]) == bytes(range(16, 20))
    assert bytes(view[2048 + 1000 : 2048 + 1003]) == b"\1\2\3"
    assert bytes(view[2048 + 20 : 2048 + 33]) == bytes.fromhex("ddccbbaa") * 3 + b"\0"


@pytest.mark.parametrize("tiling", [c.VK_IMAGE_TILING_OPTIMAL, c.VK_IMAGE_TILING_LINEAR])
def test_image_copies_keep_every_texel(api, tiling):
    width, height = 30, 17
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 4), dtype=np.uint8)
    staging = api.allocate(1 << 16)
    view = np.frombuffer(api.map(staging, 1 << 16), dtype=np.uint8)
    buffer = api.buffer(staging, 1 << 16)
    members = {"extent": (width, height, 1), "tiling": tiling, "mipLevels": 2, "arrayLayers": 3}
    images = [api.image(api.allocate(1 << 16, index=0), **members) for _ in range(2)]
    view[: pixels.nbytes] = pixels.reshape(-1)
    part = s.VkImageCopy(srcSubresource=layers(first=2), dstSubresource=layers(first=1))
    part.srcOffset, part.dstOffset = s.VkOffset3D(5, 4, 0), s.VkOffset3D(1, 2, 0)
    part.extent = s.VkExtent3D(10, 6, 1)
    place = layers(first=1)
    api.run(
        (
            "vkCmdCopyBufferToImage",
            *(buffer, images[0], c.VK_IMAGE_LAYOUT_TRANSFER_DST_OPTIMAL, 1),
            buffer_image((width, height, 1), place=layers(first=2)),
        ),
        ("vkCmdCopyImage", images[0], 7, images[1], 7, 1, one(part)),
        # Into rows of 40 texels, from the second row on.
        (
            "vkCmdCopyImageToBuffer",
            *(images[1], c.VK_IMAGE_LAYOUT_GENERAL, buffer, 1),
            buffer_image((10, 6, 1), offset=8192, at=(1, 2, 0), row=40, height=9, place=place),
        ),
    )
    rows = view[8192 : 8192 + 6 * 160].reshape(6, 40, 4)
    assert (rows[:, :10] == pixels[4:10, 5:15]).all()
    assert not rows[:-1, 10:].any()


def test_linear_images_lie_where_their_layout_says(api):
    memory = api.allocate(1 << 16)
    view = np.frombuffer(api.map(memory, 1 << 16), dtype=np.uint8)
    image = api.image(memory, tiling=c.VK_IMAGE_TILING_LINEAR, extent=(10, 4, 1), arrayLayers=2)
    layout = s.VkSubresourceLayout()
    asked = s.VkImageSubresource(c.VK_IMAGE_ASPECT_COLOR_BIT, 0, 1)
    api.vkGetImageSubresourceLayout(api.device, image, asked, layout)
    assert (layout.rowPitch, layout.size) == (64, 256)
    red = s.VkClearColorValue()
    red.float32[:] = (1, 0, 0, 0.5)
    second = s.VkImageSubresourceRange(c.VK_IMAGE_ASPECT_COLOR_BIT, 0, 1, 1, 1)
    api.run(("vkCmdClearColorImage", image, c.VK_IMAGE_LAYOUT_GENERAL, red, 1, one(second)))
    assert not view[: layout.offset].any()
    row = view[layout.offset + 64 : layout.offset + 128]
    assert row[:4].tolist() == [255, 0, 0, 128]
    assert not row[40:].any()


def test_volumes_and_layers_copy_into_each_other(api):
    staging = api.allocate(1 << 12)
    view = np.frombuffer(api.map(staging, 1 << 12), dtype=np.uint8)
    view[:64] = range(64)
    buffer = api.buffer(staging, 1 << 12)
    volume = api.image(
        api.allocate(1 << 12),
        format=c.VK_FORMAT_R8_UINT,
        imageType=c.VK_IMAGE_TYPE_3D,
        extent=(4, 4, 4),
    )
    flat = api.image(
        api.allocate(1 << 12), format=c.VK_FORMAT_R8_UINT, extent=(4, 4, 1), arrayLayers=2
    )
    copy = s.VkImageCopy(srcSubresource=layers(), dstSubresource=layers(count=2))
    copy.srcOffset, copy.extent = s.VkOffset3D(0, 0, 1), s.VkExtent3D(4, 4, 2)
    api.run(
        ("vkCmdCopyBufferToImage", buffer, volume, 7, 1, buffer_image((4, 4, 4))),
        ("vkCmdCopyImage", volume, 6, flat, 7, 1, one(copy)),
        (
            "vkCmdCopyImageToBuffer",
            *(flat, 6, buffer, 1),
            buffer_image((4, 4, 1), offset=1024, place=layers(count=2)),
        ),
    )
    assert view[1024 : 1024 + 32].tolist() == list(range(16, 48))


def test_planes_of_nv12(api):
    format = c.VK_FORMAT_G8_B8R8_2PLANE_420_UNORM
    image = api.image(format=format, extent=(16, 8, 1), tiling=c.VK_IMAGE_TILING_LINEAR)
    requirements = s.VkMemoryRequirements2(pNext=s.VkMemoryDedicatedRequirements())
    info = s.VkImageMemoryRequirementsInfo2(image=image)
    api.vkGetImageMemoryRequirements2(api.device, info, requirements)
    without = s.VkMemoryRequirements2()
    described = image_info(format, (16, 8, 1), tiling=c.VK_IMAGE_TILING_LINEAR)
    api.vkGetDeviceImageMemoryRequirements(
        api.device, s.VkDeviceImageMemoryRequirements(pCreateInfo=described), without
    )
    size = requirements.memoryRequirements.size
    assert size == without.memoryRequirements.size == 64 * 8 + 64 * 4
    memory = api.allocate(size)
    assert (
        api.vkBindImageMemory2(
            api.device, 1, one(s.VkBindImageMemoryInfo(image=image, memory=memory))
        )
        == 0
    )
    view = np.frombuffer(api.map(memory, size), dtype=np.uint8)
    staging = api.allocate(256)
    source = np.frombuffer(api.map(staging, 256), dtype=np.uint8)
    source[:] = range(256)
    place = layers(c.VK_IMAGE_ASPECT_PLANE_1_BIT)
    chroma = buffer_image((8, 4, 1), offset=100, place=place)
    buffer = api.buffer(staging, 256)
    api.run(("vkCmdCopyBufferToImage", buffer, image, 7, 1, chroma))
    assert not view[:512].any()
    assert view[512 + 64 : 512 + 80].tolist() == list(range(116, 132))


def test_clear_colours_in_many_formats(api):
    memory = api.allocate(4096)
    view = api.map(memory, 4096)
    color = s.VkClearColorValue()
    everything = one(
        s.VkImageSubresourceRange(
            aspectMask=c.VK_IMAGE_ASPECT_COLOR_BIT,
            levelCount=c.VK_REMAINING_MIP_LEVELS,
            layerCount=c.VK_REMAINING_ARRAY_LAYERS,
        )
    )
    for format, member, value, expected in (
        (c.VK_FORMAT_B8G8R8A8_UNORM, "float32", (1, 0.5, 0, 1), "0080ffff"),
        (c.VK_FORMAT_R8G8_SNORM, "float32", (-1, 0.5, 0, 0), "8140"),
        (c.VK_FORMAT_R16G16_SINT, "int32", (-2, 70000, 0, 0), "feffff7f"),
        (c.VK_FORMAT_R16_SFLOAT, "float32", (1e9, 0, 0, 0), "007c"),
        (c.VK_FORMAT_R32_SFLOAT, "float32", (1, 0, 0, 0), "0000803f"),
        (c.VK_FORMAT_A2B10G10R10_UNORM_PACK32, "float32", (1, 0, 0, 1), "ff0300c0"),
        (c.VK_FORMAT_R8G8B8A8_SRGB, "float32", (0.5, 0, 0, 0.5), "bc000080"),
    ):
        getattr(color, member)[:] = value
        image = api.image(memory, format=format, extent=(5, 3, 1))
        api.run(("vkCmdClearColorImage", image, 1, color, 1, everything))
        size = len(expected) // 2
        assert bytes(view[: 15 * size]).hex() == expected * 15, format


def test_secondary_command_buffers_and_states(api):
    memory = api.allocate(64)
    view = api.map(memory, 64)
    buffer = api.buffer(memory, 64)
    pool = api.create("vkCreateCommandPool", s.VkCommandPoolCreateInfo())
    inner = (c_void_p * 1)()
    info = s.VkCommandBufferAllocateInfo(
        commandPool=pool, level=c.VK_COMMAND_BUFFER_LEVEL_SECONDARY, commandBufferCount=1
    )
    assert api.vkAllocateCommandBuffers(api.device, info, inner) == 0
    begin = s.VkCommandBufferBeginInfo(pInheritanceInfo=s.VkCommandBufferInheritanceInfo())
    assert api.vkBeginCommandBuffer(inner[0], begin) == 0
    api.vkCmdFillBuffer(inner[0], buffer, 0, 8, 5)
    assert api.submit(inner[0]) == c.VK_ERROR_UNKNOWN
    assert api.vkEndCommandBuffer(inner[0]) == 0
    outer = api.record(("vkCmdExecuteCommands", 1, inner))
    for _ in range(2):
        assert api.submit(outer) == 0
    assert api.vkDeviceWaitIdle(api.device) == 0
    assert view[4] == 5
    assert api.vkResetCommandBuffer(outer, 0) == 0
    assert api.submit(outer) == c.VK_ERROR_UNKNOWN
    # What goes wrong while recording is said at the end of it.
    assert api.vkBeginCommandBuffer(outer, s.VkCommandBufferBeginInfo()) == 0
    api.vkCmdFillBuffer(outer, 0xBAD, 0, 8, 5)
    assert api.vkEndCommandBuffer(outer) == c.VK_ERROR_UNKNOWN
    once = s.VkCommandBufferBeginInfo(flags=c.VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT)
    assert api.vkBeginCommandBuffer(outer, once) == 0
    assert api.vkEndCommandBuffer(outer) == 0
    assert [api.submit(outer), api.submit(outer)] == [0, c.VK_ERROR_UNKNOWN]
    api.vkDestroyCommandPool(api.device, pool, None)
    assert api.vkEndCommandBuffer(inner[0]) == c.VK_ERROR_UNKNOWN


@pytest.mark.parametrize("case", ["freed", "destroyed", "unbound", "outside"])
def test_work_on_what_is_not_there_loses_the_device_and_nothing_else(api, case):
    memory = api.allocate(4096)
    buffer = api.buffer(memory, 64)
    if case == "unbound":
        usage = c.VK_BUFFER_USAGE_TRANSFER_DST_BIT
        buffer = api.create("vkCreateBuffer", s.VkBufferCreateInfo(size=64, usage=usage))
    commands = api.record(("vkCmdFillBuffer", buffer, 0, 128 if case == "outside" else 64, 1))
    if case == "freed":
        api.free(memory)
    if case == "destroyed":
        api.vkDestroyBuffer(api.device, buffer, None)
    fence = api.create("vkCreateFence", s.VkFenceCreateInfo())
    assert api.submit(commands, fence=fence) == 0
    fences = (c_uint64 * 1)(fence)
    waited = api.vkWaitForFences(api.device, 1, fences, 1, FOREVER)
    assert waited == c.VK_ERROR_DEVICE_LOST
    assert api.vkDeviceWaitIdle(api.device) == c.VK_ERROR_DEVICE_LOST
    assert api.submit() == c.VK_ERROR_DEVICE_LOST


# -- synchronisation --------------------------------------------------------------------------


def test_fences(api):
    signaled = s.VkFenceCreateInfo(flags=c.VK_FENCE_CREATE_SIGNALED_BIT)
    first = api.create("vkCreateFence", signaled)
    second = api.create("vkCreateFence", s.VkFenceCreateInfo())
    both = (c_uint64 * 2)(first, second)
    assert api.vkGetFenceStatus(api.device, first) == 0
    assert api.vkGetFenceStatus(api.device, second) == c.VK_NOT_READY
    assert api.vkWaitForFences(api.device, 2, both, 0, 0) == 0
    assert api.vkWaitForFences(api.device, 2, both, 1, 1_000_000) == c.VK_TIMEOUT
    assert api.vkQueueSubmit(api.queues[2], 0, None, second) == 0
    assert api.vkWaitForFences(api.device, 2, both, 1, FOREVER) == 0
    assert api.vkResetFences(api.device, 2, both) == 0
    assert api.vkGetFenceStatus(api.device, first) == c.VK_NOT_READY


def test_binary_semaphores_between_queues(api):
    memory = api.allocate(64)
    view = api.map(memory, 64)
    buffer = api.buffer(memory, 64)
    semaphore = api.create("vkCreateSemaphore", s.VkSemaphoreCreateInfo())
    later = api.record(("vkCmdFillBuffer", buffer, 0, 4, 2))
    sooner = api.record(("vkCmdFillBuffer", buffer, 0, 4, 1))
    stages = [c.VK_PIPELINE_STAGE_TRANSFER_BIT]
    waiting = {"pWaitSemaphores": [semaphore], "pWaitDstStageMask": stages}
    for _ in range(20):
        assert api.submit(later, queue=2, **waiting) == 0
        assert api.submit(sooner, queue=0, pSignalSemaphores=[semaphore]) == 0
        assert api.vkDeviceWaitIdle(api.device) == 0
        assert view[0] == 2


def test_timeline_waits_before_it_is_signalled(api):
    memory = api.allocate(64)
    view = api.map(memory, 64)
    buffer = api.buffer(memory, 64)
    timeline = api.timeline(3)
    fill = api.record(("vkCmdFillBuffer", buffer, 0, 4, 9))
    submit = s.VkSubmitInfo2(
        pWaitSemaphoreInfos=[s.VkSemaphoreSubmitInfo(semaphore=timeline, value=5)],
        pCommandBufferInfos=[s.VkCommandBufferSubmitInfo(commandBuffer=fill)],
        pSignalSemaphoreInfos=[s.VkSemaphoreSubmitInfo(semaphore=timeline, value=6)],
    )
    assert api.vkQueueSubmit2(api.queues[1], 1, one(submit), 0) == 0
    info = s.VkSemaphoreWaitInfo(pSemaphores=[timeline], pValues=[6])
    assert api.vkWaitSemaphores(api.device, info, 20_000_000) == c.VK_TIMEOUT
    box = c_uint64()
    assert api.vkGetSemaphoreCounterValue(api.device, timeline, box) == 0
    assert (box.value, view[0]) == (3, 0)
    # The signal comes from another queue, through the older submit.
    values = s.VkTimelineSemaphoreSubmitInfo(pSignalSemaphoreValues=[5])
    assert api.submit(queue=2, pSignalSemaphores=[timeline], pNext=values) == 0
    assert api.vkWaitSemaphores(api.device, info, FOREVER) == 0
    assert view[0] == 9
    backwards = s.VkSemaphoreSignalInfo(semaphore=timeline, value=6)
    assert api.vkSignalSemaphore(api.device, backwards) == c.VK_ERROR_UNKNOWN


def test_wait_for_any_or_all_timelines_and_signals_of_the_host(api):
    first, second = api.timeline(), api.timeline(1)
    both = s.VkSemaphoreWaitInfo(pSemaphores=[first, second], pValues=[1, 1])
    assert api.vkWaitSemaphores(api.device, both, 0) == c.VK_TIMEOUT
    either = s.VkSemaphoreWaitInfo(
        flags=c.VK_SEMAPHORE_WAIT_ANY_BIT, pSemaphores=[first, second], pValues=[1, 1]
    )
    assert api.vkWaitSemaphores(api.device, either, 0) == 0
    signal = s.VkSemaphoreSignalInfo(semaphore=first, value=1)
    timer = threading.Timer(0.02, api.vkSignalSemaphore, (api.device, signal))
    timer.start()
    started = time.monotonic()
    assert api.vkWaitSemaphores(api.device, both, 10_000_000_000) == 0
    assert time.monotonic() - started < 5
    timer.join()


def test_events_on_the_host(api):
    event = api.create("vkCreateEvent", s.VkEventCreateInfo())
    assert api.vkGetEventStatus(api.device, event) == c.VK_EVENT_RESET
    assert api.vkSetEvent(api.device, event) == 0
    assert api.vkGetEventStatus(api.device, event) == c.VK_EVENT_SET
    assert api.vkResetEvent(api.device, event) == 0


def test_a_device_is_destroyed_with_work_that_never_ran(api):
    other = Api()
    timeline = other.timeline()
    values = s.VkTimelineSemaphoreSubmitInfo(pWaitSemaphoreValues=[1])
    stages = [c.VK_PIPELINE_STAGE_TRANSFER_BIT]
    waiting = {"pWaitSemaphores": [timeline], "pWaitDstStageMask": stages}
    assert other.submit(pNext=values, **waiting) == 0
    other.allocate(4096)  # and with memory that nobody freed
    other.close()


FORGOTTEN = r"""
import sys
sys.path.insert(0, sys.argv[1])
from test_embedded_device import Api, c, s
api = Api()
api.run()
values = s.VkTimelineSemaphoreSubmitInfo(pWaitSemaphoreValues=[1])
api.submit(pNext=values, pWaitSemaphores=[api.timeline()], pWaitDstStageMask=[1])
"""


def test_a_forgotten_device_does_not_keep_the_interpreter():
    here = str(Path(__file__).parent)
    assert subprocess.run([sys.executable, "-c", FORGOTTEN, here], timeout=60).returncode == 0
