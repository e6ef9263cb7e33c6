"""Rules for memory that is to be exported, and what a device offers for a handle type."""

from __future__ import annotations

from collections.abc import Iterator

from extmem.handle_types import names_of
from extmem.rules.allocate import imports
from extmem.rules.engine import Call, Findings, Site, rule
from extmem.vk import _constants as c
from extmem.vk._base import Structure
from extmem.vk.queries import External

__all__ = ["dedicated_resource", "offered"]

_DEDICATED_ONLY = int(c.VK_EXTERNAL_MEMORY_FEATURE_DEDICATED_ONLY_BIT)
_EXPORTABLE = int(c.VK_EXTERNAL_MEMORY_FEATURE_EXPORTABLE_BIT)


def dedicated_resource(chain: dict[str, Structure]) -> tuple[str, int]:
    """The kind and handle of the resource that an allocation is dedicated to, ("", 0) if none."""
    for name in ("VkMemoryDedicatedAllocateInfo", "VkDedicatedAllocationMemoryAllocateInfoNV"):
        info = chain.get(name)
        if info is not None and info.image:
            return "VkImage", int(info.image)
        if info is not None and info.buffer:
            return "VkBuffer", int(info.buffer)
    return "", 0


def offered(call: Call, handle_type: int, chain: dict[str, Structure]) -> External | None:
    """What the device offers for a handle type and the resource that an allocation is for.

    Without a dedication the resource is unknown, and the most that any plain one gets counts.
    None if the device cannot be asked.
    """
    kind, handle = dedicated_resource(chain)
    record = call.world.find(kind, handle) if handle else None
    if record is None:
        return call.asked.external_plain(handle_type)
    facts = record.facts
    usage, flags = int(facts["usage"]), int(facts["flags"])
    if kind == "VkBuffer":
        return call.asked.external_buffer(handle_type, usage, flags)
    return call.asked.external_image(
        handle_type, int(facts["format"]), int(facts["type"]), int(facts["tiling"]), usage, flags
    )


def _bits(mask: int) -> Iterator[int]:
    while mask:
        yield mask & -mask
        mask &= mask - 1


def _named(mask: int) -> str:
    return ", ".join(names_of(mask)) or "nothing"


@rule("VUID-VkExportMemoryAllocateInfo-handleTypes-09860", stage="device")
def types_that_can_be_exported(call: Call, site: Site) -> Findings:
    mask = int(site.value("handleTypes"))
    for bit in _bits(mask):
        found = offered(call, bit, site.chain)
        if found is None:
            continue
        if not found.features & _EXPORTABLE:
            yield site.broken(
                "handleTypes",
                f"names {_named(bit)}, which this device cannot export.",
                "Use a type for which vkGetPhysicalDeviceExternalBufferProperties (or the image "
                "query) reports EXPORTABLE.",
            )
        elif mask & ~found.compatible:
            yield site.broken(
                "handleTypes",
                f"names {_named(bit)} together with {_named(mask & ~found.compatible)}; the "
                f"device allows it with {_named(found.compatible & ~bit)}.",
                "Name one type, or only types from each other's compatibleHandleTypes.",
            )
    yield from _again(call, site, mask)


def _again(call: Call, site: Site, mask: int) -> Findings:
    """Imported memory can be exported again as some types only."""
    for name in imports(site.chain):
        if not mask or name == "VkImportMemoryWin32HandleInfoNV":
            continue
        source = int(site.chain[name].handleType)
        found = offered(call, source, site.chain)
        if found is not None and mask & ~found.reexport:
            yield site.broken(
                "handleTypes",
                f"names {_named(mask & ~found.reexport)}, but what is imported as "
                f"{_named(source)} can be exported again as {_named(found.reexport)}.",
                "Ask exportFromImportedHandleTypes, or export from the original memory.",
            )


@rule("VUID-VkMemoryAllocateInfo-pNext-00639", stage="device")
def dedicated_where_the_type_demands_it(call: Call, site: Site) -> Findings:
    export = site.chain.get("VkExportMemoryAllocateInfo")
    if export is None or dedicated_resource(site.chain)[1]:
        return
    for bit in _bits(int(export.handleTypes)):
        found = offered(call, bit, site.chain)
        if found is not None and found.features & _DEDICATED_ONLY:
            yield site.broken(
                "pNext",
                f"{_named(bit)} can be exported from dedicated allocations only.",
                "Chain VkMemoryDedicatedAllocateInfo with the image or buffer.",
            )
