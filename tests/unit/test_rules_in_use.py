"""Rules for what has to stay while a queue uses it. Each broken and kept.

Refused is what is known to be pending, and nothing else: each way to know of the end is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from extmem import RuleViolation, vk
from tests.support.sync_side import SyncSide

ALL = int(vk.VK_PIPELINE_STAGE_ALL_COMMANDS_BIT)
IGNORED = int(vk.VK_QUEUE_FAMILY_IGNORED)


@pytest.fixture
def gpu() -> Iterator[SyncSide]:
    with SyncSide() as made:
        yield made


class Used:
    """A command buffer, and all that is used when it runs."""

    def __init__(self, gpu: SyncSide) -> None:
        self.gpu = gpu
        device = gpu.device
        self.buffer = self._bound(
            vk.vkCreateBuffer(
                device, vk.VkBufferCreateInfo(size=4096, usage=vk.VK_BUFFER_USAGE_TRANSFER_DST_BIT)
            )
        )
        self.image = self._bound(
            vk.vkCreateImage(
                device,
                vk.VkImageCreateInfo(
                    imageType=vk.VK_IMAGE_TYPE_2D,
                    format=vk.VK_FORMAT_R8G8B8A8_UNORM,
                    extent=vk.VkExtent3D(8, 8, 1),
                    mipLevels=1,
                    arrayLayers=1,
                    samples=vk.VK_SAMPLE_COUNT_1_BIT,
                    usage=vk.VK_IMAGE_USAGE_TRANSFER_DST_BIT,
                ),
            )
        )
        self.event = vk.vkCreateEvent(device, vk.VkEventCreateInfo())
        self.pool = vk.vkCreateCommandPool(device, vk.VkCommandPoolCreateInfo(flags=2))
        (self.commands,) = vk.vkAllocateCommandBuffers(
            device, vk.VkCommandBufferAllocateInfo(commandPool=self.pool, commandBufferCount=1)
        )
        self.begin()
        barrier = vk.VkImageMemoryBarrier(
            newLayout=vk.VK_IMAGE_LAYOUT_GENERAL,
            srcQueueFamilyIndex=IGNORED,
            dstQueueFamilyIndex=IGNORED,
            image=self.image,
            subresourceRange=vk.VkImageSubresourceRange(1, 0, 1, 0, 1),
        )
        vk.vkCmdPipelineBarrier(self.commands, ALL, ALL, 0, 0, None, 0, None, 1, [barrier])
        vk.vkCmdFillBuffer(self.commands, self.buffer, 0, 4096, 7)
        vk.vkEndCommandBuffer(self.commands)
        event = gpu.world.find("VkEvent", int(self.event))
        gpu.facts(self.commands)["uses"].add(event)  # the embedded device records none
        self.binary, self.signalled, self.fence = gpu.semaphore(), gpu.timeline(), gpu.fence()
        self.gate: Any = None

    def begin(self) -> None:
        vk.vkBeginCommandBuffer(self.commands, vk.VkCommandBufferBeginInfo())

    def _bound(self, resource: Any) -> Any:
        device, of_image = self.gpu.device, isinstance(resource, vk.VkImage)
        needs = (vk.vkGetImageMemoryRequirements if of_image else vk.vkGetBufferMemoryRequirements)(
            device, resource
        )
        index = (needs.memoryTypeBits & -needs.memoryTypeBits).bit_length() - 1
        info = vk.VkMemoryAllocateInfo(allocationSize=needs.size, memoryTypeIndex=index)
        memory = vk.vkAllocateMemory(device, info)
        (vk.vkBindImageMemory if of_image else vk.vkBindBufferMemory)(device, resource, memory, 0)
        return resource

    def submit(self) -> None:
        """It waits for a timeline that nobody has signalled."""
        self.gate = self.gpu.blocked(
            [(self.signalled, 1), self.binary], fence=self.fence, commands=[self.commands]
        )

    def ends(self) -> dict[str, tuple[str, Callable[[], None]]]:
        """What may not be done while it runs: the rule, and the call."""
        device = self.gpu.device
        return {
            "buffer": (
                "VUID-vkDestroyBuffer-buffer-00922",
                lambda: vk.vkDestroyBuffer(device, self.buffer),
            ),
            "image": (
                "VUID-vkDestroyImage-image-01000",
                lambda: vk.vkDestroyImage(device, self.image),
            ),
            "event": (
                "VUID-vkDestroyEvent-event-01145",
                lambda: vk.vkDestroyEvent(device, self.event),
            ),
            "begin": ("VUID-vkBeginCommandBuffer-commandBuffer-00049", self.begin),
            "reset": (
                "VUID-vkResetCommandBuffer-commandBuffer-00045",
                lambda: vk.vkResetCommandBuffer(self.commands, 0),
            ),
            "free": (
                "VUID-vkFreeCommandBuffers-pCommandBuffers-00047",
                lambda: vk.vkFreeCommandBuffers(device, self.pool, 2, [0, self.commands]),
            ),
            "reset pool": (
                "VUID-vkResetCommandPool-commandPool-00040",
                lambda: vk.vkResetCommandPool(device, self.pool, 0),
            ),
            "pool": (
                "VUID-vkDestroyCommandPool-commandPool-00041",
                lambda: vk.vkDestroyCommandPool(device, self.pool),
            ),
            "gate": (
                "VUID-vkDestroySemaphore-semaphore-05149",
                lambda: vk.vkDestroySemaphore(device, self.gate),
            ),
            "signalled": (
                "VUID-vkDestroySemaphore-semaphore-05149",
                lambda: vk.vkDestroySemaphore(device, self.signalled),
            ),
            "binary": (
                "VUID-vkDestroySemaphore-semaphore-05149",
                lambda: vk.vkDestroySemaphore(device, self.binary),
            ),
            "fence": (
                "VUID-vkDestroyFence-fence-01120",
                lambda: vk.vkDestroyFence(device, self.fence),
            ),
            "reset fence": (
                "VUID-vkResetFences-pFences-01123",
                lambda: vk.vkResetFences(device, 1, [self.fence]),
            ),
        }


WHAT = (
    "buffer", "image", "event", "begin", "reset", "free", "reset pool", "pool", "gate", "signalled",
    "binary", "fence", "reset fence",
)  # fmt: skip


def refused(act: Callable[[], None]) -> set[str]:
    with pytest.raises(RuleViolation) as caught:
        act()
    for problem in caught.value.problems:
        assert problem.problem.endswith("."), problem
        assert problem.remedy.endswith("."), problem
    return {problem.vuid for problem in caught.value.problems}


@pytest.mark.parametrize("what", WHAT)
def test_what_a_queue_uses_stays_until_it_has_ended(gpu: SyncSide, what: str) -> None:
    used = Used(gpu)
    used.submit()
    vuid, act = used.ends()[what]
    assert refused(act) == {vuid}
    assert refused(act) == {vuid}  # nothing has changed
    gpu.open(used.gate)  # whose value tells of the end, and nobody has looked at it
    act()


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize(
    "sign", ["fence", "status", "timeline", "counter", "idle", "queue idle", "later", "nothing"]
)
def test_whoever_knows_of_the_end_may(gpu: SyncSide, what: str, sign: str) -> None:
    used = Used(gpu)
    used.submit()
    gpu.open(used.gate)
    if sign == "fence":
        vk.vkWaitForFences(gpu.device, 1, [used.fence], 1, 0)
    elif sign == "status":
        assert vk.vkGetFenceStatus(gpu.device, used.fence) == vk.VK_SUCCESS
    elif sign == "timeline":
        info = vk.VkSemaphoreWaitInfo(pSemaphores=[used.signalled], pValues=[1])
        vk.vkWaitSemaphores(gpu.device, info, 0)
    elif sign == "counter":
        assert vk.vkGetSemaphoreCounterValue(gpu.device, used.signalled) == 1
    elif sign == "idle":
        vk.vkDeviceWaitIdle(gpu.device)
    elif sign == "queue idle":
        vk.vkQueueWaitIdle(gpu.queue)
    elif sign == "later":
        fence = gpu.fence()
        gpu.submit(fence=fence)
        vk.vkWaitForFences(gpu.device, 1, [fence], 1, 10**10)
    used.ends()[what][1]()


@pytest.mark.parametrize("what", WHAT)
def test_what_was_not_submitted_may_go(gpu: SyncSide, what: str) -> None:
    used, other = Used(gpu), Used(gpu)
    used.submit()
    other.gate = gpu.timeline()
    other.ends()[what][1]()
    gpu.open(used.gate)


@pytest.mark.parametrize("what", ["buffer", "free", "pool", "binary"])
def test_no_alarm_where_nothing_tells_that_it_runs(gpu: SyncSide, what: str) -> None:
    """It has no fence and no timeline, so it may have ended."""
    used = Used(gpu)
    first = gpu.timeline()
    gpu.submit(gpu.info(waits=[(first, 1)]))
    gpu.submit(gpu.info(signals=[used.binary], commands=[used.commands]))
    name, act = {
        "buffer": ("vkDestroyBuffer", used.ends()["buffer"][1]),
        "free": ("vkFreeCommandBuffers", used.ends()["free"][1]),
        "pool": ("vkDestroyCommandPool", used.ends()["pool"][1]),
        "binary": ("vkDestroySemaphore", used.ends()["binary"][1]),
    }[what]
    asked: list[Any] = []
    gpu.pretend(name, lambda *given: asked.append(given))  # it is in use, as nobody knows
    act()
    assert len(asked) == 1
    gpu.open(first)


def test_another_payload_tells_nothing_of_what_was_submitted(gpu: SyncSide) -> None:
    """A timeline that got another payload is at 0 again, and what it let run has ended."""
    used = Used(gpu)
    gate = gpu.timeline()
    gpu.submit(gpu.info(waits=[(gate, 5)], commands=[used.commands]))
    gpu.open(gate, 5)
    record = gpu.world.find("VkSemaphore", int(gate))
    gpu.world.submitted.replaced(record)
    gpu.pretend("vkGetSemaphoreCounterValue", lambda device, handle, box: 0)
    gpu.pretend("vkWaitSemaphores", lambda device, info, timeout: int(vk.VK_TIMEOUT))
    used.ends()["buffer"][1]()
    used.ends()["pool"][1]()


def test_a_lost_device_uses_nothing(gpu: SyncSide) -> None:
    used = Used(gpu)
    used.submit()
    lost = int(vk.VK_ERROR_DEVICE_LOST)
    for name in ("vkWaitSemaphores", "vkGetFenceStatus", "vkWaitForFences"):
        gpu.pretend(name, lambda *given: lost)
    for name, what in (("vkResetFences", "reset fence"), ("vkResetCommandPool", "reset pool")):
        asked: list[Any] = []

        def note(*given: Any, asked: list[Any] = asked) -> int:
            asked.append(given)
            return 0

        gpu.pretend(name, note)
        used.ends()[what][1]()
        assert len(asked) == 1
    gpu.open(used.gate)


def test_null_is_never_in_use(gpu: SyncSide) -> None:
    gate = gpu.blocked()
    for destroy in (
        vk.vkDestroyBuffer, vk.vkDestroyImage, vk.vkDestroyEvent, vk.vkDestroyCommandPool,
        vk.vkDestroySemaphore, vk.vkDestroyFence,
    ):  # fmt: skip
        destroy(gpu.device, None)
    gpu.open(gate)
