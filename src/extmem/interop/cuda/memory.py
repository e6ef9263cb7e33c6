"""Memory as CUDA has it: imported by a handle, mapped, and freed in the right order."""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self

from extmem.errors import TensorError, Unsupported
from extmem.handles.handle import Handle, caller
from extmem.interop.cuda import taking
from extmem.interop.cuda.devices import Gpu, gpu_of, wanted
from extmem.interop.cuda.driver import bindings, call
from extmem.interop.cuda.endings import Endings
from extmem.interop.cuda.images import CudaImage, described
from extmem.interop.cuda.views import AT_ONCE, CudaArray, Order
from extmem.share.passport import ImageInfo, Passport

__all__ = ["CudaMemory", "import_memory", "mapped"]

_DEDICATED_ALWAYS = ("d3d12_resource", "d3d11_texture", "d3d11_texture_kmt")
_LINEAR = 1  # VK_IMAGE_TILING_LINEAR
# For whoever has an address and looks for the memory behind it.
_imported: weakref.WeakSet[CudaMemory] = weakref.WeakSet()


def import_memory(
    handle: Handle, *, passport: Passport | bytes | None = None, device: int | None = None
) -> CudaMemory:
    """Import memory into CUDA alone, by a handle that `Memory.export` made or a channel brought.
    It stays the caller's. No Vulkan device is needed.

    passport: what came beside the handle, where that has none
    device: the number of the GPU that it has to be on; None for any

    Unsupported, with the UUIDs of both sides, if it is on another GPU.

        with memory.export() as handle, cuda.import_memory(handle) as there:
            tensor = torch.from_dlpack(there.array((1024, 1024), "float32"))
    """
    told = handle.passport if passport is None else passport
    if isinstance(told, bytes):
        told = Passport.decode(told)
    if not isinstance(told, Passport) or told.place is None:
        raise Unsupported(
            f"{handle!r} has no passport that says which GPU it is of, and how large: pass what "
            "Memory.export() or a channel gave, or passport="
        )
    kind = taking.kind_of(handle.handle_type, taking.MEMORY)
    gpu = gpu_of(wanted(told.place), device)
    cu = bindings()
    about = cu.CUDA_EXTERNAL_MEMORY_HANDLE_DESC()
    about.type = taking.named("CUexternalMemoryHandleType", kind)
    about.size = told.allocation_size  # what the exporter allocated, and not what it uses
    dedicated = told.dedicated is not None or handle.handle_type.name in _DEDICATED_ALWAYS
    about.flags = cu.CUDA_EXTERNAL_MEMORY_DEDICATED if dedicated else 0

    def fill(number: int) -> None:
        if kind == taking.MEMORY["opaque_fd"]:
            about.handle.fd = number
        else:
            about.handle.win32.handle = number

    size = told.allocation_size if told.size is None else told.size
    with gpu.current(), taking.lent(handle, fill):
        made = call("cuImportExternalMemory", about)
    return CudaMemory(made, gpu, size, told.image)


class CudaMemory:
    """Memory as CUDA has it. Made by `import_memory`, or `Memory.cuda`; a context manager.

    It keeps the payload alive, whatever becomes of the memory that was exported. Its arrays, and
    tensors that were made from them, keep it: closed while there are any, it is freed with the
    last of them.
    """

    def __init__(self, handle: Any, gpu: Gpu, size: int, image: ImageInfo | None) -> None:
        self.gpu = gpu
        self.size = size  # bytes for use
        self.image_info = image  # how the image in it was made, if there is one
        self._memory = handle
        self._pointer = 0
        self._image: CudaImage | None = None
        self._lock = threading.Lock()
        self._made = caller()
        self._process = os.getpid()
        self._endings = Endings("this memory of CUDA's")
        self._endings.then(self._destroy)
        self.owner: weakref.ref[Any] | None = None  # the `Memory` that it was made from
        _imported.add(self)

    def _destroy(self) -> None:
        with self.gpu.current():
            call("cuDestroyExternalMemory", self._memory)

    @property
    def closed(self) -> bool:
        """Whether it was closed; it is freed once no array or tensor of it is left."""
        return self._endings.closed

    @property
    def freed(self) -> bool:
        """Whether CUDA has let go of it."""
        return self._endings.freed

    @property
    def views(self) -> int:
        """How many arrays and tensors keep it."""
        return self._endings.users

    @property
    def pointer(self) -> int:
        """The address of its first byte, on the GPU. Mapped when it is first asked for."""
        self._endings.take()
        try:
            return self._address()
        finally:
            self._endings.leave()

    @property
    def mapped_at(self) -> int:
        """The same, and 0 where it is not mapped, or closed."""
        return 0 if self._endings.closed else self._pointer

    def _address(self) -> int:
        """For who uses it already. The last step of what needs it, because it takes milliseconds
        and leaves nothing of ours in the processor's caches.
        """
        return self._pointer or self._map()

    def _require_array(self) -> None:
        if self.image_info is not None and self.image_info.tiling != _LINEAR:
            raise TensorError(
                f"{self!r} has an image whose tiling only the driver knows, which is no array of "
                "numbers: take CUDA's mipmapped array (CudaMemory.image), or a copy "
                "(Device.readback, CudaImage.read)"
            )

    def _map(self) -> int:
        self._require_array()
        about = bindings().CUDA_EXTERNAL_MEMORY_BUFFER_DESC()
        about.offset, about.size, about.flags = 0, self.size, 0
        with self._lock, self.gpu.current():
            if not self._pointer:
                self._pointer = int(call("cuExternalMemoryGetMappedBuffer", self._memory, about))
                self._endings.then(self._unmap)  # once: what could not be mapped may be tried again
            return self._pointer

    def _unmap(self) -> None:
        with self.gpu.current():
            # What a stream still does with a tensor that is gone must be done before.
            call("cuCtxSynchronize")
            call("cuMemFree", self._pointer)

    def array(
        self,
        shape: int | Sequence[int],
        dtype: Any = "uint8",
        *,
        offset: int = 0,
        strides: Sequence[int] | None = None,
        read_only: bool = False,
        order: Order = AT_ONCE,
    ) -> CudaArray:
        """Some of the bytes as an array on the GPU, without a copy, for whoever takes DLPack or
        CUDA's array interface: PyTorch, CuPy, JAX, Numba.

        dtype: a number type as NumPy takes it, or "bfloat16"
        offset: bytes from the beginning, a multiple of the type's alignment
        strides: bytes from one element to the next along each dimension; None: no gaps
        read_only: said to consumers; nothing prevents them from writing
        order: when consumers may begin, and what follows when they are done
        """
        self._require_array()
        return CudaArray(
            self._endings,
            self.gpu.number,
            self._address,
            self.size,
            shape,
            dtype,
            offset,
            strides,
            read_only=read_only,
            order=order,
        )

    @property
    def image(self) -> CudaImage:
        """The image in it as CUDA's mipmapped array. Made when it is first asked for."""
        if self.image_info is None:
            raise Unsupported(f"{self!r} has no image, as far as its passport says")
        self._endings.take()
        try:
            with self._lock:
                if self._image is None:
                    with self.gpu.current():
                        made = call(
                            "cuExternalMemoryGetMappedMipmappedArray",
                            self._memory,
                            described(self.image_info),
                        )
                    self._image = CudaImage(made, self.gpu, self.image_info, self._endings)
                return self._image
        finally:
            self._endings.leave()

    def close(self) -> None:
        """Free it, now or with the last array or tensor of it. Safe to call again."""
        self._endings.close()

    def give_up(self) -> None:
        """In a forked child: it is of the parent, and CUDA is not usable here."""
        self._endings.forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        endings = getattr(self, "_endings", None)
        if endings is None or endings.closed or os.getpid() != self._process:
            return
        try:
            warnings.warn(
                f"CUDA's memory of {self.size} bytes was never closed; made at {self._made}",
                ResourceWarning,
                stacklevel=2,
            )
        finally:  # also where the warning is an error
            with suppress(Exception):  # CUDA may have ended before
                self.close()

    def __repr__(self) -> str:
        state = ", closed" if self.closed else ""
        return f"<CudaMemory {self.size} bytes, {self.views} views{state}, on {self.gpu}>"


def mapped() -> list[CudaMemory]:
    """All that is mapped now, and was not closed."""
    return [each for each in list(_imported) if each.mapped_at]
