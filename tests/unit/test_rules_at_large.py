"""What Vulkan at large allows, up to its edges: no rule of copies, images and queues minds it.

What breaks these rules is among the bad inputs of `tests/crash`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from extmem import DriverError, vk
from extmem.rules.texels import texels
from tests.crash.scene import Scene
from tests.support.strict import driver_cannot

_GENERAL = int(vk.VK_IMAGE_LAYOUT_GENERAL)
_ALL = int(vk.VK_PIPELINE_STAGE_ALL_COMMANDS_BIT)
_IGNORED = int(vk.VK_QUEUE_FAMILY_IGNORED)
_RGBA = int(vk.VK_FORMAT_R8G8B8A8_UNORM)
_COLOR, _DEPTH = 1, 2
_PLANE_1 = int(vk.VK_IMAGE_ASPECT_PLANE_1_BIT)


@pytest.fixture
def gpu(driver: str) -> Iterator[Scene]:
    with Scene(driver) as scene:
        yield scene
        vk.vkDeviceWaitIdle(scene.device)
        for pool in list(scene.world.objects.get("VkCommandPool", ())):
            vk.vkDestroyCommandPool(scene.device, pool)
        for kind, destroy in (
            ("VkSemaphore", vk.vkDestroySemaphore),
            ("VkFence", vk.vkDestroyFence),
            ("VkImageView", vk.vkDestroyImageView),
        ):
            for value in list(scene.world.objects.get(kind, ())):
                destroy(scene.device, value)


def _image(gpu: Scene, **members: Any) -> Any:
    """An image with memory, in the layout GENERAL."""
    usual: dict[str, Any] = {
        "imageType": vk.VK_IMAGE_TYPE_2D,
        "format": _RGBA,
        "extent": vk.VkExtent3D(8, 4, 1),
        "mipLevels": 1,
        "arrayLayers": 1,
        "samples": vk.VK_SAMPLE_COUNT_1_BIT,
        "usage": vk.VK_IMAGE_USAGE_TRANSFER_SRC_BIT | vk.VK_IMAGE_USAGE_TRANSFER_DST_BIT,
    }
    wanted = {**usual, **members}
    asked = (wanted["format"], wanted["imageType"], vk.VK_IMAGE_TILING_OPTIMAL, wanted["usage"])
    try:
        vk.vkGetPhysicalDeviceImageFormatProperties(gpu.physical, *asked, 0)
    except DriverError:
        driver_cannot(f"no images of format {wanted['format']}")
    made = vk.vkCreateImage(gpu.device, vk.VkImageCreateInfo(**wanted))
    needs = vk.vkGetImageMemoryRequirements(gpu.device, made)
    index = (needs.memoryTypeBits & -needs.memoryTypeBits).bit_length() - 1
    vk.vkBindImageMemory(gpu.device, made, gpu.allocate(size=needs.size, index=index), 0)
    commands = gpu.commands()
    known = texels(wanted["format"])
    aspect = _DEPTH if known is not None and _DEPTH in known.sizes else _COLOR
    barrier = vk.VkImageMemoryBarrier(
        newLayout=_GENERAL,
        srcQueueFamilyIndex=_IGNORED,
        dstQueueFamilyIndex=_IGNORED,
        image=made,
        subresourceRange=vk.VkImageSubresourceRange(aspect, 0, 0xFFFFFFFF, 0, 0xFFFFFFFF),
    )
    vk.vkCmdPipelineBarrier(commands, _ALL, _ALL, 0, 0, None, 0, None, 1, [barrier])
    gpu.submit(gpu.ended(commands))
    return made


def _copied(gpu: Scene, buffer: Any, image: Any, **members: Any) -> None:
    """A region goes up, and comes down again."""
    part = vk.VkImageSubresourceLayers(*members.pop("part", (_COLOR, 0, 0, 1)))
    extent = vk.VkExtent3D(*members.pop("extent"))
    offset = vk.VkOffset3D(*members.pop("offset", (0, 0, 0)))
    region = vk.VkBufferImageCopy(
        imageSubresource=part, imageExtent=extent, imageOffset=offset, **members
    )
    commands = gpu.commands()
    vk.vkCmdCopyBufferToImage(commands, buffer, image, _GENERAL, 1, [region])
    vk.vkCmdCopyImageToBuffer(commands, image, _GENERAL, buffer, 1, [region])
    gpu.submit(gpu.ended(commands))


def test_buffers_up_to_their_last_byte(gpu: Scene) -> None:
    one, other = gpu.bound(4096), gpu.bound(4096)
    commands = gpu.commands()
    regions = [vk.VkBufferCopy(size=4096), vk.VkBufferCopy(srcOffset=4095, dstOffset=4095, size=1)]
    vk.vkCmdCopyBuffer(commands, one, other, 1, regions[:1])
    vk.vkCmdCopyBuffer(commands, one, other, 1, regions[1:])
    vk.vkCmdFillBuffer(commands, one, 0, vk.VK_WHOLE_SIZE, 7)
    vk.vkCmdFillBuffer(commands, one, 4092, vk.VK_WHOLE_SIZE, 7)
    vk.vkCmdFillBuffer(commands, one, 4092, 4, 7)
    vk.vkCmdUpdateBuffer(commands, one, 4092, 4, b"last")
    barrier = vk.VkBufferMemoryBarrier(
        srcQueueFamilyIndex=_IGNORED,
        dstQueueFamilyIndex=_IGNORED,
        buffer=one,
        offset=4095,
        size=vk.VK_WHOLE_SIZE,
    )
    vk.vkCmdPipelineBarrier(commands, _ALL, _ALL, 0, 0, None, 1, [barrier], 0, None)
    gpu.submit(gpu.ended(commands))


def test_levels_and_layers_to_the_last(gpu: Scene) -> None:
    image, buffer = _image(gpu, mipLevels=4, arrayLayers=3), gpu.bound(8 * 4 * 4 * 3)
    for level, extent in enumerate([(8, 4, 1), (4, 2, 1), (2, 1, 1), (1, 1, 1)]):
        _copied(gpu, buffer, image, extent=extent, part=(_COLOR, level, 0, 3))
        _copied(gpu, buffer, image, extent=extent, part=(_COLOR, level, 2, 1))


def test_several_samples_in_a_flat_image_of_one_level(gpu: Scene) -> None:
    usage = vk.VK_IMAGE_USAGE_COLOR_ATTACHMENT_BIT | vk.VK_IMAGE_USAGE_TRANSFER_SRC_BIT
    found = vk.vkGetPhysicalDeviceFormatProperties(gpu.physical, _RGBA)
    if not found.optimalTilingFeatures & vk.VK_FORMAT_FEATURE_COLOR_ATTACHMENT_BIT:
        driver_cannot("no colour attachments")
    for layers in (1, 3):
        _image(gpu, samples=vk.VK_SAMPLE_COUNT_4_BIT, usage=usage, arrayLayers=layers)


def test_a_box_in_the_corner_and_the_bytes_that_it_takes(gpu: Scene) -> None:
    # Three rows of sixteen texels and a last one of eight: the buffer ends with the last texel.
    image, buffer = _image(gpu), gpu.bound((3 * 16 + 8) * 4)
    _copied(gpu, buffer, image, extent=(8, 4, 1), bufferRowLength=16)
    corner = gpu.bound(64 + 4)
    _copied(gpu, corner, image, extent=(1, 1, 1), offset=(7, 3, 0), bufferOffset=64)


def test_volumes(gpu: Scene) -> None:
    image = _image(gpu, imageType=vk.VK_IMAGE_TYPE_3D, extent=vk.VkExtent3D(4, 4, 4), mipLevels=3)
    buffer = gpu.bound(4 * 4 * 4 * 4)
    _copied(gpu, buffer, image, extent=(4, 4, 4))
    _copied(gpu, buffer, image, extent=(2, 2, 1), offset=(0, 0, 1), part=(_COLOR, 1, 0, 1))


def test_planes_have_their_own_extent(gpu: Scene) -> None:
    image = _image(gpu, format=vk.VK_FORMAT_G8_B8R8_2PLANE_420_UNORM)
    plane_0 = int(vk.VK_IMAGE_ASPECT_PLANE_0_BIT)
    _copied(gpu, gpu.bound(8 * 4), image, extent=(8, 4, 1), part=(plane_0, 0, 0, 1))
    _copied(gpu, gpu.bound(4 * 2 * 2), image, extent=(4, 2, 1), part=(_PLANE_1, 0, 0, 1))


def test_depth(gpu: Scene) -> None:
    image = _image(gpu, format=vk.VK_FORMAT_D32_SFLOAT)
    _copied(gpu, gpu.bound(8 * 4 * 4), image, extent=(8, 4, 1), part=(_DEPTH, 0, 0, 1))


def test_blocks(gpu: Scene) -> None:
    image = _image(gpu, format=vk.VK_FORMAT_BC1_RGBA_UNORM_BLOCK)
    _copied(gpu, gpu.bound(2 * 8), image, extent=(8, 4, 1))


def test_images_to_images(gpu: Scene) -> None:
    small, large = _image(gpu), _image(gpu, extent=vk.VkExtent3D(32, 32, 1))
    whole = vk.VkImageSubresourceLayers(_COLOR, 0, 0, 1)
    region = vk.VkImageCopy(
        srcSubresource=whole,
        dstSubresource=whole,
        dstOffset=vk.VkOffset3D(24, 28, 0),
        extent=vk.VkExtent3D(8, 4, 1),
    )
    commands = gpu.commands()
    vk.vkCmdCopyImage(commands, small, _GENERAL, large, _GENERAL, 1, [region])
    every = vk.VkImageSubresourceRange(_COLOR, 0, 0xFFFFFFFF, 0, 0xFFFFFFFF)
    if gpu.dispatch.has("vkCmdClearColorImage"):
        vk.vkCmdClearColorImage(commands, large, _GENERAL, vk.VkClearColorValue(), 1, [every])
    gpu.submit(gpu.ended(commands))


def test_command_buffers_again_and_again(gpu: Scene) -> None:
    commands, buffer = gpu.commands(), gpu.bound(64)
    vk.vkCmdFillBuffer(commands, buffer, 0, 64, 1)
    gpu.ended(commands)
    gpu.submit(commands)
    gpu.submit(commands)  # not for one use
    (pool,) = gpu.world.objects["VkCommandPool"]
    vk.vkResetCommandPool(gpu.device, pool, 0)
    once = vk.VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT
    vk.vkBeginCommandBuffer(commands, vk.VkCommandBufferBeginInfo(flags=once))
    gpu.submit(gpu.ended(commands))
    vk.vkResetCommandPool(gpu.device, pool, 0)
    vk.vkBeginCommandBuffer(commands, vk.VkCommandBufferBeginInfo())
    level = vk.VK_COMMAND_BUFFER_LEVEL_SECONDARY
    info = vk.VkCommandBufferAllocateInfo(commandPool=pool, level=level, commandBufferCount=1)
    (inner,) = vk.vkAllocateCommandBuffers(gpu.device, info)
    inherited = vk.VkCommandBufferInheritanceInfo()
    vk.vkBeginCommandBuffer(inner, vk.VkCommandBufferBeginInfo(pInheritanceInfo=inherited))
    vk.vkCmdFillBuffer(inner, buffer, 0, 64, 2)
    vk.vkEndCommandBuffer(inner)
    vk.vkCmdExecuteCommands(commands, 1, [inner])
    gpu.submit(gpu.ended(commands))
    vk.vkFreeCommandBuffers(gpu.device, pool, 2, [inner, 0])


def test_semaphores_from_one_batch_to_the_next(gpu: Scene) -> None:
    done = gpu.semaphore()
    signals = vk.VkSubmitInfo(pSignalSemaphores=[done])
    waits = vk.VkSubmitInfo(pWaitSemaphores=[done], pWaitDstStageMask=[_ALL])
    vk.vkQueueSubmit(gpu.queue, 2, [signals, waits], None)
    vk.vkQueueSubmit(gpu.queue, 1, [signals], None)
    vk.vkQueueSubmit(gpu.queue, 1, [waits], None)
    vk.vkQueueWaitIdle(gpu.queue)


def test_fences_that_were_reset(gpu: Scene) -> None:
    fence = gpu.fence(signaled=True)
    for _ in range(2):
        vk.vkResetFences(gpu.device, 1, [fence])
        vk.vkQueueSubmit(gpu.queue, 0, None, fence)
        assert vk.vkWaitForFences(gpu.device, 1, [fence], True, 10**10) == vk.VK_SUCCESS


def test_images_as_large_as_the_device_makes_them(gpu: Scene) -> None:
    usage = int(vk.VK_IMAGE_USAGE_TRANSFER_DST_BIT)
    found = vk.vkGetPhysicalDeviceImageFormatProperties(gpu.physical, _RGBA, 1, 0, usage, 0)
    line = vk.VkImageCreateInfo(
        imageType=vk.VK_IMAGE_TYPE_2D,
        format=_RGBA,
        extent=vk.VkExtent3D(found.maxExtent.width, 1, 1),
        mipLevels=min(found.maxMipLevels, found.maxExtent.width.bit_length()),
        arrayLayers=1,
        samples=1,
        usage=usage,
    )
    vk.vkDestroyImage(gpu.device, vk.vkCreateImage(gpu.device, line))


def test_what_several_families_share(gpu: Scene) -> None:
    count = len(vk.vkGetPhysicalDeviceQueueFamilyProperties(gpu.physical))
    if count < 2:
        driver_cannot("one queue family")
    shared = vk.VkBufferCreateInfo(
        size=64,
        usage=3,
        sharingMode=vk.VK_SHARING_MODE_CONCURRENT,
        pQueueFamilyIndices=list(range(count)),
    )
    vk.vkDestroyBuffer(gpu.device, vk.vkCreateBuffer(gpu.device, shared))


def test_views(gpu: Scene) -> None:
    gpu.needs("vkCreateImageView")
    usage = int(vk.VK_IMAGE_USAGE_SAMPLED_BIT | vk.VK_IMAGE_USAGE_TRANSFER_DST_BIT)
    image = _image(gpu, mipLevels=2, arrayLayers=3, usage=usage)
    every = vk.VkImageSubresourceRange(_COLOR, 1, 0xFFFFFFFF, 1, 2)
    info = vk.VkImageViewCreateInfo(
        image=image,
        viewType=vk.VK_IMAGE_VIEW_TYPE_2D_ARRAY,
        format=_RGBA,
        subresourceRange=every,
    )
    vk.vkCreateImageView(gpu.device, info)


def test_texels() -> None:
    known = texels(int(vk.VK_FORMAT_G8_B8R8_2PLANE_420_UNORM))
    assert known is not None
    assert known.planar
    assert known.extent(_PLANE_1, 9, 5) == (5, 3)
    assert texels(int(vk.VK_FORMAT_D24_UNORM_S8_UINT)).sizes == {2: 4, 4: 1}  # type: ignore[union-attr]
    assert texels(int(vk.VK_FORMAT_BC7_UNORM_BLOCK)).blocks  # type: ignore[union-attr]
    assert texels(int(vk.VK_FORMAT_R5G6B5_UNORM_PACK16)).sizes == {1: 2}  # type: ignore[union-attr]
    assert texels(123456) is None
