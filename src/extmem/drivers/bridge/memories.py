"""Memory objects that are exported as, or were imported from, Windows handles.

An export is one of the driver's descriptors, handed to the directory, which gives the handle, the
name and the access rights, and keeps the passport beside it. An import is that descriptor again.
"""

from __future__ import annotations

import errno
import logging
import secrets
import threading
from ctypes import c_int32
from dataclasses import dataclass
from typing import Any

from extmem.drivers.bridge.types import CARRIED, FD, KMT, NT, WINDOWS, to_fd
from extmem.drivers.chains import Exchange, followers, rebuilt
from extmem.drivers.driver import Command, HandleOrigin
from extmem.errors import PassportError
from extmem.handle_types import memory_type
from extmem.handles import posix, winerror
from extmem.handles.kernel import ACCESS_ALL, ACCESS_READ, ACCESS_WRITE, Security
from extmem.handles.security import security_of
from extmem.handles.system import directory
from extmem.share.passport import BufferInfo, Exporter, ImageInfo, Passport, Place
from extmem.vk import _constants as c
from extmem.vk import _structures as s

__all__ = ["Memories", "Resource", "fingerprint", "origin_of", "stamped"]

log = logging.getLogger("extmem.bridge")

_KIND = "Memory"  # of the directory's objects
_BOTH = ACCESS_READ | ACCESS_WRITE  # the least that a driver's descriptor can grant
_INVALID = int(c.VK_ERROR_INVALID_EXTERNAL_HANDLE)
_NO_MORE = (4, 1450)  # Windows' numbers for "no more files" and "no more resources"

Resource = BufferInfo | ImageInfo


class Refused(Exception):
    """What was asked cannot be; `result` says so in Vulkan's words."""

    def __init__(self, why: str, result: int = _INVALID) -> None:
        super().__init__(why)
        self.result = result


@dataclass(slots=True)
class Terms:
    """On which terms a handle is exported."""

    name: str | None = None
    access: int = _BOTH
    security: Security | None = None


@dataclass(slots=True)
class Shared:
    """One memory object that has to do with Windows handles."""

    exported: int  # NT or KMT, 0 if it is only imported
    terms: Terms
    passport: Passport
    handle: int = 0  # the directory's, ours to close: one to give away, or one that holds a number
    first: tuple[int, int] | None = (
        None  # the handle that was given away, and its object's identity
    )
    number: int = 0  # KMT: what it is exported as
    source: tuple[int, int] | None = None  # KMT: the number of the import, and the object then


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
        imported = int(source.handleType) if source is not None else 0
        if not types and not imported:
            return int(below(device, info, None, box))
        try:
            return self._carry(below, device, info, parts, types, source, resources, box)
        except Refused as problem:
            log.info("vkAllocateMemory: %s", problem)
            return problem.result
        except OSError as problem:
            log.info("vkAllocateMemory: %s", problem)
            return _result_of(problem)

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
        terms = _terms_of(parts.get(s.VkExportMemoryWin32HandleInfoKHR))
        if types and not terms.access & (ACCESS_ALL | ACCESS_WRITE):
            raise Refused("a driver's descriptor cannot be restricted to reading")
        imported = int(source.handleType) if source is not None else 0
        passport = self._passport(types or imported, info, parts, resources)
        exchanges: dict[type, Exchange] = {
            s.VkExportMemoryAllocateInfo: _export_as_fd,
            s.VkExportMemoryWin32HandleInfoKHR: _nothing,
        }
        shared = Shared(types, terms, passport)
        if imported:
            fd, shared.source, shared.handle = _opened(source, passport, keep=types == NT)
            if types == KMT and shared.source is not None:
                shared.number, _ = shared.source  # of the payload, and its owner's
            # The driver imports and no more: what is exported again is the directory's handle.
            exchanges[s.VkExportMemoryAllocateInfo] = _export_without_windows
            known = posix.identity(fd)
            exchanges[s.VkImportMemoryWin32HandleInfoKHR] = lambda item: s.VkImportMemoryFdInfoKHR(
                handleType=FD, fd=fd
            )
            result = -1
            try:
                result = int(below(device, rebuilt(info, exchanges), None, box))
            finally:
                if result:
                    posix.close_if_same(fd, known)
                    if shared.handle:
                        directory().close(shared.handle)
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
        if self.stale(info.memory):
            return int(c.VK_ERROR_VALIDATION_FAILED)
        try:
            with self._lock:
                if shared.exported == KMT:
                    box.value = self._number(device, info.memory, shared)
                else:
                    box.value = self._nt(device, info.memory, shared)
        except OSError as problem:
            log.info("vkGetMemoryWin32HandleKHR: %s", problem)
            result = _result_of(problem)
            return result if result != _INVALID else int(c.VK_ERROR_OUT_OF_HOST_MEMORY)
        return 0

    def _nt(self, device: int, memory: int, shared: Shared) -> int:
        """The first handle, which is the caller's from now on; later, duplicates of it."""
        if shared.first is not None:
            handle, identity = shared.first
            if _identity_of(handle) == identity:
                return directory().duplicate(handle)
        if not shared.handle:
            self._share(device, memory, shared, shared.terms.name)
        handle, shared.handle = shared.handle, 0
        shared.first = handle, _identity_of(handle)
        return handle

    def _number(self, device: int, memory: int, shared: Shared) -> int:
        """The number, which lives as long as this memory."""
        for _ in range(100):
            if shared.number:
                break
            # Even and no multiple of four, so that it can never be taken for an NT handle.
            number = secrets.randbelow(1 << 29) * 4 + 2
            try:
                self._share(device, memory, shared, _name_of(number))
                shared.number = number
            except OSError as problem:
                if winerror.code_of(problem) != winerror.ALREADY_EXISTS:
                    raise
        return shared.number

    def _share(self, device: int, memory: int, shared: Shared, name: str | None) -> None:
        """Hand one of the driver's descriptors to the directory, for a handle."""
        fd = _descriptor(self._get_fd, device, memory)
        try:
            shared.handle = directory().share(
                fd,
                _KIND,
                name=name,
                access=ACCESS_ALL,
                security=shared.terms.security,
                passport=shared.passport.encode(),
            )
        finally:
            posix.close(fd)

    # -- afterwards -----------------------------------------------------------------------------

    def stale(self, memory: int) -> bool:
        """Whether memory was imported by a KMT number that has lost its owner."""
        shared = self._shared.get(memory)
        if shared is None or shared.source is None:
            return False
        number, identity = shared.source
        try:
            handle = directory().open_named(_name_of(number), _KIND, _BOTH)
        except OSError:
            return True
        try:
            return _identity_of(handle) != identity
        finally:
            directory().close(handle)

    def forget(self, memory: int | None = None) -> None:
        """A memory object is freed, or (None) all of them with their device."""
        with self._lock:
            gone = list(self._shared) if memory is None else [memory]
            for each in gone:
                shared = self._shared.pop(each, None)
                if shared is not None and shared.handle:
                    try:
                        directory().close(shared.handle)
                    except OSError as problem:  # the directory ended, and the handle with it
                        log.info("freeing memory: %s", problem)


# -- what is said of a handle ---------------------------------------------------------------------


def stamped(handle_type: int, handle: int, name: str | None) -> bytes:
    """The passport that lies with a handle, a number or a name; b"" if there is none."""
    if not handle_type & CARRIED:
        return b""
    opened = 0
    try:
        opened = _handle_of(handle_type, handle, name)
        return directory().passport(opened or handle)
    except OSError:
        return b""
    finally:
        if opened:
            directory().close(opened)


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
    return None if made is None else repr(made).encode()


# -- opening --------------------------------------------------------------------------------------


def _handle_of(handle_type: int, handle: int, name: str | None) -> int:
    """A handle that was opened for this and must be closed; 0 where the given one does."""
    if handle_type == KMT:
        return directory().open_named(_name_of(handle), _KIND, _BOTH)
    if name is not None:
        return directory().open_named(name, _KIND, _BOTH)
    return 0


def _opened(
    source: Any, claimed: Passport, *, keep: bool
) -> tuple[int, tuple[int, int] | None, int]:
    """A descriptor of what is imported, which is compared with what the import says of it; for a
    KMT number by what it is known again; and, to keep, a handle of our own to export it by.
    """
    handle_type, given = int(source.handleType), int(source.handle or 0)
    if handle_type not in (NT, KMT):
        raise Refused(f"{handle_type:#x} is not carried by descriptors")
    opened = _handle_of(handle_type, given, source.name)
    handle = opened or given
    try:
        passport = Passport.decode(directory().passport(handle))
        _compare(passport, claimed)
        known = (given, _identity_of(handle)) if handle_type == KMT else None
        fd = directory().descriptor(handle)
        try:
            return fd, known, directory().duplicate(handle) if keep else 0
        except OSError:
            posix.close(fd)
            raise
    except PassportError as problem:
        raise Refused(str(problem)) from None
    finally:
        if opened:
            directory().close(opened)


def _compare(passport: Passport, claimed: Passport) -> None:
    """Refuse what no driver notices, or dies of."""
    assert claimed.place is not None
    for problem in passport.problems(claimed.place):
        raise Refused(problem)
    for what, there, here in (
        ("handle type", passport.handle_type, claimed.handle_type),
        ("allocationSize", passport.allocation_size, claimed.allocation_size),
        ("memoryTypeIndex", passport.memory_type, claimed.memory_type),
        ("dedication", passport.dedicated, claimed.dedicated),
    ):
        if there != here:
            raise Refused(f"its {what} is {there}, and the import says {here}")


def _terms_of(item: Any) -> Terms:
    if item is None:
        return Terms()
    security = security_of(item.pAttributes[0]) if item.pAttributes else None
    return Terms(item.name or None, int(item.dwAccess), security)


def _export_as_fd(item: Any) -> Any:
    return s.VkExportMemoryAllocateInfo(handleTypes=to_fd(item.handleTypes))


def _export_without_windows(item: Any) -> Any:
    types = item.handleTypes & ~WINDOWS
    return s.VkExportMemoryAllocateInfo(handleTypes=types) if types else None


def _nothing(item: Any) -> None:
    return None


def _name_of(number: int) -> str:
    return f"Local\\extmem-kmt-{number}"


def _identity_of(handle: int) -> int:
    try:
        return directory().info(handle).identity
    except OSError:
        return 0


def _descriptor(get_fd: Command, device: int, memory: int) -> int:
    """One of the driver's descriptors of a memory object."""
    box = c_int32(-1)
    result = int(get_fd(device, s.VkMemoryGetFdInfoKHR(memory=memory, handleType=FD), box))
    if result or box.value < 0:
        raise OSError(f"the driver gave no descriptor of its memory ({result})")
    posix.set_private(box.value)
    return box.value


def _result_of(problem: OSError) -> int:
    code = winerror.code_of(problem)
    if code in _NO_MORE or problem.errno in (errno.EMFILE, errno.ENFILE):
        return int(c.VK_ERROR_TOO_MANY_OBJECTS)
    return _INVALID
