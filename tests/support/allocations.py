"""Memory with one resource in it, as a `Rig` makes it: written and read in its own way."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from extmem import vk
from tests.support.kinds import BYTES, EXTENT, OPAQUE_FD, Passport

if TYPE_CHECKING:
    from tests.support.forms import Form
    from tests.support.rig import Rig

__all__ = ["Allocation", "Block", "Picture"]


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

    def export_win32(self, form: Form) -> int:
        """A Windows handle, which the caller owns, or a KMT number, which nobody does."""
        return form.get(self.rig.device, self.memory)

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
