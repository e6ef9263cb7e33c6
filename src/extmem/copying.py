"""Work that the device itself does on memory: copies and fills, each waited for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from extmem import vk
from extmem.allocating import allocate
from extmem.errors import Unsupported
from extmem.images.formats import aspect_of
from extmem.images.infos import LAYOUTS, names_of_usage, shape_of
from extmem.ownership import transition
from extmem.submitting import Semaphores, submit

if TYPE_CHECKING:
    import numpy as np

    from extmem.device import Device
    from extmem.images.image import Image
    from extmem.memory import Memory
    from extmem.resources import Buffer

__all__ = ["Stages", "copy", "fill", "queue_family", "readback", "upload"]

_GENERAL = LAYOUTS["general"]
_SOURCE = int(vk.VK_IMAGE_USAGE_TRANSFER_SRC_BIT)
_TARGET = int(vk.VK_IMAGE_USAGE_TRANSFER_DST_BIT)


_SHADERS = int(vk.VK_QUEUE_GRAPHICS_BIT | vk.VK_QUEUE_COMPUTE_BIT)
_COPIES = int(vk.VK_QUEUE_TRANSFER_BIT)
_BESIDE = int(vk.VK_QUEUE_SPARSE_BINDING_BIT | vk.VK_QUEUE_PROTECTED_BIT)  # not another engine


def queue_family(families: list[vk.VkQueueFamilyProperties], queue: str = "any") -> int:
    """The queue family that a device works with.

    queue: "any": the first that can copy, and graphics and compute families always can; "copy":
        the first that can do nothing else, and where there is none, as "any"

    >>> graphics = vk.VkQueueFamilyProperties(queueFlags=vk.VK_QUEUE_GRAPHICS_BIT)
    >>> copies = vk.VkQueueFamilyProperties(queueFlags=vk.VK_QUEUE_TRANSFER_BIT)
    >>> queue_family([graphics, copies]), queue_family([graphics, copies], "copy")
    (0, 1)
    >>> queue_family([graphics], "copy")
    0
    """
    if queue not in ("any", "copy"):
        raise ValueError(f"queue is {queue!r}; expected 'any' or 'copy'")
    flags = [int(each.queueFlags) for each in families]
    if queue == "copy":
        for index, each in enumerate(flags):
            if each & ~_BESIDE == _COPIES:
                return index
    for index, each in enumerate(flags):
        if each & (_COPIES | _SHADERS):
            return index
    raise Unsupported("the device has no queue that can copy")


# -- buffers --------------------------------------------------------------------------------------


def copy(
    device: Device,
    source: Buffer,
    target: Buffer,
    size: int | None,
    wait: Semaphores = (),
    signal: Semaphores = (),
) -> None:
    """Copy `size` bytes, by default as many as the smaller buffer has."""
    _is_buffer("source", source)
    _is_buffer("target", target)
    length = min(source.size, target.size) if size is None else size
    if not 0 < length <= min(source.size, target.size):
        raise ValueError(
            f"cannot copy {length} bytes from {source.size} bytes to {target.size} bytes"
        )
    for each in (source, target):
        each.ownership.use(strict=False)

    def record(commands: vk.VkCommandBuffer) -> None:
        region = vk.VkBufferCopy(srcOffset=0, dstOffset=0, size=length)
        vk.vkCmdCopyBuffer(commands, source.handle, target.handle, 1, [region])

    _submit(device, record, wait, signal)


def fill(
    device: Device,
    target: Buffer,
    value: int,
    wait: Semaphores = (),
    signal: Semaphores = (),
) -> None:
    """Fill with a 32-bit value; bytes beyond the last whole word stay as they are."""
    _is_buffer("target", target)
    target.ownership.use(strict=False)

    def record(commands: vk.VkCommandBuffer) -> None:
        vk.vkCmdFillBuffer(commands, target.handle, 0, vk.VK_WHOLE_SIZE, value)

    _submit(device, record, wait, signal)


def _is_buffer(name: str, given: object) -> None:
    from extmem.resources import Buffer

    if not isinstance(given, Buffer):
        raise TypeError(
            f"{name} is {given!r}; expected a Buffer. Device.buffer(memory) makes one of memory, "
            "and upload and readback are for images"
        )


# -- images ---------------------------------------------------------------------------------------


def upload(
    device: Device,
    image: Image,
    array: Any,
    level: int,
    layer: int,
    plane: int,
    wait: Semaphores,
    signal: Semaphores,
) -> None:
    """Write one plane of one level of one layer, by way of a buffer that both sides see."""
    import numpy as np

    _copyable(device, image, _TARGET, "upload")
    shape, dtype = image.layout_of_array(level, layer, plane)
    given = np.asarray(array)
    if given.shape != shape or given.dtype != dtype:
        raise ValueError(
            f"the array is {given.dtype} {given.shape}; this part of the image takes {dtype} "
            f"{shape}"
        )
    image.ownership.use(writing=True)
    with _staged(device, image, given.nbytes) as stage:
        stage.memory.numpy(dtype, shape)[...] = given
        stage.memory.flush()
        region = _region(image, level, layer, plane)

        def record(commands: vk.VkCommandBuffer) -> None:
            before = image.ownership.layout
            if before != _GENERAL:
                transition(commands, image, before, _GENERAL)
            vk.vkCmdCopyBufferToImage(
                commands, stage.buffer.handle, image.handle, _GENERAL, 1, [region]
            )

        _submit(device, record, wait, signal, image.ownership.in_general)


def readback(
    device: Device,
    image: Image,
    level: int,
    layer: int,
    plane: int,
    wait: Semaphores,
    signal: Semaphores,
) -> np.ndarray[Any, Any]:
    """Read one plane of one level of one layer, by way of a buffer that both sides see."""
    import numpy as np

    _copyable(device, image, _SOURCE, "readback")
    shape, dtype = image.layout_of_array(level, layer, plane)
    image.ownership.use()
    result = np.empty(shape, dtype)
    with _staged(device, image, result.nbytes) as stage:
        region = _region(image, level, layer, plane)

        def record(commands: vk.VkCommandBuffer) -> None:
            before = image.ownership.layout
            if before != _GENERAL:
                transition(commands, image, before, _GENERAL)
            vk.vkCmdCopyImageToBuffer(
                commands, image.handle, _GENERAL, stage.buffer.handle, 1, [region]
            )

        _submit(device, record, wait, signal, image.ownership.in_general)
        stage.memory.invalidate()
        result[...] = stage.memory.numpy(dtype, shape)
    return result


def _copyable(device: Device, image: Image, usage: int, verb: str) -> None:
    if image.device is not device:
        raise ValueError(f"{image!r} is of another device")
    if image.samples > 1:
        raise Unsupported(
            f"an image with {image.samples} samples cannot be copied to or from memory; resolve it "
            "into one with a single sample"
        )
    if not image.info.usage & usage:
        raise Unsupported(
            f"{verb} needs an image with usage {names_of_usage(usage)}, and this one was made for "
            f"{names_of_usage(image.info.usage)}"
        )


def _region(image: Image, level: int, layer: int, plane: int) -> vk.VkBufferImageCopy:
    extent = image.format.planes[plane].extent(shape_of(image.info, level))
    depth, height, width = (1,) * (3 - len(extent)) + extent
    return vk.VkBufferImageCopy(
        imageSubresource=vk.VkImageSubresourceLayers(
            aspectMask=aspect_of(image.format, plane),
            mipLevel=level,
            baseArrayLayer=layer,
            layerCount=1,
        ),
        imageExtent=vk.VkExtent3D(width, height, depth),
    )


class _Staging:
    """A private buffer in memory that the processor sees."""

    def __init__(self, device: Device, size: int) -> None:
        self.size = size  # bytes
        self.memory: Memory = allocate(
            device, size, export=None, name=None, access=None, security=None, dedicated=False,
            memory="host_visible",
        )  # fmt: skip
        try:
            self.buffer: Buffer = device.buffer(self.memory)
        except BaseException:
            self.memory.close()
            raise

    def close(self) -> None:
        self.buffer.close()
        self.memory._close_when_unused()


class Stages:
    """Buffers of a stream's images, each for one copy at a time, and kept for the next one."""

    def __init__(self) -> None:
        self._free: dict[int, list[_Staging]] | None = {}  # by their bytes; None: closed
        self._lock = threading.Lock()

    def take(self, size: int) -> _Staging | None:
        """One of so many bytes that nobody has, if there is one."""
        with self._lock:
            free = self._free.get(size) if self._free is not None else None
            return free.pop() if free else None

    def keep(self, stage: _Staging) -> None:
        """A copy was done with it."""
        with self._lock:
            if self._free is not None:
                self._free.setdefault(stage.size, []).append(stage)
                return
        stage.close()

    def close(self) -> None:
        """Free all that nobody has, and the others when they come back."""
        with self._lock:
            free, self._free = self._free, None
        for stages in (free or {}).values():
            for each in stages:
                each.close()


@contextlib.contextmanager
def _staged(device: Device, image: Image, size: int) -> Iterator[_Staging]:
    """A buffer for as long as one copy takes."""
    kept = image._stages
    stage = (kept.take(size) if kept is not None else None) or _Staging(device, size)
    try:
        yield stage
    except KeyboardInterrupt:  # the device may still work with it
        device._work.afterwards(stage.close)
        raise
    except BaseException:
        stage.close()
        raise
    if kept is None:
        stage.close()
    else:
        kept.keep(stage)


def _submit(
    device: Device,
    record: Callable[[vk.VkCommandBuffer], None],
    wait: Semaphores,
    signal: Semaphores,
    submitted: Callable[[], None] | None = None,
) -> None:
    """Have it done, and make what it writes visible to the processor."""

    def visible(commands: vk.VkCommandBuffer) -> None:
        _barrier(commands, _EARLIER, _TRANSFER)  # a fence that was waited for does not do that
        record(commands)
        _barrier(commands, _WRITTEN, _HOST)

    submit(device, visible, wait, signal, submitted)


_EARLIER = (vk.VK_PIPELINE_STAGE_ALL_COMMANDS_BIT, vk.VK_ACCESS_MEMORY_WRITE_BIT)
_TRANSFER = (
    vk.VK_PIPELINE_STAGE_TRANSFER_BIT,
    vk.VK_ACCESS_TRANSFER_READ_BIT | vk.VK_ACCESS_TRANSFER_WRITE_BIT,
)
_WRITTEN = (vk.VK_PIPELINE_STAGE_TRANSFER_BIT, vk.VK_ACCESS_TRANSFER_WRITE_BIT)
_HOST = (
    vk.VK_PIPELINE_STAGE_HOST_BIT,
    vk.VK_ACCESS_HOST_READ_BIT | vk.VK_ACCESS_HOST_WRITE_BIT,
)


def _barrier(commands: vk.VkCommandBuffer, before: tuple[int, int], after: tuple[int, int]) -> None:
    """What came before, by (stages, accesses), is seen by what comes after."""
    barrier = vk.VkMemoryBarrier(srcAccessMask=before[1], dstAccessMask=after[1])
    vk.vkCmdPipelineBarrier(commands, before[0], after[0], 0, 1, [barrier], 0, None, 0, None)
