"""Rules for the parts of images that are copied, cleared and handed over: within what there is.

As those of `regions.py` they belong to Vulkan at large.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from extmem.rules.engine import Call, Findings, Site, rule
from extmem.rules.regions import both, items, resource
from extmem.rules.texels import texels
from extmem.vk import _constants as c
from extmem.world import Record

_REST = 0xFFFFFFFF  # VK_REMAINING_MIP_LEVELS and VK_REMAINING_ARRAY_LAYERS
_VOLUME = int(c.VK_IMAGE_TYPE_3D)
_UNDEFINED, _PREINITIALIZED = (
    int(c.VK_IMAGE_LAYOUT_UNDEFINED),
    int(c.VK_IMAGE_LAYOUT_PREINITIALIZED),
)


# -- levels and layers ----------------------------------------------------------------------------


class _Part(NamedTuple):
    """A subresource that something names, with its image."""

    member: str
    image: Record
    named: Any  # VkImageSubresourceRange, or VkImageSubresourceLayers


def _ranges(call: Call, site: Site) -> Iterator[_Part]:
    """The ranges of a barrier, a clear or a view."""
    image = resource(call, site, "image")
    if image is None:
        return
    if site.owner.startswith("vkCmdClear"):
        for where, each in items(site, "pRanges", "rangeCount"):
            yield _Part(where, image, each)
    else:
        yield _Part("subresourceRange", image, site.value("subresourceRange"))


def _layers_of(call: Call, site: Site, side: str) -> Iterator[_Part]:
    """The subresources of copies on one side: "src", "dst", or "image"."""
    name = f"{side}Subresource"
    member = f"{side}Image"
    if side == "image":
        member = "dstImage" if "BufferToImage" in site.owner else "srcImage"
    image = resource(call, site, member)
    if image is not None:
        for where, region in items(site, "pRegions", "regionCount"):
            yield _Part(f"{where}.{name}", image, getattr(region, name))


@rule(
    "VUID-VkImageMemoryBarrier-subresourceRange-01486",
    "VUID-VkImageMemoryBarrier2-subresourceRange-01486",
    "VUID-vkCmdClearColorImage-baseMipLevel-01470",
    "VUID-vkCmdClearDepthStencilImage-baseMipLevel-01474",
    "VUID-VkImageViewCreateInfo-subresourceRange-01478",
    stage="state",
)
def levels_from_one_that_is_there(call: Call, site: Site) -> Findings:
    for part in _ranges(call, site):
        if part.named.baseMipLevel >= part.image.facts["levels"]:
            yield site.broken(
                part.member,
                f"starts at level {part.named.baseMipLevel}, but the image has "
                f"{part.image.facts['levels']} levels.",
                "Count from 0.",
            )


@rule(
    "VUID-VkImageMemoryBarrier-subresourceRange-01724",
    "VUID-VkImageMemoryBarrier2-subresourceRange-01724",
    "VUID-vkCmdClearColorImage-pRanges-01692",
    "VUID-vkCmdClearDepthStencilImage-pRanges-01694",
    "VUID-VkImageViewCreateInfo-subresourceRange-01718",
    stage="state",
)
def levels_up_to_one_that_is_there(call: Call, site: Site) -> Findings:
    for part in _ranges(call, site):
        first, count = part.named.baseMipLevel, part.named.levelCount
        if count != _REST and first < part.image.facts["levels"] < first + count:
            yield site.broken(
                part.member,
                f"names {count} levels from {first}, but the image has "
                f"{part.image.facts['levels']}.",
                "Use VK_REMAINING_MIP_LEVELS.",
            )


# A volume may be viewed slice by slice, and then its slices count as layers.
_LAYERS = (
    "VUID-VkImageMemoryBarrier-subresourceRange-01488",
    "VUID-VkImageMemoryBarrier2-subresourceRange-01488",
    "VUID-vkCmdClearColorImage-baseArrayLayer-01472",
    "VUID-vkCmdClearDepthStencilImage-baseArrayLayer-01476",
    "VUID-VkImageViewCreateInfo-image-06724",
)


@rule(*_LAYERS, stage="state")
def layers_from_one_that_is_there(call: Call, site: Site) -> Findings:
    for part in _ranges(call, site):
        layers = part.image.facts["layers"]
        if part.image.facts["type"] != _VOLUME and part.named.baseArrayLayer >= layers:
            yield site.broken(
                part.member,
                f"starts at layer {part.named.baseArrayLayer}, but the image has {layers} layers.",
                "Count from 0.",
            )


@rule(
    "VUID-VkImageMemoryBarrier-subresourceRange-01725",
    "VUID-VkImageMemoryBarrier2-subresourceRange-01725",
    "VUID-vkCmdClearColorImage-pRanges-01693",
    "VUID-vkCmdClearDepthStencilImage-pRanges-01695",
    "VUID-VkImageViewCreateInfo-subresourceRange-06725",
    stage="state",
)
def layers_up_to_one_that_is_there(call: Call, site: Site) -> Findings:
    for part in _ranges(call, site):
        first, count = part.named.baseArrayLayer, part.named.layerCount
        layers = part.image.facts["layers"]
        if part.image.facts["type"] == _VOLUME or count == _REST:
            continue
        if first < layers < first + count:
            yield site.broken(
                part.member,
                f"names {count} layers from {first}, but the image has {layers}.",
                "Use VK_REMAINING_ARRAY_LAYERS.",
            )


@rule(*both("CopyImage", "srcSubresource-07967"), stage="state")
@rule(*both("BlitImage", "srcSubresource-01705"), stage="state")
@rule(*both("ResolveImage", "srcSubresource-01709"), stage="state")
def a_source_level_that_is_there(call: Call, site: Site) -> Findings:
    yield from _level(call, site, "src")


@rule(*both("CopyImage", "dstSubresource-07967"), stage="state")
@rule(*both("BlitImage", "dstSubresource-01706"), stage="state")
@rule(*both("ResolveImage", "dstSubresource-01710"), stage="state")
def a_target_level_that_is_there(call: Call, site: Site) -> Findings:
    yield from _level(call, site, "dst")


@rule(
    *both("CopyBufferToImage", "imageSubresource-07967"),
    *both("CopyImageToBuffer", "imageSubresource-07967"),
    stage="state",
)
def a_level_that_is_there(call: Call, site: Site) -> Findings:
    yield from _level(call, site, "image")


def _level(call: Call, site: Site, side: str) -> Findings:
    for part in _layers_of(call, site, side):
        if part.named.mipLevel >= part.image.facts["levels"]:
            yield site.broken(
                f"{part.member}.mipLevel",
                f"is {part.named.mipLevel}, but the image has {part.image.facts['levels']} levels.",
                "Count from 0.",
            )


@rule(*both("CopyImage", "srcSubresource-07968"), stage="state")
@rule(*both("BlitImage", "srcSubresource-01707"), stage="state")
@rule(*both("ResolveImage", "srcSubresource-01711"), stage="state")
def source_layers_that_are_there(call: Call, site: Site) -> Findings:
    yield from _layers(call, site, "src")


@rule(*both("CopyImage", "dstSubresource-07968"), stage="state")
@rule(*both("BlitImage", "dstSubresource-01708"), stage="state")
@rule(*both("ResolveImage", "dstSubresource-01712"), stage="state")
def target_layers_that_are_there(call: Call, site: Site) -> Findings:
    yield from _layers(call, site, "dst")


@rule(
    *both("CopyBufferToImage", "imageSubresource-07968"),
    *both("CopyImageToBuffer", "imageSubresource-07968"),
    stage="state",
)
def layers_that_are_there(call: Call, site: Site) -> Findings:
    yield from _layers(call, site, "image")


def _layers(call: Call, site: Site, side: str) -> Findings:
    for part in _layers_of(call, site, side):
        first, count = part.named.baseArrayLayer, part.named.layerCount
        layers = part.image.facts["layers"]
        if first + (0 if count == _REST else count) > layers or first >= layers:
            yield site.broken(
                f"{part.member}.layerCount",
                f"is {count} from layer {first}, but the image has {layers}.",
                "Count the layers from 0.",
            )


@rule("VUID-VkImageSubresourceLayers-layerCount-01700", stage="arguments")
def some_layers(call: Call, site: Site) -> Findings:
    if not site.value("layerCount"):
        yield site.broken("layerCount", "is 0.", "Name at least one layer.")


# -- aspects --------------------------------------------------------------------------------------


@rule(
    *both("CopyBufferToImage", "imageSubresource-09105"),
    *both("CopyImageToBuffer", "imageSubresource-09105"),
    stage="state",
)
def an_aspect_that_is_there(call: Call, site: Site) -> Findings:
    for part in _layers_of(call, site, "image"):
        known = texels(int(part.image.facts["format"]))
        aspect = int(part.named.aspectMask)
        # What is no bit, or more than one, is for another rule.
        if known is not None and aspect.bit_count() == 1 and aspect not in known.sizes:
            yield site.broken(
                f"{part.member}.aspectMask",
                f"is {aspect:#x}, which this image does not have; it has "
                f"{', '.join(map(hex, known.sizes))}.",
                "Name an aspect of the image's format.",
            )


@rule(
    "VUID-VkBufferImageCopy-aspectMask-09103",
    "VUID-VkBufferImageCopy2-aspectMask-09103",
    stage="arguments",
)
def one_aspect_at_a_time(call: Call, site: Site) -> Findings:
    aspects = int(site.value("imageSubresource").aspectMask)
    if aspects.bit_count() > 1:
        yield site.broken(
            "imageSubresource", f"names the aspects {aspects:#x}.", "Copy one after the other."
        )


# -- boxes ----------------------------------------------------------------------------------------


@rule(
    *(f"VUID-{each}-imageExtent-06659" for each in ("VkBufferImageCopy", "VkBufferImageCopy2")),
    stage="arguments",
)
def a_box_with_something_in_it(call: Call, site: Site) -> Findings:
    extent = site.value("imageExtent")
    if not (extent.width and extent.height and extent.depth):
        yield site.broken(
            "imageExtent",
            f"is {extent.width} x {extent.height} x {extent.depth}.",
            "Leave the region out.",
        )


@rule(
    *(f"VUID-{each}-bufferRowLength-09101" for each in ("VkBufferImageCopy", "VkBufferImageCopy2")),
    stage="arguments",
)
def rows_as_long_as_the_box(call: Call, site: Site) -> Findings:
    if 0 < site.value("bufferRowLength") < site.value("imageExtent").width:
        yield site.broken(
            "bufferRowLength",
            f"is {site.value('bufferRowLength')}, and the box is "
            f"{site.value('imageExtent').width} wide.",
            "Give the texels from row to row, or 0.",
        )


@rule(
    *(
        f"VUID-{each}-bufferImageHeight-09102"
        for each in ("VkBufferImageCopy", "VkBufferImageCopy2")
    ),
    stage="arguments",
)
def slices_as_high_as_the_box(call: Call, site: Site) -> Findings:
    if 0 < site.value("bufferImageHeight") < site.value("imageExtent").height:
        yield site.broken(
            "bufferImageHeight",
            f"is {site.value('bufferImageHeight')}, and the box is "
            f"{site.value('imageExtent').height} high.",
            "Give the rows from slice to slice, or 0.",
        )


def _extent(part: _Part) -> tuple[int, int, int] | None:
    """Of the aspect and level that a part names; None where there is no such level."""
    facts = part.image.facts
    level = part.named.mipLevel
    if level >= facts["levels"]:
        return None
    width, height, depth = (max(side >> level, 1) for side in facts["extent"])
    known = texels(int(facts["format"]))
    if known is not None:
        width, height = known.extent(int(part.named.aspectMask), width, height)
    return width, height, depth


_AXES = ("width", "height", "depth")


def _outside(call: Call, site: Site, side: str, axis: int) -> Findings:
    """The boxes that reach out of their image along an axis."""
    name = ("imageOffset", "imageExtent") if side == "image" else (f"{side}Offset", "extent")
    for part in _layers_of(call, site, side):
        whole = _extent(part)
        region = _region(site, part)
        if whole is None or region is None:
            continue
        offset = getattr(getattr(region, name[0]), "xyz"[axis])
        size = getattr(getattr(region, name[1]), _AXES[axis])
        if offset < 0 or offset + size > whole[axis]:
            yield site.broken(
                f"{part.member.rpartition('.')[0]}.{name[0]}",
                f"is {offset} along {'xyz'[axis]} and the box {size}, but this part of the image "
                f"has {whole[axis]}.",
                "Keep the box within the image.",
            )


def _region(site: Site, part: _Part) -> Any:
    index = int(part.member.partition("[")[2].partition("]")[0])
    return site.value("pRegions")[index]


def _copies(first: str, second: str) -> tuple[str, ...]:
    """A rule of copies from and to buffers; `second`: what the second versions call it."""
    return (
        f"VUID-vkCmdCopyBufferToImage-{first}",
        f"VUID-vkCmdCopyImageToBuffer-{first}",
        f"VUID-VkCopyBufferToImageInfo2-{second.partition('|')[0]}",
        f"VUID-VkCopyImageToBufferInfo2-{second.rpartition('|')[2]}",
    )


@rule(*_copies("imageSubresource-07971", "pRegions-06223|imageOffset-00197"), stage="state")
def a_box_within_the_width(call: Call, site: Site) -> Findings:
    yield from _outside(call, site, "image", 0)


@rule(*_copies("imageSubresource-07972", "pRegions-06224|imageOffset-00198"), stage="state")
def a_box_within_the_height(call: Call, site: Site) -> Findings:
    yield from _outside(call, site, "image", 1)


@rule(*_copies("imageOffset-09104", "imageOffset-09104"), stage="state")
def a_box_within_the_depth(call: Call, site: Site) -> Findings:
    yield from _outside(call, site, "image", 2)


@rule(
    *both("CopyBufferToImage", "pRegions-00171"),
    *both("CopyImageToBuffer", "pRegions-00183"),
    stage="state",
)
def a_box_within_the_buffer(call: Call, site: Site) -> Findings:
    member = "srcBuffer" if "BufferToImage" in site.owner else "dstBuffer"
    buffer = resource(call, site, member)
    for part in _layers_of(call, site, "image") if buffer is not None else ():
        region = _region(site, part)
        end = _end(part, region)
        if buffer is not None and end > buffer.facts["size"]:
            yield site.broken(
                f"{part.member.rpartition('.')[0]}.bufferOffset",
                f"is {region.bufferOffset}, and the box reaches to byte {end}, but {member} has "
                f"{buffer.facts['size']}.",
                "Make the buffer larger, or the box smaller.",
            )


def _end(part: _Part, region: Any) -> int:
    """Where a box ends in its buffer; of what has no known size, one byte behind its start."""
    start = int(region.bufferOffset)
    known = texels(int(part.image.facts["format"]))
    texel = known.sizes.get(int(part.named.aspectMask)) if known is not None else None
    extent, layers = region.imageExtent, int(part.named.layerCount)
    if layers == _REST:
        layers = part.image.facts["layers"] - part.named.baseArrayLayer
    if texel is None or min(extent.width, extent.height, extent.depth, layers) <= 0:
        return start + 1
    row = int(region.bufferRowLength or extent.width)
    rows = int(region.bufferImageHeight or extent.height)
    slices = int(extent.depth) * layers
    before = (slices - 1) * rows * row + (int(extent.height) - 1) * row
    return start + (before + int(extent.width)) * texel


# -- from image to image --------------------------------------------------------------------------


def _alike(call: Call, site: Site) -> bool:
    """Whether a box means the same in both images: of blocks it is counted in the source's."""
    for member in ("srcImage", "dstImage"):
        image = resource(call, site, member)
        known = texels(int(image.facts["format"])) if image is not None else None
        if known is None or known.blocks or known.planar:
            return False
    return True


@rule(*both("CopyImage", "srcOffset-00144"), stage="state")
def a_box_within_the_width_of_the_source(call: Call, site: Site) -> Findings:
    yield from _outside(call, site, "src", 0)


@rule(*both("CopyImage", "srcOffset-00145"), stage="state")
def a_box_within_the_height_of_the_source(call: Call, site: Site) -> Findings:
    yield from _outside(call, site, "src", 1)


@rule(*both("CopyImage", "srcOffset-00147"), stage="state")
def a_box_within_the_depth_of_the_source(call: Call, site: Site) -> Findings:
    source = resource(call, site, "srcImage")
    if source is not None and source.facts["type"] == _VOLUME:
        yield from _outside(call, site, "src", 2)


@rule(*both("CopyImage", "dstOffset-00150"), stage="state")
def a_box_within_the_width_of_the_target(call: Call, site: Site) -> Findings:
    if _alike(call, site):
        yield from _outside(call, site, "dst", 0)


@rule(*both("CopyImage", "dstOffset-00151"), stage="state")
def a_box_within_the_height_of_the_target(call: Call, site: Site) -> Findings:
    if _alike(call, site):
        yield from _outside(call, site, "dst", 1)


@rule(*both("CopyImage", "dstOffset-00153"), stage="state")
def a_box_within_the_depth_of_the_target(call: Call, site: Site) -> Findings:
    target = resource(call, site, "dstImage")
    if target is not None and target.facts["type"] == _VOLUME:
        yield from _outside(call, site, "dst", 2)


# -- layouts --------------------------------------------------------------------------------------


@rule(
    "VUID-VkImageMemoryBarrier-newLayout-01198",
    "VUID-VkImageMemoryBarrier2-newLayout-01198",
    stage="arguments",
)
def into_a_layout_that_says_something(call: Call, site: Site) -> Findings:
    layout = int(site.value("newLayout"))
    same = layout == int(site.value("oldLayout"))
    if same and site.value("srcQueueFamilyIndex") == site.value("dstQueueFamilyIndex"):
        return  # nothing changes
    if layout in (_UNDEFINED, _PREINITIALIZED):
        yield site.broken(
            "newLayout",
            f"is {layout}; an image can come from there, but not go there.",
            "Use VK_IMAGE_LAYOUT_GENERAL.",
        )
