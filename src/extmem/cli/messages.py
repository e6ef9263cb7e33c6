"""The demo's messages, and the kernel's word on how many bytes a process moved."""

from __future__ import annotations

import os
import struct
import sys

__all__ = ["ANSWER", "END", "PICTURE", "READY", "KernelCounters", "receive", "receive_all", "send"]

PICTURE = struct.Struct("<QIIQ")  # number, slot, checksum, when published (perf_counter_ns)
ANSWER = struct.Struct("<QQQ?")  # number, when published, when seen, whether it was right
READY = b"r"  # the other process has imported the memory
END = (1 << 64) - 1  # a picture's number that says there are no more


def send(channel: int, kind: struct.Struct, *values: int) -> int:
    """Write one message; the bytes written."""
    data = kind.pack(*values)
    left = memoryview(data)
    while left:
        left = left[os.write(channel, left) :]
    return len(data)


def receive(channel: int, kind: struct.Struct) -> tuple[tuple[int, ...], int]:
    """Read one message, and how many bytes it was. EOFError if the other side is gone."""
    data = b""
    while len(data) < kind.size:
        more = os.read(channel, kind.size - len(data))
        if not more:
            raise EOFError("the other process ended early")
        data += more
    return kind.unpack(data), len(data)


def receive_all(channel: int) -> bytes:
    """Read until the other side closes."""
    data = b""
    while more := os.read(channel, 65536):
        data += more
    return data


class KernelCounters:
    """What the kernel counted of this process' reads and writes, from now on (Linux only).

    one_thread: of the calling thread alone, where another one draws a progress bar
    """

    def __init__(self, one_thread: bool = False) -> None:
        self._file = "/proc/thread-self/io" if one_thread else "/proc/self/io"
        self._start = _read(self._file)

    def since(self) -> dict[str, int] | None:
        """Bytes read and written since the start, without our looking; None if unreadable."""
        end = _read(self._file)
        if self._start is None or end is None:
            return None
        # The first look itself was a read, which the kernel counted after it had answered.
        return {
            "read": end[0] - self._start[0] - self._start[2],
            "written": end[1] - self._start[1],
        }


def _read(path: str) -> tuple[int, int, int] | None:
    """rchar, wchar, and how long this look was."""
    if sys.platform != "linux":
        return None
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(file, 4096)
        finally:
            os.close(file)
    except OSError:
        return None
    values = dict(line.split(b": ") for line in text.splitlines())
    return int(values[b"rchar"]), int(values[b"wchar"]), len(text)
