"""Rules for shared memory that is bound to parts of a resource: each broken and kept.

No driver here has sparse resources with shared memory, so the queue's command is pretended.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from extmem import vk
from tests.support.sync_side import SyncSide

FD, NT = 1, 2


@pytest.fixture
def gpu() -> Iterator[SyncSide]:
    with SyncSide() as made:
        made.pretend("vkQueueBindSparse")
        yield made
        made.world.submitted.finish_all()


def memory(gpu: SyncSide, exported: int = 0, imported: int = 0) -> Any:
    info = vk.VkMemoryAllocateInfo(allocationSize=65536, memoryTypeIndex=1)
    made = vk.vkAllocateMemory(gpu.device, info)
    gpu.facts(made).update({"export": exported, "import": imported})
    return made


def buffer(gpu: SyncSide, types: int) -> Any:
    made = vk.vkCreateBuffer(gpu.device, vk.VkBufferCreateInfo(size=65536, usage=1))
    gpu.facts(made)["types"] = types
    return made


def image(gpu: SyncSide, types: int) -> Any:
    info = vk.VkImageCreateInfo(
        imageType=vk.VK_IMAGE_TYPE_2D,
        format=vk.VK_FORMAT_R8G8B8A8_UNORM,
        extent=(64, 64, 1),
        mipLevels=1,
        arrayLayers=1,
        samples=vk.VK_SAMPLE_COUNT_1_BIT,
        usage=vk.VK_IMAGE_USAGE_TRANSFER_DST_BIT,
    )
    made = vk.vkCreateImage(gpu.device, info)
    gpu.facts(made)["types"] = types
    return made


def binding(resource: Any, given: Any, way: str) -> Any:
    if way == "blocks":
        bind: Any = vk.VkSparseImageMemoryBind(
            subresource=vk.VkImageSubresource(aspectMask=vk.VK_IMAGE_ASPECT_COLOR_BIT),
            extent=(64, 64, 1),
            memory=given,
        )
        blocks = vk.VkSparseImageMemoryBindInfo(image=resource, pBinds=[bind])
        return vk.VkBindSparseInfo(pImageBinds=[blocks])
    bind = vk.VkSparseMemoryBind(size=65536, memory=given)
    if way == "buffer":
        parts = vk.VkSparseBufferMemoryBindInfo(buffer=resource, pBinds=[bind])
        return vk.VkBindSparseInfo(pBufferBinds=[parts])
    opaque = vk.VkSparseImageOpaqueMemoryBindInfo(image=resource, pBinds=[bind])
    return vk.VkBindSparseInfo(pImageOpaqueBinds=[opaque])


@pytest.mark.parametrize("way", ["buffer", "opaque", "blocks"])
def test_resources_are_made_for_shared_memory(gpu: SyncSide, way: str) -> None:
    owner = "VkSparseImageMemoryBind" if way == "blocks" else "VkSparseMemoryBind"
    exported = f"VUID-{owner}-memory-{'02732' if way == 'blocks' else '02730'}"
    imported = f"VUID-{owner}-memory-{'02733' if way == 'blocks' else '02731'}"
    make = buffer if way == "buffer" else image
    plain, shared = make(gpu, 0), make(gpu, FD)
    bind = vk.vkQueueBindSparse
    for vuid, given, wrong in (
        (exported, memory(gpu, exported=FD), plain),
        (exported, memory(gpu, exported=NT), shared),
        (imported, memory(gpu, imported=FD), plain),
        (imported, memory(gpu, imported=NT), shared),
    ):
        info = binding(wrong, given, way)
        told = gpu.breaks(vuid, bind, gpu.queue, 1, [info], None)
        assert "pBinds[0].memory" in told
    for given, kept in (
        (memory(gpu), plain),
        (memory(gpu), shared),
        (memory(gpu, exported=FD | NT), shared),
        (memory(gpu, imported=FD), shared),
        (None, shared),  # unbinds
    ):
        bind(gpu.queue, 1, [binding(kept, given, way)], None)
