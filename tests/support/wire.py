"""What a second process is reached through: a socket on Linux, a pipe on Windows; and what it says.

Both carry whole messages. Descriptors travel on sockets alone: on Windows a handle is duplicated
into the other process (`Channel.give`), and its number is part of the message.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Any, Self

__all__ = ["Log", "Wire", "pair", "started"]

_MESSAGE = 1 << 17  # bytes; a packet carries a whole message
_DESCRIPTORS = 250  # the kernel's limit for one message is 253

if sys.platform == "win32":
    from multiprocessing.connection import Pipe, PipeConnection
else:
    import socket


class Wire:
    """One end."""

    def __init__(self, end: Any) -> None:
        self._end = end
        self.timeout: float | None = None  # seconds to wait for a message; None: forever

    @classmethod
    def inherited(cls, number: int) -> Wire:
        """The end that this process was started with."""
        if sys.platform == "win32":
            end = PipeConnection(number)
            os.set_handle_inheritable(number, False)
        else:
            end = socket.socket(fileno=number)
            end.set_inheritable(False)
        return cls(end)

    def fileno(self) -> int:
        """The descriptor, or on Windows the handle."""
        number: int = self._end.fileno()
        return number

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send a message and duplicates of descriptors."""
        if sys.platform == "win32":
            if fds:
                raise TypeError("descriptors do not travel on Windows: see Channel.give")
            self._end.send_bytes(data)
        else:
            socket.send_fds(self._end, [data], list(fds))

    def receive(self) -> tuple[bytes, list[int]]:
        """The next message. EOFError if nobody is there any more, TimeoutError after `timeout`."""
        if sys.platform == "win32":
            try:
                if not self._end.poll(self.timeout):
                    raise TimeoutError(f"no message within {self.timeout} s")
                return self._end.recv_bytes(), []
            except BrokenPipeError:
                raise EOFError("the other process is gone") from None
        self._end.settimeout(self.timeout)
        try:
            data, fds, _, _ = socket.recv_fds(self._end, _MESSAGE, _DESCRIPTORS)
        except ConnectionResetError:
            data, fds = b"", []
        if not data:
            raise EOFError("the other process is gone")
        return data, fds

    def close(self) -> None:
        """Close this end."""
        self._end.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def pair() -> tuple[Wire, Wire]:
    """Two ends that are connected."""
    if sys.platform == "win32":
        here, there = Pipe()
    else:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Wire(here), Wire(there)


def started(
    arguments: Sequence[str], inherit: Sequence[int], log: Log, **options: Any
) -> subprocess.Popen[bytes]:
    """Start a program that inherits these descriptors, or on Windows these handles, and no other.

    They keep their numbers. On Windows they must be inheritable.
    """
    if sys.platform == "win32":
        options["startupinfo"] = subprocess.STARTUPINFO(
            lpAttributeList={"handle_list": list(inherit)} if inherit else None
        )
    else:
        options["pass_fds"] = list(inherit)
    process = subprocess.Popen(
        arguments, stdin=subprocess.DEVNULL, stdout=log.target, stderr=subprocess.STDOUT, **options
    )
    log.follow(process)
    return process


class Log:
    """What a process writes to its standard streams."""

    # A file, which nobody has to read in time; but Wine 8 starts no Python on one.
    def __init__(self) -> None:
        self._file = None if sys.platform == "win32" else tempfile.TemporaryFile()  # noqa: SIM115
        self.target: Any = subprocess.PIPE if self._file is None else self._file
        self._parts: list[bytes] = []
        self._stream: IO[bytes] | None = None
        self._reader: threading.Thread | None = None

    def follow(self, process: subprocess.Popen[bytes]) -> None:
        """Read what the process writes, so that it never waits for a reader."""
        self._stream = stream = process.stdout
        if stream is not None:
            self._reader = threading.Thread(
                target=lambda: self._parts.extend(iter(lambda: os.read(stream.fileno(), 4096), b""))
            )
            self._reader.start()

    def text(self) -> str:
        """All of it, once the process has ended."""
        if self._file is not None:
            self._file.seek(0)
            return self._file.read().decode(errors="replace")
        if self._reader is not None:
            self._reader.join(5)
        return b"".join(self._parts).decode(errors="replace")

    def close(self) -> None:
        """After the end of the process."""
        if self._file is not None:
            self._file.close()
        if self._reader is not None and self._stream is not None:
            self._reader.join()
            self._stream.close()
