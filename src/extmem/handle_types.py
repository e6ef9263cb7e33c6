"""One table: what every external handle type is, and what it obeys.

Memory, semaphores and fences, core and NV. Every room asks this table; nobody else knows a bit's
name. NV's bits and the core bits are different numbers for the same things, so the table maps them
one by one (`HandleType.twin`) and nothing is translated in silence.

>>> memory_type("dma_buf").kind, memory_type("opaque_win32").consumed
('fd', False)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "FENCE",
    "MEMORY",
    "MEMORY_NV",
    "SEMAPHORE",
    "HandleType",
    "Kind",
    "core_of",
    "memory_type",
    "names_of",
    "nv_of",
    "sync_type",
]

Kind = Literal["fd", "nt", "kmt", "pointer"]
Object = Literal["memory", "semaphore", "fence"]
Given = Literal["exporter", "handle", "resource", "pages"]
Dedicated = Literal["always", "as exporter", "if reported", "never"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HandleType:
    """One handle type."""

    name: str  # the short name, as in export="opaque_fd"
    object: Object  # what is shared by it
    bit: (
        int  # its bit in the FlagBits type of its object; NV's memory bits are numbers of their own
    )
    kind: Kind  # a descriptor, an NT handle, a global (KMT) number, a host address
    opaque: bool  # only Vulkan knows what is in it; the rest travels beside it
    extension: str  # the device extension that carries it
    consumed: bool = False  # a successful import through `vk` takes it from the caller
    holds_reference: bool = True  # the handle alone keeps the payload alive
    import_holds_reference: bool = True  # what was imported from it keeps the payload alive
    fetched_once: bool = False  # at most one fetch for each object and type
    named_on_export: bool = False  # Vulkan can give it a name
    named_on_import: bool = False  # a name may stand for the handle
    exportable: bool = True  # Vulkan can export it at all; D3D's types it can only import
    dedicated: Dedicated = "as exporter"  # memory: what an import of it must be dedicated to
    size: Given = "exporter"  # memory: where allocationSize comes from; "handle": it is ignored
    type_index: Given = "exporter"  # memory: where memoryTypeIndex comes from
    copy_transference: bool = False  # semaphores, fences: a snapshot, and only temporary
    permanent: bool = True  # semaphores, fences: may be imported permanently
    twin: str | None = None  # memory: the same thing's name in the other of NV and core


_FD = "VK_KHR_external_memory_fd"
_WIN32 = "VK_KHR_external_memory_win32"
_HOST = "VK_EXT_external_memory_host"
_NV = "VK_NV_external_memory_win32"

MEMORY: tuple[HandleType, ...] = (
    HandleType(
        name="opaque_fd", object="memory", bit=0x1, kind="fd", opaque=True, extension=_FD,
        consumed=True,
    ),
    HandleType(
        name="opaque_win32", object="memory", bit=0x2, kind="nt", opaque=True, extension=_WIN32,
        fetched_once=True, named_on_export=True, named_on_import=True, twin="opaque_win32_nv",
    ),
    HandleType(
        name="opaque_win32_kmt", object="memory", bit=0x4, kind="kmt", opaque=True,
        extension=_WIN32, holds_reference=False, import_holds_reference=False,
        twin="opaque_win32_kmt_nv",
    ),
    HandleType(
        name="d3d11_texture", object="memory", bit=0x8, kind="nt", opaque=False, extension=_WIN32,
        fetched_once=True, named_on_import=True, exportable=False, dedicated="always",
        size="handle", type_index="handle", twin="d3d11_image_nv",
    ),
    HandleType(
        name="d3d11_texture_kmt", object="memory", bit=0x10, kind="kmt", opaque=False,
        extension=_WIN32, holds_reference=False, import_holds_reference=False, exportable=False,
        dedicated="always", size="handle", type_index="handle", twin="d3d11_image_kmt_nv",
    ),
    HandleType(
        name="d3d12_heap", object="memory", bit=0x20, kind="nt", opaque=False, extension=_WIN32,
        fetched_once=True, named_on_import=True, exportable=False, dedicated="if reported",
        type_index="handle",
    ),
    HandleType(
        name="d3d12_resource", object="memory", bit=0x40, kind="nt", opaque=False,
        extension=_WIN32, fetched_once=True, named_on_import=True, exportable=False,
        dedicated="always", size="handle", type_index="handle",
    ),
    HandleType(
        name="host_allocation", object="memory", bit=0x80, kind="pointer", opaque=False,
        extension=_HOST, holds_reference=False, import_holds_reference=False, exportable=False,
        dedicated="never", size="pages", type_index="handle",
    ),
    HandleType(
        name="host_mapped_foreign_memory", object="memory", bit=0x100, kind="pointer",
        opaque=False, extension=_HOST, holds_reference=False, import_holds_reference=False,
        exportable=False, dedicated="never", size="pages", type_index="handle",
    ),
    HandleType(
        name="dma_buf", object="memory", bit=0x200, kind="fd", opaque=False,
        extension="VK_EXT_external_memory_dma_buf", consumed=True, dedicated="if reported",
        size="resource", type_index="handle",
    ),
)  # fmt: skip

# The NV extension states less: no rule that an NT handle is fetched once, none for size and type
# index, no names. Its appendix lets an import take the handle; ours follows KHR, because the
# handle stays usable either way (see the specification's own correction of the KHR twin).
MEMORY_NV: tuple[HandleType, ...] = (
    HandleType(
        name="opaque_win32_nv", object="memory", bit=0x1, kind="nt", opaque=True, extension=_NV,
        dedicated="if reported", size="resource", type_index="resource", twin="opaque_win32",
    ),
    HandleType(
        name="opaque_win32_kmt_nv", object="memory", bit=0x2, kind="kmt", opaque=True,
        extension=_NV, holds_reference=False, import_holds_reference=False,
        dedicated="if reported", size="resource", type_index="resource", twin="opaque_win32_kmt",
    ),
    HandleType(
        name="d3d11_image_nv", object="memory", bit=0x4, kind="nt", opaque=False, extension=_NV,
        exportable=False, dedicated="if reported", size="resource", type_index="resource",
        twin="d3d11_texture",
    ),
    HandleType(
        name="d3d11_image_kmt_nv", object="memory", bit=0x8, kind="kmt", opaque=False,
        extension=_NV, holds_reference=False, import_holds_reference=False, exportable=False,
        dedicated="if reported", size="resource", type_index="resource", twin="d3d11_texture_kmt",
    ),
)  # fmt: skip

_SEMAPHORE_FD = "VK_KHR_external_semaphore_fd"
_SEMAPHORE_WIN32 = "VK_KHR_external_semaphore_win32"

SEMAPHORE: tuple[HandleType, ...] = (
    HandleType(
        name="opaque_fd", object="semaphore", bit=0x1, kind="fd", opaque=True,
        extension=_SEMAPHORE_FD, consumed=True,
    ),
    HandleType(
        name="opaque_win32", object="semaphore", bit=0x2, kind="nt", opaque=True,
        extension=_SEMAPHORE_WIN32, fetched_once=True, named_on_export=True, named_on_import=True,
    ),
    HandleType(
        name="opaque_win32_kmt", object="semaphore", bit=0x4, kind="kmt", opaque=True,
        extension=_SEMAPHORE_WIN32, holds_reference=False, import_holds_reference=False,
    ),
    HandleType(
        name="d3d12_fence", object="semaphore", bit=0x8, kind="nt", opaque=False,
        extension=_SEMAPHORE_WIN32, fetched_once=True, named_on_export=True, named_on_import=True,
    ),
    HandleType(
        name="sync_fd", object="semaphore", bit=0x10, kind="fd", opaque=False,
        extension=_SEMAPHORE_FD, consumed=True, copy_transference=True, permanent=False,
    ),
)  # fmt: skip

_FENCE_FD = "VK_KHR_external_fence_fd"
_FENCE_WIN32 = "VK_KHR_external_fence_win32"

FENCE: tuple[HandleType, ...] = (
    HandleType(
        name="opaque_fd", object="fence", bit=0x1, kind="fd", opaque=True, extension=_FENCE_FD,
        consumed=True,
    ),
    HandleType(
        name="opaque_win32", object="fence", bit=0x2, kind="nt", opaque=True,
        extension=_FENCE_WIN32, fetched_once=True, named_on_export=True, named_on_import=True,
    ),
    HandleType(
        name="opaque_win32_kmt", object="fence", bit=0x4, kind="kmt", opaque=True,
        extension=_FENCE_WIN32, holds_reference=False, import_holds_reference=False,
    ),
    HandleType(
        name="sync_fd", object="fence", bit=0x8, kind="fd", opaque=False, extension=_FENCE_FD,
        consumed=True, copy_transference=True, permanent=False,
    ),
)  # fmt: skip

_BY_NAME = {each.name: each for each in MEMORY}
_BY_BIT = {each.bit: each for each in MEMORY}
_NV_BY_NAME = {each.name: each for each in MEMORY_NV}
_SYNC = {"semaphore": SEMAPHORE, "fence": FENCE}


def memory_type(which: str | int) -> HandleType:
    """The core memory type for a short name or a core bit.

    >>> memory_type(1).name
    'opaque_fd'
    """
    found = _BY_NAME.get(which) if isinstance(which, str) else _BY_BIT.get(int(which))
    if found is None:
        raise ValueError(f"handle type {which!r}; expected one of {', '.join(_BY_NAME)}")
    return found


def sync_type(object: str, which: str | int) -> HandleType:
    """The type of semaphores or fences for a short name or a bit of theirs.

    object: "semaphore" or "fence": their bits are numbers of their own

    >>> sync_type("semaphore", "sync_fd").bit, sync_type("fence", "sync_fd").bit
    (16, 8)
    """
    known = _SYNC[object]
    found = [each for each in known if which in (each.name, each.bit)]
    if not found:
        names = ", ".join(each.name for each in known)
        raise ValueError(f"handle type {which!r} of a {object}; expected one of {names}")
    return found[0]


def core_of(nv: HandleType) -> HandleType:
    """The core type that is the same thing as an NV type.

    >>> core_of(MEMORY_NV[2]).name
    'd3d11_texture'
    """
    if nv.twin is None or nv.name not in _NV_BY_NAME:
        raise ValueError(f"{nv.name} is no NV memory type")
    return _BY_NAME[nv.twin]


def nv_of(core: HandleType) -> HandleType | None:
    """The NV type that is the same thing as a core type; None where NV has none.

    >>> nv_of(memory_type("d3d12_heap")) is None
    True
    """
    return _NV_BY_NAME.get(core.twin or "")


def names_of(mask: int, table: tuple[HandleType, ...] = MEMORY) -> list[str]:
    """The short names of the bits in a mask; bits that the table does not know as hexadecimal.

    >>> names_of(0x201)
    ['opaque_fd', 'dma_buf']
    >>> names_of(0x8, SEMAPHORE)
    ['d3d12_fence']
    """
    known = [each for each in table if mask & each.bit]
    rest = mask & ~sum(each.bit for each in known)
    return [each.name for each in known] + ([hex(rest)] if rest else [])
