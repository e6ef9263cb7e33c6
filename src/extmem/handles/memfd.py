"""Pages of shared memory behind a descriptor: made, mapped, taken away."""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import sys
from typing import Any

__all__ = ["again", "make", "map_pages", "seal_size", "seal_writing", "unmap_pages", "whole_pages"]

_PAGE = mmap.PAGESIZE
_F_SEAL_FUTURE_WRITE = 0x10  # Linux 5.1 and later
_FAILED = ctypes.c_void_p(-1).value


def whole_pages(size: int) -> int:
    """The next multiple of the size of a page."""
    return (size + _PAGE - 1) // _PAGE * _PAGE


def make(size: int) -> int:
    """A descriptor of `size` bytes of zeros that nobody can shorten: a read would fault then."""
    if sys.platform == "win32":
        raise NotImplementedError
    import fcntl

    fd = os.memfd_create("extmem-section", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        # Another user who gets a descriptor for reading cannot make one for writing out of it.
        os.fchmod(fd, 0o600)
    except BaseException:
        os.close(fd)
        raise
    return fd


def again(fd: int, write: bool) -> int:
    """A new descriptor of the same pages. Without `write` it is one that cannot write."""
    if sys.platform == "win32":
        raise NotImplementedError
    import fcntl

    if write:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)  # another user's cannot be opened anew
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


def seal_writing(fd: int) -> None:
    """Refuse new writable mappings, whatever descriptor they are asked of. Those that are stay."""
    if sys.platform == "win32":
        raise NotImplementedError
    import fcntl

    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _F_SEAL_FUTURE_WRITE)


def seal_size(fd: int) -> bool:
    """Have nobody shorten the file from now on; whether nobody can. It may be anybody's.

    That needs a memfd that was made to be sealed, and a descriptor that can write.
    """
    if sys.platform == "win32":
        raise NotImplementedError
    import fcntl

    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        return True
    except OSError:
        pass
    try:
        return bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
    except OSError:  # no file that has seals
        return False


def map_pages(fd: int, size: int, write: bool) -> int:
    """Map a descriptor from its start; the address.

    Without `write` the pages are mapped through a descriptor that cannot write, so that nobody can
    make them writable afterwards.
    """
    if sys.platform == "win32":
        raise NotImplementedError
    read_only, here = 1, fd
    if not write:
        try:
            here = again(fd, write=False)
        except FileNotFoundError:  # no /proc
            here = fd
    try:
        shared, rights = 1, read_only | (2 if write else 0)
        address = _libc().mmap(None, size, rights, shared, here, 0)
        code = ctypes.get_errno()
    finally:
        if here != fd:
            os.close(here)
    if address is None or address == _FAILED:
        raise OSError(code, os.strerror(code))
    return int(address)


def unmap_pages(address: int, size: int) -> None:
    """Take a mapping away."""
    if _libc().munmap(address, size) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


@functools.cache
def _libc() -> Any:
    library = ctypes.CDLL(None, use_errno=True)
    number, address = ctypes.c_int, ctypes.c_void_p
    library.mmap.argtypes = (address, ctypes.c_size_t, number, number, number, ctypes.c_long)
    library.mmap.restype = address
    library.munmap.argtypes = (address, ctypes.c_size_t)
    return library
