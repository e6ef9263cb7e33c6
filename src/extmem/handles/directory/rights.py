"""Which rights a handle gets, and the words for what cannot be had."""

from __future__ import annotations

import errno
import sys

from extmem.handles import winerror
from extmem.handles.access import MAXIMUM_ALLOWED, SECTION_MAP_READ, SECTION_MAP_WRITE, Kind
from extmem.handles.directory import items
from extmem.handles.directory.items import BOTH, Shared
from extmem.handles.objects import Entry, KernelObject, Section
from extmem.handles.sddl import User
from extmem.handles.winerror import failure

if sys.platform == "win32":
    raise ImportError("Windows has handles of its own; the directory is for Linux")

__all__ = ["granted", "no_pages", "not_a_section", "refuse_fewer"]

# What making pages can fail with, by Windows' number.
_NO_MEMORY = {errno.ENOMEM, errno.EFBIG, errno.ENOSPC, errno.EINVAL, errno.EOVERFLOW}


def granted(item: KernelObject, bits: int, user: User, asked: str) -> int:
    """The rights that were asked for, if the object admits this user with them."""
    allowed = item.security.allowed(user, item.kind)
    sealed = isinstance(item, Section) and item.sealed
    maximum = bits & MAXIMUM_ALLOWED
    if maximum:
        bits = bits & ~MAXIMUM_ALLOWED | allowed & ~(SECTION_MAP_WRITE if sealed else 0)
    if not bits and (maximum or not allowed):
        # A handle without rights would keep the name, and tell what lies beside the object.
        raise failure(winerror.ACCESS_DENIED, asked, "its security allows this user nothing")
    if bits & ~allowed:
        why = (
            f"its security grants this user {_words(allowed)} (rights {allowed:#x}), and "
            f"{_words(bits)} ({bits:#x}) was asked for: {bits & ~allowed:#x} is missing"
        )
        raise failure(winerror.ACCESS_DENIED, asked, why)
    if sealed and bits & SECTION_MAP_WRITE:
        why = (
            "it can only be read by now: somebody got it to read when no handle that writes was "
            "left, and it was sealed against writing; keep a handle with the right to write open"
        )
        raise failure(winerror.ACCESS_DENIED, asked, why)
    if isinstance(item, Shared):
        refuse_fewer(item.kind, bits, asked)
    return bits


def _words(bits: int) -> str:
    """Rights as people call them.

    >>> _words(SECTION_MAP_READ | SECTION_MAP_WRITE), _words(0x60000)
    ('reading and writing', 'neither reading nor writing')
    """
    words = [
        word
        for bit, word in ((SECTION_MAP_READ, "reading"), (SECTION_MAP_WRITE, "writing"))
        if bits & bit
    ]
    return " and ".join(words) or "neither reading nor writing"


def refuse_fewer(kind: Kind, bits: int, asked: str) -> None:
    if kind.name in items.DRIVERS and BOTH & ~bits:
        why = (
            f"a descriptor of a driver cannot be restricted, and {bits:#x} is less than all: "
            "ask for GENERIC_ALL, or to read and to write"
        )
        raise failure(winerror.NOT_SUPPORTED, asked, why)


def not_a_section(entry: Entry, asked: str) -> OSError:
    why = f"it stands for an object of another kind, {entry.object.kind.name}"
    return failure(winerror.INVALID_HANDLE, asked, why)


def no_pages(error: OSError, asked: str) -> OSError:
    """The error of a system call that makes pages, in Windows' words."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        why = "no descriptor is left for the directory; see `ulimit -Hn`, and close some handles"
        return failure(winerror.NO_SYSTEM_RESOURCES, asked, why)
    if error.errno in _NO_MEMORY:
        return failure(winerror.NOT_ENOUGH_MEMORY, asked)
    return failure(winerror.NOT_SUPPORTED, asked, str(error))
