"""Memory objects that are exported as, or were imported from, Windows handles.

An export is one of the driver's descriptors, handed to the directory, which gives the handle, the
name and the access rights, and keeps the passport beside it. An import is that descriptor again.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from ctypes import c_int32
from typing import Any

from extmem.drivers.bridge.shared import (
    Refused,
    Shared,
    Taken,
    Terms,
    behind,
    descriptor_of,
    fetch_result_of,
    imported,
    result_of,
    take,
    terms_of,
)
from extmem.drivers.bridge.types import CARRIED, FD, KMT, NT, WINDOWS, to_fd
from extmem.drivers.chains import Exchange, followers, rebuilt
from extmem.drivers.driver import Command, HandleOrigin
from extmem.errors import PassportError
from extmem.handle_types import memory_type
from extmem.handles import posix
from extmem.handles.system import directory
from extmem.share.passport import BufferInfo, Exporter, ImageInfo, Passport, Place
from extmem.vk import _constants as c
from extmem.vk import _structures as s

__all__ = ["Memories", "Resource", "fingerprint", "origin_of", "stamped"]

log = logging.getLogger("extmem.bridge")

_KIND = "Memory"  # of the directory's objects

Resource = BufferInfo | ImageInfo


class Memories:
    """The memory objects of one device."""

    def __init__(self, place: Place, get_fd: Command) -> None:
        self._place = place
        self._get_fd = get_fd  # vkGetMemoryFdKHR of the driver below
        self._shared: dict[int, Shared] = {}
        self._lock = threading.Lock()

    # -- allocate -------------------------------------------------------------------------------

    def allocate(
        self, below: Command, device: int, info: Any, resources: dict[int, Resource], box: Any
    ) -> int:
        """vkAllocateMemory."""
        parts = {type(item): item for item in followers(info)}
        export = parts.get(s.VkExportMemoryAllocateInfo)
        types = int(export.handleTypes) & CARRIED if export is not None else 0
        source = parts.get(s.VkImportMemoryWin32HandleInfoKHR)
        if not types and (source is None or not source.handleType):
            return int(below(device, info, None, box))
        try:
            return self._carry(below, device, info, parts, types, source, resources, box)
        except Refused as problem:
            log.info("vkAllocateMemory: %s", problem)
            return problem.result
        except OSError as problem:
            log.info("vkAllocateMemory: %s", problem)
            return result_of(problem)

    def _carry(
        self,
        below: Command,
        device: int,
        info: Any,
        parts: dict[type, Any],
        types: int,
        source: Any,
        resources: dict[int, Resource],
        box: Any,
    ) -> int:
        if types == CARRIED:
            raise Refused("NT handles and KMT numbers of one memory are not compatible")
        terms = terms_of(parts.get(s.VkExportMemoryWin32HandleInfoKHR)) if types else Terms()
        handle_type = int(source.handleType) if source is not None else 0
        passport = self._passport(types or handle_type, info, parts, resources)
        exchanges: dict[type, Exchange] = {
            s.VkExportMemoryAllocateInfo: _export_as_fd,
            s.VkExportMemoryWin32HandleInfoKHR: _nothing,
        }
        shared = Shared(_KIND, types, terms, passport)
        if handle_type:
            taken = _opened(source, passport, keep=types == NT)
            shared.source, shared.handle = taken.source, taken.handle
            if types == KMT and shared.source is not None:
                shared.number, shared.stands = shared.source  # of the payload, and its owner's
            # The driver imports and no more: what is exported again is the directory's handle.
            exchanges[s.VkExportMemoryAllocateInfo] = _export_without_windows

            def import_fd(fd: int) -> int:
                exchanges[s.VkImportMemoryWin32HandleInfoKHR] = lambda _: s.VkImportMemoryFdInfoKHR(
                    handleType=FD, fd=fd
                )
                return int(below(device, rebuilt(info, exchanges), None, box))

            result = imported(taken, import_fd)
        else:
            result = int(below(device, rebuilt(info, exchanges), None, box))
        if result == 0:
            with self._lock:
                self._shared[box.value] = shared
        return result

    def _passport(
        self, handle_type: int, info: Any, parts: dict[type, Any], resources: dict[int, Resource]
    ) -> Passport:
        """What an importer of this allocation must know, or what this import claims to know."""
        flags = parts.get(s.VkMemoryAllocateFlagsInfo)
        masked = flags is not None and flags.flags & c.VK_MEMORY_ALLOCATE_DEVICE_MASK_BIT
        dedicated = None
        for kind in (s.VkMemoryDedicatedAllocateInfo, s.VkDedicatedAllocationMemoryAllocateInfoNV):
            item = parts.get(kind)
            if item is not None and (item.image or item.buffer):
                dedicated = resources.get(item.image or item.buffer)
        return Passport(
            handle_type=memory_type(handle_type).name,
            allocation_size=info.allocationSize,
            memory_type=info.memoryTypeIndex,
            place=self._place,
            device_mask=flags.deviceMask if flags is not None and masked else 0,
            dedicated=dedicated,
            exporter=Exporter.this(),
        )

    # -- handles --------------------------------------------------------------------------------

    def stamp(self, memory: int, passport: bytes) -> None:
        """What the objects know more of; for handles that are fetched from now on."""
        shared = self._shared.get(memory)
        if shared is not None:
            shared.passport = Passport.decode(passport)

    def get(self, device: int, info: Any, box: Any) -> int:
        """vkGetMemoryWin32HandleKHR."""
        shared = self._shared.get(info.memory)
        if shared is None or info.handleType != shared.exported:
            log.info("vkGetMemoryWin32HandleKHR: this memory is not exported as this handle type")
            return int(c.VK_ERROR_UNKNOWN)
        if shared.stale():
            return int(c.VK_ERROR_VALIDATION_FAILED)
        try:
            with self._lock:
                box.value = shared.fetch(lambda: self._descriptor(device, info.memory))
        except OSError as problem:
            log.info("vkGetMemoryWin32HandleKHR: %s", problem)
            return fetch_result_of(problem)
        return 0

    def _descriptor(self, device: int, memory: int) -> int:
        """A new one of the driver's."""
        box = c_int32(-1)
        wanted = s.VkMemoryGetFdInfoKHR(memory=memory, handleType=FD)
        return descriptor_of(int(self._get_fd(device, wanted, box)), box)

    # -- afterwards -----------------------------------------------------------------------------

    def stale(self, memory: int) -> bool:
        """Whether memory was imported by a KMT number that has lost its owner."""
        shared = self._shared.get(memory)
        return shared is not None and shared.stale()

    def forget(self, memory: int | None = None) -> None:
        """A memory object is freed, or (None) all of them with their device."""
        with self._lock:
            gone = list(self._shared) if memory is None else [memory]
            for each in gone:
                shared = self._shared.pop(each, None)
                if shared is not None:
                    try:
                        shared.close()
                    except OSError as problem:  # the directory ended, and the handle with it
                        log.info("freeing memory: %s", problem)


# -- what is said of a handle ---------------------------------------------------------------------


def stamped(handle_type: int, handle: int, name: str | None) -> bytes:
    """The passport that lies with a handle, a number or a name; b"" if there is none."""
    if not handle_type & CARRIED:
        return b""
    try:
        with behind(_KIND, handle_type, handle, name) as found:
            return directory().passport(found)
    except OSError:
        return b""


def origin_of(handle_type: int, handle: int, name: str | None) -> HandleOrigin | None:
    """What that passport says, for rules; see `Provenance`."""
    if not handle_type & CARRIED:
        return None
    data = stamped(handle_type, handle, name)
    try:
        passport = Passport.decode(data)
    except PassportError:
        return HandleOrigin(types=0)
    place = passport.place
    dedicated = {BufferInfo: "VkBuffer", ImageInfo: "VkImage", type(None): ""}
    return HandleOrigin(
        types=memory_type(passport.handle_type).bit,
        device=place.device_uuid if place is not None else None,
        driver=place.driver_uuid if place is not None else None,
        size=passport.allocation_size,
        type_index=passport.memory_type,
        mask=passport.device_mask,
        dedicated=dedicated[type(passport.dedicated)],
        made_with=fingerprint(passport.dedicated),
    )


def fingerprint(made: Resource | None) -> bytes | None:
    """Equal for resources that were created identically."""
    return None if made is None else repr(_created(made)).encode()


def _created(made: Resource | None) -> Resource | None:
    return made.as_created() if isinstance(made, ImageInfo) else made


# -- opening --------------------------------------------------------------------------------------


def _opened(source: Any, claimed: Passport, *, keep: bool) -> Taken:
    """What is imported, which is compared with what the import says of it."""
    handle_type, given = int(source.handleType), int(source.handle or 0)
    if handle_type not in (NT, KMT):
        raise Refused(f"{handle_type:#x} is not carried by descriptors")
    try:
        with behind(_KIND, handle_type, given, source.name) as handle:
            _compare(Passport.decode(directory().passport(handle)), claimed)
            taken = take(handle, number=given if handle_type == KMT else 0, keep=keep)
    except PassportError as problem:
        raise Refused(str(problem)) from None
    try:
        _examine(taken.fd, claimed.allocation_size)
    except BaseException:
        taken.close()
        raise
    return taken


def _examine(fd: int, size: int) -> None:
    """Refuse a descriptor that can be no memory of this many bytes.

    A peer laid it there, with a passport of its own words. Drivers take what can be mapped, and the
    process ends where there is nothing behind the map. That the peer may shorten an unsealed file
    later is not handled: some drivers do not seal theirs.
    """
    if sys.platform == "win32":
        raise NotImplementedError
    status = os.fstat(fd)
    problem = posix.no_memory(posix.describe(fd), os.major(status.st_rdev))
    if problem is not None:
        raise Refused(f"its descriptor is {problem}")
    found = posix.size_of(fd)
    if found is not None and found < size:
        raise Refused(f"its descriptor has {found} bytes, and its passport says {size}")


def _compare(passport: Passport, claimed: Passport) -> None:
    """Refuse what no driver notices, or dies of."""
    assert claimed.place is not None
    for problem in passport.problems(claimed.place):
        raise Refused(problem)
    for what, there, here in (
        ("handle type", passport.handle_type, claimed.handle_type),
        ("allocationSize", passport.allocation_size, claimed.allocation_size),
        ("memoryTypeIndex", passport.memory_type, claimed.memory_type),
        ("dedication", _created(passport.dedicated), _created(claimed.dedicated)),
    ):
        if there != here:
            raise Refused(f"its {what} is {there}, and the import says {here}")


def _export_as_fd(item: Any) -> Any:
    return s.VkExportMemoryAllocateInfo(handleTypes=to_fd(item.handleTypes))


def _export_without_windows(item: Any) -> Any:
    types = item.handleTypes & ~WINDOWS
    return s.VkExportMemoryAllocateInfo(handleTypes=types) if types else None


def _nothing(item: Any) -> None:
    return None
