"""What a driver's own descriptors look like, so that others are refused before it sees them.

What lies in the directory was put there by a peer, and drivers hang or die of descriptors that are
not theirs. This tells a memfd from a device, a GPU from /dev/null, and a file that is too short
from one that is not. It does not tell what is in it, nor what a peer does to it afterwards.
"""

from __future__ import annotations

import os
import stat
import sys
from ctypes import c_int32, c_uint64
from dataclasses import dataclass

from extmem.drivers.bridge.shared import descriptor_of
from extmem.drivers.bridge.sorts import Sort
from extmem.drivers.bridge.types import FD
from extmem.drivers.driver import Command
from extmem.handles import posix
from extmem.vk import _constants as c
from extmem.vk import _structures as s

__all__ = ["Commands", "Likeness", "likeness", "own_likeness"]


@dataclass(frozen=True, slots=True)
class Commands:
    """Those of the driver below that are about handles."""

    create: Command
    destroy: Command
    get_fd: Command
    import_fd: Command


@dataclass(frozen=True, slots=True)
class Likeness:
    """What a descriptor looks like."""

    what: str  # "memfd", "device", ...
    size: int  # bytes of a file, else 0
    major: int  # of a device: whose it is; else 0

    def problem(self, other: Likeness) -> str:
        """Why another descriptor cannot be of the same driver; "" if it may be."""
        if other.what != self.what:
            return f"its descriptor is a {other.what}, and this driver's are {self.what}s"
        if other.major != self.major:
            return f"its descriptor is of device {other.major}, and this driver's of {self.major}"
        if other.size != self.size:
            return f"its descriptor has {other.size} bytes, and this driver's have {self.size}"
        return ""


def likeness(fd: int) -> Likeness:
    """That of an open descriptor."""
    if sys.platform == "win32":
        raise NotImplementedError
    status = os.fstat(fd)
    size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    major = os.major(status.st_rdev) if stat.S_ISCHR(status.st_mode) else 0
    return Likeness(posix.describe(fd), size, major)


def own_likeness(sort: Sort, commands: Commands, device: int, timeline: bool) -> Likeness | None:
    """What the driver's own look like: one is made to look at. None if it gave none."""
    export = sort.export(handleTypes=FD)
    if timeline:
        export.pNext = s.VkSemaphoreTypeCreateInfo(semaphoreType=c.VK_SEMAPHORE_TYPE_TIMELINE)
    made = c_uint64()
    if commands.create(device, sort.create_info(pNext=export), None, made):
        return None
    try:
        box = c_int32(-1)
        wanted = sort.get_info(**{sort.object: made.value}, handleType=FD)
        fd = descriptor_of(int(commands.get_fd(device, wanted, box)), box)
        try:
            return likeness(fd)
        finally:
            posix.close(fd)
    except OSError:
        return None
    finally:
        commands.destroy(device, made.value, None)
