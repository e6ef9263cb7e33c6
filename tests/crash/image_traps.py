"""Images: extents, levels, layers, samples, formats and usages that make none."""

from __future__ import annotations

from typing import Any

from extmem import vk
from tests.crash.scene import Scene
from tests.crash.trap import trap
from tests.support.strict import driver_cannot

_IMAGE = "VUID-VkImageCreateInfo"
_LIST = "VUID-VkImageDrmFormatModifierListCreateInfoEXT"
_EXPLICIT = "VUID-VkImageDrmFormatModifierExplicitCreateInfoEXT"


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


@trap(f"{_IMAGE}-samples-02257")
def image_with_levels_of_several_samples(here: Scene) -> None:
    _make(here, samples=4, mipLevels=2)


@trap(f"{_IMAGE}-samples-02257")
def volume_of_several_samples(here: Scene) -> None:
    _make(here, samples=4, imageType=vk.VK_IMAGE_TYPE_3D, extent=vk.VkExtent3D(8, 8, 8))


@trap(f"{_IMAGE}-samples-02257")
def linear_image_of_several_samples(here: Scene) -> None:
    _make(here, samples=4, tiling=vk.VK_IMAGE_TILING_LINEAR)


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


def _with_modifiers(here: Scene, chained: Any, **members: Any) -> None:
    if not here.dispatch.enabled("VK_EXT_image_drm_format_modifier"):
        driver_cannot("no VK_EXT_image_drm_format_modifier")
    tiling = vk.VK_IMAGE_TILING_DRM_FORMAT_MODIFIER_EXT
    _make(here, tiling=tiling, pNext=chained, **members)


@trap(f"{_LIST}-pDrmFormatModifiers-02263")
def image_by_a_modifier_that_nobody_knows(here: Scene) -> None:
    listed = vk.VkImageDrmFormatModifierListCreateInfoEXT(pDrmFormatModifiers=[0xDEADBEEF])
    _with_modifiers(here, listed)


@trap(f"{_LIST}-pDrmFormatModifiers-02263")
def image_by_the_modifier_that_means_none(here: Scene) -> None:
    invalid = 0x00FF_FFFF_FFFF_FFFF  # DRM_FORMAT_MOD_INVALID
    listed = vk.VkImageDrmFormatModifierListCreateInfoEXT(pDrmFormatModifiers=[0, invalid])
    _with_modifiers(here, listed)


@trap(f"{_LIST}-pDrmFormatModifiers-02263")
def image_by_all_bits_there_are(here: Scene) -> None:
    listed = vk.VkImageDrmFormatModifierListCreateInfoEXT(pDrmFormatModifiers=[2**64 - 1] * 1000)
    _with_modifiers(here, listed)


@trap(f"{_EXPLICIT}-drmFormatModifier-02264")
def image_laid_out_by_a_modifier_that_nobody_knows(here: Scene) -> None:
    explicit = vk.VkImageDrmFormatModifierExplicitCreateInfoEXT(
        drmFormatModifier=0xDEADBEEF, pPlaneLayouts=[vk.VkSubresourceLayout(rowPitch=256)]
    )
    _with_modifiers(here, explicit)


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
