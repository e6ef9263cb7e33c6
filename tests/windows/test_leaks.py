"""What is counted around every test is noticed: Windows handles on both systems, the rest there."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from extmem.handles.system import kernel
from tests.support import leaks
from tests.support.leaks import held, left_over

PAGE = 4096
SECTION = "+1 Section" if sys.platform == "win32" else "+1 in the table"
needs_windows = pytest.mark.skipif(sys.platform != "win32", reason="hardware: needs Windows")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "_PATIENCE", 0.05)


def test_handles_are_counted_by_their_types() -> None:
    before = held()
    handle = kernel().create_section(PAGE)
    assert f"Windows handles: {SECTION}" in left_over(before)
    kernel().close(handle)
    assert left_over(before) == []


def test_one_that_was_there_before_is_missed() -> None:
    handle = kernel().create_section(PAGE)
    before = held()
    kernel().close(handle)
    assert f"Windows handles: {SECTION.replace('+', '-')}" in left_over(before)


@needs_windows
def test_views_are_counted() -> None:
    before = held()
    handle = kernel().create_section(3 * PAGE)
    address = kernel().map_section(handle, 3 * PAGE)
    kernel().close(handle)
    assert left_over(before) == [f"bytes of mapped views: +{3 * PAGE} bytes"]
    kernel().unmap_section(address, 3 * PAGE)
    assert left_over(before) == []


@needs_windows
def test_threads_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    before, end = held(), threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    assert "threads: +1 threads" in left_over(before)
    end.set()
    thread.join()
    monkeypatch.setattr(leaks, "_PATIENCE", 3.0)
    assert left_over(before) == []


@needs_windows
def test_processes_are_counted_ended_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    before = held()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lines = left_over(before)
    assert any(line.startswith("child processes: +1 python.exe") for line in lines), lines
    child.communicate(b"\n")
    # Its handle is closed with the object alone.
    assert "Windows handles: +1 Process" in left_over(before)
    del child
    monkeypatch.setattr(leaks, "_PATIENCE", 3.0)
    assert left_over(before) == []
