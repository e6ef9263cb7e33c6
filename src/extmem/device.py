"""Device: where memory is allocated and imported. `extmem.open_device` makes one."""

from __future__ import annotations

import ctypes
import os
import warnings
import weakref
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from extmem import copying, vk
from extmem.capabilities import USAGE, PhysicalDevice
from extmem.drivers.driver import Stamps
from extmem.errors import ClosedError, DriverError, Unsupported, ViewsAlive
from extmem.handle_types import HandleType, memory_type
from extmem.handle_types import memory_type as memory_type_of
from extmem.handles import nt_lookup
from extmem.handles.handle import Handle, caller
from extmem.handles.kernel import ACCESS_ALL, ACCESS_READ, ACCESS_WRITE
from extmem.handles.security import security_attributes
from extmem.importing import Told, told
from extmem.memory import Memory
from extmem.resources import Buffer
from extmem.share.passport import Passport
from extmem.vk._dispatch import FORKED

if os.name != "nt":
    from extmem.handles import posix

__all__ = ["Device"]

Types = str | int | Sequence[str | int] | None

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
)


class Device:
    """An open device. Made by `open_device`; a context manager."""

    def __init__(
        self,
        instance: vk.VkInstance,
        vk_physical: vk.VkPhysicalDevice,
        physical: PhysicalDevice,
        reason: str,
    ) -> None:
        self.physical = physical
        self.reason = reason  # why this driver was taken
        self.instance = instance
        self.vk_physical = vk_physical
        families = vk.vkGetPhysicalDeviceQueueFamilyProperties(vk_physical)
        self.queue_family = copying.copying_family(families)
        self.extensions = tuple(name for name in _WANTED if name in physical.extensions)
        queue = vk.VkDeviceQueueCreateInfo(
            queueFamilyIndex=self.queue_family, pQueuePriorities=[1.0]
        )
        self._vk: vk.VkDevice | None = vk.vkCreateDevice(
            vk_physical,
            vk.VkDeviceCreateInfo(
                pQueueCreateInfos=[queue], ppEnabledExtensionNames=list(self.extensions)
            ),
        )
        self.queue = vk.vkGetDeviceQueue(self._vk, self.queue_family, 0)
        self._children: weakref.WeakSet[Any] = weakref.WeakSet()
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
        _check_size(size)
        types = _types(export)
        for each in types:
            self._require(each, exporting=True)
        _names_need_windows(name, access, security, types)
        self._restricts(access, types)
        terms = None
        if (name, access, security) != (None, None, None):
            terms = vk.VkExportMemoryWin32HandleInfoKHR(
                name=name, dwAccess=_access(access), pAttributes=_attributes(security)
            )
        made = None
        try:
            made = self._allocate(size, types, None, terms, memory, dedicated, None)
            _stamp(made)
            if name is not None:
                # Some drivers give the name with the first handle, and a peer may ask for it now.
                made.export("opaque_win32").close()
        except BaseException as error:
            if made is not None:
                made.close()
            # A result of Vulkan's cannot say that a name is taken.
            if name and isinstance(error, DriverError):
                raise DriverError(
                    error.result, error.call, nt_lookup.why_not_given(name) or error.hint
                ) from None
            raise
        return made

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
        """
        if quarantine:
            raise Unsupported("quarantine is not part of this version; import without")
        if (handle is None) == (name is None):
            raise ValueError("pass a handle to import, or a name")
        if name is not None:
            source = memory_type_of(handle_type or "opaque_win32")
        else:
            source = self._source(handle, handle_type)
        self._require(source, exporting=False)
        if source.kind == "pointer":
            return self._import_host(source, handle, size)
        assert self.instance.dispatch is not None
        known = told(
            self.physical,
            self.instance.dispatch.driver,
            source,
            handle,
            name,
            passport,
            size=size,
            memory_type=memory_type,
            dedicated=dedicated,
        )
        if known.size is None and known.refused:
            known = replace(known, size=1)  # the rules know what is wrong there, and say it
        if known.size is None:
            raise ValueError(
                f"pass size= or passport=: {source.name} does not tell its size, and a bare handle "
                "or a name does not know it"
            )
        _check_size(known.size)
        if source.kind != "fd":
            chain: Any = vk.VkImportMemoryWin32HandleInfoKHR(
                handleType=source.bit, name=name, handle=None if handle is None else int(handle)
            )
            return self._import(known, source, chain)
        copy = posix.duplicate(int(handle))
        try:
            chain = vk.VkImportMemoryFdInfoKHR(handleType=source.bit, fd=copy)
            return self._import(known, source, chain)
        except BaseException:
            posix.close(copy)
            raise

    def _import(self, known: Told, source: HandleType, chain: Any) -> Memory:
        assert known.size is not None
        made = self._allocate(
            known.size,
            (),
            source,
            chain,
            "host_visible" if known.memory_type is None else known.memory_type,
            known.dedicated,
            None,
            known.allocation_size,
        )
        if known.passport is not None:
            made.passport = known.passport
        return made

    def _source(self, handle: Any, handle_type: str | int | None) -> HandleType:
        """Which type a handle is."""
        if handle_type is not None:
            wanted = memory_type(handle_type)
            if isinstance(handle, Handle) and handle.handle_type is not wanted:
                raise ValueError(f"{handle!r} is no {wanted.name}")
            return wanted
        if isinstance(handle, Handle):
            return handle.handle_type
        if isinstance(handle, int):
            if os.name == "nt":
                raise ValueError("pass handle_type=: a bare number does not tell what it is")
            return memory_type("dma_buf" if posix.describe(handle) == "dma-buf" else "opaque_fd")
        return memory_type("host_allocation")

    def _import_host(self, source: HandleType, handle: Any, size: int | None) -> Memory:
        """Import host memory: the device works on the caller's own bytes."""
        if isinstance(handle, int):
            if size is None:
                raise ValueError("pass size=: an address does not tell how many bytes are there")
            address, keep = handle, None
        else:
            view = memoryview(handle).cast("B")
            if view.readonly:
                raise ValueError("host memory to import must be writable")
            keep = (ctypes.c_char * view.nbytes).from_buffer(view)
            address, size = ctypes.addressof(keep), size or view.nbytes
            if size > view.nbytes:
                raise ValueError(f"size is {size}, but the buffer has {view.nbytes} bytes")
        answer = vk.vkGetMemoryHostPointerPropertiesEXT(self.handle, source.bit, address)
        usable = [t for t in self.physical.memory_types if answer.memoryTypeBits >> t.index & 1]
        if not usable:
            raise Unsupported(f"{self.physical.name} takes no memory at {address:#x}")
        best = max(usable, key=lambda t: ("host_visible" in t.flags, "host_coherent" in t.flags))
        chain = vk.VkImportMemoryHostPointerInfoEXT(handleType=source.bit, pHostPointer=address)
        info = vk.VkMemoryAllocateInfo(pNext=chain, allocationSize=size, memoryTypeIndex=best.index)
        made = vk.vkAllocateMemory(self.handle, info)
        return self._memory(made, size, size, best.index, (), source, None, keep)

    def _allocate(
        self,
        size: int,
        export: tuple[HandleType, ...],
        source: HandleType | None,
        chain: Any,
        memory: str | int,
        dedicated: bool | None,
        keep: Any,
        allocation_size: int | None = None,  # None: what a buffer of `size` needs
    ) -> Memory:
        mask = sum(each.bit for each in export) | (source.bit if source is not None else 0)
        buffer = self._make_buffer(size, mask)
        try:
            needs = vk.VkMemoryDedicatedRequirements()
            found = vk.vkGetBufferMemoryRequirements2(
                self.handle,
                vk.VkBufferMemoryRequirementsInfo2(buffer=buffer),
                vk.VkMemoryRequirements2(pNext=needs),
            ).memoryRequirements
            index = self._memory_type(memory, found.memoryTypeBits)
            if dedicated is None:
                dedicated = bool(needs.requiresDedicatedAllocation) or any(
                    each.dedicated_only
                    for each in self.physical.sharing
                    if each.handle_type.bit & mask
                )
            info = vk.VkMemoryAllocateInfo(
                pNext=chain,
                allocationSize=allocation_size or max(size, found.size),
                memoryTypeIndex=index,
            )
            if export:
                vk.link(info, vk.VkExportMemoryAllocateInfo(handleTypes=mask))
            if dedicated:
                vk.link(info, vk.VkMemoryDedicatedAllocateInfo(buffer=buffer))
            made = vk.vkAllocateMemory(self.handle, info)
            if dedicated:
                vk.vkBindBufferMemory(self.handle, buffer, made, 0)
        except BaseException:
            vk.vkDestroyBuffer(self.handle, buffer)
            raise
        if not dedicated:
            vk.vkDestroyBuffer(self.handle, buffer)
        return self._memory(
            made,
            size,
            info.allocationSize,
            index,
            export,
            source,
            buffer if dedicated else None,
            keep,
        )

    def _memory(
        self,
        made: vk.VkDeviceMemory,
        size: int,
        allocation_size: int,
        index: int,
        export: tuple[HandleType, ...],
        source: HandleType | None,
        buffer: vk.VkBuffer | None,
        keep: Any,
    ) -> Memory:
        memory = Memory(
            self,
            made,
            size=size,
            allocation_size=allocation_size,
            memory_type_index=index,
            exported=export,
            imported=source,
            buffer=buffer,
            keep=keep,
        )
        self._children.add(memory)
        return memory

    def _memory_type(self, wanted: str | int, allowed: int) -> int:
        """The memory type to take, among those that the resource allows."""
        types = self.physical.memory_types
        if isinstance(wanted, int):
            if not 0 <= wanted < len(types):
                raise ValueError(f"memory type {wanted}; the device has 0 to {len(types) - 1}")
            if not allowed >> wanted & 1:
                raise Unsupported(
                    f"memory type {wanted} cannot carry such a buffer; these can: "
                    + ", ".join(str(t.index) for t in types if allowed >> t.index & 1)
                )
            return wanted
        if wanted not in ("host_visible", "device_local"):
            raise ValueError(
                f"memory is {wanted!r}; expected 'host_visible', 'device_local' or an index"
            )
        usable = [t for t in types if allowed >> t.index & 1 and wanted in t.flags]
        if not usable:
            raise Unsupported(f"{self.physical.name} has no {wanted} memory for such a buffer")
        if wanted == "host_visible":
            # Coherent before cached: a view that needs no flush is what people expect.
            best = max(
                usable,
                key=lambda t: ("host_coherent" in t.flags, "host_cached" in t.flags, -t.index),
            )
        else:
            best = max(usable, key=lambda t: ("host_visible" not in t.flags, -t.index))
        return best.index

    def _require(self, handle_type: HandleType, *, exporting: bool) -> None:
        able = self.physical.can_export if exporting else self.physical.can_import
        if not able(handle_type.name):
            verb = "export" if exporting else "import"
            offered = self._list_exportable() if exporting else self._list_importable()
            raise Unsupported(
                f"{self.physical.name} ({self.driver} driver) cannot {verb} {handle_type.name}; "
                f"it can {verb} {offered}"
            )

    def _restricts(self, access: str | int | None, types: tuple[HandleType, ...]) -> None:
        """Refuse to grant reading alone where nobody can."""
        if _access(access) & (ACCESS_WRITE | ACCESS_ALL):
            return
        for each in self.physical.sharing:
            if each.bridged and each.handle_type in types:
                raise Unsupported(
                    f"{each.handle_type.name} of {self.physical.name} is bridged over "
                    f"{each.bridged}, and a driver's descriptor cannot be restricted to reading: "
                    "leave access= out, or use the embedded driver"
                )

    def _list_exportable(self) -> str:
        return (
            ", ".join(s.handle_type.name for s in self.physical.sharing if s.exportable)
            or "nothing"
        )

    def _list_importable(self) -> str:
        return (
            ", ".join(s.handle_type.name for s in self.physical.sharing if s.importable)
            or "nothing"
        )

    # -- buffers --------------------------------------------------------------------------------

    def buffer(self, memory: Memory, *, size: int | None = None, offset: int = 0) -> Buffer:
        """A buffer over (a part of) memory, for copies by the device.

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
        _check_size(length)
        types = memory.exported + ((memory.imported,) if memory.imported else ())
        made = self._make_buffer(length, sum(each.bit for each in types))
        try:
            vk.vkBindBufferMemory(self.handle, made, memory.handle, offset)
        except BaseException:
            vk.vkDestroyBuffer(self.handle, made)
            raise
        buffer = Buffer(self, made, memory, offset, length)
        self._children.add(buffer)
        return buffer

    def _make_buffer(self, size: int, mask: int) -> vk.VkBuffer:
        info = vk.VkBufferCreateInfo(
            size=size,
            usage=USAGE,
            sharingMode=vk.VK_SHARING_MODE_EXCLUSIVE,
            pNext=vk.VkExternalMemoryBufferCreateInfo(handleTypes=mask) if mask else None,
        )
        return vk.vkCreateBuffer(self.handle, info)

    def copy(self, source: Buffer, target: Buffer, size: int | None = None) -> None:
        """Copy on the device, and wait for it. `size` in bytes; by default the smaller buffer's."""
        copying.copy(self, source, target, size)

    def fill(self, target: Buffer, value: int) -> None:
        """Fill a buffer with a 32-bit value on the device, and wait for it."""
        copying.fill(self, target, value)

    # -- the end --------------------------------------------------------------------------------

    def _forget(self, child: Any) -> None:
        self._children.discard(child)

    def close(self) -> None:
        """Close everything made from this device, then the device. Safe to call again.

        Raises ViewsAlive, and closes nothing, while views of mapped memory are alive.
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
        for kind in (Buffer, Memory):
            for child in [each for each in self._children if isinstance(each, kind)]:
                child.close()
        vk.vkDestroyDevice(self._vk)
        self._vk = None
        vk.vkDestroyInstance(self.instance)

    def _give_up(self) -> None:
        """In a forked child: forget what belongs to the parent, without a word to the driver."""
        self._vk, self._forked = None, True
        for child in self._children:
            if isinstance(child, Memory):
                child._give_up()

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
        except ViewsAlive:
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


def _stamp(memory: Memory) -> None:
    """Leave the passport where importers of its Windows handles find it."""
    dispatch = memory.device.instance.dispatch
    assert dispatch is not None
    windows = any(each.kind in ("nt", "kmt") for each in memory.exported)
    if windows and isinstance(dispatch.driver, Stamps):
        passport = memory.passport.encode()
        dispatch.driver.stamp(int(memory.device.handle), int(memory.handle), passport)


def _check_size(size: int) -> None:
    if not isinstance(size, int) or isinstance(size, bool):
        raise TypeError(f"size is {size!r}; expected a number of bytes")
    if size <= 0:
        raise ValueError(f"size is {size}; expected at least 1 byte")


def _types(export: Types) -> tuple[HandleType, ...]:
    if export is None:
        return ()
    if isinstance(export, (str, int)):
        return (memory_type(export),)
    return tuple(memory_type(each) for each in export)


_ACCESS = {
    None: ACCESS_ALL,
    "all": ACCESS_ALL,
    "read": ACCESS_READ,
    "write": ACCESS_READ | ACCESS_WRITE,
}


def _access(access: str | int | None) -> int:
    if isinstance(access, int):
        return access
    if access not in _ACCESS:
        raise ValueError(f"access is {access!r}; expected 'read', 'write', 'all', or a mask")
    return _ACCESS[access]


def _attributes(security: Any) -> Any:
    """SECURITY_ATTRIBUTES for what `security=` was given."""
    if security is None or isinstance(security, vk.SECURITY_ATTRIBUTES):
        return security
    if isinstance(security, str):
        return security_attributes(security)
    raise TypeError(f"security is {security!r}; expected SDDL, or a SECURITY_ATTRIBUTES")


def _names_need_windows(
    name: str | None, access: Any, security: Any, types: tuple[HandleType, ...]
) -> None:
    for given, what in ((name, "name"), (access, "access"), (security, "security")):
        if given is not None and not any(each.kind == "nt" for each in types):
            raise Unsupported(
                f"{what}= belongs to a Windows handle: export 'opaque_win32' on a device that "
                "offers it"
            )
