"""Rules of importing file descriptors and of asking about them: each broken and kept."""

from __future__ import annotations

import os
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from extmem import DriverError, vk
from extmem.vk.queries import External, Queries
from tests.support.bare import DMA_BUF, HOST, OPAQUE_FD, OPAQUE_WIN32, SIZE, Bare
from tests.support.strict import driver_cannot

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="hardware: descriptors are POSIX")

MASKED = vk.VK_MEMORY_ALLOCATE_DEVICE_MASK_BIT
IMPORT = "VUID-VkImportMemoryFdInfoKHR"
INFO = "VUID-VkMemoryAllocateInfo"


@pytest.fixture
def gpu(driver: str) -> Iterator[Bare]:
    with Bare(driver) as found:
        yield found


def from_fd(fd: int, handle_type: int = OPAQUE_FD) -> Any:
    return vk.VkImportMemoryFdInfoKHR(handleType=handle_type, fd=fd)


def exporting(types: int = OPAQUE_FD) -> Any:
    return vk.VkExportMemoryAllocateInfo(handleTypes=types)


def dedicated(**members: Any) -> Any:
    return vk.VkMemoryDedicatedAllocateInfo(**members)


@pytest.fixture
def shared(gpu: Bare) -> Iterator[int]:
    """A descriptor of SIZE bytes of exportable memory; closed afterwards unless consumed."""
    fd = gpu.fd_of(gpu.exportable())
    found = os.fstat(fd)
    yield fd
    try:
        if os.path.samestat(os.fstat(fd), found):
            os.close(fd)
    except OSError:
        pass


def identified(fd: int) -> None:
    """Go on only where a descriptor tells which payload it is of.

    NVIDIA's are all of one device file; what the specification calls undecidable is so there.
    """
    if stat.S_ISCHR(os.fstat(fd).st_mode):
        driver_cannot("its descriptors do not tell which payload they are of")


def _needed(gpu: Bare, resource: Any) -> int:
    if isinstance(resource, vk.VkBuffer):
        return int(vk.vkGetBufferMemoryRequirements(gpu.device, resource).size)
    return int(vk.vkGetImageMemoryRequirements(gpu.device, resource).size)


# -- importing descriptors --------------------------------------------------------------------


def test_types_that_are_descriptors(gpu: Bare, shared: int) -> None:
    for handle_type in (OPAQUE_WIN32, HOST):
        gpu.refuses(f"{IMPORT}-handleType-00669", from_fd(shared, handle_type))
    os.fstat(shared)
    gpu.allocate(from_fd(shared))
    with pytest.raises(OSError, match="Bad file"):  # taken by the import
        os.fstat(shared)


def test_types_that_can_be_imported(gpu: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    vuid = f"{IMPORT}-handleType-09862"
    fd = gpu.fd_of(gpu.exportable())
    offer = External(2, OPAQUE_FD, 0)
    with monkeypatch.context() as patch:
        patch.setattr(Queries, "external_plain", lambda self, which: offer)
        gpu.refuses(vuid, from_fd(fd))
    gpu.allocate(from_fd(fd))


def test_descriptors_that_are_no_memory(gpu: Bare, tmp_path: Path) -> None:
    vuid = f"{IMPORT}-handleType-00670"
    gpu.needs("vkGetMemoryFdKHR")
    for fd in (-1, -77, 1 << 30):
        gpu.refuses(vuid, from_fd(fd))
        gpu.refuses(vuid, from_fd(fd, DMA_BUF))
    ends = socket.socketpair()
    made = [
        *os.pipe(),
        os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY),
        os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT),
        os.open("/dev/zero", os.O_RDWR),
        os.open("/dev/null", os.O_RDWR),
    ]
    if hasattr(os, "eventfd"):
        made.append(os.eventfd(0))
    try:
        os.truncate(tmp_path / "file", 2 * SIZE)
        for fd in (*made, ends[0].fileno()):
            gpu.refuses(vuid, from_fd(fd))
            os.fstat(fd)  # still ours
    finally:
        for fd in made:
            os.close(fd)
        for end in ends:
            end.close()
    gpu.refuses(vuid, from_fd(made[0]))  # closed now


def test_a_memfd_is_no_dma_buf(gpu: Bare, shared: int) -> None:
    vuid = f"{IMPORT}-handleType-00670"
    gpu.refuses(vuid, from_fd(shared, DMA_BUF))
    plain = os.memfd_create("plain")
    try:
        os.truncate(plain, SIZE)
        gpu.refuses(vuid, from_fd(plain, DMA_BUF))
    finally:
        os.close(plain)


def test_size_and_type_of_the_exporter(gpu: Bare, shared: int) -> None:
    identified(shared)
    vuid = f"{INFO}-allocationSize-01742"
    for size in (SIZE - 1, SIZE + 1, 4096):
        gpu.refuses(vuid, from_fd(shared), size=size)
    for index in range(len(gpu.types)):
        if index != gpu.visible:
            gpu.refuses(vuid, from_fd(shared), index=index)
    gpu.allocate(from_fd(shared))


def test_a_file_shorter_than_it_claims(gpu: Bare) -> None:
    gpu.needs("vkGetMemoryFdKHR")
    fd = os.memfd_create("short")
    try:
        for length in (0, 4096, SIZE - 1):
            os.truncate(fd, length)
            gpu.refuses(f"{INFO}-allocationSize-01742", from_fd(fd))
        os.truncate(fd, SIZE)
        # Long enough is all that can be known of it. The driver decides, and a refusal is clean.
        try:
            gpu.allocate(from_fd(os.dup(fd)))
        except DriverError:
            os.close(max(int(each) for each in os.listdir("/proc/self/fd") if _same(each, fd)))
    finally:
        os.close(fd)


def _same(name: str, fd: int) -> bool:
    try:
        return int(name) != fd and os.path.samestat(os.fstat(int(name)), os.fstat(fd))
    except OSError:
        return False


def test_what_is_known_is_verified_again(gpu: Bare, shared: int) -> None:
    from extmem.world import payloads

    status = os.fstat(shared)
    identity = (status.st_dev, status.st_ino)
    known = payloads.find(identity, status.st_size)
    if known is None:
        driver_cannot("its descriptors do not identify the payload")
    assert (known.size, known.type_index, known.dedicated) == (SIZE, gpu.visible, "")
    assert payloads.find(identity, status.st_size + 1) is None  # another file by now
    assert payloads.find(identity, status.st_size) is None  # and so it is forgotten
    gpu.allocate(from_fd(shared))


def test_payloads_are_bounded() -> None:
    from dataclasses import replace

    from extmem.world import Origin, Payloads

    table = Payloads(most=3)
    origin = Origin(1, SIZE, 0, None, None, 0, "", None, SIZE)
    for inode in range(5):
        table.add((1, inode), origin)
    assert len(table) == 3
    assert table.find((1, 1), SIZE) is None
    table.add((1, 2), replace(origin, types=0x200))  # fetched again, as another type
    found = table.find((1, 2), SIZE)
    assert found is not None
    assert found.types == 0x201


def test_memory_types_of_a_dma_buf(gpu: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    vuid = f"{INFO}-memoryTypeIndex-00648"
    fd = os.memfd_create("stands for a dma-buf")
    try:
        os.truncate(fd, SIZE)
        monkeypatch.setattr("extmem.handles.posix.describe", lambda fd: "dma-buf")
        monkeypatch.setattr(Queries, "external_plain", lambda self, which: External(6, which, 0))
        monkeypatch.setattr(Queries, "fd_memory_types", lambda self, *which: 0)
        gpu.refuses(vuid, from_fd(fd, DMA_BUF))
        monkeypatch.setattr(Queries, "fd_memory_types", lambda self, *which: 1 << gpu.visible)
        gpu.refuses(f"{INFO}-opaqueCaptureAddress-03333", from_fd(fd, DMA_BUF), _capture())
    finally:
        os.close(fd)


def _capture() -> Any:
    return vk.VkMemoryOpaqueCaptureAddressAllocateInfo(opaqueCaptureAddress=4096)


def test_device_and_driver_of_the_exporter(gpu: Bare, shared: int, driver: str) -> None:
    from extmem.world import payloads

    status = os.fstat(shared)
    if payloads.find((status.st_dev, status.st_ino), status.st_size) is None:
        driver_cannot("its descriptors do not identify the payload")
    here = Queries(gpu.dispatch).identity()
    assert here is not None
    for other, vuids in (
        ((bytes(16), here[1]), ("fd-00668",)),
        ((here[0], bytes(16)), ("fd-01746", "fd-01520")),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Queries, "identity", lambda self, other=other: other)
            for vuid in vuids:
                gpu.refuses(f"{IMPORT}-{vuid}", from_fd(shared))
    gpu.allocate(from_fd(shared))


def test_another_device(gpu: Bare, shared: int, driver: str) -> None:
    with Bare(driver, index=1) as other:
        vuids = other.refuses(f"{IMPORT}-fd-00668", from_fd(shared))
        assert f"{INFO}-None-00644" in vuids


def test_another_driver(gpu: Bare, shared: int, driver: str) -> None:
    if driver == "embedded":
        pytest.skip("the driver's answer: it is the other one here")
    identified(shared)
    with Bare("embedded") as other:
        other.refuses(f"{IMPORT}-fd-01520", from_fd(shared))
        os.fstat(shared)


def test_device_mask_of_the_exporter(gpu: Bare, shared: int) -> None:
    memory = gpu.allocate(exporting(), vk.VkMemoryAllocateFlagsInfo(flags=MASKED, deviceMask=1))
    fd = gpu.fd_of(memory)
    status = os.fstat(fd)
    try:
        from extmem.world import payloads

        if payloads.find((status.st_dev, status.st_ino), status.st_size) is None:
            driver_cannot("its descriptors do not identify the payload")
        mask = vk.VkMemoryAllocateFlagsInfo(flags=MASKED, deviceMask=2)
        gpu.refuses(f"{INFO}-None-00643", from_fd(fd), mask)
        gpu.allocate(from_fd(fd), vk.VkMemoryAllocateFlagsInfo(flags=MASKED, deviceMask=1))
        fd = -1
    finally:
        if fd >= 0:
            os.close(fd)


@pytest.mark.parametrize("member", ["buffer", "image"])
def test_dedicated_as_the_exporter(gpu: Bare, member: str) -> None:
    last = {"buffer": "buffer-01879", "image": "image-01878"}[member]
    vuid = f"VUID-VkMemoryDedicatedAllocateInfo-{last}"
    make = getattr(gpu, member)
    first, alike = make(types=OPAQUE_FD), make(types=OPAQUE_FD)
    other = gpu.buffer(SIZE // 2, OPAQUE_FD) if member == "buffer" else gpu.image(32, OPAQUE_FD)
    size = _needed(gpu, first)
    plain = gpu.fd_of(gpu.exportable(size=size))
    own = gpu.fd_of(gpu.exportable(dedicated(**{member: first}), size=size))
    try:
        identified(plain)
        gpu.refuses(vuid, from_fd(plain), dedicated(**{member: alike}), size=size)
        gpu.refuses(vuid, from_fd(own), dedicated(**{member: other}), size=size)
        gpu.allocate(from_fd(own), dedicated(**{member: alike}), size=size)
        own = -1
    finally:
        for fd in (plain, own):
            if fd >= 0:
                os.close(fd)


# -- asking about descriptors -----------------------------------------------------------------


def test_asking_about_descriptors(gpu: Bare) -> None:
    gpu.needs("vkGetMemoryFdPropertiesKHR")
    ask, name = vk.vkGetMemoryFdPropertiesKHR, "VUID-vkGetMemoryFdPropertiesKHR"
    gpu.breaks(f"{name}-handleType-00674", ask, OPAQUE_FD, 0)
    gpu.breaks(f"{name}-handleType-00674", ask, OPAQUE_WIN32, 0)
    fd = os.memfd_create("plain")
    try:
        gpu.breaks(f"{name}-fd-00673", ask, DMA_BUF, fd)
    finally:
        os.close(fd)
    gpu.breaks(f"{name}-fd-00673", ask, DMA_BUF, fd)
    gpu.breaks(f"{name}-fd-00673", ask, DMA_BUF, -1)
