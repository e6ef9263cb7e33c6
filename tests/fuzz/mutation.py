"""Changes that keep an input meaningful: of its values, where random bytes would break the packet.

The fuzzer's own changes are used as often; these find what lies behind a packet that can be read.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec

from tests.fuzz import frames

__all__ = ["of_frames", "of_packet"]

_NUMBERS = (
    0, 1, -1, 2, 4, 8, 12, 16, 127, 128, 255, 256, 4095, 4096, 8192, 65535, 65536, 1 << 25, 1 << 28,
    (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 47, (1 << 47) + 1, (1 << 63) - 1, 1 << 63,
    (1 << 64) - 1, -(1 << 63),
)  # fmt: skip
_WORDS = (
    b"", b"x", b"Local\\x", b"Global\\x", b"Global\\", b"a\\b", b"\\", b"\0", b"\xff",
    b"\xed\xa0\x80", b"Section", b"Memory", b"Semaphore", b"D:(A;;GA;;;WD)", b"O:SYD:(D;;GW;;;OW)",
    b"D:NO_ACCESS_CONTROL", b"opaque_fd", b"opaque_win32", b"x" * 64, b"x" * 65, b"x" * 260,
    b"x" * 261, b"x" * 1025,
)  # fmt: skip
_DEEPEST = 8

Change = Callable[[bytes, int, random.Random, Callable[[bytes], bytes]], bytes]


def of_packet(
    data: bytes, largest: int, chance: random.Random, raw: Callable[[bytes], bytes]
) -> bytes:
    """One packet of msgpack with another value in it.

    raw: the fuzzer's own change, which is made where this is no msgpack
    """
    if chance.random() < 0.4:
        return raw(data)
    try:
        tree = msgspec.msgpack.decode(data)
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            tree = _changed(tree, chance, _DEEPEST)
        made = msgspec.msgpack.encode(tree)
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError):
        return raw(data)
    return made if len(made) <= largest else raw(data)


def of_frames(
    data: bytes, largest: int, chance: random.Random, raw: Callable[[bytes], bytes]
) -> bytes:
    """One frame changed, taken out, made twice, or moved."""
    found = frames.split(data)
    if not found or chance.random() < 0.1:
        return raw(data)
    place = chance.randrange(len(found))
    control, packet = found[place]
    match chance.randrange(8):
        case 0:
            del found[place]
        case 1:
            found.insert(chance.randrange(len(found) + 1), (control, packet))
        case 2:
            found.insert(chance.randrange(len(found)), found.pop(place))
        case 3:
            found[place] = (control ^ 1 << chance.randrange(8), packet)
        case _:
            found[place] = (control, of_packet(packet, largest, chance, raw))
    made = frames.joined(found)
    return made if len(made) <= largest else raw(data)


def _changed(value: Any, chance: random.Random, depth: int) -> Any:
    """A value with something in it that is another."""
    inside = isinstance(value, (dict, list)) and value and depth and chance.random() < 0.85
    if isinstance(value, dict) and inside:
        made = dict(value)
        key = chance.choice(list(made))
        match chance.randrange(12):
            case 0:
                del made[key]
            case 1:
                made[chance.choice(_WORDS).decode(errors="replace")] = made[key]
            case _:
                made[key] = _changed(made[key], chance, depth - 1)
        return made
    if isinstance(value, list) and inside:
        items = list(value)
        place = chance.randrange(len(items))
        match chance.randrange(10):
            case 0:
                del items[place]
            case 1:
                items.insert(place, items[place])
            case 2:
                items *= 2
            case _:
                items[place] = _changed(items[place], chance, depth - 1)
        return items
    return _other(value, chance)


def _other(value: Any, chance: random.Random) -> Any:
    """A value of the same kind mostly."""
    if chance.random() < 0.15:
        return chance.choice(
            (None, True, False, 0, -1, 1 << 63, 0.5, "", "x", b"", b"x", [], {}, [value])
        )
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        near = value + chance.choice((-4096, -4, -1, 1, 4, 4096))
        return chance.choice((near, value ^ 1 << chance.randrange(32), chance.choice(_NUMBERS)))
    if isinstance(value, float):
        return chance.choice((0.0, -1.0, 1e308, float("nan"), float("inf")))
    if isinstance(value, str):
        return _word(value.encode("utf-8", "replace"), chance).decode(errors="replace")
    if isinstance(value, bytes):
        return _word(value, chance)
    return chance.choice((0, 4, b"x", "x", True))


def _word(value: bytes, chance: random.Random) -> bytes:
    match chance.randrange(5):
        case 0:
            return chance.choice(_WORDS)
        case 1:
            return value + chance.choice(_WORDS)
        case 2:
            return value[: chance.randrange(len(value) + 1)]
        case 3:
            return value * 2
        case _ if value:
            made = bytearray(value)
            made[chance.randrange(len(made))] = chance.randrange(256)
            return bytes(made)
    return b"x"
