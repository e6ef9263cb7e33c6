"""Device: where memory is allocated and imported. `extmem.open_device` makes one."""

from __future__ import annotations

import os
import warnings
import weakref
from types import TracebackType
from typing import Any, Self, TypeVar

from extmem import allocating, copying, receiving, signalling, vk
from extmem.capabilities import PhysicalDevice
from extmem.errors import ClosedError, Unsupported, ViewsAlive
from extmem.examining import Examiner
from extmem.exporting import Types
from extmem.handles.handle import caller
from extmem.handles.remembering import remembered
from extmem.images.face import Images
from extmem.memory import Memory
from extmem.resources import Buffer
from extmem.share.passport import Passport, SyncPassport
from extmem.sync import Fence, Semaphore
from extmem.vk._dispatch import FORKED
from extmem.work import Moments, Work

__all__ = ["Device"]

Child = TypeVar("Child")

# Enabled on every device that has them.
_WANTED = (
    "VK_KHR_external_memory_fd",
    "VK_EXT_external_memory_dma_buf",
    "VK_EXT_external_memory_host",
    "VK_KHR_external_semaphore_fd",
    "VK_KHR_external_fence_fd",
    "VK_EXT_queue_family_foreign",
    "VK_EXT_image_drm_format_modifier",
    "VK_KHR_image_format_list",
    "VK_KHR_external_memory_win32",
    "VK_NV_external_memory_win32",
    "VK_NV_external_memory",
    "VK_KHR_external_semaphore_win32",
    "VK_KHR_external_fence_win32",
    "VK_KHR_win32_keyed_mutex",
    "VK_KHR_timeline_semaphore",  # core since 1.2
)


class Device(Images):
    """An open device. Made by `open_device`; a context manager."""

    def __init__(
        self,
        instance: vk.VkInstance,
        vk_physical: vk.VkPhysicalDevice,
        physical: PhysicalDevice,
        reason: str,
        queue: str = "any",
    ) -> None:
        self.physical = physical
        self.reason = reason  # why this driver was taken
        self.instance = instance
        self.vk_physical = vk_physical
        families = vk.vkGetPhysicalDeviceQueueFamilyProperties(vk_physical)
        self.queue_family = copying.queue_family(families, queue)
        self.extensions = tuple(name for name in _WANTED if name in physical.extensions)
        self.timelines = signalling.has_timelines(vk_physical, physical)  # timeline semaphores
        made = vk.VkDeviceQueueCreateInfo(
            queueFamilyIndex=self.queue_family, pQueuePriorities=[1.0]
        )
        self._vk: vk.VkDevice | None = vk.vkCreateDevice(
            vk_physical,
            vk.VkDeviceCreateInfo(
                pNext=vk.VkPhysicalDeviceTimelineSemaphoreFeatures(timelineSemaphore=1)
                if self.timelines
                else None,
                pQueueCreateInfos=[made],
                ppEnabledExtensionNames=list(self.extensions),
            ),
        )
        self.queue = vk.vkGetDeviceQueue(self._vk, self.queue_family, 0)
        self._children: weakref.WeakSet[Any] = weakref.WeakSet()
        self._work = Work(self)
        self._examiner: Examiner | None = None  # once something was imported with quarantine=True
        self._forked = False  # of the process that this one was forked from
        self._made = caller()
        _devices.add(self)

    # -- state ----------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the device was closed, or is of the process that this one was forked from."""
        return self._vk is None

    @property
    def handle(self) -> vk.VkDevice:
        """The VkDevice, for calls of `extmem.vk`; still owned by this object."""
        if self._vk is None:
            if self._forked:
                raise Unsupported(f"this device cannot be used here: {FORKED}")
            raise ClosedError("this device is closed")
        return self._vk

    @property
    def driver(self) -> str:
        """The driver: "embedded", "system", or a path."""
        assert self.instance.dispatch is not None
        return str(self.instance.dispatch.driver.name)

    @property
    def checks(self) -> str:
        """How much is checked before the driver is called: "full", "cheap" or "off"."""
        assert self.instance.dispatch is not None
        return self.instance.dispatch.checks

    def __repr__(self) -> str:
        state = ", closed" if self._vk is None else ""
        checks = "" if self.checks == "full" else f", checks {self.checks}"
        return f"<Device {self.physical.name} ({self.driver} driver{checks}){state}>"

    # -- memory ---------------------------------------------------------------------------------

    def allocate(
        self,
        size: int,
        *,
        export: Types = None,
        name: str | None = None,
        access: str | int | None = None,
        security: Any = None,
        dedicated: bool | None = None,
        memory: str | int = "host_visible",
    ) -> Memory:
        """Allocate memory.

        size: bytes
        export: the handle types it can be shared as ("opaque_fd", "dma_buf", ...), one or several
        name: the name of the Windows handle that is exported, as r"Local\\frame"; it lives as long
            as this memory or any other handle of it
        access: what that handle allows: "read", "write", "all" (the default), or a mask
        security: who may open it by name: SDDL, or a SECURITY_ATTRIBUTES
        dedicated: give the allocation to one buffer alone; by default where the device demands it
        memory: "host_visible", "device_local", or the index of a memory type

        >>> import extmem
        >>> with extmem.open_device(driver="embedded") as gpu, gpu.allocate(64) as shared:
        ...     shared.size
        64
        """
        return allocating.allocate(
            self,
            size,
            export=export,
            name=name,
            access=access,
            security=security,
            dedicated=dedicated,
            memory=memory,
        )

    def import_memory(
        self,
        handle: Any = None,
        *,
        name: str | None = None,
        handle_type: str | int | None = None,
        size: int | None = None,
        memory_type: str | int | None = None,
        dedicated: bool | None = None,
        passport: Passport | bytes | None = None,
        quarantine: bool = False,
    ) -> Memory:
        """Import memory that was exported elsewhere. The handle stays the caller's, open.

        name: instead of a handle: the name of a Windows handle that somebody holds
        handle: a `Handle`, a descriptor, a Windows handle (with handle_type), or for
            "host_allocation" an address or a writable buffer (a NumPy array, a bytearray, an mmap)
        handle_type: what the handle is; known for a `Handle`, else found out where possible
        size, memory_type: as the exporter had them. A `Handle` and a passport tell them, and so
            does a Windows handle or a name that carries one; a bare descriptor does not
        dedicated: whether the exporter's allocation was dedicated to a buffer
        passport: what came with the handle, if it travelled beside it: `Memory.passport`, or its
            bytes. PassportError if it is of another device, driver or machine
        quarantine: for a stranger's handle: have a helper process, which opens the same device,
            import it first, and read the first and last byte of what can be mapped. What happens
            there is the error here: QuarantineError if it crashes or takes more than 5 s, else
            what this import would have raised. No driver here has seen the handle then, and it is
            as before. The first such import takes as long as it takes to start Python and the
            driver (0.3 s), others about 1 ms more than without; the helper ends with the device

        Quarantine looks at the memory once. Whoever has its file can shorten it later, and then
        reading it ends this process (SIGBUS). So before the trial it SEALS a memfd against that
        (F_SEAL_SHRINK), for all who have it. Not every file takes seals: those of SwiftShader do
        not, and what is behind dma-bufs and device nodes is their drivers' affair. Windows'
        sections never shrink. And a name or a KMT number may stand for something else by the time
        that it is imported here; a handle stands for one thing.

        >>> import extmem
        >>> with extmem.open_device(driver="embedded") as gpu:
        ...     with gpu.allocate(64, export="opaque_win32") as memory, memory.export() as handle:
        ...         with gpu.import_memory(handle, quarantine=True) as tried:
        ...             tried.size
        64
        """
        made = allocating.import_memory(
            self,
            handle,
            name=name,
            handle_type=handle_type,
            size=size,
            memory_type=memory_type,
            dedicated=dedicated,
            passport=passport,
            quarantine=quarantine,
        )
        made._origin = remembered(handle, made)
        return made

    # -- buffers --------------------------------------------------------------------------------

    def buffer(
        self,
        memory: Memory,
        *,
        size: int | None = None,
        offset: int = 0,
        concurrent: bool = False,
    ) -> Buffer:
        """A buffer over (a part of) memory, for copies by the device.

        size, offset: bytes; by default all of the memory
        concurrent: whether all queue families of the device use it at the same time

        >>> import extmem
        >>> with extmem.open_device(driver="embedded") as gpu, gpu.allocate(64) as memory:
        ...     with gpu.buffer(memory) as whole:
        ...         gpu.fill(whole, 0x01010101)
        ...     int(memory.numpy().sum())
        64
        """
        if memory.device is not self:
            raise ValueError(f"{memory!r} is of another device")
        length = memory.size - offset if size is None else size
        allocating.check_size(length)
        if memory.dedicated:
            if memory.image is not None or (offset, length, concurrent) != (0, memory.size, False):
                raise Unsupported(
                    f"{memory!r} belongs to one {'buffer' if memory.image is None else 'image'} "
                    "alone, so no other buffer lies in it; allocate with dedicated=False"
                )
            return self._keep(Buffer(self, None, memory, 0, length))
        types = memory.exported + ((memory.imported,) if memory.imported else ())
        mask = sum(each.bit for each in types)
        made = allocating.make_buffer(self, length, mask, concurrent)
        try:
            vk.vkBindBufferMemory(self.handle, made, memory.handle, offset)
        except BaseException:
            vk.vkDestroyBuffer(self.handle, made)
            raise
        return self._keep(Buffer(self, made, memory, offset, length, concurrent))

    def copy(
        self,
        source: Buffer,
        target: Buffer,
        size: int | None = None,
        *,
        wait: Moments = (),
        signal: Moments = (),
    ) -> None:
        """Copy on the device, and wait for it. `size` in bytes; by default the smaller buffer's.

        wait, signal: semaphores to wait for before and to signal after, each alone or as
            (semaphore, value). Those of the host are waited for here before this is submitted, and
            signalled here when the device has done it
        """
        copying.copy(self, source, target, size, wait, signal)

    def fill(self, target: Buffer, value: int, *, wait: Moments = (), signal: Moments = ()) -> None:
        """Fill a buffer with a 32-bit value on the device, and wait for it.

        wait, signal: as for `copy`
        """
        copying.fill(self, target, value, wait, signal)

    # -- semaphores and fences ------------------------------------------------------------------

    def semaphore(
        self,
        *,
        timeline: bool = True,
        value: int = 0,
        export: Types = None,
        name: str | None = None,
        access: str | int | None = None,
        security: Any = None,
        host: bool = False,
    ) -> Semaphore:
        """A semaphore: what one piece of work signals, others wait for.

        timeline: a counter that only grows, and that the processor can wait for and signal, too;
            else binary, signalled and waited for by submissions alone
        value: what a timeline starts at
        export, name, access, security: as for `allocate`
        host: of the process' embedded device, for drivers that cannot export semaphores. It is
            waited for and signalled by the processor, around the work of this device

        >>> import extmem
        >>> with extmem.open_device(driver="embedded") as gpu, gpu.semaphore() as done:
        ...     done.signal(3)
        ...     done.value
        3
        """
        return signalling.semaphore(
            self,
            timeline=timeline,
            value=value,
            export=export,
            name=name,
            access=access,
            security=security,
            host=host,
        )

    def import_semaphore(
        self,
        handle: Any = None,
        *,
        name: str | None = None,
        handle_type: str | int | None = None,
        timeline: bool | None = None,
        temporary: bool = False,
        passport: SyncPassport | bytes | None = None,
        host: bool | None = None,
    ) -> Semaphore:
        """Import a semaphore that was exported elsewhere. The handle stays the caller's, open.

        handle: a `Handle`, a descriptor, or a Windows handle (with handle_type)
        name: instead of a handle: the name of a Windows handle that somebody holds
        timeline: as the exporter made it, where no passport says so
        temporary: until it was waited for once
        passport: what came with the handle, if it travelled beside it
        host: whether it is one of the host; found out by the passport
        """
        made = receiving.import_semaphore(
            self,
            handle,
            name=name,
            handle_type=handle_type,
            timeline=timeline,
            temporary=temporary,
            passport=passport,
            host=host,
        )
        made._origin = remembered(handle, made)
        return made

    def fence(
        self,
        *,
        signaled: bool = False,
        export: Types = None,
        name: str | None = None,
        access: str | int | None = None,
        security: Any = None,
    ) -> Fence:
        """A fence: what a submission signals, the processor waits for.

        export, name, access, security: as for `allocate`
        """
        return signalling.fence(
            self, signaled=signaled, export=export, name=name, access=access, security=security
        )

    def import_fence(
        self,
        handle: Any = None,
        *,
        name: str | None = None,
        handle_type: str | int | None = None,
        temporary: bool = False,
        passport: SyncPassport | bytes | None = None,
    ) -> Fence:
        """Import a fence that was exported elsewhere; as `import_semaphore`."""
        return receiving.import_fence(
            self,
            handle,
            name=name,
            handle_type=handle_type,
            temporary=temporary,
            passport=passport,
        )

    def submit(
        self, *, wait: Moments = (), signal: Moments = (), fence: Fence | None = None
    ) -> None:
        """Submit no commands: wait for semaphores, then signal semaphores and a fence. This returns
        at once, unless there are semaphores of the host.

        wait, signal: each alone if it is binary, or as (semaphore, value). Those of the host are
            waited for here first, and signalled here when the device has come to the end

        >>> import extmem
        >>> with extmem.open_device(driver="embedded") as gpu, gpu.semaphore() as done:
        ...     gpu.submit(signal=[(done, 1)])
        ...     done.wait(1)
        """
        self._work.submit(wait=wait, signal=signal, fence=fence)

    # -- the end --------------------------------------------------------------------------------

    def _keep(self, child: Child) -> Child:
        """Something that was made from this device, and is closed with it."""
        self._children.add(child)
        return child

    def _forget(self, child: Any) -> None:
        self._children.discard(child)

    def close(self) -> None:
        """Close everything made from this device, then the device. Safe to call again.

        Raises ViewsAlive, and closes nothing, while views of mapped memory are alive; TimeoutError,
        if something that was submitted does not end, because nobody signals what it waits for.
        """
        if self._vk is None:
            return
        count = sum(each.views for each in self._children if isinstance(each, Memory))
        if count:
            raise ViewsAlive(
                f"cannot close {self!r}: {count} view{'s' if count != 1 else ''} of its memory "
                f"{'are' if count != 1 else 'is'} still alive; delete them first",
                count,
            )
        self._work.close()
        if self._examiner is not None:
            self._examiner.close()
            self._examiner = None
        for kind in (Semaphore, Fence, Buffer, Memory):
            for child in [each for each in self._children if isinstance(each, kind)]:
                child.close()
        self._work.destroyed()
        vk.vkDestroyDevice(self._vk)
        self._vk = None
        vk.vkDestroyInstance(self.instance)

    def _give_up(self) -> None:
        """In a forked child: forget what belongs to the parent, without a word to the driver."""
        self._vk, self._forked = None, True
        for child in self._children:
            if isinstance(child, (Memory, Semaphore, Fence)):
                child._give_up()
        self._work.give_up()
        if self._examiner is not None:
            self._examiner.give_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except (ViewsAlive, TimeoutError):
            # The traceback of an error may hold views, and the error matters more than ours;
            # the device goes with the process, or when it is closed again.
            if error is None:
                raise

    def __del__(self) -> None:
        if getattr(self, "_vk", None) is not None:
            warnings.warn(
                f"{self!r} was never closed; opened at {self._made}", ResourceWarning, stacklevel=2
            )


_devices: weakref.WeakSet[Device] = weakref.WeakSet()


def _give_up() -> None:
    """In a child, right after a fork."""
    for device in _devices:
        if not device.closed:
            device._give_up()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_give_up)
