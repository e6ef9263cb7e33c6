"""Memory: one allocation of device memory, its views, and its way to others."""

from __future__ import annotations

import sys
import threading
import warnings
import weakref
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from extmem import vk
from extmem.capabilities import USAGE
from extmem.errors import ClosedError, Unsupported, ViewsAlive
from extmem.exporting import explained
from extmem.handle_types import HandleType, memory_type
from extmem.handles.handle import Handle, caller
from extmem.importing import place_of
from extmem.share.passport import BufferInfo, Exporter, ImageInfo, Passport
from extmem.vk import mappings, memories
from extmem.vk._dispatch import FORKED

if TYPE_CHECKING:
    import numpy as np

    from extmem.device import Device
    from extmem.interop.array import Array
    from extmem.interop.cuda.memory import CudaMemory

__all__ = ["Memory"]


class Memory:
    """An allocation of device memory, made by `Device.allocate` or `Device.import_memory`.

    >>> import extmem
    >>> with extmem.open_device(driver="embedded") as gpu:
    ...     with gpu.allocate(16) as memory:
    ...         memory.numpy()[:4] = 7
    ...         int(memory.numpy().sum())
    28
    """

    def __init__(
        self,
        device: Device,
        handle: vk.VkDeviceMemory,
        *,
        size: int,
        allocation_size: int,
        memory_type_index: int,
        exported: tuple[HandleType, ...],
        imported: HandleType | None,
        buffer: vk.VkBuffer | None = None,
        image: vk.VkImage | None = None,
        image_info: ImageInfo | None = None,
        dedicated: bool | None = None,
        keep: Any = None,
    ) -> None:
        self.device = device
        self.size = size  # bytes that may be used
        self.allocation_size = allocation_size  # bytes that the driver allocated for them
        self.memory_type = device.physical.memory_types[memory_type_index]
        self.exported = exported  # handle types that `export` can make
        self.imported = imported  # the type that this memory was imported from
        self._vk: vk.VkDeviceMemory | None = handle
        self.dedicated = buffer is not None if dedicated is None else dedicated
        # The buffer that it is dedicated to, the image that it was made for: theirs alone is the
        # use of it, and they are destroyed with it.
        self.buffer = buffer
        self.image = image
        self._keep = keep  # host memory that was imported must outlive this object
        self._left: list[Any] = []  # being closed: what is not destroyed yet, the last thing first
        self._mapping = threading.Lock()
        self._importing = threading.Lock()
        self._fetching = threading.Lock()
        self._first: Handle | None = None  # the NT handle that was fetched; its name lives with it
        self._origin: Handle | None = None  # of an import, for CUDA: what it came by
        self._cuda: CudaMemory | None = None  # once it was asked for
        self._forked = False  # of the process that this one was forked from
        self._made = caller()
        self.unchecked: tuple[str, ...] = ()  # of an import: what nobody said, for people
        first = exported[0] if exported else imported
        self.passport = Passport(  # what an importer must know; of an import, its exporter's word
            handle_type=first.name if first is not None else "",
            allocation_size=allocation_size,
            memory_type=memory_type_index,
            size=size,
            place=place_of(device.physical),
            dedicated=BufferInfo(size, USAGE) if buffer else image_info if dedicated else None,
            image=image_info,
            exporter=Exporter.this(),
        )

    # -- state ----------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the memory was freed."""
        return self._vk is None

    @property
    def handle(self) -> vk.VkDeviceMemory:
        """The VkDeviceMemory, for calls of `extmem.vk`; still owned by this object."""
        if self._vk is None:
            if self._forked:
                raise Unsupported(f"this memory cannot be used here: {FORKED}")
            raise ClosedError("this memory is closed")
        return self._vk

    def __repr__(self) -> str:
        if self._vk is None:
            return "<Memory, closed>"
        parts = [f"{self.size} bytes", "+".join(self.memory_type.flags) or "no flags"]
        if self.imported is not None:
            parts.append(f"imported from {self.imported.name}")
        if self.exported:
            parts.append("exportable as " + ", ".join(each.name for each in self.exported))
        if self.dedicated:
            parts.append("dedicated")
        if not self.device.closed and self.read_only:
            parts.append("read-only")
        if self.unchecked:
            parts.append("unchecked: " + ", ".join(self.unchecked))
        return f"<Memory {', '.join(parts)}, on {self.device.physical.name}>"

    # -- the bytes ------------------------------------------------------------------------------

    @property
    def host_visible(self) -> bool:
        """Whether the processor can look at it."""
        return "host_visible" in self.memory_type.flags

    def view(self) -> memoryview:
        """The bytes as a memoryview, without a copy. It keeps this memory alive.

        It is writable unless this memory was imported by a handle that grants reading alone.
        """
        return self._bytes()[: self.size]

    def numpy(
        self, dtype: Any = "uint8", shape: int | Sequence[int] | None = None
    ) -> np.ndarray[Any, Any]:
        """The bytes as a NumPy array, without a copy.

        Without a shape it is one-dimensional and as long as the memory holds whole elements.
        Memory with living arrays cannot be closed.

        >>> import extmem
        >>> with extmem.open_device(driver="embedded") as gpu, gpu.allocate(24) as memory:
        ...     memory.numpy("float32", (2, 3)).shape
        (2, 3)
        """
        import numpy as np

        try:
            kind = np.dtype(dtype)
        except TypeError as error:
            raise TypeError(
                f"dtype is {dtype!r}; expected a type of NumPy's, as 'uint8' or 'float32'"
            ) from error
        if kind.hasobject:
            raise TypeError(
                f"dtype {kind} holds Python objects, which mean nothing in shared memory"
            )
        wanted: tuple[int, ...]
        if shape is None:
            wanted = (self.size // kind.itemsize,)
        else:
            wanted = (shape,) if isinstance(shape, int) else tuple(shape)
        needed = kind.itemsize
        for extent in wanted:
            if extent < 0:
                raise ValueError(f"shape is {wanted}; no extent can be negative")
            needed *= extent
        if needed > self.size:
            raise ValueError(
                f"{wanted} of {kind} needs {needed} bytes; this memory has {self.size}"
            )
        return np.ndarray(wanted, kind, buffer=mappings.buffer_of(self._bytes()))

    def array(
        self,
        shape: int | Sequence[int],
        dtype: Any = "uint8",
        *,
        offset: int = 0,
        device: str | None = None,
    ) -> Array:
        """Some of the bytes as an array that NumPy, PyTorch and others take, without a copy.

        dtype: a number type as NumPy takes it, or "bfloat16"
        offset: bytes from the beginning, a multiple of the type's alignment
        device: "cpu" or "cuda"; None for CUDA where the extra "cuda" is installed, CUDA sees this
            GPU and this memory can be exported to it or was imported, else for the processor.
            EXTMEM_TENSORS=cpu or cuda decides for all that say nothing

        >>> import extmem, numpy
        >>> with extmem.open_device(driver="embedded") as gpu, gpu.allocate(24) as memory:
        ...     array = memory.array((2, 2), "float32", offset=8)
        ...     numpy.from_dlpack(array).shape, array.strides, array.nbytes
        ...     del array
        ((2, 2), (8, 4), 16)
        """
        from extmem.interop.array import Array

        return Array(self, shape, dtype, offset, device=device)

    def cuda(self) -> CudaMemory:
        """This memory as CUDA has it: imported there when it is first asked for, by a handle that
        is exported for that, or by the one that this memory came by. It is closed with this memory;
        tensors of it keep the bytes beyond that.

        Unsupported, with the UUIDs of both sides, if CUDA sees another GPU.
        """
        from extmem.handles.remembering import origin
        from extmem.interop.cuda.taking import MEMORY

        _ = self.handle  # says why, where it is closed
        with self._importing:
            if self._cuda is None:
                from extmem.interop.cuda.memory import import_memory

                with origin(self, tuple(MEMORY)) as handle:
                    self._cuda = import_memory(handle)
                self._cuda.owner = weakref.ref(self)
            return self._cuda

    @property
    def gives_handles(self) -> bool:
        """Whether there is a handle of it that others, as CUDA, could import."""
        return bool(self.exported) or self._origin is not None

    def __dlpack_device__(self) -> tuple[int, int]:
        """Where the bytes are, for DLPack, as `Array.__dlpack_device__`: with the processor or with
        CUDA, as for `array(device=None)`.
        """
        from extmem.interop.placing import place

        return (1, 0) if place(self) == "cpu" else (2, self.cuda().gpu.number)

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """All bytes, one-dimensional, as a DLPack capsule: this memory is a tensor to others.

        A tensor counts as a view. The parameters are those of `Array.__dlpack__`.

        >>> import extmem, numpy
        >>> with extmem.open_device(driver="embedded") as gpu, gpu.allocate(16) as memory:
        ...     tensor = numpy.from_dlpack(memory)
        ...     memory.numpy()[3] = 7
        ...     tensor.shape, int(tensor[3])
        ...     del tensor
        ((16,), 7)
        """
        return self.array(self.size).__dlpack__(
            stream=stream, max_version=max_version, dl_device=dl_device, copy=copy
        )

    def _not_visible(self) -> str:
        return (
            f"{self!r} is not visible to the processor: allocate with memory='host_visible', "
            "or copy it into such memory with Device.copy"
        )

    @property
    def read_only(self) -> bool:
        """Whether this memory was imported by a handle that grants reading alone."""
        return memories.is_read_only(self.device.handle, self.handle)

    def _bytes(self) -> memoryview:
        """All of it, mapped if it is not mapped yet."""
        if not self.host_visible:
            raise Unsupported(self._not_visible())
        vk_device = self.device.handle
        with self._mapping:  # two threads may look first
            mapping = memories.mapping_of(vk_device, self.handle)
            if mapping is None:
                vk.vkMapMemory(vk_device, self.handle, 0, vk.VK_WHOLE_SIZE)
                mapping = memories.mapping_of(vk_device, self.handle)
                assert mapping is not None
            if mapping.offset or mapping.size < self.size:
                raise Unsupported(
                    f"a part of {self!r} is mapped, {mapping.size} bytes from {mapping.offset} on: "
                    "a memory is mapped once, so unmap that part first (vk.vkUnmapMemory)"
                )
            mappings.note_owner(mapping, self)
            view = mapping.view()
        # A view must keep this object, and the object keeps the allocation.
        view.obj.owner = self  # type: ignore[attr-defined]
        return view

    @property
    def views(self) -> int:
        """How many views of the bytes are alive."""
        if self._vk is None:
            return 0
        mapping = memories.mapping_of(self.device.handle, self._vk)
        return mapping.views() if mapping is not None else 0

    def flush(self) -> None:
        """Make what the processor wrote visible to the device. Needed unless host_coherent."""
        if self.views and "host_coherent" not in self.memory_type.flags:
            vk.vkFlushMappedMemoryRanges(self.device.handle, 1, [self._whole_range()])

    def invalidate(self) -> None:
        """Make what the device wrote visible to the processor. Needed unless host_coherent."""
        if self.views and "host_coherent" not in self.memory_type.flags:
            vk.vkInvalidateMappedMemoryRanges(self.device.handle, 1, [self._whole_range()])

    def _whole_range(self) -> vk.VkMappedMemoryRange:
        return vk.VkMappedMemoryRange(memory=self.handle, offset=0, size=vk.VK_WHOLE_SIZE)

    # -- sharing --------------------------------------------------------------------------------

    def export(self, handle_type: str | int | None = None) -> Handle:
        """A new OS handle of this memory, owned by what is returned.

        `handle_type` may be left out where the memory is exportable as one type only.
        """
        if handle_type is None:
            if len(self.exported) != 1:
                names = ", ".join(each.name for each in self.exported) or "none"
                raise ValueError(
                    f"say which handle type; this memory can be exported as: {names} "
                    "(Device.allocate(..., export=...) decides)"
                )
            wanted = self.exported[0]
        else:
            wanted = memory_type(handle_type)
        if wanted not in self.exported:
            names = ", ".join(each.name for each in self.exported) or "nothing"
            raise Unsupported(
                f"this memory was not allocated to be exported as {wanted.name}, but as {names}: "
                f"allocate with export={wanted.name!r}"
            )
        return Handle(
            self._fetch(wanted),
            wanted,
            size=self.size,
            memory_type_index=self.memory_type.index,
            device_uuid=self.device.physical.device_uuid,
            dedicated=self.dedicated,
            passport=msgspec.structs.replace(self.passport, handle_type=wanted.name),
        )

    def _fetch(self, wanted: HandleType) -> int:
        """A number that the caller will own. NT handles are fetched once and then duplicated."""
        device = self.device.handle
        if wanted.kind == "fd":
            info = vk.VkMemoryGetFdInfoKHR(memory=self.handle, handleType=wanted.bit)
            return vk.vkGetMemoryFdKHR(device, info)
        fetch = vk.VkMemoryGetWin32HandleInfoKHR(memory=self.handle, handleType=wanted.bit)
        if wanted.kind == "kmt":
            with explained((wanted,)):
                return vk.vkGetMemoryWin32HandleKHR(device, fetch)
        with (
            self._fetching,
            explained((wanted,)),
        ):  # a Queue of multiprocessing exports in a thread of its own
            if self._first is None:
                value = vk.vkGetMemoryWin32HandleKHR(device, fetch)
                self._first = Handle(value, wanted)
            return self._first.duplicate().detach()

    # -- the end --------------------------------------------------------------------------------

    def close(self) -> None:
        """Free the memory, now or once all that was submitted has ended. Raises ViewsAlive while
        views of it are alive. Safe to call again.
        """
        if self._vk is None:
            return
        device = self.device.handle
        mapping = memories.mapping_of(device, self._vk)
        if mapping is not None:
            mapping.require_unused("close this memory")
        if not self._left:
            self._left = [vk.vkFreeMemory, self._vk]
            for command, handle in (
                (vk.vkDestroyImage, self.image),
                (vk.vkDestroyBuffer, self.buffer),
            ):
                if handle is not None:
                    self._left += [command, handle]
        # What was submitted may use it still. If a rule refuses it now, it may be closed later.
        self.device._work.afterwards(partial(_destroy, device, self._left, self._keep))
        self._vk = None  # at once: whatever fails from here on, it is never freed again
        self.buffer = self.image = self._keep = None
        self.device._forget(self)
        for each in (self._first, self._origin, self._cuda):
            if each is not None:
                each.close()
        self._first = self._origin = self._cuda = None

    def _give_up(self) -> None:
        """In a forked child: forget what belongs to the parent, without a word to the driver."""
        self._vk, self._forked = None, True
        for each in (self._first, self._origin):
            if each is not None and not each.closed:
                each.detach()  # a number that means something to the parent alone
        if self._cuda is not None:
            self._cuda.give_up()

    def _close_when_unused(self) -> None:
        """Close now, or as soon as the last view is gone."""
        try:
            self.close()
        except ViewsAlive:
            mapping = memories.mapping_of(self.device.handle, self.handle)
            if mapping is not None:
                mapping.when_unused(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            # The traceback of the error may hold views, and the error matters more than ours.
            self._close_when_unused()

    def __del__(self) -> None:
        if getattr(self, "_vk", None) is not None:
            warnings.warn(
                f"memory of {self.size} bytes was never closed; made at {self._made}",
                ResourceWarning,
                stacklevel=2,
            )
            # A device that was destroyed under it took the memory with it, and the process will.
            if not self.device.closed and not sys.is_finalizing():
                self.close()


def _destroy(device: vk.VkDevice, left: list[Any], keep: Any) -> None:
    """Call each command with its handle, from the end; keep: host memory that it may still use."""
    while left:
        command, handle = left[-2:]
        command(device, handle)
        del left[-2:]
