"""Rules of fences alone: not replaced while a queue is to signal them, and snapshots."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from extmem import vk
from extmem.vk.queries import Queries
from tests.support.sync_side import SyncSide, offering

FD, NT, KMT, SYNC = 1, 2, 4, 8
posix = pytest.mark.skipif(sys.platform == "win32", reason="hardware: descriptors are POSIX")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[SyncSide]:
    offering(monkeypatch)
    monkeypatch.setattr(Queries, "sync_origin", lambda self, *asked: None)
    with SyncSide() as made:
        for command in ("vkImportFenceFdKHR", "vkImportFenceWin32HandleKHR", "vkGetFenceFdKHR"):
            made.pretend(command)
        yield made


def by_number(gpu: SyncSide, fence: Any) -> tuple[Any, ...]:
    info = vk.VkImportFenceWin32HandleInfoKHR(fence=fence, handleType=KMT, handle=6)
    return vk.vkImportFenceWin32HandleKHR, gpu.device, info


def of_nothing(gpu: SyncSide, fence: Any) -> tuple[Any, ...]:
    info = vk.VkImportFenceFdInfoKHR(fence=fence, handleType=SYNC, flags=1, fd=-1)
    return vk.vkImportFenceFdKHR, gpu.device, info


@pytest.mark.parametrize("way", [pytest.param("fd", marks=posix), "win32"])
def test_fences_that_no_queue_uses(gpu: SyncSide, way: str) -> None:
    vuid, importing = {
        "fd": ("VUID-vkImportFenceFdKHR-fence-01463", of_nothing),
        "win32": ("VUID-vkImportFenceWin32HandleKHR-fence-04448", by_number),
    }[way]
    busy, idle = gpu.fence(), gpu.fence()
    gate = gpu.blocked(fence=busy)
    gpu.breaks(vuid, *importing(gpu, busy))
    command, *arguments = importing(gpu, idle)
    command(*arguments)
    gpu.open(gate)  # nobody has looked at the fence yet
    command, *arguments = importing(gpu, busy)
    command(*arguments)


def test_a_fence_that_is_used_again(gpu: SyncSide) -> None:
    vuid, fence = "VUID-vkImportFenceWin32HandleKHR-fence-04448", gpu.fence()
    for _ in range(2):
        gate = gpu.blocked(fence=fence)
        gpu.breaks(vuid, *by_number(gpu, fence))
        gpu.open(gate)
        vk.vkWaitForFences(gpu.device, 1, [fence], 1, 0)
        vk.vkResetFences(gpu.device, 1, [fence])
    command, *arguments = by_number(gpu, fence)
    command(*arguments)


@posix
def test_snapshots_of_what_is_signalled_or_will_be(gpu: SyncSide) -> None:
    vuid = "VUID-VkFenceGetFdInfoKHR-handleType-01454"

    def snapshot(fence: Any) -> tuple[Any, ...]:
        info = vk.VkFenceGetFdInfoKHR(fence=fence, handleType=SYNC)
        return vk.vkGetFenceFdKHR, gpu.device, info

    fence, signaled, busy = gpu.fence(SYNC), gpu.fence(SYNC, signaled=True), gpu.fence(SYNC)
    gpu.breaks(vuid, *snapshot(fence))
    for kept in (signaled, busy):
        if kept is busy:
            gpu.blocked(fence=busy)
        command, *arguments = snapshot(kept)
        assert command(*arguments) == -1
        gpu.breaks(vuid, *snapshot(kept))  # the fetch reset it
    vk.vkResetFences(gpu.device, 1, [signaled])
    gpu.breaks(vuid, *snapshot(signaled))
    given = vk.VkImportFenceFdInfoKHR(fence=signaled, handleType=SYNC, flags=1, fd=-1)
    vk.vkImportFenceFdKHR(gpu.device, given)
    gpu.facts(signaled)["borrowed"].export = SYNC
    command, *arguments = snapshot(signaled)
    assert command(*arguments) == -1
