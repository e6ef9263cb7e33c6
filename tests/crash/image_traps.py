"""Images and buffers: extents, levels, layers, formats, usages; views, layouts, requirements."""

from __future__ import annotations

from typing import Any

from extmem import DriverError, vk
from tests.crash.scene import Scene
from tests.crash.trap import trap
from tests.support.strict import driver_cannot

_IMAGE = "VUID-VkImageCreateInfo"
_BUFFER = "VUID-VkBufferCreateInfo"
_VIEW = "VUID-VkImageViewCreateInfo"

_REFUSED = "returned VK_ERROR"


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


# -- extents, levels, layers ----------------------------------------------------------------------


@trap(f"{_IMAGE}-extent-00944")
def image_without_a_width(here: Scene) -> None:
    _make(here, extent=vk.VkExtent3D(0, 64, 1))


@trap(f"{_IMAGE}-extent-00945")
def image_without_a_height(here: Scene) -> None:
    _make(here, extent=vk.VkExtent3D(64, 0, 1))


@trap(f"{_IMAGE}-extent-00946")
def image_without_a_depth(here: Scene) -> None:
    _make(here, extent=vk.VkExtent3D(64, 64, 0))


@trap(f"{_IMAGE}-extent-02252")
def image_of_four_thousand_million_columns(here: Scene) -> None:
    _make(here, extent=vk.VkExtent3D(0xFFFFFFFF, 1, 1))


@trap(f"{_IMAGE}-extent-02252")
def image_of_all_pixels_there_are(here: Scene) -> None:
    _make(here, extent=vk.VkExtent3D(0xFFFFFFFF, 0xFFFFFFFF, 1))


@trap(f"{_IMAGE}-extent-02254")
def volume_of_all_voxels_there_are(here: Scene) -> None:
    huge = vk.VkExtent3D(0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    _make(here, imageType=vk.VK_IMAGE_TYPE_3D, extent=huge)


@trap(f"{_IMAGE}-imageType-00957")
def flat_image_with_a_depth(here: Scene) -> None:
    _make(here, extent=vk.VkExtent3D(64, 64, 7))


@trap(f"{_IMAGE}-imageType-00956")
def line_with_a_height(here: Scene) -> None:
    _make(here, imageType=vk.VK_IMAGE_TYPE_1D)


@trap(f"{_IMAGE}-mipLevels-00947")
def image_without_levels(here: Scene) -> None:
    _make(here, mipLevels=0)


@trap(f"{_IMAGE}-mipLevels-00958")
def image_with_more_levels_than_pixels(here: Scene) -> None:
    _make(here, mipLevels=99)


@trap(f"{_IMAGE}-mipLevels-00958")
def image_with_all_levels_there_are(here: Scene) -> None:
    _make(here, mipLevels=0xFFFFFFFF)


@trap(f"{_IMAGE}-arrayLayers-00948")
def image_without_layers(here: Scene) -> None:
    _make(here, arrayLayers=0)


@trap(f"{_IMAGE}-arrayLayers-02256")
def image_with_all_layers_there_are(here: Scene) -> None:
    _make(here, arrayLayers=0xFFFFFFFF)


@trap(f"{_IMAGE}-samples-parameter")
def image_without_samples(here: Scene) -> None:
    _make(here, samples=0)


@trap(f"{_IMAGE}-samples-parameter")
def image_with_three_samples(here: Scene) -> None:
    _make(here, samples=3)


@trap(f"{_IMAGE}-samples-02258")
def image_with_64_samples(here: Scene) -> None:
    _make(here, samples=64)


# -- what it is of --------------------------------------------------------------------------------


@trap(f"{_IMAGE}-imageCreateMaxMipLevels-02251")
def image_of_no_format(here: Scene) -> None:
    _make(here, format=vk.VK_FORMAT_UNDEFINED)


@trap(f"{_IMAGE}-format-parameter")
def image_of_a_format_that_nobody_knows(here: Scene) -> None:
    _make(here, format=123456)


@trap(f"{_IMAGE}-format-parameter")
def image_of_a_negative_format(here: Scene) -> None:
    _make(here, format=-1)


@trap(f"{_IMAGE}-imageCreateMaxMipLevels-02251")
def image_of_a_format_that_this_device_does_not_make(here: Scene) -> None:
    wanted = next(
        (
            form
            for form in range(1, 185)
            if not vk.vkGetPhysicalDeviceFormatProperties(here.physical, form).optimalTilingFeatures
        ),
        None,
    )
    if wanted is None:
        driver_cannot("it makes images of all formats")
    _make(here, format=wanted)


@trap(f"{_IMAGE}-imageType-parameter")
def image_of_a_type_that_nobody_knows(here: Scene) -> None:
    _make(here, imageType=9)


@trap(f"{_IMAGE}-tiling-parameter")
def image_of_a_tiling_that_nobody_knows(here: Scene) -> None:
    _make(here, tiling=77)


@trap(f"{_IMAGE}-tiling-02261", f"{_IMAGE}-tiling-parameter")
def image_by_modifier_without_one(here: Scene) -> None:
    _make(here, tiling=vk.VK_IMAGE_TILING_DRM_FORMAT_MODIFIER_EXT)


@trap(
    f"{_IMAGE}-imageCreateMaxMipLevels-02251",
    f"{_IMAGE}-pNext-02262",
    "VUID-VkImageDrmFormatModifierListCreateInfoEXT-pDrmFormatModifiers-02263",
    DriverError,
    says=_REFUSED,
)
def image_by_a_modifier_that_nobody_knows(here: Scene) -> None:
    if not here.dispatch.enabled("VK_EXT_image_drm_format_modifier"):
        driver_cannot("no VK_EXT_image_drm_format_modifier")
    listed = vk.VkImageDrmFormatModifierListCreateInfoEXT(pDrmFormatModifiers=[0xDEADBEEF])
    _make(here, tiling=vk.VK_IMAGE_TILING_DRM_FORMAT_MODIFIER_EXT, pNext=listed)


@trap(f"{_IMAGE}-usage-requiredbitmask")
def image_for_nothing(here: Scene) -> None:
    _make(here, usage=0)


@trap(f"{_IMAGE}-usage-parameter")
def image_for_what_nobody_knows(here: Scene) -> None:
    _make(here, usage=0xFFFFFFFF)


@trap(f"{_IMAGE}-flags-parameter")
def image_with_flags_that_nobody_knows(here: Scene) -> None:
    _make(here, flags=0x80000000)


@trap(f"{_IMAGE}-sharingMode-parameter")
def image_shared_as_nobody_knows(here: Scene) -> None:
    _make(here, sharingMode=5)


@trap(f"{_IMAGE}-sharingMode-00941")
def image_shared_by_families_that_are_not_there(here: Scene) -> None:
    _make(here, sharingMode=vk.VK_SHARING_MODE_CONCURRENT, queueFamilyIndexCount=4)


@trap(f"{_IMAGE}-initialLayout-00993")
def image_that_starts_as_a_target(here: Scene) -> None:
    _make(here, initialLayout=vk.VK_IMAGE_LAYOUT_TRANSFER_DST_OPTIMAL)


@trap(f"{_IMAGE}-pNext-01443")
def shared_image_that_starts_with_contents(here: Scene) -> None:
    external = vk.VkExternalMemoryImageCreateInfo(handleTypes=1)
    _make(
        here,
        tiling=vk.VK_IMAGE_TILING_LINEAR,
        initialLayout=vk.VK_IMAGE_LAYOUT_PREINITIALIZED,
        pNext=external,
    )


@trap("VUID-VkExternalMemoryImageCreateInfo-handleTypes-parameter")
def image_for_handle_types_that_nobody_knows(here: Scene) -> None:
    _make(here, pNext=vk.VkExternalMemoryImageCreateInfo(handleTypes=1 << 30))


@trap(f"{_IMAGE}-pNext-00990")
def image_for_handle_types_that_exclude_each_other(here: Scene) -> None:
    _make(here, pNext=vk.VkExternalMemoryImageCreateInfo(handleTypes=0x1 | 0x80))


@trap("VUID-vkCreateImage-pCreateInfo-parameter")
def image_by_no_structure(here: Scene) -> None:
    vk.vkCreateImage(here.device, None)  # type: ignore[arg-type]


@trap("VUID-vkDestroyImage-image-parameter")
def image_destroyed_twice(here: Scene) -> None:
    image = here.image()
    vk.vkDestroyImage(here.device, image)
    vk.vkDestroyImage(here.device, image)


@trap("VUID-vkDestroyImage-image-parameter")
def buffer_destroyed_as_an_image(here: Scene) -> None:
    buffer = here.buffer()
    here.still("the buffer", lambda: vk.vkGetBufferMemoryRequirements(here.device, buffer).size)
    vk.vkDestroyImage(here.device, buffer)


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
