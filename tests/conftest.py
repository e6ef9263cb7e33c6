"""For all tests: nothing may be left behind, skips are counted, drivers are parameters.

A test that takes `driver` runs once for each driver of `tests.support.drivers`. A test that opens a
real driver by another way asks for `warmed("system")` first, so that what the driver keeps for the
life of the process is not taken for a leak.
"""

from __future__ import annotations

import asyncio  # noqa: F401 - has a Windows event from then on, which is no test's leak
import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np  # noqa: F401 - starts threads of its own, which are no test's leak
import pytest

# Test modules import `tests.support`, however pytest was started.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from extmem.handles.system import kernel
from tests.support import drivers
from tests.support.doubt import doubt
from tests.support.leaks import SHARED_OBJECTS, held, left_over, windows_handles
from tests.support.peers import far
from tests.support.strict import allowed, strict


def pytest_configure(config: pytest.Config) -> None:
    """Windows' handles on Linux: a directory of this process' own, that runs before all tests."""
    patch = pytest.MonkeyPatch()
    doubt(patch)
    config.add_cleanup(patch.undo)
    if sys.platform != "win32":
        folder = tempfile.mkdtemp(prefix="extmem-test-")  # short: a socket's address is
        os.environ["EXTMEM_RUNTIME_DIR"] = folder
        os.environ["EXTMEM_DIRECTORY_GLOBAL"] = f"extmem-test-directory-{os.getpid()}"
        kernel().count_handles()  # which starts it, and leaves one connection open
        config.add_cleanup(_end_directory)


def _end_directory() -> None:
    if sys.platform != "win32":
        from tests.support.directory import gone

        service = kernel().status()
        os.kill(service.process_id, signal.SIGTERM)
        assert gone(service.process_id)
        shutil.rmtree(service.folder)


@pytest.fixture(scope="session", params=drivers.NAMES)
def driver(request: pytest.FixtureRequest) -> Iterator[str]:
    """A driver, as `open_device(driver=...)` takes it. It has been used before."""
    name = drivers.find(request.param)
    yield name
    far.stop(name)


_PAIRS = [
    ("embedded", "lavapipe"),
    ("embedded", "swiftshader"),
    ("lavapipe", "lavapipe-25"),
    ("lavapipe-25", "swiftshader"),
    ("lavapipe", "nvidia"),
]


@pytest.fixture(scope="session", params=_PAIRS, ids="+".join)
def two_drivers(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """Two drivers to use at once."""
    first, second = (drivers.find(name) for name in request.param)
    yield first, second
    far.stop(first)
    far.stop(second)


@pytest.fixture(scope="session")
def warmed() -> Callable[[str], None]:
    """Have a driver used once before anything is counted: "system", or a path."""
    return drivers.warm


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test leaves descriptors, threads, processes, mappings and files as it found them."""
    # These may leave something, once: what drivers keep, and the second processes.
    for name in ("driver", "two_drivers", "warmed"):
        if name in request.fixturenames:
            used = request.getfixturevalue(name)
            for each in (used,) if isinstance(used, str) else used if name != "warmed" else ():
                far.get(each)
    before = held()
    yield
    lines = left_over(before)
    if lines:
        pytest.fail("left behind:\n  " + "\n  ".join(lines), pytrace=False)


_at_start: dict[str, int] = {}


def _shared() -> dict[str, int]:
    """The Windows handles that could be of shared memory, counted by the kernel."""
    gc.collect()
    found = windows_handles()
    kinds = SHARED_OBJECTS if sys.platform == "win32" else ("in the table",)
    return {each: found[each] for each in kinds}


def pytest_sessionstart() -> None:
    _at_start.update(_shared())


def pytest_sessionfinish(session: pytest.Session) -> None:
    """No Windows handle of shared memory is open when the suite has ended."""
    if _shared() != _at_start and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    now = _shared()
    counts = ", ".join(f"{each} {_at_start[each]} -> {now[each]}" for each in now)
    left = "none is left open" if now == _at_start else "LEFT OPEN"
    terminalreporter.write_line(f"Windows handles, before -> after: {counts}: {left}")


# -- strict runs ----------------------------------------------------------------------------------


def _refuse(report: Any, excinfo: Any) -> None:
    """Turn a skip that a strict run does not allow into a failure."""
    if strict() and report.skipped and excinfo is not None:
        reason = str(excinfo.value)
        if isinstance(excinfo.value, pytest.skip.Exception) and not allowed(reason):
            report.outcome = "failed"
            report.longrepr = f"a strict run allows no such skip: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    _refuse(report, call.excinfo)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Any:
    report = yield
    _refuse(report, getattr(report, "call", None) and report.call.excinfo)
    return report
