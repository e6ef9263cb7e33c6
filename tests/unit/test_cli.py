"""The command line, as a user meets it: in its own process."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from extmem.cli import messages

linux = pytest.mark.skipif(sys.platform == "win32", reason="hardware: POSIX signals")
HAS_FD = sys.platform != "win32"
NO_BYTECODE = {"PYTHONDONTWRITEBYTECODE": "1"}  # so that a process writes its messages alone


def extmem(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line and wait for it."""
    return subprocess.run(
        [sys.executable, "-m", "extmem", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, **environment},
    )


def read_png(path: Path) -> tuple[int, int, bytes]:
    """Width, height and pixels of an 8-bit RGBA PNG whose rows are not filtered."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    position, pixels, size = 8, b"", (0, 0)
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        body = data[position + 8 : position + 8 + length]
        (check,) = struct.unpack_from(">I", data, position + 8 + length)
        assert check == zlib.crc32(kind + body)
        if kind == b"IHDR":
            size = struct.unpack(">II", body[:8])
        if kind == b"IDAT":
            pixels += body
        position += 12 + length
    return size[0], size[1], zlib.decompress(pixels)


def test_devices_lists_the_embedded_ones_for_people() -> None:
    done = extmem("devices")
    assert done.returncode == 0, done.stderr
    assert "embedded 0: extmem embedded 0" in done.stdout
    assert "embedded 1: extmem embedded 1" in done.stdout
    assert ("opaque_fd" if sys.platform != "win32" else "host_allocation") in done.stdout


def test_devices_as_json() -> None:
    done = extmem("devices", "--driver", "embedded", "--json")
    found = json.loads(done.stdout)
    first, second = found["devices"]
    assert first["device_uuid"] != second["device_uuid"]
    assert first["driver_uuid"] == second["driver_uuid"]
    assert [each["flags"] for each in first["memory_types"]] == [
        ["device_local"],
        ["host_visible", "host_coherent"],
        ["host_visible", "host_cached"],
    ]
    assert ("opaque_fd" in first["export"]) == (sys.platform != "win32")
    assert "host_allocation" in first["import"]
    assert found["default"] == {"driver": "embedded", "reason": "asked for by name"}


def test_without_a_loader_the_embedded_device_is_taken_and_why_is_said(tmp_path: Path) -> None:
    done = extmem("devices", "--json", VK_DRIVER_FILES=str(tmp_path / "none.json"),
                  VK_ICD_FILENAMES=str(tmp_path / "none.json"))  # fmt: skip
    found = json.loads(done.stdout)
    assert found["default"]["driver"] == "embedded"
    assert found["default"]["reason"]
    assert {each["driver"] for each in found["devices"]} == {"embedded"}
    assert [each["driver"] for each in found["missing"]] == ["system"]


@pytest.mark.parametrize("handle_type", ["auto", "opaque_win32"])
def test_demo_hands_frames_over_and_counts(handle_type: str, tmp_path: Path) -> None:
    picture = tmp_path / "frame.png"
    words = ("--driver", "embedded", "--seconds", "1", "--picture", str(picture), "--json")
    done = extmem("demo", "--handle-type", handle_type, *words)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["frames"] > 2
    assert result["frames_wrong"] == 0
    expected = "opaque_fd" if HAS_FD and handle_type == "auto" else "opaque_win32"
    assert (result["driver"], result["handle_type"]) == ("embedded", expected)
    assert 0 < result["latency_us"]["p50"] <= result["latency_us"]["p99"]
    # One message of 24 bytes and its answer of 25 for each frame, and the kernel agrees.
    assert result["bytes_copied"] == result["frames"] * 49
    assert result["bytes_copied_kernel"] == (result["bytes_copied"] if HAS_FD else None)
    assert result["bytes_copied"] < result["bytes_shared"] / 1000
    assert result["picture"] == str(picture)
    width, height, pixels = read_png(picture)
    assert (width, height, len(pixels)) == (640, 360, 360 * (640 * 4 + 1))
    # The picture carries its number in its first pixels; the last one that was checked is there.
    number = int.from_bytes(pixels[1:4], "little")
    assert number == result["frames"] - 1


def test_demo_for_people(tmp_path: Path) -> None:
    done = extmem("demo", "--driver", "embedded", "--seconds", "0.2", "--picture",
                  str(tmp_path / "x.png"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    for word in (
        "device",
        "opaque_fd" if HAS_FD else "opaque_win32",
        "frames",
        "latency",
        "copied",
        "picture",
    ):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (("demo", "--driver", "/no/such"), 3, "extmem: there is no driver /no/such"),
        (
            ("demo", "--driver", "embedded", "--handle-type", "dma_buf"),
            4,
            "the demo does not share by dma_buf on extmem embedded 0 (embedded driver); it can by ",
        ),
        (("demo", "--driver", "embedded", "--picture", "x.jpg"), 2, "--picture is x.jpg"),
        (("explain", ""), 2, "name a rule"),
        (("devices", "--driver", __file__), 3, "cannot be loaded as a driver"),
        (("devices", "--driver", "/no/such.json"), 3, "no driver manifest /no/such.json"),
        (("devices", "--nonsense"), 2, "No such option"),
        (("nonsense",), 2, "No such command"),
    ],
)
def test_mistakes_are_one_sentence(arguments: tuple[str, ...], status: int, sentence: str) -> None:
    done = extmem(*arguments)
    assert done.returncode == status
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    done = extmem("demo", "--driver", "embedded", "--seconds", "0.1", "--picture",
                  str(tmp_path / "none" / "x.png"))  # fmt: skip
    assert done.returncode == 3
    assert done.stderr.endswith("x.png: No such file or directory\n")
    assert "Traceback" not in done.stderr


@linux
def test_a_receiver_that_is_killed_is_an_error(tmp_path: Path) -> None:
    started = subprocess.Popen(
        [sys.executable, "-m", "extmem", "demo", "--driver", "embedded", "--seconds", "60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **NO_BYTECODE, "TMPDIR": str(tmp_path)},
    )
    os.kill(receiver_at_work(started.pid), signal.SIGKILL)
    _, errors = started.communicate(timeout=90)
    assert started.returncode == 1
    assert "the receiving process ended early (status -9)" in errors
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


@linux
def test_ctrl_c_ends_both_processes(tmp_path: Path) -> None:
    # A shell's background jobs ignore Ctrl-C, and what they start inherits that; `env` undoes it.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "extmem", "demo"]
    started = subprocess.Popen(
        [*command, "--driver", "embedded", "--seconds", "60", "--picture", str(tmp_path / "x.png")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **NO_BYTECODE},
    )
    try:
        receiver_at_work(started.pid)
        os.killpg(started.pid, signal.SIGINT)
        _, errors = started.communicate(timeout=90)
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
            started.communicate()
    assert started.returncode == 130
    assert "Traceback" not in errors
    for _ in range(50):
        if not processes_of(started.pid):
            break
        time.sleep(0.1)
    assert processes_of(started.pid) == []


def receiver_at_work(session: int) -> int:
    """The demo's second process, once it has answered; by what the kernel says that it wrote."""
    for _ in range(6000):
        for process in processes_of(session):
            try:
                command = Path(f"/proc/{process}/cmdline").read_bytes()
                counters = Path(f"/proc/{process}/io").read_text().split()
            except OSError:
                continue
            written = int(counters[counters.index("wchar:") + 1])
            if b"extmem.cli.receiver" in command and written > 10 * messages.ANSWER.size:
                return process
        time.sleep(0.01)
    raise AssertionError("the second process does not answer")


def processes_of(session: int) -> list[int]:
    """Which processes of a session are left."""
    left = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                left.append(int(entry.name))
    return left
