"""Waiting for payloads, of whatever kind they are, until a time, a lost device or Ctrl-C.

Payloads of this process announce themselves on the device. Words of several processes are slept on
directly, with no thread in between. Sync files are polled. Where kinds are mixed, or there are
several words, a watcher sleeps on all of them at once and the device rings it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from extmem.drivers.embedded.device import Device
from extmem.drivers.embedded.objects import SUCCESS
from extmem.drivers.embedded.signals import Signal
from extmem.drivers.embedded.sync_files import readable
from extmem.handles.words import SLICE, Watcher
from extmem.vk import _constants as c

__all__ = ["FOREVER", "Wait", "deadline_of", "wait_for", "wait_until"]

Wait = tuple[Signal, int]
Enough = Callable[[Iterable[bool]], bool]

# From here on a timeout means "for ever": it is 146 years.
FOREVER = 1 << 62
# Between two looks at words while sync files are polled, which are something else to the system.
_LOOK = 0.005


def deadline_of(timeout: int) -> float | None:
    """When a timeout of nanoseconds has passed; None for never."""
    return None if timeout >= FOREVER else time.monotonic() + timeout / 1e9


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def wait_until(device: Device, ready: Callable[[], bool], timeout: int) -> int:
    """Wait for something that announces itself on the device; a VkResult."""
    deadline = deadline_of(timeout)
    with device.changed:
        while not ready():
            if device.lost:
                return int(c.VK_ERROR_DEVICE_LOST)
            left = _left(deadline)
            if left is not None and left <= 0:
                return int(c.VK_TIMEOUT)
            # In slices, because Windows does not interrupt this for Ctrl-C.
            device.changed.wait(SLICE if left is None else min(left, SLICE))
    return SUCCESS


def wait_for(
    device: Device,
    waits: Sequence[Wait],
    enough: Enough,
    timeout: int,
    *,
    stop: Callable[[], bool] | None = None,  # what ends the wait besides, asked when announced
    watcher: Watcher | None = None,  # of this thread, where it has one
) -> int:
    """Wait for payloads to reach values; VK_SUCCESS, VK_TIMEOUT, or VK_ERROR_DEVICE_LOST, which is
    also what `stop` leads to.
    """

    def reached() -> bool:
        return enough([signal.reached(value) for signal, value in waits])

    if reached():
        return SUCCESS
    if not timeout:
        return int(c.VK_ERROR_DEVICE_LOST if device.lost else c.VK_TIMEOUT)

    def over() -> bool:
        return device.lost or (stop is not None and stop()) or reached()

    deadline = deadline_of(timeout)
    words = [signal.word for signal, _ in waits if signal.word is not None]
    if any(signal.descriptor >= 0 for signal, _ in waits):
        _poll(device, waits, over, deadline)
    elif not words:
        with device.changed:
            while not over() and (left := _left(deadline)) != 0.0:
                device.changed.wait(SLICE if left is None else min(left, SLICE))
    elif len(waits) == 1 and stop is None:
        _sleep_on_one(device, waits[0], deadline)
    else:
        with _watching(device, watcher) as found:
            found.wait(words, over, _left(deadline))
    if reached():
        return SUCCESS
    ended = device.lost or (stop is not None and stop())
    return int(c.VK_ERROR_DEVICE_LOST if ended else c.VK_TIMEOUT)


def _sleep_on_one(device: Device, wait: Wait, deadline: float | None) -> None:
    """The way of one word: nothing between us and whoever changes it."""
    signal, value = wait
    word = signal.word
    assert word is not None
    ready = value.__le__ if signal.counts else bool
    while not device.lost and (left := _left(deadline)) != 0.0:
        # The device may be lost without a change of the word: looked at after each slice.
        if word.wait(ready, SLICE if left is None else min(left, SLICE)):
            return


@contextmanager
def _watching(device: Device, watcher: Watcher | None) -> Iterator[Watcher]:
    found = watcher or Watcher()
    with device.changed:
        device.watchers.add(found)
    try:
        yield found
    finally:
        with device.changed:
            device.watchers.discard(found)
        if watcher is None:
            found.close()


def _poll(
    device: Device, waits: Sequence[Wait], over: Callable[[], bool], deadline: float | None
) -> None:
    """Wait where at least one payload is a sync file."""
    mixed = any(signal.descriptor < 0 for signal, _ in waits)
    while not over() and (left := _left(deadline)) != 0.0:
        # Those that are signalled already would end each poll at once.
        open_still = [
            signal.descriptor
            for signal, value in waits
            if signal.descriptor >= 0 and not signal.reached(value)
        ]
        span = _LOOK if mixed else SLICE / 5
        span = span if left is None else min(span, left)
        if open_still:
            readable(open_still, span)
        else:
            time.sleep(span)
