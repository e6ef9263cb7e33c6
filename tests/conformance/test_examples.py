"""The programs in examples/ as two processes: what they print, and what each reads of the other."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

import extmem
from tests.support.second import ROOT

PATIENCE = 60.0  # seconds
SIZE = 640 * 480 * 4

# Where the drivers differ in how they carry a Windows handle.
_CARRIERS = ["embedded"] if sys.platform == "win32" else ["embedded", "lavapipe"]

pytestmark = pytest.mark.parametrize("driver", _CARRIERS, indirect=True)


class Program:
    """One of the examples, while it runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def line(self) -> str:
        """The next line that it prints; "" at the end."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")

    def end_input(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def end(self) -> list[str]:
        """The other lines, once it has ended well."""
        assert self._process.stdout is not None
        lines = self._process.stdout.read().splitlines()
        assert self._process.wait(PATIENCE) == 0, lines
        return lines


@contextmanager
def started(example: str, driver: str, *arguments: str) -> Iterator[Program]:
    with ExitStack() as undo:
        process = undo.enter_context(
            subprocess.Popen(
                [sys.executable, str(ROOT / "examples" / example), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, "EXTMEM_DRIVER": driver, "PYTHONWARNINGS": "error"},
            )
        )
        late = threading.Timer(PATIENCE, process.kill)  # nobody waits for a line for ever
        late.start()
        undo.callback(late.join)
        undo.callback(late.cancel)
        undo.callback(process.kill)
        yield Program(process)


def test_bytes_go_both_ways(driver: str, name: str) -> None:
    with started("exporter.py", driver, name) as exporter:
        assert exporter.line() == f"shared {SIZE} bytes as {name}"
        with started("importer.py", driver, name) as importer:
            assert importer.end() == [f"found {SIZE} bytes: [10, 20, 30, 255]"]
        assert exporter.end() == ["answer: [245, 235, 225, 0]"]


def test_the_end_of_input_ends_the_exporter(driver: str, name: str) -> None:
    with started("exporter.py", driver, name) as exporter:
        assert exporter.line() == f"shared {SIZE} bytes as {name}"
        with extmem.open_device(driver=driver) as gpu, gpu.import_memory(name=name) as memory:
            assert bytes(memory.view()) == bytes((10, 20, 30, 255)) * (SIZE // 4)
        exporter.end_input()
        assert exporter.end() == ["no answer"]


def test_an_image_is_painted_by_another_process(driver: str) -> None:
    with started("images.py", driver) as program:
        assert program.end() == ["painted [10, 20, 30, 255]", "found [245, 235, 225, 0]"]


def test_two_players_take_turns(driver: str, name: str) -> None:
    with started("ping_pong.py", driver, name, "first") as first:
        assert first.line() == f"waiting for the second player at {name}"
        with started("ping_pong.py", driver, name, "second") as second:
            [line] = second.end()
            assert line.startswith("1000 rounds of ")
        assert first.end() == ["played"]
