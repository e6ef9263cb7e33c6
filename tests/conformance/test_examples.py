"""The programs in examples/ and README.md as two processes: what they print, and what each reads of
the other.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import extmem
from tests.support.second import ROOT
from tests.support.strict import optional

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

    def read(self, text: str) -> str:
        """What it prints up to the end of a text that has no line end."""
        assert self._process.stdout is not None
        found = ""
        while not found.endswith(text):
            more = self._process.stdout.read(1)
            assert more, found
            found += more
        return found

    def press_enter(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end_input(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def end(self) -> list[str]:
        """The other lines, once it has ended well."""
        assert self._process.stdout is not None
        lines = self._process.stdout.read().splitlines()
        assert self._process.wait(PATIENCE) == 0, "\n".join(lines)
        return lines


@contextmanager
def started(example: str | Path, driver: str, *arguments: str) -> Iterator[Program]:
    """example: its name in examples/, or the path of another program"""
    with ExitStack() as undo:
        process = undo.enter_context(
            subprocess.Popen(
                [sys.executable, str(ROOT / "examples" / example), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={
                    **os.environ,
                    "EXTMEM_DRIVER": driver,
                    "PYTHONWARNINGS": "error",
                    "PYTHONUTF8": "1",
                },
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


@pytest.mark.parametrize("form", ["khr", "nv"])
def test_both_extensions_in_the_specifications_names(driver: str, form: str) -> None:
    with started("spec.py", driver, form) as program:
        assert program.end() == [f"{form}: the importer found 7", f"{form}: the exporter found 9"]


def test_memory_is_an_argument_of_multiprocessing(driver: str) -> None:
    with started("pool.py", driver) as program:
        rows = 480 * 640 // 2 * 2  # half of the rows, of twos
        assert program.end() == [
            f"worker 0 made its rows {rows}",
            f"worker 1 made its rows {rows}",
            f"here it is {2 * rows}",
        ]


def test_a_name_for_some_users(driver: str, name: str) -> None:
    with started("acl.py", driver, name) as program:
        assert program.end() == [
            "ours: opened, 7 is there",
            "nobodys: refused",
            "not-ours: refused",
        ]


@pytest.mark.skipif(sys.platform == "win32", reason="hardware: users of Linux have a number")
def test_a_name_for_a_user_by_its_number(driver: str, name: str) -> None:
    with started("acl.py", driver, name, "65534") as program:
        assert [program.line() for _ in range(5)] == [
            "ours: opened, 7 is there",
            "nobodys: refused",
            "not-ours: refused",
            "theirs: opened, 7 is there",
            "user 65534 may try now; press enter to end",
        ]
        program.press_enter()
        assert program.end() == []


@pytest.mark.parametrize(
    "example",
    ["acl", "asyncio_stream", "camera", "exporter", "importer", "ping_pong", "spec", "viewer"],
)
def test_without_arguments_they_say_their_usage(driver: str, example: str) -> None:
    with started(f"{example}.py", driver) as program:
        assert program.line().startswith(f"usage: python examples/{example}.py ")
        with pytest.raises(AssertionError):
            program.end()  # which wants the exit code 0


# -- streams --------------------------------------------------------------------------------------

FRAMES = 20


def stream_name(name: str) -> str:
    """A stream's name that is as unique as this test's."""
    return re.sub(r"[^A-Za-z0-9]", "", name)[-32:]


@contextmanager
def camera(driver: str, name: str) -> Iterator[Program]:
    with started("camera.py", driver, name, str(FRAMES)) as program:
        assert program.line() == f"waiting for somebody to watch {name}"
        yield program
        assert program.end() == [f"published {FRAMES} frames"]


def seen(line: str) -> int:
    """How many frames a program says that it saw; each was the newest, so some may be missing."""
    match = re.fullmatch(r"saw (\d+) frames", line)
    assert match, line
    return int(match[1])


def test_frames_are_tensors_of_torch(driver: str, name: str) -> None:
    # tests/conformance/test_tensors.py has a stand-in that always runs.
    optional("torch", "pip install torch")
    stream = stream_name(name)
    with camera(driver, stream), started("camera_to_torch.py", driver, stream) as program:
        first, *_, last = program.end()
        assert first == "(120, 160, 4) torch.uint8, the same address: True"
        assert 1 <= seen(last) <= FRAMES


def test_a_stream_beside_other_work(driver: str, name: str) -> None:
    stream = stream_name(name)
    with camera(driver, stream), started("asyncio_stream.py", driver, stream) as program:
        *_, last = program.end()
        assert 1 <= seen(last) <= FRAMES


def test_a_viewer_keeps_the_last_frame(driver: str, name: str, tmp_path: Path) -> None:
    stream, file = stream_name(name), tmp_path / "frame.png"
    with camera(driver, stream), started("viewer.py", driver, stream, str(file)) as program:
        assert 1 <= seen(program.end()[-1]) <= FRAMES
    data = file.read_bytes()
    assert struct.unpack_from(">II", data, 16) == (160, 120)
    start = data.index(b"IDAT")
    (length,) = struct.unpack_from(">I", data, start - 4)
    rows = zlib.decompress(data[start + 4 : start + 4 + length])
    assert len(rows) == 120 * (1 + 160 * 4)
    red, green, blue, alpha = rows[1:5]  # of the first pixel
    assert (blue, alpha) == (128, 255)
    assert red == 2 * green  # as the camera paints frame `green`
    assert green < FRAMES


def test_a_viewer_shows_half_blocks(driver: str, name: str) -> None:
    stream = stream_name(name)
    with camera(driver, stream), started("viewer.py", driver, stream) as program:
        lines = program.end()
    shown = seen(lines[-1])
    pictures = "\n".join(lines).split("\x1b[H")[1:]
    assert len(pictures) == shown >= 1
    # 80 columns and 24 lines where there is no terminal: every third pixel of 160 x 120.
    assert pictures[0].count("▀") == 54 * 20
    # The first pixel and the one below it, three rows further.
    colours = re.match(r"\x1b\[38;2;(\d+);(\d+);128m\x1b\[48;2;(\d+);(\d+);128m▀", pictures[0])
    assert colours
    red, green, red_below, green_below = map(int, colours.groups())
    assert (red, red_below, green_below) == (2 * green, red, green + 3)


# -- README.md ------------------------------------------------------------------------------------


def from_readme(name: str, folder: Path) -> Path:
    """A program of README.md, exactly as it is pasted, in a file of its name."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [program] = re.findall(rf"```python\n(# {re.escape(name)}\n.*?)```", text, re.DOTALL)
    path = folder / name
    path.write_text(program, encoding="utf-8")
    return path


def test_the_first_two_processes_of_the_readme(driver: str, tmp_path: Path) -> None:
    share, look = from_readme("share.py", tmp_path), from_readme("look.py", tmp_path)
    with started(share, driver) as first:
        first.read("press enter when it has ended")
        with started(look, driver) as second:
            assert second.end() == ["7"]
        first.press_enter()
        assert first.end() == ["8"]


def test_the_stream_of_the_readme(driver: str, tmp_path: Path) -> None:
    share, watch = from_readme("camera.py", tmp_path), from_readme("watch.py", tmp_path)
    with started(share, driver) as first:
        assert first.line() == "publishing for ten seconds; now start watch.py"
        with started(watch, driver) as second:
            lines = second.end()
        assert first.end() == []
    assert lines
    assert all(re.fullmatch(r"(\d+) .* \{'exposure': 0.01\}", each) for each in lines)
