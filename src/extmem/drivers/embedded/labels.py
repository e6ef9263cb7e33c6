"""What a section says of itself: as what a handle has to be imported, and by which rules.

The label lies in the first page of a section, behind the header that every payload has
(`payload.Contents`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Self

from extmem.drivers.driver import HandleOrigin
from extmem.drivers.embedded.payload import Contents, refused
from extmem.vk import _constants as c

__all__ = ["LABEL_OFFSET", "OPAQUE", "Label", "check_import", "origin_of_page", "read_page"]

OPAQUE = int(c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT)
_TEXTURE = int(c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_TEXTURE_BIT)
_HEAP = int(c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D12_HEAP_BIT)
_BUFFER_INFO = int(c.VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO)
_IMAGE_INFO = int(c.VK_STRUCTURE_TYPE_IMAGE_CREATE_INFO)
_RESOURCES = {0: "", _BUFFER_INFO: "VkBuffer", _IMAGE_INFO: "VkImage"}
# The same things by their numbers.
_BY_NUMBER = {
    OPAQUE: int(c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_KMT_BIT),
    _TEXTURE: int(c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_TEXTURE_KMT_BIT),
}

LABEL_OFFSET = 512
_MAGIC = b"EXTMEMNT"
# magic, what it is, its memory types, keyed mutex, KMT number, which section it is
_LABEL = struct.Struct("<8sIIII16s")


@dataclass(frozen=True, slots=True)
class Label:
    """What a section says of itself, beside its contents."""

    kind: int = OPAQUE  # the NT handle type of what is inside, whether it has a number or not
    memory_types: int = 0  # of what other APIs made: the memory types to import it as
    keyed_mutex: bool = False
    kmt: int = 0  # its number, 0 if it goes by NT handles
    identity: bytes = b""

    def pack(self) -> bytes:
        numbers = (self.kind, self.memory_types, self.keyed_mutex, self.kmt)
        return _LABEL.pack(_MAGIC, *numbers, self.identity)

    @classmethod
    def of(cls, page: bytes) -> Self | None:
        magic, kind, memory_types, keyed_mutex, kmt, identity = _LABEL.unpack_from(
            page, LABEL_OFFSET
        )
        known = magic == _MAGIC
        return cls(kind, memory_types, bool(keyed_mutex), kmt, identity) if known else None


def read_page(page: bytes, kind: int, number: int) -> tuple[Label, Contents]:
    """What a first page says; refused unless it was shared as this type, by this number."""
    label, contents = Label.of(page), Contents.of(page)
    if label is None or contents is None:
        raise refused("this section was not made by this version of the device")
    if (label.kind, label.kmt) != (kind, number):
        raise refused("this section was shared as another handle type")
    return label, contents


def origin_of_page(page: bytes, number: int, stale: bool) -> HandleOrigin:
    """What a first page tells of its maker. Nothing here is believed by an import."""
    label, makers, contents = Label.of(page), Contents.makers(page), Contents.of(page)
    # What is found by a number goes by that number, or is something else in its place.
    if label is None or makers is None or (number and label.kmt != number):
        return HandleOrigin(types=0)
    types = _BY_NUMBER.get(label.kind, 0) if label.kmt else label.kind
    device, driver = makers
    if contents is None:  # of another version, which may mean other things by the rest
        return HandleOrigin(types=types, stale=stale, device=device, driver=driver)
    if label.kind != OPAQUE:
        return HandleOrigin(
            types=types,
            stale=stale,
            device=device,
            driver=driver,
            size=contents.size,
            by_vulkan=False,
            memory_types=label.memory_types,
        )
    return HandleOrigin(
        types=types,
        stale=stale,
        device=device,
        driver=driver,
        size=contents.size,
        type_index=contents.memory_type,
        mask=1,  # there is one device in each group, and no other mask
        dedicated=_RESOURCES.get(contents.dedicated),
        made_with=contents.digest if contents.dedicated else None,
    )


def check_import(label: Label, found: Contents, asked: Contents, nv: bool) -> None:
    """Refuse an import that does not say what the exporter said."""
    if label.kind == OPAQUE:
        # NV has no rule for the size: its importers pass what their resource requires.
        wanted = replace(asked, size=found.size) if nv and asked.size <= found.size else asked
        if wanted != found:
            raise refused(f"this was not exported with these parameters: {found} is not {asked}")
        return
    if found.device_uuid != asked.device_uuid or not label.memory_types >> asked.memory_type & 1:
        raise refused("this resource is on another device, or of another memory type")
    if label.kind == _HEAP:
        # A heap has a size that counts. That of a resource is known to the system alone, so what
        # the allocation says of it is ignored.
        if asked.size != found.size:
            raise refused(f"this heap has {found.size} bytes, not {asked.size}")
    elif not asked.dedicated or (label.kind == _TEXTURE and asked.dedicated != _IMAGE_INFO):
        raise refused("a resource of another API is imported for one image (or buffer) alone")
