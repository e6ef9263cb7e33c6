"""A second process that runs one function, and whose failure is the test's failure.

    def peer(channel, driver):                      # in a module without fixtures
        message, fds = channel.receive()
        ...
        return {"read": data.hex()}

    with second.start(peer, driver=driver) as other:
        other.send({"passport": ...}, [fd])
        assert other.result() == {"read": ...}

Messages are JSON with descriptors beside them (SCM_RIGHTS). A Windows handle travels as a number
in the message, which the sender makes mean something over there:

        other.send({"handle": other.give(handle)})

An exception over there comes back with its traceback, a death by signal with the signal's name and
what was written to stderr; a process that takes too long is killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from extmem import win32
from tests.support import wire
from tests.support.wire import Log, Wire

__all__ = ["Channel", "Other", "OtherFailed", "run", "start"]

ROOT = Path(__file__).resolve().parent.parent.parent

# Seconds for each message of another process. A Windows Python under Wine takes two to start where
# it is alone, and half a minute where ten programs share two cores.
PATIENCE = 90.0


class OtherFailed(AssertionError):
    """The second process raised, died, or took too long."""


class Channel:
    """Messages with descriptors to the process at the other end."""

    def __init__(self, end: Wire, pid: int) -> None:
        self._end = end
        self.pid = pid  # of the process at the other end

    def send(self, message: Any, fds: Sequence[int] = ()) -> None:
        """Send a message and duplicates of descriptors; the caller keeps its own."""
        self._end.send(json.dumps(message).encode(), fds)

    def receive(self) -> tuple[Any, list[int]]:
        """The next message, and descriptors that are the receiver's. EOFError at the end."""
        data, fds = self._end.receive()
        return json.loads(data), fds

    def give(self, handle: int, access: int | None = None) -> int:
        """Duplicate a Windows handle into the other process; its number there, to be sent.

        The duplicate is the other process' to close. access: None for the same as this handle's
        """
        process = win32.OpenProcess(win32.PROCESS_DUP_HANDLE, False, self.pid)
        options = win32.DUPLICATE_SAME_ACCESS if access is None else 0
        try:
            return win32.DuplicateHandle(
                win32.GetCurrentProcess(), handle, process, access or 0, False, options
            )
        finally:
            win32.CloseHandle(process)

    def close(self) -> None:
        """Close this end; the process at the other one meets EOFError."""
        self._end.close()


class Other(Channel):
    """The second process, seen from the test."""

    def __init__(self, end: Wire, process: subprocess.Popen[bytes], log: Log) -> None:
        super().__init__(end, process.pid)
        self.process = process
        self._log = log
        self._answer: tuple[Any] | None = None

    def wait_no_longer_than(self, seconds: float) -> None:
        """How long each message may take from now on."""
        self._end.timeout = seconds

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
        except EOFError:
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
            code = self.process.wait(self._end.timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise OtherFailed(f"the second process does not end{self._said()}") from None
        if code < 0:
            name = signal.Signals(-code).name
            raise OtherFailed(f"the second process was killed by {name}{self._said()}")
        if code:
            shown = f"{code:#x}" if code >> 31 else str(code)  # Windows' number of an exception
            raise OtherFailed(f"the second process ended with {shown}{self._said()}")

    def _said(self) -> str:
        text = self._log.text()[-6000:]
        return f"; it said:\n{text}" if text.strip() else ""


@contextmanager
def start(
    function: Callable[..., Any],
    *,
    timeout: float = PATIENCE,
    inherit: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
    **arguments: Any,
) -> Iterator[Other]:
    """Start `function(channel, **arguments)` in a new Python; the end of the `with` ends it.

    timeout: seconds for each message, and for the end
    inherit: descriptors that it gets under the same numbers; on Windows handles, inheritable ones
    environment: what its environment has beside this process'
    """
    here, there = wire.pair()
    here.timeout = timeout
    module, folder = _origin(function)
    path = os.pathsep.join([str(ROOT), folder, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    log = Log()
    with here, closing(log):
        with there:
            if sys.platform == "win32":
                os.set_handle_inheritable(there.fileno(), True)
            process = wire.started(
                [
                    *(sys.executable, "-X", "faulthandler", "-m", "tests.support.child"),
                    *(str(there.fileno()), str(os.getpid())),
                    *(module, function.__qualname__, json.dumps(arguments)),
                ],
                [there.fileno(), *inherit],
                log,
                cwd=ROOT,
                env={**os.environ, **(environment or {}), "PYTHONPATH": path},
            )
        try:
            yield Other(here, process, log)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def run(function: Callable[..., Any], *, timeout: float = PATIENCE, **arguments: Any) -> Any:
    """What a function returns that needs no messages."""
    with start(function, timeout=timeout, **arguments) as other:
        return other.result()


def _origin(function: Callable[..., Any]) -> tuple[str, str]:
    """The module to import in the other process, and the folder to look for it in."""
    file = Path(function.__code__.co_filename).resolve()
    if function.__module__.startswith("tests."):
        return function.__module__, str(ROOT)
    return file.stem, str(file.parent)  # as pytest imports a test module
