"""What the fuzzer hands in that is not Vulkan's: descriptors of all kinds, Windows handles, numbers
and names, addresses, security attributes. It stays for the life of the process.

No descriptor or address is made up that may turn out to be somebody else's: a successful import
closes the descriptor, and the device writes to what lies at the address.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import tempfile
from collections import deque
from typing import Any

from extmem import win32
from extmem.drivers.embedded import foreign
from extmem.handles.security import security_attributes
from extmem.handles.system import kernel
from extmem.vk._base import SECURITY_ATTRIBUTES
from tests.fuzz.calls.dice import Dice

__all__ = ["PAGES", "Furniture", "pages"]

PAGES = 1 << 20  # bytes that lie at the address that is good
_PAGE = 4096

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def pages(size: int, rights: int) -> int:
    """The address of so many bytes, with no access to what is before and behind them."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    whole = _libc.mmap(None, size + 2 * PAGES, 0, flags, -1, 0)
    if rights:
        _libc.mprotect(whole + PAGES, size, rights)
    return int(whole) + PAGES


def _memfd(size: int) -> int:
    fd = os.memfd_create("furniture")
    os.truncate(fd, size)
    return fd


def _file() -> int:
    with tempfile.TemporaryFile() as file:
        file.truncate(1 << 16)
        return os.dup(file.fileno())


_DESCRIPTORS = {
    "memfd": lambda: _memfd(1 << 16),
    "short memfd": lambda: _memfd(100),
    "reading end": lambda: _one_of(os.pipe(), 0),
    "writing end": lambda: _one_of(os.pipe(), 1),
    "socket": lambda: _one_of(tuple(each.detach() for each in socket.socketpair()), 0),
    "event": lambda: os.eventfd(0),
    "zeros": lambda: os.open("/dev/zero", os.O_RDWR),
    "folder": lambda: os.open("/", os.O_RDONLY),
    "file": _file,
}
_NO_DESCRIPTORS = (-1, -2, -(1 << 31), 4_000, 5_000, 100_000, (1 << 31) - 1)


def _one_of(pair: tuple[int, ...], index: int) -> int:
    os.close(pair[1 - index])
    return pair[index]


class Furniture:
    """All that is there, whatever the driver."""

    def __init__(self) -> None:
        self._fds = {name: make() for name, make in _DESCRIPTORS.items()}
        both = mmap.PROT_READ | mmap.PROT_WRITE
        self.good = pages(PAGES, both)  # an address that may be used
        reading, nothing = pages(1 << 16, mmap.PROT_READ), pages(1 << 16, 0)
        # 0: nowhere, in no process; the kernel's; between pages; the last page, and behind it
        self._addresses: tuple[int | None, ...] = (
            *(None, 0, 8, _PAGE, 0xFFFF_8000_0000_0000, (1 << 64) - 1, reading, nothing),
            *(self.good + 8, self.good + 1, self.good + PAGES - _PAGE, self.good + PAGES),
        )
        self._sections = [kernel().create_section(1 << 16) for _ in range(2)]
        process = win32.OpenProcess(win32.PROCESS_DUP_HANDLE, False, os.getpid())
        gone = kernel().create_section(_PAGE)
        kernel().close(gone)
        fence = foreign.fence12(3)
        self.textures = [
            foreign.texture11(size=1 << 16),
            foreign.texture11(size=1 << 16, kmt=True),
            foreign.texture11(size=1 << 16, keyed_mutex=True),
            foreign.heap12(size=1 << 18),
            foreign.resource12(size=1 << 16),
        ]
        self._kept = fence
        self.fence12 = fence.handle
        numbers = [each.handle or each.kmt for each in self.textures]
        self._handles = (*self._sections, process, self.fence12, *numbers)
        self._no_handles = (0, 4, gone, 3, (1 << 64) - 1, 0x4000_0002, 0xC000_0002, 1 << 40)
        self.names = [f"fuzz-{index}" for index in range(6)]
        attributes = security_attributes
        self._security: list[Any] = [
            *(None, attributes(), attributes("D:(A;;GA;;;WD)"), attributes("D:(A;;GR;;;WD)")),
            attributes("D:(A;;GA;;;WD)", inherit=True),
            SECURITY_ATTRIBUTES(nLength=3),
            SECURITY_ATTRIBUTES(lpSecurityDescriptor=8),
            SECURITY_ATTRIBUTES(lpSecurityDescriptor=nothing),
            SECURITY_ATTRIBUTES(lpSecurityDescriptor=self.good),
        ]
        # What others fetched and then closed: numbers that meant something.
        self.closed: deque[int] = deque(maxlen=16)

    # -- what is wrong for an import, or may be right by chance ---------------------------------

    def fd(self, dice: Dice) -> int:
        """A descriptor of something else, or none."""
        if dice.odds(0.3):
            return dice.one(_NO_DESCRIPTORS)
        return self._fds[dice.one(tuple(self._fds))]

    def consumed(self, fd: int) -> bool:
        """An import took a descriptor: one of these is made again. Whether it was one."""
        for name, known in self._fds.items():
            if known == fd:
                self._fds[name] = _DESCRIPTORS[name]()
                return True
        return False

    def handle(self, dice: Dice) -> int:
        """A Windows handle or a number: of something else, or of nothing."""
        if self.closed and dice.odds(0.2):
            return dice.one(self.closed)
        return dice.one(self._no_handles if dice.odds(0.4) else self._handles)

    def name(self, dice: Dice) -> Any:
        """A name: mostly one that can be given."""
        if dice.odds(0.8):
            return dice.one(self.names)
        if dice.odds(0.3):
            return None
        return dice.one(("", "Local\\x", "Global\\fuzz", "a\\b", "\ud800", "ä" * 70, "n" * 33_000))

    def address(self, dice: Dice) -> int | None:
        """An address that memory is imported from: the good one, or one that must be refused."""
        return self.good if dice.odds(0.3) else dice.one(self._addresses)

    def security(self, dice: Dice) -> Any:
        """SECURITY_ATTRIBUTES, right and wrong."""
        return dice.one(self._security)
