"""Rules for mapping memory, and for the ranges that are flushed and invalidated."""

from __future__ import annotations

from extmem.rules.allocate import is_multi_instance
from extmem.rules.engine import Call, Findings, Site, rule
from extmem.vk import _constants as c
from extmem.world import Record

_WHOLE = int(c.VK_WHOLE_SIZE)
_HOST_VISIBLE = int(c.VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT)
_PLACED = int(c.VK_MEMORY_MAP_PLACED_BIT_EXT)
_RESERVE = int(c.VK_MEMORY_UNMAP_RESERVE_BIT_EXT)
_HOST_TYPES = int(
    c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT
    | c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_MAPPED_FOREIGN_MEMORY_BIT_EXT
)


def _memory(call: Call, site: Site) -> Record | None:
    return call.world.find("VkDeviceMemory", int(site.value("memory")))


# -- map ------------------------------------------------------------------------------------------


@rule("VUID-vkMapMemory-size-00680", "VUID-VkMemoryMapInfo-size-07960", stage="arguments")
def something_to_map(call: Call, site: Site) -> Findings:
    if site.value("size") == 0:
        yield site.broken("size", "is 0.", "Give a number of bytes, or VK_WHOLE_SIZE.")


@rule("VUID-vkMapMemory-memory-00678", "VUID-VkMemoryMapInfo-memory-07958", stage="state")
def not_mapped_already(call: Call, site: Site) -> Findings:
    memory = _memory(call, site)
    if memory is not None and memory.facts["mapped"] is not None:
        offset, size = memory.facts["mapped"]
        yield site.broken(
            "memory",
            f"is mapped already ({size} bytes from {offset}).",
            "Use that mapping, or unmap it first; map VK_WHOLE_SIZE once and slice it.",
        )


@rule("VUID-vkMapMemory-offset-00679", "VUID-VkMemoryMapInfo-offset-07959", stage="state")
def an_offset_within_the_memory(call: Call, site: Site) -> Findings:
    memory = _memory(call, site)
    # An imported Direct3D resource has its size elsewhere; 0 says that nobody here knows it.
    size = memory.facts["size"] if memory is not None else 0
    if size and site.value("offset") >= size:
        yield site.broken(
            "offset",
            f"is {site.value('offset')}, but the memory has {size} bytes.",
            f"Use an offset below {size}.",
        )


@rule("VUID-vkMapMemory-size-00681", "VUID-VkMemoryMapInfo-size-07961", stage="state")
def a_range_within_the_memory(call: Call, site: Site) -> Findings:
    memory = _memory(call, site)
    whole = memory.facts["size"] if memory is not None else 0
    offset, size = site.value("offset"), site.value("size")
    if whole and size != _WHOLE and offset < whole < offset + size:
        yield site.broken(
            "size",
            f"is {size}, but from offset {offset} on the memory has {whole - offset} bytes.",
            f"Map {whole - offset} bytes at most, or VK_WHOLE_SIZE.",
        )


@rule("VUID-vkMapMemory-memory-00682", "VUID-VkMemoryMapInfo-memory-07962", stage="device")
def memory_that_the_host_can_see(call: Call, site: Site) -> Findings:
    memory = _memory(call, site)
    if memory is None:
        return
    types, index = call.asked.memory_types(), memory.facts["type_index"]
    if index < len(types) and not types[index][0] & _HOST_VISIBLE:
        visible = [i for i, (flags, _) in enumerate(types) if flags & _HOST_VISIBLE]
        yield site.broken(
            "memory",
            f"is of memory type {index}, which the host cannot see.",
            f"Allocate from one of the host-visible types {visible}, or copy on the device.",
        )


@rule("VUID-vkMapMemory-memory-00683", "VUID-VkMemoryMapInfo-memory-07963", stage="state")
def memory_in_one_instance(call: Call, site: Site) -> Findings:
    memory = _memory(call, site)
    if memory is not None and is_multi_instance(memory.facts["mask"]):
        yield site.broken(
            "memory",
            f"has an instance on each device of the mask {memory.facts['mask']:#x}.",
            "Map memory that was allocated for one physical device.",
        )


@rule("VUID-VkMemoryMapInfo-flags-09575", stage="state")
def host_memory_stays_where_it_is(call: Call, site: Site) -> Findings:
    yield from _not_host(call, site, _PLACED, "VK_MEMORY_MAP_PLACED_BIT_EXT")


@rule("VUID-VkMemoryUnmapInfo-flags-09580", stage="state")
def host_memory_reserves_nothing(call: Call, site: Site) -> Findings:
    yield from _not_host(call, site, _RESERVE, "VK_MEMORY_UNMAP_RESERVE_BIT_EXT")


def _not_host(call: Call, site: Site, flag: int, name: str) -> Findings:
    memory = _memory(call, site)
    if memory is not None and site.value("flags") & flag and memory.facts["import"] & _HOST_TYPES:
        yield site.broken(
            "flags",
            f"has {name}, but the memory was imported from a host pointer and lies at its own "
            "address.",
            f"Leave {name} out.",
        )


# -- unmap ----------------------------------------------------------------------------------------


@rule(
    "VUID-vkUnmapMemory-memory-00689",
    "VUID-VkMemoryUnmapInfo-memory-07964",
    "VUID-VkMappedMemoryRange-memory-00684",
    stage="state",
)
def memory_that_is_mapped(call: Call, site: Site) -> Findings:
    memory = _memory(call, site)
    if memory is not None and memory.facts["mapped"] is None:
        yield site.broken("memory", "is not mapped.", "Map it first with vkMapMemory.")


# -- flush and invalidate -------------------------------------------------------------------------


def _range(call: Call, site: Site) -> tuple[int, int, int, int, int] | None:
    """Offset and size of the range, the bounds of the mapping, the size of the memory."""
    memory = _memory(call, site)
    if memory is None or memory.facts["mapped"] is None:
        return None
    start, size = memory.facts["mapped"]
    return (
        int(site.value("offset")),
        int(site.value("size")),
        start,
        start + size,
        memory.facts["size"],
    )


@rule("VUID-VkMappedMemoryRange-size-00685", stage="state")
def a_range_within_the_mapping(call: Call, site: Site) -> Findings:
    found = _range(call, site)
    if found is None:
        return
    offset, size, start, end, _ = found
    if size != _WHOLE and not start <= offset <= offset + size <= end:
        yield site.broken(
            "size",
            f"is {size} from offset {offset}, but bytes {start} to {end} are mapped.",
            "Name a range within the mapping, or VK_WHOLE_SIZE.",
        )


@rule("VUID-VkMappedMemoryRange-size-00686", stage="state")
def an_offset_within_the_mapping(call: Call, site: Site) -> Findings:
    found = _range(call, site)
    if found is None:
        return
    offset, size, start, end, _ = found
    if size == _WHOLE and not start <= offset < end:
        yield site.broken(
            "offset",
            f"is {offset}, but bytes {start} to {end} are mapped.",
            f"Start at {start}.",
        )


@rule("VUID-VkMappedMemoryRange-offset-00687", stage="device")
def an_offset_of_whole_atoms(call: Call, site: Site) -> Findings:
    offset, atom = int(site.value("offset")), call.asked.limits().atom
    if offset % atom:
        yield site.broken(
            "offset",
            f"is {offset}; expected a multiple of {atom} (nonCoherentAtomSize).",
            f"Start at {offset - offset % atom}.",
        )


@rule("VUID-VkMappedMemoryRange-size-01390", stage="device")
def a_size_of_whole_atoms(call: Call, site: Site) -> Findings:
    found = _range(call, site)
    if found is None:
        return
    offset, size, _, _, whole = found
    atom = call.asked.limits().atom
    if whole and size != _WHOLE and size % atom and offset + size != whole:
        yield site.broken(
            "size",
            f"is {size}; expected a multiple of {atom} (nonCoherentAtomSize), or a range that "
            f"ends with the memory at {whole}.",
            f"Round it up to {-(-size // atom) * atom}, or use VK_WHOLE_SIZE.",
        )


@rule("VUID-VkMappedMemoryRange-size-01389", stage="device")
def a_mapping_that_ends_with_an_atom(call: Call, site: Site) -> Findings:
    found = _range(call, site)
    if found is None:
        return
    _, size, _, end, whole = found
    atom = call.asked.limits().atom
    if whole and size == _WHOLE and end % atom and end != whole:
        yield site.broken(
            "size",
            f"is VK_WHOLE_SIZE, but the mapping ends at {end}, which is no multiple of {atom} "
            f"(nonCoherentAtomSize) and not the end of the memory ({whole}).",
            "Map up to such a multiple, or to the end.",
        )
