"""What the conformance cases vary: driver, kind of memory, where the importer is, and checks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.peers import importing
from tests.support.rig import Kind, Rig
from tests.support.sharing import Gpu, unique_name, use_once

# On Windows nothing has descriptors, so what is about them alone is not collected.
if sys.platform == "win32":
    collect_ignore = ["test_images_fd.py", "test_memory_dma_buf.py", "test_memory_fd.py"]
    collect_ignore += ["test_ownership.py", "test_two_drivers.py"]  # and there is one driver
    collect_ignore += ["test_quarantine_fd.py"]
    collect_ignore += ["test_stateful_processes.py"]  # nor is there a directory
    collect_ignore += [
        "test_bridge.py",
        "test_bridge_semaphores.py",
        "test_bridge_memory.py",
    ]  # it has handles of its own

KINDS = [Kind(dedicated, visible) for dedicated in (True, False) for visible in (True, False)]


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Dedicated or suballocated, host-visible or device-only."""
    return request.param


@pytest.fixture
def rig(driver: str) -> Iterator[Rig]:
    """The exporting device."""
    with Rig(driver) as made:
        yield made


@pytest.fixture(params=["same_device", "second_instance", "second_process"])
def importer(request: pytest.FixtureRequest, driver: str, rig: Rig) -> Iterator[Any]:
    """The importing device: the exporter's own, one of another instance, one far away."""
    with importing(request.param, driver, rig) as other:
        yield other


@pytest.fixture(scope="session")
def used_before() -> None:
    """The embedded device was used in this process: what it opens for good is no test's leak."""
    use_once()


@pytest.fixture(params=["full", "off"], ids=["checked", "unchecked"])
def gpu(used_before: None, request: pytest.FixtureRequest) -> Iterator[Gpu]:
    """The embedded device with every way of sharing."""
    with Gpu(request.param) as made:
        yield made


@pytest.fixture
def checked(used_before: None) -> Iterator[Gpu]:
    """The same where it is about a rule."""
    with Gpu("full") as made:
        yield made


@pytest.fixture
def unchecked(used_before: None) -> Iterator[Gpu]:
    """The same where it is about the device's own answer."""
    with Gpu("off") as made:
        yield made


@pytest.fixture
def name() -> str:
    """A name that nobody has."""
    return unique_name()


@pytest.fixture
def by_the_embedded_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever names no driver gets that one, also in other processes."""
    monkeypatch.setenv("EXTMEM_DRIVER", "embedded")
