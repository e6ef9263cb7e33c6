"""Payloads: what a semaphore or a fence is made of, apart from the object that holds it.

A submission takes payloads and not objects, because a temporary payload is gone from its object
with the next wait (or reset) while the submission still needs it.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING

from extmem.drivers.embedded.objects import Failure
from extmem.vk import _constants as c

if TYPE_CHECKING:
    from extmem.drivers.embedded.device import Device
    from extmem.handles.words import Word

__all__ = ["Local", "Signal"]


class Signal:
    """A payload: a counter, or signalled (1) and not (0)."""

    word: Word | None = None  # where others change it; None if that cannot be
    descriptor: int = -1  # what can be polled for it, -1 if nothing can

    def __init__(self, *, counts: bool, types: int = 0) -> None:
        self.counts = counts  # a timeline, or a fence of D3D12: waits are for a value at least
        self.types = types  # handle types that it was made to be exported as, a mask

    def value(self) -> int:
        """The counter, or 0 or 1."""
        raise NotImplementedError

    def signal(self, value: int) -> None:
        """Reach a value; whoever waits for it is told."""
        raise NotImplementedError

    def reset(self) -> None:
        """Not signalled any more: what a wait for a binary semaphore leaves, and vkResetFences."""
        raise NotImplementedError

    def reached(self, value: int) -> bool:
        """Whether a wait for this value is over; of what does not count there is one value."""
        return self.value() >= value if self.counts else self.value() != 0

    @property
    def asks(self) -> bool:
        """Whether `require` has something to ask before each use."""
        return False

    def require(self) -> None:
        """Refuse to begin something with a payload that is gone."""

    def close(self) -> None:
        """Let go of it. Whoever else has it keeps it."""

    def _check(self, value: int) -> None:
        if self.counts and value <= self.value():
            why = f"a timeline is at {self.value()}, so it cannot be signalled to be {value}"
            raise Failure(c.VK_ERROR_UNKNOWN, why)


class Local(Signal):
    """A payload that never leaves this process."""

    def __init__(self, device: Device, *, counts: bool, value: int = 0, types: int = 0) -> None:
        super().__init__(counts=counts, types=types)
        self._device = device
        self._value = value
        self.pending = 0  # submissions that will signal it
        # Ends of pipes: who exported a copy while a signal was pending gets that signal, alone.
        self.takers: deque[int] = deque()

    def value(self) -> int:
        return self._value

    def signal(self, value: int) -> None:
        with self._device.changed:
            self.pending = max(0, self.pending - 1)
            if self.takers:
                tell(self.takers.popleft())
                return
            self._check(value)
            self._value = value if self.counts else 1
            self._device.announce()

    def reset(self) -> None:
        self._value = 0

    def close(self) -> None:
        # Whoever waits for a copy sees the end of the pipe, as if its writer had died.
        while self.takers:
            os.close(self.takers.popleft())


def tell(pipe: int) -> None:
    """Signal whoever polls the other end of a pipe, for good, and close this one."""
    try:
        os.write(pipe, b"\1")
    except OSError:  # nobody waits any more
        pass
    finally:
        os.close(pipe)
