"""Image: pixels in memory of their own, their views, and their way to others."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from extmem import ownership, vk
from extmem.errors import Unsupported
from extmem.handles.handle import Handle
from extmem.images.formats import aspect_of, image_format
from extmem.images.infos import LAYOUTS, SHARED, TILINGS, TYPES, shape_of
from extmem.memory import Memory
from extmem.ownership import Ownership
from extmem.share.passport import ImageInfo, Passport
from extmem.submitting import Semaphores, submit
from extmem.vk import mappings

if TYPE_CHECKING:
    import numpy as np

    from extmem.copying import Stages
    from extmem.device import Device

__all__ = ["Image"]

_LINEAR, _DRM = TILINGS["linear"], TILINGS["drm"]
_UNDEFINED, _GENERAL = LAYOUTS["undefined"], LAYOUTS["general"]
_MEMORY_PLANES = (
    int(vk.VK_IMAGE_ASPECT_MEMORY_PLANE_0_BIT_EXT),
    int(vk.VK_IMAGE_ASPECT_MEMORY_PLANE_1_BIT_EXT),
    int(vk.VK_IMAGE_ASPECT_MEMORY_PLANE_2_BIT_EXT),
)


class Image:
    """An image in memory of its own, made by `Device.image` or `Device.import_image`.

    >>> import extmem
    >>> with extmem.open_device(driver="embedded") as gpu:
    ...     with gpu.image((2, 3), format="rgba8", tiling="linear") as picture:
    ...         picture.numpy()[1, 2] = 10, 20, 30, 255
    ...         gpu.readback(picture)[1].tolist()
    [[0, 0, 0, 0], [0, 0, 0, 0], [10, 20, 30, 255]]
    """

    def __init__(self, device: Device, handle: vk.VkImage, memory: Memory, info: ImageInfo) -> None:
        self.device = device
        self.memory = memory  # for this image alone; closing either closes both
        self.info = info  # how it was created, in Vulkan's numbers
        self.format = image_format(info.format)
        imported = memory.imported
        types = memory.exported + ((imported,) if imported else ())
        self.ownership = Ownership(  # who may use it, as far as this process knows
            what=f"the image {TYPES[info.type]} {self.shape} {self.format.name}",
            types=types,
            concurrent=info.sharing == SHARED,
            layout=_UNDEFINED,
            here=imported is None,
            untouched=imported is not None,
        )
        self._vk = handle
        self._stages: Stages | None = None  # of a stream's, which is copied again and again

    # -- state ----------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the image was destroyed."""
        return self.memory.closed

    @property
    def handle(self) -> vk.VkImage:
        """The VkImage, for calls of `extmem.vk`; still owned by this object."""
        _ = self.memory.handle  # says why, where it is closed
        return self._vk

    @property
    def shape(self) -> tuple[int, ...]:
        """(width,), (height, width) or (depth, height, width) of the largest level."""
        return shape_of(self.info)

    @property
    def levels(self) -> int:
        """How many mip levels it has."""
        return self.info.levels

    @property
    def layers(self) -> int:
        """How many array layers it has."""
        return self.info.layers

    @property
    def samples(self) -> int:
        """How many samples a pixel has."""
        return self.info.samples

    @property
    def tiling(self) -> str:
        """How its pixels lie in memory: "optimal" (only the driver knows), "linear" or "drm"."""
        return next(word for word, number in TILINGS.items() if number == self.info.tiling)

    @property
    def modifier(self) -> int | None:
        """With tiling "drm": the DRM format modifier that the driver took."""
        return self.info.modifier

    @property
    def acquired(self) -> bool:
        """Whether it may be used here, as far as this process knows."""
        return self.ownership.here

    def __repr__(self) -> str:
        if self.closed:
            return "<Image, closed>"
        parts = [f"{TYPES[self.info.type]} {self.shape} {self.format.name}", self.tiling]
        counts = {"levels": self.levels, "layers": self.layers, "samples": self.samples}
        parts += [f"{count} {what}" for what, count in counts.items() if count > 1]
        if not self.ownership.here:
            parts.append("not acquired" if self.ownership.untouched else "released")
        return f"<Image {', '.join(parts)}, in {self.memory!r}>"

    # -- pixels ---------------------------------------------------------------------------------

    def layout_of_array(self, level: int = 0, layer: int = 0, plane: int = 0) -> tuple[Any, Any]:
        """The shape and the dtype of the array for one part of this image.

        >>> import extmem
        >>> with extmem.open_device(driver="embedded") as gpu:
        ...     with gpu.image((4, 6), format="nv12") as picture:
        ...         picture.layout_of_array(plane=1)
        ((2, 3, 2), dtype('uint8'))
        """
        import numpy as np

        counts = (self.levels, self.layers, len(self.format.planes))
        for what, index, count in zip(
            ("level", "layer", "plane"), (level, layer, plane), counts, strict=True
        ):
            if not 0 <= index < count:
                raise IndexError(f"{what} {index}; this image has {count} of them, from 0")
        found = self.format.planes[plane]
        return found.shape(shape_of(self.info, level)), np.dtype(found.dtype)

    def numpy(self, level: int = 0, layer: int = 0, plane: int = 0) -> np.ndarray[Any, Any]:
        """One plane of one level of one layer as a strided NumPy array, without a copy.

        For images with linear tiling in host-visible memory. What lies between the rows is not in
        view. An image with living arrays cannot be closed.

        >>> import extmem
        >>> with extmem.open_device(driver="embedded") as gpu:
        ...     with gpu.image((3, 5), format="r8", tiling="linear") as picture:
        ...         picture.numpy().shape, picture.numpy().strides
        ((3, 5), (64, 1))
        """
        import numpy as np

        shape, dtype, offset, strides = self._lies(level, layer, plane)
        if not self.memory.host_visible:
            raise Unsupported(
                f"{self!r} is not visible to the processor: make it with memory='host_visible', or "
                "copy with Device.upload and Device.readback"
            )
        self._look()
        view = self.memory._bytes()
        if self.ownership.read_only:
            view = view.toreadonly()
        return np.ndarray(shape, dtype, mappings.buffer_of(view), offset, strides)

    def _lies(
        self, level: int = 0, layer: int = 0, plane: int = 0
    ) -> tuple[tuple[int, ...], Any, int, tuple[int, ...]]:
        """Where a part lies: its array's shape and dtype, its first byte, and its strides in bytes.
        Unsupported where the driver alone knows.
        """
        shape, dtype = self.layout_of_array(level, layer, plane)
        if (
            self.info.tiling == _DRM
            and self.info.modifier == 0
            and len(self.info.planes) == len(self.format.planes)
        ):  # DRM_FORMAT_MOD_LINEAR
            aspect = _MEMORY_PLANES[plane]
        elif self.info.tiling == _LINEAR and self.samples == 1:
            aspect = aspect_of(self.format, plane)
        else:
            raise Unsupported(
                f"only the driver knows how the pixels of {self!r} lie: make it with "
                "tiling='linear', copy with Device.upload and Device.readback, or take CUDA's "
                "mipmapped array of it (image.memory.cuda().image)"
            )
        found = vk.vkGetImageSubresourceLayout(
            self.device.handle,
            self.handle,
            vk.VkImageSubresource(aspectMask=aspect, mipLevel=level, arrayLayer=layer),
        )
        texel = self.format.planes[plane].texel
        pitches = (found.depthPitch, found.rowPitch, texel)[2 - self.info.type :]
        strides = pitches + ((dtype.itemsize,) if len(shape) > len(pitches) else ())
        # Of a level or plane it is where that starts; array layers are Vulkan's own to count.
        return shape, dtype, found.offset, strides

    def _look(self) -> None:
        """The processor is about to look, and only in the layout GENERAL does it see pixels."""
        state = self.ownership
        if state.here and state.layout != _GENERAL:
            before = state.layout
            submit(
                self.device,
                lambda it: ownership.transition(it, self, before, _GENERAL),
                submitted=state.in_general,
            )
        elif not state.here and state.keeper:
            state.use()  # says why not
        elif not state.here and not state.warned:
            state.warned = True
            ownership.log.warning(
                "%s is looked at while it is not owned here: what others write may be half seen",
                state.what,
            )

    def flush(self) -> None:
        """Make what the processor wrote visible to the device. Needed unless host_coherent."""
        self.memory.flush()

    def invalidate(self) -> None:
        """Make what the device wrote visible to the processor. Needed unless host_coherent."""
        self.memory.invalidate()

    # -- sharing --------------------------------------------------------------------------------

    @property
    def passport(self) -> Passport:
        """What an importer must know: `Device.import_image` needs nothing else beside a handle."""
        return self.memory.passport

    def export(self, handle_type: str | int | None = None) -> Handle:
        """A new OS handle of this image's memory, with its passport, owned by what is returned.

        `handle_type` may be left out where the image is exportable as one type only.
        """
        return self.memory.export(handle_type)

    def acquire(
        self,
        *,
        layout: str | int = "general",
        source: str = "external",
        wait: Semaphores = (),
    ) -> None:
        """Take it over from others, and wait until that is done. What they wrote is seen then.

        layout: in which they released it; "undefined": all of it will be overwritten here
        source: "external" for users of the same device and driver, "foreign" for all others
        wait: semaphores to wait for first, each alone or as (semaphore, value)
        """
        ownership.acquire(self.device, self, self.ownership, layout, source, wait)

    def release(
        self,
        *,
        layout: str | int = "general",
        to: str = "external",
        signal: Semaphores = (),
    ) -> None:
        """Give it to others, and wait until that is done. Not to be used here until `acquire`.

        layout: in which they will acquire it
        to: "external" for users of the same device and driver, "foreign" for all others
        signal: semaphores to signal then, each alone or as (semaphore, value)
        """
        ownership.release(self.device, self, self.ownership, layout, to, signal)

    # -- the end --------------------------------------------------------------------------------

    def close(self) -> None:
        """Destroy the image and free its memory. Raises ViewsAlive while arrays of it are alive.

        Safe to call again.
        """
        self.memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.memory.__exit__(kind, error, trace)
