"""Payloads that other processes have as well: a word in a page of its own.

The page begins with what a handle cannot tell: whether it is a semaphore or a fence, which device
made it, as what it was exported. It lies in a memfd behind a file descriptor, or in a section where
it goes by a Windows handle, a name or a KMT number; those behave as they do for memory
(`sections.py`), with one difference: what was imported can be exported again without having been
asked for, so an import by an NT handle keeps a handle, and with it the name.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import sys
import threading
import time
from dataclasses import replace

from extmem.drivers.embedded import sections
from extmem.drivers.embedded.limits import DRIVER_UUID, FORMAT_VERSION
from extmem.drivers.embedded.objects import Failure
from extmem.drivers.embedded.payload import Source, Terms, refused
from extmem.drivers.embedded.signals import Signal
from extmem.drivers.embedded.titles import D3D12_FENCE, TITLE_SIZE, Title
from extmem.handles import memfd, winerror
from extmem.handles.kernel import ACCESS_ALL, ACCESS_READ, ACCESS_WRITE
from extmem.handles.system import kernel
from extmem.handles.words import Pages, Word
from extmem.vk import _constants as c

__all__ = [
    "PAGE",
    "Shared",
    "create_fd",
    "create_kmt",
    "create_nt",
    "get_fd",
    "get_kmt",
    "get_nt",
    "is_stale",
    "open_fd",
    "open_handle",
    "page_of",
    "page_of_descriptor",
]

PAGE = 4096
_STALE_OFFSET = 1024
_WORD_OFFSET = 2048
_BOTH = ACCESS_READ | ACCESS_WRITE
_ASK = 0.1  # seconds between two questions whether the owner of a number still lives

# For the few words that two threads could want at once; never held while anything waits.
_lock = threading.Lock()


class Shared(Signal):
    """A word that several processes signal and wait for."""

    word: Word

    def __init__(self, pages: Pages, title: Title, counts: bool, forward: bool) -> None:
        super().__init__(counts=counts, types=title.handle_type)
        self._forward = forward  # a timeline here; D3D12's own fences may go back
        pages.identity = title.identity
        pages.prefix = "Global\\" if title.everywhere else "Local\\"
        self.title = title
        self.word = Word(pages, _WORD_OFFSET)
        self._pages: Pages | None = pages
        self._stale = ctypes.c_uint32.from_address(pages.address + _STALE_OFFSET)
        self.handle = 0  # of its section: ours to give away or to close
        self.first = 0  # the one that was given away
        self.first_access = 0
        self.inherit = False
        self.owner = False  # of the number
        self.epoch = kernel().epoch if title.kmt else b""
        self._ask_again = 0.0
        self._gone = False

    # -- the word -------------------------------------------------------------------------------

    def value(self) -> int:
        return self.word.value

    def signal(self, value: int) -> None:
        if self._forward:
            self._check(value)
        self._put(value if self.counts else 1)

    def reset(self) -> None:
        if not self.counts:
            self._put(0)

    def _put(self, value: int) -> None:
        # A semaphore has one signaller at a time, and a binary one then one waiter: no lock.
        try:
            self.word.put(value)
        except PermissionError:
            why = "it was imported through a handle that grants waiting alone"
            raise Failure(c.VK_ERROR_VALIDATION_FAILED, why) from None

    # -- its life -------------------------------------------------------------------------------

    def require(self) -> None:
        if self.stale:
            why = "it was imported by a KMT number whose owner is gone"
            raise Failure(c.VK_ERROR_VALIDATION_FAILED, why)

    @property
    def asks(self) -> bool:
        return bool(self.title.kmt) and not self.owner

    @property
    def stale(self) -> bool:
        """Whether the number that it was imported by has lost its owner."""
        if not self.title.kmt or self.owner:
            return False
        pages = self._pages  # held while we look
        if pages is None or self._stale.value:
            return True
        # An owner that was killed has said nothing, but its section is gone from the namespace,
        # unless that itself has begun anew. To ask takes long, beside a signal.
        now = time.monotonic()
        if now >= self._ask_again:
            self._ask_again = now + _ASK
            self._gone = not sections.is_held(self.title.kmt) and self.epoch == kernel().epoch
        return self._gone

    def close(self) -> None:
        with _lock:
            pages, self._pages = self._pages, None
            handle, self.handle = self.handle, 0
        if pages is None:
            return
        if self.owner:
            # First the word, then the name: whoever opens it in between reads the word.
            self._stale.value = 1
        self.word.close()
        if handle:
            kernel().let_go(handle)

    def descriptor_again(self) -> int:
        """One more descriptor of its memfd, with an open file of its own."""
        pages = self._pages
        if pages is None or sys.platform == "win32":
            raise Failure(c.VK_ERROR_UNKNOWN, "this payload has no descriptor")
        fd = os.open(f"/proc/self/fd/{pages.descriptor}", os.O_RDWR | os.O_CLOEXEC)
        return _not_standard(fd)


# -- made here ----------------------------------------------------------------------------------


def _begin(pages: Pages, title: Title, value: int, counts: bool) -> Shared:
    title = replace(title, identity=secrets.token_bytes(16))
    made = Shared(pages, title, counts, title.timeline)
    if value:
        made.word.put(value)
    # Last, because an importer takes nothing without it.
    pages.put(0, title.pack())
    return made


def create_fd(title: Title, value: int, counts: bool, terms: Terms) -> Shared:
    """A payload in a memfd."""
    if sys.platform == "win32":
        raise NotImplementedError
    fd = memfd.make(PAGE)
    try:
        os.fchmod(fd, 0o666)  # whoever gets a descriptor may wait and signal, whichever user he is
        return _begin(Pages.of_descriptor(fd, PAGE), title, value, counts)
    finally:
        os.close(fd)


def _create_section(title: Title, value: int, counts: bool, terms: Terms) -> Shared:
    name = terms.name or None
    try:
        handle = kernel().create_section(
            PAGE, name=name, access=ACCESS_ALL, security=terms.security
        )
    except OSError as problem:
        found = sections.failure_of(problem)
        if winerror.code_of(problem) in sections.TAKEN and isinstance(found, Failure):
            raise sections.Taken(found.result, str(found)) from None
        raise found from None
    try:
        pages = Pages.of_section(handle, PAGE, identity=b"", security=terms.security)
        everywhere = bool(name) and str(name).startswith("Global\\")
        made = _begin(pages, replace(title, everywhere=everywhere), value, counts)
    except (OSError, ValueError) as problem:
        kernel().let_go(handle)
        raise _failure(problem) from None
    made.handle = handle
    return made


def create_nt(title: Title, value: int, counts: bool, terms: Terms) -> Shared:
    """A payload in a section that goes by NT handles. Its name is given here; see `sections.py`."""
    made = _create_section(title, value, counts, terms)
    made.inherit = terms.security is not None and terms.security.inherit
    access = _BOTH if terms.access is None else section_access(terms.access)
    try:
        own, made.handle = made.handle, 0
        try:
            made.handle = kernel().duplicate(own, access=access, inherit=made.inherit)
        finally:
            kernel().let_go(own)
    except OSError as problem:
        made.close()
        raise sections.failure_of(problem) from None
    return made


def create_kmt(title: Title, value: int, counts: bool, terms: Terms) -> Shared:
    """A payload in a section with a number, held by its name."""
    last: Exception | None = None
    for number in sections.numbers():
        try:
            made = _create_section(
                replace(title, kmt=number),
                value,
                counts,
                Terms(sections.name_of(number)),
            )
        except sections.Taken as problem:
            last = problem
            continue
        made.owner = True
        return made
    assert last is not None
    raise last


def section_access(access: int) -> int:
    """What a handle of a semaphore or fence may do, as rights of the section behind it.

    SYNCHRONIZE is to wait, which is to read; whatever changes the state is to write, for which one
    has to read as well.
    """
    waits = access & (0x8000_0000 | 0x1000_0000 | 0x0010_0000 | 0x0200_0000)
    signals = access & (0x4000_0000 | 0x1000_0000 | 0x0200_0000 | 0x3)
    return _BOTH if signals else ACCESS_READ if waits else 0


# -- given away ---------------------------------------------------------------------------------


def get_fd(payload: Shared) -> int:
    """One more descriptor, which the caller owns."""
    return payload.descriptor_again()


def get_kmt(payload: Shared) -> int:
    """The number: the same each time, and nothing to close."""
    payload.require()
    if payload.epoch != kernel().epoch:
        raise Failure(c.VK_ERROR_UNKNOWN, "the directory ended that knew its number")
    return payload.title.kmt


def get_nt(payload: Shared) -> int:
    """One more NT handle, which the caller owns: first our own, then duplicates of that one."""
    try:
        with _lock:
            handle = payload.handle
            if handle:
                payload.first_access = kernel().info(handle).access
                payload.handle, payload.first = 0, handle
                return handle
        handle = payload.first
        title = title_of(handle) if handle else None
        # The number may be another handle's by now, also one of the same payload.
        if (
            title is None
            or title.identity != payload.title.identity
            or kernel().info(handle).access != payload.first_access
        ):
            why = "the handle that was fetched before is closed, and it was the only one"
            raise Failure(c.VK_ERROR_UNKNOWN, why)
        return kernel().duplicate(handle, inherit=payload.inherit)
    except OSError as problem:
        found = sections.failure_of(
            problem,
            memory=c.VK_ERROR_OUT_OF_HOST_MEMORY,
            handles=c.VK_ERROR_TOO_MANY_OBJECTS,
        )
        if isinstance(found, Failure) and found.result == c.VK_ERROR_INVALID_EXTERNAL_HANDLE:
            found = Failure(c.VK_ERROR_UNKNOWN, str(problem))  # nothing external was given
        raise found from None


# -- taken in -----------------------------------------------------------------------------------


def _failure(problem: OSError | ValueError) -> Exception:
    if isinstance(problem, OSError):
        return sections.failure_of(
            problem, memory=c.VK_ERROR_OUT_OF_HOST_MEMORY, handles=c.VK_ERROR_OUT_OF_HOST_MEMORY
        )
    return refused(str(problem))


def _accept(pages: Pages, asked: Title, counts: bool) -> Shared:
    """A payload over pages from elsewhere; refused unless they are what was asked for."""
    found = Title.of(pages.copy(0, TITLE_SIZE))
    if found is None or (found.driver, found.version) != (DRIVER_UUID, FORMAT_VERSION):
        raise refused("this was not shared by this version of the device")
    # What D3D12 made can be a semaphore of either type. Its flags are not Vulkan's.
    own = found.handle_type == asked.handle_type and found.handle_type != D3D12_FENCE
    wanted = replace(
        asked,
        timeline=asked.timeline if own else found.timeline,
        flags=asked.flags if own else found.flags,
        everywhere=found.everywhere,
        identity=found.identity,
    )
    if found != wanted:
        raise refused(f"this is {found}, and not {wanted}")
    if not pages.writable and not counts:
        raise refused("a wait changes it, and this handle grants waiting alone")
    return Shared(pages, found, counts, asked.timeline)


def open_fd(source: Source, asked: Title, counts: bool) -> Shared:
    """A payload from a descriptor, which it takes if it is one."""
    try:
        shared = _accept(Pages.of_descriptor(source.handle, PAGE), asked, counts)
    except (OSError, ValueError) as problem:
        raise _failure(problem) from None
    os.close(source.handle)
    return shared


def open_handle(source: Source, asked: Title, counts: bool, *, kmt: bool) -> Shared:
    """A payload from an NT handle, a name or a KMT number. The handle stays the application's."""
    handle = 0
    try:
        handle = sections.obtain(source, kmt)
        inherit = bool(kernel().flags(handle) & 1)
        pages = Pages.of_section(handle, PAGE, identity=b"")
        shared = _accept(pages, replace(asked, kmt=source.handle if kmt else 0), counts)
    except BaseException as problem:
        if handle:
            kernel().let_go(handle)
        if isinstance(problem, (OSError, ValueError)):
            raise _failure(problem) from None
        raise
    if kmt:
        kernel().let_go(handle)
        if shared.stale:
            shared.close()
            raise refused("the owner of this number is gone")
    else:
        shared.handle, shared.inherit = handle, inherit
    return shared


# -- asked about --------------------------------------------------------------------------------


def page_of(handle: int) -> bytes:
    """A copy of the page of a section. OSError or ValueError if it has none that can be read."""
    return Pages.of_section(handle, PAGE, identity=b"").copy(0, PAGE)


def page_of_descriptor(fd: int) -> bytes:
    """The same of a memfd."""
    return Pages.of_descriptor(fd, PAGE).copy(0, PAGE)


def title_of(handle: int) -> Title | None:
    """What the section of a handle says of itself; None where there is nothing to read."""
    try:
        return Title.of(page_of(handle))
    except (OSError, ValueError):
        return None


def is_stale(page: bytes) -> bool:
    """Whether the owner of a number has said that it is gone."""
    return any(page[_STALE_OFFSET : _STALE_OFFSET + 4])


def _not_standard(fd: int) -> int:
    """The same descriptor from 3 upwards, for programs that closed their standard streams."""
    if sys.platform == "win32" or fd > 2:
        return fd
    import fcntl

    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)
