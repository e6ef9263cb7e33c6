"""File descriptors: every question and every act on one goes through here."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys

__all__ = ["close", "close_if_same", "describe", "duplicate", "identity", "is_open", "set_private"]

Identity = tuple[int, int]


def duplicate(fd: int) -> int:
    """A new descriptor of the same file, closed on exec. OSError (EBADF) if `fd` is not open."""
    if sys.platform == "win32":
        raise OSError(errno.ENOSYS, "file descriptors of shared memory are POSIX")
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)
    except OSError as error:
        raise _explained(error, fd) from None


def _explained(error: OSError, fd: int) -> OSError:
    """The error of the system, with the descriptor and a remedy."""
    if error.errno == errno.EBADF:
        return OSError(error.errno, f"descriptor {fd} is not open; was it closed, or imported?")
    if error.errno == errno.EMFILE:
        return OSError(
            error.errno, "no descriptor is left for this process; see `ulimit -n`, and close some"
        )
    return error


def close(fd: int) -> None:
    """Close a descriptor that we own."""
    os.close(fd)


def set_private(fd: int) -> None:
    """Close the descriptor on exec, as every one of ours is; some drivers forget it."""
    os.set_inheritable(fd, False)


def is_open(fd: int) -> bool:
    """Whether the number is an open descriptor."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def identity(fd: int) -> Identity:
    """What file a descriptor stands for: device and inode."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def close_if_same(fd: int, expected: Identity) -> None:
    """Close `fd` if it still is the file that it was.

    For descriptors that a failing driver may have closed: the number may be free by now, or
    taken by another thread for something else. (That another thread got the number for the very
    same file cannot be told apart; it would take a second import of the same handle that fails
    at the same moment.)
    """
    try:
        if identity(fd) == expected:
            os.close(fd)
    except OSError:
        pass


def describe(fd: int) -> str:
    """What an open descriptor is: memfd, dma-buf, pipe, socket, file, device or other."""
    try:
        status = os.fstat(fd)
    except OSError as error:
        raise _explained(error, fd) from None
    mode = status.st_mode
    if stat.S_ISFIFO(mode):
        return "pipe"
    if stat.S_ISSOCK(mode):
        return "socket"
    if stat.S_ISDIR(mode):
        return "directory"
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        return "device"
    try:
        target = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        target = ""
    if target.startswith("/memfd:"):
        return "memfd"
    if target.startswith("/dmabuf:"):
        return "dma-buf"
    if target.startswith("anon_inode:"):
        return target.removeprefix("anon_inode:").strip("[]")
    return "file" if stat.S_ISREG(mode) else "other"
