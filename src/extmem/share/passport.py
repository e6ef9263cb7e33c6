"""Passports: what an importer must know of what is shared and no handle can tell.

One is of memory, the other of a semaphore or a fence; bytes of the one are never taken for the
other. A passport travels beside the handle: in a message, or with the object that the handle stands
for. The importer is checked against it before a driver is called. What is not in it (None) stays
unchecked.

It comes from another process, so it is decoded strictly: unknown members, wrong types, other
versions and more than `LARGEST` bytes are refused.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from extmem.errors import PassportError, plain
from extmem.share.machine import boot, machine

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "LARGEST",
    "VERSION",
    "BufferInfo",
    "Exporter",
    "ImageInfo",
    "Passport",
    "Place",
    "PlaneLayout",
    "SyncPassport",
    "any_passport",
]

VERSION = 1
LARGEST = 1536  # bytes, encoded: it has to fit into a page beside other things

_Size = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
_Mask = Annotated[int, Meta(ge=0, lt=1 << 32)]
_Uuid = Annotated[bytes, Meta(min_length=16, max_length=16)]
_Luid = Annotated[bytes, Meta(min_length=8, max_length=8)]
_Word = Annotated[str, Meta(max_length=64)]
_LONGEST = 256  # bytes of a name that we send
_Text = Annotated[str, Meta(max_length=_LONGEST)]


class BufferInfo(Struct, frozen=True, forbid_unknown_fields=True, tag="buffer", tag_field="kind"):
    """How a buffer was created."""

    size: _Size  # bytes
    usage: _Mask  # VkBufferUsageFlags
    flags: _Mask = 0  # VkBufferCreateFlags
    sharing: _Mask = 0  # VkSharingMode


class PlaneLayout(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where a memory plane of an image with a DRM format modifier lies, in bytes."""

    offset: _Size
    row: _Size  # from row to row
    layer: _Size = 0  # from array layer to array layer; 0 where there is one
    slice: _Size = 0  # from depth slice to depth slice; 0 where there is one


class ImageInfo(
    Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag="image",
    tag_field="kind",
):
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
    sharing: _Mask = 0  # VkSharingMode; CONCURRENT is between all queue families of the device
    layout: _Mask = 0  # VkImageLayout that it is left in between users
    types: _Mask = 0  # the external handle types that it was created for
    # VkFormats that it may be viewed as, where it was created with a list of them.
    formats: Annotated[tuple[_Mask, ...], Meta(max_length=16)] = ()
    # Of the tiling by DRM format modifier: the modifier that the driver took, and its planes.
    modifier: Annotated[int, Meta(ge=0)] | None = None
    planes: Annotated[tuple[PlaneLayout, ...], Meta(max_length=4)] = ()

    def as_created(self) -> ImageInfo:
        """Without what is not of its create info, but of its use or its driver's choice."""
        return msgspec.structs.replace(self, layout=0, modifier=None, planes=())


class Exporter(Struct, frozen=True, forbid_unknown_fields=True):
    """Who shares it."""

    process_id: Annotated[int, Meta(ge=0, lt=1 << 32)]
    name: _Text = ""  # of the program, for people

    @classmethod
    def this(cls) -> Exporter:
        """This process."""
        program = os.path.basename(sys.argv[0] if sys.argv and sys.argv[0] else sys.executable)
        return cls(os.getpid(), _for_people(program))


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
        return cls(device_uuid, driver_uuid, luid, node_mask, _for_people(name), machine(), boot())


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
        return _encoded(self)

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> Passport:
        """From bytes that came from anywhere. PassportError if they are no passport of memory."""
        found = _decoded(data, _memory, "no passport of memory")
        if found.size is not None and found.size > found.allocation_size:
            raise PassportError(
                f"this passport speaks of {found.size} bytes in an allocation of "
                f"{found.allocation_size}; it was made by mistake or with intent"
            )
        return found

    def problems(self, place: Place) -> Iterator[str]:
        """Why memory with this passport cannot be imported at a place; nothing if it can be."""
        yield from _between(self.place, place)

    def unchecked(self) -> list[str]:
        """What stays unchecked, because the passport does not say it."""
        return _missing(self.place, self.exporter)


class SyncPassport(
    Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="sync", tag_field="of"
):
    """What an importer of a semaphore or a fence must know.

    >>> passport = SyncPassport("opaque_fd", "semaphore", timeline=True)
    >>> SyncPassport.decode(passport.encode()) == passport
    True
    """

    handle_type: _Word  # the short name of what it was exported as: "opaque_win32"
    object: Literal["semaphore", "fence"]
    timeline: bool = False  # of semaphores: a timeline, else binary
    flags: _Mask = 0  # that it was created with, but for a fence's VK_FENCE_CREATE_SIGNALED_BIT
    place: Place | None = None
    exporter: Exporter | None = None

    def encode(self) -> bytes:
        """As bytes, of at most LARGEST."""
        return _encoded(self)

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> SyncPassport:
        """From bytes that came from anywhere. PassportError if they are no passport of these."""
        found = _decoded(data, _sync, "no passport of a semaphore or fence")
        if found.object == "fence" and found.timeline:
            raise PassportError(
                "this passport speaks of a fence that is a timeline, which only semaphores are; it "
                "was made by mistake or with intent"
            )
        return found

    def problems(self, place: Place) -> Iterator[str]:
        """Why what has this passport cannot be imported at a place; nothing if it can be."""
        yield from _between(self.place, place)

    def unchecked(self) -> list[str]:
        """What stays unchecked, because the passport does not say it."""
        return _missing(self.place, self.exporter)


def any_passport(data: bytes | bytearray | memoryview) -> Passport | SyncPassport:
    """From bytes that came from anywhere: of memory, a semaphore or a fence. PassportError if they
    are neither.

    >>> any_passport(SyncPassport("opaque_fd", "fence").encode()).object
    'fence'
    """
    try:
        return SyncPassport.decode(data)
    except PassportError as not_these:
        try:
            return Passport.decode(data)
        except PassportError as not_memory:
            # Each complains of what the other has: what has a tag was meant as the former.
            raise (not_these if _TAG in bytes(data) else not_memory) from None


# -- within ---------------------------------------------------------------------------------------

_TAG = b"\xa2of\xa4sync"  # as it is encoded
_T = TypeVar("_T")

_encoder = msgspec.msgpack.Encoder()
_outer = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw], strict=True)
_memory = msgspec.msgpack.Decoder(tuple[int, Passport], strict=True)
_sync = msgspec.msgpack.Decoder(tuple[int, SyncPassport], strict=True)


def _encoded(passport: Passport | SyncPassport) -> bytes:
    data = _encoder.encode((VERSION, passport))
    if len(data) > LARGEST:
        raise PassportError(
            f"this passport takes {len(data)} bytes, and at most {LARGEST} are allowed; "
            "shorten the names in it"
        )
    return data


def _decoded(
    data: bytes | bytearray | memoryview, inner: msgspec.msgpack.Decoder[tuple[int, _T]], what: str
) -> _T:
    """what: these bytes are, if they are not a passport of this kind: "no passport of ..." """
    if len(data) > LARGEST:
        raise PassportError(
            f"{len(data)} bytes are {what}, which has at most {LARGEST}; nothing of it was used"
        )
    try:
        version, _ = _outer.decode(data)
        if version != VERSION:
            raise PassportError(
                f"this passport is of version {version}, and {VERSION} is known here; use the "
                "same version of extmem on both sides"
            )
        _, found = inner.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PassportError(f"these {len(data)} bytes are {what}: {plain(error)}") from None
    return found


def _between(theirs: Place | None, ours: Place) -> Iterator[str]:
    """Why what is at one place cannot be used at the other."""
    if theirs is None:
        return
    for name, elsewhere in (("machine", "another machine"), ("boot", "an earlier start of it")):
        there, here = getattr(theirs, name), getattr(ours, name)
        if any(there) and any(here) and there != here:
            yield f"it was exported on {elsewhere}; handles do not travel that far"
            return  # UUIDs of software drivers are the same on every machine
    if theirs.device_uuid != ours.device_uuid:
        yield (
            f"it is on the device {plain(theirs.device_name) or 'without a name'} "
            f"({theirs.device_uuid.hex()}), and this is {ours.device_name} "
            f"({ours.device_uuid.hex()}); open that device: open_device(uuid=...)"
        )
    elif theirs.driver_uuid != ours.driver_uuid:
        yield (
            f"it was exported by another build of the driver ({theirs.driver_uuid.hex()}, "
            f"here {ours.driver_uuid.hex()}); use the same driver on both sides"
        )
    # Devices without one say nothing; two alike differ in nothing else.
    elif None not in (theirs.luid, ours.luid) and theirs.luid != ours.luid:
        there_luid, here_luid = _hex(theirs.luid), _hex(ours.luid)
        yield f"it is on the adapter with the LUID {there_luid}, and this is {here_luid}"
    elif theirs.node_mask and ours.node_mask and theirs.node_mask != ours.node_mask:
        yield (
            f"it is on the nodes {theirs.node_mask:#x} of this adapter, and this device is the "
            f"nodes {ours.node_mask:#x}"
        )


def _for_people(name: str) -> str:
    """A name that can be sent: file names need not be Unicode, and letters are up to 4 bytes."""
    return name.encode(errors="replace")[:_LONGEST].decode(errors="ignore")


def _hex(value: bytes | None) -> str:
    return "unknown" if value is None else value.hex()


def _missing(place: Place | None, exporter: Exporter | None) -> list[str]:
    return [
        what
        for what, known in (("device and driver", place), ("exporter", exporter))
        if known is None
    ]
