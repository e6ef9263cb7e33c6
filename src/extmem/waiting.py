"""Waiting well on the host: read, then yield, then sleep.

A driver's own wait costs a system call and the wake of a sleeping thread at its best, and 10 ms at
its worst: NVIDIA's looks for what CUDA signals in steps of that size. To read a counter costs next
to nothing. So whoever waits reads first, for a time that is bounded and adapts to how earlier waits
ended; then reads and gives its turn away each time; and then sleeps in the driver.

Python adds a condition of its own: whoever reads in a loop and holds the interpreter keeps all
other threads of the process from making true what it waits for. It is let go of each time round.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["FOREVER", "Spin", "deadline_of", "let_go", "lets_go", "longest_sleep", "wait"]

FOREVER = (1 << 64) - 1  # a driver's timeout that never passes

_MICROSECOND = 1_000  # everything here is in nanoseconds
_MILLISECOND = 1_000_000

_YIELDING = 40 * _MICROSECOND  # how long the second part takes
# Who reads alone gives its turn away this often all the same: the processor may be wanted, not
# least by another process that waits for the same signal.
_TURN = 20 * _MICROSECOND
_FIRST_SLEEP = _MILLISECOND // 4
# A driver in C does not return for Ctrl-C, so sleep ends now and then; that this costs nothing to
# speak of is measured in bench/waiting.py. Elsewhere it ends for whoever closes what is waited for.
_LONGEST_IN_MAIN = 100 * _MILLISECOND
_LONGEST = 250 * _MILLISECOND

_Function: Any = type(ctypes.CFUNCTYPE(None)()).__mro__[1]  # every C function of ctypes

if hasattr(os, "sched_yield"):
    # Not time.sleep(0): Linux rounds that up to the slack of its timers, some 50 us.
    let_go: Callable[[], object] = os.sched_yield
else:

    def let_go() -> None:
        """Let other threads have the interpreter and the processor, if they want it."""
        time.sleep(0)


def lets_go(command: Any) -> bool:
    """Whether a driver's command lets go of the interpreter by itself, as those in C do."""
    return isinstance(command, _Function)


class Spin:
    """How long it pays to read before sleeping, as earlier waits on the same thing have shown.

    >>> spin = Spin()
    >>> for _ in range(9):
    ...     spin.learn(16_000_000)
    >>> spin.budget == Spin.SHORTEST
    True
    >>> spin.learn(100_000)
    >>> spin.budget
    200000
    """

    SHORTEST = 20 * _MICROSECOND
    FIRST = 100 * _MICROSECOND
    LONGEST = 400 * _MICROSECOND
    # A wait that took no longer than this would have been worth reading to its end: the rest is
    # what waking up costs.
    PAYS = 500 * _MICROSECOND

    # What comes at regular times, as frames do, is met awake: sleep ends a little before.
    SHORTEST_PERIOD = 2 * _MILLISECOND
    AHEAD = 150 * _MICROSECOND  # to be awake, at the least
    SHARE = 32  # and at the most: one part in so many of a period

    __slots__ = ("_last", "_period", "_wobble", "budget", "lesson")

    def __init__(self) -> None:
        self.budget = self.FIRST  # nanoseconds
        # When the last wait began and when it saw the signal: what is to be learned from it waits
        # for the next one to begin, so that nobody who was waited for is kept waiting by it.
        self.lesson: tuple[int, int] | None = None
        self._last = 0  # when the last signal came, about; 0: it was there before anybody looked
        self._period = 0
        self._wobble = 0  # how far signals are from where they were expected, about

    def study(self) -> None:
        """Learn from the last wait, at the beginning of the next."""
        lesson, self.lesson = self.lesson, None
        if lesson is not None:
            began, seen = lesson
            self.learn(seen - began)
            self.beat(seen)

    def learn(self, elapsed: int) -> None:
        """A wait for something that was not there yet took so many nanoseconds."""
        if elapsed <= self.PAYS:
            self.budget = min(max(self.budget, 2 * elapsed), self.LONGEST)
        else:
            self.budget = max(self.budget // 2, self.SHORTEST)

    def beat(self, now: int) -> None:
        """A signal was seen to come."""
        last, self._last = self._last, now
        if not last:
            return
        late = now - last - self._period
        if abs(late) > self._period // 2:  # another rhythm, or none
            self._period = now - last
            self._wobble = self._period // 8
            return
        # Seen late is not come late: the beat goes on where it was, and only gives in a little.
        self._last = last + self._period + late // 4
        self._period += late // 16
        self._wobble += (abs(late) - self._wobble) // 8

    def miss(self) -> None:
        """A signal had come before anybody looked."""
        self._last = 0

    def expected(self) -> tuple[int, int]:
        """From when to when the next signal is expected; (0, 0) where nobody can say.

        >>> spin = Spin()
        >>> for frame in range(1, 40):
        ...     spin.beat(frame * 16_000_000)
        >>> start, end = spin.expected()
        >>> start < 40 * 16_000_000 < end, end - start < 1_000_000
        (True, True)
        """
        if not self._last or self._period < self.SHORTEST_PERIOD:
            return 0, 0
        ahead = self.AHEAD + 3 * self._wobble
        if ahead > self._period // self.SHARE:
            return 0, 0
        due = self._last + self._period
        return due - ahead, due + ahead


def deadline_of(timeout: float | None) -> int | None:
    """When a timeout in seconds passes, on the clock of `time.monotonic_ns`; None for never.

    >>> deadline_of(None) is None, deadline_of(float("inf")) is None, deadline_of(10**400) is None
    (True, True, True)
    >>> deadline_of(-1)
    Traceback (most recent call last):
    ValueError: timeout is -1; expected seconds, 0 or more, or None to wait for ever
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout is {timeout!r}; expected seconds, or None to wait for ever")
    if timeout >= FOREVER / 1e9:  # first: a number may be too large to be anything else
        return None
    if not timeout >= 0:  # or no number
        raise ValueError(
            f"timeout is {timeout}; expected seconds, 0 or more, or None to wait for ever"
        )
    return time.monotonic_ns() + int(timeout * 1e9)


def longest_sleep(polite: bool = True) -> int:
    """How long this thread may sleep in one call of a driver, in nanoseconds.

    polite: it is one in C. The embedded device lets Ctrl-C through
    """
    in_main = threading.current_thread() is threading.main_thread()
    return _LONGEST_IN_MAIN if polite and in_main else _LONGEST


def wait(
    ready: Callable[[], bool],
    sleep: Callable[[int], bool],
    spin: Spin,
    deadline: int | None,
    *,
    polite: bool,
) -> bool:
    """Wait until something is ready; whether it was before the deadline.

    ready: reads, and returns at once. It may raise, as when what is waited for was closed
    sleep: sleeps for so many nanoseconds at most; whether it is known to be ready then. To be woken
        and to say so is all that stands between the signal and the caller, so there is little of it
    polite: reading lets go of the interpreter by itself
    """
    spin.study()
    if ready():
        spin.miss()
        return True
    clock = time.monotonic_ns
    began = clock()
    until = began + spin.budget
    # On a busy machine, giving a turn away may take milliseconds; who is alone keeps his for now.
    alone = polite or threading.active_count() == 1
    if (seen := _reads(ready, until, deadline, alone)) or (
        seen := _reads(ready, until + _YIELDING, deadline, False)
    ):
        spin.lesson = began, seen
        return True
    longest = longest_sleep(polite)
    start, end = spin.expected()
    while True:
        now = clock()
        # A driver in C may sleep in steps of its own, so that it is asked again after an eighth of
        # the time that has gone by; the embedded device sleeps on what the signal wakes.
        step = min(max((now - began) // 8, _FIRST_SLEEP), longest) if polite else longest
        if now < start:
            step = min(step, start - now)
        if deadline is not None:
            step = min(step, deadline - now)
        if (
            (now < end and now >= start and _reads(ready, end, deadline, False))
            or (step > 0 and sleep(step))
            or ready()
        ):
            spin.lesson = began, clock()
            return True
        if deadline is not None and clock() >= deadline:
            return False


def _reads(ready: Callable[[], bool], until: int, deadline: int | None, alone: bool) -> int:
    """Read until then; when it was found to be ready, about, and 0 if it was not.

    alone: no other thread wants the interpreter, or reading lets go of it by itself; then only the
        processor is given away, now and then
    """
    if deadline is not None:
        until = min(until, deadline)
    now = time.monotonic_ns
    if alone:
        turn = now() + _TURN
        while (seen := now()) < until:
            if ready():
                return seen
            if seen >= turn:
                let_go()
                turn = seen + _TURN
        return 0
    while (seen := now()) < until:
        if ready():
            return seen
        let_go()
    return 0
