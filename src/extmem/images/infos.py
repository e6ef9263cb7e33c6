"""How an image is described: in words by people, in numbers by passports, in structures by Vulkan.

The numbers (`ImageInfo`) are what all others are made from: an importer makes the same image from
them, and nothing that its driver could look at is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from extmem import vk
from extmem.images.formats import image_format
from extmem.share.passport import ImageInfo

__all__ = [
    "LAYOUTS",
    "SHARED",
    "TILINGS",
    "TYPES",
    "create_info",
    "describe",
    "differences",
    "names_of_usage",
    "shape_of",
    "usage_of",
]

TYPES = ("1D", "2D", "3D")  # by VkImageType

TILINGS = {
    "optimal": int(vk.VK_IMAGE_TILING_OPTIMAL),
    "linear": int(vk.VK_IMAGE_TILING_LINEAR),
    "drm": int(vk.VK_IMAGE_TILING_DRM_FORMAT_MODIFIER_EXT),
}

_USAGES = {
    "transfer_src": int(vk.VK_IMAGE_USAGE_TRANSFER_SRC_BIT),
    "transfer_dst": int(vk.VK_IMAGE_USAGE_TRANSFER_DST_BIT),
    "sampled": int(vk.VK_IMAGE_USAGE_SAMPLED_BIT),
    "storage": int(vk.VK_IMAGE_USAGE_STORAGE_BIT),
    "color_attachment": int(vk.VK_IMAGE_USAGE_COLOR_ATTACHMENT_BIT),
    "input_attachment": int(vk.VK_IMAGE_USAGE_INPUT_ATTACHMENT_BIT),
}
_COPIES = _USAGES["transfer_src"] | _USAGES["transfer_dst"]

# Layouts that a shared image may be left in. What is right for drawing or sampling is between those
# who do that; GENERAL is right for everything.
LAYOUTS = {
    "undefined": int(vk.VK_IMAGE_LAYOUT_UNDEFINED),
    "general": int(vk.VK_IMAGE_LAYOUT_GENERAL),
    "transfer_src": int(vk.VK_IMAGE_LAYOUT_TRANSFER_SRC_OPTIMAL),
    "transfer_dst": int(vk.VK_IMAGE_LAYOUT_TRANSFER_DST_OPTIMAL),
    "shader_read_only": int(vk.VK_IMAGE_LAYOUT_SHADER_READ_ONLY_OPTIMAL),
    "color_attachment": int(vk.VK_IMAGE_LAYOUT_COLOR_ATTACHMENT_OPTIMAL),
}

_MUTABLE = int(vk.VK_IMAGE_CREATE_MUTABLE_FORMAT_BIT)
_EXCLUSIVE = int(vk.VK_SHARING_MODE_EXCLUSIVE)
SHARED = int(vk.VK_SHARING_MODE_CONCURRENT)


def usage_of(usage: str | int | Sequence[str] | None) -> int:
    """VkImageUsageFlags for names; to be copied from and to where nothing is said.

    >>> usage_of("sampled"), usage_of(["transfer_src", "storage"])
    (4, 9)
    """
    if usage is None:
        return _COPIES
    if isinstance(usage, int):
        return int(usage)
    mask = 0
    for each in (usage,) if isinstance(usage, str) else usage:
        if each not in _USAGES:
            raise ValueError(f"usage {each!r}; expected some of {', '.join(_USAGES)}")
        mask |= _USAGES[each]
    return mask


def names_of_usage(mask: int) -> str:
    """The names for VkImageUsageFlags, for messages.

    >>> names_of_usage(3)
    'transfer_src+transfer_dst'
    """
    rest = mask & ~sum(_USAGES.values())
    names = [name for name, bit in _USAGES.items() if mask & bit]
    return "+".join(names + ([hex(rest)] if rest else [])) or "nothing"


def describe(
    shape: int | Sequence[int],
    format: str | int,
    *,
    levels: int = 1,
    layers: int = 1,
    samples: int = 1,
    tiling: str = "optimal",
    usage: str | int | Sequence[str] | None = None,
    flags: int = 0,
    view_formats: Sequence[str | int] = (),
    concurrent: bool = False,
    types: int = 0,
) -> ImageInfo:
    """The numbers for what somebody wrote. ValueError for what is no image on any device.

    >>> describe((480, 640), "rgba8").width
    640
    """
    sides = (shape,) if isinstance(shape, int) else tuple(shape)
    kind = image_format(format)
    if not 1 <= len(sides) <= 3:
        raise ValueError(
            f"shape is {sides}; expected (width,), (height, width) or (depth, height, width), and "
            "layers= for several of them"
        )
    for what, numbers in (("shape", sides), ("levels, layers, samples", (levels, layers, samples))):
        if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in numbers):
            raise ValueError(f"{what} is {numbers}; expected whole numbers from 1")
    if tiling not in TILINGS:
        raise ValueError(f"tiling is {tiling!r}; expected one of {', '.join(TILINGS)}")
    largest = max(sides).bit_length()
    if levels > largest:
        raise ValueError(f"levels is {levels}; an image of {sides} has at most {largest}")
    if samples & (samples - 1):
        raise ValueError(f"samples is {samples}; expected a power of two")
    if kind.planar:
        _check_planar(kind.name, sides, levels, layers)
    depth, height, width = (1,) * (3 - len(sides)) + sides
    return ImageInfo(
        type=len(sides) - 1,
        format=int(kind.vk),
        width=width,
        height=height,
        depth=depth,
        levels=levels,
        layers=layers,
        samples=samples,
        tiling=TILINGS[tiling],
        usage=usage_of(usage),
        flags=flags | (_MUTABLE if view_formats else 0),
        sharing=SHARED if concurrent else _EXCLUSIVE,
        layout=LAYOUTS["general"],
        types=types,
        formats=tuple(int(image_format(each).vk) for each in view_formats),
    )


def _check_planar(name: str, sides: tuple[int, ...], levels: int, layers: int) -> None:
    # Drivers answer that they take some of this, and no version of Vulkan allows it.
    if len(sides) != 2 or levels > 1 or layers > 1:
        raise ValueError(
            f"a {name} image has two dimensions, one level and one layer; this is {len(sides)}D "
            f"with levels={levels}, layers={layers}"
        )
    if any(side % 2 for side in sides):
        raise ValueError(f"shape is {sides}; a {name} image has an even height and width")


def shape_of(info: ImageInfo, level: int = 0) -> tuple[int, ...]:
    """(width,), (height, width) or (depth, height, width) of a mip level."""
    sides = (info.depth, info.height, info.width)[2 - info.type :]
    return tuple(max(side >> level, 1) for side in sides)


# What people call the members, in the order in which a difference is told.
_MEMBERS: dict[str, Callable[[ImageInfo], Any]] = {
    "type": lambda info: TYPES[info.type] if info.type < len(TYPES) else str(info.type),
    "shape": shape_of,
    "format": lambda info: _format_name(info.format),
    "levels": lambda info: info.levels,
    "layers": lambda info: info.layers,
    "samples": lambda info: info.samples,
    "tiling": lambda info: next(
        (name for name, number in TILINGS.items() if number == info.tiling), str(info.tiling)
    ),
    "usage": lambda info: names_of_usage(info.usage),
    "flags": lambda info: hex(info.flags),
    "concurrent": lambda info: info.sharing == SHARED,
    "view_formats": lambda info: tuple(_format_name(each) for each in info.formats),
}


def _format_name(number: int) -> str:
    try:
        return image_format(number).name
    except ValueError:
        return f"VkFormat {number}"


def differences(theirs: ImageInfo, ours: ImageInfo) -> Iterator[str]:
    """In what two images were not made alike, for messages."""
    for name, of in _MEMBERS.items():
        there, here = of(theirs), of(ours)
        if there != here:
            yield f"{name} is {here}, and it was made with {there}"


def create_info(
    info: ImageInfo, families: Sequence[int], modifiers: Sequence[int] = ()
) -> vk.VkImageCreateInfo:
    """The structure that makes the image.

    families: all queue families of the device, for one that they use concurrently
    modifiers: DRM format modifiers that the driver chooses from; those of an import are in `info`
    """
    shared = info.sharing == SHARED
    made = vk.VkImageCreateInfo(
        flags=info.flags,
        imageType=info.type,
        format=info.format,
        extent=vk.VkExtent3D(info.width, info.height, info.depth),
        mipLevels=info.levels,
        arrayLayers=info.layers,
        samples=info.samples,
        tiling=info.tiling,
        usage=info.usage,
        sharingMode=info.sharing,
        pQueueFamilyIndices=list(families) if shared else None,
    )
    chain: list[Any] = []
    if info.types:
        chain.append(vk.VkExternalMemoryImageCreateInfo(handleTypes=info.types))
    if info.formats:
        chain.append(vk.VkImageFormatListCreateInfo(pViewFormats=list(info.formats)))
    if modifiers:
        chain.append(
            vk.VkImageDrmFormatModifierListCreateInfoEXT(pDrmFormatModifiers=list(modifiers))
        )
    elif info.modifier is not None:
        planes = [
            vk.VkSubresourceLayout(
                offset=each.offset, rowPitch=each.row, arrayPitch=each.layer, depthPitch=each.slice
            )
            for each in info.planes
        ]
        chain.append(
            vk.VkImageDrmFormatModifierExplicitCreateInfoEXT(
                drmFormatModifier=info.modifier, pPlaneLayouts=planes
            )
        )
    for each in chain:
        vk.link(made, each)
    return made
