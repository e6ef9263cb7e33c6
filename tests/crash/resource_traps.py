"""Buffers, views, and what is asked of images: of what is not there, or not made for it."""

from __future__ import annotations

from typing import Any

from extmem import vk
from tests.crash.scene import Scene
from tests.crash.trap import trap

_BUFFER = "VUID-VkBufferCreateInfo"
_VIEW = "VUID-VkImageViewCreateInfo"


def _info(**members: Any) -> Any:
    """How an ordinary image is made, with some of it replaced."""
    usual = {
        "imageType": vk.VK_IMAGE_TYPE_2D,
        "format": vk.VK_FORMAT_R8G8B8A8_UNORM,
        "extent": vk.VkExtent3D(64, 64, 1),
        "mipLevels": 1,
        "arrayLayers": 1,
        "samples": vk.VK_SAMPLE_COUNT_1_BIT,
        "tiling": vk.VK_IMAGE_TILING_OPTIMAL,
        "usage": vk.VK_IMAGE_USAGE_TRANSFER_SRC_BIT | vk.VK_IMAGE_USAGE_TRANSFER_DST_BIT,
    }
    return vk.VkImageCreateInfo(**{**usual, **members})


def _make(here: Scene, **members: Any) -> Any:
    return vk.vkCreateImage(here.device, _info(**members))


# -- asking about it ------------------------------------------------------------------------------


@trap("VUID-vkGetImageMemoryRequirements-image-parameter")
def needs_of_no_image(here: Scene) -> None:
    vk.vkGetImageMemoryRequirements(here.device, None)


@trap("VUID-vkGetImageMemoryRequirements-image-parameter")
def needs_of_a_destroyed_image(here: Scene) -> None:
    image = here.image()
    vk.vkDestroyImage(here.device, image)
    vk.vkGetImageMemoryRequirements(here.device, image)


@trap("VUID-vkGetBufferMemoryRequirements-buffer-parent")
def needs_of_a_buffer_of_another_device(here: Scene) -> None:
    vk.vkGetBufferMemoryRequirements(here.device, here.other.buffer())


def _layout(here: Scene, image: Any, aspect: int = 1, level: int = 0, layer: int = 0) -> None:
    part = vk.VkImageSubresource(aspectMask=aspect, mipLevel=level, arrayLayer=layer)
    vk.vkGetImageSubresourceLayout(here.device, image, part)


def _linear(here: Scene) -> Any:
    return _make(here, tiling=vk.VK_IMAGE_TILING_LINEAR)


_WHERE = "VUID-vkGetImageSubresourceLayout"


@trap(f"{_WHERE}-image-07790")
def layout_of_an_optimal_image(here: Scene) -> None:
    _layout(here, here.image())


@trap(f"{_WHERE}-mipLevel-01716")
def layout_of_level_99(here: Scene) -> None:
    _layout(here, _linear(here), level=99)


@trap(f"{_WHERE}-arrayLayer-01717")
def layout_of_layer_all_ones(here: Scene) -> None:
    _layout(here, _linear(here), layer=0xFFFFFFFF)


@trap(f"{_WHERE}-format-08886")
def layout_of_a_plane_that_is_not_there(here: Scene) -> None:
    _layout(here, _linear(here), aspect=vk.VK_IMAGE_ASPECT_PLANE_2_BIT)


@trap("VUID-VkImageSubresource-aspectMask-requiredbitmask")
def layout_of_no_aspect(here: Scene) -> None:
    _layout(here, _linear(here), aspect=0)


@trap(f"{_WHERE}-aspectMask-00997")
def layout_of_two_aspects(here: Scene) -> None:
    _layout(here, _linear(here), aspect=3)


@trap(f"{_WHERE}-image-parameter")
def layout_of_no_image(here: Scene) -> None:
    _layout(here, None)


# -- views ----------------------------------------------------------------------------------------


def _view(here: Scene, image: Any, **members: Any) -> None:
    usual = {
        "viewType": vk.VK_IMAGE_VIEW_TYPE_2D,
        "format": vk.VK_FORMAT_R8G8B8A8_UNORM,
        "subresourceRange": vk.VkImageSubresourceRange(1, 0, 1, 0, 1),
    }
    vk.vkCreateImageView(here.device, vk.VkImageViewCreateInfo(image=image, **{**usual, **members}))


def _seen(here: Scene, **members: Any) -> Any:
    """An image that can be viewed, with memory."""
    usage = vk.VK_IMAGE_USAGE_SAMPLED_BIT | vk.VK_IMAGE_USAGE_TRANSFER_DST_BIT
    image = _make(here, usage=usage, **members)
    needs = vk.vkGetImageMemoryRequirements(here.device, image)
    index = (needs.memoryTypeBits & -needs.memoryTypeBits).bit_length() - 1
    vk.vkBindImageMemory(here.device, image, here.allocate(size=needs.size, index=index), 0)
    return image


_VIEWS = "vkCreateImageView"


@trap(f"{_VIEW}-image-parameter", needs=_VIEWS)
def view_of_no_image(here: Scene) -> None:
    _view(here, None)


@trap(f"{_VIEW}-image-parameter", needs=_VIEWS)
def view_of_a_destroyed_image(here: Scene) -> None:
    image = here.image()
    vk.vkDestroyImage(here.device, image)
    _view(here, image)


@trap(f"{_VIEW}-image-01020", needs=_VIEWS)
def view_of_an_image_without_memory(here: Scene) -> None:
    _view(here, _make(here, usage=vk.VK_IMAGE_USAGE_SAMPLED_BIT))


@trap(f"{_VIEW}-viewType-parameter", needs=_VIEWS)
def view_of_a_type_that_nobody_knows(here: Scene) -> None:
    _view(here, _seen(here), viewType=99)


@trap(f"{_VIEW}-format-parameter", needs=_VIEWS)
def view_of_a_format_that_nobody_knows(here: Scene) -> None:
    _view(here, _seen(here), format=99999)


@trap("VUID-VkImageSubresourceRange-aspectMask-requiredbitmask", needs=_VIEWS)
def view_of_no_aspect(here: Scene) -> None:
    _view(here, _seen(here), subresourceRange=vk.VkImageSubresourceRange(0, 0, 1, 0, 1))


@trap(f"{_VIEW}-subresourceRange-01478", needs=_VIEWS)
def view_from_level_99(here: Scene) -> None:
    _view(here, _seen(here), subresourceRange=vk.VkImageSubresourceRange(1, 99, 1, 0, 1))


@trap(f"{_VIEW}-subresourceRange-01718", needs=_VIEWS)
def view_of_more_levels_than_there_are(here: Scene) -> None:
    _view(here, _seen(here), subresourceRange=vk.VkImageSubresourceRange(1, 0, 50, 0, 1))


@trap(f"{_VIEW}-subresourceRange-06725", needs=_VIEWS)
def view_of_more_layers_than_there_are(here: Scene) -> None:
    _view(here, _seen(here), subresourceRange=vk.VkImageSubresourceRange(1, 0, 1, 0, 4096))


@trap(f"{_VIEW}-image-01762", needs=_VIEWS)
def view_as_a_wider_format(here: Scene) -> None:
    _view(here, _seen(here), format=vk.VK_FORMAT_R32G32B32A32_SFLOAT)


# -- buffers --------------------------------------------------------------------------------------


def _buffer(here: Scene, **members: Any) -> Any:
    return vk.vkCreateBuffer(here.device, vk.VkBufferCreateInfo(**members))


@trap(f"{_BUFFER}-size-00912")
def buffer_of_no_bytes(here: Scene) -> None:
    _buffer(here, size=0, usage=3)


@trap(f"{_BUFFER}-size-06409")
def buffer_of_all_bytes_there_are(here: Scene) -> None:
    _buffer(here, size=(1 << 64) - 1, usage=3)


@trap(f"{_BUFFER}-None-09500")
def buffer_for_nothing(here: Scene) -> None:
    _buffer(here, size=64, usage=0)


@trap(f"{_BUFFER}-None-09499")
def buffer_for_what_nobody_knows(here: Scene) -> None:
    _buffer(here, size=64, usage=0xFFFFFFFF)


@trap(f"{_BUFFER}-flags-parameter")
def buffer_with_flags_that_nobody_knows(here: Scene) -> None:
    _buffer(here, size=64, usage=3, flags=1 << 31)


@trap(f"{_BUFFER}-sharingMode-parameter")
def buffer_shared_as_nobody_knows(here: Scene) -> None:
    _buffer(here, size=64, usage=3, sharingMode=-5)


@trap(f"{_BUFFER}-sharingMode-00913")
def buffer_shared_by_families_that_are_not_there(here: Scene) -> None:
    _buffer(
        here,
        size=64,
        usage=3,
        sharingMode=vk.VK_SHARING_MODE_CONCURRENT,
        queueFamilyIndexCount=1 << 20,
    )


@trap(f"{_BUFFER}-pNext-00920")
def buffer_for_handle_types_that_exclude_each_other(here: Scene) -> None:
    _buffer(
        here, size=64, usage=3, pNext=vk.VkExternalMemoryBufferCreateInfo(handleTypes=0x1 | 0x80)
    )


@trap("VUID-vkDestroyBuffer-buffer-parameter")
def buffer_destroyed_twice(here: Scene) -> None:
    buffer = here.buffer()
    vk.vkDestroyBuffer(here.device, buffer)
    vk.vkDestroyBuffer(here.device, buffer)


@trap("VUID-VkBufferViewCreateInfo-buffer-parameter", needs="vkCreateBufferView")
def buffer_view_of_no_buffer(here: Scene) -> None:
    info = vk.VkBufferViewCreateInfo(format=vk.VK_FORMAT_R8_UNORM, range=64)
    vk.vkCreateBufferView(here.device, info)


@trap("VUID-VkBufferDeviceAddressInfo-buffer-parameter", needs="vkGetBufferDeviceAddress")
def address_of_no_buffer(here: Scene) -> None:
    vk.vkGetBufferDeviceAddress(here.device, vk.VkBufferDeviceAddressInfo())


@trap("VUID-VkDeviceBufferMemoryRequirements-pCreateInfo-parameter",
      needs="vkGetDeviceBufferMemoryRequirements")  # fmt: skip
def needs_of_a_buffer_that_nobody_describes(here: Scene) -> None:
    info = vk.VkDeviceBufferMemoryRequirements()
    vk.vkGetDeviceBufferMemoryRequirements(here.device, info)
