"""A second process that runs one function, and whose failure is the test's failure.

    def peer(channel, driver):                      # in a module without fixtures
        message, fds = channel.receive()
        ...
        return {"read": data.hex()}

    with second.start(peer, driver=driver) as other:
        other.send({"passport": ...}, [fd])
        assert other.result() == {"read": ...}

Messages are JSON with descriptors beside them (SCM_RIGHTS). An exception over there comes back
with its traceback, a death by signal with the signal's name and what was written to stderr; a
process that takes too long is killed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Channel", "Other", "OtherFailed", "run", "start"]

ROOT = Path(__file__).resolve().parent.parent.parent

_MESSAGE = 1 << 17  # bytes; a packet carries a whole message
_DESCRIPTORS = 250  # the kernel's limit for one message is 253


class OtherFailed(AssertionError):
    """The second process raised, died, or took too long."""


class Channel:
    """Messages with descriptors to the process at the other end."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def send(self, message: Any, fds: Sequence[int] = ()) -> None:
        """Send a message and duplicates of descriptors; the caller keeps its own."""
        socket.send_fds(self._end, [json.dumps(message).encode()], list(fds))

    def receive(self) -> tuple[Any, list[int]]:
        """The next message, and descriptors that are the receiver's. EOFError at the end."""
        data, fds, _, _ = socket.recv_fds(self._end, _MESSAGE, _DESCRIPTORS)
        if not data:
            raise EOFError("the other process is gone")
        return json.loads(data), fds


class Other(Channel):
    """The second process, seen from the test."""

    def __init__(self, end: socket.socket, process: subprocess.Popen[bytes], log: Any) -> None:
        super().__init__(end)
        self.process = process
        self._log = log
        self._answer: tuple[Any] | None = None

    def receive(self) -> tuple[Any, list[int]]:
        """The next message of the function."""
        kind, content, fds = self._next()
        if kind != "message":
            raise OtherFailed(f"the second process ended with {content!r} instead of a message")
        return content, fds

    def result(self) -> Any:
        """What the function returned, once the process has ended well."""
        if self._answer is None:
            kind, content, fds = self._next()
            for fd in fds:
                os.close(fd)
            if kind != "result":
                raise OtherFailed(f"the second process sent {content!r} instead of its result")
            self._answer = (content,)
            self._end_well()
        return self._answer[0]

    def _stop(self) -> None:
        """Have it end, by force if its threads keep it."""
        try:
            self.process.wait(1.0)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self.process.kill()
        self.process.wait()

    def _next(self) -> tuple[str, Any, list[int]]:
        try:
            (kind, content), fds = super().receive()
        except (EOFError, ConnectionResetError):
            self._end_well()
            raise OtherFailed("the second process ended without a result") from None
        except TimeoutError:
            self.kill()
            raise OtherFailed(f"the second process took too long{self._said()}") from None
        if kind == "error":
            self._stop()
            raise OtherFailed(f"in the second process:\n{content}{self._said()}")
        return kind, content, fds

    def _end_well(self) -> None:
        try:
            code = self.process.wait(self._end.gettimeout())
        except subprocess.TimeoutExpired:
            self.kill()
            raise OtherFailed(f"the second process does not end{self._said()}") from None
        if code < 0:
            name = signal.Signals(-code).name
            raise OtherFailed(f"the second process was killed by {name}{self._said()}")
        if code:
            raise OtherFailed(f"the second process ended with {code}{self._said()}")

    def _said(self) -> str:
        self._log.seek(0)
        text = self._log.read().decode(errors="replace")[-6000:]
        return f"; it said:\n{text}" if text.strip() else ""


@contextmanager
def start(
    function: Callable[..., Any], *, timeout: float = 30.0, **arguments: Any
) -> Iterator[Other]:
    """Start `function(channel, **arguments)` in a new Python; the end of the `with` ends it.

    timeout: seconds for each message, and for the end
    """
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    here.settimeout(timeout)
    module, folder = _origin(function)
    path = os.pathsep.join([str(ROOT), folder, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    with here, tempfile.TemporaryFile() as log:
        with there:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-X", "faulthandler", "-m", "tests.support.child"),
                    *(str(there.fileno()), module, function.__qualname__, json.dumps(arguments)),
                ],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": path},
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        with process:
            try:
                yield Other(here, process, log)
            finally:
                if process.poll() is None:
                    process.kill()


def run(function: Callable[..., Any], *, timeout: float = 30.0, **arguments: Any) -> Any:
    """What a function returns that needs no messages."""
    with start(function, timeout=timeout, **arguments) as other:
        return other.result()


def _origin(function: Callable[..., Any]) -> tuple[str, str]:
    """The module to import in the other process, and the folder to look for it in."""
    file = Path(function.__code__.co_filename).resolve()
    if function.__module__.startswith("tests."):
        return function.__module__, str(ROOT)
    return file.stem, str(file.parent)  # as pytest imports a test module
