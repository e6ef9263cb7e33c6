"""An input that is several packets: what fuzzing changes is bytes, and these say how to cut them.

A frame is a control byte, which says where the packet goes and what lies beside it, the length of
the packet in two bytes, and the packet.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

__all__ = ["MOST", "joined", "split"]

MOST = 16  # frames in an input; what comes after them is not looked at
_HEAD = struct.Struct("<BH")


def split(data: bytes) -> list[tuple[int, bytes]]:
    """Control bytes and packets. The last packet may be shorter than it says."""
    frames: list[tuple[int, bytes]] = []
    place = 0
    while place + _HEAD.size <= len(data) and len(frames) < MOST:
        control, length = _HEAD.unpack_from(data, place)
        place += _HEAD.size
        frames.append((control, data[place : place + length]))
        place += length
    return frames


def joined(frames: Iterable[tuple[int, bytes]]) -> bytes:
    """The bytes that `split` cuts into these."""
    return b"".join(
        _HEAD.pack(control & 0xFF, min(len(packet), 0xFFFF)) + packet[:0xFFFF]
        for control, packet in frames
    )
