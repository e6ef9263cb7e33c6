"""Host memory: whether a range of addresses can be read and written without a fault."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from extmem.vk._base import readable

__all__ = ["HostRange", "examine"]

# Whose memory is a driver's, and what lies under /dev and is ordinary memory all the same.
_FOREIGN = ("/dev/", "/dmabuf:", "anon_inode:")
_PLAIN = ("/dev/shm/", "/dev/zero", "/dev/hugepages/")
_END = 1 << 64


@dataclass(frozen=True, slots=True)
class HostRange:
    """What was found at a range of addresses."""

    problem: str  # why it cannot be read and written as a whole, "" if it can
    device: str = ""  # the device file or dma-buf that is mapped there, "" if none is


@dataclass(frozen=True, slots=True)
class _Area:
    """One line of /proc/self/maps."""

    start: int
    end: int
    rights: str
    file: bool
    path: str


def examine(address: int, size: int) -> HostRange | None:
    """Look at `size` bytes at `address`; None where the system cannot be asked.

    Linux answers. Windows could (VirtualQuery) and is not asked yet, so it stays undecided there.
    What another thread maps or unmaps afterwards is not seen, of course.
    """
    if sys.platform != "linux":
        return None
    if not address:
        return HostRange("is NULL")
    end = address + size
    if end > _END:
        return HostRange("reaches past the end of the address space")
    found = _judge(address, end)
    if found.problem:
        # The list is not read at one instant: a neighbour that was just moved may look missing.
        found = _judge(address, end)
    return found


def _judge(address: int, end: int) -> HostRange:
    device, reached = "", address
    for area in _areas(address, end):
        if area.start > reached:
            break
        rights = area.rights
        if rights[:2] != "rw":
            what = {"r-": "readable only", "-w": "writable only"}.get(rights[:2], "not accessible")
            return HostRange(f"is {what} at {reached:#x}", device)
        if area.path.startswith(_FOREIGN) and not area.path.startswith(_PLAIN):
            device = area.path
        elif area.file:
            # A mapping may be longer than its file; what lies behind the file's end faults.
            last = min(area.end, end) - 1
            if not readable(last, 1):
                problem = f"faults at {last:#x}: {area.path} is shorter than its mapping"
                return HostRange(problem, device)
        reached = area.end
        if reached >= end:
            return HostRange("", device)
    return HostRange(f"is not mapped at {reached:#x}", device)


def _areas(address: int, end: int) -> Iterator[_Area]:
    """What is mapped within a range, by address."""
    with open("/proc/self/maps", "rb", buffering=1 << 16) as lines:
        for line in lines:
            bounds, _, rest = line.partition(b" ")
            first, _, last = bounds.partition(b"-")
            if int(last, 16) <= address:
                continue
            start = int(first, 16)
            if start >= end:
                return
            # rights, offset, device, inode, path
            fields = rest.rstrip(b"\n").split(None, 4)
            path = os.fsdecode(fields[4]) if len(fields) > 4 else ""
            yield _Area(start, int(last, 16), fields[0].decode(), fields[3] != b"0", path)
