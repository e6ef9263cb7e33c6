"""A directory of a test's own, and other processes that use it."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from extmem.handles.directory.client import DirectoryKernel
from extmem.handles.winerror import code_of

__all__ = ["LONG", "PAGE", "Other", "Place", "gone", "refuses", "services_of"]

PAGE = 4096
LONG = os.environ.get("EXTMEM_TEST_LONG", "") not in ("", "0")

_HEAD = """
import ctypes, os, sys, time
from extmem.handles.directory.client import DirectoryKernel
from extmem.handles.kernel import ACCESS_ALL, ACCESS_READ, ACCESS_WRITE, Security
kernel = DirectoryKernel()
def fails(call, *arguments, **keywords):
    try:
        call(*arguments, **keywords)
    except OSError as error:
        return error.winerror
    return 0
print("ready", flush=True)
"""


def refuses(code: int, text: str = ": ") -> pytest.RaisesExc[OSError]:
    """An OSError with this `winerror`, and this in its sentence."""
    return pytest.RaisesExc(OSError, match=text, check=lambda error: code_of(error) == code)


def gone(process_id: int, seconds: float = 10.0) -> bool:
    """Whether a process that need not be ours ends in time."""
    try:
        fd = os.pidfd_open(process_id)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], seconds)[0])
    finally:
        os.close(fd)


def services_of(folder: Path) -> list[int]:
    """The services that have a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit():
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"extmem.handles.directory" in words and os.fsencode(folder) in words:
                    found.append(int(entry.name))
    return found


class Other:
    """A second Python that runs some lines; `kernel` and `fails` are there."""

    def __init__(self, lines: str, environment: dict[str, str], **options: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _HEAD + lines],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
            **options,
        )
        self.pid = self.process.pid
        self.service = 0  # its directory, where a test wants to know that
        assert self.read() == "ready"

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, *words: object) -> str:
        """Write a line to it, and get the one that it prints."""
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return self.read()

    def kill(self) -> None:
        self.process.kill()
        self.close()

    def close(self) -> None:
        """Let it end, and wait for that."""
        with self.process:
            assert self.process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()


class Place:
    """A folder, and the directory in it; nothing of both is left when it closes."""

    def __init__(self, idle: float = 60.0, prefix: str = "") -> None:
        # No name of ours: the leak tests look for sockets that have it.
        self.folder = Path(tempfile.mkdtemp(prefix="xd-"))
        self.prefix = prefix or f"xd-{self.folder.name}"
        self.environment = {
            "EXTMEM_RUNTIME_DIR": str(self.folder),
            "EXTMEM_DIRECTORY_IDLE": str(idle),
            "EXTMEM_DIRECTORY_GLOBAL": self.prefix,
        }
        self._kernels: list[DirectoryKernel] = []
        self._others: list[Other] = []

    def kernel(self) -> DirectoryKernel:
        """One more client in this process; both have the same handles."""
        self._kernels.append(DirectoryKernel())
        return self._kernels[-1]

    def other(self, lines: str, environment: dict[str, str] | None = None, **options: Any) -> Other:
        """A second process."""
        self._others.append(Other(lines, {**self.environment, **(environment or {})}, **options))
        return self._others[-1]

    @property
    def service(self) -> int:
        """The process of the directory."""
        return self.kernel().status().process_id

    def kill(self) -> int:
        """kill -9 the directory."""
        service = self.service
        os.kill(service, signal.SIGKILL)
        assert gone(service)
        return service

    def close(self) -> None:
        for other in self._others:
            other.close()
        for kernel in self._kernels:
            kernel.disconnect()
        for service in services_of(self.folder):
            os.kill(service, signal.SIGTERM)
            assert gone(service)
        assert not (self.folder / "directory.sock").exists()
        log = self.folder / "directory.log"
        assert not log.exists() or "mistake" not in log.read_text()
        shutil.rmtree(self.folder)


@contextlib.contextmanager
def entered(place: Place) -> Iterator[Place]:
    """This process' directory is this one meanwhile."""
    before = {key: os.environ.get(key) for key in place.environment}
    os.environ.update(place.environment)
    try:
        yield place
    finally:
        try:
            place.close()
        finally:
            for key, value in before.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value


def eventually(check: Any, seconds: float = 5.0) -> bool:
    """Whether something becomes true in time."""
    until = time.monotonic() + seconds
    while not check():
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True
