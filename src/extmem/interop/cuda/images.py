"""Images as CUDA's mipmapped arrays: their texels lie as the driver likes, for both APIs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from extmem.errors import TensorError, Unsupported
from extmem.images.formats import image_format
from extmem.interop.cuda.driver import bindings, call
from extmem.interop.cuda.endings import Endings
from extmem.interop.cuda.streams import number_of
from extmem.share.passport import ImageInfo

if TYPE_CHECKING:
    from extmem.interop.cuda.devices import Gpu

__all__ = ["CudaImage", "described", "texels_of"]

# CUarray_format by NumPy's name of what one channel is.
_FORMATS = {
    "uint8": 0x01,
    "uint16": 0x02,
    "uint32": 0x03,
    "int8": 0x08,
    "int16": 0x09,
    "int32": 0x0A,
    "float16": 0x10,
    "float32": 0x20,
}
_LAYERED, _SURFACE, _COLOUR = 0x01, 0x02, 0x20  # CUDA_ARRAY3D_...
_STORAGE_USAGE, _COLOUR_USAGE = 0x08, 0x10  # VK_IMAGE_USAGE_..._BIT
_ARRAY, _DEVICE = 3, 2  # CUmemorytype


def texels_of(info: ImageInfo) -> tuple[str, int]:
    """What one channel of a texel is, and how many there are. Unsupported where CUDA has no such.

    >>> texels_of(ImageInfo(1, 37, 4, 4, 1, 1, 1, 1, 0, 0))  # VK_FORMAT_R8G8B8A8_UNORM
    ('uint8', 4)
    """
    found = image_format(info.format)
    if len(found.planes) != 1:
        raise Unsupported(f"CUDA has no arrays of {found.name}, which has several planes")
    dtype, channels = found.planes[0].dtype, found.planes[0].channels
    if dtype not in _FORMATS or channels not in (1, 2, 4):
        raise Unsupported(
            f"CUDA has no arrays of {found.name}: it takes 1, 2 or 4 channels of "
            f"{', '.join(_FORMATS)}"
        )
    return dtype, channels


def described(info: ImageInfo) -> Any:
    """CUDA's description of the mipmapped array that an image is."""
    if info.samples != 1:
        raise Unsupported(f"CUDA takes images of one sample, and this one has {info.samples}")
    dtype, channels = texels_of(info)
    cu = bindings()
    about = cu.CUDA_EXTERNAL_MEMORY_MIPMAPPED_ARRAY_DESC()
    about.offset, about.numLevels = 0, info.levels
    array = cu.CUDA_ARRAY3D_DESCRIPTOR()
    array.Width = info.width
    array.Height = info.height if info.type else 0  # 0: it has one dimension
    array.Depth = info.layers if info.layers > 1 else info.depth if info.type == 2 else 0
    array.Format = cu.CUarray_format(_FORMATS[dtype])
    array.NumChannels = channels
    array.Flags = (
        (_LAYERED if info.layers > 1 else 0)
        | (_SURFACE if info.usage & _STORAGE_USAGE else 0)
        | (_COLOUR if info.usage & _COLOUR_USAGE else 0)
    )
    about.arrayDesc = array
    return about


class CudaImage:
    """An image as CUDA has it; `CudaMemory.image`. It goes with that memory."""

    def __init__(self, handle: Any, gpu: Gpu, info: ImageInfo, endings: Endings) -> None:
        self.handle = handle  # the CUmipmappedArray, still owned by this object
        self.gpu = gpu
        self.info = info
        self._endings = endings
        endings.then(self._destroy)

    def _destroy(self) -> None:
        with self.gpu.current():
            call("cuCtxSynchronize")  # what streams still do with it
            call("cuMipmappedArrayDestroy", self.handle)

    def level(self, number: int = 0) -> Any:
        """The CUarray of one mip level; for `cuda.bindings`, still owned by this object."""
        if not 0 <= number < self.info.levels:
            raise IndexError(f"level {number}; this image has {self.info.levels}, from 0")
        self._endings.take()  # ClosedError if the memory is closed, and this may be destroyed
        try:
            with self.gpu.current():
                return call("cuMipmappedArrayGetLevel", self.handle, number)
        finally:
            self._endings.leave()

    def read(self, target: Any, *, level: int = 0, stream: Any = None) -> None:
        """Copy a level into a tensor on the GPU, on a stream; the call returns at once.

        target: has CUDA's array interface, and room for the texels in rows without gaps
        stream: of PyTorch or CuPy, or its number; None for CUDA's default stream
        """
        self._copy(target, level, stream, reading=True)

    def write(self, source: Any, *, level: int = 0, stream: Any = None) -> None:
        """Copy a tensor on the GPU into a level; as `read`."""
        self._copy(source, level, stream, reading=False)

    def _copy(self, tensor: Any, level: int, stream: Any, *, reading: bool) -> None:
        if self.info.type == 2 or self.info.layers > 1:
            raise Unsupported(
                "images with depth or layers are copied with cuda.bindings: CudaImage.level"
            )
        width = max(self.info.width >> level, 1)
        height = max(self.info.height >> level, 1)
        dtype, channels = texels_of(self.info)
        row = width * channels * np.dtype(dtype).itemsize
        address = _address_of(tensor, row * height)
        about = bindings().CUDA_MEMCPY2D()
        about.WidthInBytes, about.Height = row, height
        kind = bindings().CUmemorytype
        self._endings.take()
        try:
            array = self.level(level)
            if reading:
                about.srcMemoryType, about.srcArray = kind(_ARRAY), array
                about.dstMemoryType, about.dstDevice, about.dstPitch = kind(_DEVICE), address, row
            else:
                about.dstMemoryType, about.dstArray = kind(_ARRAY), array
                about.srcMemoryType, about.srcDevice, about.srcPitch = kind(_DEVICE), address, row
            with self.gpu.current():
                call("cuMemcpy2DAsync", about, number_of(0 if stream is None else stream))
        finally:
            self._endings.leave()


def _address_of(tensor: Any, size: int) -> int:
    """Where the bytes of a tensor on the GPU are; TensorError if they are not so many in a row."""
    told = getattr(tensor, "__cuda_array_interface__", None)
    if told is None:
        raise TensorError(
            f"{type(tensor).__name__} has no CUDA array interface: it is not on the GPU"
        )
    has = int(np.prod(told["shape"], dtype=np.int64)) * np.dtype(told["typestr"]).itemsize
    if told.get("strides") is not None or has != size:
        raise TensorError(
            f"the tensor has {has} bytes{' with gaps' if told.get('strides') is not None else ''}; "
            f"this level has {size}, in rows without gaps"
        )
    return int(told["data"][0])
