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

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from extmem import vk
from tests.support.allocations import Allocation, Block, Picture
from tests.support.forms import FORMS, Form
from tests.support.kinds import (
    BYTES,
    DMA_BUF,
    EXTENT,
    FORMAT,
    HOST,
    OPAQUE_FD,
    SIZE,
    Kind,
    Passport,
    pattern,
    prove_same,
)

__all__ = [
    "BYTES",
    "DMA_BUF",
    "FORMAT",
    "FORMS",
    "HOST",
    "IMAGE_USAGE",
    "OPAQUE_FD",
    "SIZE",
    "Block",
    "Form",
    "Kind",
    "Passport",
    "Picture",
    "Rig",
    "pattern",
    "prove_same",
]

_WANTED = (
    "VK_KHR_external_memory_fd",
    "VK_EXT_external_memory_dma_buf",
    "VK_EXT_external_memory_host",
    "VK_KHR_external_memory_win32",
    "VK_NV_external_memory",
    "VK_NV_external_memory_win32",
)
_NV_CAPABILITIES = "VK_NV_external_memory_capabilities"
_VISIBLE = int(vk.VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT)
_COHERENT = int(vk.VK_MEMORY_PROPERTY_HOST_COHERENT_BIT)
_BUFFER_USAGE = vk.VK_BUFFER_USAGE_TRANSFER_SRC_BIT | vk.VK_BUFFER_USAGE_TRANSFER_DST_BIT
IMAGE_USAGE = vk.VK_IMAGE_USAGE_TRANSFER_SRC_BIT | vk.VK_IMAGE_USAGE_TRANSFER_DST_BIT
_COPYING = vk.VK_QUEUE_TRANSFER_BIT | vk.VK_QUEUE_GRAPHICS_BIT | vk.VK_QUEUE_COMPUTE_BIT
_PATIENCE = 20_000_000_000  # nanoseconds that a queue may take


class Rig:
    """One device with one queue. `index` is the physical device's."""

    def __init__(self, driver: str, *, checks: str | None = None, index: int = 0) -> None:
        self.driver = driver
        self._undo = ExitStack()
        self._alive: list[Allocation] = []
        self._staging: Block | None = None
        self.instance = vk.vkCreateInstance(_instance_info(driver), driver=driver, checks=checks)
        self._undo.callback(vk.vkDestroyInstance, self.instance)
        with ExitStack() as on_failure:
            on_failure.callback(self._undo.close)
            self.physical = vk.vkEnumeratePhysicalDevices(self.instance)[index]
            offered = vk.vkEnumerateDeviceExtensionProperties(self.physical, None)
            self.offered = [each.extensionName for each in offered]
            self.extensions = [name for name in _WANTED if name in self.offered]
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

    def image_features_nv(self, tiling: int, handle_type: int) -> Any:
        """VkExternalImageFormatPropertiesNV of the images that these tests make."""
        asked = (FORMAT, vk.VK_IMAGE_TYPE_2D, tiling, IMAGE_USAGE, 0, handle_type)
        return vk.vkGetPhysicalDeviceExternalImageFormatPropertiesNV(self.physical, *asked)

    # -- memory with a buffer -------------------------------------------------------------------

    def allocate(
        self,
        kind: Kind,
        *,
        export: int | Form = OPAQUE_FD,
        also: Any = None,
        size: int = SIZE,
        bind: bool = True,
    ) -> Block:
        """New memory with a buffer in it, exportable unless `export` is 0.

        also: a structure more for the allocation, as what `Form.terms` makes
        """
        buffer = self._make_buffer(size, export)
        needs = vk.vkGetBufferMemoryRequirements(self.device, buffer)
        passport = self._passport(kind, needs, size)
        return self._block(buffer, passport, [*_export_info(export), also], bind)

    def import_fd(
        self, fd: int, passport: Passport, *, handle_type: int = OPAQUE_FD, bind: bool = True
    ) -> Block:
        """Memory from a descriptor, which is gone if this succeeds."""
        buffer = self._make_buffer(passport.size, handle_type)
        chain = vk.VkImportMemoryFdInfoKHR(handleType=handle_type, fd=fd)
        return self._block(buffer, passport, [chain], bind)

    def import_win32(
        self,
        handle: int | None,
        passport: Passport,
        form: Form,
        *,
        name: str | None = None,
        bind: bool = True,
    ) -> Block:
        """Memory from a Windows handle, which stays the caller's, a KMT number, or a name."""
        buffer = self._make_buffer(passport.size, form)
        return self._block(buffer, passport, [form.import_info(handle, name)], bind)

    def import_host(self, address: int, size: int) -> Block:
        """Memory over bytes of this process, with a buffer over all of them."""
        answer = vk.vkGetMemoryHostPointerPropertiesEXT(self.device, HOST, address)
        buffer = self._make_buffer(size, HOST)
        needs = vk.vkGetBufferMemoryRequirements(self.device, buffer)
        usable = answer.memoryTypeBits & needs.memoryTypeBits
        index = self._memory_type(usable, host_visible=True)
        passport = Passport(size, index, 0, size, False, True)
        chain = vk.VkImportMemoryHostPointerInfoEXT(handleType=HOST, pHostPointer=address)
        return self._block(buffer, passport, [chain], True)

    def _make_buffer(self, size: int, handle_types: int | Form) -> vk.VkBuffer:
        if isinstance(handle_types, Form):
            chain = handle_types.buffer_info()
        else:
            chain = vk.VkExternalMemoryBufferCreateInfo(handleTypes=handle_types)
        info = vk.VkBufferCreateInfo(
            size=size, usage=_BUFFER_USAGE, pNext=chain if handle_types else None
        )
        return vk.vkCreateBuffer(self.device, info)

    def _block(
        self, buffer: vk.VkBuffer, passport: Passport, chain: list[Any], bind: bool
    ) -> Block:
        dedicated = vk.VkMemoryDedicatedAllocateInfo(buffer=buffer) if passport.dedicated else None
        try:
            memory = self.allocate_memory(passport, *chain, dedicated)
        except BaseException:
            vk.vkDestroyBuffer(self.device, buffer)
            raise
        block = Block(self, memory, buffer, passport)
        if bind:
            block.bind()
        return block

    # -- memory with an image -------------------------------------------------------------------

    def allocate_image(
        self, kind: Kind, tiling: int, *, export: int | Form = OPAQUE_FD, bind: bool = True
    ) -> Picture:
        """New memory with an image in it."""
        image = self._make_image(tiling, export)
        needs = vk.vkGetImageMemoryRequirements(self.device, image)
        passport = self._passport(kind, needs, needs.size)
        return self._picture(image, passport, _export_info(export), bind)

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
        return self._picture(self._make_image(tiling, handle_type), passport, [chain], bind)

    def import_image_win32(
        self, handle: int | None, passport: Passport, tiling: int, form: Form, *, bind: bool = True
    ) -> Picture:
        """Memory with an image from a Windows handle, which stays the caller's, or a number."""
        image = self._make_image(tiling, form)
        return self._picture(image, passport, [form.import_info(handle)], bind)

    def _make_image(self, tiling: int, handle_types: int | Form) -> vk.VkImage:
        if isinstance(handle_types, Form):
            chain = handle_types.image_info()
        else:
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

    def _picture(
        self, image: vk.VkImage, passport: Passport, chain: list[Any], bind: bool
    ) -> Picture:
        dedicated = vk.VkMemoryDedicatedAllocateInfo(image=image) if passport.dedicated else None
        try:
            memory = self.allocate_memory(passport, *chain, dedicated)
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


def _instance_info(driver: str) -> vk.VkInstanceCreateInfo:
    offered = vk.vkEnumerateInstanceExtensionProperties(None, driver=driver)
    wanted = [_NV_CAPABILITIES] if _NV_CAPABILITIES in {e.extensionName for e in offered} else None
    application = vk.VkApplicationInfo(apiVersion=vk.VK_API_VERSION_1_1)
    return vk.VkInstanceCreateInfo(pApplicationInfo=application, ppEnabledExtensionNames=wanted)


def _export_info(export: int | Form) -> list[Any]:
    if isinstance(export, Form):
        return [export.export_info()]
    return [vk.VkExportMemoryAllocateInfo(handleTypes=export)] if export else []
