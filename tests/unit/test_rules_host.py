"""Rules of host pointers: each broken and kept."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from extmem import vk
from extmem.handles import host_memory
from extmem.vk.queries import External, Queries
from tests.support.bare import FOREIGN, HOST, OPAQUE_FD, SIZE, Bare
from tests.support.strict import driver_cannot

if sys.platform != "linux":
    pytest.skip("hardware: only Linux is asked what is mapped", allow_module_level=True)

IMPORT = "VUID-VkImportMemoryHostPointerInfoEXT"
INFO = "VUID-VkMemoryAllocateInfo"
ASK = "VUID-vkGetMemoryHostPointerPropertiesEXT"
KERNEL = 0xFFFF_8000_0000_0000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


@pytest.fixture
def gpu(driver: str) -> Iterator[Bare]:
    with Bare(driver) as found:
        if not found.dispatch.enabled("VK_EXT_external_memory_host"):
            driver_cannot("no VK_EXT_external_memory_host")
        yield found


@contextmanager
def pages(size: int = SIZE, fd: int = -1, flags: int = 0) -> Iterator[int]:
    """The address of mapped pages that are unmapped at the end."""
    flags = flags or (mmap.MAP_SHARED if fd >= 0 else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area = mmap.mmap(fd, size, flags)
    start = ctypes.c_char.from_buffer(area)
    try:
        yield ctypes.addressof(start)
    finally:
        _libc.mprotect(ctypes.addressof(start), size, mmap.PROT_READ | mmap.PROT_WRITE)
        del start
        area.close()


def at(address: int | None, handle_type: int = HOST) -> Any:
    return vk.VkImportMemoryHostPointerInfoEXT(handleType=handle_type, pHostPointer=address)


def ask(gpu: Bare, address: int, handle_type: int = HOST) -> int:
    box = vk.vkGetMemoryHostPointerPropertiesEXT(gpu.device, handle_type, address)
    return int(box.memoryTypeBits)


def index_for(gpu: Bare, address: int) -> int:
    """A memory type that imports this address."""
    info = vk.VkPhysicalDeviceExternalBufferInfo(usage=1, handleType=HOST)
    found = vk.vkGetPhysicalDeviceExternalBufferProperties(gpu.physical, info)
    if not found.externalMemoryProperties.externalMemoryFeatures & 4:
        driver_cannot("it reports host allocations as not importable")
    types = ask(gpu, address)
    return (types & -types).bit_length() - 1


def test_good_pages_are_imported(gpu: Bare) -> None:
    with pages() as address:
        memory = gpu.allocate(at(address), index=index_for(gpu, address))
        vk.vkFreeMemory(gpu.device, memory)


def test_types_that_are_addresses(gpu: Bare) -> None:
    gpu.refuses(f"{IMPORT}-handleType-01748", at(4096, OPAQUE_FD))
    for handle_type in (OPAQUE_FD, 0):
        gpu.breaks(
            f"{ASK}-handleType-01752",
            vk.vkGetMemoryHostPointerPropertiesEXT,
            handle_type,
            4096,
        )


def test_types_that_can_be_imported(gpu: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    vuid = f"{IMPORT}-handleType-01747"
    with pages() as address:
        gpu.refuses(vuid, at(address, FOREIGN))  # no driver here takes those
        monkeypatch.setattr(Queries, "external_plain", lambda self, which: External(0, 0, 0))
        gpu.refuses(vuid, at(address))


def test_whole_pages(gpu: Bare) -> None:
    with pages() as address:
        for size in (0, 1, SIZE - 1):
            gpu.refuses(f"{INFO}-allocationSize-01745", at(address), size=size)
        for step in (1, 64, 2048):
            gpu.refuses(f"{IMPORT}-pHostPointer-01749", at(address + step), size=4096)
            gpu.breaks(
                f"{ASK}-pHostPointer-01753",
                vk.vkGetMemoryHostPointerPropertiesEXT,
                HOST,
                address + step,
            )


@pytest.mark.parametrize("address", [None, 4096, KERNEL, (1 << 64) - 4096], ids=str)
def test_addresses_of_nothing(gpu: Bare, address: int | None) -> None:
    command = vk.vkGetMemoryHostPointerPropertiesEXT
    if address is None:
        gpu.refuses(f"{IMPORT}-pHostPointer-parameter", at(address))
        gpu.breaks(f"{ASK}-pHostPointer-parameter", command, HOST, address)
        return
    gpu.refuses(f"{IMPORT}-handleType-01750", at(address))
    gpu.refuses(f"{IMPORT}-handleType-01751", at(address, FOREIGN))
    gpu.breaks(f"{ASK}-handleType-01754", command, HOST, address)
    gpu.breaks(f"{ASK}-handleType-01755", command, FOREIGN, address)


@pytest.mark.parametrize("rights", [0, mmap.PROT_READ], ids=["no access", "read only"])
@pytest.mark.parametrize("offset", [0, SIZE // 2])
def test_pages_that_cannot_be_written(gpu: Bare, rights: int, offset: int) -> None:
    with pages() as address:
        _libc.mprotect(address + offset, 4096, rights)
        gpu.refuses(f"{IMPORT}-handleType-01750", at(address))


def test_a_range_with_a_hole(gpu: Bare) -> None:
    _libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    _libc.mmap.restype = ctypes.c_void_p
    area = _libc.mmap(None, ctypes.c_size_t(SIZE), 3, 0x22, -1, ctypes.c_long(0))
    try:
        _libc.munmap(area + 4096, 4096)
        gpu.refuses(f"{IMPORT}-handleType-01750", at(area))
        gpu.refuses(f"{IMPORT}-handleType-01750", at(area + 4096), size=4096)
    finally:
        _libc.munmap(area, SIZE)


def test_pages_behind_the_end_of_a_file(gpu: Bare) -> None:
    fd = os.memfd_create("shrinks")
    try:
        os.truncate(fd, SIZE)
        with pages(fd=fd) as address:
            os.truncate(fd, SIZE // 2)
            gpu.refuses(f"{IMPORT}-handleType-01750", at(address))
            index = index_for(gpu, address)
            vk.vkFreeMemory(gpu.device, gpu.allocate(at(address), size=SIZE // 2, index=index))
    finally:
        os.close(fd)


def test_memory_of_a_device(gpu: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    found = host_memory.HostRange("", device="/dev/dri/card0")
    monkeypatch.setattr(host_memory, "examine", lambda address, size: found)
    with pages() as address:
        gpu.refuses(f"{IMPORT}-handleType-01750", at(address))
        vuids = gpu.refuses(f"{IMPORT}-handleType-01747", at(address, FOREIGN))
        assert f"{IMPORT}-handleType-01751" not in vuids


def test_memory_of_the_host_is_not_foreign(gpu: Bare) -> None:
    with pages() as address:
        gpu.refuses(f"{IMPORT}-handleType-01751", at(address, FOREIGN))


def test_memory_types_of_an_address(gpu: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    vuid = f"{INFO}-memoryTypeIndex-01744"
    with pages() as address:
        types = ask(gpu, address)
        monkeypatch.setattr(Queries, "host_memory_types", lambda self, *which: types << 1)
        index = (types & -types).bit_length() - 1
        gpu.refuses(vuid, at(address), index=index)
    with pages() as address:
        for other in range(len(gpu.types)):
            if not types >> other & 1:
                monkeypatch.undo()
                gpu.refuses(vuid, at(address), index=other)


def test_what_is_examined() -> None:
    with pages() as address:
        found = host_memory.examine(address, SIZE)
        assert found == host_memory.HostRange("")
        _libc.mprotect(address + 4096, 4096, mmap.PROT_READ)
        found = host_memory.examine(address, SIZE)
        assert found is not None
        assert found.problem == f"is readable only at {address + 4096:#x}"
    # Ours, readable and writable, and begins in the middle of an area.
    some = (ctypes.c_char * 100)()
    assert host_memory.examine(ctypes.addressof(some), 100) == host_memory.HostRange("")
