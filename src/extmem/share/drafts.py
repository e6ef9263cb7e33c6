"""A frame of a stream while its publisher writes it."""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from extmem.errors import ClosedError, Unsupported
from extmem.interop.cuda.streams import Lane, lane_of
from extmem.interop.cuda.views import Order
from extmem.interop.dlpack import CPU, CUDA, export
from extmem.memory import Memory
from extmem.resources import Buffer
from extmem.share.slots import NO_IMAGES, Fields

if TYPE_CHECKING:
    import numpy as np

    from extmem.images.image import Image
    from extmem.share.leases import Moment
    from extmem.share.pictures import WrittenPictures
    from extmem.share.stream import Stream

__all__ = ["Draft"]

_EARLIER = 5.0  # seconds for what was promised before, where CUDA cannot wait for that


class Draft:
    """A frame while it is written: what `Stream.frame` is.

    The processor writes it (`numpy`, a tensor), or the device does (`buffer`, `image`). What a
    device still does when the frame is left has to be promised.

    >>> import extmem
    >>> with extmem.open_device(driver="embedded") as gpu, gpu.allocate(64) as source:
    ...     with extmem.publish("doctest", shape=64, dtype="uint8", memory="device_local",
    ...                         device=gpu) as stream, gpu.buffer(source) as pixels:
    ...         with stream.frame() as frame:
    ...             gpu.copy(pixels, frame.buffer, signal=frame.promise())
    ...         stream.sequence
    1
    """

    def __init__(self, stream: Stream, timeout: float | None) -> None:
        self._stream = stream
        self._timeout = timeout
        self._slot: int | None = None
        self._cuda: set[Lane | None] = set()  # CUDA's streams that write it; None: any
        self.fields: Fields = {}  # to go with it: numbers, text, bytes, lists and dicts of them

    def _own(self) -> int:
        slot = self._slot
        if slot is None or self._stream._closed:
            self._stream._require_open()
            raise ClosedError(
                "this frame is not being written: use it inside of `with stream.frame() as frame`"
            )
        return slot

    # -- what writes it -------------------------------------------------------------------------

    def numpy(self, plane: int = 0) -> np.ndarray[Any, Any]:
        """The slot as an array, to be written, without a copy. It has what it had last.

        Of images it is one plane, with strides; where their tiling is linear and the processor sees
        them. What was in them is gone.
        """
        slot = self._own()
        if self._stream._pictures is not None:
            self._stream._pictures.array(slot, plane)  # first: there may be none
            self._stream._pictures.take(slot)
        return self._stream._slots.numpy(slot, plane)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Where the frame is, for DLPack: with the processor, or on CUDA's GPU."""
        slots, slot = self._stream._slots, self._own()
        return CPU if slots.where == "cpu" else (CUDA, slots.memories[slot].cuda().gpu.number)

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """The frame as a DLPack capsule, without a copy: `torch.from_dlpack(frame)`. The parameters
        are those of `Array.__dlpack__`.

        On CUDA's GPU what the consumer's stream is given until the frame is left belongs to the
        frame, and is promised with it.
        """
        slots, slot = self._stream._slots, self._own()
        if slots.where == "cuda" and dl_device != CPU:
            found = slots.on_gpu(slot, _Written(self._cuda))
            return found.__dlpack__(
                stream=stream, max_version=max_version, dl_device=dl_device, copy=copy
            )
        shown = slots.array(slot)
        if self._stream._pictures is not None:
            self._stream._pictures.take(slot)
        return export(
            shown,
            bfloat16=slots.format.bfloat16,
            stream=stream,
            max_version=max_version,
            dl_device=dl_device,
            copy=copy,
        )

    @property
    def memory(self) -> Memory:
        """The slot's memory, for work of the device that is done before the frame is left, or is
        promised. Images of CUDA's are `memory.cuda().image`.
        """
        return self._stream._slots.memories[self._own()]

    @property
    def buffer(self) -> Buffer:
        """The slot as a buffer, for the same. It belongs to the stream."""
        return self._stream._slots.buffer(self._own())

    @property
    def image(self) -> Image:
        """The slot as an image, for the same. It belongs to the stream, which hands it over.

        It is in the layout GENERAL, and has to be in that when the work with it is done. What was
        in it is gone: all of it has to be written. Unsupported if the frames are no images.
        """
        slot = self._own()
        return self._drawn().take(slot)

    def upload(self, array: Any, *, plane: int = 0) -> None:
        """Copy an array into one plane of the image, and wait for it: `Device.upload`.

        >>> import extmem, numpy
        >>> with extmem.publish("doctest", shape=(2, 2), format="r8") as stream:
        ...     with stream.frame() as frame:
        ...         frame.upload(numpy.array([[1, 2], [3, 4]], "uint8"))
        ...     stream.sequence
        1
        """
        image = self.image
        image.device.upload(image, array, plane=plane)

    def _drawn(self) -> WrittenPictures:
        pictures = self._stream._pictures
        if pictures is None:
            raise Unsupported(NO_IMAGES)
        return pictures

    def promise(self) -> list[Moment]:
        """What the device signals when the frame is written, `[(semaphore, value)]`: the frame may
        be left before. Subscribers have it at once and see that it is not ready; the slot is not
        written anew before that. Who promises has to keep it, frame by frame in their order.

            gpu.submit(wait=[(rendered, 7)], signal=frame.promise())

        That holds for a frame that is left by an exception as well, since the device may be at it:
        its slot is not given out, and `Stream.close` waits up to 5 s, until this or a later promise
        is kept. If nothing was submitted, `semaphore.signal(value)` keeps it.

        An image is released by the device's queue when the frame is left, behind what the queue was
        given until then and after the promise. So what keeps the promise on that queue has to be
        submitted before.

        Unsupported if the device shares no timeline semaphores.
        """
        return [self._stream._promises.make(self._own())]

    # -- the with ---------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._slot is not None:
            raise RuntimeError("this frame is being written already; ask for another: frame()")
        try:
            self._stream._claim(self, self._timeout)
        except BaseException:  # Ctrl-C, say, right behind it
            self._stream._drop(self)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stream = self._stream
        stream._require_own()
        try:
            if self._cuda:  # also of a frame that is dropped: its slot is not free before
                self._promise_for_cuda()
            if error is None:
                stream._publish(self, self.fields)
        finally:
            if self._slot is not None:  # it was not published
                stream._drop(self)

    def _abandon(self) -> None:
        """Nobody will leave it: have its slot free once CUDA is done with that."""
        with suppress(Exception):
            if self._cuda:
                self._promise_for_cuda()
        self._stream._drop(self)

    def _promise_for_cuda(self) -> None:
        """Have CUDA's stream say when it is done. Several are brought to one end here. If that
        fails, all that the GPU does is over afterwards.
        """
        from extmem.interop.cuda.driver import call

        streams, self._cuda = self._cuda, set()
        gpu = self.memory.cuda().gpu
        timeline = self._stream._promises.timeline

        def finish() -> None:
            with gpu.current():
                call("cuCtxSynchronize")

        # Another thread's default stream has no name here.
        known = [each[0] for each in streams if each is not None and each == lane_of(each[0])]
        if len(known) < len(streams) or timeline is None:
            finish()
            return
        *others, last = known
        try:
            with gpu.current():
                for each in others:
                    call("cuStreamSynchronize", each)
            there = timeline.cuda()  # before anything is promised: it may fail
        except BaseException:
            with suppress(Exception):
                finish()
            raise
        # Frames that are left at once have their values signalled in the order of these.
        with there.turn:
            ((_, value),) = self.promise()
            try:
                there.signal_next(value, last)
            except BaseException:
                with suppress(Exception):
                    finish()
                with suppress(Exception):  # the next frames wait for it, on the GPU
                    if timeline.value < value:
                        timeline.wait(value - 1, timeout=_EARLIER)
                        timeline.signal(value)
                raise


class _Written(Order):
    """Notes which streams write a frame."""

    def __init__(self, streams: set[Lane | None]) -> None:
        self._streams = streams

    def begin(self, stream: int | None) -> None:
        """The consumer will write on it. The slot is free: nothing has to be waited for."""
        self._streams.add(None if stream is None else lane_of(stream))
