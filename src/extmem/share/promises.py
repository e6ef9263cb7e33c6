"""What a publisher's device still writes: frames that are handed over before they are done.

A timeline of the publisher's device travels to each subscriber. A frame that is promised has a
value of it, which the device reaches when the frame is written. Subscribers wait for that, here or
on their devices; and the slot is not given out before.

A frame that is an image has two ends: what its publisher's work signals, and what the queue signals
after that, once it has released the image (`share.pictures`). There are two timelines then, so that
each goes on in its own order, and subscribers have the second.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from extmem.errors import ExtmemError, Unsupported

if TYPE_CHECKING:
    from extmem.device import Device
    from extmem.share.leases import Moment
    from extmem.sync import Semaphore

__all__ = ["ABANDONED", "Promises", "timeline_of"]

# How far a timeline goes on when nobody keeps its promises any more. No stream promises so many
# frames while one is held, and Vulkan lets each timeline go so far at once (2**31 - 1).
ABANDONED = 1 << 30


def timeline_of(device: Device, handle_type: str) -> Semaphore | None:
    """A timeline that can be shared; None if the device has none."""
    with contextlib.suppress(Unsupported):
        return device.semaphore(export=handle_type)
    return None


class Promises:
    """The values of a timeline, and which slots wait for one."""

    def __init__(self, timeline: Semaphore | None, released: Semaphore | None = None) -> None:
        """released: the second timeline, of images. Both are closed by the slots"""
        self.timeline = timeline
        self._released = released
        self._last = timeline.value if timeline is not None else 0
        self._last_release = released.value if released is not None else 0
        self._slots: dict[int, int] = {}  # which value each slot waits for
        self._releases: dict[int, int] = {}  # and which of the second timeline
        self._lock = threading.Lock()
        self._turn = threading.Lock()  # of who submits a release: their values come in order

    def make(self, slot: int) -> tuple[Semaphore, int]:
        """A value for what is being written into a slot."""
        if self.timeline is None:
            raise Unsupported(
                "this device shares no timeline semaphores, so that no frame can be handed over "
                "before it is written; have the work done before the frame is left (Device.copy "
                "waits for it)"
            )
        with self._lock:
            self._last += 1
            self._slots[slot] = self._last
            return self.timeline, self._last

    def promised(self, slot: int) -> Moment | None:
        """What was promised of a slot, if that is not reached yet as far as anybody has seen."""
        value = self._slots.get(slot)
        return (self.timeline, value) if self.timeline is not None and value else None

    def release(self, slot: int, submit: Callable[[Moment], None]) -> None:
        """Have an image released by the device. submit: what the moment is for that signals it"""
        assert self._released is not None
        with self._turn:
            self._last_release += 1
            submit((self._released, self._last_release))
            with self._lock:
                self._releases[slot] = self._last_release

    def of(self, slot: int) -> int:
        """The value that subscribers wait for before they look into a slot, 0 for none."""
        return (self._slots if self._released is None else self._releases).get(slot, 0)

    @property
    def any(self) -> bool:
        """Whether a slot may wait for one."""
        return bool(self._slots or self._releases)

    def running(self) -> int:
        """The slots that the device has not come to the end of, one bit for each."""
        bits = 0
        for slots, timeline in self._both():
            reached = timeline.value
            with self._lock:
                for slot, value in list(slots.items()):
                    if value <= reached:
                        del slots[slot]
                    else:
                        bits |= 1 << slot
        return bits

    def _both(self) -> list[tuple[dict[int, int], Semaphore]]:
        """Those timelines that are waited for, and by which slots."""
        both = (self._slots, self.timeline), (self._releases, self._released)
        return [(slots, timeline) for slots, timeline in both if slots and timeline is not None]

    def wait(self, seconds: float) -> bool:
        """Wait for the next one; whether it was reached, or there is none, in so many seconds."""
        self.running()  # forget what was reached
        for slots, timeline in self._both():
            with self._lock:
                values = list(slots.values())
            if values:
                try:
                    timeline.wait(min(values), timeout=seconds)
                except TimeoutError:
                    return False
                return True
        return True

    def give_up(self) -> None:
        """The stream ends. What was promised and never given to the device is kept by nobody: who
        waits for it goes on, and sees that by the value. What was given to it is still to come, and
        no value may be ahead of that.

        Images have been given to the queue, so that their readers wait until the device is closed.
        """
        timeline = self.timeline
        if timeline is None or self._released is not None:
            return
        # Only the rules know whether a queue is still to signal it.
        if timeline.device.checks == "full":
            with contextlib.suppress(ExtmemError):
                timeline.signal(self._last + ABANDONED)
