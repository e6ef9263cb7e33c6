"""How images come to a device: made in new memory, or over memory that others exported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from extmem import vk
from extmem.allocating import (
    carried_in,
    choose_memory_type,
    families_of,
    introduce,
    restricts,
    source_of,
    terms_of,
)
from extmem.errors import PassportError, Unsupported
from extmem.exporting import Types, explained, need_windows, types_of
from extmem.handle_types import HandleType
from extmem.images.formats import image_format
from extmem.images.image import Image
from extmem.images.infos import SHARED, TILINGS, create_info, describe, differences, shape_of
from extmem.images.support import modifiers_of, require
from extmem.importing import Told, introduced, told
from extmem.memory import Memory
from extmem.share.passport import ImageInfo, Passport, PlaneLayout

if TYPE_CHECKING:
    from extmem.device import Device

__all__ = ["import_image", "make_image"]

_DRM = TILINGS["drm"]
_MODIFIERS = "VK_EXT_image_drm_format_modifier"


def make_image(
    device: Device,
    shape: int | Sequence[int],
    format: str | int,
    *,
    export: Types,
    name: str | None,
    access: str | int | None,
    security: Any,
    dedicated: bool | None,
    memory: str | int | None,
    modifiers: Sequence[int] | None,
    tiling: str,
    **described: Any,
) -> Image:
    """`Device.image`."""
    _ = device.handle  # says why, where it is closed
    types = types_of(export)
    need_windows(name, access, security, types)
    restricts(device, access, types)
    mask = sum(each.bit for each in types)
    info = describe(shape, format, tiling=tiling, types=mask, **described)
    _check_samples(info)
    choice = _modifiers(device, info, types, modifiers)
    only = False
    for modifier in choice or (None,):
        only |= require(
            device.physical, device.vk_physical, info, types, exporting=True, modifier=modifier
        )
    terms = terms_of(name, access, security)
    if memory is None:
        memory = "host_visible" if tiling == "linear" else "device_local"
    made: list[Image] = []

    def make() -> Memory:
        image = _make(device, info, choice)
        try:
            made.append(
                _with_memory(
                    device, image, _settled(device, image, info), types, None, terms, memory,
                    True if only else dedicated, None,
                )
            )  # fmt: skip
        except BaseException:
            vk.vkDestroyImage(device.handle, image)
            raise
        return made[0].memory

    introduce(device, name, make)
    return made[0]


def _check_samples(info: ImageInfo) -> None:
    """ValueError where a pixel cannot have several samples."""
    if info.samples > 1 and (info.type != 1 or info.levels > 1):
        raise ValueError(
            f"samples is {info.samples}, with levels={info.levels} and {info.type + 1} sides; "
            "images with several samples have two sides and one level"
        )


def import_image(
    device: Device,
    handle: Any,
    *,
    name: str | None,
    handle_type: str | int | None,
    passport: Passport | bytes | None,
    size: int | None,
    memory_type: str | int | None,
    dedicated: bool | None,
    modifier: int | None,
    described: dict[str, Any],
) -> Image:
    """`Device.import_image`. described: what the caller says of the image, by name."""
    _ = device.handle  # says why, where it is closed
    source = source_of(handle, name, handle_type)
    if source.kind == "pointer":
        raise Unsupported("host memory is imported with import_memory; images are not made over it")
    assert device.instance.dispatch is not None
    known = told(
        device.physical,
        device.instance.dispatch.driver,
        source,
        handle,
        name,
        passport,
        size=size,
        memory_type=memory_type,
        dedicated=dedicated,
        image=True,
    )
    info = _info(known, source, described, modifier)
    require(
        device.physical,
        device.vk_physical,
        info,
        (source,),
        exporting=False,
        modifier=info.modifier,
    )
    if info.tiling == _DRM:
        _check_planes(device, info, known)
    image = _make(device, info, ())
    try:
        return _import(device, image, info, known, source, handle, name, memory_type)
    except BaseException:
        vk.vkDestroyImage(device.handle, image)
        raise


def _info(
    known: Told, source: HandleType, described: dict[str, Any], modifier: int | None
) -> ImageInfo:
    """How the image is to be made: as its passport says, which the caller may repeat."""
    said = {key: value for key, value in described.items() if value is not None}
    theirs = known.passport.image if known.passport is not None else None
    if theirs is None:
        if "shape" not in said or "format" not in said:
            raise ValueError(
                "pass shape= and format=, and whatever else the exporter made its image with; or "
                "passport=: nothing beside this handle describes an image"
            )
        info = describe(types=source.bit, **said)
        if info.tiling == _DRM:
            raise ValueError("an image with tiling 'drm' is imported with the passport= of it")
        return info
    if theirs.tiling == _DRM and theirs.modifier is None:
        raise PassportError("this passport does not say which DRM format modifier the image has")
    if not theirs.types & source.bit:
        raise PassportError(
            f"this passport is of an image that was not made to be shared as {source.name}"
        )
    ours = _repeated(theirs, said)
    told_apart = list(differences(theirs, ours))
    if modifier not in (None, theirs.modifier):
        told_apart.append(f"modifier is {modifier}, and it was made with {theirs.modifier}")
    if told_apart:
        raise PassportError(
            "this image was made otherwise: " + "; ".join(told_apart) + ". Leave those out: its "
            "passport tells them"
        )
    return theirs


def _repeated(theirs: ImageInfo, said: dict[str, Any]) -> ImageInfo:
    """What the passport says, with everything replaced that the caller says."""
    whole: dict[str, Any] = {
        "shape": (theirs.depth, theirs.height, theirs.width)[2 - min(theirs.type, 2) :],
        "format": theirs.format,
        "levels": theirs.levels,
        "layers": theirs.layers,
        "samples": theirs.samples,
        "tiling": next((w for w, number in TILINGS.items() if number == theirs.tiling), "unknown"),
        "usage": theirs.usage,
        "flags": theirs.flags,
        "view_formats": theirs.formats,
        "concurrent": theirs.sharing == SHARED,
    }
    try:
        plain = describe(types=theirs.types, **whole)
    except ValueError as error:
        raise PassportError(f"this passport describes no image: {error}") from None
    if list(differences(theirs, plain)):
        raise PassportError(f"this passport describes no image: {theirs}")
    found = describe(types=theirs.types, **{**whole, **said})
    return msgspec.structs.replace(
        found, layout=theirs.layout, modifier=theirs.modifier, planes=theirs.planes
    )


def _check_planes(device: Device, info: ImageInfo, known: Told) -> None:
    """Refuse planes that a driver would take at their word, outside of the memory."""
    assert info.modifier is not None
    assert known.passport is not None
    count = modifiers_of(device.vk_physical, info.format)[info.modifier]
    rows = [plane.extent(shape_of(info))[0] for plane in image_format(info.format).planes]
    rows += [0] * (count - len(rows))  # of those that hold no pixels nothing is known
    size = known.passport.allocation_size
    if len(info.planes) != count or any(
        each.offset + each.row * number > size
        for each, number in zip(info.planes, rows, strict=False)
    ):
        raise PassportError(
            f"this passport has {len(info.planes)} planes in {size} bytes; an image with the DRM "
            f"format modifier {info.modifier:#x} has {count} planes that lie within its memory"
        )


def _import(
    device: Device,
    image: vk.VkImage,
    info: ImageInfo,
    known: Told,
    source: HandleType,
    handle: Any,
    name: str | None,
    given: str | int | None,
) -> Image:
    if known.passport is not None:
        needs = _needs(device, image)[0].size
        allocated = known.passport.allocation_size
        if needs > allocated or (known.dedicated and needs != allocated):
            raise PassportError(
                f"this passport speaks of {allocated} bytes, and the image that it describes needs "
                f"{needs} here; its exporter made another one"
            )
    memory: str | int | None = known.memory_type
    if memory is None or (source.type_index == "handle" and known.passport is None):
        memory = _usable_type(device, source, handle, image) if given is None else given
    return carried_in(
        source,
        handle,
        name,
        lambda chain: _with_memory(
            device, image, info, (), source, chain, memory, known.dedicated, known
        ),
    )


def _usable_type(device: Device, source: HandleType, handle: Any, image: vk.VkImage) -> int | str:
    """The memory type for a handle that does not belong to any exporter of Vulkan's."""
    if source.type_index != "handle" or handle is None:
        return "device_local"
    if source.kind == "fd":
        bits = vk.vkGetMemoryFdPropertiesKHR(device.handle, source.bit, int(handle)).memoryTypeBits
    else:
        bits = vk.vkGetMemoryWin32HandlePropertiesKHR(
            device.handle, source.bit, int(handle)
        ).memoryTypeBits
    needs, _ = _needs(device, image)
    return choose_memory_type(device, "device_local", bits & needs.memoryTypeBits, "image")


# -- both -----------------------------------------------------------------------------------------


def _make(device: Device, info: ImageInfo, modifiers: Sequence[int]) -> vk.VkImage:
    if info.tiling == _DRM and _MODIFIERS not in device.extensions:
        raise Unsupported(f"{device.physical.name} has no {_MODIFIERS}: use another tiling")
    families = families_of(device) if info.sharing == SHARED else []
    return vk.vkCreateImage(device.handle, create_info(info, families, modifiers))


def _modifiers(
    device: Device,
    info: ImageInfo,
    types: tuple[HandleType, ...],
    wanted: Sequence[int] | None,
) -> tuple[int, ...]:
    """The DRM format modifiers that the driver may choose from; none with another tiling."""
    if info.tiling != _DRM:
        if wanted is not None:
            raise ValueError("modifiers= belongs to tiling='drm'")
        return ()
    if _MODIFIERS not in device.extensions:
        raise Unsupported(f"{device.physical.name} has no {_MODIFIERS}: use another tiling")
    offered = modifiers_of(device.vk_physical, info.format)
    if wanted is not None:
        unknown = [hex(each) for each in wanted if each not in offered]
        if unknown or not wanted:
            raise Unsupported(
                f"{device.physical.name} has no modifier {', '.join(unknown) or 'to choose'} for "
                f"this format; it has {', '.join(map(hex, offered)) or 'none'}"
            )
        return tuple(wanted)
    able = []
    for modifier in offered:
        try:
            require(
                device.physical, device.vk_physical, info, types, exporting=True, modifier=modifier
            )
        except Unsupported:
            continue
        able.append(modifier)
    if not able:
        raise Unsupported(
            f"{device.physical.name} shares no such image by DRM format modifier; it knows "
            f"{', '.join(map(hex, offered)) or 'none'} for this format"
        )
    return tuple(able)


_MEMORY_PLANES = (
    int(vk.VK_IMAGE_ASPECT_MEMORY_PLANE_0_BIT_EXT),
    int(vk.VK_IMAGE_ASPECT_MEMORY_PLANE_1_BIT_EXT),
    int(vk.VK_IMAGE_ASPECT_MEMORY_PLANE_2_BIT_EXT),
    int(vk.VK_IMAGE_ASPECT_MEMORY_PLANE_3_BIT_EXT),
)


def _settled(device: Device, image: vk.VkImage, info: ImageInfo) -> ImageInfo:
    """With what the driver chose: of DRM format modifiers, which one, and where its planes lie."""
    if info.tiling != _DRM:
        return info
    box = vk.VkImageDrmFormatModifierPropertiesEXT()
    vk.vkGetImageDrmFormatModifierPropertiesEXT(device.handle, image, box)
    modifier = int(box.drmFormatModifier)
    planes = []
    for aspect in _MEMORY_PLANES[: modifiers_of(device.vk_physical, info.format)[modifier]]:
        found = vk.vkGetImageSubresourceLayout(
            device.handle, image, vk.VkImageSubresource(aspectMask=aspect)
        )
        planes.append(
            PlaneLayout(
                found.offset,
                found.rowPitch,
                found.arrayPitch if info.layers > 1 else 0,
                found.depthPitch if info.depth > 1 else 0,
            )
        )
    return msgspec.structs.replace(info, modifier=modifier, planes=tuple(planes))


def _needs(device: Device, image: vk.VkImage) -> tuple[vk.VkMemoryRequirements, bool]:
    """What an image demands of its memory, and whether it wants to be alone in it."""
    wish = vk.VkMemoryDedicatedRequirements()
    found = vk.vkGetImageMemoryRequirements2(
        device.handle,
        vk.VkImageMemoryRequirementsInfo2(image=image),
        vk.VkMemoryRequirements2(pNext=wish),
    ).memoryRequirements
    return found, bool(wish.requiresDedicatedAllocation or wish.prefersDedicatedAllocation)


def _with_memory(
    device: Device,
    image: vk.VkImage,
    info: ImageInfo,
    export: tuple[HandleType, ...],
    source: HandleType | None,
    chain: Any,
    memory: str | int,
    dedicated: bool | None,
    known: Told | None,
) -> Image:
    """Memory for an image, bound to it. The image is its caller's again where this fails."""
    needs, alone = _needs(device, image)
    index = choose_memory_type(device, memory, needs.memoryTypeBits, "image")
    if dedicated is None:
        dedicated = alone or (source is not None and source.dedicated == "always")
    size = needs.size if known is None or known.allocation_size is None else known.allocation_size
    allocation = vk.VkMemoryAllocateInfo(pNext=chain, allocationSize=size, memoryTypeIndex=index)
    if export:
        mask = sum(each.bit for each in export)
        vk.link(allocation, vk.VkExportMemoryAllocateInfo(handleTypes=mask))
    if dedicated:
        vk.link(allocation, vk.VkMemoryDedicatedAllocateInfo(image=image))
    with explained(export if source is None else (*export, source)):
        made = vk.vkAllocateMemory(device.handle, allocation)
    try:
        vk.vkBindImageMemory(device.handle, image, made, 0)
    except BaseException:
        vk.vkFreeMemory(device.handle, made)
        raise
    owner = device._keep(
        Memory(
            device,
            made,
            size=needs.size,
            allocation_size=size,
            memory_type_index=index,
            exported=export,
            imported=source,
            image=image,
            image_info=info,
            dedicated=dedicated,
        )
    )
    if known is not None and source is not None:
        introduced(owner, source, known)
    return Image(device, image, owner, info)
