"""Whether a device takes an image: asked before anything is made, and told member by member.

Vulkan answers a question about an image with one word, "not supported". Here it is asked again with
one member changed at a time, until the answer says which member it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from extmem import vk
from extmem.capabilities import PhysicalDevice
from extmem.errors import DriverError, Unsupported
from extmem.handle_types import MEMORY, HandleType, names_of
from extmem.images.formats import FORMATS, image_format
from extmem.images.infos import TILINGS, TYPES, names_of_usage, shape_of, usage_of
from extmem.share.passport import ImageInfo

__all__ = ["Support", "modifiers_of", "require", "support"]

_DRM = TILINGS["drm"]
_SOME = 12  # as many names as a message bears
_EXPORTABLE = int(vk.VK_EXTERNAL_MEMORY_FEATURE_EXPORTABLE_BIT)
_IMPORTABLE = int(vk.VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT)
_DEDICATED_ONLY = int(vk.VK_EXTERNAL_MEMORY_FEATURE_DEDICATED_ONLY_BIT)


@dataclass(frozen=True, slots=True)
class Support:
    """What a device offers for images of one kind."""

    extent: tuple[int, int, int]  # width, height, depth
    levels: int
    layers: int
    samples: int  # VkSampleCountFlags
    features: int  # VkExternalMemoryFeatureFlags; 0 where no handle type was asked about
    compatible: int  # handle types that one such image may have together

    @property
    def exportable(self) -> bool:
        """Whether the memory of such images can be exported."""
        return bool(self.features & _EXPORTABLE)

    @property
    def importable(self) -> bool:
        """Whether the memory of such images can be imported."""
        return bool(self.features & _IMPORTABLE)

    @property
    def dedicated_only(self) -> bool:
        """Whether such memory is for one image alone."""
        return bool(self.features & _DEDICATED_ONLY)


def support(
    physical: vk.VkPhysicalDevice,
    info: ImageInfo,
    handle_type: HandleType | None = None,
    modifier: int | None = None,
) -> Support | None:
    """What is offered for images like this one; None if there are none.

    handle_type: how they are to be shared; None: not at all
    modifier: of the tiling by DRM format modifier, which one
    """
    asked = vk.VkPhysicalDeviceImageFormatInfo2(
        format=info.format,
        type=info.type,
        tiling=info.tiling,
        usage=info.usage,
        flags=info.flags,
    )
    if handle_type is not None:
        vk.link(asked, vk.VkPhysicalDeviceExternalImageFormatInfo(handleType=handle_type.bit))
    if info.formats:
        vk.link(asked, vk.VkImageFormatListCreateInfo(pViewFormats=list(info.formats)))
    if modifier is not None:
        vk.link(
            asked,
            vk.VkPhysicalDeviceImageDrmFormatModifierInfoEXT(
                drmFormatModifier=modifier, sharingMode=info.sharing
            ),
        )
    external = vk.VkExternalImageFormatProperties()
    answer = vk.VkImageFormatProperties2(pNext=external if handle_type is not None else None)
    try:
        vk.vkGetPhysicalDeviceImageFormatProperties2(physical, asked, answer)
    except DriverError as error:
        if error.result != vk.VK_ERROR_FORMAT_NOT_SUPPORTED:
            raise
        return None
    found, shared = answer.imageFormatProperties, external.externalMemoryProperties
    return Support(
        extent=(found.maxExtent.width, found.maxExtent.height, found.maxExtent.depth),
        levels=found.maxMipLevels,
        layers=found.maxArrayLayers,
        samples=int(found.sampleCounts),
        features=int(shared.externalMemoryFeatures) if handle_type is not None else 0,
        compatible=int(shared.compatibleHandleTypes) if handle_type is not None else 0,
    )


def modifiers_of(physical: vk.VkPhysicalDevice, format: int) -> dict[int, int]:
    """The DRM format modifiers of a format, each with the number of its memory planes.

    The device must have VK_EXT_image_drm_format_modifier.
    """
    found = vk.VkDrmFormatModifierPropertiesListEXT()
    box = vk.VkFormatProperties2(pNext=found)
    vk.vkGetPhysicalDeviceFormatProperties2(physical, format, box)
    room = (vk.VkDrmFormatModifierPropertiesEXT * found.drmFormatModifierCount)()
    if not len(room):
        return {}
    found.pDrmFormatModifierProperties = room
    vk.vkGetPhysicalDeviceFormatProperties2(physical, format, box)
    return {int(each.drmFormatModifier): each.drmFormatModifierPlaneCount for each in room}


def require(
    physical: PhysicalDevice,
    handle: vk.VkPhysicalDevice,
    info: ImageInfo,
    types: tuple[HandleType, ...],
    *,
    exporting: bool,
    modifier: int | None = None,
) -> bool:
    """Refuse what the device does not take, by the member's name. Whether it must be dedicated.

    modifier: of the tiling by DRM format modifier, which one it has or may get
    """
    dedicated = False
    for each in types or (None,):
        if each is not None and each.extension not in physical.extensions:
            raise Unsupported(
                f"{physical.name} shares no images as {each.name}: it has no {each.extension}"
            )
        found = support(handle, info, each, modifier)
        if found is None:
            raise Unsupported(_why(physical, handle, info, each, modifier, exporting))
        for problem in _beyond(info, found):
            raise Unsupported(f"{physical.name} makes no such image: {problem}")
        if each is None:
            continue
        if not (found.exportable and each.exportable if exporting else found.importable):
            verb = "export" if exporting else "import"
            raise Unsupported(
                f"{physical.name} cannot {verb} such an image as {each.name}; it can {verb} it "
                f"as {_others(physical, handle, info, modifier, exporting) or 'nothing'}"
            )
        mask = sum(every.bit for every in types)
        if mask & ~found.compatible:
            raise Unsupported(
                f"{physical.name} cannot share such an image as {each.name} together with "
                f"{', '.join(names_of(mask & ~found.compatible))}; choose one of them"
            )
        dedicated |= found.dedicated_only
    return dedicated


def _beyond(info: ImageInfo, found: Support) -> Iterator[str]:
    """What of an image is more than the device has."""
    extent = (info.width, info.height, info.depth)
    if any(side > most for side, most in zip(extent, found.extent, strict=True)):
        most = found.extent[info.type :: -1]
        yield f"its shape is {shape_of(info)}, and at most {most} is possible"
    if info.levels > found.levels:
        yield f"levels is {info.levels}, and at most {found.levels} are possible"
    if info.layers > found.layers:
        yield f"layers is {info.layers}, and at most {found.layers} are possible"
    if not info.samples & found.samples:
        counts = ", ".join(str(1 << bit) for bit in range(7) if found.samples >> bit & 1)
        yield f"samples is {info.samples}, and it takes {counts}"


def _others(
    physical: PhysicalDevice,
    handle: vk.VkPhysicalDevice,
    info: ImageInfo,
    modifier: int | None,
    exporting: bool,
) -> str:
    """As what else such an image could be shared."""
    able = []
    for each in MEMORY:
        if each.kind != "pointer" and each.extension in physical.extensions:
            found = support(handle, info, each, modifier)
            if found and (found.exportable and each.exportable if exporting else found.importable):
                able.append(each.name)
    return ", ".join(able)


def _why(
    physical: PhysicalDevice,
    handle: vk.VkPhysicalDevice,
    info: ImageInfo,
    handle_type: HandleType | None,
    modifier: int | None,
    exporting: bool,
) -> str:
    """Which member a refused image is refused for."""
    name = image_format(info.format).name
    tiling = next(word for word, number in TILINGS.items() if number == info.tiling)

    def takes(**changes: int | tuple[int, ...]) -> bool:
        other = msgspec.structs.replace(info, **changes)
        which = modifier if other.tiling == _DRM else None
        return support(handle, other, handle_type, which) is not None

    def words(member: str, values: dict[str, int]) -> str:
        return ", ".join(word for word, value in values.items() if takes(**{member: value}))

    skipped = (_DRM, info.tiling)
    tilings = {word: number for word, number in TILINGS.items() if number not in skipped}
    tries: Sequence[tuple[str, str]] = (
        (f"handle type {handle_type.name}", _others(physical, handle, info, modifier, exporting))
        if handle_type is not None else ("", ""),
        (f"tiling {tiling}", words("tiling", tilings)),
        (f"usage {names_of_usage(info.usage)}", words("usage", _smaller_usages(info.usage))),
        (f"flags {info.flags:#x}", "0" if info.flags and takes(flags=0, formats=()) else ""),
        (f"{TYPES[info.type]}", words("type", dict(zip(TYPES, range(3), strict=True)))),
    )  # fmt: skip
    what = f"{TYPES[info.type]} image of {name}, {tiling}"
    if handle_type is not None:
        what += f", shared as {handle_type.name}"
    for refused, taken in tries:
        if taken:
            return f"{physical.name} makes no {what}: it refuses {refused}, and takes {taken}"
    near = [each.name for each in FORMATS.values() if takes(format=int(each.vk))]
    some = ", ".join(near[:_SOME]) + (f" and {len(near) - _SOME} others" * (len(near) > _SOME))
    return (
        f"{physical.name} makes no {what}: it refuses the format {name}, and takes "
        f"{some or 'no other either'}"
    )


def _smaller_usages(mask: int) -> dict[str, int]:
    """The usage without one of its bits, and that for copies alone."""
    bits = [1 << bit for bit in range(32) if mask >> bit & 1]
    smaller = {names_of_usage(mask & ~bit): mask & ~bit for bit in bits if mask & ~bit}
    copies = usage_of(None)
    return smaller if mask == copies else {**smaller, names_of_usage(copies): copies}
