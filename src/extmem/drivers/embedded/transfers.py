"""The copies themselves, from address to address.

A step is what a command buffer holds: a plain function of no arguments, which a queue runs later.
Addresses are looked up when it runs, never when it is recorded, because only then is it known
whether the memory is still there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from extmem.drivers.embedded.layout import Subresource
from extmem.drivers.embedded.objects import Failure
from extmem.drivers.embedded.resources import Buffer, Image
from extmem.vk import _constants as c

__all__ = [
    "BufferImageRegion",
    "ImageRegion",
    "copy_buffer",
    "copy_buffer_image",
    "copy_image",
    "fill_bytes",
    "fill_image",
]

_memmove = ctypes.memmove


class Slab:
    """A box of texels in memory: where it starts, and how its rows and slices follow."""

    __slots__ = ("address", "row", "slice")

    def __init__(self, address: int, row: int, slice: int) -> None:
        self.address = address
        self.row = row
        self.slice = slice


def _copy_slab(target: Slab, source: Slab, bytes_per_row: int, rows: int, slices: int) -> None:
    """Copy a box, in as few moves as the two layouts allow."""
    if target.row == source.row == bytes_per_row:
        bytes_per_row, rows = bytes_per_row * rows, 1
        if slices > 1 and target.slice == source.slice == bytes_per_row:
            bytes_per_row, slices = bytes_per_row * slices, 1
    for index in range(slices):
        to = target.address + index * target.slice
        origin = source.address + index * source.slice
        for _ in range(rows):
            _memmove(to, origin, bytes_per_row)
            to += target.row
            origin += source.row


def copy_buffer(source: Buffer, target: Buffer, regions: Sequence[tuple[int, int, int]]) -> None:
    for source_offset, target_offset, size in regions:
        to = target.address(target_offset, size, write=True)
        _memmove(to, source.address(source_offset, size), size)


def fill_bytes(address: int, size: int, pattern: bytes) -> None:
    """Repeat a pattern over whole multiples of its length."""
    if size <= 0:
        return
    if pattern.count(pattern[0]) == len(pattern):
        ctypes.memset(address, pattern[0], size)
        return
    done = min(len(pattern), size)
    _memmove(address, pattern, done)
    # Each move copies everything so far: a few moves, however large it is.
    while done < size:
        step = min(done, size - done)
        _memmove(address + done, address, step)
        done += step


# -- images -----------------------------------------------------------------------------------


class Place:
    """The corner and subresource that one side of an image copy names."""

    __slots__ = ("aspect", "layer", "layers", "level", "x", "y", "z")

    def __init__(self, subresource: Any, offset: Any) -> None:
        self.aspect = int(subresource.aspectMask)
        self.level = subresource.mipLevel
        self.layer: int = subresource.baseArrayLayer
        self.layers: int = subresource.layerCount
        self.x, self.y, self.z = offset.x, offset.y, offset.z


class BufferImageRegion:
    """A VkBufferImageCopy, read while its memory is certain to be there."""

    __slots__ = ("extent", "height", "offset", "place", "row")

    def __init__(self, region: Any) -> None:
        extent = region.imageExtent
        self.extent = (extent.width, extent.height, extent.depth)
        self.offset = region.bufferOffset
        self.row = region.bufferRowLength or extent.width
        self.height = region.bufferImageHeight or extent.height
        self.place = Place(region.imageSubresource, region.imageOffset)


class ImageRegion:
    """A VkImageCopy, read while its memory is certain to be there."""

    __slots__ = ("extent", "source", "target")

    def __init__(self, region: Any) -> None:
        self.extent = (region.extent.width, region.extent.height, region.extent.depth)
        self.source = Place(region.srcSubresource, region.srcOffset)
        self.target = Place(region.dstSubresource, region.dstOffset)


def _layers(image: Image, place: Place) -> int:
    rest = place.layers == c.VK_REMAINING_ARRAY_LAYERS
    return image.layers - place.layer if rest else place.layers


def _locate(
    image: Image, place: Place, extent: tuple[int, int, int], *, write: bool
) -> tuple[Subresource, Slab, int]:
    """A box of an image: its subresource, the box in memory, and its number of slices.

    A slice is a depth slice of a volume, and a layer of everything else, so that copies between
    the two need nothing special.
    """
    found = image.subresource(place.aspect, place.level)
    width, height, depth = extent
    layers = _layers(image, place)
    if (
        min(place.x, place.y, place.z) < 0
        or place.x + width > found.width
        or place.y + height > found.height
        or place.z + (depth if image.volume else 0) > found.depth
        or place.layer + layers > image.layers
    ):
        raise Failure(c.VK_ERROR_DEVICE_LOST, "a copy outside of its image")
    pitch, first, slices = (
        (found.slice, place.z, depth) if image.volume else (image.layout.layer, place.layer, layers)
    )
    corner = found.offset + first * pitch + place.y * found.row + place.x * found.texel
    base = image.address(0, image.size, write=write)
    return found, Slab(base + corner, found.row, pitch), slices


def copy_buffer_image(
    buffer: Buffer, image: Image, regions: Sequence[BufferImageRegion], to_image: bool
) -> None:
    """Copy between a buffer and an image, in either direction."""
    if image.samples > 1:
        raise Failure(c.VK_ERROR_DEVICE_LOST, "a copy between a buffer and several samples")
    for region in regions:
        found, inside, slices = _locate(image, region.place, region.extent, write=to_image)
        width, height, _ = region.extent
        if region.row < width or region.height < height:
            raise Failure(c.VK_ERROR_DEVICE_LOST, "rows that overlap in the buffer")
        if not (width and height and slices):
            continue
        row = region.row * found.texel
        slice = row * region.height
        used = (slices - 1) * slice + (height - 1) * row + width * found.texel
        outside = Slab(buffer.address(region.offset, used, write=not to_image), row, slice)
        target, source = (inside, outside) if to_image else (outside, inside)
        _copy_slab(target, source, width * found.texel, height, slices)


def copy_image(source: Image, target: Image, regions: Sequence[ImageRegion]) -> None:
    for region in regions:
        origin, from_slab, slices = _locate(source, region.source, region.extent, write=False)
        goal, to_slab, others = _locate(target, region.target, region.extent, write=True)
        alike = origin.texel == goal.texel and source.samples == target.samples
        if not alike or slices != others:
            raise Failure(c.VK_ERROR_DEVICE_LOST, "a copy between images that do not match")
        width, height, _ = region.extent
        _copy_slab(to_slab, from_slab, width * origin.texel, height, slices)


def fill_image(image: Image, ranges: Sequence[tuple[int, int, int, int]], texel: bytes) -> None:
    """Write one texel everywhere in ranges of (level, levels, layer, layers)."""
    for first_level, levels, first_layer, layers in ranges:
        for level in range(first_level, min(image.levels, first_level + levels)):
            found = image.subresource(image.format.planes[0].aspect, level)
            for layer in range(first_layer, min(image.layers, first_layer + layers)):
                offset = found.offset + layer * image.layout.layer
                # Row by row: in a linear image the padding between rows is nobody's.
                for row in range(found.height * found.depth):
                    size = found.width * found.texel
                    address = image.address(offset + row * found.row, size, write=True)
                    fill_bytes(address, size, texel)
