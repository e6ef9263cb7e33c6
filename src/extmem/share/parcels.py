"""What crosses a channel: one packet, with a message, and handles with their passports.

It comes from another process, so it is decoded strictly: unknown members, wrong types, other
versions, and more than the limits below are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from extmem.errors import PassportError, plain
from extmem.handle_types import HandleType, memory_type, sync_type
from extmem.handles.handle import SIGNALED, Handle
from extmem.share import passport as passports
from extmem.share.passport import Passport, SyncPassport, any_passport

__all__ = [
    "LARGEST_MESSAGE",
    "LARGEST_PACKET",
    "MOST_HANDLES",
    "Item",
    "Lie",
    "Packet",
    "check_message",
    "decode",
    "encode",
    "handle_of",
    "item_of",
    "type_of",
]

VERSION = 1
LARGEST_MESSAGE = 1 << 16  # bytes
MOST_HANDLES = 32  # in one parcel
LARGEST_PACKET = 1 << 17  # bytes: both of them at their largest, and room; a socket takes it whole

_Word = Annotated[str, Meta(max_length=64)]
_Number = Annotated[int, Meta(gt=0, le=(1 << 63) - 1)]


class Lie(Exception):
    """What a peer sent is no parcel. The channel makes a ConnectionAbortedError of it."""


class Item(Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """One handle, as it travels."""

    type: _Word  # the short name of its type
    value: _Number | None  # the number over there; None for a descriptor, which lies beside
    passport: Annotated[bytes, Meta(max_length=passports.LARGEST)] | None
    object: Literal["memory", "semaphore", "fence"] = "memory"  # of what


class Packet(Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """What is sent at once."""

    message: Annotated[bytes, Meta(max_length=LARGEST_MESSAGE)]
    items: Annotated[tuple[Item, ...], Meta(max_length=MOST_HANDLES)]
    refusal: Annotated[str, Meta(max_length=256)] = ""  # why the listener does not take a peer


_encoder = msgspec.msgpack.Encoder()
_outer = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw], strict=True)
_inner = msgspec.msgpack.Decoder(tuple[int, Packet], strict=True)


def encode(packet: Packet) -> bytes:
    """As bytes, of at most LARGEST_PACKET.

    >>> decode(encode(Packet(b"hello", ()))).message
    b'hello'
    """
    return _encoder.encode((VERSION, packet))


def decode(data: bytes) -> Packet:
    """From bytes that came from anywhere. Lie if they are no packet."""
    try:
        version, _ = _outer.decode(data)
        if version != VERSION:
            raise Lie(
                f"a parcel of version {version}, and {VERSION} is known here; use the same version "
                "of extmem on both sides"
            )
        return _inner.decode(data)[1]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Lie(f"{len(data)} bytes that are no parcel: {plain(error)}") from None


def check_message(message: bytes, handles: Sequence[object]) -> None:
    """What fits into one parcel. ValueError, with the remedy, if this does not."""
    if not isinstance(message, (bytes, bytearray, memoryview)):
        raise TypeError(f"the message is {message!r}; expected bytes")
    if len(message) > LARGEST_MESSAGE:
        raise ValueError(
            f"the message has {len(message)} bytes; at most {LARGEST_MESSAGE} fit into a parcel: "
            "put what is large into shared memory"
        )
    if len(handles) > MOST_HANDLES:
        raise ValueError(
            f"{len(handles)} handles; at most {MOST_HANDLES} fit into a parcel: send several"
        )


def item_of(handle: Handle, value: int | None) -> Item:
    """How a handle travels. `value` is its number over there."""
    if handle.handle_type.kind == "fd" and handle.value == SIGNALED:
        raise ValueError(
            f"{handle!r} was signalled when it was exported, so there is nothing to send; tell the "
            "peer so, which can import -1 as a sync_fd"
        )
    passport = None if handle.passport is None else handle.passport.encode()
    return Item(handle.handle_type.name, value, passport, handle.handle_type.object)


def type_of(item: Item) -> HandleType:
    """Which type an item is of. Lie if nothing of that type can travel like this."""
    try:
        if item.object == "memory":
            found = memory_type(item.type)
        else:
            found = sync_type(item.object, item.type)
    except ValueError:
        raise Lie(f"a handle of the unknown type {item.type!r} of a {item.object}") from None
    if found.kind == "pointer":
        raise Lie(f"a handle of the type {found.name}, which means nothing in another process")
    if (found.kind == "fd") != (item.value is None):
        raise Lie(f"a handle of the type {found.name} with the number {item.value}")
    if found.kind == "kmt" and item.value is not None and item.value >= 1 << 32:
        raise Lie(f"the KMT value {item.value:#x}, which has more than 32 bits")
    return found


def handle_of(value: int, kind: HandleType, data: bytes | None) -> Handle:
    """A handle that owns what arrived, with its passport. Lie if that is none, or another's."""
    try:
        passport = None if data is None else any_passport(data)
    except PassportError as error:
        raise Lie(str(error)) from None
    if passport is None:
        return Handle(value, kind)
    if passport.handle_type != kind.name:
        theirs = plain(passport.handle_type)
        raise Lie(f"a handle of the type {kind.name} with a passport for {theirs}")
    theirs = "memory" if isinstance(passport, Passport) else passport.object
    if theirs != kind.object:
        raise Lie(f"a handle of a {kind.object} with the passport of a {theirs}")
    if isinstance(passport, SyncPassport):
        place = passport.place
        uuid = None if place is None else place.device_uuid
        return Handle(value, kind, device_uuid=uuid, passport=passport)
    return Handle(
        value,
        kind,
        size=passport.allocation_size if passport.size is None else passport.size,
        memory_type_index=passport.memory_type,
        device_uuid=None if passport.place is None else passport.place.device_uuid,
        dedicated=passport.dedicated is not None,
        passport=passport,
    )
