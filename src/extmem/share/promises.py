"""What a publisher's device still writes: frames that are handed over before they are done.

A timeline of the publisher's device travels to each subscriber. A frame that is promised has a
value of it, which the device reaches when the frame is written. Subscribers wait for that, here or
on their devices; and the slot is not given out before.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from extmem.errors import Unsupported

if TYPE_CHECKING:
    from extmem.device import Device
    from extmem.sync import Semaphore

__all__ = ["Promises", "timeline_of"]


def timeline_of(device: Device, handle_type: str) -> Semaphore | None:
    """A timeline that can be shared; None if the device has none."""
    with contextlib.suppress(Unsupported):
        return device.semaphore(export=handle_type)
    return None


class Promises:
    """The values of a timeline, and which slots wait for one."""

    def __init__(self, timeline: Semaphore | None) -> None:
        self.timeline = timeline  # closed by the slots
        self._last = timeline.value if timeline is not None else 0
        self._slots: dict[int, int] = {}  # which value each slot waits for
        self._lock = threading.Lock()

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

    def of(self, slot: int) -> int:
        """The value that a slot waits for, 0 for none."""
        return self._slots.get(slot, 0)

    @property
    def any(self) -> bool:
        """Whether a slot may wait for one."""
        return bool(self._slots)

    def running(self) -> int:
        """The slots that the device has not come to the end of, one bit for each."""
        if not self._slots or self.timeline is None:
            return 0
        reached = self.timeline.value
        bits = 0
        with self._lock:
            for slot, value in list(self._slots.items()):
                if value <= reached:
                    del self._slots[slot]
                else:
                    bits |= 1 << slot
        return bits

    def wait(self, seconds: float) -> bool:
        """Wait for the next one; whether it was reached, or there is none, in so many seconds."""
        with self._lock:
            values = list(self._slots.values())
        if not values or self.timeline is None:
            return True
        try:
            self.timeline.wait(min(values), timeout=seconds)
        except TimeoutError:
            return False
        return True
