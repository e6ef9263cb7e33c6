"""A glance at a submission lets through what kept all rules before, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterator
from ctypes import addressof, c_uint64
from typing import Any

import pytest

import extmem
from extmem import vk
from extmem.rules import engine, glances_at_submits
from tests.support.doubt import UNDOUBTED_SUBMISSION

STAGE = int(vk.VK_PIPELINE_STAGE_ALL_COMMANDS_BIT)
FAR = 1 << 31


@pytest.fixture(params=["full", "cheap"])
def device(request: pytest.FixtureRequest) -> Iterator[extmem.Device]:
    with extmem.open_device(driver="embedded", checks=str(request.param)) as gpu:
        yield gpu


def semaphore(device: extmem.Device, timeline: bool = True) -> vk.VkSemaphore:
    kind = vk.VK_SEMAPHORE_TYPE_TIMELINE if timeline else vk.VK_SEMAPHORE_TYPE_BINARY
    chained = vk.VkSemaphoreTypeCreateInfo(semaphoreType=kind)
    return vk.vkCreateSemaphore(device.handle, vk.VkSemaphoreCreateInfo(pNext=chained))


def batch(signals: Any = (), waits: Any = (), commands: Any = ()) -> Any:
    """signals, waits: pairs of a semaphore and a value"""
    times = vk.VkTimelineSemaphoreSubmitInfo(
        pWaitSemaphoreValues=[value for _, value in waits] or None,
        pSignalSemaphoreValues=[value for _, value in signals] or None,
    )
    return vk.VkSubmitInfo(
        pNext=times if signals or waits else None,
        pWaitSemaphores=[each for each, _ in waits] or None,
        pWaitDstStageMask=[STAGE] * len(waits) or None,
        pCommandBuffers=list(commands) or None,
        pSignalSemaphores=[each for each, _ in signals] or None,
    )


def submit(device: extmem.Device, info: Any, fence: Any = None) -> None:
    vk.vkQueueSubmit(device.queue, 1, [info], fence)


def seen(device: extmem.Device, info: Any, fence: Any = None) -> bool:
    """Whether a glance is enough."""
    return UNDOUBTED_SUBMISSION(device.handle.dispatch, device.queue, info, fence) is not None


def broken(device: extmem.Device, info: Any, fence: Any = None) -> set[str]:
    try:
        submit(device, info, fence)
    except extmem.RuleViolation as violation:
        return {each.vuid for each in violation.problems}
    return set()


def recorded(device: extmem.Device, pool: Any, buffer: Any) -> Any:
    (commands,) = vk.vkAllocateCommandBuffers(
        device.handle, vk.VkCommandBufferAllocateInfo(commandPool=pool, commandBufferCount=1)
    )
    vk.vkBeginCommandBuffer(commands, vk.VkCommandBufferBeginInfo())
    vk.vkCmdFillBuffer(commands, buffer, 0, vk.VK_WHOLE_SIZE, 7)
    vk.vkEndCommandBuffer(commands)
    return commands


def test_the_second_submission_runs_no_rule(
    device: extmem.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = semaphore(device)
    info = batch([(made, 1)])
    submit(device, info)
    asked: list[str] = []
    check = engine.check

    def counted(call: Any, level: str) -> None:
        asked.append(call.name)
        check(call, level)

    monkeypatch.setattr(engine, "check", counted)
    monkeypatch.setattr(glances_at_submits, "submission", UNDOUBTED_SUBMISSION)
    info.pNext.pSignalSemaphoreValues[0] = 2
    submit(device, info)
    submit(device, batch([(made, 5)]))
    assert asked == []
    vk.vkWaitSemaphores(
        device.handle, vk.VkSemaphoreWaitInfo(pSemaphores=[made], pValues=[5]), 5_000_000_000
    )
    vk.vkDestroySemaphore(device.handle, made)


def test_what_is_alive_is_looked_at_each_time(device: extmem.Device) -> None:
    made, other, binary = semaphore(device), semaphore(device), semaphore(device, timeline=False)
    submit(device, batch([(made, 1)]))
    submit(device, batch([(other, 1)], waits=[(made, 1)]))
    submit(device, batch([(made, 2), (other, 2)]))
    vk.vkQueueWaitIdle(device.queue)
    assert seen(device, batch([(made, 3)]))
    assert seen(device, batch([(made, 3)], waits=[(other, 1)]))
    for info in (
        batch([(made, 2)]),  # it has come to that already
        batch([(made, 1)]),
        batch([(made, 2 + FAR)]),
        batch([(made, 3)], waits=[(other, 2 + FAR)]),
        batch([(binary, 3)]),
        batch([(made, 3)], waits=[(binary, 0)]),
        batch([(made, 3), (made, 4)]),
        batch([(made, 4)], waits=[(made, 3)]),
        batch([(made, 3), (made, 3), (other, 3)]),
    ):
        assert not seen(device, info)
    vk.vkDestroySemaphore(device.handle, other)
    assert not seen(device, batch([(other, 3)]))
    assert broken(device, batch([(other, 3)])) != set()
    for each in (made, binary):
        vk.vkDestroySemaphore(device.handle, each)


def test_what_was_submitted_is_looked_at(device: extmem.Device) -> None:
    gate, made = semaphore(device), semaphore(device)
    submit(device, batch([(made, 5)], waits=[(gate, 1)]))  # which is still to come
    submit(device, batch([(made, 7)]))
    assert seen(device, batch([(made, 8)]))
    for value in (4, 5, 6, 7):
        assert not seen(device, batch([(made, value)]))
    vk.vkSignalSemaphore(device.handle, vk.VkSemaphoreSignalInfo(semaphore=gate, value=1))
    vk.vkQueueWaitIdle(device.queue)
    for each in (gate, made):
        vk.vkDestroySemaphore(device.handle, each)


def test_fences_and_commands_are_looked_at(device: extmem.Device) -> None:
    made = semaphore(device)
    pool = vk.vkCreateCommandPool(
        device.handle, vk.VkCommandPoolCreateInfo(queueFamilyIndex=device.queue_family)
    )
    fence = vk.vkCreateFence(device.handle, vk.VkFenceCreateInfo())
    with device.allocate(64) as memory, device.buffer(memory) as buffer:
        commands = recorded(device, pool, buffer.handle)
        value = 0
        for _ in range(3):
            value += 1
            submit(device, batch([(made, value)], commands=[commands]), fence)
            assert not seen(device, batch([(made, value + 1)]), fence)  # signalled, or will be
            vk.vkWaitForFences(device.handle, 1, [fence], True, 5_000_000_000)
            assert not seen(device, batch([(made, value + 1)]), fence)
            vk.vkResetFences(device.handle, 1, [fence])
            assert seen(device, batch([(made, value + 1)], commands=[commands]), fence)
        again = batch([(made, value + 1)], commands=[commands])
        (unready,) = vk.vkAllocateCommandBuffers(
            device.handle, vk.VkCommandBufferAllocateInfo(commandPool=pool, commandBufferCount=1)
        )
        assert not seen(device, batch([(made, value + 1)], commands=[unready]))
        assert memory.numpy().tolist() == [7, 0, 0, 0] * 16
        assert seen(device, again)
    assert not seen(device, again)  # its buffer is gone
    vk.vkDestroyFence(device.handle, fence)
    assert not seen(device, batch([(made, value + 1)]), fence)
    vk.vkDestroyCommandPool(device.handle, pool)
    assert not seen(device, again)
    vk.vkDestroySemaphore(device.handle, made)


def test_commands_for_one_use_are_used_once(device: extmem.Device) -> None:
    pool = vk.vkCreateCommandPool(
        device.handle, vk.VkCommandPoolCreateInfo(queueFamilyIndex=device.queue_family)
    )
    for again in range(3):  # from the second round on at a glance
        (commands,) = vk.vkAllocateCommandBuffers(
            device.handle, vk.VkCommandBufferAllocateInfo(commandPool=pool, commandBufferCount=1)
        )
        once = vk.VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT
        vk.vkBeginCommandBuffer(commands, vk.VkCommandBufferBeginInfo(flags=once))
        vk.vkEndCommandBuffer(commands)
        info = batch(commands=[commands])
        assert seen(device, info) == bool(again)
        submit(device, info)
        vk.vkQueueWaitIdle(device.queue)
        assert not seen(device, info)
        if device.checks == "full":
            assert broken(device, info) == {"VUID-vkQueueSubmit-pCommandBuffers-00070"}
    vk.vkDestroyCommandPool(device.handle, pool)


def test_values_that_were_changed_behind_python_are_seen(device: extmem.Device) -> None:
    made = semaphore(device)
    submit(device, batch([(made, 1)]))
    vk.vkQueueWaitIdle(device.queue)
    good = batch([(made, 2)])
    assert seen(device, good)
    for change in (
        lambda info: setattr(info, "sType", 7),
        lambda info: setattr(info.pNext, "sType", 7),
        lambda info: setattr(info, "signalSemaphoreCount", 2),
        lambda info: setattr(info, "waitSemaphoreCount", 1),
        lambda info: setattr(info.pNext, "signalSemaphoreValueCount", 2),
        lambda info: setattr(info.pNext, "signalSemaphoreValueCount", 0),
        lambda info: setattr(info.pNext, "pSignalSemaphoreValues", None),
        lambda info: setattr(info.pNext, "pNext", vk.VkDeviceGroupSubmitInfo()),
    ):
        info = batch([(made, 2)])
        change(info)
        assert not seen(device, info)
    info = batch([(made, 2)])
    c_uint64.from_address(addressof(info) + 8).value = addressof(good)  # pNext, as C would
    assert not seen(device, info)
    assert not seen(device, vk.VkSubmitInfo.from_address(addressof(good)))
    vk.vkDestroySemaphore(device.handle, made)


def test_a_trained_device_says_what_a_fresh_one_says() -> None:
    """Random submissions, to a device that has let all of these shapes through before."""
    chosen = random.Random(7)
    with (
        extmem.open_device(driver="embedded", checks="full") as trained,
        extmem.open_device(driver="embedded", checks="full") as fresh,
    ):
        both = (trained, fresh)
        made = {gpu: [semaphore(gpu), semaphore(gpu)] for gpu in both}
        let_through = refused = 0
        for _ in range(400):
            first = chosen.choice((0, 1))
            picks = [(i, chosen.randint(-2, 4)) for i in (first, 1 - first, first)]
            signalled, waited = chosen.choice(((1, 0), (1, 0), (2, 0), (1, 1), (0, 1)))
            answers = []
            for gpu in both:
                now = [vk.vkGetSemaphoreCounterValue(gpu.handle, each) for each in made[gpu]]
                pairs = [(made[gpu][i], max(now[i] + step, 0)) for i, step in picks]
                # Nobody signals what is waited for, so that it has to be there.
                waits = [(made[gpu][i], now[i]) for i, _ in picks[signalled:][:waited]]
                if gpu is fresh:
                    dispatch: Any = gpu.handle.dispatch
                    dispatch.world.plain.clear()
                answers.append(broken(gpu, batch(pairs[:signalled], waits)))
                vk.vkQueueWaitIdle(gpu.queue)
            assert answers[0] == answers[1]
            let_through, refused = let_through + (not answers[0]), refused + bool(answers[0])
        assert let_through > 50
        assert refused > 50
        for gpu in both:
            for each in made[gpu]:
                vk.vkDestroySemaphore(gpu.handle, each)
