"""A clear colour in the bytes of a format."""

from __future__ import annotations

import struct
from typing import Any

from extmem.drivers.embedded.formats import Format
from extmem.drivers.embedded.objects import Failure
from extmem.vk import _constants as c

__all__ = ["encode_texel"]

_FLOATS = {16: "<e", 32: "<f"}


def encode_texel(format: Format, color: Any) -> bytes:
    """The texel that a VkClearColorValue means: channel after channel, the first one lowest."""
    if not format.bits:
        raise Failure(c.VK_ERROR_UNKNOWN, "images of this format are not cleared with a colour")
    packed = shift = 0
    for channel, bits in zip(format.swizzle, format.bits, strict=False):
        index = "RGBA".index(channel)
        packed |= _channel(format.kind, bits, color, index) << shift
        shift += bits
    return packed.to_bytes(shift // 8, "little")


def _channel(kind: str, bits: int, color: Any, index: int) -> int:
    mask = (1 << bits) - 1
    if kind == "UINT":
        return min(int(color.uint32[index]), mask)
    if kind == "SINT":
        most = mask >> 1
        return max(-most - 1, min(int(color.int32[index]), most)) & mask
    value = float(color.float32[index])
    if kind == "SFLOAT":
        return _float(bits, value)
    value = 0.0 if value != value else value
    if kind == "SNORM":
        return round(max(-1.0, min(value, 1.0)) * (mask >> 1)) & mask
    value = max(0.0, min(value, 1.0))
    if kind == "SRGB" and index < 3:
        # Clear colours are linear; what is stored is not. Alpha always is.
        value = value * 12.92 if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
    return round(value * mask)


def _float(bits: int, value: float) -> int:
    try:
        return int.from_bytes(struct.pack(_FLOATS[bits], value), "little")
    except OverflowError:
        return _float(bits, float("inf") if value > 0 else float("-inf"))
