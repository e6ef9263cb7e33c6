"""Streams, looked at from outside: without a seat, and without a claim on any slot.

An onlooker asks for a seat, as a subscriber does, keeps what came with it (the board and the slots)
and leaves the seat at once. From then on the publisher does not know of it. So a sample may be
overwritten while it is copied: the board says whether that happened, and then it is taken anew.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from extmem.errors import StreamEnded, Unsupported
from extmem.share.joining import reach
from extmem.share.ring import Tally
from extmem.share.slots import Fields, decode_fields, listener_name

if sys.platform == "win32":
    from extmem.share.pipes import listeners
else:
    from extmem.share.sockets import listeners

if TYPE_CHECKING:
    import numpy as np

    from extmem.device import Device
    from extmem.memory import Memory
    from extmem.resources import Buffer
    from extmem.share.formats import Format

__all__ = ["Onlooker", "Seen", "streams"]

_TRIES = 5  # of a sample that is overwritten again and again
_BEGINNING = listener_name("x")[:-1]

T = TypeVar("T")


def streams() -> dict[str, object]:
    """The streams that this user's processes publish, each with what tells its publisher from a
    later one; None for one whose publisher was killed. Where the system has no list, it is empty.
    """
    return {name.removeprefix(_BEGINNING): mark for name, mark in listeners(_BEGINNING).items()}


class Seen(NamedTuple):
    """A frame that was there when somebody looked."""

    slot: int
    sequence: int  # its number
    time: int  # when it was published: nanoseconds of `time.monotonic_ns`


class Onlooker:
    """A look at the stream of one publisher. A context manager.

    >>> import extmem
    >>> with extmem.publish("doctest", shape=3, dtype="uint8") as stream, Onlooker("doctest") as it:
    ...     with stream.frame() as frame:
    ...         frame.numpy()[:] = 1, 2, 3
    ...     found, seen, whole = it.sample(lambda array: array.tolist())
    ...     found, seen.sequence, whole, stream.readers
    ([1, 2, 3], 1, True, [])
    """

    def __init__(self, name: str, *, device: Device | None = None, patience: float = 0.0) -> None:
        """patience: seconds to wait for a publisher. StreamFull if all of its seats are taken."""
        self._line = reach(name, None, device, patience)
        self._copy: tuple[Memory, Buffer] | None = None  # of frames that only the device sees
        self._closed = False

    @property
    def format(self) -> Format:
        """What each frame is."""
        return self._line.slots.format

    @property
    def process_id(self) -> int:
        """The publisher."""
        return self._line.process_id

    @property
    def memories(self) -> list[Memory]:
        """The slots."""
        return self._line.slots.memories

    def newest(self, written: bool = False) -> Seen | None:
        """The newest frame, None if there is none yet.

        written: of those alone that are written; a device may be at work on the newest
        """
        board = self._line.board
        for _ in range(_TRIES):
            slots = [each for each in range(len(self.memories)) if board.sequence(each)]
            if written:
                slots = [each for each in slots if self._written(each)]
            if not slots:
                continue
            slot = max(slots, key=board.sequence)
            seen = Seen(slot, board.sequence(slot), board.time(slot))
            if seen.sequence and board.sequence(slot) == seen.sequence:
                return seen
        return None

    def _written(self, slot: int) -> bool:
        until = self._line.board.ready(slot)
        try:
            return not until or self._line.reached(until)
        except StreamEnded:  # the publisher has died before
            return False

    def readers(self) -> list[Tally]:
        """The stream's subscribers, as its publisher says a few times a second."""
        return self._line.board.readers()

    def fields(self, seen: Seen) -> Fields | None:
        """What the publisher sent with a frame; None if that is over. ValueError if unreadable."""
        data = self._line.board.fields(seen.slot)
        return decode_fields(data) if self._there(seen) else None

    def sample(
        self, read: Callable[[np.ndarray[Any, Any]], T]
    ) -> tuple[T, Seen, bool] | tuple[None, None, bool]:
        """What `read` makes of the newest frame, which frame that was, and whether it is whole; it
        is not where frames come faster than they are read.

        read: copies what it needs of an array (of bfloat16 the bits) and keeps no view. It is for
            streams of arrays; of images `sample_image` has the same
        """
        return self._sampled(lambda slot: read(self._array(slot)))

    def sample_image(
        self, read: Callable[[list[np.ndarray[Any, Any]]], T]
    ) -> tuple[T, Seen, bool] | tuple[None, None, bool]:
        """`sample` of a stream of images. read: of the arrays of all planes. Unsupported if they
        were not made to be copied.
        """
        return self._sampled(lambda slot: read(self._planes(slot)))

    def _sampled(self, look: Callable[[int], T]) -> tuple[T, Seen, bool] | tuple[None, None, bool]:
        found: tuple[T, Seen, bool] | tuple[None, None, bool] = (None, None, False)
        for _ in range(_TRIES):
            seen = self.newest(written=True)
            if seen is None:
                break
            got = look(seen.slot)
            found = got, seen, self._there(seen)
            if found[2]:
                break
        return found

    def _array(self, slot: int) -> np.ndarray[Any, Any]:
        """A slot, where the processor sees it, else a copy that the device makes."""
        slots, format = self._line.slots, self.format
        if slots.host_visible:
            slots.invalidate(slot)
            return slots.array(slot)
        device = slots.memories[slot].device
        if self._copy is None:
            memory = device.allocate(format.size)
            self._copy = memory, device.buffer(memory)
        memory, buffer = self._copy
        source = slots.buffer(slot)
        source.ownership.warned = True  # it is never acquired: that it is whole is seen otherwise
        device.copy(source, buffer, size=format.size)
        memory.invalidate()
        return memory.numpy(format.dtype, format.shape)

    def _planes(self, slot: int) -> list[np.ndarray[Any, Any]]:
        """A slot's image, plane by plane: where the processor sees it, else copies."""
        slots, pictures = self._line.slots, self._line.pictures
        if pictures is None:
            raise Unsupported("the frames of this stream are no images")
        image = pictures.images[slot]
        planes = range(len(image.format.planes))
        # Nobody promised that the slot stays as it is meanwhile: whether it did is seen afterwards.
        try:
            if pictures.linear and slots.host_visible:
                pictures.look(slot)
                slots.invalidate(slot)
                return [pictures.array(slot, each) for each in planes]
            pictures.acquire(slot)
            return [image.device.readback(image, plane=each) for each in planes]
        finally:
            pictures.let_go(slot)

    def _there(self, seen: Seen) -> bool:
        return self._line.board.sequence(seen.slot) == seen.sequence

    def close(self) -> None:
        """Let go of the slots. Safe to call again."""
        if not self._closed:
            self._closed = True
            if self._copy is not None:
                for each in reversed(self._copy):
                    each.close()
            self._line.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
