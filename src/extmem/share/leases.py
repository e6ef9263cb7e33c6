"""What keeps a frame beyond its release: tensors that are alive, and work that a device still does.

A frame that was released goes back to its publisher when the last tensor that was made from it is
gone, and when the device has come to what `release` was told. The subscriber's process waits for
that; if it dies meanwhile, the kernel gives back all that it had.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from extmem.errors import ExtmemError
from extmem.interop.cuda.streams import PER_THREAD, Lane, lane_of, number_of
from extmem.interop.cuda.views import Order

if TYPE_CHECKING:
    from extmem.sync import Semaphore

__all__ = ["After", "Lease", "Leased", "Leases", "Moment", "Returns", "moments_of"]

log = logging.getLogger("extmem")

Moment = tuple["Semaphore", int]
After = Moment | Iterable[Moment] | None

_SLICE = 0.25  # seconds of sleep, after which the thread looks at all of them again
_SHORTLY = 0.01  # the same where there are several, of which it can wait for one alone


def moments_of(after: After) -> list[Moment]:
    """What `release(after=)` was given, checked: timelines with their values."""
    if after is None:
        return []
    alone = isinstance(after, tuple) and len(after) == 2 and hasattr(after[0], "waitable")
    given: list[Any] = [after] if alone else list(after)
    for moment in given:
        if not isinstance(moment, tuple) or len(moment) != 2 or not hasattr(moment[0], "waitable"):
            raise TypeError(
                f"after= has {moment!r}; expected (semaphore, value), or a list of such"
            )
        moment[0].waitable(moment[1])
    return given


def _reached(moment: Moment) -> bool:
    semaphore, value = moment
    try:
        return semaphore.value >= value
    except (ExtmemError, OSError):  # closed, so that nothing is done with it; or the device is lost
        return True


class Lease:
    """What one frame waits for. `end` is called once, when that is over."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end
        self._lock = threading.RLock()  # the collector may free a tensor at any time
        self._tensors = 0
        self._moments: list[Moment] = []
        self._released = False
        self._over = False

    def hold(self) -> None:
        """One more tensor."""
        with self._lock:
            self._tensors += 1

    def drop(self, moments: Iterable[Moment] = ()) -> None:
        """One less; and what its consumer's device has still to come to."""
        with self._lock:
            self._tensors -= 1
            self._moments += moments

    def release(self, moments: list[Moment]) -> None:
        """The frame is not held any more."""
        with self._lock:
            self._released = True
            self._moments += moments

    def settle(self) -> bool:
        """End it if nothing is left to wait for; whether it has ended."""
        with self._lock:
            if self._over:
                return True
            self._moments = [each for each in self._moments if not _reached(each)]
            if not self._released or self._tensors or self._moments:
                return False
            self._over = True
        self._end()
        return True

    @property
    def waits_for(self) -> Moment | None:
        """What the device has to come to next; None if tensors alone keep it, or nothing."""
        with self._lock:
            return self._moments[0] if self._released and self._moments else None


class Leases:
    """All frames of a line that were released, and cannot go back yet. One thread waits for them,
    once there are any, until `close`.
    """

    def __init__(self) -> None:
        self._waiting: list[Lease] = []  # who looks whether there are any needs no lock
        self._changed = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None
        self._closed = False
        self._look: Callable[[], Callable[[], bool] | None] | None = None

    def look_after(self, look: Callable[[], Callable[[], bool] | None]) -> None:
        """Have the thread call something a few times a second, until that returns True.

        look: a weak reference to it
        """
        with self._changed:
            if not self._closed:
                self._look = look
                self._start()

    def add(self, lease: Lease) -> None:
        """A frame was released, or a tensor of one that was is gone."""
        if lease.settle():
            return
        if lease.waits_for is None:  # a tensor, which calls this when it goes
            return
        with self._changed:
            if self._closed:
                return
            if lease not in self._waiting:
                self._waiting.append(lease)
            self._start()
            self._changed.notify()

    def _start(self) -> None:
        """The thread, if it is not there yet."""
        if self._thread is None:
            # It knows this by a weak reference, so that what is forgotten can go.
            self._thread = threading.Thread(
                target=_watch, args=(weakref.ref(self),), name="extmem leases", daemon=True
            )
            self._thread.start()

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return bool(self._waiting)

    def settle(self) -> None:
        """Let go of what is over."""
        if self._waiting:
            with self._changed:
                waiting, self._waiting = self._waiting, []
            # Those that tensors alone keep come back with the last of these.
            left = [each for each in waiting if not each.settle() and each.waits_for is not None]
            with self._changed:
                self._waiting += left

    def close(self) -> None:
        """End the thread. Nothing waits any more."""
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _step(self) -> bool:
        """What the thread does again and again; whether it goes on."""
        with self._changed:
            if not self._waiting and not self._closed:
                self._changed.wait(_SLICE)
            if self._closed:
                return False
            moments = [each for each in (each.waits_for for each in self._waiting) if each]
        if moments:
            # They may come in any order.
            seconds = _SLICE if len(set(moments)) == 1 else _SHORTLY
            semaphore, value = moments[0]
            with contextlib.suppress(TimeoutError, ExtmemError, OSError):
                semaphore.wait(value, timeout=seconds)
        self.settle()
        self._look_once()
        return True

    def _look_once(self) -> None:
        if self._look is not None:
            look = self._look()
            if look is None or look():
                self._look = None


def _watch(reference: weakref.ref[Leases]) -> None:
    while True:
        leases = reference()
        if leases is None or not leases._step():
            return
        del leases


class Returns:
    """A timeline of a subscriber's own, that CUDA's streams signal when they are done with frames.

    Its values come in order, whichever streams there are: one that is not the last one's waits for
    that before it signals.
    """

    def __init__(self, make: Callable[[], Semaphore]) -> None:
        self._make = make
        self._timeline: Semaphore | None = None
        self._last = 0
        self._lane: Lane | None = None  # the stream that signals the last one
        self._lock = threading.RLock()

    def signal(self, stream: Any) -> Moment:
        """Have a stream say when it has come to this point: that moment."""
        number = number_of(stream)
        with self._lock:
            if self._timeline is None:
                self._timeline = self._make()
            on_gpu = self._timeline.cuda()
            lane = lane_of(number)
            if self._last and self._lane != lane:
                on_gpu.wait(self._last, number)
            on_gpu.signal(self._last + 1, number)
            self._last += 1
            self._lane = lane
            return self._timeline, self._last

    def close(self) -> None:
        """Nothing waits for it any more."""
        with self._lock:
            timeline, self._timeline = self._timeline, None
        if timeline is not None:
            timeline.close()


class Leased(Order):
    """A frame's tensors on CUDA's GPU: they wait until it is written, and keep it until the stream
    that they were made on has come to what it was given while they lived.
    """

    def __init__(
        self,
        lease: Lease,
        leases: Leases,
        returns: Returns,
        ready: list[Moment],
        finish: Callable[[], None],
    ) -> None:
        """finish: wait here for all that the GPU does, where no stream is known"""
        self._lease = lease
        self._leases = leases
        self._returns = returns
        self._ready = ready
        self._finish = finish
        self._own: set[Lane] = set()  # default streams of threads that tensors were made on

    def begin(self, stream: int | None) -> None:
        """Have the stream wait for the frame."""
        self._lease.hold()
        if stream == PER_THREAD:
            self._own.add(lane_of(stream))
        try:
            for semaphore, value in self._ready:
                if stream is None:
                    semaphore.wait(value)
                else:
                    semaphore.cuda().wait(value, stream)
        except BaseException:
            self._lease.drop()
            raise

    def over(self) -> None:
        """A tensor with the processor is gone: nothing goes on behind its back."""
        self._lease.drop()
        self._leases.add(self._lease)

    def end(self, stream: int | None) -> None:
        """Called while a tensor is freed, where nobody could catch an error."""
        moments: list[Moment] = []
        try:
            if stream is None or (stream == PER_THREAD and self._own != {lane_of(stream)}):
                self._finish()  # no stream is known, or this thread cannot name it
            else:
                moments.append(self._returns.signal(stream))
        except Exception as error:  # the stream is no more, for one
            log.warning("the end of a tensor was not seen on its stream: %s", error)
            with contextlib.suppress(Exception):
                self._finish()
        self._lease.drop(moments)
        self._leases.add(self._lease)
