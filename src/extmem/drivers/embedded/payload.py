"""The bytes behind a memory object, and how they are carried from one process to another.

A payload that can be exported has one page of header, then the bytes. The header says what a Vulkan
handle cannot: what made it, how large it is, and for which memory type, device and dedicated
resource. An importer reads it first and believes nothing before it has been checked: a descriptor
from a peer may be a pipe, a file that somebody shortens later, or anything else.

Here are private bytes, memfds behind file descriptors, and host allocations; `sections.py` has what
Windows' handles carry, and `carriers.py` the one table of all ways.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from extmem.drivers.embedded.limits import DRIVER_UUID, FORMAT_VERSION, HOST_POINTER_ALIGNMENT
from extmem.drivers.embedded.objects import Failure
from extmem.handles.kernel import Security
from extmem.vk import _constants as c

__all__ = [
    "HEADER_SIZE",
    "Contents",
    "Payload",
    "Source",
    "Terms",
    "check_host_pointer",
    "open_host",
    "private",
    "refused",
]

HEADER_SIZE = 4096
_MAGIC = b"EXTMEM\r\n"
# magic, format version, memory type, size, device, driver, dedicated kind, padding, its digest
_HEADER = struct.Struct("<8sIIQ16s16sI4x32s")


@dataclass(frozen=True, slots=True)
class Contents:
    """What an allocation asks for, and what the header of a shared one says."""

    size: int
    memory_type: int
    device_uuid: bytes
    dedicated: int = 0  # 0, or the sType of the dedicated resource's create info
    digest: bytes = bytes(32)  # of that create info

    def header(self) -> bytes:
        return _HEADER.pack(
            _MAGIC,
            FORMAT_VERSION,
            self.memory_type,
            self.size,
            self.device_uuid,
            DRIVER_UUID,
            self.dedicated,
            self.digest,
        )

    @classmethod
    def of(cls, header: bytes) -> Self | None:
        """What a header says; None if it is no header of this version of this device."""
        magic, version, memory_type, size, device, driver, dedicated, digest = _HEADER.unpack_from(
            header
        )
        if (magic, version, driver) != (_MAGIC, FORMAT_VERSION, DRIVER_UUID):
            return None
        return cls(size, memory_type, device, dedicated, digest)

    @staticmethod
    def makers(header: bytes) -> tuple[bytes, bytes] | None:
        """The device and driver that wrote a header, of whatever version: they never move."""
        magic, _, _, _, device, driver, _, _ = _HEADER.unpack_from(header)
        return (device, driver) if magic == _MAGIC else None


@dataclass(frozen=True, slots=True)
class Source:
    """What an allocation is imported from: a handle or a name, never both."""

    handle: int = 0  # a descriptor, an NT handle, a KMT number or an address
    name: str | None = None
    nv: bool = False  # asked for through NV's structures, which state less


@dataclass(frozen=True, slots=True)
class Terms:
    """How a payload is exported. Only NT handles know more than that it is."""

    name: str | None = None
    access: int | None = None  # None: to read and write
    security: Security | None = None
    nv: bool = False


class Payload:
    """Mapped bytes at `address`, until `close`. It may own a descriptor for making more."""

    __slots__ = ("_unmap", "address", "descriptor", "size")

    def __init__(
        self, address: int, size: int, unmap: Callable[[int, int], Any] | None, descriptor: int = -1
    ) -> None:
        self.address = address
        self.size = size
        self.descriptor = descriptor
        self._unmap = unmap

    @property
    def writable(self) -> bool:
        """Whether a write to it does not fault."""
        return True

    @property
    def stale(self) -> bool:
        """Whether what it was imported from is gone, so that nothing may be begun with it."""
        return False

    def close(self) -> None:
        """Unmap the bytes. Other processes and other memory objects keep theirs."""
        address, self.address = self.address, 0
        if address and self._unmap is not None:
            self._unmap(address, self.size)
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def refused(why: str) -> Failure:
    return Failure(c.VK_ERROR_INVALID_EXTERNAL_HANDLE, why)


# -- mapping ----------------------------------------------------------------------------------
#
# Python's mmap objects duplicate the descriptor that they are given, which doubles the cost of each
# payload, and cannot be closed while a ctypes object looks at them. So the system is asked itself.

if sys.platform == "win32":
    _kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    _virtual_alloc = _kernel32.VirtualAlloc
    _virtual_alloc.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32, ctypes.c_uint32)
    _virtual_alloc.restype = ctypes.c_void_p
    _virtual_free = _kernel32.VirtualFree
    _virtual_free.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32)

    def _map_private(size: int) -> int:
        commit_and_reserve, read_write = 0x3000, 0x04
        address = _virtual_alloc(None, size, commit_and_reserve, read_write)
        if not address:
            raise Failure(c.VK_ERROR_OUT_OF_DEVICE_MEMORY, "the system has no more memory")
        return int(address)

    def _unmap_private(address: int, size: int) -> None:
        release = 0x8000
        _virtual_free(address, 0, release)

else:
    import fcntl
    import mmap

    _libc = ctypes.CDLL(None, use_errno=True)
    _mmap = _libc.mmap
    _mmap.argtypes = (
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    )
    _mmap.restype = ctypes.c_void_p
    _unmap_private = _libc.munmap
    _unmap_private.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    _msync = _libc.msync
    _msync.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

    _FAILED = ctypes.c_void_p(-1).value
    _READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
    _MS_ASYNC = 1

    def _map(size: int, flags: int, descriptor: int, offset: int) -> int:
        address = _mmap(None, size, _READ_WRITE, flags, descriptor, offset)
        if address == _FAILED:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return int(address)

    def _map_private(size: int) -> int:
        return _map(size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)

    def _is_mapped(address: int, size: int) -> bool:
        """Whether the whole range belongs to this process; asking changes nothing."""
        return bool(_msync(address, size, _MS_ASYNC) == 0)


def private(size: int) -> Payload:
    """Bytes that nobody else will see."""
    return Payload(_map_private(size), size, _unmap_private)


# -- opaque file descriptors ------------------------------------------------------------------

if sys.platform == "linux":
    _SIZE_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW

    def create_memfd(contents: Contents, terms: Terms) -> Payload:
        descriptor = os.memfd_create("extmem", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, HEADER_SIZE + contents.size)
            os.pwrite(descriptor, contents.header(), 0)
            # Nobody can shorten it under a peer's mapping. Further seals stay possible: a seal
            # against future writable mappings is how a payload is handed out for reading alone.
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SIZE_SEALS)
            address = _map(contents.size, mmap.MAP_SHARED, descriptor, HEADER_SIZE)
        except BaseException:
            os.close(descriptor)
            raise
        return Payload(address, contents.size, _unmap_private, descriptor)

    def open_memfd(contents: Contents, source: Source, again: Terms | None) -> Payload:
        descriptor = source.handle
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size != HEADER_SIZE + contents.size:
                raise refused(f"fd {descriptor} is no payload of {contents.size} bytes")
            if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SIZE_SEALS != _SIZE_SEALS:
                raise refused(f"fd {descriptor} could be shortened while it is in use")
            if os.pread(descriptor, _HEADER.size, 0) != contents.header():
                raise refused(f"fd {descriptor} was not exported with these parameters")
            address = _map(contents.size, mmap.MAP_SHARED, descriptor, HEADER_SIZE)
        except OSError as problem:
            if problem.errno == errno.ENOMEM:  # not the descriptor's fault
                raise
            raise refused(f"fd {descriptor} cannot be mapped: {problem}") from None
        # Only now is the import certain, and a successful import takes the descriptor.
        if again is not None:
            return Payload(address, contents.size, _unmap_private, descriptor)
        os.close(descriptor)
        return Payload(address, contents.size, _unmap_private)

    def duplicate_memfd(payload: Payload) -> int:
        # From 3 upwards: a program that closed its standard streams shall not find memory there.
        return fcntl.fcntl(payload.descriptor, fcntl.F_DUPFD_CLOEXEC, 3)


# -- host allocations -------------------------------------------------------------------------


def check_host_pointer(address: int, size: int) -> None:
    """Refuse what cannot be imported: null, misaligned, or not mapped at all."""
    if not address or not size or address % HOST_POINTER_ALIGNMENT or size % HOST_POINTER_ALIGNMENT:
        raise refused(f"{size} bytes at {address:#x} are not whole pages")
    if sys.platform != "win32" and not _is_mapped(address, size):
        raise refused(f"{size} bytes at {address:#x} are not mapped in this process")


def open_host(contents: Contents, source: Source, again: Terms | None) -> Payload:
    check_host_pointer(source.handle, contents.size)
    return Payload(source.handle, contents.size, None)
