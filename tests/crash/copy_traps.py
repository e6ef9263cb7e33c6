"""Copies, fills and clears: out of range, over dead objects, from addresses of nothing."""

from __future__ import annotations

import ctypes
from typing import Any

from extmem import vk
from tests.crash.scene import Scene
from tests.crash.trap import trap
from tests.support.bare import SIZE

_GENERAL = int(vk.VK_IMAGE_LAYOUT_GENERAL)
_COPY = "VUID-vkCmdCopyBuffer"


# -- copies between buffers -----------------------------------------------------------------------


def _copied(here: Scene, source: Any, target: Any, start: int, at: int, size: int) -> None:
    """Record a copy, and run it."""
    commands = here.commands()
    region = vk.VkBufferCopy(srcOffset=start, dstOffset=at, size=size)
    vk.vkCmdCopyBuffer(commands, source, target, 1, [region])
    here.submit(here.ended(commands))


@trap(f"{_COPY}-srcOffset-00113")
def copy_from_behind_the_end(here: Scene) -> None:
    _copied(here, here.bound(), here.bound(), 1 << 40, 0, 64)


@trap(f"{_COPY}-dstOffset-00114")
def copy_to_behind_the_end(here: Scene) -> None:
    _copied(here, here.bound(), here.bound(), 0, 1 << 40, 64)


@trap(f"{_COPY}-size-00115", f"{_COPY}-size-00116")
def copy_of_more_than_there_is(here: Scene) -> None:
    _copied(here, here.bound(), here.bound(), 0, 0, 1 << 40)


@trap(f"{_COPY}-size-00116")
def copy_over_the_end_of_the_target(here: Scene) -> None:
    _copied(here, here.bound(4 * SIZE), here.bound(), 0, 4096, SIZE)


@trap(f"{_COPY}-size-00115", f"{_COPY}-size-00116")
def copy_whose_end_wraps_around(here: Scene) -> None:
    _copied(here, here.bound(), here.bound(), 4096, 4096, (1 << 64) - 4096)


@trap("VUID-VkBufferCopy-size-01988")
def copy_of_no_bytes(here: Scene) -> None:
    _copied(here, here.bound(), here.bound(), 0, 0, 0)


@trap(f"{_COPY}-srcBuffer-00119")
def copy_from_a_buffer_without_memory(here: Scene) -> None:
    _copied(here, here.buffer(), here.bound(), 0, 0, 64)


@trap(f"{_COPY}-dstBuffer-00121")
def copy_to_a_buffer_without_memory(here: Scene) -> None:
    _copied(here, here.bound(), here.buffer(), 0, 0, 64)


@trap(f"{_COPY}-srcBuffer-parameter")
def copy_from_no_buffer(here: Scene) -> None:
    _copied(here, None, here.bound(), 0, 0, 64)


@trap(f"{_COPY}-dstBuffer-parameter")
def copy_to_a_destroyed_buffer(here: Scene) -> None:
    source, gone = here.bound(), here.buffer()
    vk.vkDestroyBuffer(here.device, gone)
    _copied(here, source, gone, 0, 0, 64)


@trap(f"{_COPY}-commonparent")
def copy_to_a_buffer_of_another_device(here: Scene) -> None:
    _copied(here, here.bound(), here.other.buffer(), 0, 0, 64)


@trap(f"{_COPY}-srcBuffer-parameter")
def copy_from_an_image_as_a_buffer(here: Scene) -> None:
    _copied(here, here.picture(), here.bound(), 0, 0, 64)


@trap(f"{_COPY}-regionCount-arraylength")
def copy_of_no_regions(here: Scene) -> None:
    vk.vkCmdCopyBuffer(here.commands(), here.bound(), here.bound(), 0, None)


@trap(f"{_COPY}-pRegions-parameter")
def copy_of_regions_that_are_not_there(here: Scene) -> None:
    vk.vkCmdCopyBuffer(here.commands(), here.bound(), here.bound(), 5, None)


@trap(ValueError, says="regionCount is 9, but pRegions has 1 element")
def copy_of_more_regions_than_there_are(here: Scene) -> None:
    region = vk.VkBufferCopy(size=64)
    vk.vkCmdCopyBuffer(here.commands(), here.bound(), here.bound(), 9, [region])


@trap("VUID-VkCopyBufferInfo2-dstOffset-00114", needs="vkCmdCopyBuffer2")
def copy_by_a_structure_to_behind_the_end(here: Scene) -> None:
    commands = here.commands()
    region = vk.VkBufferCopy2(srcOffset=0, dstOffset=1 << 40, size=64)
    info = vk.VkCopyBufferInfo2(srcBuffer=here.bound(), dstBuffer=here.bound(), pRegions=[region])
    vk.vkCmdCopyBuffer2(commands, info)
    here.submit(here.ended(commands))


@trap("VUID-vkQueueSubmit-pCommandBuffers-00070")
def copy_to_a_buffer_that_is_destroyed_before_it_runs(here: Scene) -> None:
    commands, source, target = here.commands(), here.bound(), here.bound()
    vk.vkCmdCopyBuffer(commands, source, target, 1, [vk.VkBufferCopy(size=64)])
    vk.vkEndCommandBuffer(commands)
    vk.vkDestroyBuffer(here.device, target)
    here.submit(commands)


# -- fills and updates ----------------------------------------------------------------------------


def _filled(here: Scene, buffer: Any, at: int, size: int) -> None:
    commands = here.commands()
    vk.vkCmdFillBuffer(commands, buffer, at, size, 7)
    here.submit(here.ended(commands))


@trap("VUID-vkCmdFillBuffer-dstOffset-00024")
def fill_from_behind_the_end(here: Scene) -> None:
    _filled(here, here.bound(), 1 << 40, vk.VK_WHOLE_SIZE)


@trap("VUID-vkCmdFillBuffer-size-00027")
def fill_of_more_than_there_is(here: Scene) -> None:
    _filled(here, here.bound(), 0, 1 << 40)


@trap("VUID-vkCmdFillBuffer-size-00026")
def fill_of_no_bytes(here: Scene) -> None:
    _filled(here, here.bound(), 0, 0)


@trap("VUID-vkCmdFillBuffer-dstBuffer-parameter")
def fill_of_no_buffer(here: Scene) -> None:
    _filled(here, None, 0, 64)


@trap("VUID-vkCmdFillBuffer-dstBuffer-00031")
def fill_of_a_buffer_without_memory(here: Scene) -> None:
    _filled(here, here.buffer(), 0, 64)


def _updated(here: Scene, at: int, size: int, data: Any) -> None:
    commands = here.commands()
    vk.vkCmdUpdateBuffer(commands, here.bound(), at, size, data)
    here.submit(here.ended(commands))


@trap("VUID-vkCmdUpdateBuffer-dstOffset-00032")
def update_behind_the_end(here: Scene) -> None:
    _updated(here, 1 << 40, 64, bytes(64))


@trap("VUID-vkCmdUpdateBuffer-dataSize-00033")
def update_over_the_end(here: Scene) -> None:
    _updated(here, SIZE - 32, 64, bytes(64))


@trap(ValueError, says="dataSize is 4096, but pData has 64 bytes")
def update_with_fewer_bytes_than_it_says(here: Scene) -> None:
    _updated(here, 0, 4096, bytes(64))


@trap(ValueError, says="dataSize is 64, but pData has 8 bytes")
def update_with_a_smaller_object_than_it_says(here: Scene) -> None:
    _updated(here, 0, 64, ctypes.c_uint64(7))


@trap(ValueError, says="pData is 0x6660, and 64 bytes cannot be read there")
def update_from_an_address_of_nothing(here: Scene) -> None:
    _updated(here, 0, 64, 0x6660)


@trap("VUID-vkCmdUpdateBuffer-pData-parameter")
def update_from_null(here: Scene) -> None:
    _updated(here, 0, 64, None)


@trap("VUID-vkCmdUpdateBuffer-dataSize-00037", ValueError, says="dataSize")
def update_of_a_million_bytes(here: Scene) -> None:
    _updated(here, 0, 1 << 20, bytes(1 << 20))


@trap(TypeError, says="expected bytes, a ctypes object, or an address")
def update_from_a_word(here: Scene) -> None:
    _updated(here, 0, 64, "sixty-four")


# -- copies of images -----------------------------------------------------------------------------


def _region(
    extent: tuple[int, int, int] = (64, 64, 1),
    offset: tuple[int, int, int] = (0, 0, 0),
    part: tuple[int, int, int, int] = (1, 0, 0, 1),
    at: int = 0,
    row: int = 0,
) -> Any:
    return vk.VkBufferImageCopy(
        bufferOffset=at,
        bufferRowLength=row,
        imageSubresource=vk.VkImageSubresourceLayers(*part),
        imageOffset=vk.VkOffset3D(*offset),
        imageExtent=vk.VkExtent3D(*extent),
    )


def _uploaded(here: Scene, region: Any, buffer: Any = "", image: Any = "") -> None:
    """Record a copy of a buffer into an image, and run it."""
    commands = here.commands()
    image = here.picture() if image == "" else image
    buffer = here.bound() if buffer == "" else buffer
    vk.vkCmdCopyBufferToImage(commands, buffer, image, _GENERAL, 1, [region])
    here.submit(here.ended(commands))


def _downloaded(here: Scene, region: Any) -> None:
    commands = here.commands()
    vk.vkCmdCopyImageToBuffer(commands, here.picture(), _GENERAL, here.bound(), 1, [region])
    here.submit(here.ended(commands))


_UP = "VUID-vkCmdCopyBufferToImage"
_DOWN = "VUID-vkCmdCopyImageToBuffer"


@trap(f"{_UP}-imageSubresource-07971")
def upload_beside_the_image(here: Scene) -> None:
    _uploaded(here, _region(offset=(60, 0, 0)))


@trap(f"{_UP}-imageSubresource-07971")
def upload_before_the_image(here: Scene) -> None:
    _uploaded(here, _region(offset=(-1000000, -1000000, 0)))


@trap(f"{_UP}-imageSubresource-07972")
def upload_of_a_huge_box(here: Scene) -> None:
    _uploaded(here, _region(extent=(0xFFFFFFFF, 0xFFFFFFFF, 1)))


@trap(f"{_UP}-imageSubresource-07967")
def upload_into_level_99(here: Scene) -> None:
    _uploaded(here, _region(part=(1, 99, 0, 1)))


@trap(f"{_UP}-imageSubresource-07968")
def upload_into_layer_all_ones(here: Scene) -> None:
    _uploaded(here, _region(part=(1, 0, 0xFFFFFFF0, 1)))


@trap(f"{_UP}-imageSubresource-07968")
def upload_into_more_layers_than_there_are(here: Scene) -> None:
    _uploaded(here, _region(part=(1, 0, 0, 4096)))


@trap("VUID-VkImageSubresourceLayers-aspectMask-requiredbitmask")
def upload_into_no_aspect(here: Scene) -> None:
    _uploaded(here, _region(part=(0, 0, 0, 1)))


@trap(f"{_UP}-imageSubresource-09105")
def upload_into_a_depth_that_colours_do_not_have(here: Scene) -> None:
    _uploaded(here, _region(part=(2, 0, 0, 1)))


@trap(f"{_UP}-pRegions-00171")
def upload_from_behind_the_end(here: Scene) -> None:
    _uploaded(here, _region(at=1 << 40))


@trap(f"{_UP}-pRegions-00171")
def upload_of_more_than_there_is(here: Scene) -> None:
    _uploaded(here, _region(), buffer=here.bound(4096))


@trap(f"{_UP}-pRegions-00171")
def upload_with_rows_of_all_ones(here: Scene) -> None:
    _uploaded(here, _region(row=0xFFFFFFFF))


@trap(f"{_UP}-dstImage-07966")
def upload_into_an_image_without_memory(here: Scene) -> None:
    _uploaded(here, _region(), image=here.image())


@trap(f"{_UP}-dstImage-parameter")
def upload_into_no_image(here: Scene) -> None:
    _uploaded(here, _region(), image=None)


@trap(f"{_UP}-dstImageLayout-parameter")
def upload_into_a_layout_that_nobody_knows(here: Scene) -> None:
    vk.vkCmdCopyBufferToImage(here.commands(), here.bound(), here.picture(), 424242, 1, [_region()])


@trap(f"{_DOWN}-imageSubresource-07972")
def download_from_before_the_image(here: Scene) -> None:
    _downloaded(here, _region(offset=(0, -64, 0)))


@trap(f"{_DOWN}-pRegions-00183")
def download_to_behind_the_end(here: Scene) -> None:
    _downloaded(here, _region(at=SIZE))


@trap(f"{_DOWN}-imageSubresource-07967")
def download_from_level_all_ones(here: Scene) -> None:
    _downloaded(here, _region(part=(1, 0xFFFFFFFF, 0, 1)))


def _images_copied(here: Scene, **members: Any) -> None:
    whole = vk.VkImageSubresourceLayers(1, 0, 0, 1)
    usual = {
        "srcSubresource": whole,
        "dstSubresource": whole,
        "extent": vk.VkExtent3D(64, 64, 1),
    }
    region = vk.VkImageCopy(**{**usual, **members})
    commands = here.commands()
    vk.vkCmdCopyImage(commands, here.picture(), _GENERAL, here.picture(32), _GENERAL, 1, [region])
    here.submit(here.ended(commands))


@trap("VUID-vkCmdCopyImage-dstOffset-00150", "VUID-vkCmdCopyImage-dstOffset-00151")
def image_copied_into_a_smaller_one(here: Scene) -> None:
    _images_copied(here)


@trap("VUID-vkCmdCopyImage-srcSubresource-07967")
def image_copied_from_level_99(here: Scene) -> None:
    _images_copied(here, srcSubresource=vk.VkImageSubresourceLayers(1, 99, 0, 1))


@trap("VUID-vkCmdClearColorImage-baseMipLevel-01470")
def level_99_cleared(here: Scene) -> None:
    commands = here.commands()
    part = vk.VkImageSubresourceRange(1, 99, 1, 0, 1)
    vk.vkCmdClearColorImage(commands, here.picture(), _GENERAL, vk.VkClearColorValue(), 1, [part])
    here.submit(here.ended(commands))


@trap("VUID-vkCmdClearColorImage-pRanges-01693")
def more_layers_cleared_than_there_are(here: Scene) -> None:
    commands = here.commands()
    part = vk.VkImageSubresourceRange(1, 0, 1, 0, 99)
    vk.vkCmdClearColorImage(commands, here.picture(), _GENERAL, vk.VkClearColorValue(), 1, [part])
    here.submit(here.ended(commands))


@trap(TypeError, says="pColor was given None")
def image_cleared_with_no_colour(here: Scene) -> None:
    part, colour = vk.VkImageSubresourceRange(1, 0, 1, 0, 1), None
    commands: Any = here.commands()
    vk.vkCmdClearColorImage(commands, here.picture(), _GENERAL, colour, 1, [part])  # type: ignore[arg-type]
