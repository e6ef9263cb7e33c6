"""Semaphores and fences on one device, and the same in a second process.

    with SignalRig(driver) as rig, far_signals(driver) as far:
        here = rig.make(NT)
        there = far.make()
        far.take(there, NT, far.give(rig.fetch(here, NT)))
        fence = far.submit(wait=[there])
        rig.submit(signal=[here])
        assert far.finished(fence)

Things are numbers, so that both rigs are used alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Any, Self

from extmem import DriverError, RuleViolation, vk, win32
from tests.support import second
from tests.support.leaks import held, left_over
from tests.support.second import Channel, Other
from tests.support.through_c import FD_ONLY, fd_only

__all__ = [
    "FENCE",
    "KMT",
    "NT",
    "SEMAPHORE",
    "FarSignals",
    "SignalRig",
    "far_signals",
    "registered",
]

SEMAPHORE, FENCE = "semaphore", "fence"
# The same bits for both.
NT = int(vk.VK_EXTERNAL_SEMAPHORE_HANDLE_TYPE_OPAQUE_WIN32_BIT)
KMT = int(vk.VK_EXTERNAL_SEMAPHORE_HANDLE_TYPE_OPAQUE_WIN32_KMT_BIT)

_WANTED = tuple(
    f"VK_KHR_external_{what}{how}"
    for what in (SEMAPHORE, FENCE, "memory")
    for how in ("", "_fd", "_win32")
)
_SECOND = 1_000_000_000  # nanoseconds
PATIENCE = 60.0  # seconds


@contextmanager
def registered(driver: str) -> Iterator[str]:
    """A driver that can be opened by its name: the stand-in has to be made for that."""
    if driver == FD_ONLY:
        with fd_only() as name:
            yield name
    else:
        yield driver


class SignalRig:
    """A device with a queue, and semaphores and fences on it by numbers."""

    def __init__(self, driver: str, *, checks: str | None = None, version: int = 2) -> None:
        self._undo = ExitStack()
        self._things: dict[int, tuple[str, Any]] = {}
        self._count = 0
        api = vk.VK_MAKE_API_VERSION(0, 1, version, 0)
        asked = vk.VkInstanceCreateInfo(pApplicationInfo=vk.VkApplicationInfo(apiVersion=api))
        self.instance = vk.vkCreateInstance(asked, driver=driver, checks=checks)
        self._undo.callback(vk.vkDestroyInstance, self.instance)
        with ExitStack() as on_failure:
            on_failure.callback(self._undo.close)
            self.physical = vk.vkEnumeratePhysicalDevices(self.instance)[0]
            found = vk.vkEnumerateDeviceExtensionProperties(self.physical, None)
            self.offered = {each.extensionName for each in found}
            features = vk.VkPhysicalDeviceTimelineSemaphoreFeatures(timelineSemaphore=1)
            info = vk.VkDeviceCreateInfo(
                pQueueCreateInfos=[
                    vk.VkDeviceQueueCreateInfo(queueFamilyIndex=0, pQueuePriorities=[1.0])
                ],
                ppEnabledExtensionNames=[x for x in _WANTED if x in self.offered] or None,
                pNext=features if version >= 2 else None,
            )
            self.device = vk.vkCreateDevice(self.physical, info)
            self._undo.callback(vk.vkDestroyDevice, self.device)
            self.queue = vk.vkGetDeviceQueue(self.device, 0, 0)
            on_failure.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number in list(self._things):
            self.destroy(number)
        self._undo.close()

    def features(self, object: str, handle_type: int, timeline: bool = False) -> Any:
        """VkExternalSemaphoreProperties or VkExternalFenceProperties."""
        if object == FENCE:
            asked = vk.VkPhysicalDeviceExternalFenceInfo(handleType=handle_type)
            return vk.vkGetPhysicalDeviceExternalFenceProperties(self.physical, asked)
        kind = vk.VkSemaphoreTypeCreateInfo(semaphoreType=int(timeline))
        info = vk.VkPhysicalDeviceExternalSemaphoreInfo(handleType=handle_type, pNext=kind)
        return vk.vkGetPhysicalDeviceExternalSemaphoreProperties(self.physical, info)

    # -- things ---------------------------------------------------------------------------------

    def make(
        self,
        export: int = 0,
        *,
        object: str = SEMAPHORE,
        timeline: bool = False,
        terms: Any = None,
    ) -> int:
        """A semaphore or a fence. terms: VkExport...Win32HandleInfoKHR"""
        chain: list[Any] = []
        if object == FENCE:
            info: Any = vk.VkFenceCreateInfo()
            export_info: Any = vk.VkExportFenceCreateInfo(handleTypes=export)
        else:
            info = vk.VkSemaphoreCreateInfo()
            export_info = vk.VkExportSemaphoreCreateInfo(handleTypes=export)
        if timeline:
            chain.append(vk.VkSemaphoreTypeCreateInfo(semaphoreType=1))
        chain += [export_info] if export else []
        chain += [terms] if terms is not None else []
        for each in chain:
            vk.link(info, each)
        create = vk.vkCreateFence if object == FENCE else vk.vkCreateSemaphore
        return self._keep(object, create(self.device, info))

    def _keep(self, object: str, thing: Any) -> int:
        self._count += 1
        self._things[self._count] = object, thing
        return self._count

    def destroy(self, number: int) -> None:
        object, thing = self._things.pop(number)
        (vk.vkDestroyFence if object == FENCE else vk.vkDestroySemaphore)(self.device, thing)

    def handle_of(self, number: int) -> Any:
        """The Vulkan handle."""
        return self._things[number][1]

    def fetch(self, number: int, handle_type: int) -> int:
        """A Windows handle, or a KMT number."""
        object, thing = self._things[number]
        if object == FENCE:
            of_fence = vk.VkFenceGetWin32HandleInfoKHR(fence=thing, handleType=handle_type)
            return vk.vkGetFenceWin32HandleKHR(self.device, of_fence)
        info = vk.VkSemaphoreGetWin32HandleInfoKHR(semaphore=thing, handleType=handle_type)
        return vk.vkGetSemaphoreWin32HandleKHR(self.device, info)

    def take(
        self,
        number: int,
        handle_type: int,
        handle: int | None = None,
        name: str | None = None,
        temporary: bool = False,
    ) -> None:
        """Import into a semaphore or fence."""
        object, thing = self._things[number]
        what = {"flags": int(temporary), "handleType": handle_type, "handle": handle, "name": name}
        if object == FENCE:
            of_fence = vk.VkImportFenceWin32HandleInfoKHR(fence=thing, **what)
            vk.vkImportFenceWin32HandleKHR(self.device, of_fence)
        else:
            info = vk.VkImportSemaphoreWin32HandleInfoKHR(semaphore=thing, **what)
            vk.vkImportSemaphoreWin32HandleKHR(self.device, info)

    # -- using them -----------------------------------------------------------------------------

    def submit(
        self,
        wait: Sequence[int] = (),
        signal: Sequence[int] = (),
        values: Sequence[int] = (),  # of timelines: one for each, those of the waits first
        fence: int = 0,  # an unsignalled one
    ) -> int:
        """A submission of nothing but semaphores; a fence of it."""
        fence = fence or self.make(object=FENCE)
        waits = [self.handle_of(each) for each in wait]
        signals = [self.handle_of(each) for each in signal]
        info = vk.VkSubmitInfo(
            pWaitSemaphores=waits or None,
            pWaitDstStageMask=[vk.VK_PIPELINE_STAGE_ALL_COMMANDS_BIT] * len(waits) or None,
            pSignalSemaphores=signals or None,
        )
        if values:
            info.pNext = vk.VkTimelineSemaphoreSubmitInfo(
                pWaitSemaphoreValues=list(values[: len(waits)]) or None,
                pSignalSemaphoreValues=list(values[len(waits) :]) or None,
            )
        vk.vkQueueSubmit(self.queue, 1, [info], self.handle_of(fence))
        return fence

    def finished(self, fence: int, seconds: float = PATIENCE) -> bool:
        """Whether it is signalled within that time."""
        timeout = int(seconds * _SECOND)
        done = vk.vkWaitForFences(self.device, 1, [self.handle_of(fence)], 1, timeout)
        return bool(done == vk.VK_SUCCESS)

    def reset(self, fence: int) -> None:
        vk.vkResetFences(self.device, 1, [self.handle_of(fence)])

    def value(self, number: int) -> int:
        """A timeline's counter."""
        return int(vk.vkGetSemaphoreCounterValue(self.device, self.handle_of(number)))

    def signal(self, number: int, value: int) -> None:
        """Signal a timeline from the host."""
        info = vk.VkSemaphoreSignalInfo(semaphore=self.handle_of(number), value=value)
        vk.vkSignalSemaphore(self.device, info)

    def reached(self, number: int, value: int, seconds: float = PATIENCE) -> bool:
        """Whether a timeline reaches a value within that time."""
        info = vk.VkSemaphoreWaitInfo(pSemaphores=[self.handle_of(number)], pValues=[value])
        done = vk.vkWaitSemaphores(self.device, info, int(seconds * _SECOND))
        return bool(done == vk.VK_SUCCESS)


# -- the same over there --------------------------------------------------------------------------


class FarSignals:
    """A SignalRig in a second process. It has the methods that are called on it."""

    def __init__(self, other: Other) -> None:
        self._other = other

    def give(self, handle: int) -> int:
        """Duplicate a handle into that process, which closes it when it ends."""
        return self._other.give(handle)

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self._other.send([name, arguments, options])
            (kind, content), _ = self._other.receive()
            assert kind == "done", content
            return content

        return call


@contextmanager
def far_signals(driver: str, checks: str | None = None) -> Iterator[FarSignals]:
    """A rig in a process of its own, which must leave nothing behind."""
    with second.start(_serve, driver=driver, checks=checks) as other:
        other.receive()
        yield FarSignals(other)
        other.send(["end", [], {}])
        left = other.result()
        assert not left, "left behind in the second process:\n  " + "\n  ".join(left)


def _serve(channel: Channel, driver: str, checks: str | None) -> list[str]:
    with registered(driver) as name:
        for _ in range(2):  # what the driver keeps for good is no leak
            with SignalRig(name) as rig:
                rig.finished(rig.submit())
        before = held()
        with SignalRig(name, checks=checks) as rig:
            channel.send("ready")
            with suppress(EOFError):
                _answer(channel, rig)
        return left_over(before)


def _answer(channel: Channel, rig: SignalRig) -> None:
    while True:
        (name, arguments, options), _ = channel.receive()
        if name == "end":
            return
        if name == "close":  # a handle of this process
            win32.CloseHandle(*arguments)
            channel.send(["done", None])
            continue
        try:
            channel.send(["done", getattr(rig, name)(*arguments, **options)])
        except (DriverError, RuleViolation) as error:
            channel.send(["error", f"{type(error).__name__}: {error}"])
