"""Payloads in section objects: what Windows' handles carry, with the same meaning on Linux.

`extmem.handles.system.kernel` has the sections: Windows' own, or those of a table in this process.
A section's name is fixed when it is made and goes with its last *handle*, while a view keeps the
pages alone. So an exporter maps a view and gives the section's own handle away with the first get;
an importer maps a view and closes its handle.

A KMT number has no handle and no reference: number N is the section `Local\\extmem-kmt-N`, which
the owner alone holds. When the owner's memory is freed, a word in the first page says so, and what
was imported by the number is stale from then on: its pages stay, because no system can take them
back safely, but nothing can be begun with it any more.
"""

from __future__ import annotations

import ctypes
import errno
import secrets
import threading
from collections.abc import Iterator
from dataclasses import replace
from struct import Struct

from extmem.drivers.driver import HandleOrigin
from extmem.drivers.embedded.keyed_mutex import KeyedMutex
from extmem.drivers.embedded.labels import (
    LABEL_OFFSET,
    Label,
    check_import,
    origin_of_page,
    read_page,
)
from extmem.drivers.embedded.objects import Failure
from extmem.drivers.embedded.payload import HEADER_SIZE, Contents, Payload, Source, Terms, refused
from extmem.handles import winerror
from extmem.handles.kernel import ACCESS_ALL, ACCESS_READ, ACCESS_WRITE, Security
from extmem.handles.system import kernel
from extmem.vk import _constants as c

__all__ = [
    "TAKEN",
    "Section",
    "Taken",
    "create_kmt",
    "create_nt",
    "failure_of",
    "get_kmt",
    "get_nt",
    "is_held",
    "label_of",
    "make",
    "make_kmt",
    "name_of",
    "narrow",
    "numbers",
    "obtain",
    "open_section",
    "origin_of",
]

_BOTH = ACCESS_READ | ACCESS_WRITE
_STALE_OFFSET = 1024  # a word that the owner of a KMT number sets when it goes
_STAMP_OFFSET = 2048  # a word with a length, and so many bytes of the exporter's passport
_WORD = Struct("I")

# Windows' numbers for "no more of it": memory, the commit limit; files, handles.
_NO_MEMORY = (8, 14, 1455)
_NO_HANDLES = (4, 1450)
_DENIED = 5

# A name that cannot be given, because it is somebody's already: there is one; it is not for us to
# open; it is of another kind.
TAKEN = (183, 5, 6)

# For the few words that two threads could want at once; never held while anything waits.
_lock = threading.Lock()


class Taken(Failure):
    """Somebody has the name."""


def failure_of(
    problem: OSError,
    *,
    memory: int = c.VK_ERROR_OUT_OF_DEVICE_MEMORY,
    handles: int = c.VK_ERROR_OUT_OF_HOST_MEMORY,
) -> Exception:
    """What Vulkan says for an error of the system: not each command has a code for each."""
    code = winerror.code_of(problem)
    if code in _NO_MEMORY or code in _NO_HANDLES:
        return Failure(memory if code in _NO_MEMORY else handles, str(problem))
    if code is None and problem.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        return problem
    return refused(str(problem))


class Section(Payload):
    """A mapped section. It holds a handle only where it has one to give away, or owns a number."""

    __slots__ = (
        "_gone",
        "_writable",
        "epoch",
        "first",
        "first_access",
        "handle",
        "label",
        "mapped",
        "mutex",
        "owner",
        "terms",
    )

    def __init__(
        self, base: int, mapped: int, size: int, label: Label, *, handle: int, writable: bool = True
    ) -> None:
        super().__init__(base + HEADER_SIZE, size, None)
        self.mapped = mapped  # bytes, with the header
        self.label = label
        self.handle = handle  # ours to give away or to close, 0 if none
        self._writable = writable
        self.terms = Terms()
        self.first = 0  # the handle that was given away
        self.first_access = 0  # what it granted, in the kernel's bits
        self.owner = False  # of the number
        self.mutex: KeyedMutex | None = None  # of a texture that was made with one
        self.epoch = kernel().epoch  # of which life of the kernel its handle, name and number are
        self._gone = False

    @property
    def writable(self) -> bool:
        """Whether the handle that it was imported through granted more than reading."""
        return self._writable

    @property
    def stale(self) -> bool:
        """Whether the number that this was imported by has lost its owner."""
        if not self.label.kmt or self.owner or self._gone:
            return self._gone
        with _lock:
            if self.address:
                self._gone = _is_stale(self.address - HEADER_SIZE)
        # An owner that was killed has said nothing, but its section is gone from the namespace. A
        # namespace that has begun anew tells nothing of it: what was imported before stays.
        if not self._gone and not is_held(self.label.kmt):
            self._gone = not self.cut_off
        return self._gone

    @property
    def cut_off(self) -> bool:
        """Whether the kernel that had its handle, name and number is known to have ended."""
        return self.epoch != kernel().epoch

    def close(self) -> None:
        with _lock:
            address, self.address = self.address, 0
            handle, self.handle = self.handle, 0
            if not address:
                return
            base = address - HEADER_SIZE
            mutex, self.mutex = self.mutex, None
            if mutex is not None:
                mutex.close()
            if self.owner:
                # First the word, then the name: whoever opens it in between reads the word.
                ctypes.c_uint32.from_address(base + _STALE_OFFSET).value = 1
            try:
                if handle:
                    kernel().let_go(handle)
            finally:
                kernel().unmap_section(base, self.mapped)


def name_of(number: int) -> str:
    return f"Local\\extmem-kmt-{number}"


def _is_stale(base: int) -> bool:
    return bool(ctypes.c_uint32.from_address(base + _STALE_OFFSET).value)


def is_held(number: int) -> bool:
    try:
        handle = kernel().open_section(name_of(number), ACCESS_READ)
    except OSError as problem:
        return winerror.code_of(problem) not in (2, 6)
    kernel().let_go(handle)
    return True


# -- made here ----------------------------------------------------------------------------------


def make(
    contents: Contents, label: Label, name: str | None = None, security: Security | None = None
) -> Section:
    """A new section, mapped and labelled, with its only handle."""
    label = replace(label, identity=secrets.token_bytes(16))
    mapped = HEADER_SIZE + contents.size
    try:
        handle = kernel().create_section(mapped, name=name, access=ACCESS_ALL, security=security)
    except OSError as problem:
        found = failure_of(problem)
        if winerror.code_of(problem) in TAKEN and isinstance(found, Failure):
            raise Taken(found.result, str(found)) from None
        raise found from None
    try:
        base = kernel().map_section(handle, mapped)
    except OSError as problem:
        kernel().let_go(handle)
        raise failure_of(problem) from None
    packed = label.pack()
    ctypes.memmove(base + LABEL_OFFSET, packed, len(packed))
    # Last, because an importer takes nothing without it.
    header = contents.header()
    ctypes.memmove(base, header, len(header))
    section = Section(base, mapped, contents.size, label, handle=handle)
    if label.keyed_mutex:
        try:
            section.mutex = KeyedMutex.of_section(handle, HEADER_SIZE, label.identity)
        except OSError as problem:
            section.close()
            raise failure_of(problem) from None
    return section


def narrow(section: Section, access: int, security: Security | None) -> None:
    """Have the section's own handle grant this and nothing else."""
    own = section.handle
    inherit = security is not None and security.inherit
    section.handle = kernel().duplicate(own, access=access, inherit=inherit)
    kernel().let_go(own)


def numbers() -> Iterator[int]:
    """Numbers to try for something that goes by one."""
    for _ in range(100):
        # Even and no multiple of four, so that it can never be taken for an NT handle.
        yield 0x4000_0000 | secrets.randbits(26) << 2 | 2


def make_kmt(contents: Contents, label: Label) -> Section:
    """A new section with a number, held by its name."""
    for number in numbers():
        try:
            section = make(contents, replace(label, kmt=number), name_of(number))
        except Taken as problem:
            last = problem
            continue
        section.owner = True
        return section
    raise last


def create_nt(contents: Contents, terms: Terms) -> Payload:
    """A payload for OPAQUE_WIN32.

    The name is given here and not with the first get: a section gets its name when it is made. That
    also lets a name that is taken be refused early, by vkAllocateMemory, which knows
    VK_ERROR_INVALID_EXTERNAL_HANDLE; vkGetMemoryWin32HandleKHR has no fitting code. The same is
    said for a name that cannot be, and for rights or attributes that the system does not take.
    """
    section = make(contents, Label(), terms.name or None, terms.security)
    section.terms = terms
    try:
        # What an application says is used as it is. Where it says nothing, KHR demands what reads
        # and writes, and NV names the same two words.
        narrow(section, _BOTH if terms.access is None else terms.access, terms.security)
    except OSError as problem:
        section.close()
        raise failure_of(problem) from None
    return section


def create_kmt(contents: Contents, terms: Terms) -> Payload:
    """A payload for OPAQUE_WIN32_KMT. Attributes, access and names belong to NT handles."""
    return make_kmt(contents, Label())


# -- given away ---------------------------------------------------------------------------------


def get_nt(payload: Payload) -> int:
    """One more NT handle, which the caller owns.

    KHR's first get gives the section's own handle, so that the name ends when the application has
    closed it. Another get of the same memory is undefined there; here it is a duplicate of the
    first, as long as that is open. NV has neither names nor that rule: there our own handle stays,
    and each get duplicates it.
    """
    assert isinstance(payload, Section)
    inherit = payload.terms.security is not None and payload.terms.security.inherit
    try:
        with _lock:
            handle = payload.handle
            if handle and not payload.terms.nv:
                payload.first_access = kernel().info(handle).access
                payload.handle, payload.first = 0, handle
                return handle
        if not handle:
            handle = payload.first
            page = _page_of(handle) if handle else None
            label = Label.of(page) if page else None
            # The number may be another handle's by now, also one of the same payload.
            if (
                label is None
                or label.identity != payload.label.identity
                or kernel().info(handle).access != payload.first_access
            ):
                why = "the handle that was fetched before is closed, and it was the only one"
                raise Failure(c.VK_ERROR_UNKNOWN, why)
        return kernel().duplicate(handle, inherit=inherit)
    except OSError as problem:
        found = failure_of(
            problem,
            memory=c.VK_ERROR_OUT_OF_HOST_MEMORY,
            handles=c.VK_ERROR_TOO_MANY_OBJECTS,
        )
        if isinstance(found, Failure) and found.result == c.VK_ERROR_INVALID_EXTERNAL_HANDLE:
            found = Failure(c.VK_ERROR_UNKNOWN, str(problem))  # nothing external was given
        raise found from None


def get_kmt(payload: Payload) -> int:
    """The number: the same each time, and nothing to close."""
    assert isinstance(payload, Section)
    if payload.stale:
        raise Failure(c.VK_ERROR_VALIDATION_FAILED, "this memory was imported by a stale number")
    number = payload.label.kmt
    try:
        kernel().let_go(kernel().open_section(name_of(number), ACCESS_READ))
    except OSError as problem:
        if winerror.code_of(problem) != _DENIED:
            raise Failure(c.VK_ERROR_UNKNOWN, str(problem)) from None
    if payload.cut_off:
        raise Failure(c.VK_ERROR_UNKNOWN, "the directory ended that knew its number")
    return number


# -- taken in -----------------------------------------------------------------------------------


def _map(handle: int, size: int) -> tuple[int, bool]:
    """Map a section to read and write, or to read where its handle allows no more."""
    try:
        return kernel().map_section(handle, size, write=True), True
    except OSError as problem:
        if winerror.code_of(problem) != _DENIED:
            raise
    return kernel().map_section(handle, size, write=False), False


def _page_of(handle: int) -> bytes | None:
    """A copy of a section's first page; empty if the handle is of no section that has one, None if
    it does not allow to read.
    """
    try:
        if kernel().info(handle).type_name != "Section":
            return b""
        if kernel().section_size(handle) < HEADER_SIZE:
            return b""
        base, _ = _map(handle, HEADER_SIZE)
    except OSError:
        return None
    page = ctypes.string_at(base, HEADER_SIZE)
    kernel().unmap_section(base, HEADER_SIZE)
    return page


def obtain(source: Source, kmt: bool) -> int:
    """A handle of our own of what is imported."""
    if (source.name is None) == (not source.handle):
        raise refused("an import takes a handle or a name, and not both")
    if kmt:
        if source.name is not None or source.handle >> 32:
            raise refused("a KMT handle is a number of 32 bits, and has no name")
        return _open_name(name_of(source.handle))
    if source.name is not None:
        if not source.name:
            raise refused("an empty name")
        return _open_name(source.name)
    return kernel().duplicate(source.handle)


def _open_name(name: str) -> int:
    """A handle of a named section, with as much as its access rights allow of what we can use."""
    try:
        return kernel().open_section(name, _BOTH)
    except OSError as problem:
        if winerror.code_of(problem) != _DENIED:
            raise
    return kernel().open_section(name, ACCESS_READ)


def page_of(source: Source, kmt: bool) -> bytes | None:
    """The first page of what a handle or name stands for, as `_page_of` says it."""
    try:
        handle = obtain(source, kmt)
    except OSError as problem:
        raise failure_of(problem, memory=c.VK_ERROR_OUT_OF_HOST_MEMORY) from None
    try:
        return _page_of(handle)
    finally:
        kernel().let_go(handle)


def label_of(source: Source, kind: int, kmt: bool) -> tuple[Label, Contents]:
    """What a handle or name stands for; refused unless it is of this kind."""
    page = page_of(source, kmt)
    if not page:
        raise refused("this handle is of no section that was shared here")
    return read_page(page, kind, source.handle if kmt else 0)


def origin_of(source: Source, kmt: bool) -> HandleOrigin | None:
    """Where a handle or name comes from, as far as it can be told; never an error."""
    try:
        page = page_of(source, kmt)
    except Failure as problem:
        # Whatever there is no more of at the moment says nothing of the handle.
        refused_it = problem.result == c.VK_ERROR_INVALID_EXTERNAL_HANDLE
        return HandleOrigin(types=0) if refused_it else None
    except (OSError, ValueError, OverflowError):
        return None
    if page is None:
        return None
    if not page:
        return HandleOrigin(types=0)
    (word,) = _WORD.unpack_from(page, _STALE_OFFSET)
    return origin_of_page(page, source.handle if kmt else 0, kmt and bool(word))


def stamp(payload: Payload, passport: bytes) -> None:
    """Lay a passport into the first page, where every importer finds it."""
    if not isinstance(payload, Section) or not payload.writable or not payload.address:
        return
    if len(passport) > HEADER_SIZE - _STAMP_OFFSET - _WORD.size:
        raise ValueError(f"a passport of {len(passport)} bytes has no room in the first page")
    start = payload.address - HEADER_SIZE + _STAMP_OFFSET
    ctypes.memmove(start + _WORD.size, passport, len(passport))
    # Last, because nothing is read without it.
    ctypes.memmove(start, _WORD.pack(len(passport)), _WORD.size)


def stamped(source: Source, kmt: bool) -> bytes:
    """The passport in the first page, as it is; b"" if there is none."""
    try:
        page = page_of(source, kmt)
    except (Failure, OSError, ValueError, OverflowError):
        return b""
    # Pages of semaphores and fences have other things in that place.
    if not page or Label.of(page) is None:
        return b""
    (length,) = _WORD.unpack_from(page, _STAMP_OFFSET)
    start = _STAMP_OFFSET + _WORD.size
    return page[start : start + length] if length <= len(page) - start else b""


def open_section(
    contents: Contents, source: Source, again: Terms | None, *, kind: int, kmt: bool = False
) -> Payload:
    """A payload from an NT handle, a name or a KMT number. The handle stays the application's."""
    if again is not None and again.name:
        raise refused("imported memory has the name that its exporter gave it, or none")
    handle = base = size = 0
    try:
        handle = obtain(source, kmt)
        if kernel().info(handle).type_name != "Section":
            raise refused("this handle is no section")
        size = kernel().section_size(handle)
        if size < HEADER_SIZE:
            raise refused("this section is too small to have been shared here")
        base, writable = _map(handle, size)
        # A copy: its maker may write there at any time.
        page = ctypes.string_at(base, HEADER_SIZE)
        label, found = read_page(page, kind, source.handle if kmt else 0)
        check_import(label, found, contents, source.nv)
        if found.size > size - HEADER_SIZE:
            raise refused(f"a section of {size} bytes cannot hold {found.size}")
        if kmt and _is_stale(base):
            raise refused("the owner of this number is gone")
        section = Section(base, size, found.size, label, handle=handle, writable=writable)
        if label.keyed_mutex:
            section.mutex = KeyedMutex.of_section(handle, HEADER_SIZE, label.identity)
        if kmt or again is None:
            section.handle = 0
            kernel().let_go(handle)
            handle = 0
        else:
            section.terms = again
            if again.access is not None or again.security is not None:
                narrow(section, _granted(again, writable), again.security)
        return section
    except BaseException as problem:
        if base:
            kernel().unmap_section(base, size)
        if handle:
            kernel().let_go(handle)
        if isinstance(problem, OSError):
            raise failure_of(problem) from None
        if isinstance(problem, ValueError):
            raise refused(str(problem)) from None
        raise


def _granted(again: Terms, writable: bool) -> int:
    return again.access if again.access is not None else _BOTH if writable else ACCESS_READ
