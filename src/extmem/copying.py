"""Work that the device itself does on memory: copies and fills, each waited for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from extmem import vk
from extmem.errors import Unsupported

if TYPE_CHECKING:
    from extmem.device import Device
    from extmem.resources import Buffer

__all__ = ["copy", "copying_family", "fill"]

FOREVER = (1 << 64) - 1


def copying_family(families: list[vk.VkQueueFamilyProperties]) -> int:
    """The first queue family that can copy; graphics and compute families always can."""
    able = vk.VK_QUEUE_TRANSFER_BIT | vk.VK_QUEUE_GRAPHICS_BIT | vk.VK_QUEUE_COMPUTE_BIT
    for index, family in enumerate(families):
        if family.queueFlags & able:
            return index
    raise Unsupported("the device has no queue that can copy")


def copy(device: Device, source: Buffer, target: Buffer, size: int | None) -> None:
    """Copy `size` bytes, by default as many as the smaller buffer has."""
    length = min(source.size, target.size) if size is None else size
    if not 0 < length <= min(source.size, target.size):
        raise ValueError(
            f"cannot copy {length} bytes from {source.size} bytes to {target.size} bytes"
        )

    def record(commands: vk.VkCommandBuffer) -> None:
        region = vk.VkBufferCopy(srcOffset=0, dstOffset=0, size=length)
        vk.vkCmdCopyBuffer(commands, source.handle, target.handle, 1, [region])

    _submit(device, record)


def fill(device: Device, target: Buffer, value: int) -> None:
    """Fill with a 32-bit value; bytes beyond the last whole word stay as they are."""

    def record(commands: vk.VkCommandBuffer) -> None:
        vk.vkCmdFillBuffer(commands, target.handle, 0, vk.VK_WHOLE_SIZE, value)

    _submit(device, record)


def _submit(device: Device, record: Callable[[vk.VkCommandBuffer], None]) -> None:
    """Record commands, make what they write visible to the processor, and wait."""
    handle = device.handle
    pool = vk.vkCreateCommandPool(
        handle, vk.VkCommandPoolCreateInfo(queueFamilyIndex=device.queue_family)
    )
    fence = vk.vkCreateFence(handle, vk.VkFenceCreateInfo())
    try:
        (commands,) = vk.vkAllocateCommandBuffers(
            handle, vk.VkCommandBufferAllocateInfo(commandPool=pool, commandBufferCount=1)
        )
        once = vk.VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT
        vk.vkBeginCommandBuffer(commands, vk.VkCommandBufferBeginInfo(flags=once))
        record(commands)
        barrier = vk.VkMemoryBarrier(
            srcAccessMask=vk.VK_ACCESS_TRANSFER_WRITE_BIT,
            dstAccessMask=vk.VK_ACCESS_HOST_READ_BIT | vk.VK_ACCESS_HOST_WRITE_BIT,
        )
        source, target = vk.VK_PIPELINE_STAGE_TRANSFER_BIT, vk.VK_PIPELINE_STAGE_HOST_BIT
        vk.vkCmdPipelineBarrier(commands, source, target, 0, 1, [barrier], 0, None, 0, None)
        vk.vkEndCommandBuffer(commands)
        vk.vkQueueSubmit(device.queue, 1, [vk.VkSubmitInfo(pCommandBuffers=[commands])], fence)
        vk.vkWaitForFences(handle, 1, [fence], 1, FOREVER)
    finally:
        vk.vkDestroyFence(handle, fence)
        vk.vkDestroyCommandPool(handle, pool)
