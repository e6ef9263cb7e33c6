"""Who a process is, and whether it still runs."""

from __future__ import annotations

import ctypes
import errno
import functools
import hashlib
import logging
import os
import select
import socket
import struct
import sys
from dataclasses import dataclass

from extmem.handles.sddl import User

if sys.platform == "win32":
    raise ImportError("Windows has handles of its own; the directory is for Linux")

__all__ = ["Peer", "Watched", "command_of", "hung_up", "peer_of", "program"]

log = logging.getLogger("extmem.directory")

_SO_PEERGROUPS, _SO_PEERPIDFD = 59, 77  # on all architectures that have Python wheels


@dataclass(frozen=True, slots=True)
class Peer:
    """Who made a connection, in the kernel's own words."""

    process_id: int  # 0: not in this PID namespace
    user: User


def peer_of(connection: socket.socket) -> Peer:
    """Who is at the other end."""
    layout = struct.Struct("iII")
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, layout.size)
    process_id, uid, gid = layout.unpack(raw)
    groups: tuple[int, ...] = ()
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)  # Python has no more
        groups = struct.unpack(f"{len(raw) // 4}I", raw[: len(raw) // 4 * 4])
    except OSError as error:  # before Linux 4.13, or more than 256 groups
        log.info("the groups of process %d are not known: %s", process_id, error)
    return Peer(process_id, User(uid, frozenset((gid, *groups))))


def hung_up(connection: socket.socket) -> bool:
    """Whether nobody is at the other end any more, also where something is left to read."""
    poll = select.poll()
    poll.register(connection, 0)  # which a hang-up is told to all the same
    return bool(poll.poll(0))


_AT_RANDOM = 25  # of the auxiliary vector: 16 bytes that the kernel draws for each program


@functools.cache
def program() -> bytes:
    """What this process runs: the same until it ends or becomes another by `execve`.

    b"" where the system does not tell. A hash, because the bytes themselves guard the stack.
    """
    try:
        ask = ctypes.CDLL(None).getauxval
    except (OSError, AttributeError):
        return b""
    ask.restype, ask.argtypes = ctypes.c_ulong, (ctypes.c_ulong,)
    address = ask(_AT_RANDOM)
    if not address:
        return b""
    return hashlib.blake2b(ctypes.string_at(address, 16), digest_size=16).digest()


def command_of(process_id: int) -> str:
    """What a process calls itself."""
    try:
        with open(f"/proc/{process_id}/comm", "rb") as file:
            return file.read(64).decode("utf-8", "replace").strip()
    except OSError:
        return "?"


def _uid_of(process_id: int) -> int | None:
    """Whom a process acts for; None if it cannot be seen."""
    try:
        with open(f"/proc/{process_id}/status", "rb") as file:
            for line in file:
                if line.startswith(b"Uid:"):
                    return int(line.split()[2])
    except OSError:
        pass
    return None


def _started(process_id: int) -> int | None:
    """When a process began, in ticks; None if there is none, or a dead one."""
    try:
        with open(f"/proc/{process_id}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


class Watched:
    """A process that was there when this was made. Its number may mean another one later."""

    def __init__(self, process_id: int, connection: socket.socket | None = None) -> None:
        """ProcessLookupError if there is none of that number.

        connection: one of its own, by which the kernel can tell it from a later one of its number
        """
        self.process_id = process_id
        self.fd: int | None = None  # a pidfd: readable when the process ends
        self._started = _started(process_id)
        try:
            self.fd = _pidfd(process_id, connection)
        except OSError as error:
            # EINVAL, ENOENT: a thread that is no process. ENOSYS, EPERM: an old kernel, a filter.
            if error.errno in (errno.ESRCH, errno.EINVAL, errno.ENOENT):
                raise ProcessLookupError(3, "there is no such process") from None
            log.info("no pidfd for process %d (%s): it is polled", process_id, error)
            if self._started is None:
                raise ProcessLookupError(3, "there is no such process") from None
        try:
            self.command = command_of(process_id)
            self.uid = _uid_of(process_id)
            if not self.runs():  # what was read may be of another
                raise ProcessLookupError(3, "there is no such process")
        except BaseException:
            self.close()
            raise

    def runs(self) -> bool:
        """Whether it does still."""
        if self.fd is None:
            return self._started is not None and _started(self.process_id) == self._started
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        fd, self.fd = self.fd, None
        if fd is not None:
            os.close(fd)


def _pidfd(process_id: int, connection: socket.socket | None) -> int:
    if connection is not None:
        try:
            raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, 4)
            fd: int = struct.unpack("i", raw)[0]
            os.set_inheritable(fd, False)
            return fd
        except OSError:  # before Linux 6.5; or it ended, which the next line finds out
            pass
    if not hasattr(os, "pidfd_open"):  # Python was built for an older system
        raise OSError(38, "Function not implemented")
    return os.pidfd_open(process_id)
