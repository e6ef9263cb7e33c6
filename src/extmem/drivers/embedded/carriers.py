"""The one table of ways to carry a payload: what can be done with each handle type, and how."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from extmem.drivers.embedded import payload, sections
from extmem.drivers.embedded.labels import OPAQUE
from extmem.drivers.embedded.payload import Contents, Payload, Source, Terms
from extmem.vk import _constants as c

__all__ = ["CARRIERS", "Carrier", "carrier_nv"]

_KHR = "VK_KHR_external_memory_win32"
_NV = "VK_NV_external_memory_win32"


@dataclass(frozen=True, slots=True)
class Carrier:
    """One handle type. A new way to carry a payload is a new one of these."""

    handle_type: int
    extension: str
    import_info: int  # the sType of the structure that imports it
    memory_types: int = 0b111
    # The handle type in VK_NV_external_memory, where it has one there.
    handle_type_nv: int = 0
    # Make a payload that can be exported.
    create: Callable[[Contents, Terms], Payload] | None = None
    # Make one more reference to an exportable payload.
    get: Callable[[Payload], int] | None = None
    # Take a payload in; terms where it will be exported again.
    open: Callable[[Contents, Source, Terms | None], Payload] | None = None
    # What can be asked of a handle that others made, for types that are not opaque:
    # the memory types to import it as, for a device.
    inspect: Callable[[Source, bytes], int] | None = None
    # What an imported payload may be bound to.
    buffers: bool = True
    images: bool = True
    dedicated_only: bool = False
    # The system knows the size, and what an allocation says of it is ignored.
    sized: bool = False

    def features(self, usable: bool) -> int:
        """VkExternalMemoryFeatureFlags for a kind of resource, which is `usable` with this or not.

        NV's bits for them have the same values.
        """
        if not usable:
            return 0
        exportable = c.VK_EXTERNAL_MEMORY_FEATURE_EXPORTABLE_BIT if self.create else 0
        importable = c.VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT if self.open else 0
        only = c.VK_EXTERNAL_MEMORY_FEATURE_DEDICATED_ONLY_BIT if self.dedicated_only else 0
        return int(exportable | importable | only)

    @property
    def exported_again(self) -> bool:
        """Whether what was imported as this can be exported, as this again."""
        return self.create is not None and self.open is not None

    def extension_for(self, nv: bool) -> str:
        """The extension whose structures are used."""
        return _NV if nv else self.extension


def _inspect(source: Source, device_uuid: bytes, *, kind: int, kmt: bool) -> int:
    label, contents = sections.label_of(source, kind, kmt)
    if contents.device_uuid != device_uuid:
        raise payload.refused("this resource is on another device")
    return label.memory_types


def _opaque(type: int, nv: int, kmt: bool) -> Carrier:
    return Carrier(
        handle_type=int(type),
        extension=_KHR,
        import_info=int(c.VK_STRUCTURE_TYPE_IMPORT_MEMORY_WIN32_HANDLE_INFO_KHR),
        handle_type_nv=int(nv),
        create=sections.create_kmt if kmt else sections.create_nt,
        get=sections.get_kmt if kmt else sections.get_nt,
        open=partial(sections.open_section, kind=OPAQUE, kmt=kmt),
    )


def _foreign(
    type: int,
    *,
    nv: int = 0,
    number_of: int = 0,  # the NT type of the same thing, for a type that goes by KMT numbers
    buffers: bool = True,
    images: bool = True,
    resource: bool = True,
) -> Carrier:
    """What other APIs make: imported, never exported. A resource is one image (or buffer)."""
    kind, kmt = int(number_of or type), bool(number_of)
    return Carrier(
        handle_type=int(type),
        extension=_KHR,
        import_info=int(c.VK_STRUCTURE_TYPE_IMPORT_MEMORY_WIN32_HANDLE_INFO_KHR),
        handle_type_nv=int(nv),
        open=partial(sections.open_section, kind=kind, kmt=kmt),
        inspect=partial(_inspect, kind=kind, kmt=kmt),
        buffers=buffers,
        images=images,
        dedicated_only=resource,
        sized=resource,
    )


def _carriers() -> dict[int, Carrier]:
    texture = c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_TEXTURE_BIT
    found = [
        Carrier(
            handle_type=int(c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT),
            extension="VK_EXT_external_memory_host",
            import_info=int(c.VK_STRUCTURE_TYPE_IMPORT_MEMORY_HOST_POINTER_INFO_EXT),
            memory_types=0b110,
            open=payload.open_host,
        ),
        _opaque(
            c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT,
            c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT_NV,
            kmt=False,
        ),
        _opaque(
            c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_KMT_BIT,
            c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_KMT_BIT_NV,
            kmt=True,
        ),
        _foreign(texture, nv=c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_IMAGE_BIT_NV, buffers=False),
        _foreign(
            c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_TEXTURE_KMT_BIT,
            nv=c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_IMAGE_KMT_BIT_NV,
            number_of=texture,
            buffers=False,
        ),
        # The stand-in is a heap of D3D12's first tier, that allows buffers only.
        _foreign(c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D12_HEAP_BIT, images=False, resource=False),
        _foreign(c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D12_RESOURCE_BIT),
    ]
    if sys.platform == "linux":
        found.append(
            Carrier(
                handle_type=int(c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT),
                extension="VK_KHR_external_memory_fd",
                import_info=int(c.VK_STRUCTURE_TYPE_IMPORT_MEMORY_FD_INFO_KHR),
                create=payload.create_memfd,
                get=payload.duplicate_memfd,
                open=payload.open_memfd,
            )
        )
    return {carrier.handle_type: carrier for carrier in found}


CARRIERS = _carriers()

_NV_CARRIERS = {x.handle_type_nv: x for x in CARRIERS.values() if x.handle_type_nv}


def carrier_nv(handle_type: int) -> Carrier | None:
    """The carrier of one handle type of NV's."""
    return _NV_CARRIERS.get(handle_type)
