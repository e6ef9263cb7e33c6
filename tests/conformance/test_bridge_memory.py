"""Memory as Windows handles on drivers that have descriptors alone: what lies in the directory is a
stranger's, and the directory may end.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

import extmem
from extmem.handles import posix
from extmem.handles.system import directory
from tests.support.directory import Place
from tests.support.sharing import unique_name
from tests.support.strict import driver_cannot

SIZE = 1 << 20


@pytest.fixture
def bridged(driver: str) -> Iterator[extmem.Device]:
    """A device whose Windows handles are carried by descriptors."""
    with extmem.open_device(driver=driver) as gpu:
        if not gpu.physical.carried.get("VK_KHR_external_memory_win32"):
            driver_cannot("it has Windows handles of its own")
        yield gpu


def _file(size: int) -> int:
    fd = os.memfd_create("hostile", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return fd


HOSTILE: dict[str, Callable[[], int]] = {
    "an empty file": lambda: _file(0),
    "a short file": lambda: _file(4096),
    "/dev/zero": lambda: os.open("/dev/zero", os.O_RDWR | os.O_CLOEXEC),
    "/dev/null": lambda: os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC),
    "an eventfd": lambda: os.eventfd(0, os.EFD_CLOEXEC),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_no_driver_sees_what_can_be_no_memory(
    bridged: extmem.Device, make: Callable[[], int]
) -> None:
    """Where one did, the import succeeds, and the first look at it ends the process."""
    name = unique_name()
    with bridged.allocate(SIZE, export="opaque_win32") as memory:
        passport = memory.passport.encode()
    fd = make()
    handle = directory().share(fd, "Memory", name=name, passport=passport)
    try:
        with pytest.raises(extmem.DriverError, match="INVALID_EXTERNAL_HANDLE"):
            bridged.import_memory(name=name)
    finally:
        directory().close(handle)
        posix.close(fd)


def test_a_descriptor_of_the_right_size_is_no_obstacle(bridged: extmem.Device) -> None:
    name = unique_name()
    with bridged.allocate(SIZE, export="opaque_win32", name=name) as memory:
        memory.numpy()[-1] = 7
        with bridged.import_memory(name=name) as again:
            assert again.numpy()[-1] == 7


def test_who_has_a_name_is_told_as_what_it_is(bridged: extmem.Device) -> None:
    name = unique_name()
    with bridged.allocate(64, export="opaque_win32", name=name):
        with pytest.raises(extmem.DriverError, match=f"the name is taken.*{os.getpid()}") as caught:
            bridged.allocate(64, export="opaque_win32", name=name)
        assert "OUT_OF_HOST_MEMORY" not in str(caught.value)
        assert "another kind" not in str(caught.value)


_KILLED = """
import os, select, signal, sys, extmem
from extmem.handles.system import directory

with extmem.open_device(driver=sys.argv[1]) as gpu:
    if not gpu.physical.can_import("opaque_win32_kmt"):
        sys.exit(77)
    with gpu.allocate(4096, export="opaque_win32_kmt") as own, own.export() as number:
        own.numpy()[0] = 7
        with gpu.import_memory(number) as first, gpu.import_memory(number) as second:
            service = directory().status().process_id
            fd = os.pidfd_open(service)
            os.kill(service, signal.SIGKILL)
            select.select([fd], [], [], 10)
            os.close(fd)
            assert first.numpy()[0] == 7  # no directory
            for _ in range(2):
                try:
                    own.export()
                except extmem.DriverError as error:
                    assert "make and share the objects again" in str(error), error
                else:
                    raise AssertionError("a dead number was handed out")
            directory().status()  # another directory
            assert second.numpy()[0] == 7
            with gpu.buffer(second) as target:
                gpu.fill(target, 0x01010101)
            assert own.numpy()[0] == 1
            try:
                gpu.import_memory(int(number), handle_type="opaque_win32_kmt")
            except extmem.RuleViolation as error:
                assert "the directory ended" in str(error), error
            else:
                raise AssertionError("a dead number was imported")
print("whole")
"""


def test_imports_by_number_outlive_the_directory(driver: str) -> None:
    place = Place(idle=1.0)
    try:
        told = subprocess.run(
            [sys.executable, "-c", _KILLED, driver],
            env={**os.environ, **place.environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        place.close()
    if told.returncode == 77:
        driver_cannot("it has no KMT numbers")
    assert told.stdout == "whole\n", told.stderr


@pytest.mark.parametrize("last", ["number", "owner"])
def test_a_number_without_its_owner_is_stale(bridged: extmem.Device, last: str) -> None:
    owner = bridged.allocate(4096, export="opaque_win32_kmt")
    with bridged.import_memory(owner.export()) as again:
        if last == "owner":
            owner.close()
            with pytest.raises(extmem.DriverError, match="VK_ERROR_MEMORY_MAP_FAILED"):
                again.numpy()
        else:
            assert again.numpy().size == 4096
            owner.close()
