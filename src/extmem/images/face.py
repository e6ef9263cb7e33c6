"""What a device does with images: the part of `Device` that is about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from extmem import copying
from extmem.exporting import Types
from extmem.handles.remembering import remembered
from extmem.images import making
from extmem.images.image import Image
from extmem.share.passport import Passport
from extmem.submitting import Semaphores

if TYPE_CHECKING:
    import numpy as np

    from extmem.device import Device

__all__ = ["Images"]


class Images:
    """The methods of `Device` that make, import and copy images."""

    @property
    def _device(self) -> Device:
        return cast("Device", self)  # which is the only class of these

    def image(
        self,
        shape: int | Sequence[int],
        format: str | int,
        *,
        levels: int = 1,
        layers: int = 1,
        samples: int = 1,
        tiling: str = "optimal",
        usage: str | int | Sequence[str] | None = None,
        flags: int = 0,
        view_formats: Sequence[str | int] = (),
        concurrent: bool = False,
        modifiers: Sequence[int] | None = None,
        export: Types = None,
        name: str | None = None,
        access: str | int | None = None,
        security: Any = None,
        dedicated: bool | None = None,
        memory: str | int | None = None,
    ) -> Image:
        """An image in new memory of its own.

        shape: (width,), (height, width) or (depth, height, width), in pixels
        format: "rgba8", "r16f", "nv12", ... (`extmem.images.formats`), or a VkFormat
        levels, layers, samples: mip levels, array layers, samples of a pixel
        tiling: "optimal", "linear" (for `Image.numpy`), or "drm" (by DRM format modifier)
        usage: "transfer_src", "sampled", ..., several, or a mask; by default to be copied
        flags: VkImageCreateFlags
        view_formats: formats that others may view it as
        concurrent: whether all queue families of the device use it at the same time
        modifiers: of tiling "drm", what the driver may choose from; by default all that it knows
        export, name, access, security: as for `allocate`
        dedicated: give the allocation to this image alone; by default where the device wants it
        memory: "host_visible", "device_local", or the index of a memory type; by default
            "host_visible" for tiling "linear"

        Unsupported, with the member that the device refuses, where it makes no such image.

        >>> import extmem
        >>> with extmem.open_device(driver="embedded") as gpu:
        ...     with gpu.image((480, 640), "rgba8", export="opaque_win32") as picture:
        ...         picture.shape, picture.tiling
        ((480, 640), 'optimal')
        """
        return making.make_image(
            self._device,
            shape,
            format,
            levels=levels,
            layers=layers,
            samples=samples,
            tiling=tiling,
            usage=usage,
            flags=flags,
            view_formats=view_formats,
            concurrent=concurrent,
            modifiers=modifiers,
            export=export,
            name=name,
            access=access,
            security=security,
            dedicated=dedicated,
            memory=memory,
        )

    def import_image(
        self,
        handle: Any = None,
        *,
        name: str | None = None,
        handle_type: str | int | None = None,
        passport: Passport | bytes | None = None,
        size: int | None = None,
        memory_type: str | int | None = None,
        dedicated: bool | None = None,
        modifier: int | None = None,
        **described: Any,
    ) -> Image:
        """Import an image that was exported elsewhere. The handle stays the caller's, open.

        handle, name, handle_type, passport: as for `import_memory`. With a passport, which a
            `Handle` has and a Windows handle or name may carry, nothing else is needed
        size, memory_type, dedicated, modifier: as the exporter had them, without a passport
        described: shape, format, levels, layers, samples, tiling, usage, flags, view_formats and
            concurrent, as for `image`. PassportError if a passport says otherwise

        It has to be acquired before it is used: `Image.acquire`.

        >>> import extmem
        >>> with extmem.open_device(driver="embedded") as gpu:
        ...     with gpu.image((2, 2), "r8", export="opaque_win32") as picture:
        ...         with picture.export() as handle, gpu.import_image(handle) as other:
        ...             other.shape, other.acquired
        ((2, 2), False)
        """
        made = making.import_image(
            self._device,
            handle,
            name=name,
            handle_type=handle_type,
            passport=passport,
            size=size,
            memory_type=memory_type,
            dedicated=dedicated,
            modifier=modifier,
            described=described,
        )
        made.memory._origin = remembered(handle, made.memory)
        return made

    def upload(
        self,
        image: Image,
        array: Any,
        *,
        level: int = 0,
        layer: int = 0,
        plane: int = 0,
        wait: Semaphores = (),
        signal: Semaphores = (),
    ) -> None:
        """Copy an array into one plane of one level of one layer of an image, and wait for it.

        The bytes are copied twice: from the array into memory that both sides see, and from there
        by the device into the image. Linear images in host-visible memory have `Image.numpy`.

        array: of exactly the shape and dtype that `Image.layout_of_array` tells
        wait, signal: as for `copy`

        >>> import extmem, numpy
        >>> with extmem.open_device(driver="embedded") as gpu, gpu.image((2, 2), "r8") as picture:
        ...     gpu.upload(picture, numpy.array([[1, 2], [3, 4]], "uint8"))
        ...     gpu.readback(picture).tolist()
        [[1, 2], [3, 4]]
        """
        copying.upload(self._device, image, array, level, layer, plane, wait, signal)

    def readback(
        self,
        image: Image,
        *,
        level: int = 0,
        layer: int = 0,
        plane: int = 0,
        wait: Semaphores = (),
        signal: Semaphores = (),
    ) -> np.ndarray[Any, Any]:
        """A copy of one plane of one level of one layer of an image, as an array.

        The bytes are copied twice, as for `upload`; the array is the caller's own.

        wait, signal: as for `copy`
        """
        return copying.readback(self._device, image, level, layer, plane, wait, signal)
