"""Rules for acquiring and releasing keyed mutexes: which memory has one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from extmem import vk
from tests.support.sync_side import SyncSide

VUID = "VUID-VkWin32KeyedMutexAcquireReleaseInfoKHR-pAcquireSyncs-00081"
NT, TEXTURE, TEXTURE_KMT, HEAP = 2, 8, 16, 32


@pytest.fixture
def gpu() -> Iterator[SyncSide]:
    with SyncSide() as made:
        for extension in ("VK_KHR_win32_keyed_mutex", "VK_NV_win32_keyed_mutex"):
            made.dispatch.extensions |= {extension}
        made.pretend("vkQueueSubmit")
        made.pretend("vkQueueSubmit2")
        yield made
        made.world.submitted.finish_all()


def memory(gpu: SyncSide, **facts: int) -> Any:
    """Memory that is said to be imported."""
    info = vk.VkMemoryAllocateInfo(allocationSize=4096, memoryTypeIndex=1)
    made = vk.vkAllocateMemory(gpu.device, info)
    gpu.facts(made).update({name.replace("_of", ""): value for name, value in facts.items()})
    return made


def acquiring(*memories: Any) -> Any:
    count = len(memories)
    return vk.VkWin32KeyedMutexAcquireReleaseInfoKHR(
        pAcquireSyncs=list(memories), pAcquireKeys=[0] * count, pAcquireTimeouts=[1000] * count
    )


def releasing(*memories: Any) -> Any:
    return vk.VkWin32KeyedMutexAcquireReleaseInfoKHR(
        pReleaseSyncs=list(memories), pReleaseKeys=[1] * len(memories)
    )


@pytest.mark.parametrize("form", [vk.VkSubmitInfo, vk.VkSubmitInfo2])
def test_mutexes_are_of_imported_textures(gpu: SyncSide, form: Any) -> None:
    submit = vk.vkQueueSubmit if form is vk.VkSubmitInfo else vk.vkQueueSubmit2
    texture, by_number = memory(gpu, import_of=TEXTURE), memory(gpu, import_of=TEXTURE_KMT)
    wrong = {
        "was not imported": memory(gpu),
        "was imported as opaque_win32": memory(gpu, import_of=NT),
        "was imported as d3d12_heap": memory(gpu, import_of=HEAP),
        "through NV's structure": memory(gpu, import_nv=4),
    }
    for words, each in wrong.items():
        info = form(pNext=acquiring(texture, each))
        told = gpu.breaks(VUID, submit, gpu.queue, 1, [info], None)
        assert words in told
        assert "pAcquireSyncs[1]" in told
        info = form(pNext=releasing(each))
        told = gpu.breaks(VUID, submit, gpu.queue, 1, [info], None)
        assert "pReleaseSyncs[0]" in told
    for kept in (acquiring(texture, by_number), releasing(by_number, texture)):
        submit(gpu.queue, 1, [form(pNext=kept)], None)


def test_nv_has_no_such_rule(gpu: SyncSide) -> None:
    info = vk.VkWin32KeyedMutexAcquireReleaseInfoNV(pReleaseSyncs=[memory(gpu)], pReleaseKeys=[1])
    vk.vkQueueSubmit(gpu.queue, 1, [vk.VkSubmitInfo(pNext=info)], None)
