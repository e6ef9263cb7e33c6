"""Buffers, images, their requirements, and what they are bound to."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from extmem.drivers.embedded.carriers import CARRIERS
from extmem.drivers.embedded.device import Device
from extmem.drivers.embedded.formats import FORMATS
from extmem.drivers.embedded.images import LINEAR, image_limits
from extmem.drivers.embedded.layout import Layout, Subresource, round_up
from extmem.drivers.embedded.limits import ALIGNMENT, HEAP_SIZE, MEMORY_TYPES
from extmem.drivers.embedded.objects import (
    SUCCESS,
    Failure,
    Object,
    chained,
    discard,
    enumerate_into,
    find,
    put,
    register,
)
from extmem.vk import _constants as c

if TYPE_CHECKING:
    from extmem.drivers.embedded.memory import Memory

__all__ = ["Buffer", "Image"]

_ALL_MEMORY_TYPES = (1 << len(MEMORY_TYPES)) - 1


class Resource(Object):
    """What buffers and images have in common: a size, and a place in memory once bound."""

    def __init__(self, device: Device, size: int, info: Any, facts: tuple[Any, ...]) -> None:
        super().__init__(device)
        self.size = size
        self.required = round_up(size, ALIGNMENT)
        self.memory: Memory | None = None
        self.offset = 0
        self.dedicated_only = _only_dedicated(info)
        self._facts = (info.sType, _common_facts(info), facts)

    @property
    def fingerprint(self) -> tuple[int, bytes]:
        """The kind of resource and what it was created with, as a payload's header carries it."""
        digest = hashlib.blake2b(repr(self._facts).encode(), digest_size=32).digest()
        return self._facts[0], digest

    def bind(self, memory: Memory, offset: int) -> None:
        if self.memory is not None:
            raise Failure(c.VK_ERROR_UNKNOWN, "this resource is bound already")
        if offset % ALIGNMENT or offset + self.required > memory.size:
            raise Failure(c.VK_ERROR_UNKNOWN, f"{self.required} bytes do not fit at {offset}")
        memory.require(write=False)
        self.memory = memory
        self.offset = offset

    def require(self, *, write: bool) -> None:
        """Refuse what cannot be begun with the memory of this, before a queue runs it."""
        if self.memory is not None and self.memory.payload.address:
            self.memory.require(write=write)

    def address(self, offset: int, size: int, *, write: bool = False) -> int:
        """Where these bytes are now. Fails where they are not, or not any more."""
        payload = self.memory.payload if self.memory is not None else None
        base = payload.address if payload is not None else 0
        if not base or offset < 0 or size < 0 or offset + size > self.size:
            raise Failure(c.VK_ERROR_DEVICE_LOST, "use of bytes that are not there")
        if write and payload is not None and not payload.writable:
            # It was bound after it was submitted; else that had been refused.
            raise Failure(c.VK_ERROR_DEVICE_LOST, "a write to memory for reading alone")
        return base + self.offset + offset

    def close(self) -> None:
        self.memory = None


_TYPES = (
    int(c.VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_BUFFER_CREATE_INFO),
    int(c.VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_IMAGE_CREATE_INFO),
)
_TYPES_NV = (int(c.VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_IMAGE_CREATE_INFO_NV),)
_DEDICATED_NV = (
    int(c.VK_STRUCTURE_TYPE_DEDICATED_ALLOCATION_BUFFER_CREATE_INFO_NV),
    int(c.VK_STRUCTURE_TYPE_DEDICATED_ALLOCATION_IMAGE_CREATE_INFO_NV),
)


def _member(info: Any, stypes: tuple[int, ...], name: str) -> int:
    """A member of the first of these structures in a chain; 0 where there is none."""
    nodes = chained(info)
    return next((int(getattr(nodes[stype], name)) for stype in stypes if stype in nodes), 0)


def _only_dedicated(info: Any) -> bool:
    """Whether the memory behind a resource can come here in a way that takes no other beside it.

    NV's types have a bit of their own that says so, and a dedication of their own.
    """
    types = _member(info, _TYPES, "handleTypes")
    return any(x.dedicated_only for x in CARRIERS.values() if x.handle_type & types)


def _common_facts(info: Any) -> tuple[Any, ...]:
    families: tuple[int, ...] = ()
    if info.sharingMode == c.VK_SHARING_MODE_CONCURRENT:
        families = tuple(
            sorted(info.pQueueFamilyIndices[i] for i in range(info.queueFamilyIndexCount))
        )
    facts = (
        int(info.flags),
        int(info.usage),
        int(info.sharingMode),
        families,
        _member(info, _TYPES, "handleTypes"),
    )
    nv = (
        _member(info, _TYPES_NV, "handleTypes"),
        _member(info, _DEDICATED_NV, "dedicatedAllocation"),
    )
    # Only where NV says something, so that what others made is recognised as ever.
    return (*facts, nv) if any(nv) else facts


class Buffer(Resource):
    """A buffer."""

    def __init__(self, device: Device, info: Any) -> None:
        size = info.size
        if not size or size > HEAP_SIZE:
            raise Failure(c.VK_ERROR_OUT_OF_DEVICE_MEMORY, f"a buffer of {size} bytes")
        if info.flags:
            raise Failure(c.VK_ERROR_UNKNOWN, "neither sparse nor protected buffers are made here")
        super().__init__(device, size, info, (size,))


class Image(Resource):
    """An image."""

    def __init__(self, device: Device, info: Any) -> None:
        extent = (info.extent.width, info.extent.height, info.extent.depth)
        levels, layers = info.mipLevels, info.arrayLayers
        limits = image_limits(info.format, info.imageType, info.tiling, info.usage, info.flags)
        if (
            limits is None
            or not all(0 < side <= most for side, most in zip(extent, limits.extent, strict=True))
            or not 0 < levels <= max(extent).bit_length()
            or levels > limits.levels
            or not 0 < layers <= limits.layers
            or not info.samples & limits.samples
            or info.samples & (info.samples - 1)
            or (info.samples > 1 and levels > 1)
        ):
            raise Failure(c.VK_ERROR_UNKNOWN, f"no image of {extent}, {levels} and {layers}")
        linear = info.tiling != c.VK_IMAGE_TILING_OPTIMAL
        self.samples = int(info.samples)
        self.format = FORMATS[info.format]
        self.levels = levels
        self.layers = layers
        self.volume = info.imageType == c.VK_IMAGE_TYPE_3D
        self.layout = Layout.of(self.format, extent, levels, layers, linear, self.samples)
        if info.tiling == _DRM:
            self._check_modifier(info)
        if self.layout.size > HEAP_SIZE:
            raise Failure(c.VK_ERROR_OUT_OF_DEVICE_MEMORY, f"{self.layout.size} bytes of image")
        numbers = (info.format, info.imageType, info.samples, info.tiling, levels, layers)
        facts = (extent, tuple(int(number) for number in numbers))
        super().__init__(device, self.layout.size, info, facts)

    def _check_modifier(self, info: Any) -> None:
        """Refuse every DRM format modifier but the linear one, and planes that lie elsewhere."""
        chain = chained(info)
        offered: Any = chain.get(_MODIFIER_LIST)
        given: Any = chain.get(_MODIFIER)
        if offered is not None:
            found = [offered.pDrmFormatModifiers[i] for i in range(offered.drmFormatModifierCount)]
        else:
            found = [given.drmFormatModifier] if given is not None else []
        if LINEAR not in found:
            raise Failure(c.VK_ERROR_UNKNOWN, f"no DRM format modifier of {found}")
        if given is None:
            return
        planes = [self.layout.subresources[0, plane] for plane in range(len(self.format.planes))]
        if [(each.offset, each.row) for each in planes] != [
            (given.pPlaneLayouts[i].offset, given.pPlaneLayouts[i].rowPitch)
            for i in range(given.drmFormatModifierPlaneCount)
        ]:
            why = "planes that lie otherwise than here"
            raise Failure(c.VK_ERROR_INVALID_DRM_FORMAT_MODIFIER_PLANE_LAYOUT_EXT, why)

    def subresource(self, aspect: int, level: int) -> Subresource:
        """The plane and mip level that a copy or a layout query names."""
        for index, plane in enumerate(self.format.planes):
            # Exactly one aspect at a time can be copied.
            if aspect in (plane.aspect, _MEMORY_PLANES[index]) and 0 <= level < self.levels:
                return self.layout.subresources[level, index]
        raise Failure(c.VK_ERROR_DEVICE_LOST, f"this image has no aspect {aspect:#x} at {level}")


_DRM = int(c.VK_IMAGE_TILING_DRM_FORMAT_MODIFIER_EXT)
_MODIFIER_LIST = int(c.VK_STRUCTURE_TYPE_IMAGE_DRM_FORMAT_MODIFIER_LIST_CREATE_INFO_EXT)
_MODIFIER = int(c.VK_STRUCTURE_TYPE_IMAGE_DRM_FORMAT_MODIFIER_EXPLICIT_CREATE_INFO_EXT)
_MEMORY_PLANES = (
    int(c.VK_IMAGE_ASPECT_MEMORY_PLANE_0_BIT_EXT),
    int(c.VK_IMAGE_ASPECT_MEMORY_PLANE_1_BIT_EXT),
)


class View(Object):
    """A view: nothing here looks through it."""


# -- creation and destruction -----------------------------------------------------------------


def vkCreateBuffer(handle: int, info: Any, allocator: None, box: Any) -> int:
    put(box, register(Buffer(find(Device, handle), info)))
    return SUCCESS


def vkCreateImage(handle: int, info: Any, allocator: None, box: Any) -> int:
    put(box, register(Image(find(Device, handle), info)))
    return SUCCESS


def _destroy(handle: int, resource: int, kind: type[Resource]) -> None:
    if resource:
        gone = find(kind, resource, find(Device, handle))
        discard(gone)
        gone.close()


def vkDestroyBuffer(handle: int, buffer: int, allocator: None) -> None:
    _destroy(handle, buffer, Buffer)


def vkDestroyImage(handle: int, image: int, allocator: None) -> None:
    _destroy(handle, image, Image)


def vkCreateBufferView(handle: int, info: Any, allocator: None, box: Any) -> int:
    device = find(Device, handle)
    find(Buffer, info.buffer, device)
    put(box, register(View(device)))
    return SUCCESS


def vkCreateImageView(handle: int, info: Any, allocator: None, box: Any) -> int:
    device = find(Device, handle)
    find(Image, info.image, device)
    put(box, register(View(device)))
    return SUCCESS


def vkDestroyBufferView(handle: int, view: int, allocator: None) -> None:
    if view:
        discard(find(View, view, find(Device, handle)))


def vkDestroyImageView(handle: int, view: int, allocator: None) -> None:
    vkDestroyBufferView(handle, view, allocator)


# -- requirements -----------------------------------------------------------------------------


def _fill_requirements(requirements: Any, resource: Resource) -> None:
    requirements.size = resource.required
    requirements.alignment = ALIGNMENT
    requirements.memoryTypeBits = _ALL_MEMORY_TYPES


def _fill_requirements2(requirements: Any, resource: Resource) -> None:
    _fill_requirements(requirements.memoryRequirements, resource)
    dedicated: Any = chained(requirements).get(c.VK_STRUCTURE_TYPE_MEMORY_DEDICATED_REQUIREMENTS)
    if dedicated is not None:
        dedicated.prefersDedicatedAllocation = int(resource.dedicated_only)
        dedicated.requiresDedicatedAllocation = int(resource.dedicated_only)


def vkGetBufferMemoryRequirements(handle: int, buffer: int, requirements: Any) -> None:
    _fill_requirements(requirements, find(Buffer, buffer, find(Device, handle)))


def vkGetImageMemoryRequirements(handle: int, image: int, requirements: Any) -> None:
    _fill_requirements(requirements, find(Image, image, find(Device, handle)))


def vkGetBufferMemoryRequirements2(handle: int, info: Any, requirements: Any) -> None:
    _fill_requirements2(requirements, find(Buffer, info.buffer, find(Device, handle)))


def vkGetImageMemoryRequirements2(handle: int, info: Any, requirements: Any) -> None:
    _fill_requirements2(requirements, find(Image, info.image, find(Device, handle)))


def vkGetDeviceBufferMemoryRequirements(handle: int, info: Any, requirements: Any) -> None:
    _fill_requirements2(requirements, Buffer(find(Device, handle), info.pCreateInfo[0]))


def vkGetDeviceImageMemoryRequirements(handle: int, info: Any, requirements: Any) -> None:
    _fill_requirements2(requirements, Image(find(Device, handle), info.pCreateInfo[0]))


# Nothing is sparse here.


def vkGetImageSparseMemoryRequirements(handle: int, image: int, count: Any, array: Any) -> None:
    enumerate_into(count, array, ())


def vkGetImageSparseMemoryRequirements2(handle: int, info: Any, count: Any, array: Any) -> None:
    enumerate_into(count, array, ())


def vkGetDeviceImageSparseMemoryRequirements(
    handle: int, info: Any, count: Any, array: Any
) -> None:
    enumerate_into(count, array, ())


def vkGetImageSubresourceLayout(handle: int, image: int, asked: Any, layout: Any) -> None:
    found = find(Image, image, find(Device, handle))
    place = found.subresource(asked.aspectMask, asked.mipLevel)
    layout.offset = place.offset + asked.arrayLayer * found.layout.layer
    layout.size = place.size
    layout.rowPitch = place.row
    layout.arrayPitch = found.layout.layer
    layout.depthPitch = place.slice


def vkGetImageDrmFormatModifierPropertiesEXT(handle: int, image: int, properties: Any) -> int:
    find(Image, image, find(Device, handle))
    properties.drmFormatModifier = LINEAR
    return SUCCESS


# -- binding ----------------------------------------------------------------------------------


def _bind(
    device: Device, kind: type[Resource], resource: int | None, memory: int | None, offset: int
) -> None:
    from extmem.drivers.embedded.memory import Memory

    find(kind, resource, device).bind(find(Memory, memory, device), offset)


def vkBindBufferMemory(handle: int, buffer: int, memory: int, offset: int) -> int:
    _bind(find(Device, handle), Buffer, buffer, memory, offset)
    return SUCCESS


def vkBindImageMemory(handle: int, image: int, memory: int, offset: int) -> int:
    _bind(find(Device, handle), Image, image, memory, offset)
    return SUCCESS


def vkBindBufferMemory2(handle: int, count: int, infos: Any) -> int:
    device = find(Device, handle)
    for i in range(count):
        _bind(device, Buffer, infos[i].buffer, infos[i].memory, infos[i].memoryOffset)
    return SUCCESS


def vkBindImageMemory2(handle: int, count: int, infos: Any) -> int:
    device = find(Device, handle)
    for i in range(count):
        _bind(device, Image, infos[i].image, infos[i].memory, infos[i].memoryOffset)
    return SUCCESS
