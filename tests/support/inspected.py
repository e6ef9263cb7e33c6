"""`extmem view` in a process of its own, and what it is to show."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np

import extmem
from tests.support.second import ROOT, Channel

PATIENCE = 60.0
HEIGHT, WIDTH = 120, 200
COLOURS = ((230, 20, 30), (20, 200, 60), (30, 60, 220), (240, 220, 40))  # of the quarters


def quarters(shift: int = 0) -> Any:
    """A picture whose quarters have the four colours, from `shift` on."""
    picture = np.full((HEIGHT, WIDTH, 4), 255, "uint8")
    for at in range(4):
        rows = slice(at // 2 * HEIGHT // 2, (at // 2 + 1) * HEIGHT // 2)
        columns = slice(at % 2 * WIDTH // 2, (at % 2 + 1) * WIDTH // 2)
        picture[rows, columns, :3] = COLOURS[(at + shift) % 4]
    return picture


# -- other processes, for tests.support.second ----------------------------------------------------


def publisher(home: Channel, name: str, rate: float = 50.0, shift: int = 0) -> int:
    """Publishes the picture until it is told."""
    picture = quarters(shift)
    with extmem.publish(name, shape=picture.shape, dtype="uint8") as stream:
        home.send("ready")
        ended = _told(home)
        while not ended(1 / rate):
            with stream.frame() as frame:
                frame.numpy()[...] = picture
                frame.fields["shift"] = shift
        return stream.sequence


def reader(home: Channel, name: str, pause: float = 0.0) -> int:
    """Subscribes until it is told, and takes a frame after each pause."""
    with extmem.subscribe(name, timeout=PATIENCE, patience=PATIENCE, resume=PATIENCE) as frames:
        next(frames)
        home.send("ready")
        ended = _told(home)
        while not ended(pause):
            next(frames)
        return 0


def sharer(home: Channel, names: list[str], count: int = 0) -> None:
    """Shares an image under each name, and so much plain memory beside them, until it is told."""
    with extmem.open_device(driver="embedded") as gpu, contextlib.ExitStack() as made:
        for at, name in enumerate(names):
            tiling = ("optimal", "linear")[at % 2]
            image = made.enter_context(
                gpu.image((HEIGHT, WIDTH), "rgba8", tiling=tiling, export="opaque_win32", name=name)
            )
            gpu.upload(image, quarters(at))
            made.enter_context(image.export())
        for number in range(count):
            memory = made.enter_context(
                gpu.allocate(4096, export="opaque_win32", name=rf"Local\part-{number:03}")
            )
            made.enter_context(memory.export())
        home.send("ready")
        home.receive()


def _told(home: Channel) -> Callable[[float], bool]:
    """Whether the test has sent something, after a pause."""
    import threading

    event = threading.Event()

    def listen() -> None:
        with contextlib.suppress(EOFError, OSError, TimeoutError):
            home.receive()
        event.set()

    threading.Thread(target=listen, daemon=True).start()
    return event.wait


# -- the inspector --------------------------------------------------------------------------------


class Answer(NamedTuple):
    """What came for a request."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as what it says."""
        return json.loads(self.body)


class Inspector:
    """`extmem view`, running."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process = process
        self.address = address
        parts = urlsplit(address)
        assert parts.hostname
        assert parts.port
        self.host, self.port, self.token = parts.hostname, parts.port, parts.path.strip("/")

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Ask for a path as it is: the secret is to be in it."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers)
            got = connection.getresponse()
            return Answer(got.status, {k.lower(): v for k, v in got.getheaders()}, got.read())

    def get(self, path: str) -> Answer:
        """The same with the secret."""
        return self.ask(f"/{self.token}/{path}")

    def survey(self) -> dict[str, Any]:
        """What it sees now."""
        found: dict[str, Any] = self.get("survey").json
        return found

    def stream(self, name: str) -> dict[str, Any]:
        """What it sees of a stream; {} if nothing."""
        found = [each for each in self.survey()["streams"] if each["name"] == name]
        return found[0] if found else {}

    def until(self, check: Callable[[], Any]) -> Any:
        """What becomes true in time."""
        end = time.monotonic() + PATIENCE
        while not (found := check()):
            assert self.process.poll() is None, "the inspector has ended"
            assert time.monotonic() < end, f"not in time: {self.survey()}"
            time.sleep(0.05)
        return found

    def interrupt(self) -> tuple[int, str]:
        """End it by Ctrl-C: its exit code, and what it said on stderr."""
        self.process.send_signal(signal.SIGINT)
        return self._ended()

    def wait(self) -> tuple[int, str]:
        """Wait for its own end: the same."""
        return self._ended()

    def _ended(self) -> tuple[int, str]:
        _, said = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, said


def view(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `extmem view` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "extmem", "view", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE * 3,
        cwd=ROOT,
    )


@contextlib.contextmanager
def inspector(*arguments: str) -> Iterator[Inspector]:
    """Start `extmem view`, which ends with the `with`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "extmem", "view", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    running = None
    try:
        assert process.stdout
        address = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{22,}/", address), address
        running = Inspector(process, address)
        yield running
    finally:
        if running is not None:
            del running.process  # pytest keeps it for longer, and Windows' handle would be open
        if process.poll() is None:
            process.kill()
        process.wait()
        for each in (process.stdout, process.stderr):
            assert each
            each.close()


def read_png(path: Any) -> Any:
    """The pixels of a PNG file of four channels without filters."""
    data = Path(path).read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, packed, size = 8, b"", (0, 0)
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        (check,) = struct.unpack_from(">I", data, at + 8 + length)
        assert check == zlib.crc32(kind + body)
        if kind == b"IHDR":
            width, height, depth, colours, *_ = struct.unpack(">IIBBBBB", body)
            assert (depth, colours) == (8, 6)
            size = height, width
        elif kind == b"IDAT":
            packed += body
        at += 12 + length
    rows = np.frombuffer(zlib.decompress(packed), "uint8").reshape(size[0], 1 + 4 * size[1])
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(*size, 4)
