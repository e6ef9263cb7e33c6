"""What the publisher of a stream and each of its subscribers have in common.

Each subscriber has a seat: a page that it shares with the publisher and with nobody else, so that
whoever lies there, or stops in the middle of a change, costs itself and no other. In it is

    offset    0   the state: how far the seat is (OPEN, JOINED, LEFT or OVER)
            256   the bell: a word that the publisher changes when it has offered something
            512   returned: a word that the subscriber changes when it has given a slot back
            768   the numbers of both holds; 1 if the subscriber wants every frame; and which slots
                  it has, one bit for each
            832   for each slot the number of the frame that is offered in it, 0 for none

All but the two words that wake somebody is changed under the lock of the first word, which the
kernel keeps. A slot is written anew only once the publisher has had that lock and seen that the
slot is neither offered nor taken. What it has seen stays true: a subscriber comes to a slot by an
offer alone. So a publisher that cannot have the lock of some seat (its subscriber was stopped just
then) keeps what it has offered there as it is, offers the new frame later, and waits for nobody.

Each side holds something in the page for as long as it lives (`handles.words.Hold`), and the kernel
drops it with the process. What a subscriber that is gone had is free again; a publisher that is
gone has ended the stream.

A board has what is said of each slot's frame: its number, its time, and the fields. The publisher
alone can write it, and does so while it has the slot; while it writes the frame, the number is 0.
On the last page it says a few times a second who its subscribers are. So a stream can be looked at
without a seat, and without a claim on any slot (`share.looking`).

Frames are told of by words of the host's. Of one that the publisher's device still writes, the
board has a value of the publisher's timeline, which is reached when it is written
(`share.promises`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from extmem.handle_types import memory_type
from extmem.handles import memfd
from extmem.handles.handle import Handle
from extmem.handles.kernel import ACCESS_READ
from extmem.handles.system import kernel
from extmem.handles.words import WORD_SIZE, Hold, Pages, Word
from extmem.handles.words.word import END
from extmem.share.parcels import MOST_HANDLES

__all__ = [
    "JOINED",
    "LARGEST_FIELDS",
    "MOST_SLOTS",
    "OVER",
    "Board",
    "GivenSeat",
    "Holder",
    "Offer",
    "TakenSeat",
    "Tally",
    "board_pages",
    "opened_pages",
    "seat_pages",
]

# All of them travel in one parcel, with the seat, the board and a timeline.
MOST_SLOTS = MOST_HANDLES - 3

# How far a seat is: nobody has taken it yet, somebody has, who has left, the stream is over.
OPEN, JOINED, LEFT, OVER = 0, 1, 2, 3

_SEAT = 4096  # bytes
_NUMBERS, _OFFERS = 3 * WORD_SIZE, 3 * WORD_SIZE + 64
_PUBLISHER, _SUBSCRIBER, _EVERY_FRAME, _TAKEN = range(4)  # of the numbers
# The bytes that holds lock on Linux. Nothing is written there.
_PUBLISHERS_BYTE, _SUBSCRIBERS_BYTE = 2048, 2049

_ENTRY = 4096  # bytes of the board for each slot, and for the readers
_READER = struct.Struct("<QQQ")  # as `Tally` has it
_COUNT = struct.Struct("<Q")  # of the readers that follow
_MOST_READERS = (_ENTRY - _COUNT.size) // _READER.size
# The frame's number and time, how many bytes of fields follow, and what its timeline has to reach.
_HEAD = struct.Struct("<QQQQ")
_READY = 3  # which of these says what the timeline reaches
LARGEST_FIELDS = _ENTRY - _HEAD.size  # bytes, encoded

# Seconds. A subscriber has the lock of its seat for microseconds, and one that lost its processor
# meanwhile gets it back in about this time. Who was stopped is not waited for again.
_BRIEFLY = 0.002
_PATIENTLY = 0.02  # the same for a subscriber, who has to wait anyway
_TO_JOIN = 10.0  # what somebody who asked for a seat gets to take it


# -- pages ----------------------------------------------------------------------------------------


def _new_pages(size: int, identity: bytes) -> tuple[Pages, int]:
    """Shared pages of zeros, and a number that others can have them by; the caller's to close."""
    if sys.platform == "win32":
        number = kernel().create_section(size)
        try:
            return Pages.of_section(number, size, identity=identity), number
        except BaseException:
            kernel().let_go(number)
            raise
    number = memfd.make(size)
    try:
        return Pages.of_descriptor(number, size), number
    except BaseException:
        os.close(number)
        raise


def _handle(number: int) -> Handle:
    kind = "opaque_win32" if sys.platform == "win32" else "opaque_fd"
    return Handle(number, memory_type(kind))


def seat_pages(identity: bytes) -> tuple[Pages, Handle]:
    """The page of a seat, and the handle for the subscriber."""
    pages, number = _new_pages(_SEAT, identity)
    return pages, _handle(number)


def board_pages(slots: int) -> tuple[Pages, Handle]:
    """The pages of a board, and the handle for the subscribers, who may read it and not write."""
    pages, number = _new_pages((slots + 1) * _ENTRY, secrets.token_bytes(16))
    if sys.platform == "win32":
        return pages, _handle(kernel().duplicate(number, access=ACCESS_READ, close_source=True))
    try:
        memfd.seal_writing(number)
        return pages, _handle(memfd.again(number, write=False))
    finally:
        os.close(number)


def opened_pages(handle: Handle, slots: int | None, identity: bytes) -> Pages:
    """What came from a publisher: the pages of a seat, or of the board of so many slots.

    ValueError or OSError if that is something else. The handle stays the caller's.
    """
    size = _SEAT if slots is None else (slots + 1) * _ENTRY
    if sys.platform == "win32":
        pages = Pages.of_section(handle.value, size, identity=identity)
    else:
        pages = Pages.of_descriptor(handle.value, size)
    if slots is None and not pages.writable:
        raise ValueError("the page of the seat may be read and not written")
    return pages


class Tally(NamedTuple):
    """A subscriber, as the publisher tells everybody."""

    process_id: int
    holds: int  # slots that it has, or has still to take
    missed: int  # frames that were offered to it and replaced by newer ones


class Board:
    """What is said of the frame in each slot, and of the readers."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages  # mapped for as long as this is there
        self._raw = _bytes_of(pages)
        # To store and read a number at once, which `struct` does byte by byte.
        self._words = self._raw.cast("Q")

    def write(self, slot: int, sequence: int, when: int, fields: bytes, ready: int = 0) -> None:
        """Say it; by the publisher, who has the slot. ready: 0 if the frame is written already."""
        start = slot * _ENTRY
        _HEAD.pack_into(self._raw, start, 0, when, len(fields), ready)
        start += _HEAD.size
        self._raw[start : start + len(fields)] = fields
        self._words[slot * _ENTRY // 8] = sequence  # last: whoever sees it sees the rest

    def clear(self, slot: int) -> None:
        """The slot is about to be written: it has no frame."""
        self._words[slot * _ENTRY // 8] = 0

    def written(self, slot: int) -> None:
        """The frame in the slot is written, whatever was said before."""
        self._words[slot * _ENTRY // 8 + _READY] = 0

    def sequence(self, slot: int) -> int:
        """The number of the frame in the slot, 0 while there is none."""
        return self._words[slot * _ENTRY // 8]

    def tell(self, readers: list[Tally]) -> None:
        """Say who the subscribers are; by the publisher."""
        readers = readers[:_MOST_READERS]
        start = self._pages.size - _ENTRY
        _COUNT.pack_into(self._raw, start, len(readers))
        for at, each in enumerate(readers):
            _READER.pack_into(self._raw, start + _COUNT.size + at * _READER.size, *each)

    def readers(self) -> list[Tally]:
        """What was said last. Of one that comes or goes just now it may be half said."""
        start = self._pages.size - _ENTRY
        count = min(_COUNT.unpack_from(self._raw, start)[0], _MOST_READERS)
        return [
            Tally(*_READER.unpack_from(self._raw, start + _COUNT.size + at * _READER.size))
            for at in range(count)
        ]

    def time(self, slot: int) -> int:
        """When the frame was published, in nanoseconds of the publisher's clock."""
        when: int = _HEAD.unpack_from(self._raw, slot * _ENTRY)[1]
        return when

    def told(self, slot: int) -> tuple[int, int]:
        """The time, and what the publisher's timeline reaches when the frame is written; 0 if it
        is already.
        """
        _, when, _, ready = _HEAD.unpack_from(self._raw, slot * _ENTRY)
        return when, ready

    def ready(self, slot: int) -> int:
        """The second of these."""
        return self.told(slot)[1]

    def fields(self, slot: int) -> bytes:
        """The fields, encoded; as many bytes as there is room for, whatever is said."""
        start = slot * _ENTRY
        length: int = min(_HEAD.unpack_from(self._raw, start)[2], LARGEST_FIELDS)
        start += _HEAD.size
        return bytes(self._raw[start : start + length])


def _bytes_of(pages: Pages) -> memoryview:
    """To be touched by those alone who hold a reference on the pages."""
    return memoryview((ctypes.c_ubyte * pages.size).from_address(pages.address)).cast("B")


# -- seats ----------------------------------------------------------------------------------------


class _Seat:
    """What both ends do alike."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self.forked = False  # this is the copy of it in a child, which has nothing to say
        self._state = Word(pages, 0)
        self.bell = Word(pages, WORD_SIZE)
        self.returned = Word(pages, 2 * WORD_SIZE)
        raw = _bytes_of(pages)
        self._numbers = raw[_NUMBERS : _NUMBERS + 32].cast("Q")
        self._offers = raw[_OFFERS : _OFFERS + 8 * MOST_SLOTS].cast("Q")
        self._publisher = Hold(pages, _PUBLISHERS_BYTE)
        self._subscriber = Hold(pages, _SUBSCRIBERS_BYTE)
        _seats.add(self)

    @property
    def state(self) -> int:
        """How far it is. ValueError once it is closed here."""
        return self._state.value

    @staticmethod
    def _ring(word: Word) -> None:
        """Wake who waits for a word that this side alone changes. The lock is not had meanwhile:
        whoever wakes wants it next.
        """
        word.put((word.value + 1) % END)

    def _close(self) -> None:
        self._publisher.drop()
        self._subscriber.drop()
        self._state.close()
        self.bell.close()
        self.returned.close()
        _seats.discard(self)  # last

    def _give_up(self) -> None:
        """In a forked child. Holds belong to an open file, and would last as long as the child."""
        self.forked = True
        if sys.platform != "win32":
            nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            os.dup2(nothing, self._pages.descriptor, inheritable=False)
            os.close(nothing)


class Offer(NamedTuple):
    """A frame in its slot."""

    slot: int
    sequence: int


class GivenSeat(_Seat):
    """A seat as the publisher has it; one thread at a time. Nothing in the page is believed.

    keeps_all: whether the stream offers every frame to who wants that
    """

    def __init__(self, pages: Pages, process_id: int, keeps_all: bool) -> None:
        super().__init__(pages)
        self.process_id = process_id  # who asked for it
        self.used = 0  # the slots that the subscriber may still look into, one bit for each
        self.missed = 0  # frames that it never took, because newer ones came
        self.late = False  # its lock could not be had: there may be more to offer
        self._keeps_all = keeps_all
        self._offered: dict[int, int] = {}  # what is in `used`: the frame in each slot
        self._to_offer: list[Offer] = []
        self._to_ring = False  # something was offered, and nobody was told yet
        self._skipped = False  # frames were left out between those two
        self._until = time.monotonic() + _TO_JOIN
        self._numbers[_PUBLISHER] = self._publisher.take()

    @property
    def _wants_all(self) -> bool:
        return self._keeps_all and self._numbers[_EVERY_FRAME] == 1

    def offer(self, offer: Offer) -> None:
        """Offer a frame, now or as soon as the lock of the seat can be had."""
        self.used |= 1 << offer.slot  # first: Ctrl-C may come after each step
        self._to_offer.append(offer)
        self.exchange()

    def exchange(self) -> None:
        """Offer what is to be offered, and learn what came back."""
        try:
            self._state.change(self._exchanged, 0.0 if self.late else _BRIEFLY)
            self.late = False
            if self._to_ring:
                self._ring(self.bell)
                self._to_ring = False
        except TimeoutError:
            self.late = True
            if not self._wants_all:
                self._skipped = len(self._to_offer) > 1 or self._skipped
                self._leave_out()
        used = 0
        for slot in self._offered:
            used |= 1 << slot
        for each in self._to_offer:
            used |= 1 << each.slot
        self.used = used

    def _exchanged(self, state: int) -> None:
        """The same with the lock."""
        offers, new = self._offers, self._to_offer
        if new and (self._skipped or not self._wants_all):
            for slot, sequence in self._offered.items():  # who wants the newest is offered one
                self.missed += offers[slot] == sequence
                offers[slot] = 0
            if not self._wants_all:
                self._leave_out()
            self._skipped = False
        for slot, sequence in new:
            if self._offered.get(slot) != sequence:  # else this was interrupted before
                offers[slot] = self._offered[slot] = sequence
                self._to_ring = True
        taken = self._numbers[_TAKEN]
        self._offered = {
            slot: sequence
            for slot, sequence in self._offered.items()
            if offers[slot] == sequence or taken >> slot & 1
        }
        new.clear()

    def _leave_out(self) -> None:
        """All that is to be offered but the newest."""
        self.missed += max(len(self._to_offer) - 1, 0)
        del self._to_offer[:-1]

    @property
    def gone(self) -> bool:
        """Whether nobody has it any more, however that came."""
        state = self.state
        if state == OPEN:
            return time.monotonic() > self._until
        return state != JOINED or not self._subscriber.alive(self._numbers[_SUBSCRIBER])

    def retire(self) -> bool:
        """Let go of a seat that nobody has; False if that has to wait.

        Somebody may have been stopped while joining, and will go on: that one must find it closed.
        """
        if self.state == OPEN:
            try:
                self._state.change(_ended, 0.0)
            except TimeoutError:
                return False
        self._close()
        return True

    def end(self) -> None:
        """The stream is over, and no slot is given out any more: have the subscriber know. What was
        promised may still come, until `close`. Safe to call again before that.
        """
        if not self.forked:
            try:
                self._state.change(_ended, _BRIEFLY)
            except TimeoutError:  # one store does as well, for who reads
                self._state.put(OVER)
            self._ring(self.bell)

    def close(self) -> None:
        """Nothing comes any more: who still waits for something sees that the hold is gone."""
        self._close()


def _ended(state: int) -> int | None:
    return None if state == LEFT else OVER


class Holder(Protocol):
    """What has a frame's slot: it is noted there before the slot is taken, so that whatever
    interrupts that, it is known whose the slot is.
    """

    _slot: int | None
    sequence: int


class TakenSeat(_Seat):
    """A seat as its subscriber has it; from any thread."""

    def __init__(self, pages: Pages) -> None:
        super().__init__(pages)
        self.owed: list[int] = []  # slots that are to be given back once the lock can be had
        self._gate = threading.RLock()  # of who does so, or takes a frame; nobody has it twice
        self._inside: Callable[[], bool] = self._gate._is_owned  # type: ignore[attr-defined]

    def join(self, every_frame: bool) -> bool:
        """Take it; whether it was still there."""

        def to(state: int) -> int | None:
            if state != OPEN:
                return None
            self._numbers[_SUBSCRIBER] = self._subscriber.take()
            self._numbers[_EVERY_FRAME] = int(every_frame)
            return JOINED

        return self._state.change(to) is not None

    def take(self, slots: int, holder: Holder) -> None:
        """Give a holder the oldest frame that is offered, if there is one. The slot is its own
        until that is in `owed`.

        There is none also if the publisher was stopped while it had the lock. What is owed is given
        back on this occasion.
        """
        if self.forked or not any(self._offers):
            self.settle()
            return

        def to(state: int) -> None:
            self._settle(state)
            offers = self._offers
            waiting = [Offer(slot, offers[slot]) for slot in range(slots) if offers[slot]]
            if waiting and state in (JOINED, OVER):
                slot, sequence = min(waiting, key=_sequence)
                holder.sequence = sequence
                holder._slot = slot  # from here on there is no call, so that nothing interrupts it
                self._numbers[_TAKEN] |= 1 << slot
                offers[slot] = 0

        with self._gate, contextlib.suppress(TimeoutError):
            owed = bool(self.owed)
            self._state.change(to, _PATIENTLY)
            if owed:
                self._ring(self.returned)
        self.settle()

    def settle(self) -> None:
        """Give back what is owed. What cannot be given back now is later."""
        # The collector may come here in the middle of any of these, in the same thread, to release
        # a frame. So nobody waits at the gate: who has it looks again when he has left.
        while self.owed and not self.forked and not self._inside():
            try:
                if not self._gate.acquire(blocking=False):
                    return
                self._state.change(self._settle, _PATIENTLY)
                self._ring(self.returned)
            except (TimeoutError, ValueError):  # later; or it was closed meanwhile
                return
            finally:
                if self._inside():  # asked anew: Ctrl-C may come right behind `acquire`
                    self._gate.release()

    def _settle(self, state: int) -> None:
        owed = self.owed
        while owed:
            self._numbers[_TAKEN] &= ~(1 << owed[-1])
            owed.pop()

    @property
    def abandoned(self) -> bool:
        """Whether the publisher is gone."""
        return not self._publisher.alive(self._numbers[_PUBLISHER])

    def leave(self) -> None:
        """Give back everything, and the seat. Safe to call again."""
        if not self.forked:
            with contextlib.suppress(TimeoutError, ValueError):  # the hold says it as well
                self._state.change(lambda _: LEFT, _PATIENTLY)
            self._subscriber.drop()
            with contextlib.suppress(ValueError):
                self._ring(self.returned)
        self._close()


def _sequence(offer: Offer) -> int:
    return offer.sequence


# Those that are not closed. Not weak: the collector calls the finalizers of all that lies in one
# cycle in any order, and would unmap a page before what is given back there.
_seats: set[_Seat] = set()


def _give_up() -> None:
    """In a child, right after a fork."""
    for seat in list(_seats):
        seat._give_up()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_give_up)
