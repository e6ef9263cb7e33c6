"""Waiting in asyncio: one thread for all that is awaited of a device.

It sleeps in one call of the driver's until any of the awaited timelines moves, or a timeline of
its own, by which it is woken when a wait comes or goes. It ends when nothing was awaited for a
while, and with the device.

Fences it looks at now and then, more rarely the longer they take. A submission that signals a
timeline would be woken for at once, but it says when everything that was submitted *here* is
done: an imported fence is signalled by another process, and one of the caller's may be submitted
later.

Where the driver would keep a processor busy while it sleeps on several, all are looked at so.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from extmem import vk
from extmem.errors import ClosedError, ExtmemError
from extmem.reading import LONGEST_NAP, manners_of, sleep_on_any

if TYPE_CHECKING:
    import asyncio

    from extmem.device import Device
    from extmem.sync import Synchronizer

__all__ = ["Waiter"]

_MILLISECOND = 1_000_000  # nanoseconds
_LINGER = 1000 * _MILLISECOND  # how long the thread stays when nothing is awaited
_LONGEST = 250 * _MILLISECOND
_SHORTEST = _MILLISECOND // 8


@dataclass(slots=True, eq=False)
class Wait:
    """One `await`."""

    thing: Synchronizer
    moment: vk.VkSemaphore | None  # to sleep on; a fence has to be looked at
    value: int
    future: asyncio.Future[None]
    ready: Callable[[], bool]
    polite: bool
    began: int
    error: Exception | None = None
    over: bool = False


class Waiter:
    """Waits for one device's semaphores and fences on behalf of event loops, any number of them."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._lock = threading.RLock()
        self._waits: list[Wait] = []
        self._thread: threading.Thread | None = None
        self._bell: Bell | None = None
        self._closed = False

    async def reached(self, thing: Synchronizer, value: int) -> None:
        """Until a semaphore has reached a value, or a fence (whose value is 1) is signalled."""
        from asyncio import get_running_loop  # whoever awaits has loaded it; nobody else need

        thing.life.take()
        added = False
        try:
            reader = thing.reader
            if reader.check(value):
                return
            ready = reader.ready(value)
            if ready():
                return
            future: asyncio.Future[None] = get_running_loop().create_future()
            wait = Wait(
                thing, reader.moment, value, future, ready, reader.polite, time.monotonic_ns()
            )
            self._add(wait)
            added = True
        finally:
            if not added:
                thing.life.leave()
        try:
            await future
        finally:
            if not wait.over:  # cancelled
                with self._lock:
                    wait.over = True
                    self._ring()

    # -- from any thread ------------------------------------------------------------------------

    def _add(self, wait: Wait) -> None:
        """From here on the use of the object is the thread's to end."""
        with self._lock:
            if self._closed:
                raise ClosedError("this device is closed")
            if self._thread is None:
                bell = Bell(self._device)
                thread = threading.Thread(
                    target=self._run, args=(bell,), name="extmem waits", daemon=True
                )
                thread.start()  # and comes to the lock
                self._thread, self._bell = thread, bell
            else:
                self._ring()
            self._waits.append(wait)

    def _ring(self) -> None:
        if self._bell is not None:
            self._bell.ring()

    def drop(self, thing: Synchronizer) -> None:
        """It is being closed: whoever awaits it is told so."""
        with self._lock:
            found = [wait for wait in self._waits if wait.thing is thing]
            for wait in found:
                wait.error = ClosedError("it was closed while it was awaited")
            if found:
                self._ring()

    def close(self) -> None:
        """End the thread; whoever still awaits something is told that the device is closed."""
        with self._lock:
            self._closed = True
            for wait in self._waits:
                wait.error = ClosedError("the device was closed while something of it was awaited")
            thread = self._thread
            self._ring()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def give_up(self) -> None:
        """In a forked child, where the thread is not."""
        self._lock = threading.RLock()
        self._waits.clear()
        self._thread = self._bell = None

    # -- in the thread --------------------------------------------------------------------------

    def _run(self, bell: Bell) -> None:
        idle_since = time.monotonic_ns()
        while True:
            heard = bell.rung
            with self._lock:
                waits = list(self._waits)
            ended = [wait for wait in waits if _settled(wait)]
            for wait in ended:
                wait.thing.life.leave()
            with self._lock:
                self._waits = [wait for wait in self._waits if wait not in ended]
                waits = list(self._waits)
                now = time.monotonic_ns()
                if waits or ended:
                    idle_since = now
                if not waits and (self._closed or now - idle_since >= _LINGER):
                    self._thread = self._bell = None
                    break
            try:
                bell.sleep(heard, waits, _pause(waits, now) if waits else _LINGER)
            except (ExtmemError, OSError) as error:  # the device is lost
                with self._lock:
                    for wait in self._waits:
                        wait.error = error
                idle_since = -_LINGER
        bell.close()


def _pause(waits: list[Wait], now: int) -> int:
    """How long to sleep before looking again, in nanoseconds."""
    longest = _LONGEST
    for wait in waits:
        gone_by = max((now - wait.began) // 8, _SHORTEST)
        if wait.moment is None:
            longest = min(longest, gone_by, LONGEST_NAP)
        elif wait.polite:  # a driver in C may sleep in steps of its own
            longest = min(longest, gone_by)
    return longest


def _settled(wait: Wait) -> bool:
    """Whether a wait is over; its loop is told."""
    error = wait.error
    if wait.over:
        return True
    try:
        if error is None and not wait.ready():
            return False
    except (ExtmemError, OSError) as found:
        error = found
    wait.over = True
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there to be told
        wait.future.get_loop().call_soon_threadsafe(_tell, wait.future, error)
    return True


def _tell(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


class Bell:
    """What the thread sleeps on besides what is awaited: a timeline that counts how often it was
    rung; an event where the device has no timelines, so that there are only fences to look at,
    and where its driver does not sleep well on several of them.
    """

    def __init__(self, device: Device) -> None:
        self.rung = 0
        self._lock = threading.Lock()
        self._event = threading.Event()
        self._device = device.handle
        self._semaphore: Any = None
        self._manners = manners_of(device.handle)
        if device.timelines:
            kind = vk.VkSemaphoreTypeCreateInfo(semaphoreType=vk.VK_SEMAPHORE_TYPE_TIMELINE)
            self._semaphore = vk.vkCreateSemaphore(
                self._device, vk.VkSemaphoreCreateInfo(pNext=kind)
            )

    def ring(self) -> None:
        """Wake the thread."""
        with self._lock:
            self.rung += 1
            self._event.set()
            if self._semaphore is None:
                return
            vk.vkSignalSemaphore(
                self._device, vk.VkSemaphoreSignalInfo(semaphore=self._semaphore, value=self.rung)
            )

    def sleep(self, heard: int, waits: list[Wait], nanoseconds: int) -> None:
        """Until it is rung once more than was heard, or a timeline has reached its value."""
        if self._semaphore is None or self._manners.spins:
            if waits:
                nanoseconds = min(nanoseconds, LONGEST_NAP)
            self._event.wait(nanoseconds / 1e9)
            self._event.clear()  # what was heard is looked for after this
            return
        moments = [(self._semaphore, heard + 1)]
        moments += [(wait.moment, wait.value) for wait in waits if wait.moment is not None]
        sleep_on_any(self._device, moments)(nanoseconds)

    def close(self) -> None:
        """The thread has ended."""
        with self._lock:
            if self._semaphore is not None:
                vk.vkDestroySemaphore(self._device, self._semaphore)
