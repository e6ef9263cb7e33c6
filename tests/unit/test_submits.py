"""The short way of submissions: the same as the long one, without checks."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

import extmem
from extmem import vk
from extmem.vk import calls

PATIENCE = 60.0


@pytest.fixture
def gpu() -> Iterator[extmem.Device]:
    with extmem.open_device(driver="embedded", checks="off") as found:
        yield found


def test_one_structure_is_submitted_again_and_again(
    gpu: extmem.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "run", lambda *_: pytest.fail("it took the long way"))
    with gpu.semaphore() as done:
        values = vk.VkTimelineSemaphoreSubmitInfo(pSignalSemaphoreValues=[0])
        info = vk.VkSubmitInfo(pNext=values, pSignalSemaphores=[done.handle])
        for value in (1, 2, 7):
            values.pSignalSemaphoreValues[0] = value
            vk.vkQueueSubmit(gpu.queue, 1, [info], None)
            done.wait(value, timeout=PATIENCE)
        signal = vk.VkSemaphoreSubmitInfo(semaphore=done.handle, value=8)
        info2 = vk.VkSubmitInfo2(pSignalSemaphoreInfos=[signal])
        vk.vkQueueSubmit2(gpu.queue, 1, [info2], None)
        done.wait(8, timeout=PATIENCE)


def test_counts_are_looked_at_all_the_same(gpu: extmem.Device) -> None:
    with gpu.semaphore() as done:
        info = vk.VkSubmitInfo(pSignalSemaphores=[done.handle])
        info.signalSemaphoreCount = 2
        with pytest.raises(ValueError, match="signalSemaphoreCount is 2"):
            vk.vkQueueSubmit(gpu.queue, 1, [info], None)
        info.signalSemaphoreCount = 1
        with pytest.raises(ValueError, match="submitCount is 2"):
            vk.vkQueueSubmit(gpu.queue, 2, [info], None)


def test_a_structure_that_was_submitted_is_let_go() -> None:
    with extmem.open_device(driver="embedded", checks="off") as gpu:
        info = vk.VkSubmitInfo()
        vk.vkQueueSubmit(gpu.queue, 1, [info], None)
        vk.vkQueueWaitIdle(gpu.queue)
        gone = weakref.ref(info)
        del info
        gc.collect()
        assert gone() is None
