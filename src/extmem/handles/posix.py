"""File descriptors: every question and every act on one goes through here."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys

__all__ = [
    "close",
    "close_if_same",
    "describe",
    "duplicate",
    "identity",
    "is_open",
    "no_memory",
    "set_private",
    "size_of",
]

Identity = tuple[int, int]

# What drivers' memory comes as.
_MEMORY = ("memfd", "dma-buf", "device")
# Character devices that are no GPU: /dev/null and /dev/zero, terminals.
_OTHER_DEVICES = {1: "a memory device such as /dev/zero", 4: "a terminal", 5: "a terminal"}
_OTHER_DEVICES |= dict.fromkeys(range(136, 144), "a terminal")


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


def no_memory(kind: str, major: int, wanted: tuple[str, ...] = _MEMORY) -> str | None:
    """What a descriptor is that can be no memory of a driver; None if it may be.

    kind: as `describe` says
    major: of a device, whose driver answers it
    wanted: the kinds that it may be of

    >>> no_memory("device", 1)
    'a memory device such as /dev/zero, not memory of a device'
    """
    if kind == "device" and major in _OTHER_DEVICES:
        return f"{_OTHER_DEVICES[major]}, not memory of a device"
    return None if kind in wanted else f"a {kind}, not a {' or '.join(wanted)}"


def size_of(fd: int) -> int | None:
    """Bytes behind a descriptor of memory; None where its kind does not tell.

    Whoever else has the file may shorten it at any time, unless it is sealed.
    """
    kind = describe(fd)
    if kind == "memfd":
        return os.fstat(fd).st_size
    if kind == "dma-buf":  # which has a size at its end alone, and no position
        try:
            return os.lseek(fd, 0, os.SEEK_END)
        except OSError:
            return None
    return None
