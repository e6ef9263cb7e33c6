"""Kernel objects and the numbers that stand for them, where the system has neither.

An object knows nothing of numbers, a handle table nothing of names. `extmem.handles.directory` puts
them together: a table for each process, and one namespace.
"""

from __future__ import annotations

import itertools
import operator
import os
from collections import deque
from dataclasses import dataclass
from typing import SupportsIndex

from extmem.handles import memfd, winerror
from extmem.handles.access import PROCESS, SECTION, SECTION_MAP_WRITE, Kind
from extmem.handles.sddl import Descriptor
from extmem.handles.winerror import failure

__all__ = ["Entry", "HandleTable", "KernelObject", "Process", "Section"]

_numbers = itertools.count(1)


class KernelObject:
    """Something that handles stand for. It ends with the last of them."""

    def __init__(self, kind: Kind, security: Descriptor, name: str | None = None) -> None:
        self.kind = kind
        self.security = security
        self.name = name  # canonical
        self.handles = 0  # how many stand for it, in all tables
        self.writers = 0  # and may write to it
        self.identity = next(_numbers)  # never used again

    def end(self) -> None:
        """Give back what it holds."""


class Section(KernelObject):
    """Shared memory: whole pages of zeros. It owns a descriptor; mapped views keep the pages."""

    def __init__(self, size: int, security: Descriptor, name: str | None = None) -> None:
        super().__init__(SECTION, security, name)
        self.size = memfd.whole_pages(size)  # bytes
        self._fd = memfd.make(self.size)
        self.sealed = False  # against new ways to write

    def descriptor(self, write: bool) -> int:
        """A new descriptor of the pages, which is the caller's. Without `write` it cannot write."""
        return memfd.again(self._fd, write)

    def seal(self) -> None:
        """Nobody can begin to write any more. Who has mapped the pages to write still can."""
        memfd.seal_writing(self._fd)
        self.sealed = True

    def end(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Process(KernelObject):
    """A process, whose handle table a handle with the right to duplicate leads to."""

    def __init__(self, process_id: int, security: Descriptor) -> None:
        super().__init__(PROCESS, security)
        self.process_id = process_id


@dataclass(slots=True)
class Entry:
    """What a handle is: an object, and what may be done to it through this handle."""

    object: KernelObject
    access: int  # the kernel's bits
    flags: int  # HANDLE_FLAG_INHERIT, HANDLE_FLAG_PROTECT_FROM_CLOSE


class HandleTable:
    """The handles of one process.

    A number is not used again before another `rest` have been closed: one that is closed and used
    once more by mistake should meet nothing, and not somebody else's object.
    """

    highest = 1 << 24

    def __init__(self, rest: int = 1024, first: int = 4) -> None:
        self._entries: dict[int, Entry] = {}
        self._closed: deque[int] = deque()  # free numbers, the longest free one first
        self._next = first
        self._before = first - 4
        self._rest = rest

    def add(self, item: KernelObject, access: int, flags: int) -> int:
        """A new handle of an object."""
        number = self._free()
        while number in self._entries:  # one that was inherited
            number = self._free()
        self.put(number, Entry(item, access, flags))
        return number

    def _free(self) -> int:
        over = self._next - self._before > self.highest
        if self._closed and (over or len(self._closed) > self._rest):
            return self._closed.popleft()
        if over:
            raise failure(winerror.NO_SYSTEM_RESOURCES, "cannot make a handle")
        number, self._next = self._next, self._next + 4
        return number

    def put(self, number: int, entry: Entry) -> None:
        """A handle with a number that is free, as a child inherits it."""
        assert number not in self._entries
        self._entries[number] = entry
        entry.object.handles += 1
        entry.object.writers += entry.access & SECTION_MAP_WRITE != 0

    def get(self, handle: SupportsIndex) -> Entry:
        """What a number stands for. OSError 6 if it is not open."""
        number = operator.index(handle)
        entry = self._entries.get(number)
        if entry is None:
            raise failure(
                winerror.INVALID_HANDLE,
                f"handle {number:#x} is not open",
                "it was closed, or belongs to another process, or never was one",
            )
        return entry

    def remove(self, handle: SupportsIndex) -> KernelObject | None:
        """Close a handle; the object, if that was its last one in any table."""
        entry = self.get(handle)
        item, number = entry.object, operator.index(handle)
        del self._entries[number]
        self._closed.append(number)
        item.handles -= 1
        item.writers -= entry.access & SECTION_MAP_WRITE != 0
        return item if item.handles == 0 else None

    def items(self) -> list[tuple[int, Entry]]:
        """All that is open."""
        return list(self._entries.items())

    def __contains__(self, number: int) -> bool:
        return number in self._entries

    def __len__(self) -> int:
        return len(self._entries)
