"""Windows' kernel calls without Windows: handles, names, access rights and sections of one process.

The handles of this kernel mean something in this process alone, its names too. Other processes
come in with a service that owns the objects (`extmem.handles.objects`) of all of them.
"""

from __future__ import annotations

import errno
import operator
import os
import threading

from extmem.handles import memfd, names, sddl, winerror
from extmem.handles.access import (
    MAXIMUM_ALLOWED,
    PROCESS_DUP_HANDLE,
    SECTION,
    SECTION_FULL,
    SECTION_MAP_READ,
    SECTION_MAP_WRITE,
    SECTION_QUERY,
    section_bits,
)
from extmem.handles.kernel import ACCESS_ALL, ObjectInfo, Security
from extmem.handles.objects import Entry, HandleTable, KernelObject, Process, Section
from extmem.handles.sddl import User
from extmem.handles.winerror import failure

__all__ = ["TableKernel"]

_INHERIT, _PROTECT_FROM_CLOSE = 1, 2
_LARGEST = 1 << 47  # bytes: what a process can map; Linux would make files that are larger
_THIS_PROCESS = (-1, (1 << 64) - 1)  # the pseudo-handle, as Python's or C's number

# What making pages can fail with, by Windows' number.
_NO_MEMORY = {errno.ENOMEM, errno.EFBIG, errno.ENOSPC, errno.EINVAL, errno.EOVERFLOW}


class TableKernel:
    """`extmem.handles.kernel.Kernel` for one process. Safe to use from several threads."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        # A finaliser may close a handle while this thread is in here already.
        self._lock = threading.RLock()
        self._table = HandleTable()
        self._names: names.Namespace[KernelObject] = names.Namespace()
        self._views: dict[int, int] = {}  # sizes by address
        everyone_here = sddl.parse(None, User.current(), named=True)
        self._process = Process(self._pid, everyone_here)

    def _mine(self) -> threading.RLock:
        """The lock, if this is the process that the handles belong to."""
        if os.getpid() != self._pid:
            raise failure(
                winerror.INVALID_HANDLE,
                "Windows handles cannot be used in a process that was forked",
                f"they belong to process {self._pid}; start processes anew, with multiprocessing's "
                "spawn or forkserver, and pass them what they need",
            )
        return self._lock

    # -- sections -------------------------------------------------------------------------------

    def create_section(
        self,
        size: int,
        *,
        name: str | None = None,
        access: int = ACCESS_ALL,
        security: Security | None = None,
    ) -> int:
        """Make a section; its first handle."""
        asked = f"cannot make section {name!r} of {size} bytes"
        security = security or Security()
        if not 0 < size < 1 << 63:
            raise failure(winerror.INVALID_PARAMETER, asked, "its size is not a number of bytes")
        if size > _LARGEST:
            raise failure(winerror.NOT_ENOUGH_MEMORY, asked)
        name = names.checked(name)
        full_name = None if name is None else names.canonical(name)
        user = User.current()
        descriptor = sddl.parse(security.descriptor, user, named=full_name is not None)
        bits = section_bits(access)
        with self._mine():
            if full_name is not None:
                self._refuse_taken(full_name, user, asked)
            try:
                section = Section(size, descriptor, full_name)
            except OSError as error:
                raise _no_pages(error, asked) from None
            bits = SECTION_FULL if bits & MAXIMUM_ALLOWED else bits & SECTION_FULL
            return self._insert(section, bits, security.inherit)

    def _refuse_taken(self, full_name: str, user: User, asked: str) -> None:
        other = self._names.find(full_name)
        if other is None:
            return
        if other.kind is not SECTION:
            why = f"the name belongs to an object of another kind, {other.kind.name}"
            raise failure(winerror.INVALID_HANDLE, asked, why)
        if SECTION_FULL & ~other.security.allowed(user, SECTION):
            why = "the name is taken, and its owner does not admit us"
            raise failure(winerror.ACCESS_DENIED, asked, why)
        raise failure(winerror.ALREADY_EXISTS, asked)

    def open_section(self, name: str, access: int = ACCESS_ALL) -> int:
        """A handle of a named section."""
        asked = f"cannot open section {name!r}"
        if not names.checked(name):
            raise failure(winerror.INVALID_PARAMETER, asked, "the name is empty")
        full_name, user = names.canonical(name), User.current()
        with self._mine():
            found = self._names.find(full_name)
            if found is None:
                raise failure(winerror.FILE_NOT_FOUND, asked)
            if found.kind is not SECTION:
                why = f"the name belongs to an object of another kind, {found.kind.name}"
                raise failure(winerror.INVALID_HANDLE, asked, why)
            bits = _granted(found, section_bits(access), user, asked)
            return self._insert(found, bits, False)

    def section_size(self, handle: int) -> int:
        """How large a section is, in bytes: whole pages."""
        with self._mine():
            return self._section(handle, SECTION_QUERY, "ask for its size").size

    def map_section(self, handle: int, size: int, *, write: bool = True) -> int:
        """Map a section from its start; the address."""
        with self._mine():
            what = "write to it" if write else "read it"
            needed = SECTION_MAP_WRITE if write else SECTION_MAP_READ
            section = self._section(handle, needed, what)
            asked = f"cannot map {size} bytes of the section of handle {handle:#x}"
            if size <= 0:
                raise failure(winerror.INVALID_PARAMETER, asked, "a view has at least one byte")
            if size > section.size:
                why = f"it has {section.size} bytes"
                raise failure(winerror.ACCESS_DENIED, asked, why)
            try:
                address = section.view(size, write)
            except OSError as error:
                raise _no_pages(error, asked) from None
            self._views[address] = size
            return address

    def unmap_section(self, address: int, size: int) -> None:
        """Take a view away. Its size is known; `size` is not looked at, as on Windows."""
        with self._mine():
            known = self._views.pop(address, None)
            if known is None:
                asked = f"cannot unmap the view at {address:#x}"
                raise failure(winerror.INVALID_ADDRESS, asked)
            memfd.unmap_pages(address, known)

    # -- handles --------------------------------------------------------------------------------

    def close(self, handle: int) -> None:
        """Close a handle. The pseudo-handle of this process stays."""
        with self._mine():
            entry = self._entry(handle)
            if entry.object is self._process and operator.index(handle) in _THIS_PROCESS:
                return
            if entry.flags & _PROTECT_FROM_CLOSE:
                asked = f"cannot close handle {handle:#x}"
                raise failure(winerror.INVALID_HANDLE, asked, "it is protected from being closed")
            self._remove(handle)

    def duplicate(
        self,
        handle: int,
        *,
        access: int | None = None,
        inherit: bool = False,
        source: int | None = None,
        target: int | None = None,
        close_source: bool = False,
    ) -> int:
        """A handle in the target process, of the object in the source process.

        More rights than the handle has are given only to who could open the object with them.
        `close_source` closes the handle even if this fails then, as on Windows.
        """
        asked = f"cannot duplicate handle {handle:#x}"
        with self._mine():
            self._require_this_process(source, asked)
            entry = self._entry(handle)
            try:
                self._require_this_process(target, asked)
                bits = entry.access
                if access is not None:
                    kind = entry.object.kind
                    bits = section_bits(access) if kind is SECTION else kind.bits(access)
                    if bits & ~entry.access:
                        bits = _granted(entry.object, bits, User.current(), asked)
                return self._insert(entry.object, bits, inherit)
            finally:
                if close_source and not entry.flags & _PROTECT_FROM_CLOSE:
                    self.close(handle)

    def info(self, handle: int) -> ObjectInfo:
        """What is known of an open handle."""
        with self._mine():
            entry = self._entry(handle)
            item = entry.object
            return ObjectInfo(item.kind.name, item.name, item.handles, entry.access, item.identity)

    def same_object(self, first: int, second: int) -> bool:
        """Whether two handles stand for one object."""
        with self._mine():
            return self._entry(first).object is self._entry(second).object

    def flags(self, handle: int) -> int:
        """1 inherit, 2 protected from close."""
        with self._mine():
            return self._entry(handle).flags

    def set_flags(self, handle: int, mask: int, flags: int) -> None:
        """Set those of the flags that are in the mask."""
        with self._mine():
            entry = self._table.get(handle)
            mask &= _INHERIT | _PROTECT_FROM_CLOSE
            entry.flags = entry.flags & ~mask | flags & mask

    # -- processes ------------------------------------------------------------------------------

    def current_process(self) -> int:
        """The pseudo-handle of this process."""
        return -1

    def open_process(self, access: int, inherit: bool, process_id: int) -> int:
        """A handle of this process; others cannot be reached yet."""
        asked = f"cannot open process {process_id}"
        with self._mine():
            if process_id != self._pid:
                if process_id <= 0 or not os.path.exists(f"/proc/{process_id}"):
                    raise failure(winerror.INVALID_PARAMETER, asked, "there is no such process")
                why = "this version has Windows handles within one process only"
                raise failure(winerror.NOT_SUPPORTED, asked, why)
            bits = self._process.kind.bits(access)
            return self._insert(
                self._process, _granted(self._process, bits, User.current(), asked), inherit
            )

    def count_handles(self) -> int:
        """How many handles are open."""
        with self._mine():
            return len(self._table)

    # -- within ---------------------------------------------------------------------------------

    def _insert(self, item: KernelObject, access: int, inherit: bool) -> int:
        """A handle of an object, which gets its name with its first one."""
        try:
            handle = self._table.add(item, access, _INHERIT if inherit else 0)
        except OSError:
            if item.handles == 0:
                item.end()
            raise
        if item.handles == 1 and item.name is not None:
            self._names.add(item.name, item)
        return handle

    def _remove(self, handle: int) -> None:
        """Close a handle, and with the last one the object and its name."""
        ended = self._table.remove(handle)
        if ended is not None:
            if ended.name is not None:
                self._names.remove(ended.name)
            ended.end()

    def _entry(self, handle: int) -> Entry:
        if operator.index(handle) in _THIS_PROCESS:
            return Entry(self._process, self._process.kind.all, 0)
        return self._table.get(handle)

    def _section(self, handle: int, needed: int, what: str) -> Section:
        entry = self._entry(handle)
        asked = f"cannot {what}: handle {handle:#x}"
        if not isinstance(entry.object, Section):
            why = f"it stands for an object of another kind, {entry.object.kind.name}"
            raise failure(winerror.INVALID_HANDLE, asked, why)
        if needed & ~entry.access:
            why = f"it has the rights {entry.access:#x}, and {needed:#x} is missing"
            raise failure(winerror.ACCESS_DENIED, asked, why)
        return entry.object

    def _require_this_process(self, handle: int | None, asked: str) -> None:
        if handle is None:
            return
        entry = self._entry(handle)
        if not isinstance(entry.object, Process):
            why = f"{handle:#x} is not the handle of a process"
            raise failure(winerror.INVALID_HANDLE, asked, why)
        if not entry.access & PROCESS_DUP_HANDLE:
            why = f"the process handle {handle:#x} was opened without PROCESS_DUP_HANDLE"
            raise failure(winerror.ACCESS_DENIED, asked, why)


def _granted(item: KernelObject, bits: int, user: User, asked: str) -> int:
    """The rights that were asked for, if the object admits this user with them."""
    allowed = item.security.allowed(user, item.kind)
    if bits & MAXIMUM_ALLOWED:
        bits = bits & ~MAXIMUM_ALLOWED | allowed
    if bits & ~allowed:
        why = f"its security allows the rights {allowed:#x}, and {bits:#x} was asked for"
        raise failure(winerror.ACCESS_DENIED, asked, why)
    return bits


def _no_pages(error: OSError, asked: str) -> OSError:
    """The error of a system call that makes or maps pages, in Windows' words."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        why = "no descriptor is left for this process; see `ulimit -n`, and close some"
        return failure(winerror.NO_SYSTEM_RESOURCES, asked, why)
    if error.errno in _NO_MEMORY:
        return failure(winerror.NOT_ENOUGH_MEMORY, asked)
    return failure(winerror.NOT_SUPPORTED, asked, str(error))
