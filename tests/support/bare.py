"""A device through `extmem.vk` alone, for tests of rules: what breaks one, and what keeps it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, ClassVar, Self

import pytest

from extmem import DriverError, RuleViolation, vk
from tests.support.strict import driver_cannot

__all__ = ["DMA_BUF", "FOREIGN", "HOST", "OPAQUE_FD", "OPAQUE_WIN32", "SIZE", "Bare"]

OPAQUE_FD = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT)
OPAQUE_WIN32 = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT)
DMA_BUF = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT)
HOST = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT)
FOREIGN = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_MAPPED_FOREIGN_MEMORY_BIT_EXT)
SIZE = 65536

_WANTED = (
    "VK_KHR_external_memory_fd",
    "VK_EXT_external_memory_dma_buf",
    "VK_EXT_external_memory_host",
    "VK_KHR_map_memory2",
)
_VISIBLE = vk.VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT
_USAGE = vk.VK_BUFFER_USAGE_TRANSFER_SRC_BIT | vk.VK_BUFFER_USAGE_TRANSFER_DST_BIT
_IMAGE_USAGE = vk.VK_IMAGE_USAGE_TRANSFER_SRC_BIT | vk.VK_IMAGE_USAGE_TRANSFER_DST_BIT


class Bare:
    """An instance and a device. What is alive at the end of the `with` is destroyed then."""

    wanted: ClassVar[tuple[str, ...]] = _WANTED  # enabled, where the device has them

    def __init__(
        self, driver: str, *, version: int = vk.VK_API_VERSION_1_1, index: int = 0
    ) -> None:
        application = vk.VkApplicationInfo(apiVersion=version)
        info = vk.VkInstanceCreateInfo(pApplicationInfo=application)
        self.instance = vk.vkCreateInstance(info, driver=driver)
        try:
            found = vk.vkEnumeratePhysicalDevices(self.instance)
            if index >= len(found):
                driver_cannot(f"it has {len(found)} physical devices")
            self.physical = found[index]
            listed = vk.vkEnumerateDeviceExtensionProperties(self.physical, None)
            has = {each.extensionName for each in listed}
            queue = vk.VkDeviceQueueCreateInfo(queueFamilyIndex=0, pQueuePriorities=[1.0])
            self.device = vk.vkCreateDevice(
                self.physical,
                vk.VkDeviceCreateInfo(
                    pQueueCreateInfos=[queue],
                    ppEnabledExtensionNames=[name for name in self.wanted if name in has] or None,
                    pNext=self.features(),
                ),
            )
        except BaseException:
            vk.vkDestroyInstance(self.instance)
            raise
        self.dispatch: Any = self.device.dispatch
        self.world: Any = self.dispatch.world
        memory = vk.vkGetPhysicalDeviceMemoryProperties(self.physical)
        self.types = [
            int(memory.memoryTypes[i].propertyFlags) for i in range(memory.memoryTypeCount)
        ]
        self.heaps = [
            int(memory.memoryHeaps[memory.memoryTypes[i].heapIndex].size)
            for i in range(memory.memoryTypeCount)
        ]
        self.visible = next(i for i, flags in enumerate(self.types) if flags & _VISIBLE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name, destroy in (
            ("VkBuffer", vk.vkDestroyBuffer),
            ("VkImage", vk.vkDestroyImage),
            ("VkDeviceMemory", vk.vkFreeMemory),
        ):
            for handle in list(self.world.objects.get(name, ())):
                destroy(self.device, handle)
        vk.vkDestroyDevice(self.device)
        vk.vkDestroyInstance(self.instance)

    def features(self) -> Any:
        """The chain that enables features; None for none."""
        return None

    # -- what tests need ------------------------------------------------------------------------

    def info(self, *chain: Any, size: int = SIZE, index: int | None = None) -> Any:
        """A VkMemoryAllocateInfo with these structures behind it."""
        index = self.visible if index is None else index
        return vk.link(vk.VkMemoryAllocateInfo(allocationSize=size, memoryTypeIndex=index), *chain)

    def take_memory_for_all(self) -> None:
        """From now on allocate from a type that buffers and images both take.

        NVIDIA's optimal images are never in host-visible memory.
        """
        mask = (1 << len(self.types)) - 1
        for made, kind in ((self.buffer(), "Buffer"), (self.image(), "Image")):
            ask = getattr(vk, f"vkGet{kind}MemoryRequirements")
            mask &= ask(self.device, made).memoryTypeBits
            getattr(vk, f"vkDestroy{kind}")(self.device, made)
        if not mask >> self.visible & 1:
            self.visible = (mask & -mask).bit_length() - 1

    def allocate(self, *chain: Any, size: int = SIZE, index: int | None = None) -> Any:
        return vk.vkAllocateMemory(self.device, self.info(*chain, size=size, index=index))

    def exportable(self, *chain: Any, size: int = SIZE) -> Any:
        return self.allocate(
            vk.VkExportMemoryAllocateInfo(handleTypes=OPAQUE_FD), *chain, size=size
        )

    def fd_of(self, memory: Any) -> int:
        self.needs("vkGetMemoryFdKHR")
        return vk.vkGetMemoryFdKHR(self.device, fd_info(memory))

    def buffer(self, size: int = SIZE, types: int = 0) -> Any:
        external = vk.VkExternalMemoryBufferCreateInfo(handleTypes=types) if types else None
        info = vk.VkBufferCreateInfo(size=size, usage=_USAGE, pNext=external)
        return vk.vkCreateBuffer(self.device, info)

    def image(self, side: int = 64, types: int = 0, layers: int = 1) -> Any:
        external = vk.VkExternalMemoryImageCreateInfo(handleTypes=types) if types else None
        info = vk.VkImageCreateInfo(
            imageType=vk.VK_IMAGE_TYPE_2D,
            format=vk.VK_FORMAT_R8G8B8A8_UNORM,
            extent=vk.VkExtent3D(side, side, 1),
            mipLevels=1,
            arrayLayers=layers,
            samples=vk.VK_SAMPLE_COUNT_1_BIT,
            tiling=vk.VK_IMAGE_TILING_OPTIMAL,
            usage=_IMAGE_USAGE,
            sharingMode=vk.VK_SHARING_MODE_EXCLUSIVE,
            initialLayout=vk.VK_IMAGE_LAYOUT_UNDEFINED,
            pNext=external,
        )
        return vk.vkCreateImage(self.device, info)

    def facts(self, handle: Any) -> dict[str, Any]:
        """What is known of an object: changed by tests for what no driver here can make."""
        found: dict[str, Any] = self.world.find(type(handle).__name__, int(handle)).facts
        return found

    def needs(self, command: str) -> None:
        """Skip where the driver has no such command."""
        if not self.dispatch.has(command):
            driver_cannot(f"no {command}")

    # -- breaking rules -------------------------------------------------------------------------

    @contextmanager
    def untouched(self, command: str) -> Iterator[None]:
        """Fail if the driver is called."""

        def called(*arguments: Any) -> int:
            pytest.fail(f"{command} reached the driver")

        known = getattr(self.dispatch, command)
        setattr(self.dispatch, command, called)
        try:
            yield
        finally:
            setattr(self.dispatch, command, known)

    def breaks(self, vuid: str, command: Callable[..., Any], *arguments: Any) -> list[str]:
        """The call is refused before the driver, by this rule. Returns all that were broken."""
        with self.untouched(command.__name__), pytest.raises(RuleViolation) as caught:
            command(self.device, *arguments)
        problems = caught.value.problems
        vuids = [problem.vuid for problem in problems]
        assert vuid in vuids, caught.value
        for problem in problems:
            # A word, then a sentence; and something to do about it.
            assert problem.member
            assert problem.problem.endswith(".")
            assert problem.remedy.endswith(".") or problem.vuid != vuid
        return vuids

    def refuses(self, vuid: str, *chain: Any, **members: Any) -> list[str]:
        """vkAllocateMemory is refused by this rule."""
        return self.breaks(vuid, vk.vkAllocateMemory, self.info(*chain, **members))

    def passes(self, *chain: Any, **members: Any) -> None:
        """No rule minds it. Not every driver takes what the specification allows."""
        with suppress(DriverError):
            self.allocate(*chain, **members)


def fd_info(memory: Any, handle_type: int = OPAQUE_FD) -> Any:
    return vk.VkMemoryGetFdInfoKHR(memory=memory, handleType=handle_type)
