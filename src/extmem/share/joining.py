"""How a process joins a stream, and what it has of it then: a line to the publisher, and frames."""

from __future__ import annotations

import contextlib
import errno
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

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
from extmem.images.infos import differences
from extmem.opening import open_device
from extmem.share.channel import Parcel, connect
from extmem.share.formats import Format
from extmem.share.frames import Frame
from extmem.share.leases import Lease, Leases, Moment, Returns
from extmem.share.passport import Passport
from extmem.share.pictures import GivenPictures
from extmem.share.promises import ABANDONED
from extmem.share.ring import OVER, Board, TakenSeat, opened_pages
from extmem.share.slots import Greeting, Slots, listener_name

if TYPE_CHECKING:
    from extmem.device import Device
    from extmem.handles.handle import Handle
    from extmem.memory import Memory
    from extmem.sync import Semaphore

__all__ = ["AGAIN", "Frame", "Line", "reach"]

AGAIN = 0.02  # seconds between two attempts to reach a publisher that goes or comes just now
_TO_ANSWER = 5.0  # seconds that a publisher gets to answer, once it is there


def reach(
    name: str,
    policy: str | None,
    device: Device | None,
    patience: float,
    user: int | str | None = None,
) -> Line:
    """Join a stream. policy: None to look on without a seat, which is given back at once."""
    parcel, process_id = _answer(name, time.monotonic() + patience, user)
    who = f"process {process_id}, which publishes {name!r},"
    with parcel, contextlib.ExitStack() as made:
        try:
            greeting = Greeting.decode(parcel.message)
            if greeting.refusal:
                raise StreamFull(f"{who} takes no more subscribers: {plain(greeting.refusal)}")
            if len(parcel.handles) != greeting.slots + 2 + greeting.timeline:
                raise ValueError(f"{len(parcel.handles)} handles for {greeting.slots} slots")
            seat = TakenSeat(opened_pages(parcel.handles[1], None, greeting.seat))
            made.callback(seat.leave)  # at once, whatever is wrong: others may want it
            if policy == "all" and greeting.policy != "all":
                raise Unsupported(
                    f"the stream {name!r} leaves out frames that nobody has time for; publish it "
                    "with policy='all', or subscribe with policy='latest'"
                )
            if policy is None:  # now: others may want the seat, and an import takes its time
                seat.leave()
            line = _imported(greeting, parcel, seat, device, process_id)
            made.callback(line.slots.close)
        except (ValueError, TypeError) as error:
            if isinstance(error, ExtmemError):  # a device that does not fit, and the like
                raise
            raise _lie(who, error) from None
        if policy is not None and not seat.join(policy == "all"):
            raise StreamEnded(
                f"{who} ended the stream, or gave the seat away, before this process had taken it; "
                "subscribe again"
            )
        if policy is not None:
            _lines.add(line)
        made.pop_all()
    return line


def _lie(who: str, error: Exception) -> ConnectionAbortedError:
    return ConnectionAbortedError(
        errno.ECONNABORTED, f"{who} sent what is no stream: {error}. Nothing of it was used"
    )


def _answer(name: str, until: float, user: int | str | None) -> tuple[Parcel, int]:
    """What a publisher gives to a newcomer, and which process it is."""
    while True:
        left = max(until - time.monotonic(), 0)
        try:
            with connect(listener_name(name), timeout=left, user=user) as other:
                return other.receive(timeout=max(left, _TO_ANSWER)), other.peer.process_id
        except TimeoutError:
            raise TimeoutError(
                errno.ETIMEDOUT, f"the publisher of {name!r} does not answer; is it stopped?"
            ) from None
        except (EOFError, BrokenPipeError, ConnectionResetError):  # it ends just now
            if time.monotonic() >= until:
                raise ConnectionRefusedError(
                    errno.ECONNREFUSED,
                    f"whoever has the name of {name!r} hangs up on whoever comes: it ends just "
                    "now, or publishes no stream; try again, or wait longer: patience=",
                ) from None
            time.sleep(AGAIN)
        except PermissionError as error:
            raise PermissionError(
                errno.EACCES, f"{error.strerror}. A publisher says who may: publish(..., users=)"
            ) from None
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
    promises = handles.pop() if greeting.timeline else None
    format = greeting.format
    pages = opened_pages(board, greeting.slots, bytes(16))
    with contextlib.ExitStack() as made:
        opened = None
        if device is None:
            device = opened = made.enter_context(_device_of(handles[0].passport))
        memories, pictures = _memories(device, format, handles, made)
        timeline = None
        if promises is not None:
            timeline = made.enter_context(device.import_semaphore(promises))
            if not timeline.timeline:
                raise ValueError("a binary semaphore in the place of a timeline")
        slots = Slots(
            memories, format, writable=False, device=opened, timeline=timeline, pictures=pictures
        )
        made.pop_all()
    return Line(seat, Board(pages), slots, process_id, pictures)


def _memories(
    device: Device, format: Format, handles: list[Handle], made: contextlib.ExitStack
) -> tuple[list[Memory], GivenPictures | None]:
    """The slots' memories, and what is in them where that is images."""
    for each in handles:
        _check(format, each)
    if format.texels is None:
        memories = [made.enter_context(device.import_memory(each)) for each in handles]
        smallest = min(each.size for each in memories)
        if smallest < format.size:
            raise ValueError(f"slots of {smallest} bytes for frames of {format.size}")
        return memories, None
    images = [made.enter_context(device.import_image(each)) for each in handles]
    return [each.memory for each in images], GivenPictures(images)


def _check(format: Format, handle: Handle) -> None:
    """What a slot is has to be what the greeting says. ValueError if it is not."""
    passport = handle.passport
    image = passport.image if isinstance(passport, Passport) else None
    if format.texels is None:
        if image is not None:
            raise ValueError("slots that are images, for frames that are none")
        return
    if image is None:
        raise ValueError(f"slots without images, for {format}")
    wanted = format.image(handle.handle_type.bit)
    if image != wanted:
        told = "; ".join(differences(image, wanted)) or "in another layout, or for other handles"
        raise ValueError(f"slots that are other images than {format}: {plain(told)}")


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


# Those whose seat is not given back. The collector calls the finalizers of all that lies in one
# cycle in any order, and what a frame needs to be given back must not go before it.
_lines: set[Line] = set()


class Line:
    """The connection to one publisher. It lasts for as long as anybody uses it: the subscription,
    a frame that is held, or a tensor or work of a device that keeps one.
    """

    def __init__(
        self,
        seat: TakenSeat,
        board: Board,
        slots: Slots,
        process_id: int,
        pictures: GivenPictures | None,
    ) -> None:
        self.seat = seat
        self.board = board
        self.slots = slots
        self.pictures = pictures  # the slots' images, if they are such
        self.shape = slots.format.shape
        self.dtype = slots.format.dtype
        self.process_id = process_id
        self.leases = Leases()
        self.returns = Returns(self._timeline)
        # One that its own thread may have twice: the collector may release a frame at any time.
        self._lock = threading.RLock()
        self._joined = True  # the subscription has it
        self._uses = 0  # frames, what keeps one, and who is about to take one
        self._over = False  # the last one has left
        self._looked_after = False  # a device may wait for the publisher
        self._last_reached = 0  # of the timeline, before `let_go` moved it on

    def _timeline(self) -> Semaphore:
        """For CUDA, which signals when it is done."""
        kind = "opaque_win32" if sys.platform == "win32" else "opaque_fd"
        return self.slots.memories[0].device.semaphore(export=kind)

    def take(self) -> Frame | None:
        """The next frame, if it is there."""
        # Ctrl-C may come wherever something is called. Once the frame has a slot, it has a use as
        # well, and gives back both when it is forgotten.
        frame, entered = Frame(self), False
        try:
            with self._lock:  # another thread may be closing it
                if not self._joined:
                    raise ClosedError("this subscription was closed meanwhile")
                self._uses += 1
                entered = True
            self.seat.take(len(self.slots.memories), frame)
            slot = frame._slot
            if slot is not None:
                self.slots.invalidate(slot)
                frame.time, frame._until = self.board.told(slot)
                return frame
            if self.leases.any:  # there is time for that now
                self.leases.settle()
            return None
        finally:
            if frame._slot is None and entered:
                with self._lock:
                    self._uses -= 1
                if not self._joined:
                    self._end()

    def give_back(self, frame: Frame, soon: bool = False, after: Sequence[Moment] = ()) -> None:
        """A frame is held no more. soon: `take` follows; after: when devices are done with it"""
        owed = self.seat.owed
        with self._lock:
            slot = frame._slot
            if slot is None:
                return
            if self.pictures is not None:
                after = [*after, *self.pictures.let_go(slot)]
            lease = frame._lease
            if lease is not None or after:
                lease = lease or self.lease_of(slot)
                lease.release(list(after))
                frame._slot = frame._lease = None
            else:  # in one step, as far as Ctrl-C can see
                self._uses -= 1
                frame._slot = None
                owed.append(slot)
        if lease is not None:
            self.leases.add(lease)
            return
        if not soon:
            self.seat.settle()
        if not self._joined:
            self._end()

    def lease_of(self, slot: int) -> Lease:
        """What keeps a slot beyond the release of its frame."""

        def end() -> None:
            with self._lock:
                self._uses -= 1
                self.seat.owed.append(slot)
            self.seat.settle()
            if not self._joined:
                self._end()

        return Lease(end)

    def leave(self) -> None:
        """The subscription is over; with the last frame that is held, all of it is. Safe to call
        again, where it was interrupted.
        """
        self._joined = False
        self._end()

    def _end(self) -> None:
        """Give back the seat, if nobody needs it any more."""
        with self._lock:
            if self._joined or self._uses or self._over:
                return
            self._over = True
        try:
            if self._looked_after:
                self._look()
            self.seat.leave()
            if sys.is_finalizing():  # the process ends, and no driver can be called any more
                return
            self.leases.close()
            self.returns.close()
            self.slots.close()
            _lines.discard(self)  # last
        except BaseException:
            self._over = False
            raise

    def reached(self, until: int) -> bool:
        """Whether a frame is written that waits for this value of the timeline. StreamEnded if
        nobody can say that any more.
        """
        timeline = self.slots.timeline
        if timeline is None or until <= self._last_reached:
            return True
        value = timeline.value
        if value < until:
            return False
        # Also if it was written: a subscriber has moved the timeline on, and this one cannot know.
        if value - until >= ABANDONED:
            raise StreamEnded(
                f"process {self.process_id} has died, or ended the stream without keeping its "
                "promise, and nobody knows whether its device had written this frame"
            )
        return True

    def let_go(self) -> None:
        """The publisher has died: nobody keeps its promises, and what waits for them on a device
        must not wait for ever. It goes on, with frames that were not written to their end. The
        value says so to all others (`reached`), and none of them takes such a frame for whole.
        """
        timeline = self.slots.timeline
        if timeline is None:
            return
        newest = self._newest_promise()
        # A device that is lost waits for nothing; and another subscriber may say it just now.
        with contextlib.suppress(ExtmemError, ValueError):
            value = timeline.value
            if newest and value < newest + ABANDONED:
                self._last_reached = max(value, self._last_reached)
                timeline.signal(newest + ABANDONED)

    def look_after(self) -> None:
        """From now on a device may wait for the publisher: see that it does not for ever."""
        if not self._looked_after:
            self._looked_after = True
            self.leases.look_after(weakref.WeakMethod(self._look))

    def _look(self) -> bool:
        """Let go if the publisher is gone; whether there is nothing more to look for."""
        try:
            if not self.seat.abandoned:
                return False
            if self.seat.state != OVER or not self._promises_kept():
                self.let_go()
        except ValueError:  # closed
            pass
        return True

    def _promises_kept(self) -> bool:
        """Whether all that the publisher promised before it ended the stream is written."""
        timeline = self.slots.timeline
        if timeline is None:
            return True
        try:
            return timeline.value >= self._newest_promise()
        except ExtmemError:  # a device that is lost waits for nothing
            return True

    def _newest_promise(self) -> int:
        """What the publisher's timeline has to reach for all frames."""
        return max(map(self.board.ready, range(len(self.slots.memories))))

    def lost(self) -> bool:
        """Whether the publisher is gone, and has not ended the stream."""
        return self.seat.abandoned and self.seat.state != OVER
