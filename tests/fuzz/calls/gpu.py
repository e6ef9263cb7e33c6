"""An instance with a device to make calls on, and what its driver can do."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from extmem import DriverError, vk
from extmem.vk import _prototypes
from extmem.vk._prototype import Prototype

__all__ = ["Abilities", "Gpu", "Look", "version_of"]

_PROVIDERS = {
    provider
    for each in vars(_prototypes).values()
    if isinstance(each, Prototype)
    for group in each.provided.values()
    for provider in group
}
# Extensions that bring structures alone; and those that are older names of others.
_MORE = {
    "VK_EXT_external_memory_dma_buf",
    "VK_EXT_memory_priority",
    "VK_EXT_queue_family_foreign",
    "VK_KHR_dedicated_allocation",
    "VK_KHR_external_fence",
    "VK_KHR_external_memory",
    "VK_KHR_external_semaphore",
    "VK_KHR_image_format_list",
    "VK_KHR_win32_keyed_mutex",
    "VK_NV_dedicated_allocation",
    "VK_NV_external_memory",
    "VK_NV_win32_keyed_mutex",
}
_LESS = {"VK_EXT_buffer_device_address"}
_MODERN = {"VK_EXT_host_image_copy", "VK_KHR_maintenance5"}  # stand on Vulkan 1.3

_RGBA, _R8, _D16 = (
    int(each)
    for each in (vk.VK_FORMAT_R8G8B8A8_UNORM, vk.VK_FORMAT_R8_UNORM, vk.VK_FORMAT_D16_UNORM)
)
_1D, _2D, _3D = 0, 1, 2
_OPTIMAL, _LINEAR, _MODIFIER = 0, 1, int(vk.VK_IMAGE_TILING_DRM_FORMAT_MODIFIER_EXT)
_COPY = int(vk.VK_IMAGE_USAGE_TRANSFER_SRC_BIT | vk.VK_IMAGE_USAGE_TRANSFER_DST_BIT)
_HOST = int(vk.VK_IMAGE_USAGE_HOST_TRANSFER_BIT)
_COLOUR = int(vk.VK_IMAGE_USAGE_COLOR_ATTACHMENT_BIT)
_SAMPLED = int(vk.VK_IMAGE_USAGE_SAMPLED_BIT)


def version_of(minor: int) -> int:
    """Vulkan 1.minor, as a number."""
    return vk.VK_MAKE_API_VERSION(0, 1, minor, 0)


@dataclass(frozen=True, slots=True)
class Look:
    """An image that can be made: how it looks."""

    format: int = _RGBA
    type: int = _2D
    extent: tuple[int, int, int] = (16, 16, 1)
    levels: int = 1
    layers: int = 1
    samples: int = 1
    tiling: int = _OPTIMAL
    usage: int = _COPY | _SAMPLED
    flags: int = 0

    @property
    def aspect(self) -> int:
        return 2 if self.format == _D16 else 1


_LOOKS = (
    Look(),
    Look(tiling=_LINEAR, usage=_COPY),
    Look(levels=3, layers=2),
    Look(format=_R8, extent=(33, 7, 1)),
    Look(type=_1D, extent=(64, 1, 1)),
    Look(type=_3D, extent=(8, 8, 8)),
    Look(usage=_COPY | _HOST | _SAMPLED),
    Look(format=_D16, usage=_COPY),
    Look(samples=4, usage=_COPY | _COLOUR),
    Look(usage=_COPY | _COLOUR),
    Look(tiling=_MODIFIER, usage=_COPY),
)

_MEMORY_TYPES = (0x1, 0x2, 0x4, 0x8, 0x10, 0x20, 0x40, 0x80, 0x200)
_SIGNAL_TYPES = (0x1, 0x2, 0x4, 0x8, 0x10)


@dataclass(slots=True)
class Abilities:
    """What a driver's device can do. Asked once."""

    looks: tuple[Look, ...] = ()
    # Handle types by features: 1 with a resource of its own alone, 2 exported, 4 imported.
    buffers: dict[int, int] = field(default_factory=dict)
    semaphores: dict[tuple[int, bool], int] = field(default_factory=dict)  # and whether timelines
    fences: dict[int, int] = field(default_factory=dict)


class Gpu:
    """One instance, one device with all of its queues; `extensions` are those enabled."""

    def __init__(
        self, driver: str, *, minor: int = 3, index: int = 0, abilities: Abilities | None = None
    ) -> None:
        self.driver = driver
        self.minor = minor
        application = vk.VkApplicationInfo(apiVersion=version_of(minor))
        offered = {
            x.extensionName for x in vk.vkEnumerateInstanceExtensionProperties(driver=driver)
        }
        wanted = [x for x in sorted(offered) if x.startswith(("VK_KHR_external", "VK_NV_ext"))]
        wanted += [x for x in sorted(offered) if x in _PROVIDERS]
        wanted += ["VK_KHR_get_physical_device_properties2"]
        names = sorted(set(wanted) & offered)
        info = vk.VkInstanceCreateInfo(
            pApplicationInfo=application, ppEnabledExtensionNames=names or None
        )
        self.instance = vk.vkCreateInstance(info, driver=driver, checks="full")
        self.physicals = vk.vkEnumeratePhysicalDevices(self.instance)
        self.physical = self.physicals[index % len(self.physicals)]
        has = {
            x.extensionName for x in vk.vkEnumerateDeviceExtensionProperties(self.physical, None)
        }
        self.offered = sorted(has)
        enabled = (has & (_PROVIDERS | _MORE)) - _LESS - (_MODERN if minor < 3 else set())
        self.extensions = frozenset(enabled)
        families = vk.vkGetPhysicalDeviceQueueFamilyProperties(self.physical)
        self.families = [(int(x.queueFlags), int(x.queueCount)) for x in families]
        self.features: set[str] = set()
        self.device = vk.vkCreateDevice(self.physical, self.device_info())
        self.dispatch: Any = self.device.dispatch
        self.queues = [
            vk.vkGetDeviceQueue(self.device, family, number)
            for family, (_, count) in enumerate(self.families)
            for number in range(count)
        ]
        found = vk.vkGetPhysicalDeviceMemoryProperties(self.physical)
        self.types = [
            int(found.memoryTypes[each].propertyFlags) for each in range(found.memoryTypeCount)
        ]
        self.heap = max(int(found.memoryHeaps[each].size) for each in range(found.memoryHeapCount))
        self.abilities = abilities or self._ask()

    def device_info(self) -> Any:
        """A VkDeviceCreateInfo with all queues, and what is wanted of extensions and features."""
        queues = [
            vk.VkDeviceQueueCreateInfo(queueFamilyIndex=family, pQueuePriorities=[1.0] * count)
            for family, (_, count) in enumerate(self.families)
        ]
        return vk.VkDeviceCreateInfo(
            pQueueCreateInfos=queues,
            ppEnabledExtensionNames=sorted(self.extensions) or None,
            pNext=self._features(),
        )

    def _features(self) -> Any:
        """Those that commands in scope stand on, as far as they are offered."""
        asked: list[tuple[Any, tuple[str, ...]]] = []
        if self.minor >= 2:
            twelve = ("timelineSemaphore", "bufferDeviceAddress")
            asked.append((vk.VkPhysicalDeviceVulkan12Features, twelve))
        elif self.minor and "VK_KHR_timeline_semaphore" in self.extensions:
            asked.append((vk.VkPhysicalDeviceTimelineSemaphoreFeatures, ("timelineSemaphore",)))
        if self.minor >= 3:
            thirteen = ("synchronization2", "maintenance4")
            asked.append((vk.VkPhysicalDeviceVulkan13Features, thirteen))
        elif self.minor and "VK_KHR_synchronization2" in self.extensions:
            asked.append((vk.VkPhysicalDeviceSynchronization2Features, ("synchronization2",)))
        for extension, cls, name in (
            ("VK_EXT_host_image_copy", vk.VkPhysicalDeviceHostImageCopyFeatures, "hostImageCopy"),
            ("VK_KHR_maintenance5", vk.VkPhysicalDeviceMaintenance5Features, "maintenance5"),
        ):
            if extension in self.extensions:
                asked.append((cls, (name,)))
        if not asked:
            return None
        answers = [cls() for cls, _ in asked]
        vk.vkGetPhysicalDeviceFeatures2(
            self.physical, vk.link(vk.VkPhysicalDeviceFeatures2(), *answers)
        )
        found = []
        for answer, (cls, names) in zip(answers, asked, strict=True):
            on = {name: 1 for name in names if getattr(answer, name)}
            self.features |= set(on)
            found.append(cls(**on))
        return vk.link(*found)

    def has(self, command: str) -> bool:
        """Whether the driver has a command."""
        return bool(self.dispatch.has(command) or self.dispatch.parent.has(command))

    # -- what it can do -------------------------------------------------------------------------

    def _ask(self) -> Abilities:
        found = Abilities(looks=tuple(each for each in _LOOKS if self._can_have(each)))
        if self.minor == 0:
            return found
        usage = int(vk.VK_BUFFER_USAGE_TRANSFER_SRC_BIT | vk.VK_BUFFER_USAGE_TRANSFER_DST_BIT)
        for each in _MEMORY_TYPES:
            info = vk.VkPhysicalDeviceExternalBufferInfo(usage=usage, handleType=each)
            box = vk.vkGetPhysicalDeviceExternalBufferProperties(self.physical, info)
            found.buffers[each] = int(box.externalMemoryProperties.externalMemoryFeatures)
        for each in _SIGNAL_TYPES:
            for kind in (0, 1):
                timeline = vk.VkSemaphoreTypeCreateInfo(semaphoreType=kind)
                asked = vk.VkPhysicalDeviceExternalSemaphoreInfo(handleType=each, pNext=timeline)
                said = vk.vkGetPhysicalDeviceExternalSemaphoreProperties(self.physical, asked)
                found.semaphores[each, bool(kind)] = int(said.externalSemaphoreFeatures)
        for each in _SIGNAL_TYPES[:4]:
            about = vk.VkPhysicalDeviceExternalFenceInfo(handleType=each)
            told = vk.vkGetPhysicalDeviceExternalFenceProperties(self.physical, about)
            found.fences[each] = int(told.externalFenceFeatures)
        return found

    def _can_have(self, look: Look) -> bool:
        if look.tiling == _MODIFIER:
            return "VK_EXT_image_drm_format_modifier" in self.extensions
        if look.usage & _HOST and "hostImageCopy" not in self.features:
            return False
        asked = (look.format, look.type, look.tiling, look.usage, look.flags)
        with suppress(DriverError):
            said = vk.vkGetPhysicalDeviceImageFormatProperties(self.physical, *asked)
            most = (said.maxExtent.width, said.maxExtent.height, said.maxExtent.depth)
            return (
                all(asked <= can for asked, can in zip(look.extent, most, strict=True))
                and look.levels <= said.maxMipLevels
                and look.layers <= said.maxArrayLayers
                and bool(look.samples & said.sampleCounts)
            )
        return False

    def close(self) -> None:
        """Destroy the device and the instance."""
        vk.vkDestroyDevice(self.device)
        vk.vkDestroyInstance(self.instance)
