"""Rules for how images, buffers and views are made, and for what is asked of images.

They belong to Vulkan at large and not to external memory. But drivers do not look: they count
levels that are not there, follow pointers that are not set, and the process ends.
"""

from __future__ import annotations

from typing import Any

from extmem.rules.engine import Call, Findings, Site, rule
from extmem.rules.implicit import known_bits
from extmem.rules.regions import unbound
from extmem.rules.texels import texels
from extmem.vk import _constants as c
from extmem.vk.queries import ImageLimits
from extmem.world import Record

_LINE, _FLAT, _VOLUME = (
    int(c.VK_IMAGE_TYPE_1D),
    int(c.VK_IMAGE_TYPE_2D),
    int(c.VK_IMAGE_TYPE_3D),
)
_CUBE = int(c.VK_IMAGE_CREATE_CUBE_COMPATIBLE_BIT)
_LINEAR = int(c.VK_IMAGE_TILING_LINEAR)
_OPTIMAL = int(c.VK_IMAGE_TILING_OPTIMAL)
_MODIFIER = int(c.VK_IMAGE_TILING_DRM_FORMAT_MODIFIER_EXT)
_CONCURRENT = int(c.VK_SHARING_MODE_CONCURRENT)
_MUTABLE = int(c.VK_IMAGE_CREATE_MUTABLE_FORMAT_BIT)
_USAGE_2 = "VkBufferUsageFlags2CreateInfo"  # says it in 64 bits, and then usage means nothing
_WHOLE = int(c.VK_WHOLE_SIZE)


def _sides(site: Site) -> tuple[int, int, int]:
    extent = site.value("extent")
    return int(extent.width), int(extent.height), int(extent.depth)


# -- images ---------------------------------------------------------------------------------------


@rule("VUID-VkImageCreateInfo-extent-00944", stage="arguments")
def an_image_with_a_width(call: Call, site: Site) -> Findings:
    if not _sides(site)[0]:
        yield site.broken("extent", "has the width 0.", "Give at least 1.")


@rule("VUID-VkImageCreateInfo-extent-00945", stage="arguments")
def an_image_with_a_height(call: Call, site: Site) -> Findings:
    if not _sides(site)[1]:
        yield site.broken("extent", "has the height 0.", "Give at least 1.")


@rule("VUID-VkImageCreateInfo-extent-00946", stage="arguments")
def an_image_with_a_depth(call: Call, site: Site) -> Findings:
    if not _sides(site)[2]:
        yield site.broken("extent", "has the depth 0.", "Give at least 1.")


@rule("VUID-VkImageCreateInfo-mipLevels-00947", stage="arguments")
def an_image_with_levels(call: Call, site: Site) -> Findings:
    if not site.value("mipLevels"):
        yield site.broken("mipLevels", "is 0.", "Give at least 1.")


@rule("VUID-VkImageCreateInfo-arrayLayers-00948", stage="arguments")
def an_image_with_layers(call: Call, site: Site) -> Findings:
    if not site.value("arrayLayers"):
        yield site.broken("arrayLayers", "is 0.", "Give at least 1.")


@rule("VUID-VkImageCreateInfo-imageType-00956", stage="arguments")
def a_line_of_one_row(call: Call, site: Site) -> Findings:
    if site.value("imageType") == _LINE and max(_sides(site)[1:]) > 1:
        yield site.broken(
            "extent", f"is {_shown(site)}, but imageType is 1D.", "Set height and depth to 1."
        )


@rule("VUID-VkImageCreateInfo-imageType-00957", stage="arguments")
def a_flat_image_of_one_slice(call: Call, site: Site) -> Findings:
    if site.value("imageType") == _FLAT and _sides(site)[2] > 1:
        yield site.broken(
            "extent", f"is {_shown(site)}, but imageType is 2D.", "Set depth to 1, or use layers."
        )


@rule("VUID-VkImageCreateInfo-imageType-00961", stage="arguments")
def a_volume_of_one_layer(call: Call, site: Site) -> Findings:
    if site.value("imageType") == _VOLUME and site.value("arrayLayers") > 1:
        yield site.broken(
            "arrayLayers", f"is {site.value('arrayLayers')}, but imageType is 3D.", "Set it to 1."
        )


@rule("VUID-VkImageCreateInfo-mipLevels-00958", stage="arguments")
def no_more_levels_than_halves(call: Call, site: Site) -> Findings:
    most = max(_sides(site)).bit_length()
    if most and site.value("mipLevels") > most:
        yield site.broken(
            "mipLevels",
            f"is {site.value('mipLevels')}, but an image of {_shown(site)} has {most} at most.",
            f"Use {most} levels at most.",
        )


@rule("VUID-VkImageCreateInfo-samples-02257", stage="arguments")
def several_samples_in_a_flat_image_of_one_level(call: Call, site: Site) -> Findings:
    samples = int(site.value("samples"))
    if samples.bit_count() != 1 or samples == 1:
        return
    for member, wrong, remedy in (
        ("imageType", site.value("imageType") != _FLAT, "Set it to VK_IMAGE_TYPE_2D"),
        ("flags", int(site.value("flags")) & _CUBE, "Leave CUBE_COMPATIBLE out"),
        ("mipLevels", site.value("mipLevels") > 1, "Set it to 1"),
        ("tiling", site.value("tiling") == _LINEAR, "Set it to VK_IMAGE_TILING_OPTIMAL"),
    ):
        if wrong:
            yield site.broken(
                member,
                f"is {int(site.value(member)):#x}, but samples is {samples}.",
                f"{remedy}, or use one sample.",
            )


def _shown(site: Site) -> str:
    return " x ".join(map(str, _sides(site)))


def _limits(call: Call, site: Site) -> ImageLimits | None:
    """What the device says of such images; None if it makes none, or if that is not known."""
    tiling = int(site.value("tiling"))
    if tiling == _MODIFIER:
        return None  # it depends on the modifier
    return call.asked.image_limits(
        int(site.value("format")),
        int(site.value("imageType")),
        tiling,
        int(site.value("usage")),
        int(site.value("flags")),
    )


@rule("VUID-VkImageCreateInfo-imageCreateMaxMipLevels-02251", stage="device")
def an_image_that_the_device_makes(call: Call, site: Site) -> Findings:
    # What stands in a chain can change the answer, and so can a modifier.
    if len(site.chain) > 1 or int(site.value("tiling")) == _MODIFIER:
        return
    if _limits(call, site) is None:
        yield site.broken(
            "format",
            f"is {int(site.value('format'))}; the device makes no such image with this type, "
            "tiling and usage, and these flags.",
            "Ask vkGetPhysicalDeviceImageFormatProperties first.",
        )


@rule("VUID-VkImageCreateInfo-extent-02252", stage="device")
def no_wider_than_the_device_makes(call: Call, site: Site) -> Findings:
    yield from _too_large(call, site, 0)


@rule("VUID-VkImageCreateInfo-extent-02253", stage="device")
def no_higher_than_the_device_makes(call: Call, site: Site) -> Findings:
    yield from _too_large(call, site, 1)


@rule("VUID-VkImageCreateInfo-extent-02254", stage="device")
def no_deeper_than_the_device_makes(call: Call, site: Site) -> Findings:
    yield from _too_large(call, site, 2)


def _too_large(call: Call, site: Site, axis: int) -> Findings:
    limits = _limits(call, site)
    most = limits.extent[axis] if limits else 0
    if most and _sides(site)[axis] > most:
        yield site.broken(
            "extent",
            f"is {_shown(site)}, but the device makes such images with a "
            f"{('width', 'height', 'depth')[axis]} of {most} at most.",
            "Ask vkGetPhysicalDeviceImageFormatProperties first.",
        )


@rule("VUID-VkImageCreateInfo-arrayLayers-02256", stage="device")
def no_more_layers_than_the_device_makes(call: Call, site: Site) -> Findings:
    limits = _limits(call, site)
    if limits and site.value("arrayLayers") > limits.layers:
        yield site.broken(
            "arrayLayers",
            f"is {site.value('arrayLayers')}, but the device makes such images with "
            f"{limits.layers} at most.",
            "Ask vkGetPhysicalDeviceImageFormatProperties first.",
        )


@rule("VUID-VkImageCreateInfo-samples-02258", stage="device")
def samples_that_the_device_makes(call: Call, site: Site) -> Findings:
    limits = _limits(call, site)
    if limits and not int(site.value("samples")) & limits.samples:
        yield site.broken(
            "samples",
            f"is {int(site.value('samples'))}, but the device makes such images with the sample "
            f"counts {limits.samples:#x}.",
            "Ask vkGetPhysicalDeviceImageFormatProperties first.",
        )


# -- buffers --------------------------------------------------------------------------------------


@rule("VUID-VkBufferCreateInfo-size-00912", stage="arguments")
def a_buffer_with_bytes(call: Call, site: Site) -> Findings:
    if not site.value("size"):
        yield site.broken("size", "is 0.", "Give at least 1.")


@rule("VUID-VkBufferCreateInfo-size-06409", stage="device")
def no_larger_buffer_than_the_device_makes(call: Call, site: Site) -> Findings:
    most = call.asked.largest_buffer()
    if most and site.value("size") > most:
        yield site.broken(
            "size",
            f"is {site.value('size')}, but the device makes buffers of {most} bytes at most "
            "(maxBufferSize).",
            "Make several.",
        )


@rule("VUID-VkBufferCreateInfo-None-09499", stage="chain")
def a_usage_that_buffers_have(call: Call, site: Site) -> Findings:
    unknown = int(site.value("usage")) & ~known_bits("VkBufferUsageFlagBits")
    if unknown and _USAGE_2 not in site.chain:
        yield site.broken(
            "usage",
            f"has bits that are no VkBufferUsageFlagBits: {unknown:#x}.",
            f"Leave them out, or chain {_USAGE_2}.",
        )


@rule("VUID-VkBufferCreateInfo-None-09500", stage="chain")
def a_buffer_for_something(call: Call, site: Site) -> Findings:
    if not site.value("usage") and _USAGE_2 not in site.chain:
        yield site.broken(
            "usage", "is 0.", "Say what it is used for: VK_BUFFER_USAGE_TRANSFER_SRC_BIT, ..."
        )


# -- who shares them ------------------------------------------------------------------------------


@rule(
    "VUID-VkBufferCreateInfo-sharingMode-00913",
    "VUID-VkImageCreateInfo-sharingMode-00941",
    stage="arguments",
)
def families_that_are_named(call: Call, site: Site) -> Findings:
    if site.value("sharingMode") == _CONCURRENT and not site.value("pQueueFamilyIndices"):
        yield site.broken(
            "pQueueFamilyIndices",
            "is NULL, but sharingMode is CONCURRENT.",
            "Name the queue families, or use VK_SHARING_MODE_EXCLUSIVE.",
        )


@rule(
    "VUID-VkBufferCreateInfo-sharingMode-00914",
    "VUID-VkImageCreateInfo-sharingMode-00942",
    stage="arguments",
)
def more_than_one_family(call: Call, site: Site) -> Findings:
    if site.value("sharingMode") == _CONCURRENT and site.value("queueFamilyIndexCount") < 2:
        yield site.broken(
            "queueFamilyIndexCount",
            f"is {site.value('queueFamilyIndexCount')}, but sharingMode is CONCURRENT.",
            "Name at least two queue families, or use VK_SHARING_MODE_EXCLUSIVE.",
        )


@rule(
    "VUID-VkBufferCreateInfo-sharingMode-01419",
    "VUID-VkImageCreateInfo-sharingMode-01420",
    stage="device",
)
def families_that_there_are(call: Call, site: Site) -> Findings:
    array, there = site.value("pQueueFamilyIndices"), call.asked.queue_families()
    if site.value("sharingMode") != _CONCURRENT or not array:
        return
    named = [int(array[index]) for index in range(site.value("queueFamilyIndexCount"))]
    if len(set(named)) < len(named) or any(each >= there for each in named):
        yield site.broken(
            "pQueueFamilyIndices",
            f"names {', '.join(map(str, named[:8]))}; the device has the families 0 to "
            f"{there - 1}, each to be named once.",
            "Name each family that uses it, once.",
        )


@rule("VUID-vkCreateCommandPool-queueFamilyIndex-01937", stage="device")
def a_pool_of_a_family_that_there_is(call: Call, site: Site) -> Findings:
    family, there = site.value("pCreateInfo").queueFamilyIndex, call.asked.queue_families()
    if family >= there:
        yield site.broken(
            "pCreateInfo",
            f"queueFamilyIndex is {family}, but the device has {there} queue families.",
            "Use a family that the device was created with.",
        )


# -- layouts --------------------------------------------------------------------------------------

_WHERE = "VUID-vkGetImageSubresourceLayout"


def _asked(call: Call, site: Site) -> tuple[Record | None, Any]:
    return call.world.find("VkImage", int(site.value("image") or 0)), site.value("pSubresource")


@rule(f"{_WHERE}-image-07790", stage="state")
def a_layout_that_is_not_the_drivers_own(call: Call, site: Site) -> Findings:
    image, _ = _asked(call, site)
    if image is not None and image.facts["tiling"] == _OPTIMAL:
        yield site.broken(
            "image",
            "has optimal tiling: how its pixels lie is the driver's own business.",
            "Create it with VK_IMAGE_TILING_LINEAR, or copy it into a buffer.",
        )


@rule(f"{_WHERE}-aspectMask-00997", stage="arguments")
def one_aspect_to_ask_about(call: Call, site: Site) -> Findings:
    aspects = int(site.value("pSubresource").aspectMask)
    if aspects.bit_count() > 1:
        yield site.broken("pSubresource", f"names the aspects {aspects:#x}.", "Name one.")


@rule(f"{_WHERE}-mipLevel-01716", stage="state")
def a_level_to_ask_about(call: Call, site: Site) -> Findings:
    image, part = _asked(call, site)
    if image is not None and part.mipLevel >= image.facts["levels"]:
        yield site.broken(
            "pSubresource",
            f"mipLevel is {part.mipLevel}, but the image has {image.facts['levels']} levels.",
            "Count from 0.",
        )


@rule(f"{_WHERE}-arrayLayer-01717", stage="state")
def a_layer_to_ask_about(call: Call, site: Site) -> Findings:
    image, part = _asked(call, site)
    if image is not None and part.arrayLayer >= image.facts["layers"]:
        yield site.broken(
            "pSubresource",
            f"arrayLayer is {part.arrayLayer}, but the image has {image.facts['layers']} layers.",
            "Count from 0.",
        )


@rule(f"{_WHERE}-format-08886", stage="state")
def the_colours_of_an_image_of_colours(call: Call, site: Site) -> Findings:
    yield from _aspect(call, site, planar=False)


@rule(f"{_WHERE}-tiling-08717", stage="state")
def a_plane_of_an_image_of_planes(call: Call, site: Site) -> Findings:
    yield from _aspect(call, site, planar=True)


def _aspect(call: Call, site: Site, *, planar: bool) -> Findings:
    image, part = _asked(call, site)
    if image is None or image.facts["tiling"] == _MODIFIER:
        return
    known, aspect = texels(int(image.facts["format"])), int(part.aspectMask)
    if known is None or known.planar is not planar or aspect.bit_count() != 1:
        return
    if aspect not in known.sizes:
        yield site.broken(
            "pSubresource",
            f"aspectMask is {aspect:#x}, which this image does not have; it has "
            f"{', '.join(map(hex, known.sizes))}.",
            "Name an aspect of the image's format.",
        )


# -- views ----------------------------------------------------------------------------------------


@rule("VUID-VkImageViewCreateInfo-image-01020", stage="state")
def a_view_of_an_image_with_memory(call: Call, site: Site) -> Findings:
    yield from unbound(call, site, "image")


@rule("VUID-VkImageViewCreateInfo-image-01762", stage="state")
def a_view_in_the_images_format(call: Call, site: Site) -> Findings:
    image = call.world.find("VkImage", int(site.value("image") or 0))
    if image is None or image.facts["flags"] & _MUTABLE:
        return
    known = texels(int(image.facts["format"]))
    form = int(site.value("format"))
    if known is not None and not known.planar and form != int(image.facts["format"]):
        yield site.broken(
            "format",
            f"is {form}, but the image was created with {int(image.facts['format'])}.",
            "Create the image with VK_IMAGE_CREATE_MUTABLE_FORMAT_BIT, or view it as it is.",
        )


@rule("VUID-VkBufferViewCreateInfo-buffer-00935", stage="state")
def a_view_of_a_buffer_with_memory(call: Call, site: Site) -> Findings:
    yield from unbound(call, site, "buffer")


@rule("VUID-VkBufferViewCreateInfo-offset-00931", stage="state")
def a_view_within_the_buffer(call: Call, site: Site) -> Findings:
    buffer = call.world.find("VkBuffer", int(site.value("buffer") or 0))
    offset, size = int(site.value("offset")), int(site.value("range"))
    if buffer is not None and offset + (0 if size == _WHOLE else size) > buffer.facts["size"]:
        yield site.broken(
            "range",
            f"is {size} from offset {offset}, but the buffer has {buffer.facts['size']} bytes.",
            "Use VK_WHOLE_SIZE.",
        )
