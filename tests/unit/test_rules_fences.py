"""Rules of fences alone: left alone while a queue is to signal them, and snapshots."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from extmem import submitted, vk
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


def submitting(gpu: SyncSide, fence: Any, way: str) -> tuple[Any, ...]:
    return {"first": vk.vkQueueSubmit, "second": vk.vkQueueSubmit2}[way], gpu.queue, 0, None, fence


@pytest.mark.parametrize("way", ["first", "second"])
def test_fences_are_submitted_once(way: str) -> None:
    signalled, pending = {
        "first": ("VUID-vkQueueSubmit-fence-00063", "VUID-vkQueueSubmit-fence-00064"),
        "second": ("VUID-vkQueueSubmit2-fence-04894", "VUID-vkQueueSubmit2-fence-04895"),
    }[way]
    with SyncSide(synchronization2=True) as gpu:
        fence = gpu.fence()
        gpu.breaks(signalled, *submitting(gpu, gpu.fence(signaled=True), way))
        gate = gpu.blocked(fence=fence)
        gpu.breaks(pending, *submitting(gpu, fence, way))
        gpu.open(gate)  # nobody has looked at it
        gpu.breaks(signalled, *submitting(gpu, fence, way))
        vk.vkResetFences(gpu.device, 1, [fence])
        command, *arguments = submitting(gpu, fence, way)
        command(*arguments)


def test_fences_are_reset_and_destroyed_after_their_signal(gpu: SyncSide) -> None:
    reset, destroyed = "VUID-vkResetFences-pFences-01123", "VUID-vkDestroyFence-fence-01120"
    fence, other = gpu.fence(), gpu.fence(signaled=True)
    gate = gpu.blocked(fence=fence)
    told = gpu.breaks(reset, vk.vkResetFences, gpu.device, 2, [other, fence])
    assert "pFences[1]" in told
    gpu.breaks(destroyed, vk.vkDestroyFence, gpu.device, fence)
    vk.vkResetFences(gpu.device, 1, [other])
    vk.vkDestroyFence(gpu.device, other)
    gpu.open(gate)
    vk.vkResetFences(gpu.device, 1, [fence])
    vk.vkDestroyFence(gpu.device, fence)


def test_a_fence_that_comes_after_other_signs_of_the_end(gpu: SyncSide) -> None:
    """Drivers show a timeline before the fence of the same submission, or after it."""
    fence, end = gpu.fence(), gpu.timeline()
    gate = gpu.blocked([(end, 1)], fence=fence)
    gpu.open(gate)
    late = int(vk.VK_NOT_READY)
    gpu.pretend("vkGetFenceStatus", lambda device, fence: late)
    gpu.pretend("vkWaitForFences", lambda *given: int(vk.VK_TIMEOUT))
    vk.vkResetFences(gpu.device, 1, [fence])
    vk.vkDestroyFence(gpu.device, fence)


def test_no_alarm_from_fences_that_others_signal(gpu: SyncSide) -> None:
    fence = gpu.fence(NT)
    gate = gpu.blocked(fence=fence)
    gpu.facts(fence)["payload"].shared = True  # and may be reset by them
    asked: list[Any] = []

    def note(*given: Any) -> int:
        asked.append(given)
        return 0

    gpu.pretend("vkResetFences", note)
    vk.vkResetFences(gpu.device, 1, [fence])
    assert len(asked) == 1
    gpu.open(gate)


def test_what_was_submitted_long_ago_is_pending_by_its_fence(gpu: SyncSide) -> None:
    """Of a queue that has much to do, the oldest submissions are forgotten."""
    fence = gpu.fence()
    gate = gpu.blocked(fence=fence)
    for _ in range(submitted.MOST):
        gpu.submit(gpu.info())
    assert gpu.facts(fence)["pending"].forgotten
    vuid = "VUID-vkDestroyFence-fence-01120"
    gpu.breaks(vuid, vk.vkDestroyFence, gpu.device, fence)
    gpu.open(gate)
    vk.vkDestroyFence(gpu.device, fence)


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
