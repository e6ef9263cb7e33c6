"""The shared word on Linux: sleep by futex, exclusion by a lock of an open file description.

Not a robust mutex of pthread: its list of owned locks lies in the shared page, and the C library
follows the pointers in it, so that a hostile peer could have us write anywhere. The kernel's lock
on a byte of the file is as robust and keeps all that it needs to itself.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import itertools
import os
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from extmem.handles.words import word as w
from extmem.handles.words.pages import Pages

if sys.platform == "win32":
    raise ImportError("Windows has no futex; see extmem.handles.words.events")

__all__ = ["Watcher", "Word", "lock_request"]

# futex's number differs between the two architectures; the newer call has one everywhere.
_FUTEX = {"x86_64": 202, "aarch64": 98}.get(os.uname().machine, -1)
_FUTEX_WAITV = 449
_LOW = (1 << 32) - 1  # what of a value is compared before a sleep: all that a futex has
_WAIT, _WAKE, _PRIVATE, _ALL = 0, 1, 128, (1 << 31) - 1
_SIZE_32 = 2
_MOST = 128  # words that one call can sleep on
_MONOTONIC = 1


class _Span(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_int64))


class _Waiter(ctypes.Structure):
    _fields_ = (
        ("value", ctypes.c_uint64),
        ("address", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    )


def _span(seconds: float) -> _Span:
    whole = int(seconds)
    return _Span(whole, int((seconds - whole) * 1e9))


# Functions whose arguments are ctypes objects that were made before, and without the copy of errno
# that ctypes would keep: after 16 ms of sleep nothing is in the processor's caches any more, and
# every conversion costs microseconds.
_libc = ctypes.CDLL(None)
_syscall: Any = _libc.syscall
# To wake somebody takes no time, so the interpreter is kept: to let it go and have it again takes
# longer than that.
_quick_syscall: Any = ctypes.PyDLL(None).syscall
_word, _place = ctypes.c_ulong, ctypes.c_void_p
# What a caller of `wait` may ask for in one sleep. Who has nothing else to look after asks for all
# of it: each sleep costs a millisecond of a processor that has gone cold.
_LONGEST = 2.0  # seconds
_longest = _span(_LONGEST)  # never written to: every long sleep uses it
_nothing = (_place(None), _word(0))


def _waker(address: int, private: int = 0) -> tuple[Any, ...]:
    """The arguments of a call that wakes all who sleep there."""
    return (
        _word(_FUTEX),
        _place(address),
        _word(_WAKE | private),
        _word(_ALL),
    )


class _Sleep:
    """The calls of one thread that sleeps while a number is as it has seen it."""

    __slots__ = ("_arguments", "_expected", "_span")

    def __init__(self, address: int, private: int = 0) -> None:
        self._expected = _word()
        self._span = _Span()
        head = (_word(_FUTEX), _place(address), _word(_WAIT | private), self._expected)
        self._arguments = tuple(
            (*head, _place(ctypes.addressof(each)), *_nothing) for each in (_longest, self._span)
        )

    def __call__(self, expected: int, seconds: float) -> None:
        """For so long at most; whoever wakes early asks again."""
        self._expected.value = expected
        if seconds >= _LONGEST:
            _syscall(*self._arguments[0])
            return
        whole = int(seconds)
        self._span.seconds, self._span.nanoseconds = whole, int((seconds - whole) * 1e9)
        _syscall(*self._arguments[1])


# -- the lock -----------------------------------------------------------------------------------

_fcntl = fcntl.fcntl
_FLOCK = struct.Struct("hhqqi0q")  # struct flock: kind, whence, start, length, process


def lock_request(kind: int, byte: int) -> bytes:
    """What fcntl takes for one byte of a file."""
    return _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0)


class Word:
    """A number of 64 bits at `offset` of some pages; see `extmem.handles.words.word`."""

    def __init__(self, pages: Pages, offset: int = 0) -> None:
        assert offset % 8 == 0
        assert 0 <= offset <= pages.size - w.WORD_SIZE
        self._pages: Pages | None = pages
        self._mutex = threading.Lock()  # among the threads that share this object
        self._lock = lock_request(fcntl.F_WRLCK, offset)
        self._unlock = lock_request(fcntl.F_UNLCK, offset)
        self._set = fcntl.F_OFD_SETLK if pages.own else fcntl.F_SETLK
        self._place = place = pages.address + offset
        # To be touched by those alone who hold a reference on the pages meanwhile. Looking into a
        # memoryview is one load or store of that size, as with ctypes' numbers, and cheaper.
        raw = memoryview((ctypes.c_ubyte * 16).from_address(place)).cast("B")
        self._values, self._flags = raw[:8].cast("Q"), raw[8:].cast("I")
        self._wake = _waker(place)

    def _held(self) -> Pages:
        pages = self._pages
        if pages is None:
            raise ValueError("this word is closed")
        return pages

    @property
    def writable(self) -> bool:
        """Whether it can be changed here."""
        return self._held().writable

    @property
    def value(self) -> int:
        """The number now."""
        pages = self._pages  # held until the load is done
        if pages is None:
            raise ValueError("this word is closed")
        return self._values[0]

    def change(self, to: Callable[[int], int | None], timeout: float = w.PATIENCE) -> int | None:
        """Replace the value by what `to` makes of it, and wake all who wait; the new value."""
        pages = self._held()
        if not pages.writable:
            raise PermissionError("this word may be read and not changed")
        descriptor, values = pages.descriptor, self._values
        with self._mutex:
            try:
                try:
                    _fcntl(descriptor, self._set, self._lock)
                except OSError as problem:
                    self._insist(descriptor, timeout, problem)
                new = to(values[0])
                if new is not None:
                    self._store(new)
                return new
            finally:
                # Also where the lock was not had: then this does nothing.
                _fcntl(descriptor, self._set, self._unlock)

    def put(self, value: int) -> None:
        """Store a value, and wake all who wait; for who alone changes the word at the moment."""
        pages = self._pages
        if pages is None or not pages.writable:
            self._held()
            raise PermissionError("this word may be read and not changed")
        # The mutex is also what keeps this store behind those that were made before, on processors
        # that would not.
        with self._mutex:
            self._store(value)

    def advance(self, value: int) -> bool:
        """As `put`, of a number that only grows; False if that cannot be."""
        pages, values = self._pages, self._values
        if pages is None or not pages.writable:
            return False
        with self._mutex:
            if not values[0] < value < w.END:
                return False
            # As `_store`: whoever signals is waited for, and every call that is not made is felt
            # where this code is cold.
            flags = self._flags
            asleep = flags[0]
            if asleep:
                flags[0] = 0
            values[0] = value
            if asleep or flags[0]:
                _quick_syscall(*self._wake)
        return True

    def _store(self, value: int) -> None:
        """Store, and wake those who have said that they sleep.

        Who will sleep reads the value, says so, looks again, and sleeps if the value is what he
        read. If he said so before it is unsaid here, he has read the old value, and is woken or
        finds another one; if afterwards, he sees the new value or is seen at the second look.
        """
        flags = self._flags
        asleep = flags[0]
        if asleep:
            flags[0] = 0
        self._values[0] = value
        if asleep or flags[0]:
            _quick_syscall(*self._wake)

    def _insist(self, descriptor: int, timeout: float, problem: OSError) -> None:
        """Get the lock that another process has at the moment."""
        deadline, sleep = time.monotonic() + timeout, 0.0
        while problem.errno in (errno.EAGAIN, errno.EACCES, errno.EINTR):
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"another process has kept the lock of a shared word for {timeout:g} s"
                ) from None
            time.sleep(sleep)  # at first only to let others run
            sleep = min(max(sleep * 2, 0.00002), 0.002)
            try:
                _fcntl(descriptor, self._set, self._lock)
                return
            except OSError as again:
                problem = again
        raise problem

    def wait(self, ready: w.Ready, timeout: float | None = None) -> bool:
        """Sleep until `ready(value)`; False if the seconds passed before."""
        pages = self._held()
        values = self._values
        if ready(values[0]):
            return True
        deadline = None if timeout is None else time.monotonic() + timeout
        sleep, short, flags = _Sleep(self._place), 0.0, self._flags
        while self._pages is pages:
            seen = values[0]
            if pages.writable:
                flags[0] = 1
            if ready(values[0]):
                return True
            left = w.SLICE if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return False
            if not pages.writable:  # nobody knows that we sleep
                left = short = w.pause(short * 1.5, left)
            sleep(seen & _LOW, left)
            if ready(values[0]):
                return True
        raise ValueError("this word was closed while it was waited for")

    # -- for `Watcher` --------------------------------------------------------------------------

    def _watched(self, entry: _Waiter) -> None:
        """Fill in what to sleep on, and say that somebody will."""
        pages = self._held()
        entry.value = self._values[0] & _LOW
        entry.address = self._place
        entry.flags = _SIZE_32
        if pages.writable:
            self._flags[0] = 1

    def close(self) -> None:
        """Let the page go, and wake those who wait here."""
        pages, self._pages = self._pages, None
        if pages is not None:
            _quick_syscall(*self._wake)


# -- several words ------------------------------------------------------------------------------


_watch: Any = ctypes.CDLL(None, use_errno=True).syscall
_watch.argtypes = (
    *(ctypes.c_long, ctypes.c_void_p, ctypes.c_long),
    *(ctypes.c_long, ctypes.c_void_p, ctypes.c_long),
)


def _can_watch() -> bool:
    """Whether the kernel can sleep on several words (Linux 5.16 and later)."""
    _watch(_FUTEX_WAITV, None, 0, 0, None, 0)
    return ctypes.get_errno() != errno.ENOSYS


_several = _can_watch()


class Watcher:
    """Sleeps on several words at once, for one thread at a time; see `extmem.handles.words`."""

    def __init__(self) -> None:
        self._bell = ctypes.c_uint32()
        self._place = ctypes.addressof(self._bell)
        self._wake = _waker(self._place, _PRIVATE)
        self._rings = itertools.count(1)  # never twice the same, without a lock

    def ring(self) -> None:
        """Have `ready` asked again."""
        self._bell.value = next(self._rings)
        _quick_syscall(*self._wake)

    def wait(
        self, words: Sequence[Word], ready: Callable[[], bool], timeout: float | None = None
    ) -> bool:
        """Sleep until `ready()`; False if the seconds passed before."""
        if ready():
            return True
        deadline = None if timeout is None else time.monotonic() + timeout
        pages = [word._held() for word in words]  # held while we look at them
        told = _several and len(pages) < _MOST and all(each.writable for each in pages)
        watched = list(words)[: _MOST - 1] if _several else []
        entries = (_Waiter * (1 + len(watched)))()
        sleep, short = _Sleep(self._place, _PRIVATE), 0.0
        while True:
            rung = self._bell.value
            entries[0] = _Waiter(rung, self._place, _SIZE_32 | _PRIVATE, 0)
            for index, word in enumerate(watched, 1):
                word._watched(entries[index])
            if ready():
                return True
            left = w.SLICE if deadline is None else min(w.SLICE, deadline - time.monotonic())
            if left <= 0:
                return False
            if not told and words:
                left = short = w.pause(short * 1.5, left)
            if watched:
                until = _span(time.monotonic() + left)
                place = ctypes.addressof(until)
                _watch(_FUTEX_WAITV, entries, len(entries), 0, place, _MONOTONIC)
            else:
                sleep(rung, left)

    def close(self) -> None:
        """There is nothing to give back here."""
