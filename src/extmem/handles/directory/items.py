"""What handles stand for, beside sections: descriptors of drivers, and what other users lend."""

from __future__ import annotations

import logging
import os
import stat
import sys
from collections.abc import Callable

from extmem.handles import memfd, winerror
from extmem.handles.access import (
    FENCE,
    MEMORY,
    SECTION,
    SECTION_MAP_READ,
    SECTION_MAP_WRITE,
    SEMAPHORE,
    Kind,
    section_bits,
)
from extmem.handles.objects import KernelObject, Section
from extmem.handles.sddl import Descriptor
from extmem.handles.winerror import failure

if sys.platform == "win32":
    raise ImportError("Windows has handles of its own; the directory is for Linux")

__all__ = ["BOTH", "Borrowed", "Shared", "bits_of", "examine", "fetch", "kind_of"]

log = logging.getLogger("extmem.directory")

BOTH = SECTION_MAP_READ | SECTION_MAP_WRITE
DRIVERS = {kind.name: kind for kind in (MEMORY, SEMAPHORE, FENCE)}
_KINDS = {**DRIVERS, SECTION.name: SECTION}
_O_PATH, _F_GET_SEALS, _F_SEAL_SHRINK = 0o10000000, 1034, 2


def kind_of(name: str, asked: str) -> Kind:
    """A kind that can have a name."""
    kind = _KINDS.get(name)
    if kind is None:
        why = f"there is no kind of object called {name!r}; there are {', '.join(_KINDS)}"
        raise failure(winerror.INVALID_PARAMETER, asked, why)
    return kind


def bits_of(kind: Kind, access: int) -> int:
    """The kernel's bits for an access; shared resources have words of their own for it."""
    return section_bits(access) if kind.name in _KINDS else kind.bits(access)


class Shared(KernelObject):
    """What a driver shares by a descriptor. Nobody can be given less of it than all."""

    def __init__(self, fd: int, kind: Kind, security: Descriptor, name: str | None) -> None:
        super().__init__(kind, security, name)
        self.fd = fd
        self.size = _size(fd)

    def end(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class Borrowed(KernelObject):
    """What another user's directory has. It is kept open there by a connection of ours."""

    def __init__(self, kind: Kind, name: str, lender: int, size: int) -> None:
        # Nobody but who asked the lender gets rights, and those are in the handle.
        super().__init__(kind, Descriptor(lender, ()), name)
        self.lender = lender
        self.size = size
        self.key: tuple[int, bytes, int] = (lender, b"", 0)
        self.reads: int | None = None
        self.writes: int | None = None
        self.leases: list[Callable[[], None]] = []  # how to give it back

    def adopt(self, reads: int | None, writes: int | None) -> None:
        """Take descriptors over, those that are there already included."""
        for fd, have in ((reads, self.reads), (writes, self.writes)):
            if fd is not None and have is not None:
                os.close(fd)
        self.reads = reads if self.reads is None else self.reads
        self.writes = writes if self.writes is None else self.writes

    def end(self) -> None:
        for fd in (self.reads, self.writes):
            if fd is not None:
                os.close(fd)
        self.reads = self.writes = None
        for give_back in self.leases:
            give_back()
        self.leases.clear()


def fetch(item: KernelObject, access: int, write: bool | None, asked: str) -> int:
    """A new descriptor of an object, which reads, or writes too. None: what the rights allow.

    Nobody can tell what a process does with a descriptor later. So the first that only reads, when
    no handle that writes is left, ends all ways to begin with writing: who has it could open it
    again otherwise, as the same user.
    """
    if write is None:
        write = bool(access & SECTION_MAP_WRITE)
    needed = SECTION_MAP_WRITE if write else SECTION_MAP_READ
    if needed & ~access:
        why = f"its handle has the rights {access:#x}, and {needed:#x} is missing"
        raise failure(winerror.ACCESS_DENIED, asked, why)
    try:
        if isinstance(item, Section):
            if not write and item.writers == 0 and not item.sealed:
                _seal(item)
            return item.descriptor(write)
        if isinstance(item, Shared):
            return memfd.again(item.fd, write=True)
        if isinstance(item, Borrowed):
            # Of what drivers share there is one descriptor, for all that can be done with it.
            fd = item.writes if write and item.kind is SECTION else item.reads
            if fd is None:
                why = f"user {item.lender}, whose it is, did not grant that"
                raise failure(winerror.ACCESS_DENIED, asked, why)
            return memfd.again(fd, write=True)
    except OSError as error:
        if winerror.code_of(error) is not None:
            raise
        why = f"no descriptor can be made of it: {error}"
        raise failure(winerror.NO_SYSTEM_RESOURCES, asked, why) from None
    why = f"it stands for an object without a descriptor, {item.kind.name}"
    raise failure(winerror.INVALID_HANDLE, asked, why)


def _seal(item: Section) -> None:
    try:
        item.seal()
    except OSError as error:  # before Linux 5.1, or sealed against seals by who may write
        log.warning("object %d cannot be kept from being written to: %s", item.identity, error)


# -- descriptors from elsewhere --------------------------------------------------------------------


def examine(fd: int, asked: str) -> None:
    """Refuse a descriptor that no driver shares memory or synchronisation by.

    Its name is looked at before anything else: to ask a file of itself could take for ever, if the
    file system behind it is a program.
    """
    import fcntl

    try:
        target = os.readlink(f"/proc/self/fd/{fd}")
        if not target.startswith(("/memfd:", "/dmabuf:", "anon_inode:", "/dev/")):
            what = target.partition(":")[0] if target[:1] != "/" else "file"
            why = f"its descriptor is a {what}; drivers share by memfds, dma-bufs and devices"
            raise failure(winerror.INVALID_PARAMETER, asked, why)
        mode = os.fstat(fd).st_mode
        allowed = stat.S_ISREG(mode) or stat.S_ISCHR(mode) or stat.S_IFMT(mode) == 0
        if not allowed or fcntl.fcntl(fd, fcntl.F_GETFL) & _O_PATH:
            why = "its descriptor is none that memory or synchronisation is shared by"
            raise failure(winerror.INVALID_PARAMETER, asked, why)
    except OSError as error:
        if winerror.code_of(error) is not None:
            raise
        why = f"its descriptor cannot be examined: {error}"
        raise failure(winerror.INVALID_PARAMETER, asked, why) from None


def examine_pages(fd: int, size: int, write: bool, asked: str) -> None:
    """Refuse a descriptor that is no section of this size, or one that could become shorter."""
    import fcntl

    examine(fd, asked)
    try:
        reads_only = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        seals = fcntl.fcntl(fd, _F_GET_SEALS)  # which memfds alone have
    except OSError:
        seals, reads_only = 0, True
    if not seals & _F_SEAL_SHRINK or os.fstat(fd).st_size < size or reads_only is write:
        raise failure(winerror.INVALID_PARAMETER, asked, "what was sent for it is no section")


def _size(fd: int) -> int:
    """Bytes; 0 where a descriptor does not know. The place in it stays where it is."""
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode):
        return status.st_size
    return 0
