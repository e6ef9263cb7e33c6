"""Arrays of structures and commands: as long as each other, and of numbers that fit."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from extmem import vk
from tests.support.sync_side import SyncSide

SHORT = "semaphoreCount is 2, but pValues was given 1 element; give it as many as pSemaphores"


@pytest.mark.parametrize(
    "members",
    [
        {"semaphoreCount": 2, "pSemaphores": [7, 8], "pValues": [1]},
        {"pSemaphores": [7, 8], "pValues": [1]},
        {"pValues": [1], "pSemaphores": [7, 8]},
    ],
    ids=["counted", "last", "first"],
)
def test_a_shorter_array_beside_a_longer_one(members: dict[str, Any]) -> None:
    info = vk.VkSemaphoreWaitInfo(**members)
    assert info.semaphoreCount == 2
    with SyncSide() as gpu, pytest.raises(ValueError, match=SHORT):
        vk.vkWaitSemaphores(gpu.device, info, 0)


def test_semaphores_without_a_stage() -> None:
    with SyncSide() as gpu:
        first, second = gpu.timeline(1), gpu.timeline()
        info = gpu.info(waits=[(first, 1), (second, 1)])
        info.pWaitDstStageMask = [1]
        assert info.waitSemaphoreCount == 2
        with pytest.raises(ValueError, match="pWaitDstStageMask was given 1 element"):
            gpu.submit(info)
        info.pWaitDstStageMask = [1, 1]
        gpu.submit(info)
        gpu.open(second)


def test_arrays_grow_and_shrink_together() -> None:
    info = vk.VkSemaphoreWaitInfo(pSemaphores=[7], pValues=[1])
    for length in (3, 1, 2):
        info.pSemaphores = [7] * length
        info.pValues = [1] * length
        assert info.semaphoreCount == length
        vk.VkSubmitInfo(pNext=vk.VkTimelineSemaphoreSubmitInfo())  # any check of arrays
    with SyncSide() as gpu:
        made = gpu.timeline(5)
        info.pSemaphores = [made]
        info.pValues = [5]
        assert vk.vkWaitSemaphores(gpu.device, info, 0) == vk.VK_SUCCESS
        # Less than there is may be counted.
        info.pSemaphores, info.pValues = [made, made], [5, 6]
        info.semaphoreCount = 1
        assert vk.vkWaitSemaphores(gpu.device, info, 0) == vk.VK_SUCCESS


def test_an_array_that_is_taken_away_counts_no_more() -> None:
    info = vk.VkSubmitInfo(pWaitSemaphores=[7, 8, 9], pWaitDstStageMask=[1, 1, 1])
    info.pWaitSemaphores = None
    info.pWaitDstStageMask = [1]
    assert info.waitSemaphoreCount == 1
    info.pWaitDstStageMask = None
    info.pWaitSemaphores = [7, 8]
    assert info.waitSemaphoreCount == 2


@pytest.mark.parametrize(
    ("structure", "member", "numbers"),
    [
        (vk.VkTimelineSemaphoreSubmitInfo, "pSignalSemaphoreValues", [2**64 + 5]),
        (vk.VkTimelineSemaphoreSubmitInfo, "pSignalSemaphoreValues", [1, -1]),
        (vk.VkSemaphoreWaitInfo, "pSemaphores", [2**64]),
        (vk.VkWin32KeyedMutexAcquireReleaseInfoKHR, "pAcquireTimeouts", [2**32 + 3]),
        (vk.VkWin32KeyedMutexAcquireReleaseInfoKHR, "pReleaseKeys", [0, 0, 2**64 + 1]),
        (vk.VkSubmitInfo, "pWaitDstStageMask", [2**40 + 1]),
    ],
)
def test_numbers_that_do_not_fit_an_array(structure: Any, member: str, numbers: list[int]) -> None:
    place = rf"{structure.__name__}.{member}\[{len(numbers) - 1}\] was given {numbers[-1]}, which"
    with pytest.raises(ValueError, match=place):
        structure(**{member: numbers})
    info = structure()
    with pytest.raises(ValueError, match=place):
        setattr(info, member, numbers)


def test_the_largest_numbers_fit() -> None:
    times = vk.VkTimelineSemaphoreSubmitInfo(pSignalSemaphoreValues=[0, 2**64 - 1])
    assert list(times.pSignalSemaphoreValues[:2]) == [0, 2**64 - 1]
    given = (ctypes.c_uint64 * 2)(3, 4)
    times = vk.VkTimelineSemaphoreSubmitInfo(pSignalSemaphoreValues=given)
    assert list(times.pSignalSemaphoreValues[:2]) == [3, 4]


def test_numbers_that_do_not_fit_an_argument() -> None:
    with SyncSide() as gpu:
        for wrong in (2**64 + int(gpu.fence()), -1):
            with pytest.raises(ValueError, match=r"vkResetFences: pFences\[0\] was given"):
                vk.vkResetFences(gpu.device, 1, [wrong])


@pytest.mark.parametrize("number", [2**64 + 4, -(2**63) - 1])
def test_handles_and_addresses_that_do_not_fit(number: int) -> None:
    with pytest.raises(ValueError, match="handle was given"):
        vk.VkImportMemoryWin32HandleInfoKHR(handle=number)
    assert vk.VkImportMemoryWin32HandleInfoKHR(handle=-1).handle == 2**64 - 1
    with pytest.raises(TypeError, match=r"handle was given 1\.5"):
        vk.VkImportMemoryWin32HandleInfoKHR(handle=1.5)
