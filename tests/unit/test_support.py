"""The tests' own tools notice what they are there to notice."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import leaks, second, strict
from tests.support.leaks import held, left_over
from tests.support.second import Channel, OtherFailed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="hardware: needs Linux' /proc")
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "_PATIENCE", 0.05)


# -- what is left behind ----------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
def test_descriptors_are_counted() -> None:
    before = held()
    fd = os.open(os.devnull, os.O_RDONLY)
    assert left_over(before) == ["file descriptors: +1 /dev/null"]
    os.close(fd)
    assert left_over(before) == []


@pytest.mark.usefixtures("impatient")
def test_threads_are_counted() -> None:
    before, end = held(), threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    (line,) = left_over(before)
    assert line.startswith("threads: +1")
    end.set()
    thread.join()
    assert left_over(before) == []


@pytest.mark.usefixtures("impatient")
def test_processes_are_counted_dead_ones_too() -> None:
    before = held()
    child = subprocess.Popen([sys.executable, "-c", ""])
    while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    (line,) = left_over(before)
    assert line.startswith("child processes: +1")
    assert "dead" in line
    child.wait()
    assert left_over(before) == []


@pytest.mark.usefixtures("impatient")
def test_mappings_are_counted() -> None:
    before = held()
    fd = os.memfd_create("left")
    os.ftruncate(fd, 8192)
    memory = mmap.mmap(fd, 8192)
    os.close(fd)
    lines = left_over(before)
    assert "bytes of shared mappings: +8192 /memfd:left (deleted)" in lines
    memory.close()
    assert left_over(before) == []


@pytest.mark.usefixtures("impatient")
def test_shared_memory_files_and_sockets_are_counted() -> None:
    before = held()
    path = Path(f"/dev/shm/extmem-test-{os.getpid()}")
    path.touch()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0extmem-test-{os.getpid()}")
        lines = left_over(before)
    assert f"files in /dev/shm: +1 {path.name}" in lines
    assert f"sockets with a name: +1 @extmem-test-{os.getpid()}" in lines
    path.unlink()
    assert left_over(before) == []


# -- second processes -------------------------------------------------------------------------


def echo(channel: Channel, word: str) -> dict[str, Any]:
    message, (fd,) = channel.receive()
    os.write(fd, b"seen")
    os.close(fd)
    channel.send(message * 2)
    return {"word": word, "pid": os.getpid()}


def raise_something(channel: Channel) -> None:
    raise LookupError("what went wrong")


def crash(channel: Channel) -> None:
    ctypes.string_at(8)


def hang(channel: Channel) -> None:
    time.sleep(60)


def leave(channel: Channel) -> None:
    print("last words", flush=True)
    os._exit(3)


def test_messages_and_descriptors_travel() -> None:
    reader, writer = os.pipe()
    with second.start(echo, word="x") as other:
        other.send([1], [writer])
        os.close(writer)
        assert other.receive() == ([1, 1], [])
        found = other.result()
    assert found["word"] == "x"
    assert found["pid"] != os.getpid()
    assert os.read(reader, 10) == b"seen"
    os.close(reader)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (raise_something, "(?s)raise LookupError.*what went wrong"),
        (crash, "SIGSEGV(?s:.*)string_at"),
        (hang, "too long"),
        (leave, "ended with 3(?s:.*)last words"),
    ],
)
def test_failures_over_there_are_failures_here(function: Any, says: str) -> None:
    timeout = 2 if function is hang else 20
    with pytest.raises(OtherFailed, match=says):
        second.run(function, timeout=timeout)


def test_a_kill_is_named() -> None:
    with second.start(hang) as other:
        other.process.send_signal(signal.SIGTERM)
        with pytest.raises(OtherFailed, match="SIGTERM"):
            other.result()


# -- skips ------------------------------------------------------------------------------------

SKIPS = {
    "plain": 'pytest.skip("no reason")',
    "marked": "pass",
    "missing": 'missing("a thing (get it there)")',
    "hardware": 'missing("a device", installable=False)',
    "answer": 'driver_cannot("no")',
    "optional": 'optional("nothing_of_this_name", "get it there")',
}


@pytest.mark.parametrize("how", SKIPS)
@pytest.mark.parametrize("is_strict", [True, False])
def test_strict_runs_allow_three_kinds_of_skip(tmp_path: Path, how: str, is_strict: bool) -> None:
    mark = '@pytest.mark.skipif(True, reason="so")' if how == "marked" else ""
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text())
    (folder / "test_it.py").write_text(
        "import pytest\nfrom tests.support.strict import driver_cannot, missing, optional\n"
        f"{mark}\ndef test_it():\n    {SKIPS[how]}\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), strict.VARIABLE: str(int(is_strict))}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    fails = is_strict and how not in ("hardware", "answer", "optional")
    assert (result.returncode == 1) == fails, result.stdout + result.stderr
    assert ("allows no such skip" in result.stdout or "needs it" in result.stdout) == fails
    assert ("1 skipped" in result.stdout) != fails
