"""Rules for copies between buffers, for fills and updates, and for barriers: within what there is.

They belong to Vulkan at large and not to external memory. But drivers do not look: what is out of
range is read and written all the same, by a thread of theirs, and the process ends, or other memory
is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from extmem.rules.engine import Call, Findings, Site, rule
from extmem.vk import _constants as c
from extmem.world import Record

__all__ = ["both", "has_memory", "items", "resource", "unbound"]

_WHOLE = int(c.VK_WHOLE_SIZE)
_SPARSE = 1  # VK_BUFFER_CREATE_SPARSE_BINDING_BIT, and of images the same


def both(name: str, *tails: str) -> tuple[str, ...]:
    """The names of rules in a command and in the structure of its second version."""
    return tuple(
        f"VUID-{each}-{tail}" for tail in tails for each in (f"vkCmd{name}", f"Vk{name}Info2")
    )


def items(site: Site, array: str, count: str) -> Iterator[tuple[str, Any]]:
    found = site.value(array)
    for index in range(int(site.value(count)) if found else 0):
        yield f"{array}[{index}]", found[index]


def resource(call: Call, site: Site, member: str) -> Record | None:
    kind = "VkBuffer" if "uffer" in member else "VkImage"
    return call.world.find(kind, int(site.value(member) or 0))


# -- memory ---------------------------------------------------------------------------------------


def has_memory(call: Call, record: Record) -> bool:
    """Whether a resource is bound to memory that is alive, or gets its memory in pieces."""
    if record.facts["flags"] & _SPARSE:
        return True
    memory = record.facts["bound"]
    return memory is not None and call.world.has(memory)


def unbound(call: Call, site: Site, member: str) -> Findings:
    """Complain of a resource without memory."""
    record = resource(call, site, member)
    if record is not None and not has_memory(call, record):
        what = "is not bound to memory."
        if record.facts["memory"] is not None:
            what = "is bound to memory that was freed."
        yield site.broken(member, what, f"Bind the {record.kind} first, and keep its memory.")


@rule(
    *both("CopyBuffer", "srcBuffer-00119"),
    *both("CopyBufferToImage", "srcBuffer-00176"),
    stage="state",
)
def a_source_buffer_with_memory(call: Call, site: Site) -> Findings:
    yield from unbound(call, site, "srcBuffer")


@rule(
    *both("CopyBuffer", "dstBuffer-00121"),
    *both("CopyImageToBuffer", "dstBuffer-00192"),
    "VUID-vkCmdFillBuffer-dstBuffer-00031",
    "VUID-vkCmdUpdateBuffer-dstBuffer-00035",
    stage="state",
)
def a_target_buffer_with_memory(call: Call, site: Site) -> Findings:
    yield from unbound(call, site, "dstBuffer")


@rule(
    *both("CopyImage", "srcImage-07966"),
    *both("CopyImageToBuffer", "srcImage-07966"),
    *both("BlitImage", "srcImage-00220"),
    *both("ResolveImage", "srcImage-00256"),
    stage="state",
)
def a_source_image_with_memory(call: Call, site: Site) -> Findings:
    yield from unbound(call, site, "srcImage")


@rule(
    *both("CopyImage", "dstImage-07966"),
    *both("CopyBufferToImage", "dstImage-07966"),
    *both("BlitImage", "dstImage-00225"),
    *both("ResolveImage", "dstImage-00258"),
    stage="state",
)
def a_target_image_with_memory(call: Call, site: Site) -> Findings:
    yield from unbound(call, site, "dstImage")


@rule(
    "VUID-vkCmdClearColorImage-image-00003",
    "VUID-vkCmdClearDepthStencilImage-image-00010",
    stage="state",
)
def an_image_with_memory(call: Call, site: Site) -> Findings:
    yield from unbound(call, site, "image")


# -- from buffer to buffer ------------------------------------------------------------------------


@rule("VUID-VkBufferCopy-size-01988", "VUID-VkBufferCopy2-size-01988", stage="arguments")
def something_to_copy(call: Call, site: Site) -> Findings:
    if not site.value("size"):
        yield site.broken("size", "is 0.", "Leave the region out.")


@rule(*both("CopyBuffer", "srcOffset-00113"), stage="state")
def a_copy_from_within_the_source(call: Call, site: Site) -> Findings:
    yield from _offset(call, site, "src")


@rule(*both("CopyBuffer", "dstOffset-00114"), stage="state")
def a_copy_into_the_target(call: Call, site: Site) -> Findings:
    yield from _offset(call, site, "dst")


def _offset(call: Call, site: Site, side: str) -> Findings:
    buffer = resource(call, site, f"{side}Buffer")
    for where, region in items(site, "pRegions", "regionCount"):
        offset = getattr(region, f"{side}Offset")
        if buffer is not None and offset >= buffer.facts["size"]:
            yield site.broken(
                f"{where}.{side}Offset",
                f"is {offset}, but {side}Buffer has {buffer.facts['size']} bytes.",
                "Start within the buffer.",
            )


@rule(*both("CopyBuffer", "size-00115"), stage="state")
def no_more_than_the_source_has(call: Call, site: Site) -> Findings:
    yield from _reach(call, site, "src")


@rule(*both("CopyBuffer", "size-00116"), stage="state")
def no_more_than_the_target_takes(call: Call, site: Site) -> Findings:
    yield from _reach(call, site, "dst")


def _reach(call: Call, site: Site, side: str) -> Findings:
    buffer = resource(call, site, f"{side}Buffer")
    for where, region in items(site, "pRegions", "regionCount"):
        room = buffer.facts["size"] - getattr(region, f"{side}Offset") if buffer is not None else 0
        if buffer is not None and 0 < room < region.size:
            yield site.broken(
                f"{where}.size",
                f"is {region.size}, but from {side}Offset on {side}Buffer has {room} bytes.",
                f"Copy {room} bytes at most.",
            )


# -- fills and updates ----------------------------------------------------------------------------


@rule(
    "VUID-vkCmdFillBuffer-dstOffset-00024", "VUID-vkCmdUpdateBuffer-dstOffset-00032", stage="state"
)
def written_within_the_buffer(call: Call, site: Site) -> Findings:
    buffer, offset = resource(call, site, "dstBuffer"), int(site.value("dstOffset"))
    if buffer is not None and offset >= buffer.facts["size"]:
        yield site.broken(
            "dstOffset",
            f"is {offset}, but the buffer has {buffer.facts['size']} bytes.",
            "Start within the buffer.",
        )


@rule(
    "VUID-vkCmdFillBuffer-dstOffset-00025",
    "VUID-vkCmdUpdateBuffer-dstOffset-00036",
    stage="arguments",
)
def written_from_a_whole_word_on(call: Call, site: Site) -> Findings:
    if int(site.value("dstOffset")) % 4:
        yield site.broken(
            "dstOffset", f"is {site.value('dstOffset')}.", "Start at a multiple of 4."
        )


@rule("VUID-vkCmdFillBuffer-size-00026", stage="arguments")
def something_to_fill(call: Call, site: Site) -> Findings:
    if not site.value("size"):
        yield site.broken("size", "is 0.", "Give a number of bytes, or VK_WHOLE_SIZE.")


@rule("VUID-vkCmdFillBuffer-size-00028", "VUID-vkCmdUpdateBuffer-dataSize-00038", stage="arguments")
def written_in_whole_words(call: Call, site: Site) -> Findings:
    member = "size" if site.owner == "vkCmdFillBuffer" else "dataSize"
    size = int(site.value(member))
    if size != _WHOLE and size % 4:
        yield site.broken(member, f"is {size}.", "Write a multiple of 4 bytes.")


@rule("VUID-vkCmdUpdateBuffer-dataSize-00037", stage="arguments")
def no_large_updates(call: Call, site: Site) -> Findings:
    if int(site.value("dataSize")) > 65536:
        yield site.broken(
            "dataSize",
            f"is {site.value('dataSize')}; at most 65536 bytes are kept in a command buffer.",
            "Copy from another buffer.",
        )


@rule("VUID-vkCmdFillBuffer-size-00027", "VUID-vkCmdUpdateBuffer-dataSize-00033", stage="state")
def no_more_written_than_the_buffer_has(call: Call, site: Site) -> Findings:
    member = "size" if site.owner == "vkCmdFillBuffer" else "dataSize"
    buffer, size = resource(call, site, "dstBuffer"), int(site.value(member))
    room = buffer.facts["size"] - int(site.value("dstOffset")) if buffer is not None else 0
    if buffer is not None and 0 < room < size != _WHOLE:
        yield site.broken(
            member,
            f"is {size}, but from dstOffset on the buffer has {room} bytes.",
            f"Write {room} bytes at most.",
        )


# -- barriers -------------------------------------------------------------------------------------


@rule(
    "VUID-VkBufferMemoryBarrier-offset-01187",
    "VUID-VkBufferMemoryBarrier2-offset-01187",
    stage="state",
)
def a_barrier_within_the_buffer(call: Call, site: Site) -> Findings:
    buffer, offset = resource(call, site, "buffer"), int(site.value("offset"))
    if buffer is not None and offset >= buffer.facts["size"]:
        yield site.broken(
            "offset",
            f"is {offset}, but the buffer has {buffer.facts['size']} bytes.",
            "Start within the buffer.",
        )


@rule(
    "VUID-VkBufferMemoryBarrier-size-01188",
    "VUID-VkBufferMemoryBarrier2-size-01188",
    stage="arguments",
)
def a_barrier_for_something(call: Call, site: Site) -> Findings:
    if not site.value("size"):
        yield site.broken("size", "is 0.", "Give a number of bytes, or VK_WHOLE_SIZE.")


@rule(
    "VUID-VkBufferMemoryBarrier-size-01189",
    "VUID-VkBufferMemoryBarrier2-size-01189",
    stage="state",
)
def a_barrier_up_to_the_end_of_the_buffer(call: Call, site: Site) -> Findings:
    buffer, size = resource(call, site, "buffer"), int(site.value("size"))
    room = buffer.facts["size"] - int(site.value("offset")) if buffer is not None else 0
    if buffer is not None and 0 < room < size != _WHOLE:
        yield site.broken(
            "size",
            f"is {size}, but from offset on the buffer has {room} bytes.",
            "Use VK_WHOLE_SIZE.",
        )
