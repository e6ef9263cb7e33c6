"""How a process joins a stream, and what it has of it then: a line to the publisher, and frames."""

from __future__ import annotations

import contextlib
import errno
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from extmem.drivers.embedded.limits import DRIVER_UUID
from extmem.errors import (
    ClosedError,
    DriverNotFound,
    ExtmemError,
    StreamEnded,
    StreamFull,
    Unsupported,
    plain,
)
from extmem.interop.dlpack import CPU, export
from extmem.opening import open_device
from extmem.share import slots as parts
from extmem.share.channel import Parcel, connect
from extmem.share.passport import Passport
from extmem.share.ring import OVER, Board, Offer, TakenSeat, opened_pages
from extmem.share.slots import Fields, Greeting, Slots, listener_name

if TYPE_CHECKING:
    import numpy as np

    from extmem.device import Device
    from extmem.memory import Memory

__all__ = ["AGAIN", "Frame", "Line", "reach"]

AGAIN = 0.02  # seconds between two attempts to reach a publisher that goes or comes just now
_TO_ANSWER = 5.0  # seconds that a publisher gets to answer, once it is there


def reach(name: str, policy: str, device: Device | None, patience: float) -> Line:
    """Join a stream."""
    parcel, process_id = _answer(name, time.monotonic() + patience)
    who = f"process {process_id}, which publishes {name!r},"
    with parcel, contextlib.ExitStack() as made:
        try:
            greeting = Greeting.decode(parcel.message)
            if greeting.refusal:
                raise StreamFull(f"{who} takes no more subscribers: {plain(greeting.refusal)}")
            if len(parcel.handles) != greeting.slots + 2:
                raise ValueError(f"{len(parcel.handles)} handles for {greeting.slots} slots")
            seat = TakenSeat(opened_pages(parcel.handles[1], None, greeting.seat))
            made.callback(seat.leave)  # at once, whatever is wrong: others may want it
            if policy == "all" and greeting.policy != "all":
                raise Unsupported(
                    f"the stream {name!r} leaves out frames that nobody has time for; publish it "
                    "with policy='all', or subscribe with policy='latest'"
                )
            line = _imported(greeting, parcel, seat, device, process_id)
            made.callback(line.slots.close)
        except (ValueError, TypeError) as error:
            if isinstance(error, ExtmemError):  # a device that does not fit, and the like
                raise
            raise _lie(who, error) from None
        if not seat.join(policy == "all"):
            raise StreamEnded(
                f"{who} ended the stream, or gave the seat away, before this process had taken it; "
                "subscribe again"
            )
        made.pop_all()
    return line


def _lie(who: str, error: Exception) -> ConnectionAbortedError:
    return ConnectionAbortedError(
        errno.ECONNABORTED, f"{who} sent what is no stream: {error}. Nothing of it was used"
    )


def _answer(name: str, until: float) -> tuple[Parcel, int]:
    """What a publisher gives to a newcomer, and which process it is."""
    while True:
        left = max(until - time.monotonic(), 0)
        try:
            with connect(listener_name(name), timeout=left) as other:
                return other.receive(timeout=max(left, _TO_ANSWER)), other.peer.process_id
        except TimeoutError:
            raise TimeoutError(
                errno.ETIMEDOUT, f"the publisher of {name!r} does not answer; is it stopped?"
            ) from None
        except (EOFError, BrokenPipeError, ConnectionResetError):  # it ends just now
            time.sleep(AGAIN)
        except ConnectionRefusedError:
            raise ConnectionRefusedError(
                errno.ECONNREFUSED,
                f"nobody publishes {name!r}; start the publisher first, or wait longer: patience=",
            ) from None


def _imported(
    greeting: Greeting, parcel: Parcel, seat: TakenSeat, device: Device | None, process_id: int
) -> Line:
    """Import what came. ValueError or TypeError if it is not what it should be."""
    board, _, *handles = parcel.handles
    shape, dtype, size = parts.format_of(greeting.shape, greeting.dtype)
    pages = opened_pages(board, greeting.slots, bytes(16))
    with contextlib.ExitStack() as made:
        opened = None
        if device is None:
            device = opened = made.enter_context(_device_of(handles[0].passport))
        memories = [made.enter_context(device.import_memory(each)) for each in handles]
        smallest = min(each.size for each in memories)
        if smallest < size:
            raise ValueError(f"slots of {smallest} bytes for frames of {size}")
        slots = Slots(memories, shape, dtype, writable=False, device=opened)
        made.pop_all()
    return Line(seat, Board(pages), slots, shape, dtype, process_id)


def _device_of(passport: object) -> Device:
    """Open the device that memory is on. Which driver that is, is not taken from a stranger."""
    if not isinstance(passport, Passport) or passport.place is None:
        raise ValueError("slots without a passport, which says on which device they are")
    place = passport.place
    driver = "embedded" if place.driver_uuid == DRIVER_UUID else "auto"
    try:
        return open_device(driver=driver, uuid=place.device_uuid)
    except DriverNotFound as error:
        raise DriverNotFound(
            f"the stream is on {plain(place.device_name)}, which the driver that would be taken "
            f"here does not have ({error}); open it and pass it: subscribe(..., device=...)"
        ) from None


class Line:
    """The connection to one publisher. It lasts for as long as anybody uses it: the subscription,
    or a frame that is held.
    """

    def __init__(
        self,
        seat: TakenSeat,
        board: Board,
        slots: Slots,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        process_id: int,
    ) -> None:
        self.seat = seat
        self.board = board
        self.slots = slots
        self.shape = shape
        self.dtype = dtype
        self.process_id = process_id
        # One that its own thread may have twice: the collector may release a frame at any time.
        self._lock = threading.RLock()
        self._uses = 1

    def take(self) -> Frame | None:
        """The next frame, if it is there."""
        with self._lock:  # first: another thread may be closing it
            if not self._uses:
                raise ClosedError("this subscription was closed meanwhile")
            self._uses += 1
        offer = None
        try:
            offer = self.seat.take(len(self.slots.memories))
        finally:
            if offer is None:
                self.leave()
        if offer is None:
            return None
        self.slots.invalidate(offer.slot)
        return Frame(self, offer)

    def give_back(self, frame: Frame, soon: bool = False) -> None:
        """A frame is held no more. soon: `take` follows."""
        with self._lock:
            slot, frame._slot = frame._slot, None
            if slot is None:
                return
        self.seat.give_back(slot, soon)
        self.leave()

    def leave(self) -> None:
        """One use is over; with the last one it ends."""
        with self._lock:
            self._uses -= 1
            if self._uses:
                return
        self.seat.leave()
        self.slots.close()

    def lost(self) -> bool:
        """Whether the publisher is gone, and has not ended the stream."""
        return self.seat.abandoned and self.seat.state != OVER


class Frame:
    """A frame of a stream. It is there until the next step of the iteration, or until `release` if
    it is kept.
    """

    __slots__ = ("__weakref__", "_kept", "_line", "_slot", "sequence", "time")

    def __init__(self, line: Line, offer: Offer) -> None:
        self._line = line
        self._slot: int | None = offer.slot
        self._kept = False
        self.sequence = offer.sequence  # its number; the publisher's first one is 1
        # When it was published: nanoseconds of `time.monotonic_ns`, one clock for all processes.
        self.time = line.board.time(offer.slot)

    def _own(self) -> int:
        if self._slot is None:
            raise ClosedError(
                f"frame {self.sequence} was released: the next step of the iteration does that, "
                "unless it is kept (Frame.keep)"
            )
        return self._slot

    def numpy(self) -> np.ndarray[Any, Any]:
        """The frame as an array, to be read, without a copy. It shows this frame until that is
        released, and whatever the slot holds after that.
        """
        return self._line.slots.array(self._own())

    def __dlpack_device__(self) -> tuple[int, int]:
        """Where the frame is, for DLPack: in the processor's memory."""
        self._own()
        return CPU

    def __dlpack__(self, **options: Any) -> Any:
        """The frame as a DLPack capsule, without a copy: `torch.from_dlpack(frame)`. The parameters
        are those of `Array.__dlpack__`. It is to be read alone; PyTorch does not mind that, and
        whoever writes there changes the frame for all.
        """
        return export(self.numpy(), **options)

    @property
    def memory(self) -> Memory:
        """The memory of its slot, for work of the device. It must not be written."""
        return self._line.slots.memories[self._own()]

    @property
    def fields(self) -> Fields:
        """What the publisher sent with it. ValueError if that cannot be read."""
        return parts.decode_fields(self._line.board.fields(self._own()))

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

    def release(self) -> None:
        """Let the publisher write its slot anew. Safe to call again."""
        self._line.give_back(self)

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
