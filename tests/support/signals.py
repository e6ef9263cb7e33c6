"""Semaphores and fences of the embedded device, for the tests that share them.

    with Station() as here:
        mine = here.semaphore(OPAQUE_FD, timeline=True)
        other = here.taken(here.get(mine, OPAQUE_FD), OPAQUE_FD, timeline=True)

What a station makes and fetches is destroyed and closed by its end. Checks are off: what is tested
is the device, which has to answer for itself whatever it is given.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from extmem import vk
from extmem.handles.system import kernel

__all__ = [
    "D3D12_FENCE",
    "FENCE_SYNC_FD",
    "KMT",
    "LONG",
    "NT",
    "OPAQUE_FD",
    "SYNC_FD",
    "Station",
    "name_of",
    "shared_types",
]

OPAQUE_FD = int(vk.VK_EXTERNAL_SEMAPHORE_HANDLE_TYPE_OPAQUE_FD_BIT)
NT = int(vk.VK_EXTERNAL_SEMAPHORE_HANDLE_TYPE_OPAQUE_WIN32_BIT)
KMT = int(vk.VK_EXTERNAL_SEMAPHORE_HANDLE_TYPE_OPAQUE_WIN32_KMT_BIT)
D3D12_FENCE = int(vk.VK_EXTERNAL_SEMAPHORE_HANDLE_TYPE_D3D12_FENCE_BIT)
SYNC_FD = int(vk.VK_EXTERNAL_SEMAPHORE_HANDLE_TYPE_SYNC_FD_BIT)
FENCE_SYNC_FD = int(vk.VK_EXTERNAL_FENCE_HANDLE_TYPE_SYNC_FD_BIT)
_NAMES = {OPAQUE_FD: "fd", NT: "nt", KMT: "kmt", D3D12_FENCE: "d3d12", SYNC_FD: "sync_fd"}

LONG = 60_000_000_000  # nanoseconds: what takes so long has failed

EXTENSIONS = [
    "VK_KHR_external_semaphore_win32",
    "VK_KHR_external_fence_win32",
    "VK_KHR_external_memory_win32",
    "VK_NV_external_memory",
    "VK_NV_external_memory_win32",
    "VK_KHR_win32_keyed_mutex",
    "VK_NV_win32_keyed_mutex",
]
if sys.platform == "linux":
    EXTENSIONS += ["VK_KHR_external_semaphore_fd", "VK_KHR_external_fence_fd"]


def name_of(handle_type: int) -> str:
    """For the names of tests."""
    return _NAMES.get(handle_type, hex(handle_type))


def shared_types(*, fences: bool = False) -> list[int]:
    """The handle types with reference transference that this system has."""
    found = [OPAQUE_FD] if sys.platform == "linux" else []
    return found + ([NT, KMT] if fences else [NT, KMT, D3D12_FENCE])


def is_fd(handle_type: int) -> bool:
    return handle_type in (OPAQUE_FD, SYNC_FD)


class Station:
    """An instance with one device and two queues. Objects are destroyed with it."""

    def __init__(
        self,
        *,
        index: int = 0,
        checks: str = "off",
        extensions: list[str] | None = None,
    ) -> None:
        with ExitStack() as undo:
            application = vk.VkApplicationInfo(apiVersion=vk.VK_API_VERSION_1_3)
            self.instance = vk.vkCreateInstance(
                vk.VkInstanceCreateInfo(pApplicationInfo=application),
                driver="embedded",
                checks=checks,
            )
            undo.callback(vk.vkDestroyInstance, self.instance)
            self.physical = vk.vkEnumeratePhysicalDevices(self.instance)[index]
            features = vk.VkPhysicalDeviceVulkan12Features(timelineSemaphore=True)
            features.pNext = vk.VkPhysicalDeviceVulkan13Features(synchronization2=True)
            self.device = vk.vkCreateDevice(
                self.physical,
                vk.VkDeviceCreateInfo(
                    pQueueCreateInfos=[
                        vk.VkDeviceQueueCreateInfo(queueFamilyIndex=0, pQueuePriorities=[1.0, 1.0])
                    ],
                    ppEnabledExtensionNames=EXTENSIONS if extensions is None else extensions,
                    pNext=features,
                ),
            )
            undo.callback(vk.vkDestroyDevice, self.device)
            self.queue = vk.vkGetDeviceQueue(self.device, 0, 0)
            self.other_queue = vk.vkGetDeviceQueue(self.device, 0, 1)
            self._handles: list[int] = []
            self._descriptors: list[int] = []
            self._undo = undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._undo.close()
        for handle in self._handles:
            kernel().close(handle)
        for descriptor in self._descriptors:
            os.close(descriptor)
        vars(self).clear()  # pytest keeps this object for longer

    # -- semaphores

    def semaphore(
        self, types: int = 0, *, timeline: bool = False, value: int = 0, terms: Any = None
    ) -> Any:
        """A semaphore, exportable as `types`."""
        chain = terms
        if types:
            chain = vk.VkExportSemaphoreCreateInfo(handleTypes=types, pNext=chain)
        kind = vk.VK_SEMAPHORE_TYPE_TIMELINE if timeline else vk.VK_SEMAPHORE_TYPE_BINARY
        chain = vk.VkSemaphoreTypeCreateInfo(semaphoreType=kind, initialValue=value, pNext=chain)
        made = vk.vkCreateSemaphore(self.device, vk.VkSemaphoreCreateInfo(pNext=chain))
        self._undo.callback(self.drop, made)
        return made

    def drop(self, semaphore: Any) -> None:
        """Destroy a semaphore; once."""
        if semaphore is not None and semaphore not in self._dropped:
            self._dropped.add(semaphore)
            vk.vkDestroySemaphore(self.device, semaphore)

    def get(self, semaphore: Any, handle_type: int) -> int:
        """A handle of it, which is closed in the end unless it is given away by then."""
        if is_fd(handle_type):
            found = vk.vkGetSemaphoreFdKHR(
                self.device, vk.VkSemaphoreGetFdInfoKHR(semaphore=semaphore, handleType=handle_type)
            )
            if found >= 0:
                self._descriptors.append(found)
            return int(found)
        found = vk.vkGetSemaphoreWin32HandleKHR(
            self.device,
            vk.VkSemaphoreGetWin32HandleInfoKHR(semaphore=semaphore, handleType=handle_type),
        )
        if handle_type != KMT:
            self._handles.append(found)
        return int(found)

    def given(self, handle: int) -> int:
        """The same handle, which is somebody else's now."""
        for each in (self._handles, self._descriptors):
            if handle in each:
                each.remove(handle)
        return handle

    def take(
        self,
        semaphore: Any,
        handle: int,
        handle_type: int,
        *,
        name: str | None = None,
        temporary: bool = False,
    ) -> None:
        """Import into a semaphore. A descriptor is duplicated before."""
        flags = vk.VK_SEMAPHORE_IMPORT_TEMPORARY_BIT if temporary else 0
        if is_fd(handle_type):
            fd = os.dup(handle) if handle >= 0 else handle
            try:
                vk.vkImportSemaphoreFdKHR(
                    self.device,
                    vk.VkImportSemaphoreFdInfoKHR(
                        semaphore=semaphore, flags=flags, handleType=handle_type, fd=fd
                    ),
                )
            except BaseException:
                if fd >= 0:
                    os.close(fd)
                raise
            return
        vk.vkImportSemaphoreWin32HandleKHR(
            self.device,
            vk.VkImportSemaphoreWin32HandleInfoKHR(
                semaphore=semaphore,
                flags=flags,
                handleType=handle_type,
                handle=handle or None,
                name=name,
            ),
        )

    def taken(self, handle: int, handle_type: int, **more: Any) -> Any:
        """A new semaphore with an imported payload."""
        timeline = more.pop("timeline", False)
        made = self.semaphore(timeline=timeline)
        self.take(made, handle, handle_type, **more)
        return made

    # -- fences

    def fence(self, types: int = 0, *, signaled: bool = False, terms: Any = None) -> Any:
        """A fence, exportable as `types`."""
        chain = vk.VkExportFenceCreateInfo(handleTypes=types, pNext=terms) if types else None
        flags = vk.VK_FENCE_CREATE_SIGNALED_BIT if signaled else 0
        made = vk.vkCreateFence(self.device, vk.VkFenceCreateInfo(flags=flags, pNext=chain))
        self._undo.callback(self.drop_fence, made)
        return made

    def drop_fence(self, fence: Any) -> None:
        """Destroy a fence; once."""
        if fence not in self._dropped:
            self._dropped.add(fence)
            vk.vkDestroyFence(self.device, fence)

    def get_fence(self, fence: Any, handle_type: int) -> int:
        """A handle of a fence."""
        if handle_type in (OPAQUE_FD, FENCE_SYNC_FD):
            found = vk.vkGetFenceFdKHR(
                self.device, vk.VkFenceGetFdInfoKHR(fence=fence, handleType=handle_type)
            )
            if found >= 0:
                self._descriptors.append(found)
            return int(found)
        found = vk.vkGetFenceWin32HandleKHR(
            self.device, vk.VkFenceGetWin32HandleInfoKHR(fence=fence, handleType=handle_type)
        )
        if handle_type != KMT:
            self._handles.append(found)
        return int(found)

    def take_fence(
        self,
        fence: Any,
        handle: int,
        handle_type: int,
        *,
        name: str | None = None,
        temporary: bool = False,
    ) -> None:
        """Import into a fence."""
        flags = vk.VK_FENCE_IMPORT_TEMPORARY_BIT if temporary else 0
        if handle_type in (OPAQUE_FD, FENCE_SYNC_FD):
            fd = os.dup(handle) if handle >= 0 else handle
            try:
                vk.vkImportFenceFdKHR(
                    self.device,
                    vk.VkImportFenceFdInfoKHR(
                        fence=fence, flags=flags, handleType=handle_type, fd=fd
                    ),
                )
            except BaseException:
                if fd >= 0:
                    os.close(fd)
                raise
            return
        vk.vkImportFenceWin32HandleKHR(
            self.device,
            vk.VkImportFenceWin32HandleInfoKHR(
                fence=fence, flags=flags, handleType=handle_type, handle=handle or None, name=name
            ),
        )

    # -- work

    def submit(
        self,
        *,
        wait: Any = (),
        signal: Any = (),
        fence: Any = None,
        chain: Any = None,
        queue: Any = None,
    ) -> None:
        """An empty submission. Semaphores are given bare, or with their values."""
        waits = [each if isinstance(each, tuple) else (each, 0) for each in wait]
        signals = [each if isinstance(each, tuple) else (each, 0) for each in signal]
        if chain is None:
            chain = vk.VkTimelineSemaphoreSubmitInfo(
                pWaitSemaphoreValues=[value for _, value in waits],
                pSignalSemaphoreValues=[value for _, value in signals],
            )
        info = vk.VkSubmitInfo(
            pWaitSemaphores=[each for each, _ in waits],
            pWaitDstStageMask=[vk.VK_PIPELINE_STAGE_TRANSFER_BIT] * len(waits),
            pSignalSemaphores=[each for each, _ in signals],
            pNext=chain,
        )
        vk.vkQueueSubmit(queue or self.queue, 1, [info], fence)

    def wait(self, semaphore: Any, value: int, timeout: int = LONG) -> bool:
        """Whether a timeline reaches a value in time."""
        info = vk.VkSemaphoreWaitInfo(pSemaphores=[semaphore], pValues=[value])
        return bool(vk.vkWaitSemaphores(self.device, info, timeout) == vk.VK_SUCCESS)

    def value(self, semaphore: Any) -> int:
        return int(vk.vkGetSemaphoreCounterValue(self.device, semaphore))

    def signal(self, semaphore: Any, value: int) -> None:
        info = vk.VkSemaphoreSignalInfo(semaphore=semaphore, value=value)
        vk.vkSignalSemaphore(self.device, info)

    def over(self, *fences: Any, timeout: int = LONG, all: bool = True) -> bool:
        """Whether fences are signalled in time."""
        result = vk.vkWaitForFences(self.device, len(fences), list(fences), all, timeout)
        return bool(result == vk.VK_SUCCESS)

    def signalled(self, fence: Any) -> bool:
        return bool(vk.vkGetFenceStatus(self.device, fence) == vk.VK_SUCCESS)

    def passes(self, semaphore: Any, timeout: int = LONG) -> bool:
        """Whether a wait for a binary semaphore ends in time. (It is waited for in any case.)"""
        fence = self.fence()
        self.submit(wait=[semaphore], fence=fence)
        return self.over(fence, timeout=timeout)

    @property
    def _dropped(self) -> set[Any]:
        found: set[Any] = self.__dict__.setdefault("_gone", set())
        return found
