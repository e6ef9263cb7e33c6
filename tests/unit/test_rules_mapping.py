"""Rules of mapping, unmapping, flushing and invalidating: each broken and kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from extmem import vk
from extmem.vk.queries import Limits, Queries
from tests.support.bare import HOST, SIZE, Bare
from tests.support.strict import driver_cannot

ATOM = 64
WHOLE = vk.VK_WHOLE_SIZE


@pytest.fixture(params=["vkMapMemory", "vkMapMemory2"])
def way(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def gpu(driver: str) -> Iterator[Bare]:
    with Bare(driver) as found:
        yield found


class Ways:
    """The two ways to map, as one."""

    def __init__(self, gpu: Bare, way: str) -> None:
        gpu.needs(way)
        self.gpu = gpu
        self.second = way.endswith("2")

    def refused(
        self, last: tuple[str, str], memory: Any, offset: int, size: int, flags: int = 0
    ) -> None:
        if self.second:
            info = vk.VkMemoryMapInfo(flags=flags, memory=memory, offset=offset, size=size)
            self.gpu.breaks(f"VUID-VkMemoryMapInfo-{last[1]}", vk.vkMapMemory2, info)
        else:
            self.gpu.breaks(
                f"VUID-vkMapMemory-{last[0]}", vk.vkMapMemory, memory, offset, size, flags
            )

    def mapped(self, memory: Any, offset: int, size: int) -> int:
        device = self.gpu.device
        if self.second:
            info = vk.VkMemoryMapInfo(memory=memory, offset=offset, size=size)
            return len(vk.vkMapMemory2(device, info))
        return len(vk.vkMapMemory(device, memory, offset, size))


def test_ranges_to_map(gpu: Bare, way: str) -> None:
    ways = Ways(gpu, way)
    memory = gpu.allocate()
    ways.refused(("size-00680", "size-07960"), memory, 0, 0)
    for offset in (SIZE, SIZE + 1, (1 << 64) - 1):
        ways.refused(("offset-00679", "offset-07959"), memory, offset, WHOLE)
    for offset, size in ((0, SIZE + 1), (4096, SIZE), (SIZE - 1, 2), (1, (1 << 64) - 2)):
        ways.refused(("size-00681", "size-07961"), memory, offset, size)
    assert ways.mapped(memory, 4096, SIZE - 4096) == SIZE - 4096
    vk.vkUnmapMemory(gpu.device, memory)
    assert ways.mapped(memory, 4096, WHOLE) == SIZE - 4096


def test_mapped_once(gpu: Bare, way: str) -> None:
    ways = Ways(gpu, way)
    memory = gpu.allocate()
    ways.mapped(memory, 0, WHOLE)
    ways.refused(("memory-00678", "memory-07958"), memory, 0, WHOLE)
    vk.vkUnmapMemory(gpu.device, memory)
    ways.mapped(memory, 0, WHOLE)


def test_memory_that_can_be_seen(gpu: Bare, way: str) -> None:
    ways = Ways(gpu, way)
    hidden = [i for i, flags in enumerate(gpu.types) if not flags & 2]
    memory = gpu.allocate(index=hidden[0] if hidden else None)
    if not hidden:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Queries, "memory_types", lambda self: ((1, 1 << 30), (2, 1 << 30)))
            ways.refused(("memory-00682", "memory-07962"), memory, 0, WHOLE)
        return
    ways.refused(("memory-00682", "memory-07962"), memory, 0, WHOLE)


def test_one_instance(gpu: Bare, way: str) -> None:
    ways = Ways(gpu, way)
    memory = gpu.allocate()
    gpu.facts(memory)["mask"] = 0b11
    ways.refused(("memory-00683", "memory-07963"), memory, 0, WHOLE)
    gpu.facts(memory)["mask"] = 0b10
    ways.mapped(memory, 0, WHOLE)


def test_host_memory_stays_in_place(gpu: Bare) -> None:
    gpu.needs("vkMapMemory2")
    memory = gpu.allocate()
    gpu.facts(memory)["import"] = HOST
    info = vk.VkMemoryMapInfo(flags=vk.VK_MEMORY_MAP_PLACED_BIT_EXT, memory=memory, size=WHOLE)
    gpu.breaks("VUID-VkMemoryMapInfo-flags-09575", vk.vkMapMemory2, info)
    info.flags = 0
    vk.vkMapMemory2(gpu.device, info)
    unmap = vk.VkMemoryUnmapInfo(flags=vk.VK_MEMORY_UNMAP_RESERVE_BIT_EXT, memory=memory)
    gpu.breaks("VUID-VkMemoryUnmapInfo-flags-09580", vk.vkUnmapMemory2, unmap)
    unmap.flags = 0
    vk.vkUnmapMemory2(gpu.device, unmap)
    gpu.breaks("VUID-VkMemoryUnmapInfo-memory-07964", vk.vkUnmapMemory2, unmap)


def test_unmapped_once(gpu: Bare) -> None:
    memory = gpu.allocate()
    vuid = "VUID-vkUnmapMemory-memory-00689"
    gpu.breaks(vuid, vk.vkUnmapMemory, memory)
    vk.vkMapMemory(gpu.device, memory, 0, WHOLE)
    vk.vkUnmapMemory(gpu.device, memory)
    gpu.breaks(vuid, vk.vkUnmapMemory, memory)


@pytest.mark.parametrize("name", ["vkFlushMappedMemoryRanges", "vkInvalidateMappedMemoryRanges"])
def test_ranges_to_flush(gpu: Bare, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = getattr(vk, name)
    monkeypatch.setattr(Queries, "limits", lambda self: Limits(4096, ATOM))
    prefix = "VUID-VkMappedMemoryRange"
    memory = gpu.allocate()

    def refused(last: str, offset: int, size: int) -> None:
        item = vk.VkMappedMemoryRange(memory=memory, offset=offset, size=size)
        gpu.breaks(f"{prefix}-{last}", command, 1, [item])

    refused("memory-00684", 0, WHOLE)
    vk.vkMapMemory(gpu.device, memory, 4096, 8192)
    refused("size-00685", 0, 4096)
    refused("size-00685", 8192, 8192)
    refused("size-00686", 0, WHOLE)
    refused("size-00686", 4096 + 8192, WHOLE)
    refused("offset-00687", 4096 + 1, ATOM)
    refused("size-01390", 4096, ATOM + 1)
    for offset, size in ((4096, WHOLE), (4096, 8192), (8192, ATOM)):
        item = vk.VkMappedMemoryRange(memory=memory, offset=offset, size=size)
        command(gpu.device, 1, [item])
    vk.vkUnmapMemory(gpu.device, memory)
    vk.vkMapMemory(gpu.device, memory, 0, 100)
    refused("size-01389", 0, WHOLE)
    vk.vkUnmapMemory(gpu.device, memory)


def test_the_end_of_odd_memory_is_an_end(gpu: Bare) -> None:
    memory = gpu.allocate(size=1000)
    if gpu.facts(memory)["size"] != 1000:
        driver_cannot("it rounds sizes up")
    vk.vkMapMemory(gpu.device, memory, 0, WHOLE)
    for offset, size in ((0, WHOLE), (0, 1000)):
        item = vk.VkMappedMemoryRange(memory=memory, offset=offset, size=size)
        vk.vkFlushMappedMemoryRanges(gpu.device, 1, [item])
