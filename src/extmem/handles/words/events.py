"""The shared word on Windows: sleep on events, exclusion by a named mutex.

Who sleeps writes the number of an event of his own into the page; who changes the word sets those
events and clears the numbers. An event is found by its number alone, in a namespace where there is
nothing else of that form: whatever a stranger writes into the page can at worst wake somebody.
"""

from __future__ import annotations

import ctypes
import secrets
import sys
import threading
import time
from collections.abc import Callable, Sequence

from extmem.handles import nt_calls
from extmem.handles.nt_calls import last_error, require, windows
from extmem.handles.winerror import ACCESS_DENIED
from extmem.handles.words import word as w
from extmem.handles.words.pages import Pages
from extmem.vk._base import SECURITY_ATTRIBUTES

if sys.platform != "win32":
    raise ImportError("events are Windows'; see extmem.handles.words.futex")

__all__ = ["Watcher", "Word"]

_SLOTS_OFFSET, _SLOTS = 8, 24
_CACHED = 64  # handles of peers' events that a word keeps
_SYNCHRONIZE, _EVENT_MODIFY_STATE = 0x100000, 0x2
_WAIT_OBJECT, _WAIT_ABANDONED, _WAIT_TIMEOUT = 0, 0x80, 0x102
# Whoever knows an event's number may set it, also another user, and do nothing else with it.
_ANYBODY_SETS = "D:(A;;0x100002;;;WD)(A;;GA;;;OW)"


class _Event:
    """An event of this process, that others find by its number."""

    def __init__(self, prefix: str) -> None:
        self.number = secrets.randbits(63) | 1
        block = nt_calls.descriptor_from_text(_ANYBODY_SETS)
        attributes = SECURITY_ATTRIBUTES(lpSecurityDescriptor=block)
        name = _event_name(prefix, self.number)
        handle = windows().CreateEventW(ctypes.byref(attributes), False, False, name)
        require(handle, "cannot make an event to sleep on")
        self.handle = int(handle)

    def sleep(self, seconds: float) -> bool:
        """Whether it was set."""
        milliseconds = max(1, int(seconds * 1000))
        return bool(windows().WaitForSingleObject(self.handle, milliseconds) == _WAIT_OBJECT)

    def set(self) -> None:
        windows().SetEvent(self.handle)

    def close(self) -> None:
        windows().CloseHandle(self.handle)


def _event_name(prefix: str, number: int) -> str:
    return f"{prefix}extmem-wake-{number:016x}"


def _mutex(pages: Pages, offset: int) -> int:
    """The named mutex of a word, which lives for as long as somebody has the word."""
    name = f"{pages.prefix}extmem-word-{pages.identity.hex()}-{offset}"
    block = None
    if pages.security is not None and pages.security.descriptor is not None:
        block = nt_calls.descriptor_from_text(pages.security.descriptor)
    attributes = SECURITY_ATTRIBUTES(lpSecurityDescriptor=block)
    handle = windows().CreateMutexW(ctypes.byref(attributes), False, name)
    if not handle and last_error() == ACCESS_DENIED:  # it is there, and not all of it is allowed
        handle = windows().OpenMutexW(_SYNCHRONIZE, False, name)
    require(handle, "cannot have the lock of a shared word")
    return int(handle)


class Word:
    """A number of 64 bits at `offset` of some pages; see `extmem.handles.words.word`."""

    def __init__(self, pages: Pages, offset: int = 0) -> None:
        assert offset % 8 == 0
        assert 0 <= offset <= pages.size - w.WORD_SIZE
        self._pages: Pages | None = pages
        self._guard = threading.Lock()  # among the threads that share this object
        self._lock = _mutex(pages, offset) if pages.writable else 0
        place = pages.address + offset
        # To be touched by those alone who hold a reference on the pages meanwhile.
        self._value = ctypes.c_uint64.from_address(place)
        self._slots = (ctypes.c_uint64 * _SLOTS).from_address(place + _SLOTS_OFFSET)
        self._idle: list[_Event] = []  # of ours, for the next who sleeps
        self._own: dict[int, _Event] = {}
        self._peers: dict[int, int] = {}  # handles of others' events by their number

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
        return self._value.value

    def _enter(self, timeout: float) -> None:
        """Have the lock; whoever died with it left the word as it was, or changed."""
        deadline = time.monotonic() + timeout
        while True:
            if self._pages is None:
                raise ValueError("this word is closed")
            left = max(0.0, deadline - time.monotonic())
            # In slices, because Windows does not interrupt a sleep for Ctrl-C.
            got = windows().WaitForSingleObject(self._lock, int(min(left, w.SLICE) * 1000))
            if got in (_WAIT_OBJECT, _WAIT_ABANDONED):
                return
            if got != _WAIT_TIMEOUT:
                require(False, "cannot have the lock of a shared word")
            if left <= 0:
                raise TimeoutError(
                    f"another process has kept the lock of a shared word for {timeout:g} s"
                )

    def change(self, to: Callable[[int], int | None], timeout: float = w.PATIENCE) -> int | None:
        """Replace the value by what `to` makes of it, and wake all who wait; the new value."""
        if not self._held().writable:
            raise PermissionError("this word may be read and not changed")
        sleepers: list[int] = []
        with self._guard:
            pages = self._held()
            self._enter(timeout)
            try:
                new = to(self._value.value)
                if new is not None:
                    self._value.value = new
                    slots = self._slots
                    sleepers = [number for number in slots if number]
                    if sleepers:
                        ctypes.memset(slots, 0, ctypes.sizeof(slots))
            finally:
                windows().ReleaseMutex(self._lock)
            for number in sleepers:
                self._wake(pages, number)
        return new

    def put(self, value: int) -> None:
        """The same for who alone changes the word; the slots of sleepers need the lock anyway."""
        self.change(lambda _: value)

    def advance(self, value: int) -> bool:
        """The same of a number that only grows; False if that cannot be."""
        try:
            return self.change(lambda now: value if now < value < w.END else None) is not None
        except (ValueError, PermissionError):
            return False

    def _wake(self, pages: Pages, number: int) -> None:
        """Set an event; nothing if there is none."""
        own = self._own.get(number)
        if own is not None:
            own.set()
            return
        handle = self._peers.get(number)
        if handle is None:
            name = _event_name(pages.prefix, number)
            handle = windows().OpenEventW(_EVENT_MODIFY_STATE, False, name)
            if not handle:
                return
            if len(self._peers) >= _CACHED:
                windows().CloseHandle(self._peers.pop(next(iter(self._peers))))
            self._peers[number] = int(handle)
        windows().SetEvent(handle)

    # -- sleeping ---------------------------------------------------------------------------------

    def _enlist(self, event: _Event) -> bool:
        """Have the next change set this event; False if nobody can be told."""
        if not self._held().writable:
            return False
        with self._guard:
            self._held()
            try:
                self._enter(w.SLICE)
            except TimeoutError:
                return False
            try:
                free = -1
                for index, number in enumerate(self._slots):
                    if number == event.number:
                        return True
                    if not number and free < 0:
                        free = index
                if free >= 0:
                    self._slots[free] = event.number
                return free >= 0
            finally:
                windows().ReleaseMutex(self._lock)

    def _delist(self, event: _Event) -> None:
        """Take it out again. What stays where that fails costs somebody one call."""
        with self._guard:
            if self._pages is None or not self._pages.writable:
                return
            for index, number in enumerate(self._slots):
                if number == event.number:
                    try:
                        self._enter(w.SLICE)
                    except TimeoutError:
                        return
                    if self._slots[index] == event.number:
                        self._slots[index] = 0
                    windows().ReleaseMutex(self._lock)

    def _borrow(self) -> _Event:
        with self._guard:
            pages = self._held()
            if self._idle:
                return self._idle.pop()
            event = _Event(pages.prefix)
            self._own[event.number] = event
            return event

    def _give_back(self, event: _Event) -> None:
        with self._guard:
            if self._pages is not None:
                self._idle.append(event)
                return
        event.close()

    def wait(self, ready: w.Ready, timeout: float | None = None) -> bool:
        """Sleep until `ready(value)`; False if the seconds passed before."""
        pages = self._held()
        if ready(self._value.value):
            return True
        deadline = None if timeout is None else time.monotonic() + timeout
        event = self._borrow()
        short = 0.0
        try:
            while self._pages is pages:
                told = self._enlist(event)
                if ready(self._value.value):
                    return True
                left = w.SLICE if deadline is None else min(w.SLICE, deadline - time.monotonic())
                if left <= 0:
                    return False
                if not told:
                    left = short = w.pause(short * 1.5, left)
                event.sleep(left)
        finally:
            self._delist(event)
            self._give_back(event)
        raise ValueError("this word was closed while it was waited for")

    def close(self) -> None:
        """Let the page go, and wake those who wait here."""
        with self._guard:
            if self._pages is None:
                return
            self._pages = None
            if self._lock:
                windows().CloseHandle(self._lock)
            for handle in self._peers.values():
                windows().CloseHandle(handle)
            for event in self._own.values():
                if event in self._idle:
                    event.close()
                else:  # its sleeper closes it
                    event.set()
            self._idle.clear()
            self._own.clear()
            self._peers.clear()


class Watcher:
    """Sleeps on several words at once, for one thread at a time; see `extmem.handles.words`."""

    def __init__(self) -> None:
        self._bell = _Event("Local\\")
        self._closed = False
        self._guard = threading.Lock()

    def ring(self) -> None:
        """Have `ready` asked again."""
        with self._guard:
            if not self._closed:
                self._bell.set()

    def wait(
        self, words: Sequence[Word], ready: Callable[[], bool], timeout: float | None = None
    ) -> bool:
        """Sleep until `ready()`; False if the seconds passed before."""
        if ready():
            return True
        deadline = None if timeout is None else time.monotonic() + timeout
        pages = [word._held() for word in words]  # held while we look at them
        # Who shares a word of Global\\ may be where this event cannot be seen.
        local = all(each.prefix == "Local\\" for each in pages)
        short = 0.0
        try:
            while True:
                told = all([word._enlist(self._bell) for word in words]) and local
                if ready():
                    return True
                left = w.SLICE if deadline is None else min(w.SLICE, deadline - time.monotonic())
                if left <= 0:
                    return False
                if not told:
                    left = short = w.pause(short * 1.5, left)
                self._bell.sleep(left)
        finally:
            for word in words:
                word._delist(self._bell)

    def close(self) -> None:
        """Close the event. Nobody may be waiting."""
        with self._guard:
            if not self._closed:
                self._closed = True
                self._bell.close()
