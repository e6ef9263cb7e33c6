"""Slots that are images: who has them when, and how they look from here.

An image outside, with nobody or with any number of readers, is in the layout GENERAL, released to
"external". The publisher takes one as if it were new, which is no transfer: nobody has to release
it, and what was in it is gone. When the frame is left, the queue releases it, after whatever was
promised for it, and only then it is offered. Each subscriber acquires it from there, to read it,
and changes neither its pixels nor its layout, so that several do so at once. It releases nothing:
its slot goes back when its device has come past the acquisition. All of that is done when a frame
is asked for its image, so that who only passes a frame on, or has CUDA read it, pays nothing.

The images, their arrays and the buffers for copies are made once for each slot.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from extmem import ownership
from extmem.copying import Stages
from extmem.errors import ExtmemError, TensorError, Unsupported
from extmem.share.promises import Promises

if TYPE_CHECKING:
    from extmem.images.image import Image
    from extmem.share.leases import Moment
    from extmem.sync import Semaphore

__all__ = ["GivenPictures", "Pictures", "WrittenPictures"]

_KEEPER = "a frame of a stream"


class Pictures:
    """The images of a stream's slots, on one side of it. They are closed with their memories."""

    def __init__(self, images: Sequence[Image], *, read_only: bool) -> None:
        self.images = images
        self.device = images[0].device
        self.linear = images[0].tiling == "linear"
        self._read_only = read_only
        self._stages = Stages()
        self._arrays: dict[tuple[int, int], np.ndarray[Any, Any]] = {}
        # One that a thread may have twice: the collector may release a frame at any time.
        self._lock = threading.RLock()
        for each in images:
            each._stages = self._stages
            each.ownership.keeper = _KEEPER
            each.ownership.read_only = read_only

    # -- looks ----------------------------------------------------------------------------------

    def array(self, slot: int, plane: int = 0) -> np.ndarray[Any, Any]:
        """One plane of a slot, for who has it: a view with strides, without a copy."""
        found = self._arrays.get((slot, plane))
        if found is None:
            image = self.images[slot]
            if not self.linear or not image.memory.host_visible:
                raise Unsupported(self._no_array())
            shape, dtype, offset, strides = image._lies(plane=plane)
            view = image.memory._bytes()
            # As for plain memory: nobody can make the array of a subscriber writable again.
            whole = np.frombuffer(view.toreadonly() if self._read_only else view, np.uint8)
            found = np.ndarray(shape, dtype, whole, offset, strides)
            self._arrays[slot, plane] = found
        return found.view()

    def _no_array(self) -> str:
        copy = "frame.readback()" if self._read_only else "frame.upload(array)"
        cuda = "CUDA's mipmapped array, frame.memory.cuda().image"
        if self.linear:
            return (
                "the images of this stream are in memory that the processor does not see: copy "
                f"with {copy}, take {cuda}, or publish with memory='host_visible'"
            )
        return (
            "only the driver knows how the pixels of this stream's images lie: copy with "
            f"{copy}, take {cuda}, or publish with tiling='linear'"
        )

    def require_tensors(self) -> None:
        """TensorError where a frame is no array of numbers."""
        image = self.images[0]
        if image.format.planar:
            raise TensorError(
                f"frames of {image.format.name} have several planes, and are no tensors: take one "
                "plane, frame.readback(plane=...), or frame.numpy(plane=...) with tiling='linear'"
            )
        if not self.linear:
            raise TensorError(self._no_array())

    # -- the end --------------------------------------------------------------------------------

    def forget(self) -> None:
        """No array is handed out any more: those that nobody has any more let go of the memory."""
        self._arrays.clear()

    def close(self) -> None:
        """Once the device is done with them."""
        self._stages.close()


class WrittenPictures(Pictures):
    """A publisher's: each belongs to the draft that has its slot.

    written: what promises are made of, None where the device shares no timelines; to be closed here
    """

    def __init__(self, images: Sequence[Image], written: Semaphore | None) -> None:
        super().__init__(images, read_only=False)
        self.written = written
        for each in images:
            ownership.start_over(self.device, each)
        ownership.give(self.device, images)  # from now on they are in GENERAL, whoever asks

    def take(self, slot: int) -> Image:
        """The image of a slot, to be written from now on; it has what it happens to have."""
        image = self.images[slot]
        if not image.ownership.here:
            with self._lock:
                if not image.ownership.here:
                    # The processor does not wait for the queue by itself.
                    ownership.start_over(self.device, image, at_once=not self.linear)
        return image

    def hand_over(self, slot: int, promises: Promises) -> None:
        """The frame is left: have the image released after all that was promised of it, or here
        and now if nothing was.
        """
        image = self.images[slot]
        promised = promises.promised(slot)
        if promised is not None:

            def submit(end: Moment) -> None:
                ownership.give(
                    self.device,
                    [image] if image.ownership.here else [],  # else CUDA alone has written it
                    wait=[promised],
                    signal=[end],
                    at_once=True,
                )

            promises.release(slot, submit)
        elif image.ownership.here:
            ownership.give(self.device, [image])

    def drop(self, slot: int) -> None:
        """The frame is not published: the next one of this slot takes the image again."""
        self.images[slot].ownership.here = False

    def close(self) -> None:
        super().close()
        if self.written is not None:
            self.written.close()


class GivenPictures(Pictures):
    """A subscriber's, or an onlooker's: to be read, while others do so as well."""

    def __init__(self, images: Sequence[Image]) -> None:
        super().__init__(images, read_only=True)
        # What says that the device has come past an acquisition; none where it has no timelines,
        # which is waited for here then.
        self._acquired: Semaphore | None = None
        self._last = 0
        self._under_way: dict[int, int] = {}  # which of its values each slot waits for

    def acquire(self, slot: int, ready: Sequence[Moment] = ()) -> Image:
        """The image of a slot, acquired once it is ready: what is submitted later sees it."""
        image = self.images[slot]
        if not image.ownership.here:
            with self._lock:
                if not image.ownership.here:
                    self._submit(slot, image, ready)
        return image

    def _submit(self, slot: int, image: Image, ready: Sequence[Moment]) -> None:
        device = self.device
        if not device.timelines:
            ownership.receive(device, image, wait=ready, at_once=False)
            return
        if self._acquired is None:
            self._acquired = device.semaphore()
        value = self._last + 1
        ownership.receive(device, image, wait=ready, signal=[(self._acquired, value)])
        self._last = self._under_way[slot] = value

    def look(self, slot: int) -> None:
        """The processor is about to look: acquire it, and wait for that."""
        self.acquire(slot)
        value = self._under_way.get(slot)
        if value and self._acquired is not None:
            self._acquired.wait(value)

    def let_go(self, slot: int) -> list[Moment]:
        """The frame is over; what the device has still to come to before others may write it."""
        self.images[slot].ownership.here = False
        value = self._under_way.pop(slot, 0)
        if value and self._acquired is not None:
            # A device that is lost, or of the process that this one was forked from, does nothing.
            with contextlib.suppress(ExtmemError):
                if self._acquired.value < value:
                    return [(self._acquired, value)]
        return []

    def close(self) -> None:
        super().close()
        if self._acquired is not None:
            self._acquired.close()
