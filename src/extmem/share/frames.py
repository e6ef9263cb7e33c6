"""A frame of a stream, as its subscriber has it."""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from extmem import waiting
from extmem.errors import ClosedError, StreamEnded, Unsupported
from extmem.handles.words import SLICE
from extmem.interop.dlpack import CPU, CUDA, export
from extmem.share import slots as parts
from extmem.share.leases import After, Lease, Leased, Moment, moments_of
from extmem.share.slots import Fields

if TYPE_CHECKING:
    from extmem.images.image import Image
    from extmem.memory import Memory
    from extmem.resources import Buffer
    from extmem.share.joining import Line
    from extmem.share.pictures import GivenPictures

__all__ = ["Frame"]


class Frame:
    """A frame of a stream. It is there until the next step of the iteration, or until `release` if
    it is kept.

    **A tensor that was made from it by DLPack keeps the frame, and with it a slot, for as long as
    it is alive, whatever else is done.** An array (`numpy`) does not.
    """

    __slots__ = ("__weakref__", "_kept", "_lease", "_line", "_slot", "_until", "sequence", "time")

    def __init__(self, line: Line) -> None:
        """It has no slot yet: `Line.take` sees to the rest."""
        self._line = line
        self._slot: int | None = None
        self._kept = False
        self._lease: Lease | None = None  # once there is a tensor
        self.sequence = 0  # its number; the publisher's first one is 1
        # When it was published: nanoseconds of `time.monotonic_ns`, one clock for all processes.
        self.time = 0
        self._until = 0  # what the publisher's timeline reaches when it is written; 0 once seen

    def _own(self) -> int:
        if self._slot is None:
            raise ClosedError(
                f"frame {self.sequence} was released: the next step of the iteration does that, "
                "unless it is kept (Frame.keep)"
            )
        return self._slot

    # -- whether it is written --------------------------------------------------------------------

    @property
    def ready(self) -> list[Moment]:
        """What to wait for on the device before the frame is read, `[(semaphore, value)]`; empty
        once it is written. Only of a subscription with pending=True can it be more than that.

            gpu.copy(frame.buffer, target, wait=frame.ready)

        If the publisher dies before, the device goes on within a second, for as long as this
        process lives and the frame is held, and reads what was not written to its end: `wait` tells
        afterwards whether it was. StreamEnded if that is known already.
        """
        self._own()
        timeline = self._line.slots.timeline
        if self._seen_written() or timeline is None:
            return []
        self._line.look_after()
        return [(timeline, self._until)]

    def _seen_written(self) -> bool:
        """Whether it is written, without waiting. StreamEnded if it will never be."""
        if self._until and self._line.reached(self._until):
            self._until = 0
        return not self._until

    def wait(self, timeout: float | None = None) -> None:
        """Wait here until it is written.

        timeout: seconds; TimeoutError when they have passed. None waits for ever

        StreamEnded if the publisher dies before.
        """
        deadline = waiting.deadline_of(timeout)
        while not self._written(deadline):
            if deadline is not None and time.monotonic_ns() >= deadline:
                raise TimeoutError(
                    f"frame {self.sequence} was handed over, and process {self._line.process_id}, "
                    f"which promised it, has not written it in {timeout:g} s"
                )
            # Whoever is gone may have kept the promise last of all.
            if self._line.seat.abandoned and not self._written(0):
                raise StreamEnded(
                    f"process {self._line.process_id} has died, or ended the stream, before its "
                    f"device had written frame {self.sequence}"
                )

    def _written(self, deadline: int | None) -> bool:
        """Whether it is, after a slice of waiting."""
        if not self._until:
            return True
        timeline = self._line.slots.timeline
        if timeline is not None:
            seconds = SLICE
            if deadline is not None:
                seconds = min(seconds, max((deadline - time.monotonic_ns()) / 1e9, 0))
            try:
                timeline.wait(self._until, timeout=seconds)
            except TimeoutError:
                return False
        if not self._seen_written():
            return False
        if self._slot is not None:
            self._line.slots.invalidate(self._slot)
        return True

    # -- looking at it ----------------------------------------------------------------------------

    def numpy(self, plane: int = 0) -> np.ndarray[Any, Any]:
        """The frame as an array, to be read, without a copy. It shows this frame until that is
        released, and whatever the slot holds after that. A frame that is not written yet is waited
        for.

        Of images it is one plane, with strides; where their tiling is linear and the processor sees
        them. Of others there is `readback`, which copies.
        """
        slot = self._own()
        shown = self._line.slots.numpy(slot, plane)
        self._look(slot)
        return shown

    def _look(self, slot: int) -> None:
        """The processor is about to look."""
        self.wait()
        pictures = self._line.pictures
        if pictures is not None:
            pictures.look(slot)
            self._line.slots.invalidate(slot)

    def readback(self, *, plane: int = 0) -> np.ndarray[Any, Any]:
        """A copy of one plane of the image, as an array of the caller's own: `Device.readback`. A
        frame that is not written yet is waited for.

        >>> import extmem, numpy
        >>> with extmem.publish("doctest", shape=(2, 2), format="r8") as stream:
        ...     with extmem.subscribe("doctest", timeout=5) as frames:
        ...         with stream.frame() as frame:
        ...             frame.upload(numpy.array([[1, 2], [3, 4]], "uint8"))
        ...         next(frames).readback().tolist()
        [[1, 2], [3, 4]]
        """
        slot = self._own()
        self._drawn()
        self.wait()
        image = self._drawn().acquire(slot)
        return image.device.readback(image, plane=plane)

    def _drawn(self) -> GivenPictures:
        pictures = self._line.pictures
        if pictures is None:
            raise Unsupported(parts.NO_IMAGES)
        return pictures

    def __dlpack_device__(self) -> tuple[int, int]:
        """Where the frame is, for DLPack: with the processor, or on CUDA's GPU."""
        slots, slot = self._line.slots, self._own()
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
        are those of `Array.__dlpack__`. It is to be read alone; PyTorch does not mind that, and
        whoever writes there changes the frame for all.

        On CUDA's GPU the consumer's stream waits until the frame is written, and the frame goes
        back when the tensor is gone and that stream has come to what it was given until then.
        """
        line, slot = self._line, self._own()
        if line.slots.where == "cuda" and dl_device != CPU:
            found = line.slots.on_gpu(slot, self._leased())
            return found.__dlpack__(
                stream=stream, max_version=max_version, dl_device=dl_device, copy=copy
            )
        shown = line.slots.array(slot)
        self._look(slot)
        if not copy:
            shown = np.asarray(_Held(shown, self._leased()))
        return export(
            shown,
            bfloat16=line.slots.format.bfloat16,
            stream=stream,
            max_version=max_version,
            dl_device=dl_device,
            copy=copy,
        )

    def _leased(self) -> Leased:
        if self._lease is None:
            self._lease = self._line.lease_of(self._own())
        line = self._line
        return Leased(self._lease, line.leases, line.returns, self.ready, self._finish)

    def _finish(self) -> None:
        """Wait for all that CUDA's GPU does."""
        from extmem.interop.cuda.driver import call

        memory = self._line.slots.memories[0]
        if not memory.closed:
            with memory.cuda().gpu.current():
                call("cuCtxSynchronize")

    @property
    def memory(self) -> Memory:
        """The memory of its slot, for work of the device. It must not be written. Images of CUDA's
        are `memory.cuda().image`.
        """
        return self._line.slots.memories[self._own()]

    @property
    def buffer(self) -> Buffer:
        """The slot as a buffer, for the same. It belongs to the subscription."""
        return self._line.slots.buffer(self._own())

    @property
    def image(self) -> Image:
        """The slot as an image in the layout GENERAL, to be read by the device. It belongs to the
        subscription, which has acquired it: what is submitted from now on sees the frame, also
        where the publisher's device still writes it. Others read it at the same time, so neither
        its pixels nor its layout may be changed. Unsupported if the frames are no images.
        """
        slot = self._own()
        pictures = self._drawn()
        if pictures.images[slot].ownership.here:
            return pictures.images[slot]
        return pictures.acquire(slot, self.ready)

    @property
    def fields(self) -> Fields:
        """What the publisher sent with it. ValueError if that cannot be read."""
        return parts.decode_fields(self._line.board.fields(self._own()))

    # -- the end ----------------------------------------------------------------------------------

    @property
    def released(self) -> bool:
        """Whether it may have been written anew."""
        return self._slot is None

    def keep(self) -> Self:
        """Hold it until `release`, or the end of a `with`, beyond the steps of the iteration. It
        takes a slot for that time.
        """
        self._own()
        self._kept = True
        return self

    def release(self, *, after: After = None, stream: Any = None) -> None:
        """Let the publisher write its slot anew: now, or when a device is done with it. Safe to
        call again.

        after: (semaphore, value), or a list of such: timelines, and what they have to reach before
        stream: of PyTorch or CuPy, or its number: CUDA's stream that has to come to this point
            before. Tensors by DLPack need neither, they keep the frame by themselves

        This process waits for that, and not the caller. If it dies meanwhile, the slot is free.
        """
        if self._slot is None:
            return
        moments = moments_of(after)
        if stream is not None:
            if not self._line.slots.may_be_cudas:
                raise Unsupported(
                    "stream= is of frames on CUDA's GPU, and these are not: give what the device "
                    "signals, release(after=(semaphore, value))"
                )
            moments.append(self._line.returns.signal(stream))
        self._line.give_back(self, after=moments)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        if getattr(self, "_slot", None) is not None:
            self.release()

    def __repr__(self) -> str:
        state = ", released" if self._slot is None else ", kept" if self._kept else ""
        return f"<Frame {self.sequence}{state}>"


class _Held:
    """What a tensor with the processor keeps alive: the array of its slot, and the frame."""

    def __init__(self, array: np.ndarray[Any, Any], order: Leased) -> None:
        self.array = array
        self.__array_interface__ = array.__array_interface__
        order.begin(None)
        weakref.finalize(self, order.over).atexit = False
