"""What rules of semaphores, fences and submissions ask the driver and the system.

The base of `extmem.vk.queries.Queries`, which says how long answers live.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from extmem.drivers.driver import SyncOrigin, SyncProvenance
from extmem.submitted import Batch
from extmem.vk import _constants as c
from extmem.vk import _structures as s
from extmem.vk._dispatch import Dispatch
from extmem.world import Record, sync_origins

if os.name != "nt":
    from extmem.handles import posix

__all__ = ["Descriptor", "External", "SyncQueries"]

_TIMELINE = int(c.VK_SEMAPHORE_TYPE_TIMELINE)
_SUCCESS, _NOT_READY = int(c.VK_SUCCESS), int(c.VK_NOT_READY)
_TIMEOUT = int(c.VK_TIMEOUT)
# What a driver may take from the end of work to saying so by a fence, when the end was seen on
# another way: nanoseconds. Waited only by calls that are to be refused.
_GRACE = 2_000_000


class External(NamedTuple):
    """What a device can do with a handle type."""

    features: int
    compatible: int  # types that may be named together with it
    reexport: int  # types that what was imported from it can be exported as


class Descriptor(NamedTuple):
    """What an open file descriptor is."""

    kind: str  # as `posix.describe` says
    identity: tuple[int, int]  # device and inode
    size: int  # bytes
    major: int  # of a device file, which driver answers it


class SyncQueries:
    """Questions about the device behind one dispatch table, during one call."""

    __slots__ = ("_asked", "_dispatch", "_instance", "_seen")

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch
        self._instance = dispatch.parent or dispatch
        self._asked = dispatch.world.asked
        self._seen: dict[Any, Any] = {}

    def _once(self, key: Any, ask: Callable[[], Any]) -> Any:
        if key not in self._asked:
            self._asked[key] = ask()
        return self._asked[key]

    def now(self, key: Any, ask: Callable[[], Any]) -> Any:
        """An answer that several rules of one call need, worked out once."""
        if key not in self._seen:
            self._seen[key] = ask()
        return self._seen[key]

    # -- handle types ---------------------------------------------------------------------------

    def external_semaphore(self, handle_type: int, timeline: bool) -> External | None:
        """What the device can do with a handle type for semaphores of a type; None if it cannot
        be asked.
        """

        def ask() -> External | None:
            name = "vkGetPhysicalDeviceExternalSemaphoreProperties"
            if not self._instance.has(name):
                return None
            # Without this structure drivers answer for binary semaphores.
            kind = s.VkSemaphoreTypeCreateInfo(semaphoreType=_TIMELINE) if timeline else None
            info = s.VkPhysicalDeviceExternalSemaphoreInfo(handleType=handle_type, pNext=kind)
            box = s.VkExternalSemaphoreProperties()
            getattr(self._instance, name)(self._dispatch.physical, info, box)
            return External(
                int(box.externalSemaphoreFeatures),
                int(box.compatibleHandleTypes),
                int(box.exportFromImportedHandleTypes),
            )

        answer: External | None = self._once(("semaphore", handle_type, timeline), ask)
        return answer

    def external_fence(self, handle_type: int) -> External | None:
        """What the device can do with a handle type for fences; None if it cannot be asked."""

        def ask() -> External | None:
            name = "vkGetPhysicalDeviceExternalFenceProperties"
            if not self._instance.has(name):
                return None
            info = s.VkPhysicalDeviceExternalFenceInfo(handleType=handle_type)
            box = s.VkExternalFenceProperties()
            getattr(self._instance, name)(self._dispatch.physical, info, box)
            return External(
                int(box.externalFenceFeatures),
                int(box.compatibleHandleTypes),
                int(box.exportFromImportedHandleTypes),
            )

        answer: External | None = self._once(("fence", handle_type), ask)
        return answer

    # -- the device -----------------------------------------------------------------------------

    def queue_families(self) -> int:
        """How many queue families the device has."""

        def ask() -> int:
            count = ctypes.c_uint32()
            self._instance.vkGetPhysicalDeviceQueueFamilyProperties(
                self._dispatch.physical, count, None
            )
            return count.value

        return int(self._once("queue families", ask))

    def timeline_difference(self) -> int | None:
        """maxTimelineSemaphoreValueDifference; None if the device cannot be asked."""

        def ask() -> int | None:
            if not self._instance.has("vkGetPhysicalDeviceProperties2"):
                return None
            found = s.VkPhysicalDeviceTimelineSemaphoreProperties()
            box = s.VkPhysicalDeviceProperties2(pNext=found)
            self._instance.vkGetPhysicalDeviceProperties2(self._dispatch.physical, box)
            return int(found.maxTimelineSemaphoreValueDifference) or None

        answer: int | None = self._once("timeline difference", ask)
        return answer

    # -- the state of things --------------------------------------------------------------------

    def counter(self, semaphore: int) -> int | None:
        """The value of a timeline semaphore now. It never falls: what it has passed, it has
        passed. None if the driver does not say.
        """

        def ask() -> int | None:
            if not self._dispatch.has("vkGetSemaphoreCounterValue"):
                return None
            box = ctypes.c_uint64()
            result = self._dispatch.vkGetSemaphoreCounterValue(
                self._dispatch.device, semaphore, box
            )
            return int(box.value) if result == _SUCCESS else None

        answer: int | None = self.now(("counter", semaphore), ask)
        return answer

    def fence_signaled(self, fence: int, grace: int = 0) -> bool | None:
        """Whether a fence is signalled; None if the device is lost.

        grace: nanoseconds to wait for it
        """
        result = self._dispatch.vkGetFenceStatus(self._dispatch.device, fence)
        if result == _NOT_READY and grace:
            array = (ctypes.c_uint64 * 1)(fence)
            result = self._dispatch.vkWaitForFences(self._dispatch.device, 1, array, 1, grace)
            if result == _TIMEOUT:
                return False
        if result < 0:
            return None
        return bool(result == _SUCCESS)

    def unfinished(self, batch: Batch) -> bool:
        """Whether a batch is known to wait or run still. False: it has ended, or nobody knows.

        There is proof of that only in what it signals itself, and in timelines that it waits for.
        """
        answer: bool = self.now(("batch", id(batch)), lambda: self._unfinished(batch))
        return answer

    def _unfinished(self, batch: Batch) -> bool:
        submitted = self._dispatch.world.submitted
        if submitted is None or batch.finished or batch.forgotten:
            return False
        for later in reversed(submitted.of_queue(batch.queue)):
            if any(self._reached(record, value) for record, value in later.signals):
                submitted.finish(later)
                break
            if later is batch:
                break
        if batch.finished:
            return False
        for record, value in batch.signals + batch.waits:
            if self._reached(record, value) is False:
                return self._still_waited_for(record, value)
        return self._by_fence(batch)

    def _still_waited_for(self, record: Record, value: int) -> bool:
        """Asked once more, with patience: of a lost device nothing is pending, whatever its
        counters say.
        """
        info = s.VkSemaphoreWaitInfo(pSemaphores=[record.value], pValues=[value])
        result = self._dispatch.vkWaitSemaphores(self._dispatch.device, info, _GRACE)
        return bool(result == _TIMEOUT)

    def _reached(self, record: Record, value: int) -> bool | None:
        """Whether a timeline has come to a value. None for binary ones, and where nobody knows."""
        if not record.facts["timeline"]:
            return None
        counter = self.counter(record.value)
        return None if counter is None else counter >= value

    def _by_fence(self, batch: Batch) -> bool:
        fence = batch.fence
        # Others may have reset a fence that is shared, after it was signalled.
        if fence is None or fence.facts["borrowed"] is not None or fence.facts["payload"].shared:
            return False
        last = fence.facts["pending"]
        if last is None or last.finished or last.queue != batch.queue:
            return False
        signaled = self.fence_signaled(fence.value, _GRACE)
        if signaled:
            self._dispatch.world.submitted.finish(last)
        return signaled is False

    # -- descriptors and handles ------------------------------------------------------------------

    def descriptor(self, fd: int) -> Descriptor | None:
        """What a descriptor is; None if the number is not open."""

        def ask() -> Descriptor | None:
            if sys.platform == "win32":  # there they are C's, and no kernel object stands behind
                return None
            try:
                status = os.fstat(fd)
                kind = posix.describe(fd)
            except (OSError, OverflowError):
                return None
            identity = (status.st_dev, status.st_ino)
            return Descriptor(kind, identity, status.st_size, os.major(status.st_rdev))

        answer: Descriptor | None = self.now(("fd", fd), ask)
        return answer

    def sync_origin(
        self, object: str, handle_type: int, handle: int, name: str | None = None
    ) -> SyncOrigin | None:
        """What is known of what is behind a handle, a number, a descriptor or a name.

        object: "semaphore" or "fence"
        """

        def ask() -> SyncOrigin | None:
            driver = self._dispatch.driver
            if isinstance(driver, SyncProvenance):
                found = driver.sync_origin_of(object, handle_type, handle, name)
                if found is not None:
                    return found
            # Both have OPAQUE_FD as their first bit. Descriptors of one device file are all alike.
            seen = self.descriptor(handle) if handle_type == 1 and name is None else None
            if seen is None or seen.kind == "device":
                return None
            mine = sync_origins.find(seen.identity)
            if mine is None:
                return None
            return SyncOrigin(
                object=mine.object,
                types=mine.types if mine.object == object else 0,
                device=mine.device,
                driver=mine.driver,
                timeline=mine.timeline,
                flags=mine.flags,
            )

        answer: SyncOrigin | None = self.now(("sync", object, handle_type, handle, name), ask)
        return answer
