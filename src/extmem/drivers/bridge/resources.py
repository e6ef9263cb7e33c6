"""Buffers and images that Windows handles may back, and how each was made."""

from __future__ import annotations

from typing import Any

from extmem.drivers.bridge.types import to_fd
from extmem.drivers.chains import Exchange, followers
from extmem.share.passport import BufferInfo, ImageInfo
from extmem.vk import _structures as s

__all__ = ["EXCHANGES", "how_made"]


def _buffer_types(item: Any) -> Any:
    types = to_fd(item.handleTypes)
    return s.VkExternalMemoryBufferCreateInfo(handleTypes=types) if types else None


def _image_types(item: Any) -> Any:
    types = to_fd(item.handleTypes)
    return s.VkExternalMemoryImageCreateInfo(handleTypes=types) if types else None


EXCHANGES: dict[type, Exchange] = {
    s.VkExternalMemoryBufferCreateInfo: _buffer_types,
    s.VkExternalMemoryImageCreateInfo: _image_types,
}


_EXTERNAL = s.VkExternalMemoryImageCreateInfo


def how_made(info: Any) -> BufferInfo | ImageInfo:
    """What counts of a create info when two resources have to be created identically."""
    if type(info) is s.VkBufferCreateInfo:
        return BufferInfo(info.size, info.usage, info.flags, info.sharingMode)
    return ImageInfo(
        type=info.imageType,
        format=info.format,
        width=info.extent.width,
        height=info.extent.height,
        depth=info.extent.depth,
        levels=info.mipLevels,
        layers=info.arrayLayers,
        samples=info.samples,
        tiling=info.tiling,
        usage=info.usage,
        flags=info.flags,
        sharing=info.sharingMode,
        types=sum(int(each.handleTypes) for each in followers(info) if type(each) is _EXTERNAL),
        formats=tuple(
            int(each.pViewFormats[i])
            for each in followers(info)
            if type(each) is s.VkImageFormatListCreateInfo
            for i in range(each.viewFormatCount)
        ),
    )
