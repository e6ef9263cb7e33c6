"""OPAQUE_FD memory: the cases of Vulkan's own conformance tests, and what they leave out.

Each case runs for dedicated and suballocated, host-visible and device-only memory, and with the
importer on the same device, on a device of a second instance, and in a second process. What is
shared is written on each side and read on the other.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from extmem import DriverError, RuleViolation, vk
from tests.support import second
from tests.support.offers import require_buffers
from tests.support.peers import FarRig, serve
from tests.support.rig import OPAQUE_FD, Kind, Rig, pattern, prove_same
from tests.support.strict import driver_cannot

MANY = 4096  # as often as Vulkan's own tests do it
FEW = 256  # for all but one kind of memory
AT_ONCE = 200  # NVIDIA 580 bears 253 imports of one host-visible payload at a time
NVIDIA = 0x10DE


@pytest.fixture
def rig(rig: Rig, kind: Kind) -> Rig:
    require_buffers(rig, OPAQUE_FD, kind)
    return rig


# -- many of the same -------------------------------------------------------------------------


def test_import_twice(rig: Rig, kind: Kind, importer: Any) -> None:
    exported = rig.allocate(kind)
    fd = exported.export_fd()
    first = importer.import_fd(os.dup(fd), exported.passport)
    second = importer.import_fd(fd, exported.passport)
    prove_same(exported, first, second)
    first.free()
    prove_same(exported, second)


@pytest.fixture
def quick(driver: str, rig: Rig) -> Iterator[Rig]:
    """A device without checks, for what is done thousands of times."""
    with Rig(driver, checks="off") as made:
        yield made


def test_import_multiple_times(rig: Rig, quick: Rig, kind: Kind) -> None:
    exported = rig.allocate(kind)
    exported.write(pattern(1))
    fd = exported.export_fd()
    for count in range(MANY if kind == Kind(True, True) else FEW):
        imported = quick.import_fd(os.dup(fd), exported.passport)
        if count % 128 == 0:
            assert imported.read() == pattern(1)
        imported.free()
    os.close(fd)
    assert exported.read() == pattern(1)


def test_import_many_at_once(rig: Rig, kind: Kind) -> None:
    exported = rig.allocate(kind)
    fd = exported.export_fd()
    held = [rig.import_fd(os.dup(fd), exported.passport) for _ in range(AT_ONCE)]
    os.close(fd)
    held[0].write(pattern(1))
    assert held[-1].read() == pattern(1)
    held[-1].write(pattern(2))
    assert exported.read() == pattern(2)
    for each in held:
        assert each.read(64) == pattern(2)[:64]


def test_export_multiple_times(quick: Rig, kind: Kind) -> None:
    exported = quick.allocate(kind)
    exported.write(pattern(1))
    for _ in range(MANY if kind == Kind(True, True) else FEW):
        os.close(exported.export_fd())
    assert exported.read() == pattern(1)


def test_exported_descriptors_are_independent(rig: Rig, kind: Kind, importer: Any) -> None:
    exported = rig.allocate(kind)
    fds = [exported.export_fd() for _ in range(64)]
    assert len(set(fds)) == 64
    assert all(fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC for fd in fds)
    for fd in fds[1:-1]:
        os.close(fd)
    prove_same(exported, *(importer.import_fd(fd, exported.passport) for fd in (fds[0], fds[-1])))


# -- descriptors on their way -----------------------------------------------------------------


def dup(fd: int) -> int:
    return os.dup(fd)


def dup2(fd: int) -> int:
    """Over the number of something else."""
    other = os.open(os.devnull, os.O_RDONLY)
    return os.dup2(fd, other, inheritable=True)


def dup3(fd: int) -> int:
    """dup2 with close-on-exec is dup3."""
    other = os.open(os.devnull, os.O_RDONLY)
    return os.dup2(fd, other, inheritable=False)


@pytest.mark.parametrize("duplicate", [dup, dup2, dup3])
def test_duplicate(rig: Rig, kind: Kind, importer: Any, duplicate: Any) -> None:
    exported = rig.allocate(kind)
    fd = exported.export_fd()
    copy = duplicate(fd)
    first = importer.import_fd(copy, exported.passport)
    second = importer.import_fd(fd, exported.passport)  # the original is as good as before
    prove_same(exported, first, second)


def test_send_over_socket(rig: Rig, kind: Kind, importer: Any) -> None:
    exported = rig.allocate(kind)
    fd = exported.export_fd()
    here, there = socket.socketpair()
    with here, there:
        socket.send_fds(here, [b"x"], [fd])
        os.close(fd)
        exported.write(pattern(7))
        _, (received,), _, _ = socket.recv_fds(there, 1, 1)
    imported = importer.import_fd(received, exported.passport)
    assert imported.read() == pattern(7)
    prove_same(exported, imported)


# -- lifetimes --------------------------------------------------------------------------------


def test_exporter_freed_first(rig: Rig, kind: Kind, importer: Any) -> None:
    exported = rig.allocate(kind)
    exported.write(pattern(1))
    passport, fd = exported.passport, exported.export_fd()
    first = importer.import_fd(os.dup(fd), passport)
    exported.free()
    assert first.read() == pattern(1)
    # The descriptor alone keeps the payload.
    first.write(pattern(2))
    first.free()
    assert importer.import_fd(fd, passport).read() == pattern(2)


def test_exporting_process_is_gone(driver: str, rig: Rig, kind: Kind) -> None:
    """The payload went from here to there and back; then the process over there is killed."""
    exported = rig.allocate(kind)
    passport, fd = exported.passport, exported.export_fd()
    with second.start(serve) as other:
        there = FarRig(other)
        other.send(["open", 0, {"driver": driver}])
        other.receive()
        there.import_fd(os.dup(fd), passport).write(pattern(3))
        other.kill()
    assert exported.read() == pattern(3)
    exported.free()
    assert rig.import_fd(fd, passport).read() == pattern(3)


def test_contents_survive_a_whole_device(driver: str, rig: Rig, kind: Kind) -> None:
    with Rig(driver) as other:
        made = other.allocate(kind)
        made.write(pattern(4))
        passport, fd = made.passport, made.export_fd()
    assert rig.import_fd(fd, passport).read() == pattern(4)


def test_filled_on_the_queue(rig: Rig, kind: Kind, importer: Any) -> None:
    exported = rig.allocate(kind)
    imported = importer.import_fd(exported.export_fd(), exported.passport)
    exported.fill(0x01020304)
    assert imported.read() == bytes.fromhex("04030201") * (exported.size // 4)
    imported.fill(0xA0B0C0D0)
    assert exported.read() == bytes.fromhex("d0c0b0a0") * (exported.size // 4)


# -- buffers ----------------------------------------------------------------------------------


def test_buffer_info(rig: Rig, kind: Kind) -> None:
    """What the driver says it can do, it can."""
    found = rig.buffer_features(OPAQUE_FD)
    assert found.compatibleHandleTypes & OPAQUE_FD
    exported = rig.allocate(kind)
    prove_same(exported, rig.import_fd(exported.export_fd(), exported.passport))


def test_export_what_was_imported(rig: Rig, kind: Kind) -> None:
    """From one to a second and from there to a third: the same bytes, or an error."""
    if not rig.buffer_features(OPAQUE_FD).exportFromImportedHandleTypes & OPAQUE_FD:
        driver_cannot("what was imported as OPAQUE_FD cannot be exported")
    exported = rig.allocate(kind)
    fd = exported.export_fd()
    chain = (
        vk.VkImportMemoryFdInfoKHR(handleType=OPAQUE_FD, fd=fd),
        vk.VkExportMemoryAllocateInfo(handleTypes=OPAQUE_FD),
    )
    dedicated = vk.VkMemoryDedicatedAllocateInfo(buffer=exported.buffer) if kind.dedicated else None
    try:
        again = rig.allocate_memory(exported.passport, *chain, dedicated)
    except (DriverError, RuleViolation):
        # NVIDIA 580 says that it can, and makes memory that is shared with nobody. To refuse is
        # right there, and only there.
        assert vk.vkGetPhysicalDeviceProperties(rig.physical).vendorID == NVIDIA
        os.close(fd)
        return
    info = vk.VkMemoryGetFdInfoKHR(memory=again, handleType=OPAQUE_FD)
    third = rig.import_fd(vk.vkGetMemoryFdKHR(rig.device, info), exported.passport)
    vk.vkFreeMemory(rig.device, again)
    prove_same(exported, third)


def test_buffer_bind_export_import_bind(rig: Rig, kind: Kind, importer: Any) -> None:
    exported = rig.allocate(kind, bind=False)
    exported.bind()
    fd = exported.export_fd()
    imported = importer.import_fd(fd, exported.passport, bind=False)
    imported.bind()
    prove_same(exported, imported)


def test_buffer_export_bind_import_bind(rig: Rig, kind: Kind, importer: Any) -> None:
    exported = rig.allocate(kind, bind=False)
    fd = exported.export_fd()
    exported.bind()
    imported = importer.import_fd(fd, exported.passport, bind=False)
    imported.bind()
    prove_same(exported, imported)


def test_buffer_export_import_bind_bind(rig: Rig, kind: Kind, importer: Any) -> None:
    exported = rig.allocate(kind, bind=False)
    fd = exported.export_fd()
    imported = importer.import_fd(fd, exported.passport, bind=False)
    exported.bind()
    imported.bind()
    prove_same(exported, imported)


# -- misc -------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_fd", [True, False], ids=["fd", "no_fd"])
def test_zero_handle_memory(rig: Rig, kind: Kind, with_fd: bool) -> None:
    """An import with handleType 0 is an ordinary allocation, and its fd is nobody's business."""
    passport = rig.allocate(kind, export=0).passport
    with open(os.devnull) as file:
        name = f"/proc/self/fd/{file.fileno()}"
        try:
            block = rig.import_fd(file.fileno() if with_fd else -1, passport, handle_type=0)
            prove_same(block)
            block.free()
            assert os.readlink(name) == os.devnull
        finally:
            if not os.path.exists(name):  # so that a failure costs this test alone
                os.dup2(2, file.fileno(), inheritable=False)
