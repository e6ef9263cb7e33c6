"""An instance, a device and a queue on one driver, and what the memory tests do with them.

    with Rig(driver) as rig:
        exported = rig.allocate(Kind(dedicated=False, host_visible=True))
        imported = rig.import_fd(exported.export_fd(), exported.passport)
        exported.write(data)
        assert imported.read() == data

Everything goes through `extmem.vk`, as the specification has it. What is not freed is freed by the
end of the `with`, in order.

Memory that is not host-visible is written and read by copies on the queue, with the ownership
transfers from and to VK_QUEUE_FAMILY_EXTERNAL that the specification asks for. On drivers whose
only memory type is host-visible that is the same type, but never mapped.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

from extmem import vk

__all__ = [
    "BYTES",
    "DMA_BUF",
    "FORMAT",
    "HOST",
    "IMAGE_USAGE",
    "OPAQUE_FD",
    "SIZE",
    "Block",
    "Kind",
    "Passport",
    "Picture",
    "Rig",
    "pattern",
    "prove_same",
]

OPAQUE_FD = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT)
DMA_BUF = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT)
HOST = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT)

SIZE = 16384  # bytes of a buffer
EXTENT = (64, 48)  # pixels of an image
BYTES = EXTENT[0] * EXTENT[1] * 4
FORMAT = vk.VK_FORMAT_R8G8B8A8_UNORM

_WANTED = (
    "VK_KHR_external_memory_fd",
    "VK_EXT_external_memory_dma_buf",
    "VK_EXT_external_memory_host",
)
_VISIBLE = int(vk.VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT)
_COHERENT = int(vk.VK_MEMORY_PROPERTY_HOST_COHERENT_BIT)
_BUFFER_USAGE = vk.VK_BUFFER_USAGE_TRANSFER_SRC_BIT | vk.VK_BUFFER_USAGE_TRANSFER_DST_BIT
IMAGE_USAGE = vk.VK_IMAGE_USAGE_TRANSFER_SRC_BIT | vk.VK_IMAGE_USAGE_TRANSFER_DST_BIT
_COPYING = vk.VK_QUEUE_TRANSFER_BIT | vk.VK_QUEUE_GRAPHICS_BIT | vk.VK_QUEUE_COMPUTE_BIT
_PATIENCE = 20_000_000_000  # nanoseconds that a queue may take


@dataclass(frozen=True)
class Kind:
    """How memory is allocated: the two pairs of variants that Vulkan's conformance tests have."""

    dedicated: bool  # to one resource alone; else the resource lies within a larger allocation
    host_visible: bool  # written and read through a mapping; else by copies on the queue

    def __str__(self) -> str:
        return (
            f"{'dedicated' if self.dedicated else 'suballocated'}-"
            f"{'host_visible' if self.host_visible else 'device_only'}"
        )


@dataclass(frozen=True)
class Passport:
    """What an importer has to know beside the handle. Made of numbers, so that JSON carries it."""

    allocation_size: int
    memory_type: int
    offset: int
    size: int  # of the buffer
    dedicated: bool
    host_visible: bool

    def json(self) -> dict[str, Any]:
        return asdict(self)


def pattern(seed: int, size: int = SIZE) -> bytes:
    """Bytes that no shift and no other seed repeats."""
    return random.Random(seed).randbytes(size)


def prove_same(*allocations: Any) -> None:
    """What each of several writes, all of them read."""
    for seed, writer in enumerate(allocations):
        data = pattern(seed, writer.size)
        writer.write(data)
        for reader in allocations:
            assert reader.read() == data


class Rig:
    """One device with one queue. `index` is the physical device's."""

    def __init__(self, driver: str, *, checks: str | None = None, index: int = 0) -> None:
        self.driver = driver
        self._undo = ExitStack()
        self._alive: list[Allocation] = []
        self._staging: Block | None = None
        application = vk.VkApplicationInfo(apiVersion=vk.VK_API_VERSION_1_1)
        self.instance = vk.vkCreateInstance(
            vk.VkInstanceCreateInfo(pApplicationInfo=application), driver=driver, checks=checks
        )
        self._undo.callback(vk.vkDestroyInstance, self.instance)
        with ExitStack() as on_failure:
            on_failure.callback(self._undo.close)
            self.physical = vk.vkEnumeratePhysicalDevices(self.instance)[index]
            offered = vk.vkEnumerateDeviceExtensionProperties(self.physical, None)
            names = {each.extensionName for each in offered}
            self.extensions = [name for name in _WANTED if name in names]
            families = vk.vkGetPhysicalDeviceQueueFamilyProperties(self.physical)
            self.family = next(i for i, f in enumerate(families) if f.queueFlags & _COPYING)
            queue = vk.VkDeviceQueueCreateInfo(queueFamilyIndex=self.family, pQueuePriorities=[1.0])
            info = vk.VkDeviceCreateInfo(
                pQueueCreateInfos=[queue], ppEnabledExtensionNames=self.extensions or None
            )
            self.device = vk.vkCreateDevice(self.physical, info)
            self._undo.callback(vk.vkDestroyDevice, self.device)
            self.queue = vk.vkGetDeviceQueue(self.device, self.family, 0)
            found = vk.vkGetPhysicalDeviceMemoryProperties(self.physical)
            types = [found.memoryTypes[i] for i in range(found.memoryTypeCount)]
            self.memory_flags = [each.propertyFlags for each in types]
            on_failure.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free what is left, newest first, then the device and the instance."""
        for each in reversed(self._alive[:]):
            each.free()
        self._undo.close()

    # -- what the driver says -------------------------------------------------------------------

    def buffer_features(self, handle_type: int) -> Any:
        """VkExternalMemoryProperties of the buffers that these tests make."""
        info = vk.VkPhysicalDeviceExternalBufferInfo(usage=_BUFFER_USAGE, handleType=handle_type)
        return vk.vkGetPhysicalDeviceExternalBufferProperties(
            self.physical, info
        ).externalMemoryProperties

    # -- memory with a buffer -------------------------------------------------------------------

    def allocate(
        self, kind: Kind, *, export: int = OPAQUE_FD, size: int = SIZE, bind: bool = True
    ) -> Block:
        """New memory with a buffer in it, exportable unless `export` is 0."""
        buffer = self._make_buffer(size, export)
        needs = vk.vkGetBufferMemoryRequirements(self.device, buffer)
        passport = self._passport(kind, needs, size)
        chain = vk.VkExportMemoryAllocateInfo(handleTypes=export) if export else None
        return self._block(buffer, passport, chain, bind)

    def import_fd(
        self, fd: int, passport: Passport, *, handle_type: int = OPAQUE_FD, bind: bool = True
    ) -> Block:
        """Memory from a descriptor, which is gone if this succeeds."""
        buffer = self._make_buffer(passport.size, handle_type)
        chain = vk.VkImportMemoryFdInfoKHR(handleType=handle_type, fd=fd)
        return self._block(buffer, passport, chain, bind)

    def import_host(self, address: int, size: int) -> Block:
        """Memory over bytes of this process, with a buffer over all of them."""
        answer = vk.vkGetMemoryHostPointerPropertiesEXT(self.device, HOST, address)
        buffer = self._make_buffer(size, HOST)
        needs = vk.vkGetBufferMemoryRequirements(self.device, buffer)
        usable = answer.memoryTypeBits & needs.memoryTypeBits
        index = self._memory_type(usable, host_visible=True)
        passport = Passport(size, index, 0, size, False, True)
        chain = vk.VkImportMemoryHostPointerInfoEXT(handleType=HOST, pHostPointer=address)
        return self._block(buffer, passport, chain, True)

    def _make_buffer(self, size: int, handle_types: int) -> vk.VkBuffer:
        chain = vk.VkExternalMemoryBufferCreateInfo(handleTypes=handle_types)
        info = vk.VkBufferCreateInfo(
            size=size, usage=_BUFFER_USAGE, pNext=chain if handle_types else None
        )
        return vk.vkCreateBuffer(self.device, info)

    def _block(self, buffer: vk.VkBuffer, passport: Passport, chain: Any, bind: bool) -> Block:
        dedicated = vk.VkMemoryDedicatedAllocateInfo(buffer=buffer) if passport.dedicated else None
        try:
            memory = self.allocate_memory(passport, chain, dedicated)
        except BaseException:
            vk.vkDestroyBuffer(self.device, buffer)
            raise
        block = Block(self, memory, buffer, passport)
        if bind:
            block.bind()
        return block

    # -- memory with an image -------------------------------------------------------------------

    def allocate_image(
        self, kind: Kind, tiling: int, *, export: int = OPAQUE_FD, bind: bool = True
    ) -> Picture:
        """New memory with an image in it."""
        image = self._make_image(tiling, export)
        needs = vk.vkGetImageMemoryRequirements(self.device, image)
        passport = self._passport(kind, needs, needs.size)
        chain = vk.VkExportMemoryAllocateInfo(handleTypes=export) if export else None
        return self._picture(image, passport, chain, bind)

    def import_image(
        self,
        fd: int,
        passport: Passport,
        tiling: int,
        *,
        handle_type: int = OPAQUE_FD,
        bind: bool = True,
    ) -> Picture:
        """Memory with an image from a descriptor, which is gone if this succeeds."""
        chain = vk.VkImportMemoryFdInfoKHR(handleType=handle_type, fd=fd)
        return self._picture(self._make_image(tiling, handle_type), passport, chain, bind)

    def _make_image(self, tiling: int, handle_types: int) -> vk.VkImage:
        chain = vk.VkExternalMemoryImageCreateInfo(handleTypes=handle_types)
        info = vk.VkImageCreateInfo(
            imageType=vk.VK_IMAGE_TYPE_2D,
            format=FORMAT,
            extent=vk.VkExtent3D(*EXTENT, 1),
            mipLevels=1,
            arrayLayers=1,
            samples=vk.VK_SAMPLE_COUNT_1_BIT,
            tiling=tiling,
            usage=IMAGE_USAGE,
            pNext=chain if handle_types else None,
        )
        return vk.vkCreateImage(self.device, info)

    def _picture(self, image: vk.VkImage, passport: Passport, chain: Any, bind: bool) -> Picture:
        dedicated = vk.VkMemoryDedicatedAllocateInfo(image=image) if passport.dedicated else None
        try:
            memory = self.allocate_memory(passport, chain, dedicated)
        except BaseException:
            vk.vkDestroyImage(self.device, image)
            raise
        picture = Picture(self, memory, image, passport)
        if bind:
            picture.bind()
        return picture

    # -- what both need -------------------------------------------------------------------------

    def allocate_memory(self, passport: Passport, *chain: Any) -> vk.VkDeviceMemory:
        """Bare memory, which the caller frees."""
        info = vk.VkMemoryAllocateInfo(
            allocationSize=passport.allocation_size, memoryTypeIndex=passport.memory_type
        )
        for each in chain:
            if each is not None:
                vk.link(info, each)
        return vk.vkAllocateMemory(self.device, info)

    def _passport(self, kind: Kind, needs: Any, size: int) -> Passport:
        # Not dedicated: somewhere within, so that an offset that gets lost is seen.
        offset = 0 if kind.dedicated else needs.alignment * (4096 // needs.alignment + 1)
        return Passport(
            allocation_size=offset + needs.size,
            memory_type=self._memory_type(needs.memoryTypeBits, kind.host_visible),
            offset=offset,
            size=size,
            dedicated=kind.dedicated,
            host_visible=kind.host_visible,
        )

    def _memory_type(self, allowed: int, host_visible: bool) -> int:
        usable = [i for i in range(len(self.memory_flags)) if allowed >> i & 1]
        if host_visible:
            usable = [i for i in usable if self.memory_flags[i] & _VISIBLE]
            return max(usable, key=lambda i: bool(self.memory_flags[i] & _COHERENT))
        return min(usable, key=lambda i: bool(self.memory_flags[i] & _VISIBLE))

    def staging(self, size: int) -> Block:
        """A private host-visible buffer for copies, kept for the next one."""
        if self._staging is None or self._staging.size < size:
            if self._staging is not None:
                self._staging.free()
            kind = Kind(dedicated=False, host_visible=True)
            self._staging = self.allocate(kind, export=0, size=max(size, SIZE))
        return self._staging

    def submit(self, record: Callable[[vk.VkCommandBuffer], None]) -> None:
        """Record commands, run them, and wait until they are done and visible to the host."""
        with ExitStack() as undo:
            pool = vk.vkCreateCommandPool(
                self.device, vk.VkCommandPoolCreateInfo(queueFamilyIndex=self.family)
            )
            undo.callback(vk.vkDestroyCommandPool, self.device, pool)
            fence = vk.vkCreateFence(self.device, vk.VkFenceCreateInfo())
            undo.callback(vk.vkDestroyFence, self.device, fence)
            allocate = vk.VkCommandBufferAllocateInfo(commandPool=pool, commandBufferCount=1)
            (commands,) = vk.vkAllocateCommandBuffers(self.device, allocate)
            once = vk.VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT
            vk.vkBeginCommandBuffer(commands, vk.VkCommandBufferBeginInfo(flags=once))
            record(commands)
            visible = vk.VkMemoryBarrier(
                srcAccessMask=vk.VK_ACCESS_TRANSFER_WRITE_BIT,
                dstAccessMask=vk.VK_ACCESS_HOST_READ_BIT | vk.VK_ACCESS_HOST_WRITE_BIT,
            )
            copying, host = vk.VK_PIPELINE_STAGE_TRANSFER_BIT, vk.VK_PIPELINE_STAGE_HOST_BIT
            vk.vkCmdPipelineBarrier(commands, copying, host, 0, 1, [visible], 0, None, 0, None)
            vk.vkEndCommandBuffer(commands)
            vk.vkQueueSubmit(self.queue, 1, [vk.VkSubmitInfo(pCommandBuffers=[commands])], fence)
            done = vk.vkWaitForFences(self.device, 1, [fence], 1, _PATIENCE)
            assert done == vk.VK_SUCCESS, f"the queue of {self.driver} did not finish: {done!r}"


class Allocation:
    """Memory with one resource. What Block and Picture have in common."""

    def __init__(self, rig: Rig, memory: vk.VkDeviceMemory, passport: Passport) -> None:
        self.rig = rig
        self.memory: vk.VkDeviceMemory | None = memory
        self.passport = passport
        rig._alive.append(self)

    def bind(self) -> None:
        raise NotImplementedError

    def _destroy(self) -> None:
        raise NotImplementedError

    def free(self) -> None:
        """Destroy the resource and free the memory, once."""
        if self.memory is not None:
            memory, self.memory = self.memory, None
            self._destroy()
            vk.vkFreeMemory(self.rig.device, memory)
            self.rig._alive.remove(self)

    def export_fd(self, handle_type: int = OPAQUE_FD) -> int:
        """A new descriptor, which the caller owns."""
        info = vk.VkMemoryGetFdInfoKHR(memory=self.memory, handleType=handle_type)
        return vk.vkGetMemoryFdKHR(self.rig.device, info)

    def _owner(self, *, release: bool) -> tuple[int, int]:
        """The families of a transfer of ownership, from and to."""
        outside = int(vk.VK_QUEUE_FAMILY_EXTERNAL)
        return (self.rig.family, outside) if release else (outside, self.rig.family)


class Block(Allocation):
    """Memory with a buffer."""

    def __init__(
        self, rig: Rig, memory: vk.VkDeviceMemory, buffer: vk.VkBuffer, passport: Passport
    ) -> None:
        super().__init__(rig, memory, passport)
        self.buffer = buffer
        self.size = passport.size

    def bind(self) -> None:
        vk.vkBindBufferMemory(self.rig.device, self.buffer, self.memory, self.passport.offset)

    def _destroy(self) -> None:
        vk.vkDestroyBuffer(self.rig.device, self.buffer)

    def write(self, data: bytes, at: int = 0) -> None:
        """Write bytes into the buffer: through a mapping, or by a copy on the queue."""
        if self.passport.host_visible:
            self._map(lambda view: view.__setitem__(slice(at, at + len(data)), data))
            return
        staging = self.rig.staging(len(data))
        staging.write(data)

        def record(commands: vk.VkCommandBuffer) -> None:
            region = vk.VkBufferCopy(srcOffset=0, dstOffset=at, size=len(data))
            self._transfer(commands, release=False)
            vk.vkCmdCopyBuffer(commands, staging.buffer, self.buffer, 1, [region])
            self._transfer(commands, release=True)

        self.rig.submit(record)

    def read(self, size: int | None = None, at: int = 0) -> bytes:
        """Read bytes of the buffer: through a mapping, or by a copy on the queue."""
        size = self.size - at if size is None else size
        if self.passport.host_visible:
            return self._map(lambda view: bytes(view[at : at + size]))
        staging = self.rig.staging(size)

        def record(commands: vk.VkCommandBuffer) -> None:
            region = vk.VkBufferCopy(srcOffset=at, dstOffset=0, size=size)
            self._transfer(commands, release=False)
            vk.vkCmdCopyBuffer(commands, self.buffer, staging.buffer, 1, [region])
            self._transfer(commands, release=True)

        self.rig.submit(record)
        return staging.read(size)

    def fill(self, word: int) -> None:
        """Fill the buffer with a 32-bit value, on the queue."""

        def record(commands: vk.VkCommandBuffer) -> None:
            self._transfer(commands, release=False)
            vk.vkCmdFillBuffer(commands, self.buffer, 0, vk.VK_WHOLE_SIZE, word)
            self._transfer(commands, release=True)

        self.rig.submit(record)

    def _map(self, action: Callable[[memoryview], Any]) -> Any:
        view = vk.vkMapMemory(self.rig.device, self.memory, 0, vk.VK_WHOLE_SIZE)
        try:
            with view, view[self.passport.offset :][: self.size] as mine:
                return action(mine)
        finally:
            del view
            vk.vkUnmapMemory(self.rig.device, self.memory)

    def _transfer(self, commands: vk.VkCommandBuffer, *, release: bool) -> None:
        source, target = self._owner(release=release)
        access = vk.VK_ACCESS_TRANSFER_WRITE_BIT | vk.VK_ACCESS_TRANSFER_READ_BIT
        barrier = vk.VkBufferMemoryBarrier(
            srcAccessMask=access if release else 0,
            dstAccessMask=0 if release else access,
            srcQueueFamilyIndex=source,
            dstQueueFamilyIndex=target,
            buffer=self.buffer,
            offset=0,
            size=vk.VK_WHOLE_SIZE,
        )
        stages = _stages(release)
        vk.vkCmdPipelineBarrier(commands, *stages, 0, 0, None, 1, [barrier], 0, None)


class Picture(Allocation):
    """Memory with a 2D image, RGBA8. Between uses it is in the layout GENERAL."""

    def __init__(
        self, rig: Rig, memory: vk.VkDeviceMemory, image: vk.VkImage, passport: Passport
    ) -> None:
        super().__init__(rig, memory, passport)
        self.image = image
        self.size = BYTES

    def bind(self) -> None:
        vk.vkBindImageMemory(self.rig.device, self.image, self.memory, self.passport.offset)

    def _destroy(self) -> None:
        vk.vkDestroyImage(self.rig.device, self.image)

    def write(self, data: bytes, fresh: bool = False) -> None:
        """Write all pixels by a copy. fresh: nobody wrote it before; what it holds is undefined."""
        staging = self.rig.staging(BYTES)
        staging.write(data)
        layout = vk.VK_IMAGE_LAYOUT_GENERAL

        def record(commands: vk.VkCommandBuffer) -> None:
            self._transfer(commands, release=False, fresh=fresh)
            region = self._region()
            vk.vkCmdCopyBufferToImage(commands, staging.buffer, self.image, layout, 1, [region])
            self._transfer(commands, release=True)

        self.rig.submit(record)

    def read(self) -> bytes:
        """All pixels, by a copy."""
        staging = self.rig.staging(BYTES)
        layout = vk.VK_IMAGE_LAYOUT_GENERAL

        def record(commands: vk.VkCommandBuffer) -> None:
            self._transfer(commands, release=False)
            region = self._region()
            vk.vkCmdCopyImageToBuffer(commands, self.image, layout, staging.buffer, 1, [region])
            self._transfer(commands, release=True)

        self.rig.submit(record)
        return staging.read(BYTES)

    def _region(self) -> vk.VkBufferImageCopy:
        return vk.VkBufferImageCopy(
            imageSubresource=vk.VkImageSubresourceLayers(vk.VK_IMAGE_ASPECT_COLOR_BIT, 0, 0, 1),
            imageExtent=vk.VkExtent3D(*EXTENT, 1),
        )

    def _transfer(
        self, commands: vk.VkCommandBuffer, *, release: bool, fresh: bool = False
    ) -> None:
        access = vk.VK_ACCESS_TRANSFER_WRITE_BIT | vk.VK_ACCESS_TRANSFER_READ_BIT
        general, undefined = vk.VK_IMAGE_LAYOUT_GENERAL, vk.VK_IMAGE_LAYOUT_UNDEFINED
        ignored = int(vk.VK_QUEUE_FAMILY_IGNORED)
        source, target = (ignored, ignored) if fresh else self._owner(release=release)
        barrier = vk.VkImageMemoryBarrier(
            srcAccessMask=access if release else 0,
            dstAccessMask=0 if release else access,
            oldLayout=undefined if fresh else general,
            newLayout=general,
            srcQueueFamilyIndex=source,
            dstQueueFamilyIndex=target,
            image=self.image,
            subresourceRange=vk.VkImageSubresourceRange(vk.VK_IMAGE_ASPECT_COLOR_BIT, 0, 1, 0, 1),
        )
        stages = _stages(release)
        vk.vkCmdPipelineBarrier(commands, *stages, 0, 0, None, 0, None, 1, [barrier])


def _stages(release: bool) -> tuple[int, int]:
    copying = int(vk.VK_PIPELINE_STAGE_TRANSFER_BIT)
    if release:
        return copying, int(vk.VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT)
    return int(vk.VK_PIPELINE_STAGE_TOP_OF_PIPE_BIT), copying
