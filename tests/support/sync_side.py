"""A device with queues for tests of rules on semaphores, fences and submissions.

What a driver offers and answers can be pretended, so that each rule is met on every system; the
queues are the driver's own, and so is what is pending on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import pytest

from extmem import RuleViolation, vk
from extmem.vk.queries import External, Queries

__all__ = ["EVERYTHING", "SyncSide", "offering"]

EVERYTHING = External(3, 0x1F, 0x1F)
_WANTED = (
    "VK_KHR_external_semaphore_fd",
    "VK_KHR_external_semaphore_win32",
    "VK_KHR_external_fence_fd",
    "VK_KHR_external_fence_win32",
    "VK_KHR_external_memory_win32",
    "VK_KHR_win32_keyed_mutex",
    "VK_EXT_queue_family_foreign",
)


class SyncSide:
    """An instance, a device and its queue. What is alive at the end of the `with` is destroyed."""

    def __init__(
        self,
        driver: str = "embedded",
        *,
        version: int = vk.VK_API_VERSION_1_3,
        timeline: bool = True,
        synchronization2: bool = False,
        without: tuple[str, ...] = (),
    ) -> None:
        application = vk.VkApplicationInfo(apiVersion=version)
        info = vk.VkInstanceCreateInfo(pApplicationInfo=application)
        self.instance = vk.vkCreateInstance(info, driver=driver, checks="full")
        try:
            self.physical = vk.vkEnumeratePhysicalDevices(self.instance)[0]
            listed = vk.vkEnumerateDeviceExtensionProperties(self.physical, None)
            self.offered = {each.extensionName for each in listed}
            names = [each for each in _WANTED if each in self.offered and each not in without]
            features = []
            if timeline:
                features.append(vk.VkPhysicalDeviceTimelineSemaphoreFeatures(timelineSemaphore=1))
            if synchronization2:
                features.append(vk.VkPhysicalDeviceSynchronization2Features(synchronization2=1))
            queue = vk.VkDeviceQueueCreateInfo(queueFamilyIndex=0, pQueuePriorities=[1.0])
            create = vk.VkDeviceCreateInfo(
                pQueueCreateInfos=[queue], ppEnabledExtensionNames=names or None
            )
            self.device = vk.vkCreateDevice(self.physical, vk.link(create, *features))
        except BaseException:
            vk.vkDestroyInstance(self.instance)
            raise
        self.dispatch: Any = self.device.dispatch
        self.world: Any = self.dispatch.world
        self.queue = vk.vkGetDeviceQueue(self.device, 0, 0)
        self._real: dict[str, Any] = {}
        self._timelines: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name, known in self._real.items():
            if known is None:
                del self.dispatch.__dict__[name]
            else:
                setattr(self.dispatch, name, known)
        for semaphore in self._timelines:  # nothing may wait for ever
            if int(semaphore) in self.world.objects.get("VkSemaphore", {}):
                self._release(semaphore)
        vk.vkDeviceWaitIdle(self.device)
        for name, destroy in (
            ("VkBuffer", vk.vkDestroyBuffer),
            ("VkImage", vk.vkDestroyImage),
            ("VkDeviceMemory", vk.vkFreeMemory),
            ("VkSemaphore", vk.vkDestroySemaphore),
            ("VkFence", vk.vkDestroyFence),
            ("VkEvent", vk.vkDestroyEvent),
            ("VkCommandPool", vk.vkDestroyCommandPool),
        ):
            for handle in list(self.world.objects.get(name, ())):
                destroy(self.device, handle)
        vk.vkDestroyDevice(self.device)
        vk.vkDestroyInstance(self.instance)

    def _release(self, semaphore: Any) -> None:
        """Signal more than anybody waits for."""
        waits = [
            value
            for batch in self.world.submitted or ()
            for record, value in batch.waits
            if record.value == int(semaphore)
        ]
        reached = vk.vkGetSemaphoreCounterValue(self.device, semaphore)
        if waits and max(waits) > reached:
            # Not through the door: a test may have left what a rule would mind.
            info = vk.VkSemaphoreSignalInfo(semaphore=semaphore, value=max(waits))
            self.dispatch.vkSignalSemaphore(self.device, info)

    # -- objects --------------------------------------------------------------------------------

    def semaphore(self, types: int = 0) -> Any:
        """A binary semaphore, said to be exportable as `types`."""
        return self._said(vk.vkCreateSemaphore(self.device, vk.VkSemaphoreCreateInfo()), types)

    def timeline(self, value: int = 0, types: int = 0) -> Any:
        """A timeline semaphore."""
        kind = vk.VkSemaphoreTypeCreateInfo(
            semaphoreType=vk.VK_SEMAPHORE_TYPE_TIMELINE, initialValue=value
        )
        made = vk.vkCreateSemaphore(self.device, vk.VkSemaphoreCreateInfo(pNext=kind))
        self._timelines.append(made)
        return self._said(made, types)

    def fence(self, types: int = 0, signaled: bool = False) -> Any:
        """A fence."""
        made = vk.vkCreateFence(self.device, vk.VkFenceCreateInfo(flags=int(signaled)))
        return self._said(made, types)

    def _said(self, made: Any, types: int) -> Any:
        facts = self.facts(made)
        facts["types"] = facts["payload"].export = types
        return made

    def facts(self, handle: Any) -> dict[str, Any]:
        """What is known of an object."""
        found: dict[str, Any] = self.world.find(type(handle).__name__, int(handle)).facts
        return found

    # -- submissions ----------------------------------------------------------------------------

    def submit(self, *infos: Any, fence: Any = None) -> None:
        vk.vkQueueSubmit(self.queue, len(infos), list(infos) or None, fence)

    def info(
        self, waits: Any = (), signals: Any = (), commands: Any = (), times: Any = "as given"
    ) -> Any:
        """A VkSubmitInfo; semaphores are given bare, or with their values."""

        def pairs(given: Any) -> tuple[list[Any], list[int]]:
            listed = [each if isinstance(each, tuple) else (each, 0) for each in given]
            return [each for each, _ in listed], [value for _, value in listed]

        (before, before_values), (after, after_values) = pairs(waits), pairs(signals)
        if times == "as given":
            times = vk.VkTimelineSemaphoreSubmitInfo(
                pWaitSemaphoreValues=before_values or None,
                pSignalSemaphoreValues=after_values or None,
            )
        stages = [int(vk.VK_PIPELINE_STAGE_TRANSFER_BIT)] * len(before)
        return vk.VkSubmitInfo(
            pWaitSemaphores=before or None,
            pWaitDstStageMask=stages or None,
            pCommandBuffers=list(commands) or None,
            pSignalSemaphores=after or None,
            pNext=times,
        )

    def blocked(self, signals: Any = (), *, fence: Any = None, commands: Any = ()) -> Any:
        """Submit what waits for a timeline that nobody has signalled yet; that timeline."""
        gate = self.timeline()
        self.submit(self.info([(gate, 1)], signals, commands), fence=fence)
        return gate

    def open(self, gate: Any, value: int = 1) -> None:
        """Let it run, and wait until it has."""
        vk.vkSignalSemaphore(self.device, vk.VkSemaphoreSignalInfo(semaphore=gate, value=value))
        self.dispatch.vkDeviceWaitIdle(self.device)  # seen by nobody

    def commands(self, family: int = 0, record: Callable[[Any], None] | None = None) -> Any:
        """A command buffer; empty, if nothing is recorded."""
        info = vk.VkCommandPoolCreateInfo(queueFamilyIndex=family)
        pool = vk.vkCreateCommandPool(self.device, info)
        allocate = vk.VkCommandBufferAllocateInfo(commandPool=pool, commandBufferCount=1)
        (made,) = vk.vkAllocateCommandBuffers(self.device, allocate)
        vk.vkBeginCommandBuffer(made, vk.VkCommandBufferBeginInfo())
        if record is not None:
            record(made)
            vk.vkEndCommandBuffer(made)
        return made

    # -- pretending and breaking ------------------------------------------------------------------

    def pretend(self, command: str, answer: Callable[..., Any] = lambda *given: 0) -> None:
        """From now on this stands in the place of the driver's command."""
        self._real.setdefault(command, self.dispatch.__dict__.get(command))
        setattr(self.dispatch, command, answer)

    def may_free(self, memory: Any) -> bool:
        """Whether no rule minds; the memory stays all the same, because it may be in use."""
        record = self.world.find("VkDeviceMemory", int(memory))
        known = self.dispatch.vkFreeMemory
        self.dispatch.vkFreeMemory = lambda *given: None
        try:
            vk.vkFreeMemory(self.device, memory)
        except RuleViolation:
            return False
        finally:
            self.dispatch.vkFreeMemory = known
            self.world.objects["VkDeviceMemory"][int(memory)] = record
        return True

    @contextmanager
    def _untouched(self, command: str) -> Iterator[None]:
        def called(*arguments: Any) -> int:
            pytest.fail(f"{command} reached the driver")

        of_instance = command.startswith(("vkGetPhysicalDevice", "vkCreateDevice"))
        table: Any = self.instance.dispatch if of_instance else self.dispatch
        known = table.__dict__.get(command)
        setattr(table, command, called)
        try:
            yield
        finally:
            if known is None:
                del table.__dict__[command]
            else:
                setattr(table, command, known)

    def breaks(self, vuids: str | set[str], command: Callable[..., Any], *arguments: Any) -> str:
        """The call breaks these rules and no other, and no driver sees it. What it was told."""
        wanted = {vuids} if isinstance(vuids, str) else vuids
        with self._untouched(command.__name__), pytest.raises(RuleViolation) as caught:
            command(*arguments)
        problems = caught.value.problems
        assert {problem.vuid for problem in problems} == wanted, caught.value
        for problem in problems:
            assert problem.problem.endswith("."), problem
            assert problem.remedy.endswith("."), problem
        return str(caught.value)


def offering(
    patch: pytest.MonkeyPatch, answer: External = EVERYTHING, timeline: External | None = None
) -> None:
    """Pretend that the device offers this for each handle type of semaphores and fences."""
    of_timelines = answer if timeline is None else timeline

    def semaphore(self: Queries, handle_type: int, is_timeline: bool) -> External:
        return of_timelines if is_timeline else answer

    patch.setattr(Queries, "external_semaphore", semaphore)
    patch.setattr(Queries, "external_fence", lambda self, handle_type: answer)
