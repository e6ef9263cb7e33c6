"""Values that queues signal and wait for: several in one batch, and in the newer form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from extmem import vk
from extmem.vk.queries import Queries
from tests.support.sync_side import SyncSide

FIRST = "VUID-VkSubmitInfo-pSignalSemaphores-03242"
SECOND = "VUID-VkSubmitInfo2-semaphore"
ALL = int(vk.VK_PIPELINE_STAGE_2_ALL_COMMANDS_BIT)


@pytest.fixture
def gpu() -> Iterator[SyncSide]:
    with SyncSide(synchronization2=True) as made:
        yield made


def info2(waits: Any = (), signals: Any = ()) -> Any:
    def listed(pairs: Any) -> Any:
        return [
            vk.VkSemaphoreSubmitInfo(semaphore=each, value=value, stageMask=ALL)
            for each, value in pairs
        ] or None

    return vk.VkSubmitInfo2(
        pWaitSemaphoreInfos=listed(waits), pSignalSemaphoreInfos=listed(signals)
    )


def refused(gpu: SyncSide, vuid: str, *infos: Any) -> str:
    return gpu.breaks(vuid, vk.vkQueueSubmit2, gpu.queue, len(infos), list(infos), None)


def submit2(gpu: SyncSide, *infos: Any) -> None:
    vk.vkQueueSubmit2(gpu.queue, len(infos), list(infos), None)


@pytest.mark.parametrize("values", [(20, 19), (20, 20), (18, 20, 19)])
def test_a_batch_that_falls(gpu: SyncSide, values: tuple[int, ...]) -> None:
    timeline, other = gpu.timeline(), gpu.timeline()
    signals = [(other, 5), *((timeline, value) for value in values)]
    told = gpu.breaks(FIRST, vk.vkQueueSubmit, gpu.queue, 1, [gpu.info(signals=signals)], None)
    assert "20 stands before it in the same array" in told
    told = refused(gpu, f"{SECOND}-03882", info2(signals=signals))
    assert f"pSignalSemaphoreInfos[{len(values)}]" in told
    gpu.submit(gpu.info(signals=[(other, 5), (timeline, max(values))]))
    vk.vkQueueWaitIdle(gpu.queue)
    assert vk.vkGetSemaphoreCounterValue(gpu.device, timeline) == 20


def test_signals_that_are_still_to_come(gpu: SyncSide) -> None:
    vuid, timeline, binary = f"{SECOND}-03882", gpu.timeline(5), gpu.semaphore()
    for value in (0, 4, 5):
        refused(gpu, vuid, info2(signals=[(binary, 0), (timeline, value)]))
    refused(gpu, vuid, info2(signals=[(timeline, 7)]), info2(signals=[(timeline, 7)]))
    gate = gpu.blocked([(timeline, 8)])
    told = refused(gpu, vuid, info2(signals=[(timeline, 8)]))
    assert "8 is signalled before on the same queue" in told
    submit2(gpu, info2(signals=[(timeline, 9)]), info2(signals=[(timeline, 10), (binary, 0)]))
    gpu.breaks(FIRST, vk.vkQueueSubmit, gpu.queue, 1, [gpu.info(signals=[(timeline, 10)])], None)
    gpu.open(gate)
    assert vk.vkGetSemaphoreCounterValue(gpu.device, timeline) == 10
    submit2(gpu, info2([(binary, 0)]))


def test_values_that_are_near(gpu: SyncSide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Queries, "timeline_difference", lambda self: 100)
    timeline = gpu.timeline(1000)
    for value in (1101, 899):
        told = refused(gpu, f"{SECOND}-03884", info2([(timeline, value)]))
        assert "pWaitSemaphoreInfos[0]" in told
    refused(gpu, f"{SECOND}-03883", info2(signals=[(timeline, 1101)]))
    submit2(gpu, info2([(timeline, 1000)], [(timeline, 1100)]))
    vk.vkQueueWaitIdle(gpu.queue)
    assert vk.vkGetSemaphoreCounterValue(gpu.device, timeline) == 1100
