"""What a bad input is tried on: a device with all that it offers, and what has to stay as it was.

One scene serves one case after the other. Each has to leave it as it found it: nothing of what was
handed over is changed, nothing is leaked, and the device goes on working.
"""

from __future__ import annotations

import gc
import os
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any, ClassVar

import pytest

import extmem
from extmem import ClosedError, ExtmemError, RuleViolation, vk, win32
from extmem.device import Device
from tests.crash.trap import CASES, Trap
from tests.support import drivers
from tests.support.bare import SIZE, Bare
from tests.support.leaks import held, left_over
from tests.support.second import Channel
from tests.support.strict import driver_cannot

__all__ = ["Scene", "serve"]

# How to destroy what a case made, in this order: users before what they use.
_DESTROYERS: tuple[tuple[str, Callable[..., None]], ...] = (
    ("VkCommandPool", vk.vkDestroyCommandPool),
    ("VkImageView", vk.vkDestroyImageView),
    ("VkBufferView", vk.vkDestroyBufferView),
    ("VkBuffer", vk.vkDestroyBuffer),
    ("VkImage", vk.vkDestroyImage),
    ("VkDeviceMemory", vk.vkFreeMemory),
    ("VkSemaphore", vk.vkDestroySemaphore),
    ("VkFence", vk.vkDestroyFence),
    ("VkEvent", vk.vkDestroyEvent),
)


class Scene(Bare):
    """An instance and a device with every extension and feature in scope, and what cases need.

    `gpu` is a device of the objects, `other` the same as this one in another instance.
    """

    wanted: ClassVar[tuple[str, ...]] = (
        "VK_KHR_external_memory_fd",
        "VK_EXT_external_memory_dma_buf",
        "VK_EXT_external_memory_host",
        "VK_KHR_external_semaphore_fd",
        "VK_KHR_external_fence_fd",
        "VK_KHR_external_memory_win32",
        "VK_KHR_external_semaphore_win32",
        "VK_KHR_external_fence_win32",
        "VK_KHR_win32_keyed_mutex",
        "VK_NV_win32_keyed_mutex",
        "VK_NV_external_memory",
        "VK_NV_external_memory_win32",
        "VK_NV_dedicated_allocation",
        "VK_EXT_image_drm_format_modifier",
        "VK_KHR_image_format_list",
        "VK_KHR_map_memory2",
    )
    gpu: Device
    other: Bare

    def __init__(self, driver: str, *, index: int = 0) -> None:
        super().__init__(driver, version=vk.VK_API_VERSION_1_3, index=index)
        self.driver = driver
        self.queue = vk.vkGetDeviceQueue(self.device, 0, 0)
        self._as_before: list[tuple[str, Callable[[], object], object]] = []
        self._descriptors: list[int] = []
        self._handles: list[int] = []

    def features(self) -> Any:
        newer = vk.VkPhysicalDeviceVulkan13Features(synchronization2=True)
        return vk.VkPhysicalDeviceVulkan12Features(timelineSemaphore=True, pNext=newer)

    # -- what has to stay as it was -------------------------------------------------------------

    def still(self, what: str, look: Callable[[], object]) -> None:
        """After the case, a look at this shows the same as now."""
        self._as_before.append((what, look, look()))

    def fd(self, fd: int) -> int:
        """A descriptor of the case's: open after it, and of the same file. It is closed then."""
        self._descriptors.append(fd)
        self.still(f"descriptor {fd}", lambda: (os.fstat(fd).st_dev, os.fstat(fd).st_ino))
        return fd

    def handle(self, handle: int) -> int:
        """A Windows handle of the case's: open after it. It is closed then."""
        self._handles.append(handle)
        self.still(f"handle {handle:#x}", lambda: win32.GetHandleInformation(handle))
        return handle

    # -- what cases need --------------------------------------------------------------------------

    def import_fd(self, fd: int, handle_type: int = 1, **members: Any) -> Any:
        """Import memory by a descriptor; by default as OPAQUE_FD."""
        return self.allocate(vk.VkImportMemoryFdInfoKHR(handleType=handle_type, fd=fd), **members)

    def import_nt(
        self, handle: int | None, handle_type: int = 2, name: str | None = None, **members: Any
    ) -> Any:
        """Import memory by a Windows handle or name; by default as OPAQUE_WIN32."""
        info = vk.VkImportMemoryWin32HandleInfoKHR(handleType=handle_type, handle=handle, name=name)
        return self.allocate(info, **members)

    def telling(self, fd: int) -> int:
        """The same descriptor. Skips where descriptors do not tell what they are of: those of
        NVIDIA are all of one device file, and then the specification calls much undecidable.
        """
        if stat.S_ISCHR(os.fstat(fd).st_mode):
            os.close(fd)
            driver_cannot("its descriptors do not tell which payload they are of")
        return fd

    def shared(self, types: int = 2, *chain: Any, **members: Any) -> Any:
        """Memory that can be exported; by default as OPAQUE_WIN32."""
        return self.allocate(vk.VkExportMemoryAllocateInfo(handleTypes=types), *chain, **members)

    def nt_of(self, memory: Any, handle_type: int = 2) -> int:
        """A Windows handle of memory, which has to be open after the case."""
        info = vk.VkMemoryGetWin32HandleInfoKHR(memory=memory, handleType=handle_type)
        return self.handle(vk.vkGetMemoryWin32HandleKHR(self.device, info))

    def bound(self, size: int = SIZE) -> Any:
        """A buffer with memory."""
        made = self.buffer(size)
        needs = vk.vkGetBufferMemoryRequirements(self.device, made)
        index = (needs.memoryTypeBits & -needs.memoryTypeBits).bit_length() - 1
        memory = self.allocate(size=needs.size, index=index)
        vk.vkBindBufferMemory(self.device, made, memory, 0)
        return made

    def picture(self, side: int = 64, **more: Any) -> Any:
        """An image with memory."""
        made = self.image(side, **more)
        needs = vk.vkGetImageMemoryRequirements(self.device, made)
        index = (needs.memoryTypeBits & -needs.memoryTypeBits).bit_length() - 1
        vk.vkBindImageMemory(self.device, made, self.allocate(size=needs.size, index=index), 0)
        return made

    def commands(self, *, begun: bool = True) -> Any:
        """A command buffer, being recorded if it is begun."""
        info = vk.VkCommandPoolCreateInfo(queueFamilyIndex=0)
        pool = vk.vkCreateCommandPool(self.device, info)
        (made,) = vk.vkAllocateCommandBuffers(
            self.device, vk.VkCommandBufferAllocateInfo(commandPool=pool, commandBufferCount=1)
        )
        if begun:
            vk.vkBeginCommandBuffer(made, vk.VkCommandBufferBeginInfo())
        return made

    @staticmethod
    def ended(commands: Any) -> Any:
        """The same, recorded to its end."""
        vk.vkEndCommandBuffer(commands)
        return commands

    def semaphore(self, *, timeline: bool = False, types: int = 0, value: int = 0) -> Any:
        """A semaphore."""
        info = vk.VkSemaphoreCreateInfo()
        if types:
            vk.link(info, vk.VkExportSemaphoreCreateInfo(handleTypes=types))
        kind = vk.VK_SEMAPHORE_TYPE_TIMELINE if timeline else vk.VK_SEMAPHORE_TYPE_BINARY
        vk.link(info, vk.VkSemaphoreTypeCreateInfo(semaphoreType=kind, initialValue=value))
        return vk.vkCreateSemaphore(self.device, info)

    def fence(self, types: int = 0, *, signaled: bool = False) -> Any:
        """A fence."""
        info = vk.VkFenceCreateInfo(flags=vk.VK_FENCE_CREATE_SIGNALED_BIT if signaled else 0)
        if types:
            vk.link(info, vk.VkExportFenceCreateInfo(handleTypes=types))
        return vk.vkCreateFence(self.device, info)

    def submit(self, commands: Any) -> None:
        """Run a command buffer to its end."""
        vk.vkQueueSubmit(self.queue, 1, [vk.VkSubmitInfo(pCommandBuffers=[commands])], None)
        vk.vkQueueWaitIdle(self.queue)

    # -- around each case -------------------------------------------------------------------------

    def run(self, trap: Trap) -> dict[str, Any]:
        """Try a case, and say how it ended."""
        before = held()
        outcome: dict[str, Any] = {"error": None, "rules": [], "text": "", "left": []}
        try:
            for name in trap.needs:
                self.needs(name)
            trap.case(self)
        except pytest.skip.Exception as reason:
            outcome["skipped"] = str(reason)
        except RuleViolation as error:
            outcome["rules"] = [problem.vuid for problem in error.problems]
            _describe(outcome, error)
        except Exception as error:
            _describe(outcome, error)
        outcome["left"] = [*self._changed(), *self._swept(), *self._unwell()]
        if not outcome["left"]:
            outcome["left"] = [f"left behind: {each}" for each in left_over(before)]
        return outcome

    def _changed(self) -> list[str]:
        """What is not as it was."""
        found = []
        for what, look, before in self._as_before:
            try:
                after = look()
            except (OSError, ExtmemError) as error:
                after = error
            if after != before:
                found.append(f"{what} was {before!r}, and is {after!r}")
        self._as_before.clear()
        for fd in self._descriptors:
            with suppress(OSError):
                os.close(fd)
        for handle in self._handles:
            with suppress(OSError):
                win32.CloseHandle(handle)
        self._descriptors.clear()
        self._handles.clear()
        return found

    def _swept(self) -> list[str]:
        """Destroy what the case made. What cannot be destroyed."""
        gc.collect()
        found = []
        for child in list(self.gpu._children):
            with suppress(ClosedError):
                child.close()
        for place in (self, self.other):
            for kind, destroy in _DESTROYERS:
                for value in list(place.world.objects.get(kind, ())):
                    try:
                        destroy(place.device, value)
                    except ExtmemError as error:
                        found.append(f"{kind} cannot be destroyed: {error}")
        return found

    def _unwell(self) -> list[str]:
        """What does not work any more."""
        try:
            vk.vkDeviceWaitIdle(self.device)
            memory = self.allocate(size=4096)
            vk.vkMapMemory(self.device, memory, 0, 4096)[:3] = b"abc"
            vk.vkUnmapMemory(self.device, memory)
            vk.vkFreeMemory(self.device, memory)
            with self.gpu.allocate(16) as block, self.gpu.buffer(block) as buffer:
                self.gpu.fill(buffer, 0x01010101)
                assert bytes(block.view()) == b"\1" * 16
        except (ExtmemError, AssertionError) as error:
            return [f"the device does not work any more: {type(error).__name__}: {error}"]
        return []


def _describe(outcome: dict[str, Any], error: BaseException) -> None:
    outcome["error"] = [each.__name__ for each in type(error).__mro__]
    outcome["text"] = str(error)[:4000]


# -- the process ----------------------------------------------------------------------------------


def serve(channel: Channel, driver: str, module: str) -> None:
    """Try each case that is named, until nobody names one any more. They register themselves when
    their module is imported.
    """
    import_module(module)
    drivers.warm(driver)
    scene = _open(driver)
    channel.send("ready")
    while True:
        try:
            name, _ = channel.receive()
        except EOFError:
            return
        if name is None:  # how many of them can be tried on this driver
            able = [each for each in CASES.values() if sys.platform in each.systems]
            channel.send(sum(all(map(scene.dispatch.has, each.needs)) for each in able))
            continue
        outcome = scene.run(CASES[name])
        channel.send(outcome)
        if outcome.get("left"):
            scene = _open(driver)  # what is wrong with it is no other case's business


def _open(driver: str) -> Scene:
    scene = Scene(driver)
    scene.other = Bare(driver)
    scene.gpu = extmem.open_device(driver=driver)
    for _ in range(2):  # what comes with the first use
        scene.submit(scene.ended(scene.commands()))
        assert not scene._swept()
        assert not scene._unwell()
    gc.freeze()  # it collects after each case, and all of this stays
    return scene
