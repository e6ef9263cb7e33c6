"""Streams, the publisher's side: frames in a ring of shared slots, for any number of processes.

    with extmem.publish("camera", shape=(1080, 1920, 4), dtype="uint8") as camera:
        while True:
            with camera.frame() as frame:
                frame.numpy()[...] = picture

What subscribers find is a listener (`extmem.channel`) of the name "stream-camera". A thread answers
there: each newcomer gets handles of the slots' memories, with their passports, of the board, and of
a seat of its own (`share.ring`). From then on publisher and subscriber meet in that seat alone, and
nothing is made, mapped or sent for a frame.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from extmem.errors import ClosedError, ExtmemError, StreamFull, Unsupported
from extmem.handles.handle import Handle, caller
from extmem.handles.words import SLICE, Watcher
from extmem.memory import Memory
from extmem.opening import open_device
from extmem.share import slots as parts
from extmem.share.channel import Channel, Listener, connect
from extmem.share.drafts import Draft
from extmem.share.formats import Format, frames_of, told
from extmem.share.making import make_slots
from extmem.share.pictures import WrittenPictures
from extmem.share.promises import Promises
from extmem.share.ring import (
    JOINED,
    MOST_SLOTS,
    Board,
    GivenSeat,
    Offer,
    Tally,
    board_pages,
    seat_pages,
)
from extmem.share.slots import MOST_SUBSCRIBERS, Fields, Greeting, Slots, listener_name
from extmem.vk._dispatch import FORKED
from extmem.waiting import deadline_of

if TYPE_CHECKING:
    from extmem.device import Device
    from extmem.interop.cuda.streams import Lane
    from extmem.sync import Semaphore

__all__ = ["Reader", "Stream", "publish"]

log = logging.getLogger("extmem")

_TO_TAKE = 1.0  # seconds that a newcomer gets to make room for what it is sent
_TO_KEEP = 5.0  # seconds that the device gets to do what was promised, where a slot is needed
_JOINING = 0.005  # seconds between two looks whether somebody has come
_LOOK = 0.05  # seconds between two looks whether a subscriber has died, while a slot is waited for


class Reader(NamedTuple):
    """A subscriber, as its publisher sees it."""

    process_id: int
    holds: int  # slots with frames that it has, or has still to take


def publish(
    name: str,
    *,
    shape: int | Sequence[int],
    dtype: Any = None,
    format: str | int | None = None,
    tiling: str = "optimal",
    usage: str | int | Sequence[str] | None = None,
    policy: str = "latest",
    slots: int = 4,
    device: Device | None = None,
    memory: str | int | None = None,
    subscribers: int = MOST_SUBSCRIBERS,
    timeout: float | None = None,
    users: Collection[int | str] = (),
) -> Stream:
    """Publish frames, all of one shape, under a name of this user's.

    name: 1 to 32 letters, digits, dots, dashes and underscores
    shape, dtype: what each frame is; a dtype of plain numbers, "bfloat16", or a record of named
        plain numbers (which is NumPy's alone, and no tensor)
    format: instead of a dtype, for frames that are images: "rgba8", "nv12", ..., or a VkFormat.
        The shape is (width,), (height, width) or (depth, height, width) then
    tiling, usage: of images, as for `Device.image`: "optimal", or "linear" for `numpy`; and what
        they are used for, by default to be copied. Both sides have the same
    policy: "latest": the publisher waits for nobody, and subscribers see the newest frame; "all":
        each subscriber sees every frame in order, unless it asks for the latest only, and the
        publisher waits for the slowest
    slots: how many frames there is room for, 2 to 29; one is being written, the newest is kept, and
        subscribers hold the others. More than that is StreamFull with "latest"
    device: where the slots are allocated; None opens one
    memory: "host_visible", which is the default, or "device_local" for slots that the device alone
        writes and reads (`Draft.buffer`, `Frame.buffer`), or the index of a memory type. The
        default of images is that of `Device.image`
    subscribers: how many there may be at once, 64 at most
    timeout: seconds that `frame` waits for a slot with policy="all", None for ever. With "latest"
        it waits for nobody but its own device, where that still writes what was promised (5 s)
    users: who may subscribe besides this user: uids of Linux. Who may, can also write the frames

    FileExistsError if somebody publishes under this name already.

    >>> import extmem
    >>> with extmem.publish("doctest", shape=(2, 3), dtype="float32") as stream:
    ...     with extmem.subscribe("doctest", timeout=5) as frames:
    ...         with stream.frame() as frame:
    ...             frame.numpy()[...] = 7
    ...             frame.fields["exposure"] = 0.5
    ...         seen = next(frames)
    ...         float(seen.numpy().sum()), seen.sequence, seen.fields
    (42.0, 1, {'exposure': 0.5})

    Frames that are images, which a device writes and reads:

    >>> import numpy
    >>> with extmem.open_device(driver="embedded") as gpu:
    ...     with extmem.publish("doctest", shape=(2, 3), format="rgba8", device=gpu) as stream:
    ...         frames = extmem.subscribe("doctest", timeout=5, device=gpu)
    ...         with stream.frame() as frame:
    ...             gpu.upload(frame.image, numpy.full((2, 3, 4), 7, "uint8"))
    ...         seen = gpu.readback(next(frames).image)
    ...         frames.close()
    >>> seen.shape, int(seen.sum())
    ((2, 3, 4), 168)
    """
    parts.check_name(name)
    parts.check_policy(policy)
    deadline_of(timeout)
    parts.check_device(device)
    users = _checked_users(users)
    for what, number, least, most in (
        ("slots", slots, 2, MOST_SLOTS),
        ("subscribers", subscribers, 1, MOST_SUBSCRIBERS),
    ):
        if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
            raise ValueError(f"{what} is {number!r}; expected a number from {least} to {most}")
    kind = frames_of(shape, dtype, format, tiling, usage)
    if users and sys.platform == "win32":
        raise Unsupported(
            "users= is of Linux: Windows' handles are given to processes of one user alone"
        )
    with contextlib.ExitStack() as made:
        # First: the name may be taken.
        try:
            door = made.enter_context(Listener(listener_name(name), users=users))
        except FileExistsError as error:
            raise FileExistsError(
                error.errno,
                f"somebody publishes {name!r} already; close that stream, or take another name",
            ) from None
        opened = None
        if device is None:
            device = opened = made.enter_context(open_device())
        kept = make_slots(device, kind, memory, slots, opened)
        made.callback(kept.close)
        stream = Stream(name, policy, kind, subscribers, timeout, door, kept)
        made.pop_all()
    return stream


def _checked_users(users: Collection[int | str]) -> Collection[int | str]:
    """TypeError or ValueError if they are no users of Linux."""
    expected = "expected uids, numbers from 0 to 4294967294, in a list: users=[1000]"
    if isinstance(users, (str, bytes)) or not isinstance(users, Collection):
        raise TypeError(f"users= is {users!r}; {expected}")
    if sys.platform != "win32":
        for each in users:
            if isinstance(each, bool) or not isinstance(each, int):
                raise TypeError(f"users= has {each!r}; {expected}")
            if not 0 <= each < (1 << 32) - 1:
                raise ValueError(f"users= has {each}; {expected}")
    return users


class Stream:
    """A stream as its publisher has it; made by `publish`. A context manager.

    Frames may be written by several threads, one each.
    """

    def __init__(
        self,
        name: str,
        policy: str,
        format: Format,
        subscribers: int,
        timeout: float | None,
        door: Listener,
        slots: Slots,
    ) -> None:
        """The listener and the slots are the stream's to close."""
        self.name = name
        self.policy = policy
        self.shape = format.shape
        self.dtype = format.dtype  # of images: of their first plane
        self.bfloat16 = format.bfloat16  # whether the dtype's uint16 are its bits
        texels = format.texels
        self.format = None if texels is None else texels.format  # of images: "rgba8"
        self.timeout = timeout  # seconds that a frame's slot is waited for with policy="all"
        self.sequence = 0  # of the newest frame; the first one is 1
        self._most = subscribers
        self._door = door
        self._slots = slots
        self._pictures = slots.pictures if isinstance(slots.pictures, WrittenPictures) else None
        if self._pictures is None:
            self._promises = Promises(slots.timeline)
        else:
            self._promises = Promises(self._pictures.written, slots.timeline)
        self._process = os.getpid()
        self._made = caller()
        self._ending = threading.RLock()  # who closes it
        self._guard = threading.Lock()  # of all that follows; nobody waits while he has it
        self._closed = False
        self._ended = False  # all that it has is closed
        self._leaving: list[GivenSeat] = []  # seats to let go of at the end
        self._seats: list[GivenSeat] = []
        self._writing = 0  # slots that are being written, one bit for each
        # Who writes each of them, and with which of CUDA's streams.
        self._writers: dict[int, tuple[weakref.ref[Draft], set[Lane | None]]] = {}
        self._newest: Offer | None = None  # for whoever comes now
        self._next = 0  # the slot to try first
        self._watcher = Watcher()
        pages, self._board_handle = board_pages(len(slots.memories))
        self.board = Board(pages)
        # It knows the stream by a weak reference, so that a stream that is forgotten can go.
        self._thread = threading.Thread(
            target=_answer, args=(weakref.ref(self), door), name="extmem stream", daemon=True
        )
        self._thread.start()
        _streams.add(self)
        _parts.update((slots, self.board, door, self._watcher, self._board_handle))

    # -- state ----------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    @property
    def readers(self) -> list[Reader]:
        """The subscribers that are there, and how many slots each of them has.

        Who is still about to join is not: what is published until it has joined passes it by.
        """
        self._require_own()
        with self._guard:
            self._look_around()
            return [
                Reader(seat.process_id, seat.used.bit_count())
                for seat in self._seats
                if seat.state == JOINED
            ]

    def wait_for(self, subscribers: int = 1, *, timeout: float | None = None) -> None:
        """Wait until so many subscribers are there. With policy "all", they miss nothing from then.

        timeout: seconds, None for as long as it takes; TimeoutError after that

        >>> import extmem, threading
        >>> with extmem.publish("doc-wait-for", shape=4, dtype="uint8", policy="all") as stream:
        ...     frames = extmem.subscribe("doc-wait-for", policy="all")
        ...     stream.wait_for(1, timeout=5)
        ...     frames.close()
        """
        deadline = deadline_of(timeout)
        if not isinstance(subscribers, int) or isinstance(subscribers, bool):
            raise TypeError(f"subscribers is {subscribers!r}; expected a whole number")
        if not 0 <= subscribers <= self._most:
            raise ValueError(
                f"subscribers is {subscribers}; {self!r} takes {self._most} at most: "
                "publish(subscribers=)"
            )
        while len(there := self.readers) < subscribers:
            if self._closed:
                raise ClosedError(f"the stream {self.name!r} was closed while it waited")
            if deadline is not None and time.monotonic_ns() >= deadline:
                raise TimeoutError(
                    f"{len(there)} of {subscribers} subscribers are there after {timeout:g} s; "
                    "start them, or wait longer: timeout="
                )
            time.sleep(_JOINING)

    def __repr__(self) -> str:
        if self._closed:
            return f"<Stream {self.name!r}, closed>"
        return (
            f"<Stream {self.name!r}, {self._slots.format}, policy {self.policy!r}, "
            f"{len(self._slots.memories)} slots, {len(self._seats)} subscribers, "
            f"frame {self.sequence}>"
        )

    # -- frames -----------------------------------------------------------------------------------

    def frame(self, *, timeout: float | None = None) -> Draft:
        """A frame to be written, for a `with`: entered, it has a slot; left, it is published. If
        it is left by an exception, it is not.

        timeout: seconds to wait for a slot with policy="all"; None for what `publish` was told

        Entering raises StreamFull where subscribers hold every slot and policy is "latest", and
        TimeoutError with "all". Both say who holds them.
        """
        return Draft(self, self.timeout if timeout is None else timeout)

    def _claim(self, draft: Draft, timeout: float | None) -> None:
        """Give a draft a slot that nobody looks into; its own to write until `_publish` or
        `_drop`.
        """
        self._require_own()
        deadline = deadline_of(timeout)
        found = self._try(draft)
        while not found:
            if forgotten := self._forgotten():
                for each in forgotten:
                    each._abandon()
                found = self._try(draft)
                continue
            if self._behind():
                found = self._caught_up(draft, timeout, deadline)
                continue
            if self.policy == "latest":
                raise StreamFull(
                    f"no slot of {self!r} is free: {self._holders()}. Publish with more "
                    "slots= (one for each frame that subscribers hold at once, and two), or have "
                    "them hold less"
                )
            left = None if deadline is None else (deadline - time.monotonic_ns()) / 1e9
            if left is not None and left <= 0:
                raise TimeoutError(
                    f"no slot of {self!r} became free in {timeout:g} s: {self._holders()}"
                )
            self._await(_LOOK if left is None else min(_LOOK, left))
            found = self._try(draft)

    def _forgotten(self) -> list[Draft]:
        """Frames that were never left: nobody has them any more, and their slots. What interrupts a
        `with` on its way in may do that.
        """
        forgotten = []
        with self._guard:
            for slot, (writer, cuda) in list(self._writers.items()):
                if writer() is None:
                    draft = Draft(self, None)
                    draft._slot, draft._cuda = slot, cuda
                    self._writers[slot] = weakref.ref(draft), cuda
                    forgotten.append(draft)
        return forgotten

    def _behind(self) -> bool:
        """Whether the device still writes what was promised, and that is what takes the slots."""
        with self._guard:
            running = self._promises.running()
            return bool(running) and self._free(but=running) is not None

    def _caught_up(self, draft: Draft, timeout: float | None, deadline: int | None) -> bool:
        """Wait for the device; whether a slot was free then."""
        if timeout is None and self.policy == "latest":
            timeout = _TO_KEEP
            deadline = deadline_of(timeout)
        while not self._promises.wait(_LOOK):
            if self._try(draft):
                return True
            if deadline is not None and time.monotonic_ns() >= deadline:
                raise TimeoutError(
                    f"no slot of {self!r} became free in {timeout:g} s: the device has not done "
                    "what was promised (Draft.promise); is it signalled? Publish with more slots= "
                    "if it is only late"
                )
        return self._try(draft)

    def _try(self, draft: Draft) -> bool:
        """Give the draft a slot, if one is free."""
        with self._guard:
            self._require_open()
            slot = self._free()
            if slot is None:  # what is known of the seats is old; what has come back since?
                self._look_around()
                slot = self._free()
            if slot is None:
                return False
            if self._newest is not None and self._newest.slot == slot:
                self._newest = None
            writer = weakref.ref(draft), draft._cuda
            self._writers[slot] = writer  # in one step with the next, as far as Ctrl-C can see
            self._writing |= 1 << slot
            draft._slot = slot
            self.board.clear(slot)
            return True

    def _free(self, but: int = 0) -> int | None:
        """but: slots that count as free although the device writes them"""
        used = self._writing
        if self._promises.any:
            used |= self._promises.running() & ~but
        for seat in self._seats:
            used |= seat.used
        if self._newest is not None and self.policy == "latest":
            used |= 1 << self._newest.slot  # for whoever comes
        count = len(self._slots.memories)
        for step in range(count):
            slot = (self._next + step) % count
            if not used >> slot & 1:
                self._next = (slot + 1) % count
                return slot
        return None

    def _await(self, seconds: float) -> None:
        """Sleep until a subscriber gives something back."""
        with self._guard:
            words = [seat.returned for seat in self._seats]
        seen = []
        with contextlib.suppress(ValueError):  # a seat went meanwhile: look again
            seen = [word.value for word in words]
            self._watcher.wait(
                words,
                lambda: self._closed or [word.value for word in words] != seen or self._has_free(),
                seconds,
            )

    def _has_free(self) -> bool:
        """Whether something came back before it was listened for."""
        with self._guard:
            for seat in self._seats:
                seat.exchange()
            return self._free() is not None

    def _holders(self) -> str:
        """Who has the slots, for people."""
        with self._guard:
            held = [
                f"process {seat.process_id} has {seat.used.bit_count()} or has still to take them"
                for seat in self._seats
                if seat.used
            ]
            if self._writing:
                held.append(f"{self._writing.bit_count()} are being written")
            newest = self._newest
            if newest is not None and not any(each.used >> newest.slot & 1 for each in self._seats):
                held.append("1 is kept for who comes next, with the newest frame")
        return ", ".join(held)

    def _publish(self, draft: Draft, fields: Fields) -> None:
        """Offer what a draft has written. Its slot is its own until that is done."""
        slot = draft._slot
        if slot is None:
            self._require_open()
            raise ClosedError("this frame is not being written, and was left before")
        data = parts.encode_fields(fields)
        self._slots.flush(slot)
        if self._pictures is not None:
            if self._closed:
                raise ClosedError(self._closed_meanwhile())
            self._pictures.hand_over(slot, self._promises)
        with self._guard:
            if self._closed:
                raise ClosedError(self._closed_meanwhile())
            offer = Offer(slot, self.sequence + 1)
            ready = self._promises.of(slot)
            self.board.write(slot, offer.sequence, time.monotonic_ns(), data, ready)
            self.sequence = offer.sequence
            self._newest = offer
            for seat in self._seats:
                seat.offer(offer)
            self._writing &= ~(1 << slot)  # in one step with the next
            draft._slot = None
            del self._writers[slot]

    def _closed_meanwhile(self) -> str:
        return f"the stream {self.name!r} was closed before the frame was left"

    def _drop(self, draft: Draft) -> None:
        """What was being written is not published. Nothing, if it was, or has no slot."""
        slot = draft._slot
        if slot is not None:
            if self._pictures is not None:
                self._pictures.drop(slot)
            with self._guard:
                if draft._slot is not None:
                    self._writing &= ~(1 << slot)
                    draft._slot = None
                    del self._writers[slot]

    # -- subscribers ------------------------------------------------------------------------------

    def _look_around(self) -> None:
        """Learn what came back, offer what is late, and let go of seats that nobody has."""
        left = []
        for seat in self._seats:
            seat.exchange()
            if seat.gone and seat.retire():
                continue
            left.append(seat)
        self._seats = left
        self.board.tell(
            [
                Tally(seat.process_id, seat.used.bit_count(), seat.missed)
                for seat in left
                if seat.state == JOINED
            ]
        )

    def _admit(self, other: Channel) -> None:
        """Give a newcomer a seat, or say why there is none."""
        with self._guard:
            if self._closed:
                return
            if len(self._seats) >= self._most:
                self._look_around()
            if len(self._seats) >= self._most:
                why = (
                    f"it has {len(self._seats)} subscribers, and {self._most} are its limit; "
                    "publish with more: subscribers="
                )
                other.send(Greeting(parts.VERSION, why).encode(), timeout=0)
                return
        identity = secrets.token_bytes(16)
        pages, handle = seat_pages(identity)
        with handle:
            seat = GivenSeat(pages, other.peer.process_id, self.policy == "all")
            word, record = told(self._slots.format)
            timeline = self._slots.timeline
            greeting = Greeting(
                parts.VERSION,
                "",
                self.shape,
                word,
                "all" if self.policy == "all" else "latest",
                len(self._slots.memories),
                identity,
                record,
                timeline is not None,
                self._slots.format.texels,
            )
            with self._guard:  # before it is told of: it may be taken at once
                if self._closed:
                    seat.end()
                    seat.close()
                    return
                if self._newest is not None:
                    seat.offer(self._newest)
                self._seats.append(seat)
            try:
                given: list[Memory | Handle | Semaphore] = [self._board_handle, handle]
                given += self._slots.memories
                if timeline is not None:
                    given.append(timeline)
                other.send(greeting.encode(), given, timeout=_TO_TAKE)
            except BaseException:
                with self._guard:
                    if seat in self._seats:
                        self._seats.remove(seat)
                        seat.end()
                        seat.close()
                raise

    # -- the end ----------------------------------------------------------------------------------

    def _require_own(self) -> None:
        if os.getpid() != self._process:
            raise Unsupported(f"this stream cannot be used here: {FORKED}")

    def _require_open(self) -> None:
        if self._closed:
            raise ClosedError(f"the stream {self.name!r} is closed")

    def close(self) -> None:
        """End the stream: subscribers see what they were offered, then their iteration stops. Safe
        to call again; where Ctrl-C interrupted it, that does the rest.
        """
        if os.getpid() != self._process:
            self._closed = self._ended = True
            return
        with self._ending:  # whoever comes second has it closed, too, when this returns
            if not self._ended:
                self._close()
                self._ended = True

    def _close(self) -> None:
        """Each step may be done twice: Ctrl-C may come wherever something is called."""
        with self._guard:
            self._closed = True
            while self._seats:
                seat = self._seats[-1]
                seat.exchange()  # what is late
                seat.end()
                self._leaving.append(seat)
                self._seats.remove(seat)
        self._watcher.ring()
        if self._thread is not threading.current_thread() and self._thread.is_alive():
            with contextlib.suppress(OSError):  # it waits for newcomers: here is one
                connect(listener_name(self.name), timeout=0).close()
            self._thread.join()
        self._door.close()
        self._board_handle.close()
        self._watcher.close()
        until = time.monotonic() + _TO_KEEP  # a slot is not freed while the device writes it
        while self._promises.running() and time.monotonic() < until:
            self._promises.wait(_LOOK)
        if left := self._promises.running():
            for slot in range(len(self._slots.memories)):
                if not left >> slot & 1:
                    self.board.written(slot)
            self._promises.give_up()
        if left and self._pictures is not None:  # the queue releases them when it comes to that
            self._slots.memories[0].device._work.afterwards(self._let_go)
        else:
            self._let_go()
        self._slots.close()
        _parts.difference_update(
            (self._slots, self.board, self._door, self._watcher, self._board_handle)
        )

    def _let_go(self) -> None:
        """Nothing is written any more: whoever still waits for a frame sees that by the seat."""
        for seat in self._leaving:
            seat.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_ended", True) or os.getpid() != self._process:
            return
        if not self._closed:
            warnings.warn(
                f"the stream {self.name!r} was never closed; made at {self._made}",
                ResourceWarning,
                stacklevel=2,
            )
        if not sys.is_finalizing():
            self.close()
        elif self._guard.acquire(timeout=1):  # a thread that has it will never go on
            # The process ends, and with it goes the rest; no driver can be called any more.
            for seat in self._seats:
                seat.exchange()
                seat.end()


# What streams need to be closed. The collector calls the finalizers of all that lies in one cycle
# in any order, and these must not go before a stream that closes itself.
_parts: set[object] = set()
_streams: weakref.WeakSet[Stream] = weakref.WeakSet()


def _give_up() -> None:
    """In a child, right after a fork: it would keep the name after its parent has died."""
    for stream in _streams:
        stream._door.let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_give_up)


def _answer(reference: weakref.ref[Stream], door: Listener) -> None:
    """What the thread of a stream does: it lets newcomers in, and looks after who is there."""
    while True:
        other = None
        try:
            with contextlib.suppress(TimeoutError):
                other = door.accept(timeout=SLICE)
            if not _attend(reference, other):
                return
        except ClosedError:
            return
        except (BrokenPipeError, ConnectionResetError, EOFError) as error:
            log.info("whoever asked for a seat of a stream has gone again: %s", error)
        except (OSError, ExtmemError) as error:
            log.warning("a stream could not let somebody in: %s", error)
            time.sleep(0.1)  # no descriptor is left, or the like: others have to do something
            if not _attend(reference, None):
                return
        finally:
            if other is not None:
                other.close()


def _attend(reference: weakref.ref[Stream], other: Channel | None) -> bool:
    """Let somebody in, if there is anybody, and look after who is there; whether to go on."""
    stream = reference()  # known only here: it may be forgotten while the thread waits
    if stream is None or stream.closed:
        return False
    try:
        if other is not None:
            stream._admit(other)
    finally:
        with stream._guard:
            if not stream.closed:
                stream._look_around()
    return True
