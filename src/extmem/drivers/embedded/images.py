"""Which images there are: formats, sizes, tilings, samples, and how they may be shared."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from extmem.drivers.embedded.carriers import CARRIERS, carrier_nv
from extmem.drivers.embedded.formats import FORMATS, Format
from extmem.drivers.embedded.instance import Instance, Physical
from extmem.drivers.embedded.limits import HEAP_SIZE, LIMITS, SAMPLES
from extmem.drivers.embedded.objects import SUCCESS, Failure, chained, enumerate_into, find
from extmem.drivers.embedded.physical import fill_external
from extmem.vk import _constants as c
from extmem.vk import _structures as s

__all__ = ["LINEAR", "ImageLimits", "image_limits"]

# Linux' word for rows one after another. It is the only modifier here, and lays texels as the
# linear tiling does.
LINEAR = 0
_DRM = int(c.VK_IMAGE_TILING_DRM_FORMAT_MODIFIER_EXT)
_TILINGS = (int(c.VK_IMAGE_TILING_OPTIMAL), int(c.VK_IMAGE_TILING_LINEAR)) + (
    (_DRM,) if sys.platform == "linux" else ()
)

# -- formats ----------------------------------------------------------------------------------


def vkGetPhysicalDeviceFormatProperties(handle: int, format: int, properties: Any) -> None:
    find(Physical, handle)
    known = FORMATS.get(format)
    properties.linearTilingFeatures = known.tiling_features if known else 0
    properties.optimalTilingFeatures = known.tiling_features if known else 0
    properties.bufferFeatures = known.buffer_features if known else 0


def vkGetPhysicalDeviceFormatProperties2(handle: int, format: int, properties: Any) -> None:
    vkGetPhysicalDeviceFormatProperties(handle, format, properties.formatProperties)
    # The features in 64 bits start with those in 32.
    wide = chained(properties).get(c.VK_STRUCTURE_TYPE_FORMAT_PROPERTIES_3)
    if wide is not None:
        vkGetPhysicalDeviceFormatProperties(handle, format, wide)
    for stype in (
        c.VK_STRUCTURE_TYPE_DRM_FORMAT_MODIFIER_PROPERTIES_LIST_EXT,
        c.VK_STRUCTURE_TYPE_DRM_FORMAT_MODIFIER_PROPERTIES_LIST_2_EXT,
    ):
        modifiers: Any = chained(properties).get(stype)
        if modifiers is not None:
            _fill_modifiers(modifiers, FORMATS.get(format))


def _fill_modifiers(modifiers: Any, known: Format | None) -> None:
    count = int(known is not None)
    if modifiers.pDrmFormatModifierProperties:
        count = min(count, modifiers.drmFormatModifierCount)
        if known is not None and count:
            first = modifiers.pDrmFormatModifierProperties[0]
            first.drmFormatModifier = LINEAR
            first.drmFormatModifierPlaneCount = len(known.planes)
            first.drmFormatModifierTilingFeatures = known.tiling_features
    modifiers.drmFormatModifierCount = count


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """How large an image of one kind may be."""

    format: Format
    extent: tuple[int, int, int]
    levels: int
    layers: int
    samples: int  # VkSampleCountFlags


_CREATE_FLAGS = int(
    c.VK_IMAGE_CREATE_MUTABLE_FORMAT_BIT
    | c.VK_IMAGE_CREATE_CUBE_COMPATIBLE_BIT
    | c.VK_IMAGE_CREATE_2D_ARRAY_COMPATIBLE_BIT
    | c.VK_IMAGE_CREATE_ALIAS_BIT
    | c.VK_IMAGE_CREATE_EXTENDED_USAGE_BIT
)

_USAGE_NEEDS = (
    (c.VK_IMAGE_USAGE_TRANSFER_SRC_BIT, c.VK_FORMAT_FEATURE_TRANSFER_SRC_BIT),
    (c.VK_IMAGE_USAGE_TRANSFER_DST_BIT, c.VK_FORMAT_FEATURE_TRANSFER_DST_BIT),
    (c.VK_IMAGE_USAGE_SAMPLED_BIT, c.VK_FORMAT_FEATURE_SAMPLED_IMAGE_BIT),
    (c.VK_IMAGE_USAGE_STORAGE_BIT, c.VK_FORMAT_FEATURE_STORAGE_IMAGE_BIT),
    (c.VK_IMAGE_USAGE_INPUT_ATTACHMENT_BIT, c.VK_FORMAT_FEATURE_COLOR_ATTACHMENT_BIT),
    (c.VK_IMAGE_USAGE_COLOR_ATTACHMENT_BIT, c.VK_FORMAT_FEATURE_COLOR_ATTACHMENT_BIT),
    (
        c.VK_IMAGE_USAGE_DEPTH_STENCIL_ATTACHMENT_BIT,
        c.VK_FORMAT_FEATURE_DEPTH_STENCIL_ATTACHMENT_BIT,
    ),
)

_EXTENTS = {
    int(c.VK_IMAGE_TYPE_1D): (LIMITS["maxImageDimension1D"], 1, 1),
    int(c.VK_IMAGE_TYPE_2D): (LIMITS["maxImageDimension2D"], LIMITS["maxImageDimension2D"], 1),
    int(c.VK_IMAGE_TYPE_3D): (LIMITS["maxImageDimension3D"],) * 3,
}


def image_limits(format: int, type: int, tiling: int, usage: int, flags: int) -> ImageLimits | None:
    """The limits for these parameters; None where there is no such image."""
    known = FORMATS.get(format)
    allowed = 0
    for bit, feature in _USAGE_NEEDS:
        if known is not None and known.tiling_features & feature:
            allowed |= bit
    if (
        known is None
        or type not in _EXTENTS
        or tiling not in _TILINGS
        or (tiling == _DRM and type != c.VK_IMAGE_TYPE_2D)
        or not usage
        or usage & ~allowed
        or flags & ~_CREATE_FLAGS
        or (known.multi_planar and type != c.VK_IMAGE_TYPE_2D)
        or (flags & c.VK_IMAGE_CREATE_CUBE_COMPATIBLE_BIT and type != c.VK_IMAGE_TYPE_2D)
        or (flags & c.VK_IMAGE_CREATE_2D_ARRAY_COMPATIBLE_BIT and type != c.VK_IMAGE_TYPE_3D)
    ):
        return None
    extent = _EXTENTS[type]
    plain = known.multi_planar or tiling == _DRM
    levels = 1 if plain else max(extent).bit_length()
    layers = 1 if plain or type == c.VK_IMAGE_TYPE_3D else LIMITS["maxImageArrayLayers"]
    # Several samples are for drawing with: in two dimensions, and not stored into one by one.
    several = (
        type == c.VK_IMAGE_TYPE_2D
        and tiling == c.VK_IMAGE_TILING_OPTIMAL
        and not known.multi_planar
        and not usage & c.VK_IMAGE_USAGE_STORAGE_BIT
        and not flags & c.VK_IMAGE_CREATE_CUBE_COMPATIBLE_BIT
    )
    samples = SAMPLES if several else int(c.VK_SAMPLE_COUNT_1_BIT)
    return ImageLimits(known, extent, levels, layers, samples)


def _fill_image_limits(properties: Any, found: ImageLimits | None) -> None:
    if found is None:
        raise Failure(c.VK_ERROR_FORMAT_NOT_SUPPORTED, "no such images")
    properties.maxExtent = s.VkExtent3D(*found.extent)
    properties.maxMipLevels = found.levels
    properties.maxArrayLayers = found.layers
    properties.sampleCounts = found.samples
    properties.maxResourceSize = max(HEAP_SIZE, 1 << 31)


def vkGetPhysicalDeviceImageFormatProperties(
    handle: int, format: int, type: int, tiling: int, usage: int, flags: int, properties: Any
) -> int:
    find(Physical, handle)
    found = None if tiling == _DRM else image_limits(format, type, tiling, usage, flags)
    _fill_image_limits(properties, found)
    return SUCCESS


def vkGetPhysicalDeviceImageFormatProperties2(handle: int, info: Any, properties: Any) -> int:
    find(Physical, handle)
    found = image_limits(info.format, info.type, info.tiling, info.usage, info.flags)
    asked: Any = chained(info).get(
        c.VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_IMAGE_DRM_FORMAT_MODIFIER_INFO_EXT
    )
    if info.tiling == _DRM and (asked is None or asked.drmFormatModifier != LINEAR):
        found = None
    _fill_image_limits(properties.imageFormatProperties, found)
    external: Any = chained(info).get(
        c.VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_EXTERNAL_IMAGE_FORMAT_INFO
    )
    if external is not None and external.handleType:
        carrier = CARRIERS.get(external.handleType)
        if carrier is None or not carrier.images:
            raise Failure(c.VK_ERROR_FORMAT_NOT_SUPPORTED, "no images of this handle type")
        answer: Any = chained(properties).get(c.VK_STRUCTURE_TYPE_EXTERNAL_IMAGE_FORMAT_PROPERTIES)
        if answer is not None:
            fill_external(answer.externalMemoryProperties, carrier, carrier.images)
    return SUCCESS


def vkGetPhysicalDeviceSparseImageFormatProperties(
    handle: int,
    format: int,
    type: int,
    samples: int,
    usage: int,
    tiling: int,
    count: Any,
    array: Any,
) -> None:
    enumerate_into(count, array, ())


def vkGetPhysicalDeviceSparseImageFormatProperties2(
    handle: int, info: Any, count: Any, array: Any
) -> None:
    enumerate_into(count, array, ())


def vkGetPhysicalDeviceExternalImageFormatPropertiesNV(
    handle: int,
    format: int,
    type: int,
    tiling: int,
    usage: int,
    flags: int,
    handle_type: int,
    properties: Any,
) -> int:
    instance = find(Physical, handle).parent
    assert isinstance(instance, Instance)
    found = image_limits(format, type, tiling, usage, flags)
    # One type or none. Without the extension nobody has asked for any.
    offered = "VK_NV_external_memory_capabilities" in instance.extensions
    carrier = carrier_nv(handle_type) if offered else None
    if handle_type and (carrier is None or not carrier.images):
        raise Failure(c.VK_ERROR_FORMAT_NOT_SUPPORTED, "no images of this handle type")
    _fill_image_limits(properties.imageFormatProperties, found)
    # The features have the same bits in both extensions' words; the handle types have not.
    properties.externalMemoryFeatures = carrier.features(True) if carrier else 0
    again = carrier is not None and carrier.exported_again
    properties.exportFromImportedHandleTypes = handle_type if again else 0
    properties.compatibleHandleTypes = handle_type if carrier else 0
    return SUCCESS
