"""Rules for shared memory that is bound to parts of a resource, from a queue."""

from __future__ import annotations

from extmem.handle_types import names_of
from extmem.rules.engine import Call, Findings, Site, rule
from extmem.world import Record


def _names(types: int) -> str:
    return ", ".join(names_of(types)) or "nothing"


def _exported(call: Call, site: Site, what: str) -> Findings:
    """Exportable memory and the resource have a type in common."""
    for index, memory, types in _binds(call, site, what):
        exported = memory.facts["export"]
        if exported and not exported & types:
            yield site.broken(
                f"pBinds[{index}].memory",
                f"can be exported as {_names(exported)}, but the {what} was created for "
                f"{_names(types)}.",
                f"Create it with VkExternalMemory{what.capitalize()}CreateInfo and one of these "
                "types.",
            )


def _imported(call: Call, site: Site, what: str) -> Findings:
    """The resource names the type that memory was imported as."""
    for index, memory, types in _binds(call, site, what):
        imported = memory.facts["import"]
        if imported & ~types:
            yield site.broken(
                f"pBinds[{index}].memory",
                f"was imported as {_names(imported)}, but the {what} was created for "
                f"{_names(types)}.",
                f"Create it with VkExternalMemory{what.capitalize()}CreateInfo and that type.",
            )


def _binds(call: Call, site: Site, what: str) -> list[tuple[int, Record, int]]:
    """The memory of each bind, and the types that the resource was created for."""
    resource = call.world.find(f"Vk{what.capitalize()}", int(site.value(what)))
    if resource is None:
        return []
    found = []
    for index in range(int(site.value("bindCount"))):
        memory = call.world.find("VkDeviceMemory", int(site.value("pBinds")[index].memory or 0))
        if memory is not None:
            found.append((index, memory, int(resource.facts["types"])))
    return found


# The rules are named for a bind, which does not know its resource; the structure around it does.


@rule("VUID-VkSparseMemoryBind-memory-02730", stage="state", at="VkSparseBufferMemoryBindInfo")
def a_buffer_made_for_exportable_memory(call: Call, site: Site) -> Findings:
    yield from _exported(call, site, "buffer")


@rule("VUID-VkSparseMemoryBind-memory-02730", stage="state", at="VkSparseImageOpaqueMemoryBindInfo")
@rule("VUID-VkSparseImageMemoryBind-memory-02732", stage="state", at="VkSparseImageMemoryBindInfo")
def an_image_made_for_exportable_memory(call: Call, site: Site) -> Findings:
    yield from _exported(call, site, "image")


@rule("VUID-VkSparseMemoryBind-memory-02731", stage="state", at="VkSparseBufferMemoryBindInfo")
def a_buffer_made_for_imported_memory(call: Call, site: Site) -> Findings:
    yield from _imported(call, site, "buffer")


@rule("VUID-VkSparseMemoryBind-memory-02731", stage="state", at="VkSparseImageOpaqueMemoryBindInfo")
@rule("VUID-VkSparseImageMemoryBind-memory-02733", stage="state", at="VkSparseImageMemoryBindInfo")
def an_image_made_for_imported_memory(call: Call, site: Site) -> Findings:
    yield from _imported(call, site, "image")
