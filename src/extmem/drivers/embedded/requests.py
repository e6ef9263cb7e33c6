"""What an allocation asks for: read from its chain once, deeply, and refused where it cannot be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from extmem.drivers.embedded.carriers import CARRIERS, Carrier, carrier_nv
from extmem.drivers.embedded.device import Device
from extmem.drivers.embedded.limits import MEMORY_TYPES
from extmem.drivers.embedded.objects import Failure, chained, find
from extmem.drivers.embedded.payload import Contents, Payload, Source, Terms, private, refused
from extmem.drivers.embedded.resources import Buffer, Image
from extmem.handles.security import security_of
from extmem.vk import _constants as c

__all__ = ["Request"]

_EXPORT = int(c.VK_STRUCTURE_TYPE_EXPORT_MEMORY_ALLOCATE_INFO)
_EXPORT_NV = int(c.VK_STRUCTURE_TYPE_EXPORT_MEMORY_ALLOCATE_INFO_NV)
_TERMS = int(c.VK_STRUCTURE_TYPE_EXPORT_MEMORY_WIN32_HANDLE_INFO_KHR)
_TERMS_NV = int(c.VK_STRUCTURE_TYPE_EXPORT_MEMORY_WIN32_HANDLE_INFO_NV)
_DEDICATED = int(c.VK_STRUCTURE_TYPE_MEMORY_DEDICATED_ALLOCATE_INFO)
_DEDICATED_NV = int(c.VK_STRUCTURE_TYPE_DEDICATED_ALLOCATION_MEMORY_ALLOCATE_INFO_NV)
_FLAGS = int(c.VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_FLAGS_INFO)
_IMPORT_NV = int(c.VK_STRUCTURE_TYPE_IMPORT_MEMORY_WIN32_HANDLE_INFO_NV)


def _address(pointer: Any) -> int:
    return getattr(pointer, "value", pointer) or 0


# The structures that import, and how to read from what.
_IMPORTS: dict[int, Callable[[Any], Source]] = {
    int(c.VK_STRUCTURE_TYPE_IMPORT_MEMORY_WIN32_HANDLE_INFO_KHR): lambda node: Source(
        _address(node.handle), node.name
    ),
    _IMPORT_NV: lambda node: Source(_address(node.handle), nv=True),
    int(c.VK_STRUCTURE_TYPE_IMPORT_MEMORY_FD_INFO_KHR): lambda node: Source(node.fd),
    int(c.VK_STRUCTURE_TYPE_IMPORT_MEMORY_HOST_POINTER_INFO_EXT): lambda node: Source(
        _address(node.pHostPointer)
    ),
}


@dataclass(frozen=True, slots=True)
class Request:
    """One allocation."""

    contents: Contents
    importer: Carrier | None
    source: Source
    exporter: Carrier | None
    terms: Terms

    @classmethod
    def of(cls, device: Device, info: Any) -> Request:
        """Read a VkMemoryAllocateInfo. What it points to is not looked at again afterwards."""
        nodes = chained(info)
        size, index = info.allocationSize, info.memoryTypeIndex
        if index >= len(MEMORY_TYPES):
            raise Failure(c.VK_ERROR_UNKNOWN, f"there is no memory type {index}")
        importer, source = _import(device, nodes)
        if not size and (importer is None or not importer.sized):
            raise Failure(c.VK_ERROR_UNKNOWN, "an allocation of 0 bytes")
        flags: Any = nodes.get(_FLAGS)
        masked = flags is not None and flags.flags & c.VK_MEMORY_ALLOCATE_DEVICE_MASK_BIT
        if masked and flags.deviceMask != 1:
            raise Failure(c.VK_ERROR_UNKNOWN, "there is one device in this group")
        kind, digest = _dedication(device, nodes)
        contents = Contents(size, index, device.physical.identity.uuid, kind, digest)
        exporter, terms = _export(device, nodes)
        if importer is not None:
            if not importer.memory_types >> index & 1:
                raise refused("not with this memory type")
            # NV's structures and those of KHR are not mixed in one allocation.
            if exporter is not None and (exporter is not importer or terms.nv != source.nv):
                raise refused("imported memory is exported again as what it was imported as")
        return cls(contents, importer, source, exporter, terms)

    def payload(self) -> Payload:
        """Carry it out."""
        if self.importer is not None:
            assert self.importer.open is not None
            again = self.terms if self.exporter is not None else None
            return self.importer.open(self.contents, self.source, again)
        if self.exporter is not None and self.exporter.create is not None:
            return self.exporter.create(self.contents, self.terms)
        return private(self.contents.size)


def _enabled(device: Device, carrier: Carrier, nv: bool) -> bool:
    return carrier.extension_for(nv) in device.extensions


def _import(device: Device, nodes: dict[int, Any]) -> tuple[Carrier | None, Source]:
    """How and from what this allocation is imported. What nobody carries is refused: without that,
    an import would quietly become private memory.
    """
    asked = [(stype, nodes[stype]) for stype in _IMPORTS if stype in nodes]
    asked = [(stype, node) for stype, node in asked if node.handleType]
    if not asked:
        return None, Source()
    (stype, node), *others = asked
    nv = stype == _IMPORT_NV
    carrier = carrier_nv(node.handleType) if nv else CARRIERS.get(node.handleType)
    if (
        others
        or carrier is None
        or carrier.open is None
        or not (nv or carrier.import_info == stype)
        or not _enabled(device, carrier, nv)
    ):
        raise refused(f"{node.handleType:#x} is not imported here")
    return carrier, _IMPORTS[stype](node)


def _export(device: Device, nodes: dict[int, Any]) -> tuple[Carrier | None, Terms]:
    """How this allocation is exported, and on which terms."""
    types, types_nv = (
        nodes[stype].handleTypes if stype in nodes else 0 for stype in (_EXPORT, _EXPORT_NV)
    )
    if not types and not types_nv:
        return None, Terms()
    nv = bool(types_nv)
    carrier = carrier_nv(types_nv) if nv else CARRIERS.get(types)
    if (
        (types and types_nv)
        or carrier is None
        or carrier.create is None
        or not _enabled(device, carrier, nv)
    ):
        # Also for two types at once: nothing here is compatible with anything else.
        raise refused(f"no export as {types or types_nv:#x}")
    node: Any = nodes.get(_TERMS_NV if nv else _TERMS)
    if node is None:
        return carrier, Terms(nv=nv)
    try:
        security = security_of(node.pAttributes[0]) if node.pAttributes else None
    except OSError as problem:
        raise refused(str(problem)) from None
    return carrier, Terms(None if nv else node.name, node.dwAccess, security, nv)


def _dedication(device: Device, nodes: dict[int, Any]) -> tuple[int, bytes]:
    """What a dedicated allocation is for: the kind of resource, and what it was created with."""
    for stype in (_DEDICATED, _DEDICATED_NV):
        node = nodes.get(stype)
        if node is not None and node.image:
            return find(Image, node.image, device).fingerprint
        if node is not None and node.buffer:
            return find(Buffer, node.buffer, device).fingerprint
    return 0, bytes(32)
