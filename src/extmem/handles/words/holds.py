"""A hold: something that a process has until it gives it back or dies, however it dies.

Others can ask whether it is still held. It is no lock: who may take it is decided by a word beside
it. A hold goes by a number that its owner draws, and which nobody else has drawn.
"""

from __future__ import annotations

import secrets
import sys

from extmem.handles.words.pages import Pages

__all__ = ["Hold"]

if sys.platform == "win32":
    from extmem.handles import winerror
    from extmem.handles.nt_calls import last_error, require, windows

    _SYNCHRONIZE = 0x100000

    class Hold:
        """A named event that only the holder has; the kernel closes it for who dies."""

        def __init__(self, pages: Pages, byte: int) -> None:
            self._pages = pages
            self._byte = byte
            self._handle = 0

        def _name(self, number: int) -> str:
            identity = self._pages.identity.hex()
            return f"{self._pages.prefix}extmem-hold-{identity}-{self._byte}-{number:016x}"

        @property
        def mine(self) -> bool:
            """Whether this object has it."""
            return bool(self._handle)

        def take(self) -> int:
            """Have it; the number that it goes by from now on."""
            assert not self._handle
            number = secrets.randbits(62) | 2
            handle = windows().CreateEventW(None, True, False, self._name(number))
            require(handle, "cannot make an event that says who holds a keyed mutex")
            self._handle = int(handle)
            return number

        def drop(self) -> None:
            """Give it back. Safe to call again."""
            handle, self._handle = self._handle, 0
            if handle:
                windows().CloseHandle(handle)

        def alive(self, number: int) -> bool:
            """Whether somebody has the hold of this number: this object, or another."""
            handle = windows().OpenEventW(_SYNCHRONIZE, False, self._name(number))
            if handle:
                windows().CloseHandle(handle)
                return True
            return last_error() != winerror.FILE_NOT_FOUND  # another user's may not be opened

else:
    import errno
    import fcntl
    import struct

    from extmem.handles.words.futex import lock_request

    class Hold:
        """A lock on one byte of the file; the kernel drops it with the process that has it."""

        def __init__(self, pages: Pages, byte: int) -> None:
            self._pages = pages
            own = pages.own
            self._set = fcntl.F_OFD_SETLK if own else fcntl.F_SETLK
            self._get = fcntl.F_OFD_GETLK if own else fcntl.F_GETLK
            self._take = lock_request(fcntl.F_WRLCK, byte)
            self._drop = lock_request(fcntl.F_UNLCK, byte)
            self._mine = False

        @property
        def mine(self) -> bool:
            """Whether this object has it."""
            return self._mine

        def take(self) -> int:
            """Have it; the number that it goes by from now on."""
            assert not self._mine
            try:
                fcntl.fcntl(self._pages.descriptor, self._set, self._take)
            except OSError as problem:
                if problem.errno in (errno.EAGAIN, errno.EACCES):
                    raise TimeoutError("another process keeps what shows who holds it") from None
                raise
            self._mine = True
            return secrets.randbits(62) | 2

        def drop(self) -> None:
            """Give it back. Safe to call again."""
            mine, self._mine = self._mine, False
            if mine:
                fcntl.fcntl(self._pages.descriptor, self._set, self._drop)

        def alive(self, number: int) -> bool:
            """Whether somebody has the hold of this number: this object, or another."""
            if self._mine:
                return True
            found = fcntl.fcntl(self._pages.descriptor, self._get, self._take)
            (kind,) = struct.unpack_from("h", found)
            return bool(kind != fcntl.F_UNLCK)
