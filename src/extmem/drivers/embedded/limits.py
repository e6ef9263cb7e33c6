"""What the two physical devices say of themselves: identity, memory, queues, limits, features."""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
from dataclasses import dataclass
from typing import Any

from extmem.vk import _constants as c

__all__ = [
    "ALIGNMENT",
    "API_VERSION",
    "DRIVER_UUID",
    "FEATURES",
    "FORMAT_VERSION",
    "HEAPS",
    "HEAP_SIZE",
    "HOST_POINTER_ALIGNMENT",
    "IDENTITIES",
    "LIMITS",
    "MAX_ALLOCATIONS",
    "MEMORY_TYPES",
    "PROPERTIES",
    "QUEUE_COUNTS",
    "QUEUE_FLAGS",
    "SAMPLES",
    "Identity",
]

# Everything in scope of Vulkan 1.3 that needs no shader is here; its rendering half is not, and no
# version of Vulkan can be fully met without it.
API_VERSION = int(c.VK_API_VERSION_1_3)

# Counts up when the meaning of shared bytes changes: the payload's header, or the private layout of
# optimal images. It is the "build" that the driver UUID names, so that two releases of this package
# can share as long as they agree on those.
FORMAT_VERSION = 1


def _uuid(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


DRIVER_UUID = _uuid(f"extmem embedded device, format {FORMAT_VERSION}")


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells one physical device from another; the same in every process and after a boot."""

    index: int
    name: str
    uuid: bytes
    luid: bytes


IDENTITIES = tuple(
    Identity(
        i,
        f"extmem embedded {i}",
        _uuid(f"extmem embedded {i}"),
        b"extmem\0" + bytes([i + 1]),
    )
    for i in range(2)
)


def _system_memory() -> int:
    if sys.platform == "win32":
        kilobytes = ctypes.c_ulonglong()
        ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kilobytes))
        return kilobytes.value * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


# Two devices with two heaps each live in the same memory: each heap is a quarter of it. The floor
# is what Vulkan demands of maxMemoryAllocationSize.
HEAP_SIZE = max(_system_memory() // 4, 1 << 30) & ~0xFFFFF
HEAPS = ((HEAP_SIZE, int(c.VK_MEMORY_HEAP_DEVICE_LOCAL_BIT)), (HEAP_SIZE, 0))

# The third type is not coherent in what it promises. Physically it is: plain memory always is, so
# nothing goes wrong here where a flush is forgotten. The rules above are what notices.
MEMORY_TYPES = (
    (0, int(c.VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT)),
    (1, int(c.VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | c.VK_MEMORY_PROPERTY_HOST_COHERENT_BIT)),
    (1, int(c.VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | c.VK_MEMORY_PROPERTY_HOST_CACHED_BIT)),
)

# Two families that copy, and nothing else: there are no shaders.
QUEUE_COUNTS = (2, 1)
QUEUE_FLAGS = int(c.VK_QUEUE_TRANSFER_BIT)

ALIGNMENT = 64
HOST_POINTER_ALIGNMENT = 4096
MAX_ALLOCATIONS = 32768

_ONE_SAMPLE = int(c.VK_SAMPLE_COUNT_1_BIT)
SAMPLES = _ONE_SAMPLE | int(c.VK_SAMPLE_COUNT_4_BIT)  # of images as attachments for others

# Limits of shaders and pipelines stay 0, because there are none. Those of framebuffers are given,
# because images may be made as attachments for others.
LIMITS: dict[str, Any] = {
    "maxImageDimension1D": 16384,
    "maxImageDimension2D": 16384,
    "maxImageDimension3D": 2048,
    "maxImageDimensionCube": 16384,
    "maxImageArrayLayers": 2048,
    "maxTexelBufferElements": 1 << 27,
    "maxUniformBufferRange": 1 << 27,
    "maxStorageBufferRange": 1 << 27,
    "maxMemoryAllocationCount": MAX_ALLOCATIONS,
    "maxSamplerAllocationCount": 4000,
    "bufferImageGranularity": 1,
    "maxFramebufferWidth": 16384,
    "maxFramebufferHeight": 16384,
    "maxFramebufferLayers": 2048,
    "maxColorAttachments": 4,
    "framebufferColorSampleCounts": SAMPLES,
    "framebufferDepthSampleCounts": SAMPLES,
    "framebufferStencilSampleCounts": _ONE_SAMPLE,
    "framebufferNoAttachmentsSampleCounts": SAMPLES,
    "sampledImageColorSampleCounts": SAMPLES,
    "sampledImageIntegerSampleCounts": SAMPLES,
    "sampledImageDepthSampleCounts": SAMPLES,
    "sampledImageStencilSampleCounts": _ONE_SAMPLE,
    "storageImageSampleCounts": _ONE_SAMPLE,
    "maxSampleMaskWords": 1,
    "minMemoryMapAlignment": 4096,
    "minTexelBufferOffsetAlignment": ALIGNMENT,
    "minUniformBufferOffsetAlignment": ALIGNMENT,
    "minStorageBufferOffsetAlignment": ALIGNMENT,
    "discreteQueuePriorities": 2,
    "optimalBufferCopyOffsetAlignment": 1,
    "optimalBufferCopyRowPitchAlignment": 1,
    "nonCoherentAtomSize": ALIGNMENT,
}

# Members of the chained property structures, whichever structure carries them; one that is missing
# here describes shaders or rendering and stays 0. The identity of the device is added to these.
PROPERTIES: dict[str, Any] = {
    "deviceNodeMask": 1,
    "deviceLUIDValid": 1,
    "driverName": b"extmem embedded",
    "driverInfo": f"format {FORMAT_VERSION}".encode(),
    "maxPerSetDescriptors": 1024,
    "maxMemoryAllocationSize": HEAP_SIZE,
    "maxBufferSize": HEAP_SIZE,
    "maxTimelineSemaphoreValueDifference": (1 << 63) - 1,
    "minImportedHostPointerAlignment": HOST_POINTER_ALIGNMENT,
}

FEATURES = frozenset({"timelineSemaphore", "synchronization2", "maintenance4"})
