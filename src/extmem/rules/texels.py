"""What rules know of formats: how large a texel is, which aspects and planes there are.

It is read from the formats' names. Block-compressed formats have no size here.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from extmem.vk import _constants as c

__all__ = ["Texels", "texels"]

_COLOR = int(c.VK_IMAGE_ASPECT_COLOR_BIT)
_DEPTH = int(c.VK_IMAGE_ASPECT_DEPTH_BIT)
_STENCIL = int(c.VK_IMAGE_ASPECT_STENCIL_BIT)
_PLANES = (
    int(c.VK_IMAGE_ASPECT_PLANE_0_BIT),
    int(c.VK_IMAGE_ASPECT_PLANE_1_BIT),
    int(c.VK_IMAGE_ASPECT_PLANE_2_BIT),
)
# By how much the planes after the first are smaller, to each side.
_SMALLER = {"420": (2, 2), "422": (2, 1), "444": (1, 1)}
_KINDS = "UNORM|SNORM|USCALED|SSCALED|UINT|SINT|SRGB|UFLOAT|SFLOAT"
# Bytes of depth as buffers have it.
_DEPTHS = {"D16": 2, "X8_D24": 4, "D24": 4, "D32": 4}


class Texels(NamedTuple):
    """What the name of a format says."""

    sizes: dict[int, int | None]  # bytes of a texel, by aspect; None: not known
    smaller: tuple[int, int] = (1, 1)  # the planes after the first

    @property
    def planar(self) -> bool:
        """Whether there is more than one plane of colours."""
        return _PLANES[0] in self.sizes

    @property
    def blocks(self) -> bool:
        """Whether it is not texel after texel, as far as is known."""
        return None in self.sizes.values()

    def extent(self, aspect: int, width: int, height: int) -> tuple[int, int]:
        """The extent of what an aspect names, in an image of an extent."""
        if aspect not in _PLANES[1:]:
            return width, height
        return -(-width // self.smaller[0]), -(-height // self.smaller[1])


@functools.cache
def texels(form: int) -> Texels | None:
    """What is known of a format; None of one that nobody knows.

    >>> texels(int(c.VK_FORMAT_R8G8B8A8_UNORM)).sizes
    {1: 4}
    """
    try:
        name = c.VkFormat(form).name.removeprefix("VK_FORMAT_")
    except ValueError:
        return None
    if name == "UNDEFINED":
        return None
    planar = re.search(r"_(\d)PLANE_(\d{3})_", name)
    if planar is not None:
        parts = name.split("_")[: int(planar[1])]
        sizes: dict[int, int | None] = {
            aspect: _bits(part) // 8 for aspect, part in zip(_PLANES, parts, strict=False)
        }
        return Texels(sizes, _SMALLER[planar[2]])
    found: dict[int, int | None] = {}
    for start, size in _DEPTHS.items():
        if name.startswith(start + "_"):
            found[_DEPTH] = size
    if "S8_UINT" in name:
        found[_STENCIL] = 1
    if found:
        return Texels(found)
    packed = re.fullmatch(rf"[A-Z0-9]+_(?:{_KINDS})_PACK(8|16|32)", name)
    if packed is not None:
        return Texels({_COLOR: int(packed[1]) // 8})
    plain = re.fullmatch(rf"((?:[RGBA]\d+)+)_(?:{_KINDS})", name)
    return Texels({_COLOR: _bits(plain[1]) // 8 if plain is not None else None})


def _bits(components: str) -> int:
    """How many bits "R8G8", or "B10X6R10X6", has."""
    return sum(map(int, re.findall(r"\d+", components)))
