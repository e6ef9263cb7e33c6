"""Rules for submissions, for hosts that signal, and for memory in use. Each broken and kept.

Where it cannot be known that something is still to come, nothing is refused: that is tested too.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from extmem import DriverError, vk
from extmem.vk.queries import Queries
from tests.support.sync_side import SyncSide

SUBMIT = "VUID-VkSubmitInfo"
SIGNAL = "VUID-VkSemaphoreSignalInfo"
FREE = "VUID-vkFreeMemory-memory-00677"


@pytest.fixture
def gpu() -> Iterator[SyncSide]:
    with SyncSide() as made:
        yield made


def refused(gpu: SyncSide, vuids: str | set[str], *infos: Any) -> str:
    return gpu.breaks(vuids, vk.vkQueueSubmit, gpu.queue, len(infos), list(infos), None)


def signal(gpu: SyncSide, semaphore: Any, value: int) -> tuple[Any, ...]:
    info = vk.VkSemaphoreSignalInfo(semaphore=semaphore, value=value)
    return vk.vkSignalSemaphore, gpu.device, info


def done(what: tuple[Any, ...]) -> None:
    command, *arguments = what
    command(*arguments)


def waited(gpu: SyncSide, semaphore: Any, value: int) -> None:
    info = vk.VkSemaphoreWaitInfo(pSemaphores=[semaphore], pValues=[value])
    assert vk.vkWaitSemaphores(gpu.device, info, 10_000_000_000) == vk.VK_SUCCESS


# -- how many values ------------------------------------------------------------------------------


def test_values_of_direct3d_fences(gpu: SyncSide) -> None:
    if "VK_KHR_external_semaphore_win32" not in gpu.dispatch.extensions:
        gpu.dispatch.extensions |= {"VK_KHR_external_semaphore_win32"}
    owner = "VUID-VkD3D12FenceSubmitInfoKHR"
    semaphore = gpu.semaphore()

    def info(waits: int, signals: int) -> Any:
        values = vk.VkD3D12FenceSubmitInfoKHR(
            pWaitSemaphoreValues=[1] * waits or None, pSignalSemaphoreValues=[1] * signals or None
        )
        return gpu.info(signals=[semaphore], times=values)

    refused(gpu, f"{owner}-waitSemaphoreValuesCount-00079", info(1, 1))
    refused(gpu, f"{owner}-signalSemaphoreValuesCount-00080", info(0, 0))
    refused(gpu, f"{owner}-signalSemaphoreValuesCount-00080", info(0, 2))
    gpu.submit(info(0, 1))


def test_values_for_timelines(gpu: SyncSide) -> None:
    binary, timeline = gpu.semaphore(), gpu.timeline(1)
    for side, members in (
        ("Wait", {"waits": [timeline]}),
        ("Signal", {"signals": [binary, timeline]}),
    ):
        told = refused(gpu, f"{SUBMIT}-pWaitSemaphores-03239", gpu.info(**members, times=None))
        assert f"p{side}Semaphores[{1 if side == 'Signal' else 0}]" in told
    gpu.submit(gpu.info(signals=[binary], times=None))
    gpu.submit(gpu.info(waits=[binary, (timeline, 1)], signals=[(timeline, 2)]))


def test_a_value_for_each_semaphore(gpu: SyncSide) -> None:
    binary, timeline = gpu.semaphore(), gpu.timeline(1)
    none = vk.VkTimelineSemaphoreSubmitInfo()
    one = vk.VkTimelineSemaphoreSubmitInfo(pWaitSemaphoreValues=[1], pSignalSemaphoreValues=[9])
    refused(gpu, f"{SUBMIT}-pNext-03240", gpu.info(waits=[timeline], times=none))
    refused(gpu, f"{SUBMIT}-pNext-03241", gpu.info(signals=[timeline], times=none))
    refused(gpu, f"{SUBMIT}-pNext-03241", gpu.info(signals=[binary, timeline], times=one))
    gpu.submit(gpu.info(signals=[binary], times=none))  # binary ones have none
    gpu.submit(gpu.info(waits=[timeline], signals=[timeline], times=one))


# -- which values ---------------------------------------------------------------------------------


def test_signals_that_are_still_to_come(gpu: SyncSide) -> None:
    vuid, timeline = f"{SUBMIT}-pSignalSemaphores-03242", gpu.timeline(5)
    for value in (0, 4, 5):
        refused(gpu, vuid, gpu.info(signals=[(timeline, value)]))
    refused(gpu, vuid, gpu.info(signals=[(timeline, 7)]), gpu.info(signals=[(timeline, 7)]))
    gate = gpu.blocked([(timeline, 8)])
    told = refused(gpu, vuid, gpu.info(signals=[(timeline, 8)]))
    assert "8 is signalled before on the same queue" in told
    gpu.submit(gpu.info(signals=[(timeline, 9)]))
    gpu.open(gate)
    assert vk.vkGetSemaphoreCounterValue(gpu.device, timeline) == 9


def test_other_queues_may_signal_more_later(gpu: SyncSide) -> None:
    """5 waits for 3, and is submitted before it: legal."""
    timeline = gpu.timeline()
    gpu.submit(gpu.info(waits=[(timeline, 3)], signals=[(timeline, 5)]))
    batch = gpu.world.submitted.of_queue(int(gpu.queue))[0]
    batch.queue += 8  # as if another queue had it
    gpu.world.submitted._queues = {batch.queue: gpu.world.submitted._queues[int(gpu.queue)]}
    gpu.pretend("vkQueueSubmit")
    gpu.submit(gpu.info(signals=[(timeline, 3)]))
    gpu.world.submitted.finish_all()
    gpu.dispatch.vkSignalSemaphore(
        gpu.device, vk.VkSemaphoreSignalInfo(semaphore=timeline, value=3)
    )


def test_waiting_for_what_is_not_submitted_is_legal(gpu: SyncSide) -> None:
    timeline = gpu.timeline()
    gpu.submit(gpu.info(waits=[(timeline, 1)], signals=[(timeline, 2)]))
    done(signal(gpu, timeline, 1))
    waited(gpu, timeline, 2)


def test_values_that_are_near(gpu: SyncSide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Queries, "timeline_difference", lambda self: 100)
    timeline = gpu.timeline(1000)
    wait, after = f"{SUBMIT}-pWaitSemaphores-03243", f"{SUBMIT}-pSignalSemaphores-03244"
    host = f"{SIGNAL}-value-03260"
    refused(gpu, wait, gpu.info(waits=[(timeline, 1101)]))
    refused(gpu, wait, gpu.info(waits=[(timeline, 899)]))
    refused(gpu, after, gpu.info(signals=[(timeline, 1101)]))
    gpu.breaks(host, *signal(gpu, timeline, 1101))
    gate = gpu.blocked([(timeline, 1100)])
    refused(gpu, wait, gpu.info(waits=[(timeline, 950)]))  # reached, but far from what is to come
    gpu.open(gate)
    gpu.submit(gpu.info(waits=[(timeline, 1000)], signals=[(timeline, 1200)]))
    waited(gpu, timeline, 1200)
    done(signal(gpu, timeline, 1300))


def test_the_device_says_how_near(gpu: SyncSide) -> None:
    found = Queries(gpu.dispatch).timeline_difference()
    assert found is not None
    assert found >= (1 << 31) - 1


# -- from the host --------------------------------------------------------------------------------


def test_a_host_signals_more(gpu: SyncSide) -> None:
    timeline = gpu.timeline(5)
    for value in (0, 5):
        gpu.breaks(f"{SIGNAL}-value-03258", *signal(gpu, timeline, value))
    done(signal(gpu, timeline, 6))
    gpu.breaks(f"{SIGNAL}-value-03258", *signal(gpu, timeline, 6))


def test_a_host_signals_less_than_queues_are_to(gpu: SyncSide) -> None:
    vuid, timeline = f"{SIGNAL}-value-03259", gpu.timeline()
    gate = gpu.blocked([(timeline, 5)])
    for value in (5, 6):
        assert "is still to signal 5" in gpu.breaks(vuid, *signal(gpu, timeline, value))
    done(signal(gpu, timeline, 4))
    gpu.open(gate)
    done(signal(gpu, timeline, 6))


def test_a_submission_that_the_driver_refuses_is_none(gpu: SyncSide) -> None:
    binary, timeline, fence = gpu.semaphore(), gpu.timeline(), gpu.fence()
    gpu.pretend("vkQueueSubmit", lambda *given: int(vk.VK_ERROR_OUT_OF_HOST_MEMORY))
    with pytest.raises(DriverError):
        gpu.submit(gpu.info(signals=[binary, (timeline, 5)]), fence=fence)
    assert len(gpu.world.submitted) == 0
    assert gpu.facts(binary)["payload"].signaled is False
    assert (gpu.facts(fence)["payload"].signaled, gpu.facts(fence)["pending"]) == (False, None)
    done(signal(gpu, timeline, 6))


# -- memory in use --------------------------------------------------------------------------------


def memory_with_buffer(gpu: SyncSide) -> tuple[Any, Any]:
    info = vk.VkBufferCreateInfo(size=4096, usage=vk.VK_BUFFER_USAGE_TRANSFER_DST_BIT)
    buffer = vk.vkCreateBuffer(gpu.device, info)
    needs = vk.vkGetBufferMemoryRequirements(gpu.device, buffer)
    index = (needs.memoryTypeBits & -needs.memoryTypeBits).bit_length() - 1
    info = vk.VkMemoryAllocateInfo(allocationSize=needs.size, memoryTypeIndex=index)
    memory = vk.vkAllocateMemory(gpu.device, info)
    vk.vkBindBufferMemory(gpu.device, buffer, memory, 0)
    return memory, buffer


def filling(gpu: SyncSide, buffer: Any) -> Any:
    return gpu.commands(record=lambda made: vk.vkCmdFillBuffer(made, buffer, 0, 4096, 7))


def is_alive(gpu: SyncSide, memory: Any) -> bool:
    return gpu.world.find("VkDeviceMemory", int(memory)) is not None


@pytest.mark.parametrize("sign", ["fence", "timeline", "gate", "idle", "queue idle", "status"])
def test_memory_is_freed_after_its_work(gpu: SyncSide, sign: str) -> None:
    memory, buffer = memory_with_buffer(gpu)
    other, _ = memory_with_buffer(gpu)
    commands = filling(gpu, buffer)
    fence, end = gpu.fence(), gpu.timeline()
    gate = gpu.blocked([(end, 1)], fence=fence, commands=[commands])
    gpu.breaks(FREE, vk.vkFreeMemory, gpu.device, memory)
    vk.vkFreeMemory(gpu.device, other)
    gpu.open(gate)
    if sign == "fence":
        vk.vkWaitForFences(gpu.device, 1, [fence], 1, 0)
    elif sign == "timeline":
        waited(gpu, end, 1)
    elif sign == "idle":
        vk.vkDeviceWaitIdle(gpu.device)
    elif sign == "queue idle":
        vk.vkQueueWaitIdle(gpu.queue)
    elif sign == "status":
        assert vk.vkGetFenceStatus(gpu.device, fence) == vk.VK_SUCCESS
    assert len(gpu.world.submitted) == (1 if sign == "gate" else 0)
    vk.vkFreeMemory(gpu.device, memory)
    assert not is_alive(gpu, memory)


def test_memory_of_work_that_only_a_fence_tells_of(gpu: SyncSide) -> None:
    memory, buffer = memory_with_buffer(gpu)
    first = gpu.timeline()
    gpu.submit(gpu.info(waits=[(first, 1)]))
    fence = gpu.fence()
    gpu.submit(gpu.info(commands=[filling(gpu, buffer)]), fence=fence)
    gpu.breaks(FREE, vk.vkFreeMemory, gpu.device, memory)
    gpu.open(first)
    vk.vkFreeMemory(gpu.device, memory)


def test_memory_of_secondary_command_buffers(gpu: SyncSide) -> None:
    memory, buffer = memory_with_buffer(gpu)
    inner = filling(gpu, buffer)
    outer = gpu.commands()
    called = gpu.world.find("VkCommandBuffer", int(inner))  # the embedded device has none
    gpu.facts(outer)["calls"].add((called, called.facts["times"]))
    vk.vkEndCommandBuffer(outer)
    gate = gpu.blocked(commands=[outer])
    gpu.breaks(FREE, vk.vkFreeMemory, gpu.device, memory)
    gpu.open(gate)
    vk.vkFreeMemory(gpu.device, memory)


def test_no_alarm_where_nobody_knows(gpu: SyncSide) -> None:
    """Without a fence and without a timeline of its own there is no proof that it still runs."""
    memory, buffer = memory_with_buffer(gpu)
    gate = gpu.timeline()
    gpu.submit(gpu.info(waits=[(gate, 1)]))
    gpu.submit(gpu.info(commands=[filling(gpu, buffer)]))
    assert len(gpu.world.submitted) == 2
    asked = Queries(gpu.dispatch)
    first, second = gpu.world.submitted.of_queue(int(gpu.queue))
    assert (asked.unfinished(first), asked.unfinished(second)) == (True, False)
    assert gpu.may_free(memory)
    gpu.open(gate)


def test_no_alarm_from_a_fence_of_several_batches(gpu: SyncSide) -> None:
    """Who waits for a binary semaphore of the first batch knows of its end before the fence."""
    memory, buffer = memory_with_buffer(gpu)
    said, gate, fence = gpu.semaphore(), gpu.timeline(), gpu.fence()
    commands = filling(gpu, buffer)
    gpu.submit(
        gpu.info(commands=[commands], signals=[said]), gpu.info(waits=[(gate, 1)]), fence=fence
    )
    assert gpu.may_free(memory)
    gpu.open(gate)


def test_no_alarm_once_a_later_submission_has_ended(gpu: SyncSide) -> None:
    """The end of what waited for a binary semaphore is the end of what signalled it."""
    memory, buffer = memory_with_buffer(gpu)
    said, end = gpu.semaphore(), gpu.timeline()
    commands, fence = filling(gpu, buffer), gpu.fence()
    gpu.pretend("vkGetFenceStatus", lambda *given: int(vk.VK_NOT_READY))
    gpu.pretend("vkWaitForFences", lambda *given: int(vk.VK_TIMEOUT))
    gpu.submit(gpu.info(commands=[commands], signals=[said]), fence=fence)
    gpu.breaks(FREE, vk.vkFreeMemory, gpu.device, memory)
    gpu.submit(gpu.info(waits=[said], signals=[(end, 1)]))
    waited(gpu, end, 1)
    assert gpu.may_free(memory)
    gpu.dispatch.vkDeviceWaitIdle(gpu.device)


def test_no_alarm_from_a_fence_that_others_may_reset(gpu: SyncSide) -> None:
    memory, buffer = memory_with_buffer(gpu)
    fence, gate = gpu.fence(), gpu.timeline()
    gpu.submit(gpu.info(waits=[(gate, 1)]))
    gpu.submit(gpu.info(commands=[filling(gpu, buffer)]), fence=fence)
    gpu.facts(fence)["payload"].shared = True
    assert gpu.may_free(memory)
    gpu.open(gate)


def test_no_alarm_on_a_lost_device(gpu: SyncSide) -> None:
    """What was submitted to it counts as ended, and everything has to be freed."""
    lost = int(vk.VK_ERROR_DEVICE_LOST)
    memory, buffer = memory_with_buffer(gpu)
    fence, end = gpu.fence(), gpu.timeline()
    commands = filling(gpu, buffer)
    gate = gpu.blocked([(end, 1)], commands=[commands])
    gpu.submit(gpu.info(commands=[filling(gpu, buffer)]), fence=fence)
    assert not gpu.may_free(memory)
    known = gpu.dispatch.vkWaitSemaphores
    gpu.pretend("vkGetFenceStatus", lambda *given: lost)
    gpu.pretend("vkWaitSemaphores", lambda *given: lost)
    assert gpu.may_free(memory)
    gpu.dispatch.vkWaitSemaphores = known
    gpu.open(gate)


def test_no_alarm_after_an_event_that_tells(gpu: SyncSide) -> None:
    memory, buffer = memory_with_buffer(gpu)
    event = vk.vkCreateEvent(gpu.device, vk.VkEventCreateInfo())
    gpu.pretend("vkCmdSetEvent")

    def record(made: Any) -> None:
        vk.vkCmdFillBuffer(made, buffer, 0, 4096, 7)
        vk.vkCmdSetEvent(made, event, vk.VK_PIPELINE_STAGE_TRANSFER_BIT)

    commands = gpu.commands(record=record)
    gate = gpu.blocked(commands=[commands])
    assert gpu.may_free(memory)
    gpu.open(gate)


def test_commands_that_are_recorded_anew_are_other_ones(gpu: SyncSide) -> None:
    memory, buffer = memory_with_buffer(gpu)
    commands = filling(gpu, buffer)
    assert gpu.facts(commands)["uses"] == {gpu.world.find("VkBuffer", int(buffer))}
    vk.vkResetCommandPool(gpu.device, gpu.facts(commands)["pool"], 0)
    assert gpu.facts(commands)["uses"] == set()
    vk.vkBeginCommandBuffer(commands, vk.VkCommandBufferBeginInfo())
    vk.vkEndCommandBuffer(commands)
    gate = gpu.blocked(commands=[commands])
    assert gpu.may_free(memory)
    gpu.open(gate)


def test_what_gets_the_handle_of_something_gone_is_another_one(gpu: SyncSide) -> None:
    """Drivers whose handles are addresses give them again."""
    memory, buffer = memory_with_buffer(gpu)
    commands = filling(gpu, buffer)
    facts = gpu.facts(memory)
    vk.vkFreeMemory(gpu.device, memory)
    gpu.world.add("VkDeviceMemory", int(memory), **facts)
    try:
        rule = "VUID-vkQueueSubmit-pCommandBuffers-00070"
        gpu.breaks(rule, gpu.submit, gpu.info(commands=[commands]))
        other = gpu.commands()
        rule = "VUID-vkCmdFillBuffer-dstBuffer-00031"
        gpu.breaks(rule, vk.vkCmdFillBuffer, other, buffer, 0, 4096, 7)
    finally:
        gpu.world.remove("VkDeviceMemory", int(memory))


def test_what_runs_is_seen_by_all_threads(gpu: SyncSide) -> None:
    """A thread that waits in a loop for a fence, resets it and frees, is never refused."""
    fence, rounds, problems = gpu.fence(), 60, []
    submitted, freed = threading.Semaphore(0), threading.Semaphore(0)
    waiting: list[Any] = []

    def free() -> None:
        try:
            for _ in range(rounds):
                assert submitted.acquire(timeout=90)
                vk.vkWaitForFences(gpu.device, 1, [fence], 1, 10_000_000_000)
                vk.vkResetFences(gpu.device, 1, [fence])
                vk.vkFreeMemory(gpu.device, waiting.pop())
                freed.release()
        except BaseException as problem:
            problems.append(problem)
            freed.release(rounds)

    thread = threading.Thread(target=free)
    thread.start()
    for _ in range(rounds):
        memory, buffer = memory_with_buffer(gpu)
        commands = filling(gpu, buffer)
        waiting.append(memory)
        submitted.release()  # before it is submitted: the other may be waiting already
        gpu.submit(gpu.info(commands=[commands]), fence=fence)
        assert freed.acquire(timeout=90)
        if problems:
            break
        vk.vkDestroyBuffer(gpu.device, buffer)
    thread.join()
    assert problems == []
    assert len(gpu.world.submitted) == 0


def test_submissions_in_the_newer_form(gpu: SyncSide) -> None:
    with SyncSide(synchronization2=True) as other:
        memory, buffer = memory_with_buffer(other)
        commands = filling(other, buffer)
        gate = other.timeline()
        info = vk.VkSubmitInfo2(
            pWaitSemaphoreInfos=[
                vk.VkSemaphoreSubmitInfo(
                    semaphore=gate, value=1, stageMask=vk.VK_PIPELINE_STAGE_2_ALL_COMMANDS_BIT
                )
            ],
            pCommandBufferInfos=[vk.VkCommandBufferSubmitInfo(commandBuffer=commands)],
        )
        vk.vkQueueSubmit2(other.queue, 1, [info], None)
        other.breaks(FREE, vk.vkFreeMemory, other.device, memory)
        other.open(gate)
        vk.vkFreeMemory(other.device, memory)
