"""SYNC_FD: a descriptor that can be polled, and which becomes readable when it is signalled.

Linux has sync files for it, which drivers make. Here it is the reading end of a pipe: its only
writer is whoever will signal it, so that his death ends the wait as well. A real sync file can be
imported too: nothing is done with it but to poll it.
"""

from __future__ import annotations

import os
import select
import sys

from extmem.drivers.embedded.objects import Failure
from extmem.drivers.embedded.payload import refused
from extmem.drivers.embedded.signals import Local, Signal, tell
from extmem.vk import _constants as c

__all__ = ["SyncFile", "export_copy", "import_copy", "is_sync_file", "readable"]


class SyncFile(Signal):
    """A copy of somebody's payload. It is signalled once, and never again anything else."""

    def __init__(self, descriptor: int, types: int) -> None:
        super().__init__(counts=False, types=types)
        self.descriptor = descriptor  # ours

    def value(self) -> int:
        if self.descriptor < 0:
            raise ValueError("this copy of a payload was used up")
        return int(bool(readable([self.descriptor], 0)))

    def signal(self, value: int) -> None:
        raise Failure(c.VK_ERROR_UNKNOWN, "a copy of a payload is not signalled again")

    def reset(self) -> None:
        """It goes with the object's hold on it."""

    def close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def readable(descriptors: list[int], seconds: float) -> list[int]:
    """Which of them are signalled, after so long at most."""
    if sys.platform == "win32":
        raise NotImplementedError
    poll = select.poll()
    for each in descriptors:
        poll.register(each, select.POLLIN)
    return [each for each, _ in poll.poll(seconds * 1000)]


def is_sync_file(descriptor: int) -> bool:
    """Whether a descriptor can be a SYNC_FD: something to poll, and nothing that blocks."""
    if sys.platform == "win32":
        return False
    try:
        target = os.readlink(f"/proc/self/fd/{descriptor}")
    except (OSError, ValueError):
        return False
    if target == "anon_inode:sync_file":
        return True
    import fcntl

    reading = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    return target.startswith("pipe:") and reading


def import_copy(descriptor: int, types: int) -> SyncFile:
    """Take a descriptor in; it is ours from then on."""
    if not is_sync_file(descriptor):
        raise refused(f"descriptor {descriptor} is no sync file")
    return SyncFile(descriptor, types)


def export_copy(payload: Signal) -> int:
    """A descriptor with the state of a payload; the caller resets or drops the payload.

    What is pending is handed over: the next signal goes to the descriptor and to nobody else.
    """
    if sys.platform == "win32":
        raise NotImplementedError
    if isinstance(payload, SyncFile):
        import fcntl

        return fcntl.fcntl(payload.descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    assert isinstance(payload, Local)
    if not payload.value() and payload.pending <= len(payload.takers):
        raise Failure(c.VK_ERROR_UNKNOWN, "it is not signalled, and nothing will signal it")
    ours, end = os.pipe()
    if payload.value():
        tell(end)
    else:
        payload.takers.append(end)
    return ours
