"""Rules for what has to stay as it is while a queue may use it: neither destroyed nor reset.

They belong to Vulkan at large, but for the memory itself (`waits.py`) and fences (`fences.py`).
Drivers do not look: most of them end the process once the work begins. Only what is known to be
pending is refused.
"""

from __future__ import annotations

from collections.abc import Callable

from extmem.rules.engine import Call, Findings, Site, rule
from extmem.submitted import Batch
from extmem.world import Record

_REMEDY = "Wait for its fence or its timeline first (or vkDeviceWaitIdle)."


def _user(call: Call, uses: Callable[[Batch], bool]) -> Batch | None:
    """A batch that is known to be unfinished, of those that use something."""
    for batch in call.world.submitted or ():
        if uses(batch) and call.asked.unfinished(batch):
            found: Batch = batch
            return found
    return None


def _runner(call: Call, found: Record | None) -> Batch | None:
    """The same of a command buffer, or of what its commands touch."""
    return _user(call, lambda batch: found in batch.uses) if found is not None else None


def _used(call: Call, site: Site, member: str, kind: str) -> Findings:
    busy = _runner(call, call.world.find(kind, int(site.value(member) or 0)))
    if busy is not None:
        yield site.broken(
            member, f"is still used by what was submitted to the queue {busy.queue:#x}.", _REMEDY
        )


# -- what commands touch --------------------------------------------------------------------------


@rule("VUID-vkDestroyBuffer-buffer-00922", stage="device")
def a_buffer_that_no_queue_uses(call: Call, site: Site) -> Findings:
    yield from _used(call, site, "buffer", "VkBuffer")


@rule("VUID-vkDestroyImage-image-01000", stage="device")
def an_image_that_no_queue_uses(call: Call, site: Site) -> Findings:
    yield from _used(call, site, "image", "VkImage")


@rule("VUID-vkDestroyEvent-event-01145", stage="device")
def an_event_that_no_queue_uses(call: Call, site: Site) -> Findings:
    yield from _used(call, site, "event", "VkEvent")


# -- commands -------------------------------------------------------------------------------------


@rule(
    "VUID-vkBeginCommandBuffer-commandBuffer-00049",
    "VUID-vkResetCommandBuffer-commandBuffer-00045",
    stage="device",
)
def commands_that_no_queue_runs(call: Call, site: Site) -> Findings:
    yield from _used(call, site, "commandBuffer", "VkCommandBuffer")


@rule("VUID-vkFreeCommandBuffers-pCommandBuffers-00047", stage="device")
def freed_once_they_have_run(call: Call, site: Site) -> Findings:
    array = site.value("pCommandBuffers")
    for index in range(int(site.value("commandBufferCount")) if array else 0):
        found = call.world.find("VkCommandBuffer", int(array[index] or 0))
        busy = _runner(call, found)
        if busy is not None:
            yield site.broken(
                f"pCommandBuffers[{index}]", f"is still run by the queue {busy.queue:#x}.", _REMEDY
            )


@rule(
    "VUID-vkDestroyCommandPool-commandPool-00041",
    "VUID-vkResetCommandPool-commandPool-00040",
    stage="device",
)
def a_pool_of_which_nothing_runs(call: Call, site: Site) -> Findings:
    pool = call.world.find("VkCommandPool", int(site.value("commandPool") or 0))
    if pool is None:
        return
    busy = _user(call, lambda batch: any(each.parent is pool for each in batch.uses))
    if busy is not None:
        yield site.broken(
            "commandPool",
            f"has a command buffer that the queue {busy.queue:#x} still runs.",
            _REMEDY,
        )


# -- what queues wait for and signal --------------------------------------------------------------


@rule("VUID-vkDestroySemaphore-semaphore-05149", stage="device")
def a_semaphore_that_no_queue_needs(call: Call, site: Site) -> Findings:
    found = call.world.find("VkSemaphore", int(site.value("semaphore") or 0))
    if found is None:
        return
    busy = _user(call, lambda batch: any(each is found for each, _ in batch.waits + batch.signals))
    if busy is not None:
        yield site.broken(
            "semaphore",
            f"is still needed by what was submitted to the queue {busy.queue:#x}.",
            _REMEDY,
        )
