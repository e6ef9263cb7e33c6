"""What can be seen at a glance to break no rule.

All rules of a call take some hundred microseconds of Python where all that C does takes ten, and a
program that hands memory over makes the same few calls again and again. So each of these functions
says of one call, in as few steps as can be, that every rule would hold. It may always say that it
does not know; then the rules are run, and only they say what is wrong.

What a rule looks at is of two kinds. Some of it is the same each time: the structures' own values
and what the device is. A call with the same values that kept all rules once keeps those again
(`learn`). The rest is alive, and is looked at each time: handles, descriptors, counts, what was
submitted. Only shapes whose living part is small are known here.

The tests run every call through both, and fail where a glance says yes and a rule says no.
"""

from __future__ import annotations

import os
from ctypes import addressof
from struct import Struct
from typing import Any

from extmem.vk import _constants as c
from extmem.vk._structures import (
    VkExportMemoryAllocateInfo,
    VkImportMemoryFdInfoKHR,
    VkMemoryAllocateInfo,
    VkMemoryGetFdInfoKHR,
)
from extmem.vk.queries import Queries
from extmem.vk.record import fetched as describe
from extmem.world import Origin, Record, World, payloads

__all__ = ["Known", "allocation", "fetch", "fetched", "free", "learn", "made"]

_MEMORY = "VkDeviceMemory"
_OPAQUE_FD = int(c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT)
_MOST = 256  # shapes that are kept of a device; a program that has more has no hurry

# sType, pNext and the rest, each at its place in C.
_allocate_info = Struct("IxxxxQQI").unpack_from
_export_info = Struct("IxxxxQI").unpack_from
_import_info = Struct("IxxxxQIi").unpack_from
_fetch_info = Struct("IxxxxQQI").unpack_from
_FETCH_STYPE = int(VkMemoryGetFdInfoKHR._stype_ or 0)


class Known:
    """A shape of an allocation that kept all rules."""

    __slots__ = ("device", "driver", "facts", "file_systems", "most", "origins")

    def __init__(self, facts: dict[str, Any], most: int, identity: Any) -> None:
        self.facts = facts  # what is kept of such an allocation, but for what changes
        self.most = most  # allocations that may be alive
        self.device: bytes | None = identity[0] if identity else None
        self.driver: bytes | None = identity[1] if identity else None
        # What is known of a payload that was exported from it, by the length of its file; and the
        # file systems (st_dev) of such files, which hold nothing else.
        self.origins: dict[int, Origin] = {}
        self.file_systems: set[int] = set()


def _shape(info: Any) -> tuple[Any, ...] | None:
    """All values of an allocation but the descriptor; None of a chain that is not known here."""
    try:
        first = info._next
    except AttributeError:  # an element of an array, or made from an address
        return None
    stype, following, size, index = _allocate_info(info)
    if first is None:
        return None if following else (None, stype, size, index)
    kind = type(first)
    if kind is VkExportMemoryAllocateInfo:
        stype_2, after, types = _export_info(first)
    elif kind is VkImportMemoryFdInfoKHR:
        stype_2, after, types, _ = _import_info(first)
        if types != _OPAQUE_FD:
            return None
    else:
        return None
    if after or following != addressof(first):
        return None
    return kind, stype, size, index, stype_2, types


def allocation(dispatch: Any, info: Any) -> Known | None:
    """Of vkAllocateMemory: what `made` takes, if every rule holds; else None."""
    if type(info) is not VkMemoryAllocateInfo:
        return None
    world = dispatch.world
    shape = _shape(info)
    known: Known | None = world.plain.get(shape)
    if known is None or shape is None or len(world.objects.get(_MEMORY, ())) >= known.most:
        return None
    if shape[0] is VkImportMemoryFdInfoKHR and not _is_ours(known, info._next, dispatch.checks):
        return None
    return known


def _is_ours(known: Known, source: Any, checks: str) -> bool:
    """Whether a descriptor is of a payload that this process exported from just such memory."""
    fd = _import_info(source)[3]
    if checks != "full":
        return True  # nothing is asked of the system
    try:
        status = os.fstat(fd)
    except (OSError, OverflowError):
        return False
    origin = payloads.find((status.st_dev, status.st_ino), status.st_size)
    return (
        origin is not None
        and origin.types & _OPAQUE_FD != 0
        and origin.size == known.facts["size"]
        and origin.type_index == known.facts["type_index"]
        and not origin.dedicated
        and origin.device == known.device
        and origin.driver == known.driver
    )


def learn(dispatch: Any, info: Any, facts: dict[str, Any]) -> None:
    """An allocation kept all rules. `facts`: what is kept of it."""
    world: World = dispatch.world
    shape = _shape(info) if type(info) is VkMemoryAllocateInfo else None
    if shape is None or len(world.plain) >= _MOST:
        return
    asked = Queries(dispatch)
    world.plain[shape] = Known(dict(facts), asked.limits().allocations, asked.identity())


def made(world: World, value: int, known: Known) -> None:
    """Note an allocation that was let through at a glance."""
    fresh = {**known.facts, "known": known, "fetched": set(), "fetched_nv": set()}
    record = Record(_MEMORY, value, None, fresh)
    with world.lock:
        world.objects.setdefault(_MEMORY, {})[value] = record


def free(dispatch: Any, memory: Any) -> bool:
    """Of vkFreeMemory: whether every rule holds."""
    world: World = dispatch.world
    return (
        isinstance(memory, int)
        and world.submitted is None
        and memory in world.objects.get(_MEMORY, ())
    )


def fetch(dispatch: Any, info: Any) -> Record | None:
    """Of vkGetMemoryFdKHR: the memory, if every rule holds."""
    if type(info) is not VkMemoryGetFdInfoKHR:
        return None
    stype, following, memory, handle_type = _fetch_info(info)
    if stype != _FETCH_STYPE or following or handle_type != _OPAQUE_FD:
        return None
    record: Record | None = dispatch.world.objects.get(_MEMORY, {}).get(memory)
    return record if record is not None and record.facts["export"] & _OPAQUE_FD else None


def fetched(dispatch: Any, record: Record, fd: int) -> None:
    """Note a descriptor that was fetched at a glance."""
    facts = record.facts
    facts["fetched"].add(_OPAQUE_FD)
    if dispatch.checks != "full":
        return
    known: Known | None = facts.get("known")
    status = os.fstat(fd)
    identity, length = (status.st_dev, status.st_ino), status.st_size
    if known is not None and length in known.origins and status.st_dev in known.file_systems:
        payloads.add(identity, known.origins[length])
        return
    describe(dispatch, record.value, _OPAQUE_FD, fd)
    origin = payloads.find(identity, length) if known is not None else None
    if known is not None and origin is not None:
        known.origins[length] = origin
        known.file_systems.add(status.st_dev)
