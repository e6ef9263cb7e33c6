"""Passport: what an importer must know of shared memory and no handle can tell.

It travels beside the handle: in a message, or with the object that the handle stands for. The
importer is checked against it before a driver is called. What is not in it (None) stays unchecked.

It comes from another process, so it is decoded strictly: unknown members, wrong types, other
versions and more than `LARGEST` bytes are refused.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta, Struct

from extmem.errors import PassportError
from extmem.share.machine import boot, machine

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LARGEST", "VERSION", "BufferInfo", "Exporter", "ImageInfo", "Passport", "Place"]

VERSION = 1
LARGEST = 1536  # bytes, encoded: it has to fit into a page beside other things

_Size = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
_Mask = Annotated[int, Meta(ge=0, lt=1 << 32)]
_Uuid = Annotated[bytes, Meta(min_length=16, max_length=16)]
_Luid = Annotated[bytes, Meta(min_length=8, max_length=8)]
_Word = Annotated[str, Meta(max_length=64)]
_Text = Annotated[str, Meta(max_length=256)]


class BufferInfo(Struct, frozen=True, forbid_unknown_fields=True, tag="buffer", tag_field="kind"):
    """How a buffer was created."""

    size: _Size  # bytes
    usage: _Mask  # VkBufferUsageFlags
    flags: _Mask = 0  # VkBufferCreateFlags
    sharing: _Mask = 0  # VkSharingMode


class ImageInfo(Struct, frozen=True, forbid_unknown_fields=True, tag="image", tag_field="kind"):
    """How an image was created, in the specification's numbers."""

    type: _Mask  # VkImageType
    format: _Mask  # VkFormat
    width: _Mask
    height: _Mask
    depth: _Mask
    levels: _Mask
    layers: _Mask
    samples: _Mask
    tiling: _Mask
    usage: _Mask
    flags: _Mask = 0
    sharing: _Mask = 0
    layout: _Mask = 0  # VkImageLayout that it is left in between users
    modifier: Annotated[int, Meta(ge=0)] | None = None  # DRM format modifier, of 64 bits


class Exporter(Struct, frozen=True, forbid_unknown_fields=True):
    """Who shares it."""

    process_id: Annotated[int, Meta(ge=0, lt=1 << 32)]
    name: _Text = ""  # of the program, for people

    @classmethod
    def this(cls) -> Exporter:
        """This process."""
        program = os.path.basename(sys.argv[0] if sys.argv and sys.argv[0] else sys.executable)
        return cls(os.getpid(), program[:256])


class Place(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the memory is: what must be the same for an importer."""

    device_uuid: _Uuid
    driver_uuid: _Uuid
    luid: _Luid | None = None
    node_mask: _Mask = 0
    device_name: _Text = ""  # for people
    machine: _Uuid = b"\0" * 16  # see share.machine; zeros are unknown
    boot: _Uuid = b"\0" * 16

    @classmethod
    def here(
        cls, device_uuid: bytes, driver_uuid: bytes, luid: bytes | None, node_mask: int, name: str
    ) -> Place:
        """A device of this machine."""
        return cls(device_uuid, driver_uuid, luid, node_mask, name[:256], machine(), boot())


class Passport(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an importer must know.

    >>> passport = Passport(handle_type="opaque_fd", allocation_size=4096, memory_type=0)
    >>> Passport.decode(passport.encode()) == passport
    True
    """

    handle_type: _Word  # the short name of what it was exported as: "opaque_win32"
    allocation_size: _Size  # bytes that the exporter allocated, VkMemoryAllocateInfo's
    memory_type: _Mask  # the index of the exporter's memory type
    size: _Size | None = None  # bytes of them that are for use; None: all
    place: Place | None = None
    device_mask: _Mask = 0  # of a device group; 0: not given
    # What a dedicated allocation is for; None: the allocation is not dedicated.
    dedicated: BufferInfo | ImageInfo | None = None
    # What lies in the memory, where the exporter said it.
    image: ImageInfo | None = None
    exporter: Exporter | None = None

    def encode(self) -> bytes:
        """As bytes, of at most LARGEST."""
        data = _encoder.encode((VERSION, self))
        if len(data) > LARGEST:
            raise PassportError(
                f"this passport takes {len(data)} bytes, and at most {LARGEST} are allowed; "
                "shorten the names in it"
            )
        return data

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> Passport:
        """From bytes that came from anywhere. PassportError if they are no passport."""
        if len(data) > LARGEST:
            raise PassportError(
                f"{len(data)} bytes are no passport, which has at most {LARGEST}; nothing of it "
                "was used"
            )
        try:
            version, _ = _outer.decode(data)
            if version != VERSION:
                raise PassportError(
                    f"this passport is of version {version}, and {VERSION} is known here; use the "
                    "same version of extmem on both sides"
                )
            _, found = _inner.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise PassportError(f"these {len(data)} bytes are no passport: {error}") from None
        if found.size is not None and found.size > found.allocation_size:
            raise PassportError(
                f"this passport speaks of {found.size} bytes in an allocation of "
                f"{found.allocation_size}; it was made by mistake or with intent"
            )
        return found

    def problems(self, place: Place) -> Iterator[str]:
        """Why memory with this passport cannot be imported at a place; nothing if it can be."""
        theirs = self.place
        if theirs is None:
            return
        for name, elsewhere in (("machine", "another machine"), ("boot", "an earlier start of it")):
            there, here = getattr(theirs, name), getattr(place, name)
            if any(there) and any(here) and there != here:
                yield f"it was exported on {elsewhere}; handles do not travel that far"
                return  # UUIDs of software drivers are the same on every machine
        if theirs.device_uuid != place.device_uuid:
            yield (
                f"it is on the device {theirs.device_name or 'without a name'} "
                f"({theirs.device_uuid.hex()}), and this is {place.device_name} "
                f"({place.device_uuid.hex()}); open that device: open_device(uuid=...)"
            )
        elif theirs.driver_uuid != place.driver_uuid:
            yield (
                f"it was exported by another build of the driver ({theirs.driver_uuid.hex()}, "
                f"here {place.driver_uuid.hex()}); use the same driver on both sides"
            )

    def unchecked(self) -> list[str]:
        """What stays unchecked, because the passport does not say it."""
        return [
            what
            for what, known in (("device and driver", self.place), ("exporter", self.exporter))
            if known is None
        ]


_encoder = msgspec.msgpack.Encoder()
_outer = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw], strict=True)
_inner = msgspec.msgpack.Decoder(tuple[int, Passport], strict=True)
