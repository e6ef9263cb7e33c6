"""HOST_ALLOCATION memory: the device works on bytes that this process owns."""

from __future__ import annotations

import ctypes
import mmap
import os
import secrets
import sys
from collections.abc import Iterator

import pytest

from extmem import vk
from tests.support import second
from tests.support.offers import IMPORTABLE, require_buffers
from tests.support.rig import HOST, Kind, Rig, pattern
from tests.support.second import Channel
from tests.support.strict import driver_cannot

KIND = Kind(dedicated=False, host_visible=True)


# Windows' mappings of no file are private as long as they have no name.
PRIVATE: dict[str, int] = {}
if sys.platform != "win32":
    PRIVATE["flags"] = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


@pytest.fixture
def rig(rig: Rig) -> Rig:
    if "VK_EXT_external_memory_host" not in rig.extensions:
        driver_cannot("no VK_EXT_external_memory_host")
    require_buffers(rig, HOST, KIND, IMPORTABLE)
    return rig


@pytest.fixture
def size(rig: Rig) -> int:
    """Some units of what the driver can import."""
    limits = vk.VkPhysicalDeviceExternalMemoryHostPropertiesEXT()
    vk.vkGetPhysicalDeviceProperties2(rig.physical, vk.VkPhysicalDeviceProperties2(pNext=limits))
    alignment = limits.minImportedHostPointerAlignment
    assert 0 < alignment <= 65536
    assert alignment & alignment - 1 == 0
    return 4 * max(alignment, mmap.PAGESIZE)


@pytest.fixture
def memory(size: int) -> Iterator[mmap.mmap]:
    """Whole pages of this process."""
    with mmap.mmap(-1, size, **PRIVATE) as made:
        yield made


def address_of(memory: mmap.mmap) -> int:
    # The ctypes object must be gone before the mmap can be closed, and it is.
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def test_a_mapping_shows_the_same_bytes(rig: Rig, memory: mmap.mmap, size: int) -> None:
    memory[:] = pattern(1, size)
    block = rig.import_host(address_of(memory), size)
    assert block.read() == pattern(1, size)
    block.write(pattern(2, size))
    assert memory[:] == pattern(2, size)
    memory[:] = pattern(3, size)
    assert block.read() == pattern(3, size)


def test_the_queue_works_on_the_same_bytes(rig: Rig, memory: mmap.mmap, size: int) -> None:
    block = rig.import_host(address_of(memory), size)
    block.fill(0x11223344)
    assert memory[:] == bytes.fromhex("44332211") * (size // 4)
    memory[:] = pattern(4, size)
    target = rig.allocate(Kind(dedicated=False, host_visible=True), export=0, size=size)

    def copy(source: vk.VkBuffer, to: vk.VkBuffer) -> None:
        region = vk.VkBufferCopy(size=size)
        rig.submit(lambda commands: vk.vkCmdCopyBuffer(commands, source, to, 1, [region]))

    copy(block.buffer, target.buffer)
    assert target.read() == pattern(4, size)
    target.write(pattern(5, size))
    copy(target.buffer, block.buffer)
    assert memory[:] == pattern(5, size)


def test_the_bytes_outlive_the_import(rig: Rig, memory: mmap.mmap, size: int) -> None:
    block = rig.import_host(address_of(memory), size)
    block.write(pattern(6, size))
    block.free()
    assert memory[:] == pattern(6, size)
    again = rig.import_host(address_of(memory), size)
    assert again.read() == pattern(6, size)


def test_two_imports_of_the_same_bytes(rig: Rig, memory: mmap.mmap, size: int) -> None:
    first = rig.import_host(address_of(memory), size)
    with Rig(rig.driver) as other:
        second_one = other.import_host(address_of(memory), size)
        first.write(pattern(7, size))
        assert second_one.read() == pattern(7, size)
        second_one.fill(0)
        assert first.read() == memory[:] == bytes(size)


def _mapped(name: str, size: int, fd: int = -1) -> mmap.mmap:
    """Pages that another process maps too: by a descriptor, or on Windows by their name."""
    if sys.platform == "win32":
        return mmap.mmap(-1, size, tagname=name)
    return mmap.mmap(fd, size)


def over_there(channel: Channel, driver: str, size: int) -> dict[str, bool]:
    """Import our own mapping of the file that comes; read it, and write it on the queue."""
    name, fds = channel.receive()
    with _mapped(name, size, *fds) as memory, Rig(driver) as rig:
        for fd in fds:
            os.close(fd)
        block = rig.import_host(address_of(memory), size)
        seen = block.read() == pattern(8, size)
        block.fill(0x55667788)
    return {"seen": seen}


def test_between_processes_over_a_shared_file(driver: str, rig: Rig, size: int) -> None:
    name, fds = f"extmem-test-{secrets.token_hex(8)}", []
    if sys.platform != "win32":
        fds.append(os.memfd_create(name))
        os.ftruncate(fds[0], size)
    with _mapped(name, size, *fds) as memory:
        block = rig.import_host(address_of(memory), size)
        block.write(pattern(8, size))
        with second.start(over_there, driver=driver, size=size) as other:
            other.send(name, fds)
            assert other.result() == {"seen": True}
        assert block.read() == bytes.fromhex("88776655") * (size // 4)
        block.free()
    for fd in fds:
        os.close(fd)
