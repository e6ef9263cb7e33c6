"""What a channel runs on, on Linux: Unix sockets that keep packets whole (SOCK_SEQPACKET).

Descriptors travel beside a packet (SCM_RIGHTS), and the kernel says who the peer is (SO_PEERCRED).
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import select
import socket
import sys
import time
from collections.abc import Iterator

from extmem.handles import posix
from extmem.handles.directory.folder import Folder, where
from extmem.handles.directory.processes import peer_of
from extmem.share.parcels import LARGEST_PACKET, MOST_HANDLES, Lie

if sys.platform == "win32":
    raise ImportError("Windows has no sockets that carry handles; see share.pipes")

__all__ = ["End", "Post", "dial", "listeners", "pair", "refuse_unlike", "user"]

_ROOM_BESIDE = socket.CMSG_SPACE(4 * MOST_HANDLES)
_WAITING = 64  # connections that nobody accepted yet
_LOCK_PATIENCE = 5.0  # seconds; the lock is held for one system call or two
_LONGEST = 100  # what a socket's address has room for is 107, with some systems less
_FILE_END = ".sock"


def user() -> int:
    """Whom this process acts for."""
    return os.geteuid()


class End:
    """One end of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        with contextlib.suppress(OSError):  # where the system gives less, large parcels are refused
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * LARGEST_PACKET)
        self._sock = sock
        found = peer_of(sock)
        self.process_id = found.process_id
        self.user: int | str = found.user.uid

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, data: bytes, descriptors: list[int], timeout: float | None) -> None:
        """Send a packet. TimeoutError if the peer does not read, BrokenPipeError if it is gone."""
        beside = []
        if descriptors:
            beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        until = _until(timeout)
        while True:
            try:
                self._sock.sendmsg([data], beside, socket.MSG_NOSIGNAL)
                return
            except BlockingIOError:
                _wait(self._sock, select.POLLOUT, until, "the peer does not read")
            except ConnectionError:
                raise BrokenPipeError(errno.EPIPE, "the peer is gone") from None

    def receive(self, timeout: float | None) -> tuple[bytes, list[int]]:
        """A packet and its descriptors, which are the caller's. EOFError if the peer is gone."""
        until = _until(timeout)
        while True:
            try:
                data, beside, flags, _ = self._sock.recvmsg(
                    LARGEST_PACKET, _ROOM_BESIDE, socket.MSG_CMSG_CLOEXEC
                )
                break
            except BlockingIOError:
                _wait(self._sock, select.POLLIN, until, "nothing came")
            except ConnectionResetError:
                raise EOFError("the peer is gone") from None
        found = array.array("i")
        for level, kind, content in beside:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                found.frombytes(content[: len(content) // 4 * 4])
        try:
            if flags & socket.MSG_CTRUNC and len(found) < MOST_HANDLES:
                raise OSError(
                    errno.EMFILE,
                    "a parcel was lost: this process has no descriptor left for what came with it; "
                    "close some, or see `ulimit -n`, and have it sent again",
                )
            if flags & socket.MSG_CTRUNC:
                raise Lie(f"more than {MOST_HANDLES} descriptors")
            if flags & socket.MSG_TRUNC:
                raise Lie(f"a packet of more than {LARGEST_PACKET} bytes")
            if not data:
                if found:
                    raise Lie("descriptors without a packet")
                raise EOFError("the peer is gone")
        except BaseException:
            for fd in found:
                os.close(fd)
            raise
        return data, found.tolist()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # wakes a thread that waits here; the peer may be gone
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def let_go(self) -> None:
        """Close it here alone: another process has this same end, and goes on with it."""
        self._sock.close()


class Post:
    """Where connections are taken: a socket in this user's folder or, for others to reach it, one
    without a file, whose name carries the user's number.
    """

    def __init__(self, name: str, others: bool) -> None:
        self._folder: Folder | None = None
        self._file = _file(name)
        self._mine: tuple[int, int] | None = None  # the socket file that is ours, once there is one
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._sock.setblocking(False)
            if others:
                self._bind(_abstract(name, user()), name)
                self._sock.listen(_WAITING)
            else:
                self._folder = Folder.open(where())
                with _locked(self._folder):
                    self._bind_file(name)
                    self._sock.listen(_WAITING)
        except BaseException:
            self.close()
            raise

    def _bind(self, address: str, name: str) -> None:
        try:
            self._sock.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise FileExistsError(
                errno.EEXIST,
                f"somebody listens as {name!r} already; close that listener, or take another name",
            ) from None

    def _bind_file(self, name: str) -> None:
        assert self._folder is not None
        address = _address(self._folder, self._file)
        if _is_left_over(address):
            os.unlink(self._file, dir_fd=self._folder.fd)
        self._bind(address, name)
        status = os.stat(self._file, dir_fd=self._folder.fd)
        self._mine = (status.st_dev, status.st_ino)

    def accept(self, timeout: float | None) -> End:
        """The next connection, of whomsoever."""
        until = _until(timeout)
        while True:
            try:
                return End(self._sock.accept()[0])
            except BlockingIOError:
                _wait(self._sock, select.POLLIN, until, "nobody connected")
            except ConnectionAbortedError:
                continue  # that one has gone again

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        folder, self._folder = self._folder, None
        if folder is None:
            return
        with folder:
            if self._mine is None:
                return
            with contextlib.suppress(OSError), _locked(folder):
                status = os.stat(self._file, dir_fd=folder.fd, follow_symlinks=False)
                if (status.st_dev, status.st_ino) == self._mine:  # nobody took the name since
                    os.unlink(self._file, dir_fd=folder.fd)

    def let_go(self) -> None:
        """Close it here alone: another process has it, and goes on with it."""
        self._sock.close()
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.close()


def dial(name: str, whose: int | str, timeout: float) -> End:
    """A connection to a listener. ConnectionRefusedError if there is none in time."""
    until = time.monotonic() + timeout
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.setblocking(False)
            if _reach(sock, name, whose):
                return End(sock)
            if time.monotonic() >= until:
                raise ConnectionRefusedError(
                    errno.ECONNREFUSED,
                    f"nobody listens as {name!r} of user {whose}, or takes connections, for "
                    f"{timeout:g} s; start the listener first, or wait longer: timeout=",
                )
        except BaseException:
            sock.close()
            raise
        sock.close()
        time.sleep(0.01)


def _reach(sock: socket.socket, name: str, whose: int | str) -> bool:
    """Connect; whether somebody is there."""
    addresses = [_abstract(name, whose)]
    with contextlib.ExitStack() as stack:
        if whose == user():
            folder = stack.enter_context(Folder.open(where()))
            addresses.insert(0, _address(folder, _file(name)))
        for address in addresses:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError, BlockingIOError):
                sock.connect(address)
                return True
    return False


def pair() -> tuple[End, End]:
    """Two ends that are connected, both of this process."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return End(here), End(there)


_CARRIERS = {
    "memory": ("memfd", "dma-buf", "device", "file"),
    "semaphore": ("memfd", "device", "file", "sync_file"),
    "fence": ("memfd", "device", "file", "sync_file"),
}


def refuse_unlike(object: str, fd: int) -> None:
    """Lie if a descriptor that arrived can be no memory, semaphore or fence."""
    what = posix.describe(fd)
    if what not in _CARRIERS[object]:
        raise Lie(f"a descriptor of a {what}, which is no {object}")


def _file(name: str) -> str:
    return f"channel-{name}{_FILE_END}"


def _abstract(name: str, whose: int | str) -> str:
    return f"\0extmem-channel-{whose}-{name}"


def _address(folder: Folder, file: str) -> str:
    path = str(folder.path / file)
    if len(os.fsencode(path)) <= _LONGEST:
        return path
    return f"/proc/self/fd/{folder.fd}/{file}"


def _is_left_over(address: str) -> bool:
    """Whether a socket's file is there that nobody listens at, as a killed process leaves it."""
    # A socket of another type is never connected: one that listens says so, without noticing.
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(address) == errno.ECONNREFUSED


@contextlib.contextmanager
def _locked(folder: Folder) -> Iterator[None]:
    """Nobody else binds or removes a socket meanwhile."""
    until = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(folder.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= until:
                raise TimeoutError(
                    errno.ETIMEDOUT,
                    f"a process holds the lock of {folder.path} for {_LOCK_PATIENCE:g} s; is it "
                    "stopped?",
                ) from None
            time.sleep(0.005)
    try:
        yield
    finally:
        fcntl.flock(folder.fd, fcntl.LOCK_UN)


def _until(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _wait(sock: socket.socket, event: int, until: float | None, what: str) -> None:
    """Wait until something can be done, or TimeoutError."""
    poll = select.poll()
    poll.register(sock, event)
    left = None if until is None else max(until - time.monotonic(), 0)
    if not poll.poll(None if left is None else left * 1000):
        raise TimeoutError(errno.ETIMEDOUT, f"{what} in time")


def listeners(beginning: str) -> dict[str, object]:
    """The names of this user's listeners that begin so, each with what tells it from another one
    that takes the name later; None for one that was killed and left its socket's file. Nobody
    notices that they were looked for.
    """
    found: dict[str, object] = {}
    try:
        folder = Folder.open(where(), make=False)
    except OSError:
        return found
    start = _file(beginning).removesuffix(_FILE_END)
    with folder:
        for file in os.listdir(folder.fd):
            if not (file.startswith(start) and file.endswith(_FILE_END)):
                continue
            name = file.removeprefix(_file("").removesuffix(_FILE_END)).removesuffix(_FILE_END)
            with contextlib.suppress(OSError):  # it ends just now
                status = os.stat(file, dir_fd=folder.fd, follow_symlinks=False)
                mine = (status.st_dev, status.st_ino, status.st_ctime_ns)
                found[name] = None if _is_left_over(_address(folder, file)) else mine
    return found
