"""What a queue still uses: destroyed, freed, reset and submitted again before its work has ended.

Most drivers end the process once the work begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from extmem import vk
from tests.crash.scene import Scene
from tests.crash.trap import trap
from tests.support.bare import SIZE

_ALL = int(vk.VK_PIPELINE_STAGE_ALL_COMMANDS_BIT)


class _Running:
    """Work that waits for the gate: with everything that it uses."""

    def __init__(self, here: Scene) -> None:
        self.buffer = here.bound()
        self.pool = vk.vkCreateCommandPool(here.device, vk.VkCommandPoolCreateInfo(flags=2))
        (self.commands,) = vk.vkAllocateCommandBuffers(
            here.device,
            vk.VkCommandBufferAllocateInfo(commandPool=self.pool, commandBufferCount=1),
        )
        vk.vkBeginCommandBuffer(self.commands, vk.VkCommandBufferBeginInfo())
        vk.vkCmdFillBuffer(self.commands, self.buffer, 0, SIZE, 7)
        vk.vkEndCommandBuffer(self.commands)
        self.gate, self.end = here.semaphore(timeline=True), here.semaphore(timeline=True)
        self.binary, self.fence = here.semaphore(), here.fence()


@contextmanager
def _running(here: Scene) -> Iterator[_Running]:
    """It begins, and ends, with the `with`."""
    found = _Running(here)
    info = vk.VkSubmitInfo(
        pNext=vk.VkTimelineSemaphoreSubmitInfo(
            pWaitSemaphoreValues=[1], pSignalSemaphoreValues=[1, 0]
        ),
        pWaitSemaphores=[found.gate],
        pWaitDstStageMask=[_ALL],
        pCommandBuffers=[found.commands],
        pSignalSemaphores=[found.end, found.binary],
    )
    vk.vkQueueSubmit(here.queue, 1, [info], found.fence)
    try:
        yield found
    finally:
        vk.vkSignalSemaphore(here.device, vk.VkSemaphoreSignalInfo(semaphore=found.gate, value=1))
        vk.vkWaitForFences(here.device, 1, [found.fence], True, 10**10)
        vk.vkDeviceWaitIdle(here.device)


def _spoilt(here: Scene, act: Callable[[_Running], Any]) -> None:
    with _running(here) as found:
        act(found)


@trap("VUID-vkDestroyBuffer-buffer-00922")
def buffer_destroyed_while_a_queue_fills_it(here: Scene) -> None:
    _spoilt(here, lambda found: vk.vkDestroyBuffer(here.device, found.buffer))


@trap("VUID-vkDestroyCommandPool-commandPool-00041")
def pool_destroyed_while_its_commands_run(here: Scene) -> None:
    _spoilt(here, lambda found: vk.vkDestroyCommandPool(here.device, found.pool))


@trap("VUID-vkResetCommandPool-commandPool-00040")
def pool_reset_while_its_commands_run(here: Scene) -> None:
    _spoilt(here, lambda found: vk.vkResetCommandPool(here.device, found.pool, 0))


@trap("VUID-vkFreeCommandBuffers-pCommandBuffers-00047")
def commands_freed_while_they_run(here: Scene) -> None:
    _spoilt(
        here, lambda found: vk.vkFreeCommandBuffers(here.device, found.pool, 1, [found.commands])
    )


@trap("VUID-vkResetCommandBuffer-commandBuffer-00045")
def commands_reset_while_they_run(here: Scene) -> None:
    _spoilt(here, lambda found: vk.vkResetCommandBuffer(found.commands, 0))


@trap("VUID-vkBeginCommandBuffer-commandBuffer-00049")
def commands_begun_while_they_run(here: Scene) -> None:
    begin = vk.VkCommandBufferBeginInfo()
    _spoilt(here, lambda found: vk.vkBeginCommandBuffer(found.commands, begin))


@trap("VUID-vkDestroySemaphore-semaphore-05149")
def timeline_destroyed_while_a_queue_waits_for_it(here: Scene) -> None:
    _spoilt(here, lambda found: vk.vkDestroySemaphore(here.device, found.gate))


@trap("VUID-vkDestroySemaphore-semaphore-05149")
def timeline_destroyed_before_a_queue_signals_it(here: Scene) -> None:
    _spoilt(here, lambda found: vk.vkDestroySemaphore(here.device, found.end))


@trap("VUID-vkDestroySemaphore-semaphore-05149")
def semaphore_destroyed_before_a_queue_signals_it(here: Scene) -> None:
    _spoilt(here, lambda found: vk.vkDestroySemaphore(here.device, found.binary))


@trap("VUID-vkDestroyFence-fence-01120")
def fence_destroyed_before_a_queue_signals_it(here: Scene) -> None:
    _spoilt(here, lambda found: vk.vkDestroyFence(here.device, found.fence))


@trap("VUID-vkResetFences-pFences-01123")
def fence_reset_before_a_queue_signals_it(here: Scene) -> None:
    _spoilt(here, lambda found: vk.vkResetFences(here.device, 1, [found.fence]))


@trap("VUID-vkQueueSubmit-fence-00064")
def fence_submitted_before_a_queue_signals_it(here: Scene) -> None:
    _spoilt(here, lambda found: vk.vkQueueSubmit(here.queue, 0, None, found.fence))
