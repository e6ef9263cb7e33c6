"""Command pools, command buffers, and the commands that are recorded into them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any

from extmem.drivers.embedded.clear import encode_texel
from extmem.drivers.embedded.device import Device
from extmem.drivers.embedded.limits import QUEUE_COUNTS
from extmem.drivers.embedded.objects import (
    SUCCESS,
    Failure,
    Object,
    discard,
    find,
    put,
    register,
    result_of,
)
from extmem.drivers.embedded.queue import Step
from extmem.drivers.embedded.resources import Buffer, Image
from extmem.drivers.embedded.transfers import (
    BufferImageRegion,
    ImageRegion,
    copy_buffer,
    copy_buffer_image,
    copy_image,
    fill_bytes,
    fill_image,
)
from extmem.vk import _constants as c

__all__ = ["CommandBuffer"]

_INITIAL, _RECORDING, _EXECUTABLE, _INVALID = range(4)


class CommandPool(Object):
    """A command pool."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.buffers: list[CommandBuffer] = []


class CommandBuffer(Object):
    """Steps that a queue will run, and the state that the specification gives them."""

    def __init__(self, device: Device, pool: CommandPool, primary: bool) -> None:
        super().__init__(device)
        self.device = device
        self.pool = pool
        self.primary = primary
        self.reset()

    def reset(self) -> None:
        # A new list: what was submitted before still runs from the old one.
        self.steps: list[Step] = []
        self.uses: dict[Buffer | Image, bool] = {}  # and whether it is written
        self.state = _INITIAL
        self.once = False
        self.result = SUCCESS

    def buffer(self, handle: int, *, write: bool) -> Buffer:
        found = find(Buffer, handle, self.device)
        self.uses[found] = self.uses.get(found, False) or write
        return found

    def image(self, handle: int, *, write: bool) -> Image:
        found = find(Image, handle, self.device)
        self.uses[found] = self.uses.get(found, False) or write
        return found

    def submitted(self) -> Sequence[Step]:
        """The steps, for a queue."""
        if self.state != _EXECUTABLE or not self.primary:
            raise Failure(c.VK_ERROR_UNKNOWN, "this command buffer cannot be submitted")
        for resource, write in self.uses.items():
            resource.require(write=write)
        if self.once:
            self.state = _INVALID
        return self.steps


# -- pools and buffers ------------------------------------------------------------------------


def vkCreateCommandPool(handle: int, info: Any, allocator: None, box: Any) -> int:
    device = find(Device, handle)
    if info.queueFamilyIndex >= len(QUEUE_COUNTS):
        raise Failure(c.VK_ERROR_UNKNOWN, f"there is no queue family {info.queueFamilyIndex}")
    put(box, register(CommandPool(device)))
    return SUCCESS


def vkDestroyCommandPool(handle: int, pool: int, allocator: None) -> None:
    if pool:
        gone = find(CommandPool, pool, find(Device, handle))
        for buffer in gone.buffers:
            discard(buffer)
        discard(gone)


def vkResetCommandPool(handle: int, pool: int, flags: int) -> int:
    for buffer in find(CommandPool, pool, find(Device, handle)).buffers:
        buffer.reset()
    return SUCCESS


def vkTrimCommandPool(handle: int, pool: int, flags: int) -> None:
    find(CommandPool, pool, find(Device, handle))


def vkAllocateCommandBuffers(handle: int, info: Any, array: Any) -> int:
    device = find(Device, handle)
    pool = find(CommandPool, info.commandPool, device)
    primary = info.level == c.VK_COMMAND_BUFFER_LEVEL_PRIMARY
    for i in range(info.commandBufferCount):
        buffer = CommandBuffer(device, pool, primary)
        pool.buffers.append(buffer)
        array[i] = register(buffer)
    return SUCCESS


def vkFreeCommandBuffers(handle: int, pool: int, count: int, array: Any) -> None:
    owner = find(CommandPool, pool, find(Device, handle))
    for i in range(count):
        if array[i]:
            buffer = find(CommandBuffer, array[i])
            owner.buffers.remove(buffer)
            discard(buffer)


def vkBeginCommandBuffer(handle: int, info: Any) -> int:
    buffer = find(CommandBuffer, handle)
    buffer.reset()
    buffer.once = bool(info.flags & c.VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT)
    buffer.state = _RECORDING
    return SUCCESS


def vkEndCommandBuffer(handle: int) -> int:
    buffer = find(CommandBuffer, handle)
    if buffer.state != _RECORDING:
        raise Failure(c.VK_ERROR_UNKNOWN, "this command buffer is not being recorded")
    buffer.state = _EXECUTABLE if buffer.result == SUCCESS else _INVALID
    return buffer.result


def vkResetCommandBuffer(handle: int, flags: int) -> int:
    find(CommandBuffer, handle).reset()
    return SUCCESS


# -- recording --------------------------------------------------------------------------------


def _recorded(command: Callable[..., None]) -> Callable[..., None]:
    """A command that is recorded: what is wrong with it comes back from vkEndCommandBuffer."""

    @wraps(command)
    def record(handle: int, *arguments: Any) -> None:
        buffer = find(CommandBuffer, handle)
        if buffer.state != _RECORDING:
            raise Failure(c.VK_ERROR_UNKNOWN, "this command buffer is not being recorded")
        try:
            command(buffer, *arguments)
        except Exception as problem:
            buffer.result = result_of(problem)

    return record


def _copy_buffer(
    target: CommandBuffer, source: int, destination: int, count: int, regions: Any
) -> None:
    copies = [(r.srcOffset, r.dstOffset, r.size) for r in (regions[i] for i in range(count))]
    sides = target.buffer(source, write=False), target.buffer(destination, write=True)
    target.steps.append(partial(copy_buffer, *sides, copies))


@_recorded
def vkCmdCopyBuffer(
    target: CommandBuffer, source: int, destination: int, count: int, regions: Any
) -> None:
    _copy_buffer(target, source, destination, count, regions)


@_recorded
def vkCmdCopyBuffer2(target: CommandBuffer, info: Any) -> None:
    _copy_buffer(target, info.srcBuffer, info.dstBuffer, info.regionCount, info.pRegions)


def _copy_buffer_image(
    target: CommandBuffer, buffer: int, image: int, count: int, regions: Any, to_image: bool
) -> None:
    found = [BufferImageRegion(regions[i]) for i in range(count)]
    sides = target.buffer(buffer, write=not to_image), target.image(image, write=to_image)
    target.steps.append(partial(copy_buffer_image, *sides, found, to_image))


@_recorded
def vkCmdCopyBufferToImage(
    target: CommandBuffer, buffer: int, image: int, layout: int, count: int, regions: Any
) -> None:
    _copy_buffer_image(target, buffer, image, count, regions, to_image=True)


@_recorded
def vkCmdCopyBufferToImage2(target: CommandBuffer, info: Any) -> None:
    sides = (info.srcBuffer, info.dstImage)
    _copy_buffer_image(target, *sides, info.regionCount, info.pRegions, to_image=True)


@_recorded
def vkCmdCopyImageToBuffer(
    target: CommandBuffer, image: int, layout: int, buffer: int, count: int, regions: Any
) -> None:
    _copy_buffer_image(target, buffer, image, count, regions, to_image=False)


@_recorded
def vkCmdCopyImageToBuffer2(target: CommandBuffer, info: Any) -> None:
    sides = (info.dstBuffer, info.srcImage)
    _copy_buffer_image(target, *sides, info.regionCount, info.pRegions, to_image=False)


def _copy_image(
    target: CommandBuffer, source: int, destination: int, count: int, regions: Any
) -> None:
    found = [ImageRegion(regions[i]) for i in range(count)]
    sides = target.image(source, write=False), target.image(destination, write=True)
    target.steps.append(partial(copy_image, *sides, found))


@_recorded
def vkCmdCopyImage(
    target: CommandBuffer,
    source: int,
    source_layout: int,
    destination: int,
    destination_layout: int,
    count: int,
    regions: Any,
) -> None:
    _copy_image(target, source, destination, count, regions)


@_recorded
def vkCmdCopyImage2(target: CommandBuffer, info: Any) -> None:
    _copy_image(target, info.srcImage, info.dstImage, info.regionCount, info.pRegions)


@_recorded
def vkCmdUpdateBuffer(
    target: CommandBuffer, destination: int, offset: int, size: int, data: Any
) -> None:
    buffer = target.buffer(destination, write=True)
    copied = ctypes.string_at(data, size)

    def update() -> None:
        ctypes.memmove(buffer.address(offset, size, write=True), copied, size)

    target.steps.append(update)


@_recorded
def vkCmdFillBuffer(
    target: CommandBuffer, destination: int, offset: int, size: int, data: int
) -> None:
    buffer = target.buffer(destination, write=True)
    # The rest of the buffer, in whole words.
    size = (buffer.size - offset) & ~3 if size == c.VK_WHOLE_SIZE else size
    pattern = (data & 0xFFFFFFFF).to_bytes(4, "little")

    def fill() -> None:
        fill_bytes(buffer.address(offset, size, write=True), size, pattern)

    target.steps.append(fill)


@_recorded
def vkCmdClearColorImage(
    target: CommandBuffer, handle: int, layout: int, color: Any, count: int, ranges: Any
) -> None:
    image = target.image(handle, write=True)
    texel = encode_texel(image.format, color)
    found = [
        (r.baseMipLevel, r.levelCount, r.baseArrayLayer, r.layerCount)
        for r in (ranges[i] for i in range(count))
    ]
    target.steps.append(partial(fill_image, image, found, texel))


@_recorded
def vkCmdExecuteCommands(target: CommandBuffer, count: int, handles: Any) -> None:
    for i in range(count):
        other = find(CommandBuffer, handles[i], target.device)
        if other.primary or other.state != _EXECUTABLE:
            raise Failure(c.VK_ERROR_UNKNOWN, "this command buffer cannot be executed")
        target.steps.extend(other.steps)
        for resource, write in other.uses.items():
            target.uses[resource] = target.uses.get(resource, False) or write


# A queue runs its steps one after another, memory is coherent and images have one layout. So a
# barrier has nothing to do, whatever it says: that it was said is the business of the rules.


@_recorded
def vkCmdPipelineBarrier(target: CommandBuffer, *arguments: Any) -> None:
    pass


@_recorded
def vkCmdPipelineBarrier2(target: CommandBuffer, info: Any) -> None:
    pass


@_recorded
def vkCmdSetDeviceMask(target: CommandBuffer, mask: int) -> None:
    pass
