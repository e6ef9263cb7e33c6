"""Objects, handle tables, names, access rights and inheritance of one user. No sockets.

Every call names the account that asks. It raises OSError with `winerror` as Windows would.
"""

from __future__ import annotations

import secrets
import sys

from extmem.handles import names, sddl, winerror
from extmem.handles.access import (
    MAXIMUM_ALLOWED,
    PROCESS_DUP_HANDLE,
    SECTION,
    SECTION_FULL,
    SECTION_MAP_WRITE,
    SECTION_QUERY,
    Kind,
)
from extmem.handles.directory import items
from extmem.handles.directory.accounts import Account, Home, Record
from extmem.handles.directory.inheritance import Token, Tokens
from extmem.handles.directory.items import Borrowed, Shared
from extmem.handles.directory.limits import Limits, too_many
from extmem.handles.directory.rights import granted, no_pages, not_a_section, refuse_fewer
from extmem.handles.kernel import ObjectInfo
from extmem.handles.objects import Entry, KernelObject, Section
from extmem.handles.sddl import User
from extmem.handles.winerror import failure

if sys.platform == "win32":
    raise ImportError("Windows has handles of its own; the directory is for Linux")

__all__ = ["THIS_PROCESS", "State"]

THIS_PROCESS = -1  # the pseudo-handle
INHERIT, PROTECT_FROM_CLOSE = 1, 2
_LARGEST = 1 << 47  # bytes: what a process can map; Linux would make files that are larger


class State:
    """All that the directory knows."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.epoch = secrets.token_bytes(16)
        self.accounts: set[Account] = set()
        self.names: names.Namespace[KernelObject] = names.Namespace()
        self.records: dict[int, Record] = {}  # by identity
        self.borrowed: dict[tuple[int, bytes, int], Borrowed] = {}
        self.tokens = Tokens()
        self.handles = 0  # open, tokens included
        self.descriptors = 0  # that objects hold

    # -- accounts -------------------------------------------------------------------------------

    def admit(self, process_id: int, user: User, command: str, guest: bool = False) -> Account:
        """A new account. OSError 1450 if there are too many."""
        if len(self.accounts) >= self.limits.processes:
            what = "processes with a handle table"
            raise too_many(f"cannot admit process {process_id}", what, self.limits.processes)
        account = Account(process_id, user, command, guest)
        self.accounts.add(account)
        return account

    def end(self, account: Account) -> None:
        """A process is gone: its handles are closed, protected or not."""
        account.ended = True
        self.lapse(account)
        for handle, _ in account.table.items():
            self._remove(account, handle)
        self.accounts.discard(account)

    def lapse(self, ended: Account | None = None) -> None:
        """Forget tokens whose time is over, or whose parent ended."""
        for token in self.tokens.lapsed(ended):
            self._drop(token)

    # -- objects --------------------------------------------------------------------------------

    def create_section(
        self,
        account: Account,
        size: int,
        name: str | None,
        access: int,
        security: str | None,
        inherit: bool,
        passport: bytes = b"",
    ) -> int:
        """A new section; its first handle."""
        asked = f"cannot make section {name!r} of {size} bytes"
        if not 0 < size < 1 << 63:
            raise failure(winerror.INVALID_PARAMETER, asked, "its size is not a number of bytes")
        if size > _LARGEST:
            raise failure(winerror.NOT_ENOUGH_MEMORY, asked)
        # A name that cannot be had is not for want of size.
        named = f"cannot make section {name!r}"
        full_name, descriptor = self._prepare(account, SECTION, name, security, named)
        bits = items.bits_of(SECTION, access)
        try:
            section = Section(size, descriptor, full_name)
        except OSError as error:
            raise no_pages(error, asked) from None
        bits = SECTION_FULL if bits & MAXIMUM_ALLOWED else bits & SECTION_FULL
        record = Record(section, account, section.size, passport, 1)
        return self._begin(account, record, bits, inherit)

    def share(
        self,
        account: Account,
        fd: int,
        kind_name: str,
        name: str | None,
        access: int,
        security: str | None,
        inherit: bool,
        passport: bytes = b"",
    ) -> int:
        """An object from a descriptor, which is taken if this succeeds; its first handle."""
        asked = f"cannot share {kind_name} {name!r}"
        if kind_name not in items.DRIVERS:
            why = f"there is no such kind; there are {', '.join(items.DRIVERS)}"
            raise failure(winerror.INVALID_PARAMETER, asked, why)
        kind = items.DRIVERS[kind_name]
        bits = items.bits_of(kind, access)
        bits = kind.all if bits & MAXIMUM_ALLOWED else bits & kind.all
        refuse_fewer(kind, bits, asked)
        full_name, descriptor = self._prepare(account, kind, name, security, asked)
        items.examine(fd, asked)
        shared = Shared(fd, kind, descriptor, full_name)
        record = Record(shared, account, shared.size, passport, 1)
        try:
            return self._begin(account, record, bits, inherit)
        except OSError:
            shared.fd = -1  # the caller's still
            raise

    def refuse_taken(self, account: Account, kind: Kind, full_name: str, asked: str) -> None:
        """OSError 183, 5 or 6 if somebody has the name, and who."""
        other = self.names.find(full_name)
        if other is None:
            return
        whose = self.records[other.identity].whose(self.accounts)
        if other.kind is not kind:
            why = f"the name belongs to an object of another kind, {other.kind.name}; {whose}"
            raise failure(winerror.INVALID_HANDLE, asked, why)
        if SECTION_FULL & ~other.security.allowed(account.user, kind):
            why = f"the name is taken, and its owner does not admit us; {whose}"
            raise failure(winerror.ACCESS_DENIED, asked, why)
        raise failure(winerror.ALREADY_EXISTS, asked, f"the name is taken; {whose}")

    def open_named(self, account: Account, kind_name: str, name: str, access: int) -> int:
        """A handle of an object by its name."""
        asked = f"cannot open {kind_name.lower()} {name!r}"
        kind = items.kind_of(kind_name, asked)
        if not names.checked(name):
            raise failure(winerror.INVALID_PARAMETER, asked, "the name is empty")
        found = self.names.find(names.canonical(name))
        if found is None:
            raise failure(winerror.FILE_NOT_FOUND, asked)
        if found.kind is not kind:
            why = f"the name belongs to an object of another kind, {found.kind.name}"
            raise failure(winerror.INVALID_HANDLE, asked, why)
        bits = granted(found, items.bits_of(kind, access), account.user, asked)
        return self._insert(account, found, bits, False, asked)

    def borrow(self, account: Account, item: Borrowed, access: int, record: Record) -> int:
        """A handle of what another user lent, which is taken over whatever comes."""
        asked = f"cannot open {item.kind.name.lower()} {item.name!r} of user {item.lender}"
        known = self.borrowed.get(item.key)
        if known is None:
            handle = self._begin(account, record, access, False, named=False)
            self.borrowed[item.key] = item
            return handle
        if (known.kind, known.name, known.size) != (item.kind, item.name, item.size):
            # A descriptor of fewer bytes than the object is said to have would fault where it ends.
            why = f"user {item.lender} lent it before, and says now that it is another"
            raise failure(winerror.ACCESS_DENIED, asked, why)
        # The same object once more: one object here too, with the wider of what was lent.
        handle = self._insert(account, known, access, False, asked)
        known.adopt(item.reads, item.writes)
        known.leases += item.leases
        item.reads = item.writes = None
        item.leases = []
        return handle

    # -- handles --------------------------------------------------------------------------------

    def section_size(self, account: Account, handle: int) -> int:
        """Whole pages, in bytes."""
        entry = self._entry(account, handle)
        asked = f"cannot ask for its size: handle {handle:#x}"
        if entry.object.kind is not SECTION:
            raise not_a_section(entry, asked)
        if SECTION_QUERY & ~entry.access:
            why = f"it has the rights {entry.access:#x}, and {SECTION_QUERY:#x} is missing"
            raise failure(winerror.ACCESS_DENIED, asked, why)
        return self.records[entry.object.identity].size

    def fetch(self, account: Account, handle: int, write: bool | None, size: int = 0) -> int:
        """A new descriptor of what a handle stands for; `size` bytes of a section, if any."""
        entry = self._entry(account, handle)
        what = "use it" if write is None else "write to it" if write else "read it"
        asked = f"cannot {what}: handle {handle:#x}"
        if size and entry.object.kind is not SECTION:
            raise not_a_section(entry, asked)
        if size:
            there = self.records[entry.object.identity].size
            if size > there:
                asked = f"cannot map {size} bytes of the section of handle {handle:#x}"
                raise failure(winerror.ACCESS_DENIED, asked, f"it has {there} bytes")
        return items.fetch(entry.object, entry.access, write, asked)

    def close(self, account: Account, handle: int) -> None:
        """CloseHandle. The pseudo-handle stays."""
        entry = self._entry(account, handle)
        if handle == THIS_PROCESS:
            return
        if entry.flags & PROTECT_FROM_CLOSE:
            asked = f"cannot close handle {handle:#x}"
            raise failure(winerror.INVALID_HANDLE, asked, "it is protected from being closed")
        self._remove(account, handle)

    def duplicate(
        self,
        account: Account,
        handle: int,
        access: int | None,
        inherit: bool,
        source: int = THIS_PROCESS,
        target: int = THIS_PROCESS,
        close_source: bool = False,
    ) -> int:
        """DuplicateHandle: a handle in the target process, of the object in the source process.

        More rights than the handle has are given only to who could open the object with them.
        `close_source` closes the handle even if this fails then, as on Windows.
        """
        asked = f"cannot duplicate handle {handle:#x}"
        owner = self._process(account, source, asked)
        entry = self._entry(owner, handle)
        try:
            receiver = self._process(account, target, asked)
            bits = entry.access
            if access is not None:
                bits = items.bits_of(entry.object.kind, access)
                if bits & ~entry.access:
                    bits = granted(entry.object, bits, account.user, asked)
                elif isinstance(entry.object, Shared | Borrowed):
                    refuse_fewer(entry.object.kind, bits, asked)
            return self._insert(receiver, entry.object, bits, inherit, asked)
        finally:
            if close_source and handle != THIS_PROCESS and not entry.flags & PROTECT_FROM_CLOSE:
                self._remove(owner, handle)

    def info(self, account: Account, handle: int) -> ObjectInfo:
        """NtQueryObject."""
        entry = self._entry(account, handle)
        item = entry.object
        return ObjectInfo(item.kind.name, item.name, item.handles, entry.access, item.identity)

    def same_object(self, account: Account, first: int, second: int) -> bool:
        """CompareObjectHandles."""
        return self._entry(account, first).object is self._entry(account, second).object

    def set_flags(self, account: Account, handle: int, mask: int, flags: int) -> int:
        """Set those of the flags that are in the mask; all that are set now."""
        if not mask:
            return self._entry(account, handle).flags
        entry = account.table.get(handle)
        mask &= INHERIT | PROTECT_FROM_CLOSE
        entry.flags = entry.flags & ~mask | flags & mask
        return entry.flags

    def passport(self, account: Account, handle: int) -> bytes:
        """What the maker laid beside the object."""
        record = self.records.get(self._entry(account, handle).object.identity)
        return b"" if record is None else record.passport

    def open_process(self, account: Account, other: Account, access: int, inherit: bool) -> int:
        """OpenProcess, of a process of this user."""
        asked = f"cannot open process {other.process_id}"
        bits = granted(other.process, other.process.kind.bits(access), account.user, asked)
        return self._insert(account, other.process, bits, inherit, asked)

    # -- inheritance ----------------------------------------------------------------------------

    def offer(self, account: Account) -> str:
        """A token for the handles that children inherit, as they are now."""
        asked = "cannot pass handles to a child"
        if account.tokens >= self.limits.tokens:
            raise too_many(asked, "tokens that no child has used yet", self.limits.tokens, "wait")
        entries = [
            (number, Entry(entry.object, entry.access, entry.flags))
            for number, entry in account.table.items()
            if entry.flags & INHERIT
        ]
        self._refuse_handles(len(entries), asked)
        for _, entry in entries:
            entry.object.handles += 1
            entry.object.writers += entry.access & SECTION_MAP_WRITE != 0
        self.handles += len(entries)
        return self.tokens.offer(account, entries, self.limits.token_seconds)

    def claim(self, account: Account, text: str) -> None:
        """Give a child its handles, under the numbers that they had."""
        token = self.tokens.claim(text, str(account))
        try:
            if any(number in account.table for number, _ in token.entries):
                asked = f"cannot inherit the handles of process {token.parent.process_id}"
                why = "this process has handles with the same numbers already"
                raise failure(winerror.INVALID_HANDLE, asked, why)
            for number, entry in token.entries:
                account.table.put(number, entry)
                self.handles += 1
        finally:
            self._drop(token)

    def _drop(self, token: Token) -> None:
        for _, entry in token.entries:
            self.handles -= 1
            entry.object.handles -= 1
            entry.object.writers -= entry.access & SECTION_MAP_WRITE != 0
            self._end_if_unused(entry.object)

    # -- within ---------------------------------------------------------------------------------

    def _prepare(
        self, account: Account, kind: Kind, name: str | None, security: str | None, asked: str
    ) -> tuple[str | None, sddl.Descriptor]:
        """The full name and the descriptor of what is to be made, if it may be made."""
        name = names.checked(name)
        full_name = None if name is None else names.canonical(name)
        descriptor = sddl.parse(security, account.user, named=full_name is not None)
        if full_name is not None:
            self.refuse_taken(account, kind, full_name, asked)
            if account.names >= self.limits.names:
                raise too_many(asked, "names of this process", self.limits.names)
            if len(self.names) >= self.limits.all_names:
                raise too_many(asked, "names of this user", self.limits.all_names)
        self._refuse_descriptors(1, asked)
        return full_name, descriptor

    def _refuse_descriptors(self, more: int, asked: str) -> None:
        if self.descriptors + more > self.limits.descriptors:
            what = "descriptors of the directory (see `ulimit -Hn`)"
            raise too_many(asked, what, self.limits.descriptors)

    def _refuse_handles(self, more: int, asked: str) -> None:
        if self.handles + more > self.limits.all_handles:
            raise too_many(asked, "handles of this user", self.limits.all_handles)

    def _begin(
        self, account: Account, record: Record, bits: int, inherit: bool, named: bool = True
    ) -> int:
        """The first handle of an object, which gets its name with it. Not taken if this fails."""
        item = record.item
        called = "" if item.name is None else f" {item.name!r}"
        asked = f"cannot make a {item.kind.name.lower()}{called}"
        taken = isinstance(item, Shared)
        try:
            if account.objects >= self.limits.objects:
                raise too_many(asked, "objects of this process", self.limits.objects)
            if len(self.records) >= self.limits.all_objects:
                raise too_many(asked, "objects of this user", self.limits.all_objects)
            self._refuse_descriptors(record.descriptors, asked)
            handle = self._insert(account, item, bits, inherit, asked)
        except OSError:
            if not taken:
                item.end()
            raise
        self.records[item.identity] = record
        self.descriptors += record.descriptors
        account.objects += 1
        if named and item.name is not None:
            self.names.add(item.name, item)
            account.names += 1
        return handle

    def _insert(
        self, account: Account, item: KernelObject, bits: int, inherit: bool, asked: str
    ) -> int:
        if account.ended:
            raise failure(winerror.ACCESS_DENIED, asked, f"{account} has ended")
        if len(account.table) >= self.limits.handles:
            raise too_many(asked, f"handles of {account}", self.limits.handles)
        self._refuse_handles(1, asked)
        handle = account.table.add(item, bits, INHERIT if inherit else 0)
        self.handles += 1
        return handle

    def _remove(self, account: Account, handle: int) -> None:
        """Close a handle, and with the last one the object and its name."""
        item = account.table.get(handle).object
        account.table.remove(handle)
        self.handles -= 1
        self._end_if_unused(item)

    def _end_if_unused(self, item: KernelObject) -> None:
        record = self.records.get(item.identity)
        if item.handles or record is None:  # a process is no object of ours
            return
        del self.records[item.identity]
        self.descriptors -= record.descriptors
        record.maker.objects -= 1
        if isinstance(item, Borrowed):
            self.borrowed.pop(item.key, None)
        elif item.name is not None:
            self.names.remove(item.name)
            record.maker.names -= 1
        item.end()

    def _entry(self, account: Account, handle: int) -> Entry:
        if handle == THIS_PROCESS:
            return Entry(account.process, account.process.kind.all, 0)
        return account.table.get(handle)

    def _process(self, account: Account, handle: int, asked: str) -> Account:
        """The account that a process handle leads to."""
        entry = self._entry(account, handle)
        if not isinstance(entry.object, Home):
            why = f"{handle:#x} is not the handle of a process"
            raise failure(winerror.INVALID_HANDLE, asked, why)
        if not entry.access & PROCESS_DUP_HANDLE:
            why = f"the process handle {handle:#x} was opened without PROCESS_DUP_HANDLE"
            raise failure(winerror.ACCESS_DENIED, asked, why)
        if entry.object.account.ended:
            raise failure(winerror.ACCESS_DENIED, asked, f"{entry.object.account} has ended")
        return entry.object.account

    def __len__(self) -> int:
        """How many objects there are."""
        return len(self.records)
