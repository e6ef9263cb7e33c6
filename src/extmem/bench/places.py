"""Directories to measure, each in a folder of its own, and processes that hold names in them."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from extmem.errors import ExtmemError
from extmem.handles.directory.client import DirectoryKernel
from extmem.handles.directory.folder import VARIABLE
from extmem.handles.directory.foreign import VARIABLE as PREFIX

if sys.platform == "win32":
    raise ImportError("Windows has handles of its own; the directory is for Linux")

__all__ = ["client", "holders", "name_of", "place"]


@contextlib.contextmanager
def place() -> Iterator[Path]:
    """A folder in which the next new client finds, or starts, a directory; it ends with this."""
    folder = Path(tempfile.mkdtemp(prefix="xb-"))
    before = {each: os.environ.get(each) for each in (VARIABLE, PREFIX)}
    os.environ[VARIABLE] = str(folder)
    os.environ[PREFIX] = f"xb-{os.getpid()}"
    try:
        yield folder
    finally:
        os.environ[VARIABLE] = str(folder)
        looking = DirectoryKernel()
        service = looking.status().process_id
        looking.disconnect()
        _end(service)
        shutil.rmtree(folder)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _end(service: int) -> None:
    """End a directory, and wait until it has."""
    watch = os.pidfd_open(service)
    try:
        os.kill(service, signal.SIGTERM)
        select.select([watch], [], [], 10)
    finally:
        os.close(watch)


def client() -> DirectoryKernel:
    """One that is connected to the directory of this moment, and stays so."""
    made = DirectoryKernel()
    made.count_handles()
    return made


def name_of(process: int, number: int) -> str:
    """What a holder calls one of its names.

    >>> name_of(3, 4)
    'held-3-4'
    """
    return f"held-{process}-{number}"


@contextlib.contextmanager
def holders(processes: int, names: int) -> Iterator[None]:
    """Processes that hold so many names each, in the directory of this moment."""
    command = [sys.executable, "-P", "-m", "extmem.bench.places", str(processes), str(names)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        if parent.stdout.readline() != b"ready\n":
            raise ExtmemError("the processes that hold names could not be started; see above")
        yield  # they end with the pipe that `with` closes


def _hold(processes: int, names: int) -> None:
    """What those do: fork, so that a hundred of them fit into a small machine, then connect."""
    made, done = os.pipe()
    for number in range(processes):
        if os.fork() == 0:
            try:
                kernel = DirectoryKernel()
                for index in range(names):
                    kernel.create_section(4096, name=name_of(number, index))
                os.write(done, b"x")
                os.close(done)
                sys.stdin.read()
            finally:
                os._exit(0)
    os.close(done)
    if all(os.read(made, 1) for _ in range(processes)):
        print("ready", flush=True)
        sys.stdin.read()
    for _ in range(processes):
        os.wait()


if __name__ == "__main__":
    _hold(int(sys.argv[1]), int(sys.argv[2]))
