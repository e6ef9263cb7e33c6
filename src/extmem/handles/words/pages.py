"""Pages that words live in: shared, mapped, and there for as long as somebody uses them."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Self

from extmem.handles import memfd, winerror
from extmem.handles.kernel import Security
from extmem.handles.system import directory, kernel

__all__ = ["Pages"]


class Pages:
    """A mapping of shared memory from its start.

    It is unmapped when the last reference to it goes, never by a call: a thread that sleeps in a
    word, or is about to write to one, holds a reference, and so never meets a page that is gone.

    On Linux it has a descriptor of its own, opened anew and given to nobody: locks belong to an
    open file description, and one that another process has as well would not keep that one out.
    """

    __slots__ = ("_own", "address", "descriptor", "identity", "prefix", "security", "size",
                 "writable")  # fmt: skip

    def __init__(
        self,
        address: int,
        size: int,
        *,
        writable: bool,
        descriptor: int = -1,  # Linux: the one for locks, ours to close
        own: bool = True,  # Linux: the description is this process' alone
        identity: bytes = b"",  # Windows: what the names of locks are made of
        prefix: str = "Local\\",  # Windows: where those names are
        security: Security | None = None,  # Windows: who may use the locks, None for the default
    ) -> None:
        self.address = address
        self.size = size
        self.writable = writable
        self.descriptor = descriptor
        self._own = own
        self.identity = identity
        self.prefix = prefix
        self.security = security

    @property
    def own(self) -> bool:
        """Whether locks of this descriptor keep everybody else out, also in this process."""
        return self._own

    @classmethod
    def of_descriptor(cls, fd: int, size: int) -> Self:
        """Map a memfd that stays the caller's. ValueError if it is too short or can be shortened.

        A descriptor that may only be read gives pages that may only be read.
        """
        if sys.platform == "win32":
            raise NotImplementedError("sections have no descriptors here")
        import fcntl

        sealed = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
        try:
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        except OSError:
            raise ValueError(f"descriptor {fd} is of no memfd") from None
        if seals & sealed != sealed:
            raise ValueError(f"the file of descriptor {fd} could be shortened while it is mapped")
        if os.fstat(fd).st_size < size:
            raise ValueError(f"the file of descriptor {fd} has fewer than {size} bytes")
        writable = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
        descriptor, own = _opened_anew(fd, writable)
        try:
            # Of the caller's: a mapping keeps the description, and with it its locks, and a
            # child that is forked has the mapping too.
            address = memfd.map_pages(fd, size, writable)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(address, size, writable=writable, descriptor=descriptor, own=own)

    @classmethod
    def of_section(
        cls,
        handle: int,  # stays the caller's
        size: int,
        *,
        identity: bytes,
        prefix: str = "Local\\",
        security: Security | None = None,
    ) -> Self:
        """Map a section, to read where its handle grants no more. ValueError, OSError if not."""
        if sys.platform != "win32":
            fd = directory().descriptor(handle)
            try:
                return cls.of_descriptor(fd, size)
            finally:
                os.close(fd)
        writable = True
        try:
            address = kernel().map_section(handle, size, write=True)
        except OSError as problem:
            if winerror.code_of(problem) != winerror.ACCESS_DENIED:
                raise
            writable = False
            address = kernel().map_section(handle, size, write=False)
        return cls(
            address,
            size,
            writable=writable,
            identity=identity,
            prefix=prefix,
            security=security,
        )

    def copy(self, offset: int, size: int) -> bytes:
        """Some bytes as they are now: whoever else has the pages may write there at any time."""
        assert 0 <= offset <= offset + size <= self.size
        return ctypes.string_at(self.address + offset, size)

    def put(self, offset: int, data: bytes) -> None:
        """Write some bytes."""
        assert self.writable
        assert 0 <= offset <= offset + len(data) <= self.size
        ctypes.memmove(self.address + offset, data, len(data))

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if finalizing():  # the process ends, and little of what is called here is left
            return
        if sys.platform == "win32":
            kernel().unmap_section(self.address, self.size)
        else:
            memfd.unmap_pages(self.address, self.size)
            os.close(self.descriptor)


def _opened_anew(fd: int, writable: bool) -> tuple[int, bool]:
    """A descriptor with a description of its own, where one can be had.

    The pages of another user cannot be opened again, although we may write to them. There locks
    belong to the process: they keep other processes out, which is what counts, but are lost when
    any descriptor of the same file is closed here in the middle of a change.
    """
    if sys.platform == "win32":
        raise NotImplementedError
    import fcntl

    mode = os.O_RDWR if writable else os.O_RDONLY
    try:
        return os.open(f"/proc/self/fd/{fd}", mode | os.O_CLOEXEC), True
    except (PermissionError, FileNotFoundError):
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3), False
