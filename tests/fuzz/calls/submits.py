"""Right calls that submit to queues."""

from __future__ import annotations

from typing import Any

from extmem import vk
from tests.fuzz.calls.hand import Call, Hand
from tests.fuzz.calls.pool import Thing
from tests.fuzz.calls.right import right
from tests.fuzz.calls.signals import ENOUGH

__all__: list[str] = []

_ALL_STAGES = int(vk.VK_PIPELINE_STAGE_ALL_COMMANDS_BIT)
_SPARSE = int(vk.VK_QUEUE_SPARSE_BINDING_BIT)
_BEHIND = 3  # so many batches may be on their way

Valued = tuple[Thing, int]


def family_of(hand: Hand, queue: Any) -> int:
    """Which family a queue is of."""
    index = hand.gpu.queues.index(queue)
    for family, (_, count) in enumerate(hand.gpu.families):
        if index < count:
            return family
        index -= count
    return 0


def _commands(hand: Hand, queue: Any) -> list[Thing]:
    family = family_of(hand, queue)
    found = hand.pool.those(
        "VkCommandBuffer",
        lambda x: (
            x.facts["state"] == "executable"
            and x.facts["level"] == 0
            and x.facts["family"] == family
            and not x.pins
        ),
    )
    return [hand.dice.one(found)] if found and hand.dice.odds(0.9) else []


def _semaphores(hand: Hand, queue: Any) -> tuple[list[Valued], list[Valued]]:
    """What to wait for, and what to signal; each semaphore once."""
    waits: list[Valued] = []
    signals: list[Valued] = []
    dice = hand.dice
    for thing in hand.pool.all("VkSemaphore"):
        facts = thing.facts
        if facts["shared"] or dice.odds(0.6):
            continue
        if not facts["timeline"]:
            if facts["state"] == "signaled":
                # What its signal waits for must have been submitted, and the host has yet to.
                if not hand.owed:
                    waits.append((thing, 0))
            elif not thing.pins:
                signals.append((thing, 0))
        elif facts["queue"] in (None, int(queue)) and thing not in hand.owed and _near(facts):
            roll = dice.random()
            if roll < 0.3:
                waits.append((thing, dice.below(facts["value"] + 1)))
            elif roll < 0.4 and not hand.owed and not thing.pins:
                waits.append((thing, facts["value"] + 1))  # which the host is to signal
            else:
                signals.append((thing, facts["value"] + dice.one((1, 1, 3))))
    return waits[:2], signals[:2]


def _near(facts: dict[str, Any]) -> bool:
    return facts["value"] is not None and facts["value"] < ENOUGH


def _fence(hand: Hand) -> Thing | None:
    found = hand.pool.those(
        "VkFence", lambda x: x.facts["state"] == "reset" and not x.pins and not x.facts["shared"]
    )
    return hand.dice.one(found) if found and hand.dice.odds(0.9) else None


def _mutexes(hand: Hand) -> Any:
    """A keyed mutex, acquired and released again."""
    if "VK_KHR_win32_keyed_mutex" not in hand.gpu.extensions:
        return None
    memory = hand.dice.any(hand.pool.those("VkDeviceMemory", lambda x: bool(x.facts["keyed"])))
    if memory is None:
        return None
    return vk.VkWin32KeyedMutexAcquireReleaseInfoKHR(
        pAcquireSyncs=[memory.handle],
        pAcquireKeys=[0],
        pAcquireTimeouts=[0],
        pReleaseSyncs=[memory.handle],
        pReleaseKeys=[0],
    )


@right("vkQueueSubmit", "vkQueueSubmit2")
def submit(hand: Hand) -> Call | None:
    if len(hand.batches) >= _BEHIND:
        return None
    queue = hand.dice.one(hand.gpu.queues)
    commands = _commands(hand, queue)
    waits, signals = _semaphores(hand, queue)
    fence = _fence(hand)
    mutexes = _mutexes(hand)
    second = hand.gpu.has("vkQueueSubmit2") and "synchronization2" in hand.gpu.features
    if second and hand.dice.odds(0.5):
        info: Any = vk.VkSubmitInfo2(
            pWaitSemaphoreInfos=_infos(waits) or None,
            pCommandBufferInfos=[
                vk.VkCommandBufferSubmitInfo(commandBuffer=each.handle) for each in commands
            ]
            or None,
            pSignalSemaphoreInfos=_infos(signals) or None,
            pNext=mutexes,
        )
        name = "vkQueueSubmit2"
    else:
        info = vk.link(_plain(commands, waits, signals), mutexes)
        name = "vkQueueSubmit"
    handle = fence.handle if fence is not None else None
    if hand.dice.odds(0.05):
        return Call(name, [queue, 0, None, handle])
    return Call(name, [queue, 1, [info], handle])


def _infos(pairs: list[Valued]) -> list[Any]:
    return [
        vk.VkSemaphoreSubmitInfo(
            semaphore=thing.handle, value=value, stageMask=vk.VK_PIPELINE_STAGE_2_ALL_COMMANDS_BIT
        )
        for thing, value in pairs
    ]


def _plain(commands: list[Thing], waits: list[Valued], signals: list[Valued]) -> Any:
    info = vk.VkSubmitInfo(
        pWaitSemaphores=[thing.handle for thing, _ in waits] or None,
        pWaitDstStageMask=[_ALL_STAGES] * len(waits) or None,
        pCommandBuffers=[each.handle for each in commands] or None,
        pSignalSemaphores=[thing.handle for thing, _ in signals] or None,
    )
    if any(thing.facts["timeline"] for thing, _ in waits + signals):
        info.pNext = vk.VkTimelineSemaphoreSubmitInfo(
            pWaitSemaphoreValues=[value for _, value in waits] or None,
            pSignalSemaphoreValues=[value for _, value in signals] or None,
        )
    return info


@right("vkQueueBindSparse")
def bind_sparse(hand: Hand) -> Call | None:
    """Nothing is bound, and everything signalled: no resource here is sparse."""
    for queue in hand.gpu.queues:
        if hand.gpu.families[family_of(hand, queue)][0] & _SPARSE:
            fence = _fence(hand)
            handle = fence.handle if fence is not None else None
            return Call("vkQueueBindSparse", [queue, 1, [vk.VkBindSparseInfo()], handle])
    return None
