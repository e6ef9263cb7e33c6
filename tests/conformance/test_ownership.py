"""Who owns a descriptor: after a successful import the memory, after a failed one the caller.

Drivers differ: some close what they refuse, some keep what they take until the memory is freed.
None of that may reach the caller. What the drivers are fed here can crash them, so it happens in
second processes.
"""

from __future__ import annotations

import fcntl
import os
import resource
import socket
from typing import Any

import pytest

from extmem import DriverError, RuleViolation
from tests.support import second
from tests.support.offers import require_buffers
from tests.support.rig import OPAQUE_FD, Kind, Passport, Rig, pattern, prove_same
from tests.support.second import Channel

KIND = Kind(dedicated=False, host_visible=True)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def identity(fd: int) -> list[int]:
    found = os.fstat(fd)
    return [found.st_dev, found.st_ino, fcntl.fcntl(fd, fcntl.F_GETFD)]


@pytest.fixture
def rig(rig: Rig) -> Rig:
    require_buffers(rig, OPAQUE_FD, KIND)
    return rig


@pytest.fixture(params=["full", "off"])
def checks(request: pytest.FixtureRequest) -> str:
    return request.param


# -- success ----------------------------------------------------------------------------------


def test_a_successful_import_takes_the_descriptor(driver: str, rig: Rig, checks: str) -> None:
    exported = rig.allocate(KIND)
    with Rig(driver, checks=checks) as other:
        fd = exported.export_fd()
        imported = other.import_fd(fd, exported.passport)
        assert not is_open(fd)
        prove_same(exported, imported)


def test_a_free_closes_nobody_elses(driver: str, rig: Rig, checks: str) -> None:
    """A driver that closes at vkFreeMemory must not hit the number's next owner."""
    exported = rig.allocate(KIND)
    with Rig(driver, checks=checks) as other:
        fds = [exported.export_fd() for _ in range(8)]
        imported = [other.import_fd(fd, exported.passport) for fd in fds]
        files = [os.open(os.devnull, os.O_RDONLY) for _ in range(24)]
        assert set(fds) & set(files)  # numbers are in use again
        before = [identity(fd) for fd in files]
        for block in imported:
            block.free()
        exported.free()
        assert [identity(fd) for fd in files] == before
        for fd in files:
            os.close(fd)


# -- failure ----------------------------------------------------------------------------------


def empty(size: int) -> int:
    return os.memfd_create("empty", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def not_a_payload(size: int) -> int:
    """As large as a payload with any header, and nothing in it."""
    fd = empty(size)
    os.ftruncate(fd, size + 65536)
    return fd


def sealed(size: int) -> int:
    """The same, sealed as a payload is."""
    fd = empty(size)
    os.ftruncate(fd, size + 4096)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


def null_device(size: int) -> int:
    return os.open(os.devnull, os.O_RDWR)


def read_only(size: int) -> int:
    return os.open(__file__, os.O_RDONLY)


def one_end(size: int) -> int:
    here, there = socket.socketpair()
    there.close()
    return here.detach()


CONTENTS = {
    each.__name__: each for each in (empty, not_a_payload, sealed, null_device, read_only, one_end)
}


def import_nonsense(
    channel: Channel, driver: str, passport: dict[str, Any], contents: str
) -> dict[str, str | None]:
    """Import what is no payload: why that was refused, with checks and without."""
    return {checks: one_import(driver, passport, contents, checks) for checks in ("full", "off")}


def one_import(driver: str, passport: dict[str, Any], contents: str, checks: str) -> str | None:
    given = Passport(**passport)
    with Rig(driver, checks=checks) as rig:
        fd = CONTENTS[contents](given.allocation_size)
        before = identity(fd)
        refused = None
        try:
            rig.import_fd(fd, given).free()
        except (DriverError, RuleViolation) as error:
            refused = str(error)
        if refused is None:
            assert not is_open(fd), "the import succeeded and left the descriptor open"
        else:
            assert is_open(fd), f"the descriptor is closed after {refused}"
            assert identity(fd) == before, f"the descriptor is another file after {refused}"
            os.close(fd)
    return refused


@pytest.mark.parametrize("contents", CONTENTS)
def test_a_failed_import_leaves_the_descriptor(driver: str, rig: Rig, contents: str) -> None:
    passport = rig.allocate(KIND).passport.json()
    found = second.run(import_nonsense, driver=driver, passport=passport, contents=contents)
    if driver == "embedded":
        assert found["off"]  # others may take it; that is for the rules to prevent


def without_numbers(channel: Channel, driver: str, checks: str) -> dict[str, Any]:
    """Import while the process may not open another descriptor."""
    with Rig(driver, checks=checks) as rig:
        exported = rig.allocate(KIND)
        exported.write(pattern(1))
        fd = exported.export_fd()
        before = identity(fd)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        fill = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (fd + 8, hard))
        try:
            while True:
                fill.append(os.dup(fd))
        except OSError:
            pass
        try:
            rig.import_fd(fd, exported.passport)
            error = None
        except (DriverError, OSError) as raised:
            error = str(raised)
        finally:
            for number in fill:
                os.close(number)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert error is None or identity(fd) == before
        if error is not None:  # as good as before
            imported = rig.import_fd(fd, exported.passport)
            assert imported.read() == pattern(1)
        assert not is_open(fd)
        return {"error": error}


def test_no_descriptor_left(driver: str, rig: Rig, checks: str) -> None:
    found = second.run(without_numbers, driver=driver, checks=checks)
    assert found["error"]
