"""Semaphore and Fence: what says that something is done, on the device, here, and elsewhere."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import msgspec

from extmem import vk, waiting
from extmem.errors import ClosedError, ExtmemError, Unsupported
from extmem.exporting import explained
from extmem.handle_types import HandleType, sync_type
from extmem.handles.handle import Handle, caller
from extmem.importing import place_of
from extmem.lives import Life
from extmem.reading import Counter, FenceStatus
from extmem.share.passport import Exporter, SyncPassport
from extmem.submitted import NEAR
from extmem.vk._dispatch import FORKED

if TYPE_CHECKING:
    from extmem.device import Device
    from extmem.interop.cuda.semaphores import CudaSemaphore

__all__ = ["Fence", "Semaphore", "Synchronizer"]


class Synchronizer:
    """What semaphores and fences have in common: a life, and a way to others."""

    _object: ClassVar[str]  # "semaphore" or "fence"
    _what: str  # for people: "timeline semaphore"

    def __init__(
        self,
        device: Device,
        handle: Any,
        *,
        timeline: bool,
        exported: tuple[HandleType, ...],
        imported: HandleType | None,
        temporary: bool,
        passport: SyncPassport | None,
    ) -> None:
        self.device = device
        self.exported = exported  # handle types that `export` can make
        self.imported = imported  # the type that it was imported from
        self.temporary = temporary  # the import ends with the first wait, or reset
        self._vk: Any = handle
        self._forked = False  # of the process that this one was forked from
        self._fetching = threading.Lock()
        self._first: Handle | None = None  # the NT handle that was fetched; its name lives with it
        self.spin = waiting.Spin()
        self._made = caller()
        first = exported[0] if exported else imported
        # What an importer must know; of an import, its exporter's word.
        self.passport = passport or SyncPassport(
            first.name if first is not None else "",
            "fence" if self._object == "fence" else "semaphore",
            timeline=timeline,
            place=place_of(device.physical),
            exporter=Exporter.this(),
        )
        self.life = _life(device, self._object, handle)

    reader: Counter | FenceStatus

    # -- state ----------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._vk is None

    def _handle(self) -> Any:
        if self._vk is None:
            if self._forked:
                raise Unsupported(f"this {self._object} cannot be used here: {FORKED}")
            raise ClosedError(f"this {self._object} is closed")
        return self._vk

    def _state(self) -> list[str]:
        return []

    def __repr__(self) -> str:
        name = type(self).__name__
        if self._vk is None:
            return f"<{name}, closed>"
        try:
            parts = self._state()
        except (ExtmemError, OSError) as error:  # of a lost device, or one that is closed
            parts = [f"{type(error).__name__}"]
        if self.imported is not None:
            how = "temporarily imported" if self.temporary else "imported"
            parts.append(f"{how} from {self.imported.name}")
        if self.exported:
            parts.append("exportable as " + ", ".join(each.name for each in self.exported))
        return f"<{name} {', '.join(parts)}, on {self.device.physical.name}>"

    # -- sharing --------------------------------------------------------------------------------

    def export(self, handle_type: str | int | None = None) -> Handle:
        """A new OS handle of it, owned by what is returned. Its passport travels with it.

        handle_type: may be left out where it is exportable as one type only

        "sync_fd" is a copy: it takes what was submitted to be signalled, and leaves this
        unsignalled. Its value is -1 where that has happened already.
        """
        _ = self._handle()  # says why, where it is closed
        names = ", ".join(each.name for each in self.exported)
        if handle_type is None:
            if len(self.exported) != 1:
                raise ValueError(
                    f"say which handle type; this {self._object} can be exported as: "
                    f"{names or 'none'} (Device.{self._object}(export=...) decides)"
                )
            wanted = self.exported[0]
        else:
            wanted = sync_type(self._object, handle_type)
        if wanted not in self.exported:
            raise Unsupported(
                f"this {self._object} was not made to be exported as {wanted.name}, but as "
                f"{names or 'nothing'}: make it with export={wanted.name!r}"
            )
        return Handle(
            self._fetch(wanted),
            wanted,
            device_uuid=self.device.physical.device_uuid,
            passport=msgspec.structs.replace(self.passport, handle_type=wanted.name),
        )

    def _fetch(self, wanted: HandleType) -> int:
        """A number that the caller will own. NT handles are fetched once and then duplicated."""
        with self.life, explained((wanted,)):
            if wanted.kind == "fd":
                return self._fetch_fd(wanted)
            if wanted.kind == "kmt":
                return self._fetch_win32(wanted)
            with self._fetching:  # a Queue of multiprocessing exports in a thread of its own
                if self._first is None or self._first.handle_type is not wanted:
                    if self._first is not None:
                        raise Unsupported(
                            f"this {self._object} was exported as {self._first.handle_type.name} "
                            f"before; make another one to export as {wanted.name}"
                        )
                    self._first = Handle(self._fetch_win32(wanted), wanted)
                return self._first.duplicate().detach()

    def _fetch_fd(self, wanted: HandleType) -> int:
        raise NotImplementedError

    def _fetch_win32(self, wanted: HandleType) -> int:
        raise NotImplementedError

    # -- the end --------------------------------------------------------------------------------

    def close(self) -> None:
        """Destroy it, once nothing that was submitted uses it. Safe to call again.

        Threads and tasks that wait for it get a ClosedError.
        """
        if self._vk is None:
            return
        self._vk = None
        if self._first is not None:
            self._first.close()
            self._first = None
        self.device._work.waiter.drop(self)
        self.life.close()
        self.device._forget(self)

    def _give_up(self) -> None:
        """In a forked child: forget what belongs to the parent, without a word to the driver."""
        self._vk, self._forked = None, True
        if self._first is not None and not self._first.closed:
            self._first.detach()  # a number that means something to the parent alone

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_vk", None) is not None:
            warnings.warn(
                f"a {self._what} was never closed; made at {self._made}",
                ResourceWarning,
                stacklevel=2,
            )
            # A device that was destroyed under it took it along, and the end of the process will.
            if not self.device.closed and not sys.is_finalizing():
                self.close()


def _life(device: Device, what: str, handle: Any) -> Life:
    """Of an object of a device, which does not go while there are any."""

    destroy = vk.vkDestroyFence if what == "fence" else vk.vkDestroySemaphore

    def end() -> None:
        if not device.closed:  # else it went with the device, or is of the parent process
            destroy(device.handle, handle)
        device._work.lives.discard(life)

    life = Life(f"this {what}", end)
    device._work.lives.add(life)
    return life


class Semaphore(Synchronizer):
    """A semaphore, made by `Device.semaphore` or `Device.import_semaphore`.

    A timeline counts: whoever has done something signals a value, and others wait until it is
    reached, on the device or here. A binary one is signalled and waited for by the device alone.

    >>> import extmem
    >>> with extmem.open_device(driver="embedded") as gpu, gpu.semaphore() as done:
    ...     gpu.submit(signal=[(done, 3)])
    ...     done.wait(3, timeout=5)
    ...     done.value
    3
    """

    _object = "semaphore"
    reader: Counter

    def __init__(self, device: Device, handle: vk.VkSemaphore, *, timeline: bool, host: bool,
                 **rest: Any) -> None:  # fmt: skip
        self.timeline = timeline
        self.host = host  # on the host's embedded device, for a device that cannot share any
        self._what = f"{'timeline' if timeline else 'binary'} semaphore"
        super().__init__(device, handle, timeline=timeline, **rest)
        self.reader = Counter(device.handle, handle, self.life)
        self._quick: Callable[[int], bool] | None = None
        self._origin: Handle | None = None  # of an import, for CUDA: what it came by
        self._cuda: CudaSemaphore | None = None  # once it was asked for
        self._fetching_for_cuda = threading.Lock()
        self._dispatch: Any = handle.dispatch

    @property
    def _counts(self) -> bool:
        """Whether what is behind it counts, whatever it is itself."""
        types = (*self.exported, self.imported)
        return any(each is not None and each.name == "d3d12_fence" for each in types)

    @property
    def handle(self) -> vk.VkSemaphore:
        """The VkSemaphore, for calls of `extmem.vk`; still owned by this object."""
        found: vk.VkSemaphore = self._handle()
        return found

    def _state(self) -> list[str]:
        parts = ["binary"]
        if self.timeline:
            parts = [f"timeline at {self.value}"]
        return parts + (["of the host"] if self.host else [])

    def check_value(self, value: Any) -> None:
        """Refuse a value where there is none, and the lack of one where it is needed."""
        if not self.timeline:
            if value is not None:
                raise ValueError(f"{self!r} is binary and has no values; pass it bare")
            if self._counts:
                raise Unsupported(
                    f"{self!r} is binary, but a fence of Direct3D 12 counts, and what is submitted "
                    "here has no value for it: make it, or import it, with timeline=True"
                )
            return
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(
                f"the value of {self!r} is {value!r}; expected (semaphore, value), with a number"
            )
        if not 0 <= value < 1 << 64:
            raise ValueError(f"the value {value} does not fit into 64 bits without a sign")

    def waitable(self, value: Any) -> None:
        """Refuse what the host cannot wait for."""
        self._need_timeline("wait for")
        self.check_value(value)

    def _need_timeline(self, what: str) -> None:
        if not self.timeline:
            raise Unsupported(
                f"{self!r} is binary, and the host cannot {what} it; the device can (Device.submit)"
                ", and a timeline semaphore or a fence lets the host do so"
            )

    @property
    def value(self) -> int:
        """What the timeline has reached."""
        self._need_timeline("read")
        with self.life:
            return self.reader.read()

    def signal(self, value: int) -> None:
        """Set the timeline to a larger value, from here."""
        # Whoever waits sleeps until this is done, and this thread may have slept before, so that
        # nothing is in the processor's caches: the way is as short as it can be.
        quick = self._quick
        if (
            quick is not None
            and type(value) is int
            and value <= NEAR
            and self._dispatch.signals_freely
            and quick(value)
        ):
            return
        self._need_timeline("signal")
        self.check_value(value)
        with self.life:
            self.reader.signal(value)
            self._quick = None if self.closed else self.reader.quick()

    def close(self) -> None:
        """Destroy it, once nothing that was submitted uses it. Safe to call again.

        Threads and tasks that wait for it get a ClosedError.
        """
        self._quick = None
        for each in (self._origin, self._cuda):
            if each is not None:
                each.close()
        self._origin = self._cuda = None
        super().close()

    def _give_up(self) -> None:
        super()._give_up()
        if self._origin is not None and not self._origin.closed:
            self._origin.detach()
        if self._cuda is not None:
            self._cuda.give_up()

    def cuda(self) -> CudaSemaphore:
        """This semaphore as CUDA has it, for its streams: imported there when it is first asked
        for, and closed with this one.

        Unsupported, with the UUIDs of both sides, if CUDA sees another GPU.
        """
        from extmem.handles.remembering import origin
        from extmem.interop.cuda.semaphores import import_semaphore
        from extmem.interop.cuda.taking import TIMELINES

        _ = self.handle  # says why, where it is closed
        with self._fetching_for_cuda:
            if self._cuda is None:
                with origin(self, tuple(TIMELINES)) as handle:
                    self._cuda = import_semaphore(handle)
            return self._cuda

    def wait(self, value: int, timeout: float | None = None) -> None:
        """Wait until the timeline has reached a value.

        timeout: seconds; TimeoutError when they have passed. None waits for ever

        ClosedError if another thread closes it meanwhile, DriverError if the device is lost.

        >>> import extmem
        >>> with extmem.open_device(driver="embedded") as gpu, gpu.semaphore(value=2) as done:
        ...     done.wait(2)
        ...     done.wait(3, timeout=0)
        Traceback (most recent call last):
        TimeoutError: the timeline has reached 2 and not 3 after 0 s
        """
        self.waitable(value)
        deadline = waiting.deadline_of(timeout)
        with self.life:
            if not self.reader.wait(deadline, self.spin, value):
                raise TimeoutError(
                    f"the timeline has reached {self.reader.read()} and not {value} after "
                    f"{timeout:g} s"
                )

    async def reached(self, value: int) -> None:
        """For asyncio: wait until the timeline has reached a value. It may be cancelled.

        All such waits of a device are done by one thread.

        >>> import asyncio, extmem
        >>> async def main():
        ...     with extmem.open_device(driver="embedded") as gpu, gpu.semaphore() as done:
        ...         gpu.submit(signal=[(done, 1)])
        ...         await asyncio.wait_for(done.reached(1), 5)
        ...         return done.value
        >>> asyncio.run(main())
        1
        """
        self.waitable(value)
        await self.device._work.waiter.reached(self, value)

    def _fetch_fd(self, wanted: HandleType) -> int:
        info = vk.VkSemaphoreGetFdInfoKHR(semaphore=self.handle, handleType=wanted.bit)
        return vk.vkGetSemaphoreFdKHR(self.device.handle, info)

    def _fetch_win32(self, wanted: HandleType) -> int:
        info = vk.VkSemaphoreGetWin32HandleInfoKHR(semaphore=self.handle, handleType=wanted.bit)
        return vk.vkGetSemaphoreWin32HandleKHR(self.device.handle, info)


class Fence(Synchronizer):
    """A fence: the device signals it when it has done what was submitted; the host waits, and
    resets it. Made by `Device.fence` or `Device.import_fence`.

    >>> import extmem
    >>> with extmem.open_device(driver="embedded") as gpu, gpu.fence() as fence:
    ...     gpu.submit(fence=fence)
    ...     fence.wait(timeout=5)
    ...     fence.reset()
    ...     fence.signaled
    False
    """

    _object = "fence"
    reader: FenceStatus
    _what = "fence"

    def __init__(self, device: Device, handle: vk.VkFence, **rest: Any) -> None:
        super().__init__(device, handle, timeline=False, **rest)
        self.reader = FenceStatus(device.handle, handle, self.life)

    @property
    def handle(self) -> vk.VkFence:
        """The VkFence, for calls of `extmem.vk`; still owned by this object."""
        found: vk.VkFence = self._handle()
        return found

    def _state(self) -> list[str]:
        return ["signaled" if self.signaled else "not signaled"]

    @property
    def signaled(self) -> bool:
        """Whether the device has come to it, and nobody has reset it since."""
        with self.life:
            return vk.vkGetFenceStatus(self.device.handle, self.handle) == vk.VK_SUCCESS

    def reset(self) -> None:
        """Make it unsignalled again; a temporary import ends. Not while the device is to signal it:
        that is a RuleViolation (01123).
        """
        with self.life:
            self.device._work.collect()
            vk.vkResetFences(self.device.handle, 1, [self.handle])
            self.temporary = False

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it is signalled.

        timeout: seconds; TimeoutError when they have passed. None waits for ever

        ClosedError if another thread closes it meanwhile, DriverError if the device is lost.
        """
        deadline = waiting.deadline_of(timeout)
        with self.life:
            if not self.reader.wait(deadline, self.spin):
                raise TimeoutError(f"the fence is not signaled after {timeout:g} s")

    async def reached(self) -> None:
        """For asyncio: wait until it is signalled. It may be cancelled."""
        await self.device._work.waiter.reached(self, 1)

    def _fetch_fd(self, wanted: HandleType) -> int:
        info = vk.VkFenceGetFdInfoKHR(fence=self.handle, handleType=wanted.bit)
        return vk.vkGetFenceFdKHR(self.device.handle, info)

    def _fetch_win32(self, wanted: HandleType) -> int:
        info = vk.VkFenceGetWin32HandleInfoKHR(fence=self.handle, handleType=wanted.bit)
        return vk.vkGetFenceWin32HandleKHR(self.device.handle, info)
